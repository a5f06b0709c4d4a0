"""Throughput: what a no-op loop reads from a real broker, and what the engine makes of the same messages, in turn.

Engine time is from the moment it begins to read (`EngineProcess.reading_since`; start-up of interpreter and store is no
throughput) until every event shows in the views: the ledger, and the sums of each family's view.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
from confluent_kafka import Consumer, TopicPartition

from flows.bench_engine import EngineProcess, StoreReader, scaled
from flows.bench_traffic import make_events, produce, write_ndjson
from flows.bench_truth import LEDGER, Truth, all_families, differences, ledger, w1
from flows.broker import PARTITIONS, Broker, RealBroker
from flows.errors import DependencyDown, Usage
from schemas.events import CORE_TOPICS, VIEW

Say = Callable[[str], None]

W1_PREFIX: Final = "w1."
W1_SETTINGS: Final[Mapping[str, object]] = {
    "topic_prefix": W1_PREFIX, "families": "activity", "dimensions": "category", "windows_s": "60",
    "active_hours": False, "dedupe": False, "events_archive": False,
}  # fmt: skip
"""The work W1 of the peers: one-minute windows per category over the views, and nothing beside."""

FLOWS: Final = "activity,heat,funnel"
"""The three flows that the benchmarks measure."""

_WARM_UP_PREFIX: Final = "warm-up."
_WARM_UP_EVENTS: Final = 20_000
_START_SECONDS: Final = 120.0
_SLOWEST_PER_S: Final = 4_000  # an engine slower than this is taken for stuck
_VISIBLE_SECONDS: Final = 120.0
_FAR_POLL_SECONDS: Final = 0.2  # while there is far to go: queries take CPU from what is measured
_NEAR_POLL_SECONDS: Final = 0.05
_NEAR: Final = 0.9  # of the messages: a query takes some milliseconds of CPU from what is measured
_NOOP_IDLE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Throughput:
    """What is to be measured."""

    events: int = 2_000_000
    runs: int = 3
    seed: int = 7
    keep: Path | None = None  # leave the last run's store and the events there
    archive_figure: bool = True  # one more run with the view `events` filled
    workers: int = 1

    def __post_init__(self) -> None:
        if self.events < 1_000 or self.runs < 1:
            raise Usage("a benchmark needs at least 1,000 events and one run")
        refuse_kept(self.keep)


def refuse_kept(keep: Path | None) -> None:
    """Raises `Usage` when the directory holds what an earlier benchmark left."""
    if keep is not None and any((keep / name).exists() for name in ("store", "events.ndjson.zst")):
        raise Usage(f"{keep} holds what an earlier benchmark left; name another directory for --keep")


@dataclass(frozen=True, slots=True)
class EngineRun:
    """One run of the engine over a whole log."""

    seconds: float  # until all was visible in the views
    ledger_seconds: float  # until the ledger had counted all messages
    cpu_s: float
    store_cpu_s: float
    peak_rss_mb: float
    store_peak_rss_mb: float
    differences: tuple[str, ...]

    def figures(self, name: str, count: int, noop_per_s: float) -> dict[str, Any]:
        """As they stand in the JSON."""
        rate = count / self.seconds
        return {
            f"{name}_events_per_s": round(rate),
            f"{name}_ratio": round(rate / noop_per_s, 4),
            f"{name}_seconds": round(self.seconds, 3),
            f"{name}_ledger_seconds": round(self.ledger_seconds, 3),
            f"{name}_cpu_s": round(self.cpu_s, 2),
            f"{name}_store_cpu_s": round(self.store_cpu_s, 2),
            f"{name}_peak_rss_mb": round(self.peak_rss_mb),
            f"{name}_store_peak_rss_mb": round(self.store_peak_rss_mb),
            f"{name}_exact": not self.differences,
        }


def measure(wanted: Throughput, say: Say) -> dict[str, Any]:
    """Run it all; the JSON object.

    Raises:
        DependencyDown: no Java for the broker, or broker or engine failed.
    """
    say(f"making {wanted.events:,} events (seed {wanted.seed})")
    events = make_events(wanted.events, wanted.seed, time.time_ns() // 1_000_000)
    truths, w1_truths = all_families(events), w1(events)
    with RealBroker() as broker:
        average_bytes = _fill(broker, events, say)
        _warm_up(broker, events)
        runs: list[dict[str, Any]] = []
        wrong: list[str] = []
        for number in range(1, wanted.runs + 1):
            home = wanted.keep if number == wanted.runs else None
            runs.append(_in_turn(broker, wanted, truths, w1_truths, wrong, home))
            say(
                f"run {number} of {wanted.runs}: "
                + ", ".join(f"{k} {v:,}" for k, v in runs[-1].items() if "_per_s" in k)
            )
        archive = _archive(broker, wanted, truths, wrong, say) if wanted.archive_figure else {}
    if wanted.keep is not None:
        write_ndjson(events, wanted.keep / "events.ndjson.zst")
    return _summary(wanted, runs, wrong, average_bytes) | archive


def noop(brokers: str, topics: Sequence[str], *, head_start: bool = False) -> float:
    """Messages a second of a loop that does nothing with them: `peers/limit/w1.py` over `topics`.

    The clock starts before the partitions are assigned, as the engine's does. `head_start`: as in `w1.py` itself, after
    that and a question for each partition's end, while librdkafka fetches ahead.

    Raises:
        DependencyDown: the broker stopped delivering.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
            "queued.min.messages": 1_000_000, "queued.max.messages.kbytes": 1 << 20, "fetch.wait.max.ms": 50,
            "fetch.message.max.bytes": 16 << 20, "fetch.max.bytes": 64 << 20, "fetch.queue.backoff.ms": 1,
        }
    )  # fmt: skip
    try:
        places = [TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)]
        if head_start:
            consumer.assign(places)
        end = sum(consumer.get_watermark_offsets(place)[1] for place in places)
        got = 0
        began = last = time.perf_counter()
        if not head_start:
            consumer.assign(places)
        while got < end:
            messages = consumer.consume(20_000, 1.0)
            now = time.perf_counter()
            got, last = got + len(messages), now if messages else last
            if now - last > _NOOP_IDLE_SECONDS:
                raise DependencyDown(f"the broker at {brokers} gave {got} of {end} messages and then no more")
        return end / (time.perf_counter() - began)
    finally:
        consumer.close()


