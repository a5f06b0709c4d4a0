"""The anomaly kernel: planted truth on final rows, told once, routed, recovered; small enough to run in seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import pytest

from flows.active_hours import ActivityMerge, ActivitySpec
from flows.anomalies import GAP_MS, AnomalyWatch
from flows.anomaly_baseline import Baseline, Times
from flows.anomaly_book import ROWS
from flows.anomaly_merge import ANOMALIES, WatchedMerge
from flows.anomaly_route import Health
from flows.anomaly_spec import AnomalySpec, calendar
from flows.anomaly_step import NOTHING
from flows.kernel import Progress
from schemas.rows import frame_to_arrow
from schemas.tables import table_of
from schemas.watches import Measure, Watch

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MONDAY = 1_767_571_200_000  # 2026-01-05 00:00 UTC
DAYS = 9
EVENTS = Watch("active_users", (Measure("events"),), mixed=True)
SPEC = AnomalySpec(EVENTS, zone="UTC", top=20)
REGIONS = {"north": 0.5, "south": 0.3, "west": 0.2}
Change = Callable[[np.ndarray, str], np.ndarray]


def history(change: Change | None = None, seed: int = 1, days: int = DAYS) -> pl.DataFrame:
    """Final rows of a daily shape, mean 600 events a minute, after `change(rates, region)`."""
    r = np.random.default_rng(seed)
    minutes = np.arange(days * 1440)
    whole = 600 * (1 + 0.5 * np.sin(2 * np.pi * minutes / 1440))
    frames, total = [], np.zeros(len(minutes), np.int64)
    for region, share in REGIONS.items():
        rates = whole * share
        events = r.poisson(change(rates, region) if change else rates)
        total += events
        frames.append(_rows(minutes, "region", region, events))
    return pl.concat([*frames, _rows(minutes, "all", "", total)]).filter(pl.col("events") > 0)


def _rows(minutes: np.ndarray, dim: str, value: str, events: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"window_start": MONDAY + minutes * MINUTE, "events": events}).with_columns(
        dim=pl.lit(dim), value=pl.lit(value), window_seconds=60
    )


AT = (8 * 24 + 10) * 60  # minute of what is planted


def during(length: int, factor: float, only: str | None = None) -> Change:
    def change(rates: np.ndarray, region: str) -> np.ndarray:
        changed = rates.copy()
        if only in (None, region):
            changed[AT : AT + length] *= factor
        return changed

    return change


@functools.cache
def _calm() -> pl.DataFrame:
    return history()


def told(rows: pl.DataFrame, health: Health | None = None, spec: AnomalySpec = SPEC) -> pl.DataFrame:
    return AnomalyWatch(spec).observe(rows, int(rows["window_start"].max()) + MINUTE, health)  # type: ignore[call-overload]


def test_nothing_is_told_of_calm_weeks() -> None:
    assert told(_calm()).height == 0
    assert told(history(seed=2, days=20)).height == 0


@pytest.mark.parametrize("rate", [0.02, 0.1, 1.0])
def test_zeros_are_no_news_where_hardly_anything_is_usual(rate: float) -> None:
    assert told(history(lambda rates, _: np.full_like(rates, rate), days=15)).height == 0


@pytest.mark.parametrize(
    ("length", "factor", "kind", "direction"),
    [(3, 3.0, "spike", "up"), (4, 0.4, "drop", "down"), (20, 0.0, "missing", "down"), (90, 0.7, "shift", "down")],
)
def test_what_happens_to_all_is_told_once_by_the_whole(length: int, factor: float, kind: str, direction: str) -> None:
    found = told(history(during(length, factor)))
    (whole,) = found.filter(pl.col("dim") == "all").to_dicts()
    assert whole["kind"] == kind
    assert whole["direction"] == direction
    assert whole["state"] == "resolved"
    assert 0 <= whole["window_start"] - (MONDAY + AT * MINUTE) <= 2 * MINUTE
    assert whole["low"] <= whole["expected"] <= whole["high"]
    assert whole["score"] >= 0.5
    assert (found.filter(pl.col("dim") != "all")["state"] == "merged").all()
    end = MONDAY + (AT + length) * MINUTE
    assert end < whole["resolved_at"] <= end + 35 * MINUTE


def test_one_region_is_named_and_the_whole_says_who_moved_it() -> None:
    found = told(history(during(40, 0.1, "north")))
    opened = found.filter(pl.col("state") != "merged")
    assert opened.height == 1
    whole = found.filter(pl.col("dim") == "all")
    assert "region north" in whole["explanation"][0] or opened["value"][0] == "north"
    assert set(found["value"]) <= {"north", ""}


def test_a_slow_leak_is_told_before_half_of_it_is_lost() -> None:
    def leak(rates: np.ndarray, _: str) -> np.ndarray:
        changed = rates.copy()
        changed[AT : AT + 240] *= np.linspace(1, 0.5, 240)
        return changed

    found = told(history(leak)).filter(pl.col("state") != "merged")
    assert found.height >= 1
    assert (found["direction"] == "down").all()
    assert found["window_start"].min() <= MONDAY + (AT + 120) * MINUTE


def test_mix_may_change_while_the_whole_stands() -> None:
    def swap(rates: np.ndarray, region: str) -> np.ndarray:
        changed = rates.copy()
        changed[AT : AT + 30] *= {"north": 0.7, "south": 1.0, "west": 1.75}[region]
        return changed

    found = told(history(swap))
    assert "mix" in set(found["kind"])
    assert found.filter(pl.col("dim") == "all").height == 0
    (mix,) = found.filter(pl.col("kind") == "mix").to_dicts()
    assert mix["series"] == "active_users.events.share"
    assert "west" in mix["explanation"]


def test_a_fall_that_we_caused_goes_to_sre_and_says_so() -> None:
    ours = Health(rejected_share=0.4, usual_rejected_share=0.001)
    rows = history(during(10, 0.5))
    fell = told(rows, ours).filter(pl.col("dim") == "all")
    assert fell["route"].to_list() == ["pipeline"]
    assert fell["explanation"][0].startswith("Probably ours, not the business: 40% of messages rejected")
    assert told(rows).filter(pl.col("dim") == "all")["route"].to_list() == ["business"]
    rose = told(history(during(10, 2.0)), ours).filter(pl.col("dim") == "all")
    assert rose["route"].to_list() == ["business"]


def test_a_level_that_lasts_is_taken_for_normal() -> None:
    found = told(history(during(2_000, 0.5), days=10)).filter(pl.col("dim") == "all")
    assert found.height <= 2
    assert found["explanation"].str.contains("taken for the new level").any()


@pytest.mark.parametrize("step", [3, 45])
def test_batches_restarts_and_corrections_change_nothing(step: int) -> None:
    rows = history(during(12, 0.3))
    start = MONDAY + (AT - 30) * MINUTE
    before = rows.filter(pl.col("window_start") < start)
    whole, other = AnomalyWatch(SPEC), AnomalyWatch(SPEC)
    whole.observe(before, start)
    expected = whole.observe(rows.filter(pl.col("window_start") >= start), start + 90 * MINUTE)
    other.observe(before, start)
    snapshot, deltas, parts = other.snapshot(), [], []
    for k in range(0, 90, step):
        low, high = start + k * MINUTE, min(start + (k + step) * MINUTE, start + 90 * MINUTE)
        seen = rows.filter(pl.col("window_start").is_between(low - 5 * MINUTE, high - 1))  # 5 windows are corrections
        parts.append(other.observe(seen.with_columns(events=pl.col("events") + (pl.col("window_start") < low)), high))
        deltas.append(other.delta())
        other = AnomalyWatch(SPEC)
        other.restore(snapshot, deltas)
    key = ["series", "dim", "value", "window_start"]
    last = pl.concat(parts).unique(key, keep="last")
    assert last.sort(key).equals(expected.unique(key, keep="last").sort(key))
    assert expected.height >= 4


def test_a_stream_that_was_off_for_long_was_not_empty() -> None:
    rows = _calm()
    start = MONDAY + AT * MINUTE
    rest = rows.filter((pl.col("window_start") < start) | (pl.col("window_start") >= start + GAP_MS + 2 * HOUR))
    assert told(rest).filter(pl.col("kind") == "missing").height == 0


def test_series_are_the_greatest_and_bounded() -> None:
    spec = AnomalySpec(EVENTS, zone="UTC", top=3, floor=10)
    watch = AnomalyWatch(spec)
    values = {"a": 100, "b": 50, "c": 30, "d": 5}
    minutes = np.arange(120)
    rows = pl.concat([_rows(minutes, "region", v, np.full(120, n)) for v, n in values.items()])
    watch.observe(pl.concat([rows, _rows(minutes, "all", "", np.full(120, 185))]), MONDAY + 2 * HOUR)
    assert [key[1] for key in watch.series.keys] == ["", "a", "b"]
    grown = pl.concat([_rows(minutes + 120, "region", v, np.full(120, n)) for v, n in {"a": 100, "c": 500}.items()])
    watch.observe(pl.concat([grown, _rows(minutes + 120, "all", "", np.full(120, 600))]), MONDAY + 4 * HOUR)
    assert {key[1] for key in watch.series.keys} == {"", "a", "c"}


def test_history_warms_without_a_word() -> None:
    rows = history(during(10, 0.3))
    start = MONDAY + (AT + 5) * MINUTE  # in the midst of the fall
    watch = AnomalyWatch(SPEC)
    watch.warm_start(rows.filter(pl.col("window_start") < start))
    found = watch.observe(rows.filter(pl.col("window_start") >= start), MONDAY + DAYS * DAY)
    assert found.filter(pl.col("dim") == "all")["window_start"].to_list() == [start]


def test_holidays_and_zones_have_their_slots() -> None:
    spec = AnomalySpec(zone="Asia/Kolkata", holidays=frozenset({date(2026, 1, 6)}))
    times = calendar(spec, np.array([MONDAY, MONDAY + 19 * HOUR], np.int64))  # 05:30 on Monday; 00:30 on Tuesday
    assert times.slot.tolist() == [5, 168]
    assert times.weight.tolist() == pytest.approx([0.5 / 60, 0.5 / 60])
    assert times.beside.tolist() == [6, 169]


def test_preparing_changes_nothing() -> None:
    watch = AnomalyWatch(SPEC)
    watch.series.baseline.prepare()
    assert watch.snapshot() == AnomalyWatch(SPEC).snapshot()


def test_a_series_may_need_no_warming() -> None:
    baseline, windows = Baseline(1, warm=0, accept=12), np.arange(48)
    times = Times(windows % 168, (windows + 1) % 168, np.zeros(48))
    found = baseline.step(np.full((48, 1), 100.0), times, np.ones(1, np.bool_), whole=np.ones(1, np.bool_))
    assert np.isfinite(found.score).all()
    assert (found.event == NOTHING).all()


def test_rows_fit_the_table() -> None:
    found = told(history(during(10, 0.3)))
    table = table_of(ANOMALIES)
    assert found.columns == list(ROWS) == [column.name for column in table.columns]
    assert frame_to_arrow(table, found.with_columns(version=pl.lit(1, pl.UInt64))).frame.height == found.height > 0


def _merge(watch: AnomalyWatch | None) -> WatchedMerge:
    return WatchedMerge(ActivityMerge(ActivitySpec(windows=(60,), hours=False)), [watch] if watch else [])


def _fallen() -> tuple[WatchedMerge, pl.DataFrame]:
    """A merge that has been told of a fall of half an hour, and the rows it was told."""
    rows = history(during(30, 0.3)).filter(pl.col("window_start") < MONDAY + (AT + 70) * MINUTE)
    increments = rows.select(
        cut=pl.lit(60, pl.Int32), start="window_start", dim="dim", value="value", events="events",
        users="events", watch_ms="events",
    )  # fmt: skip
    merge = _merge(AnomalyWatch(SPEC))
    schema = ActivityMerge(ActivitySpec())._rows.select("cut", "start", "dim", "value", "events", "users", "watch_ms")
    merge.fold([increments.cast(dict(schema.schema))])  # type: ignore[arg-type]
    return merge, rows


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [((1_234, 0), "1,234 messages of lag"), ((0, 40), "40 failed writes to the store"), ((0, 0), "")],
)
def test_a_fall_is_checked_against_lag_and_the_store(trouble: tuple[int, int], reason: str) -> None:
    merge, _ = _fallen()
    merge._trouble = lambda: trouble
    found = merge.emit(Progress(MONDAY + (AT + 5) * MINUTE, MONDAY + (AT + 6) * MINUTE, early=True))[ANOMALIES]
    (whole,) = found.filter((pl.col("dim") == "all") & (pl.col("state") == "open")).to_dicts()
    assert whole["route"] == ("pipeline" if reason else "business")
    assert whole["explanation"].startswith(f"Probably ours, not the business: {reason}.") == bool(reason)


def test_the_watch_rides_on_the_merge_and_can_be_switched_off_and_on() -> None:
    merge, rows = _fallen()
    end = MONDAY + (AT + 70) * MINUTE
    first = merge.emit(Progress(MONDAY + (AT + 5) * MINUTE, end, early=True))
    assert first[ANOMALIES].height >= 1
    assert first["active_users"].height == rows.height
    saved = merge.snapshot()
    again, without = _merge(AnomalyWatch(SPEC)), _merge(None)
    again.restore(saved, [])
    without.restore(saved, [])
    rest = Progress(end, end, early=True, end=True, last_event_time=end - 1)
    assert "resolved" in set(again.emit(rest)[ANOMALIES]["state"])
    assert ANOMALIES not in without.emit(rest)
    learnt = AnomalyWatch(SPEC)
    WatchedMerge(ActivityMerge(ActivitySpec(windows=(60,), hours=False)), [learnt], lambda _: [_calm()]).restore(
        without.snapshot(), []
    )
    assert learnt.series.baseline.facts[0, 1] == DAYS * 1440
    on_again = _merge(AnomalyWatch(SPEC))
    on_again.restore(without.snapshot(), [])
    assert on_again.emit(rest).keys() <= {"active_users", ANOMALIES}
