"""Any order, split, sharding, replay and restore of the same events gives the funnel rows of the oracle."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.conversion_funnel import FunnelMerge, FunnelShard
from flows.kernel import Progress
from schemas.funnels import VIDEO_TO_LIVE, Exclusion, Funnel, Match, Step
from tests.oracles import funnel as oracle
from tests.oracles.funnel import Event, Figures, Row
from tests.oracles.ties import tie
from tests.properties.worlds import World, arrivals, frame_of, world_of

MINUTE, HOUR = 60_000, 3_600_000
NEW = 1_700_000_000_000 // HOUR * HOUR + 50 * MINUTE  # ten minutes before an hour's edge
DIMENSIONS = ("surface", "category", "region")
FAR_BACK, FAR_AHEAD = -(1 << 62), 1 << 62

SHORT = replace(VIDEO_TO_LIVE, name="short", finish_within_ms=40 * MINUTE, remember_ms=50 * MINUTE)
"""Windows so short that entries are forgotten and chains overlap the state's edges."""

CLICKS = Funnel(
    name="click_to_order",
    steps=(
        Step("click", (Match("engage", {"action": ("product_click",)}),)),
        Step("created", (Match("order", {"status": ("created",)}),)),
        Step("paid", (Match("order", {"status": ("paid",)}),), amount=True),
        Step("redeemed", (Match("order", {"status": ("redeemed", "refunded")}),), amount=True),
    ),
    hold="product_id",
    hold_from=1,
    enter_within_ms=20 * MINUTE,
    finish_within_ms=HOUR,
    remember_ms=2 * HOUR,
    exclusions=(Exclusion("cancelled", (Match("order", {"status": ("cancelled",)}),)),),
)
TWO_STEPS = Funnel(
    name="two_steps",
    steps=(Step("like", (Match("like"),)), Step("gift", (Match("gift"),))),
    hold="live_id",
    enter_within_ms=5 * MINUTE,
    finish_within_ms=0,
    units=("user_live",),
)

_STEPS = [0, 0, 1, 1, 2, 1000, 7 * MINUTE, 30 * MINUTE - 1, 30 * MINUTE, 30 * MINUTE + 1, 40 * MINUTE, HOUR]
_JUMPS = [
    20 * MINUTE,
    50 * MINUTE,
    2 * HOUR,
    24 * HOUR - 1,
    24 * HOUR,
    24 * HOUR + 1,
    10 * 24 * HOUR,
    10 * 24 * HOUR + 1,
]


def _event(draw: st.DrawFn, number: int, time: int) -> Event:
    event: Event = {"event_id": f"e{number}", "event_time": time, "user_id": draw(st.sampled_from(["u1", "u1", "u2"]))}
    for name, values in (("category", ["food", "dance", None]), ("region", ["CN-GD", None, None])):
        event[name] = draw(st.sampled_from(values))
    room, product = draw(st.sampled_from(["l1", "l1", "l2"])), draw(st.sampled_from(["p1", "p2"]))
    money = {"amount_minor": draw(st.integers(0, 500)), "currency": draw(st.sampled_from([None, "CNY", "USD"]))}
    match draw(st.sampled_from(["video", "video", "live", "live", "like", "gift", "order", "order", "engage", "ad"])):
        case "video":
            event |= {"topic": "view", "surface": "video", "continued": draw(st.sampled_from([None, False, True]))}
        case "live":
            continued = draw(st.sampled_from([None, False, False, True]))
            event |= {"topic": "view", "surface": "live", "live_id": room, "continued": continued}
        case "like":
            event |= {"topic": "like", "live_id": draw(st.sampled_from([room, None])), "video_id": "v"}
        case "gift":
            event |= {"topic": "gift", "live_id": room, **money}
        case "order":
            status = draw(st.sampled_from(["created", "created", "paid", "paid", "paid", "cancelled", "redeemed"]))
            held = draw(st.sampled_from([room, None]))
            event |= {"topic": "order", "status": status, "live_id": held, "product_id": product, **money}
        case "engage":
            action = draw(st.sampled_from(["comment", "share", "product_click", "product_click"]))
            event |= {"topic": "engage", "action": action, "live_id": room, "product_id": product}
        case _:
            event |= {"topic": "ad", "action": "click"}
    return event


@st.composite
def worlds(draw: st.DrawFn) -> World:
    time, events = NEW, []
    for number in range(draw(st.integers(1, 40))):
        time += draw(st.sampled_from(_STEPS if draw(st.integers(0, 5)) else _JUMPS))
        events.append(_event(draw, number, time))
    return world_of(draw, events)


