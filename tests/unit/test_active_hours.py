"""Activity kernels: when rows are final, what clocks show across changes, what is bounded, what windows refuse."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest

from flows.active_hours import ActivityMerge, ActivityShard, ActivitySpec
from flows.kernel import Progress
from schemas.events import AD, COLUMNS, OTHER, VIEW
from schemas.windows import HOUR_MS, MINUTE_MS, PlatformHour, TumblingWindow, UserHour, local_hour_end

DIMS = ("category",)
LONG_AGO = -(10**15)


def ms(text: str) -> int:
    """Epoch ms of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def frame(*events: tuple[int, int, str | None, str | None], kind: int = VIEW) -> pl.DataFrame:
    """Views of (event_time, user, tz, category), each of 1,000 ms."""
    columns = {
        "kind": [kind] * len(events),
        "event_time": [e[0] for e in events],
        "user_hash": [e[1] for e in events],
        "tz": [e[2] for e in events],
        "category": [e[3] for e in events],
        "watch_ms": [1_000] * len(events),
    }
    return pl.DataFrame(columns, schema={name: COLUMNS[name] for name in columns})


def at(watermark: int, *, early: bool = False, end: bool = False) -> Progress:
    return Progress(watermark, now=0, early=early, end=end)


class Activity:
    """One shard and the merge."""

    def __init__(self, spec: ActivitySpec) -> None:
        self.shard, self.merge = ActivityShard(spec), ActivityMerge(spec)

    def fold(self, events: pl.DataFrame, watermark: int = LONG_AGO) -> None:
        self.merge.fold(list(self.shard.fold(events, at(watermark)).values()))

    def emit(self, progress: Progress, table: str) -> list[dict[str, object]]:
        rows = self.merge.emit(progress).get(table)
        return [] if rows is None else rows.sort(rows.columns).to_dicts()


HOURS = ActivitySpec(windows=(), dimensions=(), platform_zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("zone", "event", "closes"),
    [
        ("Asia/Shanghai", "2026-01-05T03:30:00", "2026-01-05T04:00:00"),
        ("Asia/Kathmandu", "2026-01-05T03:30:00", "2026-01-05T04:15:00"),
        ("Europe/Berlin", "2024-10-27T00:30:00", "2024-10-27T02:00:00"),  # 02:30, first pass: the second must end
        ("Europe/Berlin", "2024-10-26T23:30:00", "2024-10-27T00:00:00"),  # 01:30, the hour before it
        ("Europe/Berlin", "2024-03-31T00:30:00", "2024-03-31T01:00:00"),  # 01:30, then 03:00
        ("Australia/Lord_Howe", "2024-04-06T14:10:00", "2024-04-06T15:30:00"),  # 01:10, 90 min long
        ("America/St_Johns", "2010-11-07T02:00:00", "2010-11-07T03:30:00"),  # 23:30; at 00:01 back to 23:01
    ],
)
def test_a_platform_hour_is_final_after_its_last_pass(zone: str, event: str, closes: str) -> None:
    activity = Activity(ActivitySpec(windows=(), dimensions=(), platform_zone=zone))
    activity.fold(frame((ms(event), 1, None, None)))
    rows = activity.emit(at(ms(closes) - 1), "active_hours")
    assert rows == [], "before the end there is nothing final"
    rows = activity.emit(at(ms(closes)), "active_hours")
    assert [(row["basis"], row["is_final"]) for row in rows] == [("platform", 1)]


def test_a_user_hour_is_final_when_utc_minus_12_has_passed_it() -> None:
    activity = Activity(HOURS)
    activity.fold(frame((ms("2026-07-01T10:15:00"), 1, "Asia/Kathmandu", None)))  # 16:00 there
    closes = ms("2026-07-02T05:00:00")  # 17:00 in UTC−12
    assert [row["basis"] for row in activity.emit(at(closes - 1), "active_hours")] == ["platform"]
    rows = activity.emit(at(closes), "active_hours")
    assert [(r["basis"], r["date"], r["weekday"], r["hour"], r["is_final"]) for r in rows] == [
        ("user", date(2026, 7, 1), 3, 16, 1)
    ]


def test_the_doubled_hour_is_one_row_with_distinct_users() -> None:
    activity = Activity(HOURS)
    both_passes = [ms("2024-10-27T00:20:00"), ms("2024-10-27T01:20:00")]
    activity.fold(frame(*((time, 1, None, None) for time in both_passes), (both_passes[1], 2, None, None)))
    rows = activity.emit(at(0, end=True), "active_hours")
    found = [(r["basis"], r["hour"], r["events"], r["users"]) for r in rows]
    assert found == [("platform", 2, 3, 2), ("user", 2, 3, 2)]