def engine_run(home: Path, settings: Mapping[str, object], truths: Sequence[Truth], also: str = "0") -> EngineRun:
    """Start the engine on an empty store, let it read everything, compare the views, stop it.

    `also`: SQL of a number that must reach 0 too before all counts as visible.
    """
    count = next(truth.visible for truth in truths if truth.view is LEDGER)
    with EngineProcess(home, settings) as engine:
        prepared = engine.wait_until_prepared(_START_SECONDS)
        cpu_before, store_cpu_before = (cost.cpu_s for cost in engine.costs())
        reader = engine.reader()
        ledger_at = until_counted(engine, reader, count)
        visible_at = _until_visible(engine, reader, truths, also) or ledger_at
        began = engine.reading_since(prepared)
        cost, store_cost = engine.costs()
        wrong = [sentence for truth in truths for sentence in differences(truth, _read(reader, truth))]
        reader.close()
    return EngineRun(
        seconds=visible_at - began,
        ledger_seconds=ledger_at - began,
        cpu_s=cost.cpu_s - cpu_before,
        store_cpu_s=store_cost.cpu_s - store_cpu_before,
        peak_rss_mb=cost.peak_rss_mb,
        store_peak_rss_mb=store_cost.peak_rss_mb,
        differences=tuple(wrong),
    )


def _read(reader: StoreReader, truth: Truth) -> pl.DataFrame:
    return pl.read_csv(reader.ask(truth.view.sql()), infer_schema=False).fill_null("")


def until_counted(engine: EngineProcess, reader: StoreReader, count: int, counted: str = "sum(consumed)") -> float:
    """When (epoch s) the ledger shows all messages. `counted`: SQL of how many it shows."""
    give_up = time.monotonic() + _VISIBLE_SECONDS + count / _SLOWEST_PER_S
    query = f"SELECT {counted} FROM ingest_ledger"  # noqa: S608  # our own words
    while (found := reader.numbers(query)[0]) < count:
        engine.check(give_up, f"count more than {found:,.0f} of {count:,} messages")
        time.sleep(_FAR_POLL_SECONDS if found < _NEAR * count else _NEAR_POLL_SECONDS)
    return time.time()


def _until_visible(engine: EngineProcess, reader: StoreReader, truths: Sequence[Truth], also: str) -> float | None:
    """When (epoch s) all views add up; None if they do not in time: the comparison tells what is missing."""
    query = "SELECT " + ", ".join([also, *(truth.view.visible_sql() for truth in truths)])
    expected = [0, *(truth.visible for truth in truths)]
    give_up = time.monotonic() + _VISIBLE_SECONDS
    while reader.numbers(query) != expected:
        if time.monotonic() > give_up:
            return None
        engine.check(give_up + 1, "show all events")
        time.sleep(_NEAR_POLL_SECONDS)
    return time.time()


