"""A day's memory: how much the engine takes to live through 24 h of events, and to replay them.

The same simulated day goes to two sets of topics: slowly, to an engine that keeps up with it, and at once, before the
other engine starts.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, Final

from flows.bench_engine import EngineProcess, StoreReader
from flows.bench_throughput import Say, home_of, machine, until_counted
from flows.broker import PARTITIONS, Broker, RealBroker
from flows.errors import Usage
from flows.parts import LEDGER_COUNTS
from flows.simulate import Options, Progress, simulate_to_kafka
from schemas.events import TOPICS

_DAY_SECONDS: Final = 86_400.0
_START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Replay:
    """What is to be measured."""

    events: int = 1_000_000  # of the day
    rate: int = 5_000  # events a second of the engine that lives through it
    seed: int = 7

    def __post_init__(self) -> None:
        if self.events < 1_000 or self.rate < 1:
            raise Usage("a day to replay needs at least 1,000 events, and a rate of at least one a second")


def measure(wanted: Replay, say: Say) -> dict[str, Any]:
    """Run both on a broker of their own; the JSON object. `exact`: both ledgers are equal.

    Raises:
        DependencyDown: no Java for the broker, or broker or engine failed.
    """
    with RealBroker() as broker:
        return both(broker, wanted, say)


def both(broker: Broker, wanted: Replay, say: Say) -> dict[str, Any]:
    """As `measure`, on this broker, in topics of its own."""
    name = uuid.uuid4().hex[:8]
    start = round((time.time() - 2 * _DAY_SECONDS) * 1000)  # so that no event is in the future of only one of them
    say(f"living through a day of {wanted.events:,} events in {wanted.events / wanted.rate:,.0f} s")
    with _engine(broker, f"{name}.live.") as (engine, reader):
        began = time.monotonic()
        sent = _send_day(broker, f"{name}.live.", wanted, start, wanted.rate, say)
        live = _ledger(engine, reader, sent)
        live_seconds, live_mb = time.monotonic() - began, engine.largest_peak_mb()
    say(f"peak {live_mb:,.0f} MB; now the same day at once")
    _send_day(broker, f"{name}.replay.", wanted, start)
    with _engine(broker, f"{name}.replay.") as (engine, reader):
        began = time.monotonic()
        replayed = _ledger(engine, reader, sent)
        replay_seconds, replay_mb = time.monotonic() - began, engine.largest_peak_mb()
    return {
        "benchmark": "replay", "events": sent, "rate": wanted.rate, "seed": wanted.seed, "partitions": PARTITIONS,
        "machine": machine(),
        "live_seconds": round(live_seconds, 1), "replay_seconds": round(replay_seconds, 1),
        "live_peak_rss_mb": round(live_mb), "replay_peak_rss_mb": round(replay_mb),
        "memory_ratio": round(replay_mb / live_mb, 3),
        "exact": live == replayed,
        "differences": [
            f"{figure} of the ledger: {lived:,.0f} lived through, {again:,.0f} replayed"
            for figure, lived, again in zip(LEDGER_COUNTS, live, replayed, strict=True)
            if lived != again
        ],
    }  # fmt: skip


@contextmanager
def _engine(broker: Broker, prefix: str) -> Iterator[tuple[EngineProcess, StoreReader]]:
    """An engine with all families on topics of its own. A day in minutes has pauses that are none: nothing is idle."""
    broker.create_topics([prefix + topic for topic in TOPICS])
    settings = {"brokers": broker.address, "topic_prefix": prefix, "idle_timeout": "10min"}
    with home_of(None) as home, EngineProcess(home, settings) as engine:
        engine.wait_until_prepared(_START_SECONDS)
        reader = engine.reader()
        yield engine, reader
        reader.close()


def _send_day(
    broker: Broker, prefix: str, wanted: Replay, start: int, rate: float = math.inf, say: Say = lambda _: None
) -> int:
    """Send the day, at most `rate` events a second; how many there were."""
    began, sent, told = time.monotonic(), 0, 0

    def hold_back(progress: Progress) -> None:
        nonlocal sent, told
        sent = progress.messages
        if (tenths := 10 * sent // wanted.events) > told:
            told = tenths
            say(f"{tenths}0 %")
        time.sleep(max(0.0, began + sent / rate - time.monotonic()))

    day = Options(
        rate=wanted.events / _DAY_SECONDS, duration_s=_DAY_SECONDS, paced=False, start=start,
        topic_prefix=prefix, partitions=PARTITIONS, seed=wanted.seed,
    )  # fmt: skip
    simulate_to_kafka(broker.address, day, Event(), hold_back)
    return sent


def _ledger(engine: EngineProcess, reader: StoreReader, count: int) -> list[float]:
    """The sums of the ledger, once it has all messages and what became of each."""
    _, *outcomes = sums = [f"sum({name})" for name in LEDGER_COUNTS]
    until_counted(engine, reader, count, f"least({sums[0]}, {' + '.join(outcomes)})")
    return reader.numbers(f"SELECT {', '.join(sums)} FROM ingest_ledger")  # noqa: S608  # fixed words