def test_the_skipped_hour_has_no_row() -> None:
    activity = Activity(HOURS)
    start = ms("2024-03-31T00:00:00")
    activity.fold(frame(*((start + minute * MINUTE_MS, 1, None, None) for minute in range(180))))
    rows = activity.emit(at(0, end=True), "active_hours")
    assert [(r["hour"], r["events"]) for r in rows if r["basis"] == "platform"] == [(1, 60), (3, 60), (4, 60)]


@pytest.mark.parametrize("apart", [False, True])
def test_an_offset_with_seconds_cuts_a_minute_in_two(apart: bool) -> None:  # in two batches or in one
    """Until 00:44:30 UTC that day Monrovia was 44 min 30 s behind, so its midnight fell within a minute of UTC."""
    activity = Activity(ActivitySpec(dimensions=DIMS, platform_zone="Africa/Monrovia"))
    times = [ms("1972-01-07T00:44:10"), ms("1972-01-07T00:44:50")]
    for batch in [times[:1], times[1:]] if apart else [times]:
        activity.fold(frame(*((time, 1, None, "a") for time in batch)))
    rows = activity.emit(at(0, end=True), "active_hours")
    found = [(r["date"], r["hour"], r["events"], r["users"]) for r in rows if r["dim"] == "all"]
    assert found == [(date(1972, 1, 6), 23, 1, 1), (date(1972, 1, 7), 0, 1, 1)] * 2


def test_early_then_final_then_reopened() -> None:
    activity = Activity(ActivitySpec(windows=(60,), hours=False, dimensions=()))
    start = ms("2026-01-01T00:00:00")
    activity.fold(frame((start, 1, None, None)))
    assert activity.emit(at(start, early=False), "active_users") == []
    (early,) = activity.emit(at(start, early=True), "active_users")
    assert (early["users"], early["is_final"]) == (1, 0)
    assert activity.emit(at(start + MINUTE_MS - 1, early=True), "active_users") == [], "nothing changed"
    (final,) = activity.emit(at(start + MINUTE_MS), "active_users")
    assert (final["users"], final["is_final"]) == (1, 1)
    assert activity.emit(at(start + 2 * MINUTE_MS, early=True), "active_users") == []
    activity.fold(frame((start + 1, 1, None, None), (start + 2, 2, None, None)), start + 2 * MINUTE_MS)
    (again,) = activity.emit(at(start + 2 * MINUTE_MS), "active_users")
    assert (again["events"], again["users"], again["watch_ms"], again["is_final"]) == (3, 2, 3_000, 1)


def test_ads_are_no_activity() -> None:
    activity = Activity(ActivitySpec(dimensions=DIMS))
    activity.fold(frame((0, 1, None, "a"), kind=AD))
    assert activity.emit(at(0, end=True), "active_users") == []


def test_state_is_forgotten_after_the_retention() -> None:
    """Ids, windows and rows of what no event can reach are gone; the pairs of one day do not stay for the next."""
    activity = Activity(ActivitySpec(dimensions=DIMS, retain_ms=HOUR_MS))
    rng = np.random.default_rng(1)
    sizes = []
    for day in range(6):
        start = day * 86_400_000
        for _ in range(3):
            users = rng.integers(1, 1 << 62, 15_000)
            activity.fold(frame(*((start + i * 10, int(user), None, "a") for i, user in enumerate(users))), start)
            activity.emit(at(start), "active_users")
        sizes.append((activity.shard._seen.nbytes(), len(activity.merge.snapshot())))
    assert max(sizes[3:])[0] <= 2 * sizes[1][0]
    assert max(size for _, size in sizes[3:]) <= 2 * sizes[1][1]


def test_values_beyond_the_cap_fold_into_other() -> None:
    spec = ActivitySpec(windows=(60, 3600), dimensions=DIMS, value_cap=50)
    activity = Activity(spec)
    for batch in range(20):
        values = [f"v{batch * 500 + i}" for i in range(500)]
        activity.fold(frame(*((i, i + 1, None, value) for i, value in enumerate(values))))
        activity.emit(at(LONG_AGO, early=True), "active_users")
        values_held = len(activity.shard._dimensions[0].names)
        assert values_held <= 4 * spec.value_cap + 2 + 500, "a shard holds no more names than a few caps and one batch"
    rows = activity.emit(at(0, end=True), "active_users")
    minute = {str(r["value"]): r for r in rows if r["window_seconds"] == 60 and r["dim"] == "category"}
    assert OTHER in minute
    assert len(minute) <= spec.value_cap + 1
    assert sum(int(str(r["events"])) for r in minute.values()) == 10_000, "folded values still count"
    (whole,) = (r for r in rows if r["window_seconds"] == 60 and r["dim"] == "all")
    assert (whole["events"], whole["users"]) == (10_000, 500)