def _fill(broker: Broker, events: pl.DataFrame, say: Say) -> float:
    """All events into the contract's topics, and the views once more into W1's own."""
    broker.create_topics([*CORE_TOPICS, W1_PREFIX + "view"])
    began = time.monotonic()
    average_bytes = produce(broker.address, events)
    produce(broker.address, events, W1_PREFIX, (VIEW,))
    say(f"produced in {time.monotonic() - began:.0f} s, {average_bytes:.0f} bytes on average")
    return average_bytes


def _warm_up(broker: Broker, events: pl.DataFrame) -> None:
    """A no-op and a short engine run, not counted: the broker gets warm, compiled loops get into their cache."""
    few = events[:_WARM_UP_EVENTS]
    broker.create_topics([_WARM_UP_PREFIX + topic for topic in CORE_TOPICS])
    produce(broker.address, few, _WARM_UP_PREFIX)
    noop(broker.address, CORE_TOPICS)
    with home_of(None) as home:
        engine_run(home, {"brokers": broker.address, "topic_prefix": _WARM_UP_PREFIX}, [Truth(LEDGER, ledger(few))])


def _in_turn(
    broker: Broker, wanted: Throughput, truths: list[Truth], w1_truths: list[Truth], wrong: list[str], keep: Path | None
) -> dict[str, Any]:
    """No-op, engine, no-op with a head start, no-op over the views, W1."""
    figures: dict[str, Any] = {}
    common = {"brokers": broker.address, **scaled(wanted.workers), "families": FLOWS}
    noop_per_s = noop(broker.address, CORE_TOPICS)
    with home_of(keep) as home:
        run = engine_run(home, {**common, "events_archive": False}, truths)
    wrong.extend(run.differences)
    figures |= {"noop_events_per_s": round(noop_per_s), **run.figures("engine", wanted.events, noop_per_s)}
    with_head_start = noop(broker.address, CORE_TOPICS, head_start=True)
    figures |= {
        "noop_head_start_events_per_s": round(with_head_start),
        "engine_head_start_ratio": round(wanted.events / run.seconds / with_head_start, 4),
    }
    views = w1_truths[0].visible
    noop_per_s = noop(broker.address, (W1_PREFIX + "view",))
    with home_of(None) as home:
        run = engine_run(home, {**common, **W1_SETTINGS}, w1_truths)
    wrong.extend(f"W1: {sentence}" for sentence in run.differences)
    return figures | {"w1_noop_events_per_s": round(noop_per_s), **run.figures("w1", views, noop_per_s)}


def _archive(broker: Broker, wanted: Throughput, truths: list[Truth], wrong: list[str], say: Say) -> dict[str, Any]:
    """The same with every event kept in the view `events`."""
    noop_per_s = noop(broker.address, CORE_TOPICS)
    missing = f"{wanted.events} - (SELECT count() FROM events)"  # noqa: S608  # a number and fixed words
    with home_of(None) as home:
        settings = {"brokers": broker.address, **scaled(wanted.workers), "families": FLOWS, "events_archive": True}
        run = engine_run(home, settings, truths, missing)
    wrong.extend(f"archive: {sentence}" for sentence in run.differences)
    say(f"with the archive: {wanted.events / run.seconds:,.0f} events/s")
    return run.figures("archive", wanted.events, noop_per_s)


@contextmanager
def home_of(keep: Path | None) -> Iterator[Path]:
    """A directory for an engine: `keep`, or one that goes away."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    home = Path(tempfile.mkdtemp(prefix="livepulse-bench-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _summary(wanted: Throughput, runs: list[dict[str, Any]], wrong: list[str], average_bytes: float) -> dict[str, Any]:
    medians = {
        name: round(statistics.median(run[name] for run in runs), 4)
        for name in runs[0]
        if name.endswith(("_per_s", "_ratio", "_seconds", "cpu_s"))
    }
    peaks = {
        "peak_rss_mb": max(max(run["engine_peak_rss_mb"], run["w1_peak_rss_mb"]) for run in runs),
        "store_peak_rss_mb": max(run["engine_store_peak_rss_mb"] for run in runs),
    }
    return {
        "benchmark": "throughput", "events": wanted.events, "seed": wanted.seed,
        "average_bytes": round(average_bytes, 1), "partitions": PARTITIONS, "workers": wanted.workers,
        "machine": machine(),
        **medians, **peaks,
        "exact": not wrong, "differences": wrong, "runs": runs,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
