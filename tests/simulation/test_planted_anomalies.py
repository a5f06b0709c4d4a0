"""Anomalies planted into the messages of a simulation, through the whole engine, against the simulation's truth.

Two days of history are little: hours of small, bursty series are not known well yet, so that false alerts are bounded
at five times of what they must be after two weeks (`livepulse bench anomalies`). All days are declared holidays, which
share the hours of one day: detectors know them after days instead of weeks. `PLANTED=all` plants three times as many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import polars as pl
import pytest

from flows.simulate import Options, Truth, simulate_to_files
from flows.simulate_plants import Plant, Plants
from flows.simulate_traffic import Traffic

pytestmark = pytest.mark.integration

ROOT: Final = Path(__file__).resolve().parents[2]
MINUTE, DAY = 60_000, 86_400_000
EVERY, FROM = 260, 2.05 * 1_440
PLANTS: Final = 36 if os.environ.get("PLANTED") == "all" else 12
OPTIONS: Final = Options(
    seed=4, rate=5.0, duration_s=(FROM + PLANTS * EVERY) * 60, users=4_000, rooms=8, daily_curve=False, drain=False,
    plant_every_minutes=EVERY, plant_from_minutes=FROM, trend_peak_share=0.0, detail_events_max=0,
)  # fmt: skip
KINDS: Final = {
    "spike": {"spike", "shift"}, "drop": {"drop", "shift"}, "shift": {"shift", "drop", "spike"},
    "leak": {"shift", "drop"}, "region": {"drop", "zero", "shift", "mix"}, "stall": {"shift", "drop", "mix"},
}  # fmt: skip
ASKED: Final = (
    "SELECT *, toUnixTimestamp(window_start) AS at FROM anomalies WHERE state != 'merged' ORDER BY at "
    "FORMAT JSONEachRow"
)
ECHO: Final = 45 * MINUTE
"""After its end an anomaly is still being resolved."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, list[dict[str, Any]]]:
    """The simulation's truth, and the rows of `anomalies` that the engine made of it."""
    folder = tmp_path_factory.mktemp("anomalies")
    found = simulate_to_files(folder / "traffic", OPTIONS)
    days = ",".join(f"2026-01-{day:02}" for day in range(4, 24))
    flags = ["--families", "activity,anomalies", "--no-events-archive", "--anomaly-holidays", days]
    command = [sys.executable, "-m", "flows.cli"]
    files = [str(path) for path in sorted((folder / "traffic").glob("*.ndjson"))]
    for asked in (
        [*command, "backfill", *files, "--store", str(folder / "store"), *flags],
        [*command, "sql", "--store", str(folder / "store"), ASKED],
    ):  # fmt: skip
        done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=False, timeout=280)
        assert done.returncode == 0, done.stderr[-2_000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return found, [{**row, "at": int(row["at"]) * 1000} for row in rows]


@pytest.mark.timeout(600)
def test_planted_anomalies_are_found_in_time_and_routed_right(truth: tuple[Truth, list[dict[str, Any]]]) -> None:
    planted = truth[0].planted["anomalies"]
    assert len(planted) >= PLANTS - 1
    found, delays, missed = 0, [], []
    for plant in planted:
        mine = [row for row in truth[1] if plant["start"] <= row["at"] < plant["end"]]
        mine = [row for row in mine if not plant["region"] or row["value"] in ("", plant["region"])]
        if not mine:
            missed.append(plant)
            continue
        found += 1
        first = mine[0]
        assert first["kind"] in KINDS[plant["kind"]], (plant, first)
        assert {row["route"] for row in mine} == {plant["route"]}, (plant, mine)
        assert first["direction"] in (plant["direction"], "mix"), (plant, first)
        delays.append(max(first["at"] - _visible(plant), 0) // MINUTE)
    sys.stdout.write(f"recall {found}/{len(planted)}, median delay {median(delays)} windows of {sorted(delays)}\n")
    assert found >= 0.95 * len(planted), missed
    assert median(delays) <= 2


def _visible(plant: dict[str, Any]) -> int:
    """When it exceeds the noise of a window (three standard deviations, Poisson's): a leak begins with nothing."""
    if plant["kind"] != "leak":
        return int(plant["start"])
    lost = 3 / np.sqrt(60 * OPTIONS.rate)
    return int(plant["start"] + (plant["end"] - plant["start"]) * lost / (1 - plant["level"]))


def test_hardly_anything_else_is_told(truth: tuple[Truth, list[dict[str, Any]]]) -> None:
    planted = truth[0].planted["anomalies"]
    false = [row for row in truth[1] if not any(plant["start"] <= row["at"] < plant["end"] + ECHO for plant in planted)]
    series_days = 3 * 40 * (OPTIONS.duration_s or 0) / 86_400  # at least so many values have 10 events a minute
    sys.stdout.write(f"{len(false)} false alerts in {series_days:.0f} series-days\n")
    assert len(false) <= series_days / 200, [row["explanation"] for row in false]


def test_the_truth_counts_what_was_lost_added_and_broken(tmp_path: Path) -> None:
    """Outcomes of the truth are those of the files, planted anomalies or not; a region is gone while it is gone."""
    options = Options(
        seed=3, rate=8.0, duration_s=7_200, users=500, rooms=3, partitions=2, daily_curve=False, drain=False,
        plant_every_minutes=40, plant_from_minutes=10, plant_kinds=("region", "stall", "spike"), late_share=0,
        duplicate_share=0, bad_share=0,
    )  # fmt: skip
    truth = simulate_to_files(tmp_path, options)
    lines = [line for path in sorted(tmp_path.glob("*.ndjson")) for line in path.read_text().splitlines()]
    assert truth.totals["consumed"] == len(lines)
    events = pl.DataFrame(
        [{"t": e["event_time"], "region": e.get("region"), "watch": e.get("watch_ms"), "id": e["event_id"]}
         for e in map(json.loads, lines)],
        schema={"t": pl.Int64, "region": pl.String, "watch": pl.Int64, "id": pl.String},
    )  # fmt: skip
    assert events["id"].n_unique() == len(lines)
    broken = events.filter(pl.col("watch") < 0)
    assert truth.totals["rejected"] == broken.height
    region, stall, spike = (Plant(i, *_of(told)) for i, told in enumerate(truth.planted["anomalies"]))
    there = events.filter(pl.col("region") == region.region)
    assert there.filter(pl.col("t").is_between(region.start, region.end - 1)).height < 0.3 * _usual(there, region)
    rising = events.filter(pl.col("t").is_between(spike.start, spike.end - 1)).height
    assert rising == pytest.approx(spike.level * _usual(events, spike), rel=0.15)
    assert (broken.height > 0) == (stall.rejected > 0)
    assert truth.active_users is not None
    whole = truth.active_users.filter((pl.col("dim") == "all") & (pl.col("window_seconds") == 60))
    assert whole["events"].sum() <= truth.totals["accepted"]


def _of(told: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(told[name] for name in ("kind", "start", "end", "level", "region", "partition", "rejected"))


def _usual(events: pl.DataFrame, plant: Plant) -> float:
    """Events in as long a time before it."""
    length = plant.end - plant.start
    return events.filter(pl.col("t").is_between(plant.start - length, plant.start - 1)).height


def test_plants_follow_from_the_seed_alone_and_never_meet() -> None:
    def told(seed: int, steps: list[int]) -> list[dict[str, Any]]:
        plants = Plants(Traffic(Options(seed=seed, plant_every_minutes=240, plant_from_minutes=60), 0))
        for step in steps:
            plants.until(step)
        return [plant.told() for plant in plants.until(5 * DAY)]

    assert told(1, []) == told(1, [MINUTE, DAY, 2 * DAY]) != told(2, [])
    found = told(1, [])
    assert len({plant["kind"] for plant in found}) == 6
    assert all(a["end"] + ECHO <= b["start"] for a, b in pairwise(found))
    with pytest.raises(ValueError, match="240 at least"):
        Options(plant_every_minutes=100)
    assert Plants(Traffic(Options(), 0)).until(DAY) == []
