"""Provisional alarms: only what can no longer be undone, told once, and settled when the window closes."""

from __future__ import annotations

from functools import cache

import polars as pl
import pytest

from flows.active_hours import ActivityMerge, ActivitySpec
from flows.anomalies import AnomalyWatch
from flows.anomaly_early import UNCONFIRMED
from flows.anomaly_merge import ANOMALIES, WatchedMerge
from flows.kernel import Progress
from tests.unit.test_anomalies import AT, MINUTE, MONDAY, SPEC, during, history

NOW = MONDAY + AT * MINUTE
KEY = ["series", "dim", "value", "window_start"]


@cache
def _state(factor: float = 1.0) -> tuple[bytes, pl.DataFrame]:
    """State up to five minutes before, and the rows of the hour around it."""
    rows = history(during(4, factor))
    watch = AnomalyWatch(SPEC)
    closed = NOW - 5 * MINUTE
    watch.observe(rows.filter(pl.col("window_start") < closed), closed)
    return watch.snapshot(), rows.filter(pl.col("window_start").is_between(closed, NOW + 60 * MINUTE))


def _watch(factor: float = 1.0) -> tuple[AnomalyWatch, pl.DataFrame]:
    state, rows = _state(factor)
    watch = AnomalyWatch(SPEC)
    watch.restore(state, [])
    return watch, rows


def _so_far(rows: pl.DataFrame, part: float, at: int = NOW) -> pl.DataFrame:
    """Early rows of one window when a part of it has been counted."""
    return rows.filter(pl.col("window_start") == at).with_columns(events=(pl.col("events") * part).cast(pl.Int64))


def test_a_window_that_is_beyond_the_bound_is_told_before_it_closes_and_confirmed() -> None:
    watch, rows = _watch(4.0)
    assert watch.foresee(_so_far(rows, 0.2)).height == 0
    early = watch.foresee(_so_far(rows, 0.8))
    (whole,) = early.filter(pl.col("dim") == "all").to_dicts()
    assert (whole["state"], whole["kind"], whole["is_provisional"], whole["route"]) == ("open", "spike", 1, "business")
    assert whole["window_start"] == whole["detected_at"] == NOW
    assert whole["actual"] > whole["high"] > whole["expected"]
    assert whole["score"] > 0.5
    assert "still open" in whole["explanation"]
    assert (early.filter(pl.col("dim") != "all")["state"] == "merged").all()
    assert watch.foresee(_so_far(rows, 0.9)).height == 0  # once
    found = watch.observe(rows, NOW + 20 * MINUTE)
    final = found.filter(pl.col("dim") == "all").to_dicts()
    assert [row["window_start"] for row in final] == [NOW]  # the same key: it takes the provisional one's place
    assert final[0]["is_provisional"] == 0
    assert final[0]["state"] == "resolved"
    assert "still open" not in final[0]["explanation"]


def test_a_fall_is_never_told_early() -> None:
    watch, rows = _watch(0.0)
    assert watch.foresee(_so_far(rows, 0.0)).height == 0
    usual, rows = _watch()
    for part in (0.0, 0.1, 0.5, 1.0, 1.15):
        assert usual.foresee(_so_far(rows, part)).height == 0


@pytest.mark.parametrize("factor", [1.3, 1.5, 1.8, 2.5, 6.0])
def test_whatever_was_told_early_is_confirmed(factor: float) -> None:
    """The bound leaves room for what the baseline learns until the window closes."""
    watch, rows = _watch(factor)
    early = watch.foresee(_so_far(rows, 1.0))
    found = watch.observe(rows, NOW + 20 * MINUTE)
    both = early.join(found, on=KEY, how="left", suffix="_final")
    assert (both["is_provisional_final"] == 0).all()
    assert not both["explanation_final"].str.contains(UNCONFIRMED).any()


def test_early_rows_change_nothing_that_follows_from_closed_windows() -> None:
    told, rows = _watch(4.0)
    quiet, _ = _watch(4.0)
    for part in (0.5, 0.8, 1.0):
        told.foresee(_so_far(rows, part))
    expected = quiet.observe(rows, NOW + 20 * MINUTE)
    assert told.observe(rows, NOW + 20 * MINUTE).sort(KEY).equals(expected.sort(KEY))


def test_one_that_the_window_does_not_confirm_is_closed_with_a_word() -> None:
    """It cannot happen by counting alone; it must not stand for ever if it does."""
    watch, rows = _watch()
    early = watch.foresee(_so_far(rows, 5.0))
    assert early.height >= 1
    delta = watch.delta()
    again, _ = _watch()
    again.restore(_state()[0], [delta])
    found = again.observe(rows, NOW + 20 * MINUTE)
    told = found.join(early.select(KEY), on=KEY, how="inner")
    assert told.height == early.height
    assert (told["is_provisional"] == 0).all()
    whole = told.filter(pl.col("dim") == "all")
    assert whole["state"].to_list() == ["resolved"]
    assert UNCONFIRMED in whole["explanation"][0]


def test_the_engine_tells_it_with_early_rows() -> None:
    watch, rows = _watch(4.0)
    merge = WatchedMerge(ActivityMerge(ActivitySpec(windows=(60,), hours=False)), [watch])
    increments = rows.filter(pl.col("window_start") <= NOW).select(
        cut=pl.lit(60, pl.Int32), start="window_start", dim="dim", value="value", events="events",
        users="events", watch_ms="events",
    )  # fmt: skip
    kinds = ActivityMerge(ActivitySpec())._rows.select("cut", "start", "dim", "value", "events", "users", "watch_ms")
    merge.fold([increments.cast(dict(kinds.schema))])  # type: ignore[arg-type]
    rows_of = merge.emit(Progress(NOW - 5 * MINUTE, NOW + MINUTE // 2, early=True))[ANOMALIES]
    assert rows_of.filter(pl.col("dim") == "all")["is_provisional"].to_list() == [1]
