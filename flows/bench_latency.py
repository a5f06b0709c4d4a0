"""Latency: from `produce()` of a probe until a polled row of each flow's view includes it, under steady traffic.

A probe is a view with a category and a tag of its own, so that its rows exist from the moment it counts: `active_users`
(dim category), `topic_heat` (its tag) and `funnel` (dim category, step 1).
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson
from confluent_kafka import Producer

from flows.bench_engine import EngineProcess, StoreReader, scaled
from flows.bench_throughput import FLOWS, Say, home_of, machine, refuse_kept
from flows.bench_traffic import background, make_producer
from flows.broker import Broker, RealBroker
from flows.errors import DependencyDown, Usage
from schemas.events import CORE_TOPICS

VIEWS: Final = ("active_users", "topic_heat", "funnel")

_PROBE_SECONDS, _PROBES_MOST = 0.1, 10_000  # each is a value of a dimension, whose number is limited
_POLL_SECONDS: Final = 0.2  # ten polls a second of three views took a fifth of what two cores can do
_WARM_UP_SECONDS: Final = 5.0
_LIVE_SECONDS: Final = 4  # the ledger follows by up to two seconds
_LAST_PROBE_SECONDS: Final = 15.0
_START_SECONDS: Final = 120.0
_QUERY: Final = """
SELECT 'active_users', value FROM active_users
 WHERE dim = 'category' AND window_seconds = 60 AND window_start > now() - INTERVAL 3 MINUTE
   AND value >= '{0}' AND value < 'probe.'
UNION ALL SELECT 'topic_heat', topic FROM topic_heat
 WHERE tick > now() - INTERVAL 2 MINUTE AND topic >= '{0}' AND topic < 'probe.'
UNION ALL SELECT 'funnel', value FROM funnel
 WHERE unit = 'user' AND dim = 'category' AND step = 1 AND value >= '{0}' AND value < 'probe.'