def test_a_million_values_stay_within_the_cap() -> None:
    """As many users, each with a value of its own, over two shards, whose first values are not the same."""
    million, batch, spec = 1_000_000, 50_000, ActivitySpec(dimensions=DIMS)
    shards, merge = (ActivityShard(spec), ActivityShard(spec)), ActivityMerge(spec)
    for first in range(0, million, batch):
        numbers = pl.Series(range(first, first + batch), dtype=pl.UInt64)
        columns = {
            "kind": pl.lit(VIEW, pl.UInt8), "event_time": pl.lit(first % MINUTE_MS, pl.Int64), "user_hash": numbers + 1,
            "tz": pl.lit(None, pl.String), "category": "value " + numbers.cast(pl.String),
            "watch_ms": pl.lit(1_000, pl.Int64),
        }  # fmt: skip
        events = pl.select(**columns)
        for shard, mine in zip(shards, (events[::2], events[1::2]), strict=True):
            merge.fold(list(shard.fold(mine, at(LONG_AGO)).values()))
            dimension = shard._dimensions[0]
            # Names may come to a few caps before they are forgotten; those of the last batch come on top.
            assert len(dimension.names) <= 4 * spec.value_cap + 2 + batch // 2
            assert sum(map(len, dimension._admitted.values())) <= spec.value_cap
        merge.emit(at(LONG_AGO, early=True))
        cells = merge._rows.filter(pl.col("dim") == "category").group_by("cut", "start").len()
        assert cells["len"].max() <= spec.value_cap + 1  # type: ignore[operator]
    rows = pl.concat(
        [table.select("dim", "value", "events", "users", "watch_ms", cell=pl.concat_str(
            *(pl.col(name).cast(pl.String) for name in ("window_seconds", "window_start", "basis", "date", "hour")
              if name in table.columns), separator=" "))
         for table in merge.emit(at(0, end=True)).values()]
    )  # fmt: skip
    assert rows["cell"].n_unique() == 4, "a minute, an hour, and the hour by both clocks"
    for (cell, dim), found in rows.group_by("cell", "dim"):
        assert (found["events"].sum(), found["watch_ms"].sum()) == (million, 1_000 * million), cell
        assert found["users"].sum() == million, "nobody has two values"
        assert found.height == (1 if dim == "all" else spec.value_cap + 1)
        if dim == "category":
            assert found.filter(value=OTHER)["events"].item() == million - spec.value_cap


def test_a_cap_in_one_hour_leaves_the_next_hour_exact() -> None:
    activity = Activity(ActivitySpec(windows=(3600,), hours=False, dimensions=DIMS, value_cap=50))
    activity.fold(frame(*((i, 1, None, f"v{i}") for i in range(150))))
    activity.fold(frame(*((HOUR_MS + i, 1, None, f"w{i}") for i in range(50))))
    rows = activity.emit(at(0, end=True), "active_users")
    second = {r["value"] for r in rows if r["window_start"] == HOUR_MS and r["dim"] == "category"}
    assert second == {f"w{i}" for i in range(50)}


def test_a_delta_costs_what_changed() -> None:
    activity = Activity(ActivitySpec(dimensions=DIMS))
    activity.fold(frame(*((i, i + 1, None, "a") for i in range(20_000))))
    activity.emit(at(LONG_AGO, early=True), "active_users")
    assert len(activity.shard.snapshot()) > 300_000
    activity.merge.snapshot()
    assert activity.shard.delta() == b""
    assert activity.merge.delta() == b""
    activity.fold(frame((20_000, 99_999, None, "a")))
    assert 0 < len(activity.shard.delta()) < 1_000
    assert 0 < len(activity.merge.delta()) < 5_000


@pytest.mark.parametrize("kernel", [ActivityShard, ActivityMerge])
def test_state_of_another_format_is_refused(kernel: type[ActivityShard | ActivityMerge]) -> None:
    blob = kernel(HOURS).snapshot()
    assert blob[1] == 1, "an array whose first member is the format"
    with pytest.raises(ValueError, match="format 9"):
        kernel(HOURS).restore(blob[:1] + b"\x09" + blob[2:], [])


def test_windows_that_cannot_be() -> None:
    for seconds in (0, -60, 86_401):
        with pytest.raises(ValueError, match="from 1 s to a day"):
            TumblingWindow(seconds)
    with pytest.raises(Exception, match="No time zone"):
        PlatformHour("Mars/Olympus")
    for wrong in (
        {"windows": (60, 60)},
        {"windows": (), "hours": False},
        {"dimensions": ("surface", "surface")},
        {"dimensions": ("all",)},
        {"retain_ms": -1},
        {"value_cap": 0},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            ActivitySpec(**wrong)


def test_windows_know_their_end() -> None:
    assert TumblingWindow(60).closes_at(120_000) == 180_000
    assert UserHour().closes_at(0) == 13 * HOUR_MS
    assert local_hour_end("Asia/Shanghai", 8 * HOUR_MS) == HOUR_MS
