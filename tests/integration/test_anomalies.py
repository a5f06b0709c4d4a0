"""A planted fall in a file of events, through the whole engine, into the view that alerts read."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.anomalies import AnomalyWatch
from flows.anomaly_history import read_history
from flows.anomaly_spec import AnomalySpec
from flows.simulate import Options, simulate_to_files
from schemas.funnels import VIDEO_TO_LIVE
from schemas.watches import ROOMS, of_funnel
from sinks import embedded
from sinks.clickhouse import Store

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
MINUTE, DAY = 60_000, 86_400_000
MONDAY = 1_767_571_200_000
FALL = MONDAY + DAY + 20 * 60 * MINUTE


def events(days: float) -> list[str]:
    """About 40 views a minute; from `FALL` on nothing for 20 minutes from anybody in CN-31, who are half of all."""
    rnd = random.Random(5)
    lines = []
    time = float(MONDAY)
    while time < MONDAY + days * DAY:
        time += rnd.expovariate(40 * (1 + 0.3 * math.sin(2 * math.pi * (time % DAY) / DAY))) * MINUTE
        region = rnd.choice(("CN-31", "CN-44"))
        if region == "CN-31" and FALL <= time < FALL + 20 * MINUTE:
            continue
        event = {
            "topic": "view", "event_id": f"e{len(lines)}", "user_id": f"u{rnd.randrange(500)}",
            "event_time": int(time), "surface": "video", "video_id": "v", "creator_id": "c", "region": region,
            "watch_ms": 1_000,
        }  # fmt: skip
        lines.append(json.dumps(event) + "\n")
    return lines


def test_a_planted_fall_is_in_the_view_once_with_its_reason(tmp_path: Path, store_dir: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text("".join(events(1.9)), encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli"]
    flags = ["--store", str(store_dir), "--families", "activity,anomalies", "--dimensions", "region"]
    done = subprocess.run(
        [*command, "backfill", str(file), *flags], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    query = "SELECT *, toUnixTimestamp(window_start) AS at FROM anomalies WHERE state != 'merged' FORMAT JSONEachRow"
    asked = subprocess.run(
        [*command, "sql", "--store", str(store_dir), query], capture_output=True, text=True, cwd=ROOT, check=False
    )
    found = [json.loads(line) for line in asked.stdout.splitlines()]
    assert found, asked.stderr
    assert all(FALL <= int(row["at"]) * 1000 <= FALL + 5 * MINUTE for row in found), found
    assert {row["direction"] for row in found} <= {"down", "mix"}
    assert {row["route"] for row in found} == {"business"}
    assert any("CN-31" in row["explanation"] + row["value"] for row in found)
    assert all(row["resolved_at"] for row in found)
    backtests_shipped_rules(store_dir, tmp_path / "incidents.csv")
    learns_from_the_store(store_dir)


def backtests_shipped_rules(store_dir: Path, truth: Path) -> None:
    """By their names: what Grafana would have told, minute by minute."""
    begin, end = (datetime.fromtimestamp(at / 1000, UTC).isoformat() for at in (FALL, FALL + 26 * MINUTE))
    truth.write_text(f"start,end\n{begin},{end}\n", encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", "alerts", "backtest"]

    def run(name: str, last: str = "0s") -> subprocess.CompletedProcess[str]:
        flags = [name, "--store", str(store_dir), "--truth", str(truth), "--last", last, "--json"]
        return subprocess.run([*command, *flags], capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)

    (told,) = json.loads(run("livepulse-anomaly").stdout)["rules"]
    assert (told["recall"], told["precision"]) == (1.0, 1.0), told
    assert told["window_seconds"] == 60
    assert told["windows"] >= 1.85 * 1440
    assert 0 < told["share_firing"] < 0.05
    (quiet,) = json.loads(run("livepulse-nobody-active", last="2h").stdout)["rules"]
    assert quiet["fires"] >= 1  # about 40 views a minute: never 50 users
    assert quiet["share_firing"] > 0.9
    refused = run("livepulse-figures-old")
    assert refused.returncode == 2
    assert "keeps no history" in refused.stderr
    unknown = run("livepulse-nothing")
    assert unknown.returncode == 2
    assert "livepulse-anomaly" in unknown.stderr


def test_history_of_rooms_and_funnels_is_read_as_it_was_watched(tmp_path: Path, store_dir: Path) -> None:
    """What a watch learns from the store is what it learnt from the rows as they closed."""
    options = Options(seed=5, rate=0.4, duration_s=28 * 3600, users=1_500, rooms=6, partitions=1, bad_share=0.0)
    simulate_to_files(tmp_path, options)
    command = [sys.executable, "-m", "flows.cli", "backfill", str(tmp_path / "events-000.ndjson")]
    done = subprocess.run(
        [*command, "--store", str(store_dir)], capture_output=True, text=True, cwd=ROOT, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    up = embedded.start(store_dir)
    try:
        for watch in (ROOMS, of_funnel(VIDEO_TO_LIVE)):
            spec = AnomalySpec(watch, top=watch.top, floor=0.2)
            learnt = AnomalyWatch(spec)
            for rows in read_history(lambda: Store.connect(up.url, user=up.user, password=up.token), spec):
                learnt.warm_start(rows)
            assert ("all", "") in learnt.series.places
            assert len(learnt.series.keys) > 3
            hours = learnt.series.baseline.facts[0, 1] * spec.window_ms / 3_600_000
            assert hours == pytest.approx(28 if watch == ROOMS else 3, abs=1.1)
    finally:
        up.stop()


def learns_from_the_store(store_dir: Path) -> None:
    up = embedded.start(store_dir)
    try:
        spec = AnomalySpec()
        days = list(read_history(lambda: Store.connect(up.url, user=up.user, password=up.token), spec))
    finally:
        up.stop()
    assert len(days) == 2
    watch = AnomalyWatch(spec)
    for rows in days:
        watch.warm_start(rows)
    assert set(watch.series.keys) == {("all", ""), ("region", "CN-31"), ("region", "CN-44")}
    assert watch.series.baseline.facts[0, 1] >= 1.8 * 1440
    assert watch.book.take().height == 0