FORMAT TSV"""
_COSTS: Final = "SELECT sumIf(value, event = 'InsertedRows') FROM system.events"
_PARTS: Final = (
    "SELECT max(c) FROM (SELECT count() AS c FROM system.parts WHERE active AND database != 'system' GROUP BY table)"
)


@dataclass(frozen=True, slots=True)
class Latency:
    """What is to be measured. `seconds` of one run, after the warm-up."""

    rate: int = 20_000
    seconds: float = 60.0
    runs: int = 3
    seed: int = 7
    keep: Path | None = None  # leave the last run's store there
    workers: int = 1

    def __post_init__(self) -> None:
        if self.rate < 1 or self.seconds < 1 or self.runs < 1:
            raise Usage("a latency benchmark needs a rate, a second and a run at least")
        refuse_kept(self.keep)


class Traffic(AbstractContextManager["Traffic"]):
    """Background traffic in a process of its own."""

    def __init__(self, brokers: str, prefix: str, rate: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._sent = context.Value("q", 0)
        self._process: BaseProcess = context.Process(
            target=background, args=(brokers, prefix, rate, seed, self._stop, self._sent), daemon=True
        )
        self._process.start()

    @property
    def sent(self) -> int:
        """Events sent so far."""
        if not self._process.is_alive():
            raise DependencyDown("the process that makes the traffic has ended")
        return int(self._sent.value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._process.join(15)
        if self._process.is_alive():
            self._process.kill()


@dataclass(slots=True)
class Probes:
    """Probes under way and those that arrived. Times are monotonic seconds."""

    sent: dict[str, float] = field(default_factory=dict)  # name → produce() was called
    seen: dict[str, dict[str, float]] = field(
        default_factory=lambda: {view: {} for view in VIEWS}
    )  # view → name → when
    waiting: dict[str, None] = field(default_factory=dict)  # those that some view does not show yet, oldest first

    def send(self, producer: Producer, topic: str) -> None:
        """One more."""
        number = len(self.sent)
        name = f"probe-{number:06d}"
        event = {
            "event_id": name, "event_time": time.time_ns() // 1_000_000, "user_id": name,
            "surface": "video", "video_id": name, "creator_id": "probe", "category": name, "tags": [name],
            "watch_ms": 1000,
        }  # fmt: skip
        value = orjson.dumps(event)
        self.sent[name] = time.monotonic()
        self.waiting[name] = None
        producer.produce(topic, value, key=name)
        producer.poll(0)

    def poll(self, reader: StoreReader) -> None:
        """Note which probes show now."""
        if not self.waiting:
            return
        # a text changes once in ten probes, so the store knows most queries already
        oldest = next(iter(self.waiting))[:-1] + "0"
        answer = reader.ask(_QUERY.format(oldest)).decode()
        now = time.monotonic()
        for line in answer.splitlines():
            view, name = line.split("\t")
            if name in self.sent:
                self.seen[view].setdefault(name, now)
        for name in [name for name in self.waiting if all(name in seen for seen in self.seen.values())]:
            del self.waiting[name]

    def latencies_ms(self, gave_up: float, view: str | None = None) -> list[float]:
        """Of each probe: until `view` showed it, or (None) until all did; one never seen counts up to `gave_up`."""
        views = [self.seen[view]] if view else list(self.seen.values())
        return [(max(seen.get(name, gave_up) for seen in views) - sent) * 1000 for name, sent in self.sent.items()]


def measure(wanted: Latency, say: Say) -> dict[str, Any]:
    """Run it all; the JSON object, percentiles as medians over the runs.

    Raises:
        DependencyDown: no Java for the broker, or broker or engine failed.
    """
    with RealBroker() as broker:
        runs = []
        for number in range(1, wanted.runs + 1):
            with home_of(wanted.keep if number == wanted.runs else None) as home:
                runs.append(_run(broker, f"run{number}.", home, wanted))
            say(f"run {number} of {wanted.runs}: p50 {runs[-1]['p50_ms']} ms, p99 {runs[-1]['p99_ms']} ms")
    figures = {
        name: statistics.median(run[name] for run in runs) for name in runs[0] if name not in ("samples", "lost")
    }
    return {
        "benchmark": "latency", "rate": wanted.rate, "seconds": wanted.seconds, "workers": wanted.workers,
        "machine": machine(), **figures,
        "max_ms": max(run["max_ms"] for run in runs),
        "samples": sum(run["samples"] for run in runs), "lost": sum(run["lost"] for run in runs), "runs": runs,
    }  # fmt: skip


def _run(broker: Broker, prefix: str, home: Path, wanted: Latency) -> dict[str, Any]:
    settings = {**scaled(wanted.workers), "families": FLOWS, "events_archive": False}
    with under_traffic(broker, prefix, home, settings, wanted.rate, wanted.seed) as (engine, reader, traffic):
        time.sleep(_WARM_UP_SECONDS)
        began, sent_before, rows_before = time.monotonic(), traffic.sent, reader.numbers(_COSTS)[0]
        probes = _probe(engine, reader, broker.address, prefix, wanted.seconds)
        seconds, sent = time.monotonic() - began, traffic.sent - sent_before
        rows = reader.numbers(_COSTS)[0] - rows_before
        _await_last(probes, engine, reader)
        gave_up = time.monotonic()
        parts = reader.numbers(_PARTS)[0]
        cost, store_cost = engine.costs()
    return _figures(probes, gave_up) | {
        "achieved_rate": round(sent / seconds),
        "rows_per_event": round(rows / max(1, sent), 4),
        "active_parts": int(parts),
        "peak_rss_mb": round(cost.peak_rss_mb),
        "store_peak_rss_mb": round(store_cost.peak_rss_mb),
    }


@contextmanager
def under_traffic(
    broker: Broker, prefix: str, home: Path, settings: Mapping[str, object], rate: int, seed: int
) -> Iterator[tuple[EngineProcess, StoreReader, Traffic]]:
    """An engine that keeps up with traffic of now, on topics of its own; both are stopped in the end, traffic first."""
    broker.create_topics([prefix + topic for topic in CORE_TOPICS])
    with EngineProcess(home, {"brokers": broker.address, "topic_prefix": prefix, **settings}) as engine:
        engine.wait_until_prepared(_START_SECONDS)
        reader = engine.reader()
        with Traffic(broker.address, prefix, rate, seed) as traffic:
            _wait_until_live(engine, reader, traffic, rate)
            yield engine, reader, traffic


def _wait_until_live(engine: EngineProcess, reader: StoreReader, traffic: Traffic, rate: int) -> None:
    """Return when the engine has worked off what came while it started; one that cannot is measured as it is."""
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up:
        counted = reader.numbers("SELECT sum(consumed) FROM ingest_ledger")[0]
        if counted and counted > traffic.sent - _LIVE_SECONDS * rate:
            return
        engine.check(math.inf, "run")
        time.sleep(0.2)


def _probe(engine: EngineProcess, reader: StoreReader, brokers: str, prefix: str, seconds: float) -> Probes:
    """Send probes and poll for them until the time is over."""
    probes, producer = Probes(), make_producer(brokers, linger_ms=5)
    producer.list_topics(timeout=10)  # connects, so that the first probe is no slower than the others
    began, apart = time.monotonic(), max(_PROBE_SECONDS, seconds / _PROBES_MOST)
    polled = began
    while (now := time.monotonic()) < began + seconds:
        if now >= began + len(probes.sent) * apart:
            probes.send(producer, prefix + "view")
        if now >= polled + _POLL_SECONDS:
            polled = now
            probes.poll(reader)
        engine.check(math.inf, "run")
        due = min(began + len(probes.sent) * apart, polled + _POLL_SECONDS) - time.monotonic()
        time.sleep(max(0.0, due))
    producer.flush(5)
    return probes


def _await_last(probes: Probes, engine: EngineProcess, reader: StoreReader) -> None:
    give_up = time.monotonic() + _LAST_PROBE_SECONDS
    while probes.waiting and time.monotonic() < give_up:
        probes.poll(reader)
        engine.check(math.inf, "run")
        time.sleep(_POLL_SECONDS)


def _figures(probes: Probes, gave_up: float) -> dict[str, Any]:
    """Percentiles over all views and p99 of each."""
    lost = len(probes.waiting)
    if lost == len(probes.sent):
        shown = ", ".join(f"{len(seen)} in {view}" for view, seen in probes.seen.items())
        raise DependencyDown(f"of {lost} probes none showed in every view: {shown}")
    whole = probes.latencies_ms(gave_up)
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
    by_view = {f"p99_ms_{view}": percentile(probes.latencies_ms(gave_up, view), 0.99) for view in VIEWS}
    overall = {name: percentile(whole, share) for name, share in shares.items()}
    return {**overall, **by_view, "samples": len(whole), "lost": lost}


def percentile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank percentile, to a tenth: a value that was measured, never one in between."""
    ranked = sorted(samples)
    return round(ranked[max(0, math.ceil(share * len(ranked)) - 1)], 1)
