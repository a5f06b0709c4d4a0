"""The path from messages to rows without Kafka, Bytewax and a store: outcomes and rows depend on the log alone.

One log is read with drawn batch sizes, interleavings, numbers of workers and restarts; accepted, duplicate and late
offsets and all rows must be those of the log's plain reading.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.dataflow import Router
from flows.families import step_config, time_bounds, wanted_columns
from flows.intake import AlignmentBoard, Intake
from flows.messages import MIN_TIME, MergeItem, Rows, ShardItem, SourceItem, packed, unpacked
from flows.parts import MINUTE_MS, Messages, PartBuilder, Stretch
from flows.settings import Settings
from flows.steps import MergeLogic, ShardLogic, StepConfig
from schemas.events import KIND
from tests.integration.traffic import Traffic
from tests.oracles import activity, sessions
from tests.oracles.log import Lane, judge
from tests.properties.test_sessions import minutes_of

START = 1_760_000_000_000
NOW = START + 40 * 3_600_000
SETTINGS = Settings(families=("activity", "sessions"), shards=2, events_archive=True, idle_timeout_ms=1_000)


class Pipeline:
    """One run of the steps, in drawn order; `restart` puts every step through its recovery state."""

    def __init__(self, config: StepConfig, workers: int) -> None:
        self.config = config
        self.workers = workers
        self.shards: dict[str, ShardLogic] = {}
        self.families: dict[str, MergeLogic] = {}
        self.rows: dict[str, list[pl.DataFrame]] = {}

    def feed(self, items: list[SourceItem]) -> None:
        to_merge: dict[str, list[MergeItem]] = {}
        to_shard: dict[str, list[ShardItem]] = {}
        for key, routed in Router(self.config.shards, begin=self.config.ahead.begin)(items):
            if isinstance(routed, ShardItem):
                to_shard.setdefault(key, []).append(routed)
            elif isinstance(routed, MergeItem):
                to_merge.setdefault(key, []).append(routed)
            else:
                self._keep(routed)
        for key, shard_items in to_shard.items():
            logic = self.shards.setdefault(key, ShardLogic(self.config, None))
            for to, found in logic.on_batch(shard_items)[0]:
                if isinstance(found, MergeItem):
                    to_merge.setdefault(to, []).append(found)
                else:
                    self._keep(found)
        for key, merge_items in to_merge.items():
            for rows in self.families.setdefault(key, MergeLogic(self.config, None)).on_batch(merge_items)[0]:
                self._keep(rows)

    def _keep(self, rows: Rows) -> None:
        self.rows.setdefault(rows.table, []).append(unpacked(rows.frame))

    def restart(self) -> None:
        self.shards = {key: ShardLogic(self.config, logic.snapshot()) for key, logic in self.shards.items()}
        generation = self.config.generation + 1
        self.config = replace(self.config, generation=generation)
        self.families = {key: MergeLogic(self.config, logic.snapshot()) for key, logic in self.families.items()}

    def latest(self, table: str, key: list[str]) -> pl.DataFrame:
        frame = pl.concat(self.rows[table], how="diagonal")
        return frame.sort("version").unique(key, keep="last").drop("version")


def log_of(seed: int, count: int, step_ms: int) -> tuple[Traffic, dict[Lane, list[bytes]]]:
    traffic = Traffic(seed=seed, start_ms=START, partitions=2, users=25)
    values: dict[Lane, list[bytes]] = {}
    for topic, partition, _, value in traffic.messages(count, step_ms):
        values.setdefault((topic, partition), []).append(value)
    return traffic, values


def read(values: dict[Lane, list[bytes]], rnd: random.Random, workers: int, pipeline: Pipeline) -> None:
    """Push the whole log through, in drawn batches and order; then let every partition end."""
    bounds = time_bounds(SETTINGS)
    intakes = [Intake(bounds, AlignmentBoard(None, 0, 1), w, follow_clock=False) for w in range(workers)]
    feeds = [one_worker(values, sorted(values)[w::workers], intakes[w], rnd) for w in range(workers)]
    alive = list(range(workers))
    while alive:
        worker = rnd.choice(alive)
        items = next(feeds[worker], None)
        if items is None:
            alive.remove(worker)
            items = [SourceItem(None, intakes[worker].progress(NOW, early=False))]
        pipeline.feed(items)
        if len(alive) == workers and rnd.random() < 0.05:  # only a backfill ends, and it has no recovery
            pipeline.restart()


def one_worker(
    values: dict[Lane, list[bytes]], lanes: list[Lane], intake: Intake, rnd: random.Random
) -> Iterator[list[SourceItem]]:
    builder = PartBuilder(wanted_columns(SETTINGS), SETTINGS.limits, time_bounds(SETTINGS), frozenset())
    places = dict.fromkeys(lanes, (0, MIN_TIME))
    for lane in lanes:
        intake.add(str(lane), 0, MIN_TIME, NOW)
    while places or any(intake.waiting().values()):
        if places and rnd.random() < 0.6:
            lane = rnd.choice(list(places))
            at, before = places[lane]
            batch = values[lane][at : at + rnd.choice((1, 30, 200))]
            if not batch:
                intake.caught_up(str(lane), caught_up=True)
                del places[lane]
                continue
            offsets = np.arange(at, at + len(batch), dtype=np.int64)
            minutes = np.full(len(batch), NOW // MINUTE_MS * MINUTE_MS)
            kinds = np.full(len(batch), KIND[lane[0]], dtype=np.uint8)
            messages = Messages([Stretch(lane[1], 0, len(batch), before)], offsets, minutes, kinds, batch, NOW)
            (part,) = builder.build(messages, builder.decoder.decode(lane[0], batch, NOW))
            places[lane] = (part.next_offset, int(part.maxima[-1]))
            intake.put(str(lane), part)
        intake.open_round()
        found = [(lane, intake.take(str(lane), rnd.choice((5, 60, 500)), NOW)) for lane in lanes]
        items = [SourceItem(s, intake.progress(NOW, early=rnd.random() < 0.5)) for _, s in found if s is not None]
        if items:
            yield items
    for lane in lanes:
        intake.finish(str(lane))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 30), st.integers(1, 3), st.sampled_from((50, 2_000, 60_000)))
def test_rows_depend_on_the_log_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, workers: int, step_ms: int
) -> None:
    traffic, values = log_of(seed % 7, 300, step_ms)
    state_dir: Path = tmp_path_factory.mktemp("state")
    workers = min(workers, len(values))
    config = step_config(SETTINGS, sources=workers, generation=1, state_dir=state_dir)
    config = replace(config, fsync=False, pack=packed if workers > 1 else config.pack)
    pipeline = Pipeline(config, workers)
    read(values, random.Random(seed), workers, pipeline)
    verdict = judge(traffic.log)
    ledger = pipeline.latest("ingest_ledger", ["topic", "partition", "minute"])
    names = ("consumed", "accepted", "duplicate", "late", "rejected")
    found = {(r["topic"], r["partition"]): tuple(r[n] for n in names) for r in ledger.iter_rows(named=True)}
    assert found == {lane: tuple(t[n] for n in names) for lane, t in verdict.counts.items()}
    late = pl.concat(pipeline.rows["late_events"]) if "late_events" in pipeline.rows else pl.DataFrame()
    offsets = sorted(zip(late["topic"], late["partition"], late["offset"], strict=True)) if late.height else []
    assert offsets == sorted((t, p, o) for (t, p), many in verdict.late_offsets.items() for o in many)
    archived = pl.concat(pipeline.rows["events"], how="diagonal")
    assert archived.height == len(verdict.accepted)
    assert set(archived["event_id"]) == {e["event_id"] for e in verdict.accepted}
    check_activity(pipeline, verdict.accepted)
    minutes = pipeline.latest("live_session_minutes", ["live_id", "window_start"])
    assert (minutes["is_final"] == 1).all()
    assert minutes_of(minutes.iter_rows(named=True)) == sessions.minutes(verdict.accepted)
    days = pipeline.latest("live_sessions", ["live_id", "part_start"])
    money = dict(days.group_by("live_id").agg(pl.col("gmv_minor").sum()).iter_rows())
    rooms = sessions.rooms(verdict.accepted, NOW)
    assert money == {room: row.get("gmv_minor", 0) for room, row in rooms.items()}


def check_activity(pipeline: Pipeline, accepted: list[dict[str, object]]) -> None:
    events = [
        activity.Event(
            str(e["topic"]), int(e["event_time"]), str(e["user_id"]), e.get("tz"), e.get("watch_ms"),  # type: ignore[arg-type,call-overload]
            tuple((d, e.get(d)) for d in SETTINGS.dimensions),  # type: ignore[misc]
        )
        for e in accepted
    ]  # fmt: skip
    rows = pipeline.latest("active_users", ["window_start", "window_seconds", "dim", "value"])
    assert (rows["is_final"] == 1).all()
    found = {
        (r["window_start"], r["window_seconds"], r["dim"], r["value"]): (r["events"], r["users"], r["watch_ms"])
        for r in rows.iter_rows(named=True)
    }
    assert found == activity.active_users(events, (60, 3600))
    hours = pipeline.latest("active_hours", ["basis", "date", "hour", "dim", "value"])
    by_hour = {
        (r["basis"], r["date"], r["weekday"], r["hour"], r["dim"], r["value"]): (r["events"], r["users"], r["watch_ms"])
        for r in hours.iter_rows(named=True)
    }
    assert by_hour == activity.active_hours(events, "Asia/Shanghai")


def test_final_rows_beat_early_ones_of_a_later_generation() -> None:
    config = step_config(SETTINGS, sources=1, generation=7, state_dir=None)
    logic = MergeLogic(config, None)
    rows = pl.DataFrame({"is_final": [1, 0]})
    final, early = logic._versioned(rows)["version"]  # the rule is worth a test of its own
    later = MergeLogic(replace(config, generation=8), None)._versioned(rows)["version"]
    assert final > later[1] > early
    assert later[0] > final
