"""Activity kernels against the plain-Python oracle: any batches, order, shards, recovery and emissions."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from unittest.mock import patch

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.active_hours import ActivityMerge, ActivityShard, ActivitySpec
from flows.kernel import Progress
from schemas.events import COLUMNS, KIND, TOPICS
from tests.oracles import activity as oracle
from tests.oracles.activity import Event, Figures

Key = tuple[Any, ...]
HOUR = 3_600_000
DIMS = ("surface", "category", "region")
ZONES = [
    None, "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu",
    "America/St_Johns", "Pacific/Kiritimati", "Etc/GMT+12", "Africa/Monrovia",
]  # fmt: skip
MOMENTS = [
    1_729_990_800_000,  # 2024-10-27T01:00Z Berlin doubles an hour
    1_711_846_800_000,  # 2024-03-31T01:00Z Berlin skips one
    1_730_613_600_000,  # 2024-11-03T06:00Z New York doubles
    1_710_054_000_000,  # 2024-03-10T07:00Z New York skips
    1_712_415_600_000,  # 2024-04-06T15:00Z Lord Howe doubles half an hour
    1_728_142_200_000,  # 2024-10-05T15:30Z Lord Howe skips half an hour
    1_289_097_060_000,  # 2010-11-07T02:31Z St John's goes back at 00:01
    63_593_070_000,  # 1972-01-07T00:44:30Z Monrovia drops an offset with seconds
    1_700_000_000_000,
]


def frame_of(events: list[Event], dims: tuple[str, ...] = DIMS) -> pl.DataFrame:
    """The frame of these events, as a shard kernel gets it."""
    rows = [
        {
            "kind": KIND[e.topic],
            "event_time": e.event_time,
            "user_hash": user_hash(e.user_id),
            "tz": e.tz,
            "watch_ms": e.watch_ms,
            **dict(e.values),
        }
        for e in events
    ]
    names = ("kind", "event_time", "user_hash", "tz", "watch_ms", *dims)
    return pl.DataFrame(rows, schema={name: COLUMNS[name] for name in names})


def user_hash(user_id: str) -> int:
    """Any stable hash does."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "little")


@st.composite
def events(draw: st.DrawFn, max_size: int = 40) -> list[Event]:
    """Events within a few hours of a clock change."""
    moment = draw(st.sampled_from(MOMENTS))
    spread = draw(st.sampled_from([90_000, 2 * HOUR, 4 * HOUR]))
    value = st.sampled_from([None, "a", "b", "a\0b", ""])
    one = st.builds(
        Event,
        topic=st.sampled_from(TOPICS),
        event_time=st.integers(moment - spread, moment + spread) | st.sampled_from([moment - 1, moment]),
        user_id=st.sampled_from(["u1", "u2", "u3", "u4"]),
        tz=st.sampled_from(ZONES),
        watch_ms=st.none() | st.integers(0, 86_400_000),
        values=st.tuples(*(st.tuples(st.just(dim), value) for dim in DIMS)),
    )
    return draw(st.lists(one, min_size=1, max_size=max_size))


@dataclass
class Log:
    """What a recovery store holds for one kernel."""

    snapshot: bytes
    deltas: list[bytes] = field(default_factory=list)


@dataclass
class Table:
    """Rows as a ReplacingMergeTree holds them: a final row beats an early one, the later beats the earlier."""

    rows: dict[Key, tuple[int, Figures]] = field(default_factory=dict)

    def upsert(self, key: Key, is_final: int, figures: Figures) -> None:
        held = self.rows.get(key)
        if held is None or is_final >= held[0]:
            self.rows[key] = (is_final, figures)


def keyed(tables: dict[str, pl.DataFrame]) -> list[tuple[Key, int, Figures]]:
    """Key, is_final and figures of each emitted row."""
    out: list[tuple[Key, int, Figures]] = []
    for frame in tables.values():
        for row in frame.iter_rows():
            *key, n, users, watch, final = row
            out.append((tuple(key), final, (n, users, watch)))
    keys = [key for key, _, _ in out]
    assert len(keys) == len(set(keys)), "a row twice in one emission"
    return out


def expected(seen: list[Event], spec: ActivitySpec) -> dict[Key, Figures]:
    rows: dict[Key, Figures] = dict(oracle.active_users(seen, spec.windows))
    if spec.hours:
        rows.update(oracle.active_hours(seen, spec.platform_zone))
    return rows


def ends_at(key: Key, zone: str) -> int:
    """When the window of a row closes."""
    if isinstance(key[0], int):
        return int(key[0] + key[1] * 1000)
    basis, day, _, hour, _, _ = key
    assert isinstance(day, date)
    return oracle.platform_hour_end(day, hour, zone) if basis == "platform" else oracle.user_hour_end(day, hour)


