"""Any order, split, sharding, replay and restore of the same events gives the rooms of the oracle."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.kernel import Progress
from flows.live_sessions import SessionShard
from flows.session_merge import ProductMerge, RoomMerge, SourceMerge
from schemas.sessions import MEASURES, PRODUCT_MEASURES
from tests.oracles import sessions as oracle
from tests.oracles.sessions import Event
from tests.properties.worlds import World, arrivals, frame_of, world_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START = 1_767_571_200_000 + DAY - 20 * MINUTE  # twenty minutes before a day's edge
FAR_BACK, FAR_AHEAD = -(1 << 62), 1 << 62
_STEPS = [0, 0, 1, 1_000, 9_999, 10_000, 25_000, MINUTE, MINUTE, 4 * MINUTE, 5 * MINUTE, 6 * MINUTE]
_WATCHED = [0, 0, 1, 5_000, 10_000, 59_999, MINUTE, MINUTE, 3 * MINUTE, 12 * MINUTE, 24 * HOUR]
_MERGES = (RoomMerge, SourceMerge, ProductMerge)


def _event(draw: st.DrawFn, number: int, time: int) -> Event:
    room, product = draw(st.sampled_from(["l1", "l1", "l1", "l2"])), draw(st.sampled_from(["p1", "p2"]))
    user = draw(st.sampled_from(["u1", "u1", "u2", "u3"]))
    event: Event = {"event_id": f"e{number}", "event_time": time, "user_id": user, "live_id": room}
    event["channel"] = draw(st.sampled_from(["feed", "search", None]))
    money = {
        "amount_minor": draw(st.integers(0, 500)),
        "currency": draw(st.sampled_from([None, "CNY", "USD"])),
        "quantity": draw(st.integers(1, 3)),
    }
    match draw(st.sampled_from(["view", "view", "view", "video", "like", "gift", "order", "order", "engage", "host"])):
        case "view":
            event |= {"topic": "view", "surface": "live", "watch_ms": draw(st.sampled_from(_WATCHED))}
            event |= {"continued": draw(st.sampled_from([None, False, True])), "creator_id": f"c-{room}"}
            event["from_video_id"] = draw(st.sampled_from([None, "v1"]))
            event["category"] = draw(st.sampled_from([None, "food", "dance"]))
        case "video":
            event |= {"topic": "view", "surface": "video", "video_id": "v1", "watch_ms": 5}
        case "like":
            event |= {"topic": "like", "live_id": draw(st.sampled_from([room, None])), "video_id": "v"}
        case "gift":
            event |= {"topic": "gift", **money}
        case "order":
            status = draw(st.sampled_from(["created", "paid", "paid", "cancelled", "refunded", "redeemed"]))
            order = draw(st.sampled_from(["o1", "o2", "o3"]))
            event |= {"topic": "order", "status": status, "order_id": order, "product_id": product, **money}
        case "engage":
            actions = ["comment", "share", "follow", "unfollow", "live_exposure", "product_click", "impression"]
            event |= {"topic": "engage", "action": draw(st.sampled_from(actions))}
            event["product_id"] = draw(st.sampled_from([product, None]))
        case _:
            event |= {"topic": "engage", "action": draw(st.sampled_from(["live_start", "live_end"]))}
            event["creator_id"] = draw(st.sampled_from([None, f"c-{room}", "a"]))
    return event


@st.composite
def worlds(draw: st.DrawFn) -> World:
    time, events = START, []
    for number in range(draw(st.integers(1, 40))):
        time += draw(st.sampled_from(_STEPS if draw(st.integers(0, 12)) else [HOUR, 5 * HOUR, 20 * DAY]))
        events.append(_event(draw, number, time))
    return world_of(draw, events)


def minutes_of(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """What the view makes of the rows of minutes; of the sums those that are not 0."""
    names = [measure.name for measure in MEASURES]
    return {
        (row["live_id"], row["window_start"]): {
            **{name: row[name] for name in names if row[name]},
            **{name: row[name] for name in ("viewers", "pcu", "acu")},
            "watching": row["watching_60"],
        }
        for row in rows
        if row["events"] or row["viewers"]
    }


class Engine:
    """The shards and the merges of a run, fed by hand."""

    def __init__(self, shards: int, retain: int) -> None:
        self._new_shard = lambda: SessionShard(retain_ms=retain, memory_ms=400 * DAY, order_memory_ms=400 * DAY)
        self._new_merges = lambda: [kind(retain_ms=retain) for kind in _MERGES]
        self.shards, self.merges = [self._new_shard() for _ in range(shards)], self._new_merges()
        self._saved: list[tuple[bytes, list[bytes]]] = []
        self.rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}

    def fold(self, events: Sequence[Event], watermark: int, *, early: bool, end: bool = False, after: int) -> None:
        """Fold a batch at the watermark before it and emit at the one after it."""
        progress = Progress(watermark, 0, early)
        for index, shard in enumerate(self.shards):
            mine = [e for e in events if int(e["user_id"][1:]) % len(self.shards) == index]
            if not mine:
                continue
            for name, increments in shard.fold(frame_of(mine, shard.columns), progress).items():
                next(merge for merge in self.merges if merge.name == name).fold([increments])
        for merge in self.merges:
            for table, rows in merge.emit(Progress(after, 0, early, end=end)).items():
                self._upsert(table, rows)

    def _upsert(self, table: str, rows: pl.DataFrame) -> None:
        known = self.rows.setdefault(table, {})
        keys = [k for k in ("live_id", "window_start", "part_start", "source", "product_id") if k in rows.columns]
        assert rows.select(keys).is_unique().all(), "one emission names a row once"
        for row in rows.iter_rows(named=True):
            before = known.get(tuple(row[key] for key in keys))
            assert before is None or before["is_final"] <= row["is_final"], "a final row is not opened again"
            known[tuple(row[key] for key in keys)] = row

    def save(self, rng: random.Random) -> None:
        """Snapshot everything, or only what changed since the last time."""
        parts = [*self.shards, *self.merges]
        if not self._saved or rng.random() < 0.2:
            self._saved = [(part.snapshot(), []) for part in parts]
        else:
            for part, (_, deltas) in zip(parts, self._saved, strict=True):
                if blob := part.delta():
                    deltas.append(blob)

    def restart(self) -> None:
        """Go on in new kernels, from what was saved."""
        self.shards, self.merges = [self._new_shard() for _ in self.shards], self._new_merges()
        for part, (snapshot, deltas) in zip([*self.shards, *self.merges], self._saved, strict=True):
            part.restore(snapshot, deltas)

    # ---- what the views make of the rows

    def rooms(self) -> dict[str, dict[str, Any]]:
        names = [measure.name for measure in MEASURES]
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows.get("live_sessions", {}).values():
            room = found.setdefault(row["live_id"], {"pcu": 0, "watching_peak": 0, "creator_id": "", "category": ""})
            for name in names:
                if row[name]:
                    room[name] = room.get(name, 0) + row[name]
            for name in ("pcu", "watching_peak"):
                room[name] = max(room[name], row[name])
            for name in ("creator_id", "category"):
                room[name] = min(filter(None, (room[name], row[name])), default="")
        return {room: {name: n for name, n in row.items() if n or name not in names} for room, row in found.items()}

    def items(self, table: str, item: str, names: Sequence[str]) -> dict[tuple[str, str], dict[str, int]]:
        found: dict[tuple[str, str], dict[str, int]] = {}
        for row in self.rows.get(table, {}).values():
            sums = found.setdefault((row["live_id"], row[item]), dict.fromkeys(names, 0))
            for name in names:
                sums[name] += row[name]
        return found


def check(engine: Engine, events: Sequence[Event]) -> None:
    assert minutes_of(engine.rows.get("live_session_minutes", {}).values()) == oracle.minutes(events)
    derived = ("state", "started_at", "ended_at", "last_active_at", "live_seconds", "watching_now")
    rooms = oracle.rooms(events, 0)
    assert engine.rooms() == {
        room: {name: n for name, n in row.items() if name not in derived} for room, row in rooms.items()
    }
    sources = engine.items("live_session_sources", "source", ("entered_users", "entered_from_video"))
    found = {key: tuple(row.values()) for key, row in sources.items() if row["entered_users"]}
    assert found == oracle.sources(events)
    products = engine.items("live_session_products", "product_id", [x.name for x in PRODUCT_MEASURES])
    kept: Mapping[Any, Any] = {key: {name: n for name, n in row.items() if n} for key, row in products.items()}
    assert kept == oracle.products(events)


def _run(world: World, *, shards: int = 1, restarts: bool = False) -> Engine:
    rng = random.Random(world.seed)
    engine = Engine(shards, world.retain)
    arriving = arrivals(world, rng)
    watermark = FAR_BACK
    for begin, end in pairwise(sorted({0, len(arriving), *world.cuts})):
        batch = arriving[begin:end]
        after = max(watermark, max(e["event_time"] for e in batch) - world.jitter)
        engine.fold(batch, watermark, early=world.early and rng.random() < 0.7, after=after)
        watermark = after
        if restarts:
            engine.save(rng)
            if rng.random() < 0.5:
                engine.restart()
    engine.fold([], watermark, early=False, end=True, after=FAR_AHEAD)
    return engine


@given(worlds())
@hypothesis_settings(max_examples=150, deadline=None)
def test_any_order_within_lateness_gives_the_rooms_of_the_oracle(world: World) -> None:
    check(_run(world), world.events)


@given(worlds())
@hypothesis_settings(max_examples=60, deadline=None)
def test_shards_snapshots_deltas_and_restarts_change_nothing(world: World) -> None:
    check(_run(world, shards=2, restarts=True), world.events)


@given(worlds())
@hypothesis_settings(max_examples=40, deadline=None)
def test_early_rows_are_those_of_the_events_so_far(world: World) -> None:
    engine = Engine(1, FAR_AHEAD)
    for count, event in enumerate(world.events, start=1):
        engine.fold([event], FAR_BACK, early=True, after=FAR_BACK)
        if count % 5 == 0 or count == len(world.events):
            check(engine, world.events[:count])


@given(worlds())
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_replay_from_a_snapshot_gives_the_same_rows(world: World) -> None:
    half = len(world.events) // 2
    engine = Engine(2, FAR_AHEAD)
    engine.fold(world.events[:half], FAR_BACK, early=True, after=FAR_BACK)
    engine.save(random.Random(0))
    for _ in range(2):  # the second half, folded, lost and folded again in other batches
        shuffled = world.events[half:]
        random.Random(world.seed).shuffle(shuffled)
        engine.fold(shuffled, FAR_BACK, early=True, after=FAR_BACK)
        if _ == 0:
            engine.restart()
    check(engine, world.events)


def test_state_is_bounded_by_the_users_of_the_memory_not_by_all_that_came() -> None:
    shard, merge = SessionShard(memory_ms=HOUR, order_memory_ms=HOUR, retain_ms=0), RoomMerge(retain_ms=0)
    sizes = []
    for hour in range(30):
        events = [
            {
                "topic": "view", "event_id": f"e{hour}-{n}", "user_id": f"u{hour}-{n}", "live_id": f"l{hour}",
                "surface": "live", "watch_ms": 60_000, "event_time": START + hour * HOUR + n,
            }
            for n in range(2_000)
        ]  # fmt: skip
        progress = Progress(START + hour * HOUR, 0, early=False)
        for name, increments in shard.fold(frame_of(events, shard.columns), progress).items():
            if name == RoomMerge.name:
                merge.fold([increments])
        merge.emit(progress)
        sizes.append((len(shard.snapshot()), len(shard._state), len(merge.snapshot())))
    assert max(size for size, _, _ in sizes) < 4 * 2_000 * 100
    assert max(held for _, held, _ in sizes) < 12 * 2_000  # of 150,000 in all
    assert sizes[-1][2] < 4 * sizes[2][2]


def test_a_user_who_comes_back_after_the_memory_counts_anew_and_an_order_does_not() -> None:
    shard, merge = SessionShard(memory_ms=HOUR, order_memory_ms=10 * DAY), RoomMerge()
    order = {"topic": "order", "status": "paid", "order_id": "o", "product_id": "p", "quantity": 1, "amount_minor": 5}
    for day in range(3):
        about = {"user_id": "u1", "live_id": "l", "event_time": START + day * DAY}
        events = [{**about, "event_id": f"v{day}", "topic": "view", "surface": "live", "watch_ms": 1}]
        events.append({**about, "event_id": f"o{day}", **order})
        progress = Progress(START + day * DAY, 0, early=False)
        merge.fold([shard.fold(frame_of(events, shard.columns), progress)[RoomMerge.name]])
    rows = merge.emit(Progress(0, 0, early=False, end=True))["live_sessions"]
    assert (rows["entered_users"].sum(), rows["orders"].sum(), rows["buyers"].sum()) == (3, 1, 1)
