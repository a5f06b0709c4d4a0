"""Topic heat: the same final rows for any cut, order and restart, equal to an oracle that reads TABLES.md literally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.kernel import Persistent, Progress
from flows.topic_heat import HeatMerge, HeatShard
from schemas.events import ALWAYS, KIND, OPTIONAL
from schemas.hashing import hash64
from schemas.heat import ROOM_HEAT, HeatSpec
from tests.oracles import heat as oracle

T0 = 1_700_000_000_000 // 3_600_000 * 3_600_000
SHARDS = 3
SPEC = HeatSpec(ranked=2, half_life_minutes=40, forget_days=1)
NEVER = -(1 << 62)
Out = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Raw:
    """An event as it goes into a frame."""

    time: int
    user: str
    kind: str
    tags: tuple[str, ...] | None
    action: str | None = None
    continued: bool | None = None

    def weight(self) -> float:
        if self.continued:
            return 0.0
        return {"view": 1.0, "like": 3.0, "comment": 5.0, "share": 8.0}.get(self.action or self.kind, 0.0)


def frame(events: Sequence[Raw]) -> pl.DataFrame:
    values: dict[str, list[object]] = {
        "kind": [KIND[e.kind] for e in events],
        "event_time": [e.time for e in events],
        "tags": [None if e.tags is None else list(e.tags) for e in events],
        "action": [e.action for e in events],
        "continued": [e.continued for e in events],
    }
    types = {**ALWAYS, **OPTIONAL}
    rows = pl.DataFrame({name: pl.Series(values[name], dtype=types[name]) for name in values})
    rows = rows.with_columns(live_id=pl.col("tags").list.first(), status=pl.lit("paid"))
    return rows.with_columns(hash64(pl.Series("user_hash", [e.user for e in events], dtype=pl.String)))


@dataclass
class Engine:
    """Shards and merge, and what they wrote: the last row per key, a final one before any early one."""

    spec: HeatSpec
    early: bool = False
    shards: list[HeatShard] = field(default_factory=list)
    logs: list[list[bytes]] = field(default_factory=list)
    heat: dict[tuple[int, str], dict[str, object]] = field(default_factory=dict)
    lives: dict[str, dict[str, object]] = field(default_factory=dict)
    early_heat: dict[tuple[int, str], dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shards = [HeatShard(self.spec) for _ in range(SHARDS)]
        self.merge = HeatMerge(self.spec)
        self.logs = [[kernel.snapshot()] for kernel in self.kernels()]

    def kernels(self) -> list[Persistent]:
        return [*self.shards, self.merge]

    def step(self, events: Sequence[Raw], watermark: int, *, end: bool = False) -> None:
        progress = Progress(watermark, 0, self.early, end)
        increments = []
        for number, shard in enumerate(self.shards):
            mine = [e for e in events if sum(map(ord, e.user)) % SHARDS == number]
            increments += list(shard.fold(frame(mine), progress).values())
        if increments:
            self.merge.fold(increments)
        self.take(self.merge.emit(progress))

    def take(self, tables: object) -> None:
        assert isinstance(tables, dict)
        for row in tables.get("topic_heat", pl.DataFrame()).to_dicts():
            key = (row["tick"], row["topic"])
            if row["is_final"]:
                self.heat[key] = row
            else:
                assert row["rank"] is None
                self.early_heat[key] = row
        for row in tables.get("topic_lifecycle", pl.DataFrame()).to_dicts():
            self.lives[row["topic"]] = row

    def save(self) -> None:
        for log, kernel in zip(self.logs, self.kernels(), strict=True):
            log.append(kernel.delta())

    def compact(self) -> None:
        self.logs = [[kernel.snapshot()] for kernel in self.kernels()]

    def restart(self) -> None:
        self.shards = [HeatShard(self.spec) for _ in range(SHARDS)]
        self.merge = HeatMerge(self.spec)
        for log, kernel in zip(self.logs, self.kernels(), strict=True):
            kernel.restore(log[0], log[1:])


def run_whole(events: Sequence[Raw], spec: HeatSpec = SPEC) -> Engine:
    engine = Engine(spec)
    engine.step(events, NEVER)
    engine.step([], max(e.time for e in events), end=True)
    return engine


@st.composite
def raw_events(draw: st.DrawFn) -> list[Raw]:
    """A few hours of a few topics, with a leap of hours or days in it now and then."""
    count = draw(st.integers(1, 60))
    span = draw(st.sampled_from([5, 40, 200]))
    leap = draw(st.sampled_from([0, 0, 5 * 60, 24 * 60 - 30, 25 * 60]))
    events = []
    for _ in range(count):
        minute = draw(st.integers(0, span)) + (leap if draw(st.booleans()) else 0)
        kind = draw(st.sampled_from(["view", "view", "view", "like", "engage", "order", "ad"]))
        events.append(Raw(
            time=T0 + minute * 60_000 + draw(st.sampled_from([0, 1, 17_350, 30_000, 59_999])),
            user=draw(st.sampled_from("uvwxyz")),
            kind=kind,
            tags=draw(st.sampled_from([("a",), ("b",), ("a", "b"), ("c", "a", "c"), ("d", "d"), ("é", "a"), (), None])),
            action=draw(st.sampled_from(["comment", "share", "follow"])) if kind in ("engage", "ad") else None,
            continued=draw(st.sampled_from([None, None, False, True])) if kind == "view" else None,
        ))  # fmt: skip
    return events


def expected(events: Sequence[Raw], spec: HeatSpec) -> dict[int, dict[str, tuple[oracle.Row, list[oracle.Event]]]]:
    counted = [oracle.Event(e.time, e.user, e.tags, e.weight()) for e in events if e.tags and e.kind != "ad"]
    if not counted:
        return {}
    return oracle.heat_rows(counted, spec.half_life_minutes, spec.forget_days, spec.user_cap)


def check_rank(
    topic: str, rank: object, known: dict[str, tuple[oracle.Row, list[oracle.Event]]], spec: HeatSpec
) -> None:
    """`rank` is possible given heats known to 1e-6, and exact among topics with equal events (unless a cap rounds)."""
    row, events = known[topic]
    signature = sorted((e.time, e.weight) for e in events if e.weight)
    ahead = alike = 0
    for other, (rival, theirs) in known.items():
        if other == topic:
            continue
        if sorted((e.time, e.weight) for e in theirs if e.weight) == signature and not spec.user_cap:
            ahead += other < topic
        elif abs(rival.heat - row.heat) <= 1e-6 * row.heat:
            alike += 1
        else:
            ahead += rival.heat > row.heat
    possible = {place if place <= spec.ranked else None for place in range(ahead + 1, ahead + alike + 2)}
    assert rank in possible


def check_heat(engine: Engine, events: Sequence[Raw], *, reopened: bool = False) -> None:
    left = dict(engine.heat)
    for tick, known in expected(events, engine.spec).items():
        for topic, (row, _) in known.items():
            got = left.pop((tick, topic), None)
            hotter = sum(rival.heat > row.heat * (1 - 1e-6) for rival, _ in known.values())
            cooler_wins = sum(rival.heat > row.heat * (1 + 1e-6) for rival, _ in known.values())
            surely = row.must or (row.heat >= 1 + 1e-6 and hotter <= engine.spec.ranked)
            maybe = surely or (row.heat >= 1 - 1e-6 and cooler_wins < engine.spec.ranked)
            if got is None:
                assert not surely
                continue
            assert maybe or (reopened and got["rank"] is None)
            assert got["heat"] == pytest.approx(row.heat, rel=1e-6)
            assert (got["events"], got["users"], got["stage"]) == (row.events, row.users, row.stage)
            assert (got["growth"] is None) == (row.growth is None)
            assert row.growth is None or got["growth"] == pytest.approx(row.growth, rel=1e-12, abs=1e-12)
            check_rank(topic, got["rank"], known, engine.spec)
    assert all(reopened and row["rank"] is None for row in left.values())


def check_lives(engine: Engine, events: Sequence[Raw]) -> None:
    counted = [oracle.Event(e.time, e.user, e.tags, e.weight()) for e in events if e.tags and e.kind != "ad"]
    until = (max((e.time for e in counted), default=0) // 60_000 + 1) * 60_000
    for topic, own in oracle.by_topic(counted).items():
        part = oracle.lives(own, engine.spec.forget_days)[-1]
        life = (oracle.live(part, until) or [(0, oracle.Life())])[-1][1]
        row = engine.lives[topic]
        assert (row["first_seen"], row["stage"]) == (part[0].time, life.stage)
        assert (row["peak_time"], row["half_life_minutes"]) == (life.peak_time, life.half_life)
        assert row["peak_rate"] == (life.peak / 10 if life.peak else None)
        ticks = {e.time // 60_000 * 60_000 + 60_000 for e in part}
        peak = max(oracle.heat_at(part, tick, engine.spec.half_life_minutes) for tick in ticks)
        assert row["peak_heat"] == pytest.approx(peak, rel=1e-6)
    assert engine.lives.keys() == oracle.by_topic(counted).keys()


@settings(max_examples=25)
@given(raw_events())
def test_one_run_equals_the_oracle(events: list[Raw]) -> None:
    engine = run_whole(events)
    check_heat(engine, events)
    check_lives(engine, events)


@st.composite
def cuts(draw: st.DrawFn, events: list[Raw], reopen_ms: int) -> list[tuple[list[Raw], int, str]]:
    """Steps of a run: events in nearly any order, a watermark that they allow, and what is done after the step."""
    order = sorted(events, key=lambda e: e.time + draw(st.integers(0, 600_000)))
    steps, at, watermark = [], 0, NEVER
    while at < len(order):
        size = draw(st.integers(1, 12))
        batch, rest = order[at : at + size], order[at + size :]
        allowed = min((e.time for e in rest), default=max(e.time for e in order)) + reopen_ms
        watermark = max(watermark, allowed - draw(st.sampled_from([0, 60_000, 900_000])))
        steps.append((batch, watermark, draw(st.sampled_from(["", "", "save", "compact", "restart", "save restart"]))))
        at += size
    return steps


def run_cut(steps: list[tuple[list[Raw], int, str]], spec: HeatSpec, *, early: bool) -> Engine:
    engine = Engine(spec, early=early)
    for batch, watermark, then in steps:
        engine.step(batch, watermark)
        if "save" in then or then == "restart":
            engine.save()
        if then == "compact":
            engine.compact()
        if "restart" in then:
            engine.restart()
    engine.step([], steps[-1][1], end=True)
    return engine


@settings(max_examples=20)
@given(st.data(), raw_events(), st.booleans())
def test_any_cut_order_and_restart_gives_the_same_bits(data: st.DataObject, events: list[Raw], early: bool) -> None:
    whole = run_whole(events)
    engine = run_cut(data.draw(cuts(events, 0)), SPEC, early=early)
    assert engine.heat == whole.heat
    assert engine.lives == whole.lives


@settings(max_examples=15)
@given(st.data(), raw_events(), st.booleans())
def test_minutes_that_open_again_end_as_if_never_closed(data: st.DataObject, events: list[Raw], early: bool) -> None:
    whole = run_whole(events)
    engine = run_cut(data.draw(cuts(events, 3_600_000)), SPEC, early=early)
    gone = {key for key in engine.heat if key not in whole.heat}
    assert all(engine.heat[key]["rank"] is None and engine.heat[key]["events"] == 0 for key in gone)
    assert {key: row for key, row in engine.heat.items() if key not in gone} == whole.heat
    assert engine.lives == whole.lives
    check_heat(engine, events, reopened=True)


@settings(max_examples=10)
@given(st.data(), raw_events())
def test_a_cap_is_a_function_of_the_set_of_events(data: st.DataObject, events: list[Raw]) -> None:
    spec = replace(SPEC, user_cap=4.5)
    whole = run_whole(events, spec)
    check_heat(whole, events)
    assert run_cut(data.draw(cuts(events, 3_600_000)), spec, early=False).heat.keys() >= whole.heat.keys()
    assert run_cut(data.draw(cuts(events, 0)), spec, early=False).heat == whole.heat


@settings(max_examples=10)
@given(raw_events())
def test_early_rows_show_what_is_known_so_far(events: list[Raw]) -> None:
    engine = Engine(SPEC, early=True)
    for event in sorted(events, key=lambda e: e.time):
        engine.step([event], NEVER)
    for (tick, topic), row in engine.early_heat.items():
        past = [oracle.Event(e.time, e.user, e.tags, e.weight()) for e in events if e.tags and e.kind != "ad"]
        own = oracle.lives([e for e in oracle.by_topic(past)[topic] if e.time < tick], SPEC.forget_days)[-1]
        assert row["heat"] == pytest.approx(oracle.heat_at(own, tick, SPEC.half_life_minutes), rel=1e-6)
        assert row["events"] == sum(e.time >= tick - 60_000 for e in own)
    assert not engine.heat
    assert {topic for _, topic in engine.early_heat} == engine.lives.keys()


@settings(max_examples=10)
@given(raw_events())
def test_another_heat_is_a_declaration(events: list[Raw]) -> None:
    spec = replace(ROOM_HEAT, heat_table="topic_heat", lifecycle_table="topic_lifecycle", label="topic")
    assert spec.columns == {"live_id", "continued", "action", "status"}
    engine = run_whole(events, spec)
    counted = [
        oracle.Event(e.time, e.user, e.tags[:1], 20.0 if e.kind == "order" else e.weight())
        for e in events
        if e.tags and e.kind != "ad"
    ]
    for tick, known in (oracle.heat_rows(counted, 30.0) if counted else {}).items():
        for topic, (row, _) in known.items():
            if row.must:
                got = engine.heat[tick, topic]
                assert (got["events"], got["users"]) == (row.events, row.users)
                assert got["heat"] == pytest.approx(row.heat, rel=1e-6)


@pytest.mark.parametrize("wrong", [
    {"subject": "watch_ms"}, {"subject": "none"},
    {"weights": {"views": 1.0}}, {"weights": {"view": -1.0}}, {"weights": {}}, {"weights": {"ad": 1.0}},
    {"weights": {"view": 1e-6, "like": 1.0}}, {"half_life_minutes": 0.0}, {"user_cap": 0.0},
])  # fmt: skip
def test_a_heat_that_cannot_be_computed_cannot_be_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="heat"):
        HeatSpec(**wrong)  # type: ignore[arg-type]