class Engine:
    """The shards and the merge of a run, fed by hand."""

    def __init__(self, funnels: Sequence[Funnel], shards: int, retain: int) -> None:
        self._new_shard = lambda: FunnelShard(funnels, DIMENSIONS, retain_ms=retain)
        self._new_merge = lambda: FunnelMerge(funnels, retain_ms=retain)
        self.shards, self.merge = [self._new_shard() for _ in range(shards)], self._new_merge()
        self._saved: list[tuple[bytes, list[bytes]]] = []
        self.rows: dict[Row, Figures] = {}

    def fold(self, events: Sequence[Event], watermark: int, *, early: bool, end: bool = False, after: int) -> None:
        """Fold a batch at the watermark before it and emit at the one after it."""
        progress = Progress(watermark, 0, early)
        for index, shard in enumerate(self.shards):
            mine = [e for e in events if e["user_id"][1:] == "1" or index == len(self.shards) - 1]
            mine = [e for e in mine if (e["user_id"] == "u1") == (index == 0) or len(self.shards) == 1]
            for increments in shard.fold(frame_of(mine, shard.columns), progress).values():
                self.merge.fold([increments])
        for rows in self.merge.emit(Progress(after, 0, early, end=end)).values():
            self._upsert(rows)

    def _upsert(self, rows: pl.DataFrame) -> None:
        keys = ["funnel", "unit", "bucket_start", "dim", "value", "step"]
        assert rows.select(keys).is_unique().all(), "one emission names a row once"
        for row in rows.iter_rows(named=True):
            figures = row["reached"], row["median_seconds"], row["amount_minor"], row["other_currency_events"]
            self.rows[tuple(row[name] for name in keys)] = figures  # type: ignore[index]

    def save(self, rng: random.Random) -> None:
        """Snapshot everything, or only what changed since the last time."""
        parts = [*self.shards, self.merge]
        if not self._saved or rng.random() < 0.2:
            self._saved = [(part.snapshot(), []) for part in parts]
        else:
            for part, (_, deltas) in zip(parts, self._saved, strict=True):
                if blob := part.delta():
                    deltas.append(blob)

    def restart(self) -> None:
        """Go on in new kernels, from what was saved."""
        self.shards, self.merge = [self._new_shard() for _ in self.shards], self._new_merge()
        for part, (snapshot, deltas) in zip([*self.shards, self.merge], self._saved, strict=True):
            part.restore(snapshot, deltas)

    def standing(self) -> dict[Row, Figures]:
        """The last row of each key that any unit reached."""
        return {row: figures for row, figures in self.rows.items() if figures[0] > 0}


def _run(world: World, funnels: Sequence[Funnel], *, shards: int = 1, restarts: bool = False) -> Engine:
    rng = random.Random(world.seed)
    engine = Engine(funnels, shards, world.retain)
    arriving = arrivals(world, rng)
    edges = sorted({0, len(arriving), *world.cuts})
    watermark = FAR_BACK
    for begin, end in pairwise(edges):
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


def _expected(world: World, funnels: Iterable[Funnel]) -> dict[Row, Figures]:
    rows: dict[Row, Figures] = {}
    for funnel in funnels:
        rows |= oracle.funnel_rows(funnel, world.events, DIMENSIONS, lambda event: tie(event, DIMENSIONS))
    return rows


@given(worlds(), st.sampled_from([VIDEO_TO_LIVE, SHORT, CLICKS, TWO_STEPS]))
@hypothesis_settings(max_examples=100)
def test_any_order_within_lateness_gives_the_rows_of_the_oracle(world: World, funnel: Funnel) -> None:
    assert _run(world, [funnel]).standing() == _expected(world, [funnel])


@given(worlds())
@hypothesis_settings(max_examples=40)
def test_snapshots_deltas_and_restarts_change_nothing(world: World) -> None:
    funnels = [SHORT, CLICKS]
    assert _run(world, funnels, shards=2, restarts=True).standing() == _expected(world, funnels)


@given(worlds())
@hypothesis_settings(max_examples=40)
def test_without_a_watermark_any_order_at_all_will_do(world: World) -> None:
    shuffled = list(world.events)
    random.Random(world.seed).shuffle(shuffled)
    engine = Engine([SHORT], 1, world.retain)
    for event in shuffled:
        engine.fold([event], FAR_BACK, early=world.early, after=FAR_BACK)
    engine.fold([], FAR_BACK, early=False, end=True, after=FAR_AHEAD)
    assert engine.standing() == _expected(world, [SHORT])


@given(worlds())
@hypothesis_settings(max_examples=30)
def test_early_rows_are_the_rows_of_the_events_so_far(world: World) -> None:
    engine = Engine([SHORT], 1, FAR_AHEAD)
    for count, event in enumerate(world.events, start=1):
        engine.fold([event], FAR_BACK, early=True, after=FAR_BACK)
        if count % 5 == 0 or count == len(world.events):
            assert engine.standing() == _expected(replace(world, events=world.events[:count]), [SHORT])


@pytest.mark.parametrize("field", ["category", "region"])
def test_the_oracle_can_tell_a_difference(field: str) -> None:
    """A check of the check: another value of a dimension gives other rows."""
    view: dict[str, Any] = {"topic": "view", "user_id": "u1", "surface": "video", "event_time": NEW}
    rows = [oracle.funnel_rows(VIDEO_TO_LIVE, [{**view, field: v}], DIMENSIONS, lambda _: 0) for v in ("a", "b")]
    assert rows[0] != rows[1]