class Engine:
    """Shards and the merge with their recovery logs."""

    def __init__(self, spec: ActivitySpec, shards: int) -> None:
        self.spec = spec
        self.kernels: list[Any] = [*(ActivityShard(spec) for _ in range(shards)), ActivityMerge(spec)]
        self.logs = [Log(kernel.snapshot()) for kernel in self.kernels]

    def step(self, batch: list[Event], progress: Progress, data: st.DataObject) -> dict[str, pl.DataFrame]:
        *shards, merge = self.kernels
        increments = []
        for number in data.draw(st.permutations(range(len(shards)))):
            mine = [e for e in batch if user_hash(e.user_id) % len(shards) == number]
            increments += [inc for inc in shards[number].fold(frame_of(mine), progress).values() if inc.height]
        merge.fold(increments)
        return dict(merge.emit(progress))

    def commit(self, data: st.DataObject) -> None:
        """End an epoch; perhaps write a whole snapshot, perhaps die and resume."""
        for number, kernel in enumerate(self.kernels):
            log = self.logs[number]
            if data.draw(st.integers(0, 3)) == 0:
                self.logs[number] = log = Log(kernel.snapshot())
            else:
                log.deltas.append(kernel.delta())
            if data.draw(st.booleans()):
                self.kernels[number] = type(kernel)(self.spec)
                self.kernels[number].restore(log.snapshot, log.deltas)


SPECS = st.sampled_from([
    ActivitySpec(dimensions=DIMS),
    ActivitySpec(dimensions=DIMS, platform_zone="Europe/Berlin", retain_ms=HOUR // 2),
    ActivitySpec(dimensions=DIMS, platform_zone="Australia/Lord_Howe", windows=(3600, 60)),
    ActivitySpec(dimensions=DIMS, platform_zone="America/St_Johns", windows=(3600,)),
    ActivitySpec(dimensions=DIMS, platform_zone="Africa/Monrovia", windows=(1, 10, 60)),
    ActivitySpec(dimensions=("category",), windows=(60,), hours=False, retain_ms=60_000),
    ActivitySpec(dimensions=(), windows=(), platform_zone="America/New_York"),
])  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(events(), SPECS, st.integers(1, 3), st.data())
def test_rows_equal_the_oracle(log: list[Event], spec: ActivitySpec, shards: int, data: st.DataObject) -> None:
    with ExitStack() as bounds:
        if data.draw(
            st.booleans(), "tight bounds"
        ):  # reclaim ids, and tell changes as a whole, whenever that is possible
            bounds.enter_context(patch("flows.activity_state._RENUMBER_MIN", 0))
            bounds.enter_context(patch("flows.activity_state._UNTOLD_MIN", -(10**6)))
            bounds.enter_context(patch("flows.active_hours._UNTOLD_MIN", -(10**6)))
        table = _run(log, spec, shards, data)
    counted = _counted(log, spec)
    assert table.rows == {key: (1, figures) for key, figures in expected(counted, spec).items()}


def _counted(log: list[Event], spec: ActivitySpec) -> list[Event]:
    return [e if spec.dimensions == DIMS else _narrowed(e, spec.dimensions) for e in log]


def _run(log: list[Event], spec: ActivitySpec, shards: int, data: st.DataObject) -> Table:
    """What was emitted of the events in some order, to the end; each row is checked when it comes."""
    log = data.draw(st.permutations(log))
    counted = _counted(log, spec)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=5)))
    engine, table, watermark = Engine(spec, shards), Table(), -(10**15)
    for start, stop in zip([0, *cuts], [*cuts, len(log)], strict=True):
        # An event may be at most retain_ms behind the watermark of its batch.
        oldest = min((e.event_time for e in log[start:]), default=0)
        last = stop == len(log)
        watermark = max(watermark, oldest + data.draw(st.integers(-2 * HOUR, spec.retain_ms)))
        if any(e.event_time < watermark - spec.retain_ms for e in log[start:]):
            watermark = min(watermark, oldest + spec.retain_ms)
        progress = Progress(watermark, now=0, early=data.draw(st.booleans()), end=last and start == stop)
        check(engine.step(log[start:stop], progress, data), table, counted[:stop], spec, progress)
        engine.commit(data)
    check(engine.step([], Progress(watermark, 0, early=False, end=True), data), table, counted, spec, None)
    return table


def _narrowed(event: Event, dims: tuple[str, ...]) -> Event:
    values = tuple((dim, value) for dim, value in event.values if dim in dims)
    return Event(event.topic, event.event_time, event.user_id, event.tz, event.watch_ms, values)


def check(
    emitted: dict[str, pl.DataFrame], table: Table, seen: list[Event], spec: ActivitySpec, progress: Progress | None
) -> None:
    """Every emitted row is what the oracle says of the events so far, is news, and is final when its time has come."""
    truth = expected(seen, spec)
    for key, final, figures in keyed(emitted):
        assert figures == truth[key]
        assert table.rows.get(key) != (final, figures), "an unchanged row was emitted again"
        if progress is not None and not progress.end and spec.platform_zone != "Africa/Monrovia":
            assert final == (ends_at(key, spec.platform_zone) <= progress.watermark)
        table.upsert(key, final, figures)
    if progress is not None and progress.early:
        assert {key: figures for key, (_, figures) in table.rows.items()} == truth
