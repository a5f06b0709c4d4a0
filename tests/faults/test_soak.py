"""`make soak` (MINUTES=30, RATE=5000): unique users and ids for as long as you like; memory, recovery and parts stay flat.

Event time runs faster than the clock, so that what is remembered for a day (active hours, funnels, rooms) is forgotten
within the run: what grows after that grows for ever. A run under ten minutes is too short for that, and says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

import orjson
import pytest
from confluent_kafka import Producer

from flows.bench_engine import _children, _tree
from flows.broker import Broker
from sinks.clickhouse import Store
from sinks.embedded import Embedded
from tests.faults.test_store_faults import CORE, resident_mb
from tests.integration.engine_process import EngineProcess

MINUTES = float(os.environ.get("MINUTES", "0"))
RATE = int(os.environ.get("RATE", "5000"))
SPAN_HOURS, WARM_HOURS = 120, 42  # of event time: UTC−12 and a funnel's day are over after the warm-up
SPEED = min(720.0, SPAN_HOURS * 60 / max(MINUTES, 1))
SAMPLE_SECONDS = 5.0
MOST_GROWTH, MOST_PARTS, MOST_ROWS_AN_EVENT = 1.15, 100, 1.0
pytestmark = [
    pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(MINUTES * 60 + 600),
    pytest.mark.skipif(not MINUTES, reason="make soak runs it"),
]  # fmt: skip


def events(start_ms: int, rate: int) -> Iterator[tuple[str, bytes, bytes]]:
    """(topic, key, value): each user comes, watches a video, enters a room, acts there, and never comes again."""
    number = 0
    while True:
        user, step = f"user-{number // 3:09d}", number % 3
        event = {
            "event_id": f"id-{number:010d}", "event_time": start_ms + int(number * 1000 * SPEED / rate), "user_id": user,
            "region": f"CN-{number // 3 % 10}", "channel": ("feed", "search", "paid")[number // 3 % 3], "creator_id": "c1",
        }  # fmt: skip
        room, topic = f"room-{number // 3 % 20}", "view"
        if step == 0:
            event |= {
                "surface": "video",
                "video_id": f"v{number % 500}",
                "watch_ms": 9_000,
                "tags": [f"t{number % 30}"],
            }
        elif step == 1:
            event |= {"surface": "live", "live_id": room, "watch_ms": 20_000, "category": ("food", "dance")[number % 2]}
        else:
            topic, more = (
                ("like", {}),
                ("gift", {"gift_id": "rose", "quantity": 1, "amount_minor": 100}),
                (
                    "order",
                    {
                        "order_id": f"o{number}",
                        "status": "paid",
                        "product_id": "p1",
                        "quantity": 1,
                        "amount_minor": 900,
                    },
                ),
            )[number // 3 % 3]
            event |= {"live_id": room, **more}
        yield topic, user.encode(), orjson.dumps(event)
        number += 1


@dataclass
class Load:
    """Produces at a steady rate from a thread until it is told to stop."""

    brokers: str
    prefix: str
    start_ms: int
    made: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        producer = Producer({"bootstrap.servers": self.brokers, "linger.ms": 20, "compression.type": "lz4"})
        source, began = events(self.start_ms, RATE), time.monotonic()
        while not self.stop.wait(0.05):
            for _ in range(int((time.monotonic() - began) * RATE) - self.made):
                topic, key, value = next(source)
                producer.produce(self.prefix + topic, value, key=key)
                self.made += 1
            producer.poll(0)
        producer.flush(30)


@dataclass(frozen=True)
class Sample:
    """How things stand."""

    minutes: float
    engine_mb: float
    store_mb: float
    recovery_mb: float
    most_parts: int
    parts_of: str
    lag: int

    def __str__(self) -> str:
        return (
            f"{self.minutes:5.1f} min  engine {self.engine_mb:6.0f} MB  store {self.store_mb:6.0f} MB  recovery "
            f"{self.recovery_mb:6.1f} MB  parts {self.most_parts:3d} ({self.parts_of})  lag {self.lag:,}"
        )


def sample(process: EngineProcess, up: Embedded, began: float) -> Sample:
    """Look at everything once."""
    children = _children()
    store_pids = _tree(up.pid, children)
    engine_mb = sum(resident_mb(pid, "VmRSS") for pid in _tree(process.pid, children) - store_pids)
    store = Store.connect(up.url, up.user, up.token)
    parts = store.active_parts()
    store.close()
    worst = max(parts, key=lambda name: parts[name])
    size = 0
    for path in (process.store / "recovery").rglob("*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue  # superseded in the meantime
    lag = int(process.metric("livepulse_lag_messages"))
    minutes = (time.monotonic() - began) / 60
    return Sample(minutes, engine_mb, resident_mb(up.pid, "VmRSS"), size / 1e6, parts[worst], worst, lag)


def growth(samples: list[Sample], figure: str) -> tuple[float, float]:
    """After the warm-up: the second half over the first, and the slope a minute.

    Medians; of the recovery files, which grow until they are written anew some times an hour, their most.
    """
    typical: Callable[[Iterable[float]], float] = max if figure == "recovery_mb" else median
    values = [(s.minutes, getattr(s, figure)) for s in samples]
    half = len(values) // 2
    first, second = typical(v for _, v in values[:half]), typical(v for _, v in values[half:])
    apart = median(m for m, _ in values[half:]) - median(m for m, _ in values[:half])
    return second / first, (second - first) / apart


def test_soak(
    kafka: Broker, topics: Callable[..., object], topic_prefix: str, engine: Callable[..., EngineProcess], up: Embedded
) -> None:
    topics(kafka, names=CORE)
    start_ms = int(time.time() * 1000 - SPEED * MINUTES * 60_000 - 3_600_000)
    load = Load(kafka.address, topic_prefix, start_ms)
    process = engine("--idle-timeout", "10min", "--room-memory", "1d")
    process.start()
    process.until(lambda: '"reading"' in process.said())
    began, samples = time.monotonic(), list[Sample]()
    thread = threading.Thread(target=load.run, daemon=True)
    thread.start()
    print(f"\nsoak: {MINUTES:g} min at {RATE:,} events/s, event time {SPEED:g} times as fast")
    while (minutes := (time.monotonic() - began) / 60) < MINUTES:
        time.sleep(SAMPLE_SECONDS)
        assert process.running, process.said()[-3000:]
        samples.append(sample(process, up, began))
        if int(samples[-1].minutes) > int(minutes):
            print(samples[-1], flush=True)
    load.stop.set()
    thread.join()
    process.until(lambda: process.consumed() == load.made)
    judge(process, load, samples)
    assert process.stop() == 0


def judge(process: EngineProcess, load: Load, samples: list[Sample]) -> None:
    """Print the figures and hold them against their bounds."""
    written = {
        t: process.metric(f'livepulse_sink_rows_total{{table="{t}"}}')
        for t in ("events", "dead_letters", "late_events")
    }
    rows = process.metric("livepulse_sink_rows_total") - sum(written.values())
    (late,) = process.rows("SELECT count() AS n FROM livepulse.late_events")
    parts = max(s.most_parts for s in samples)
    print(
        f"{load.made:,} events, {late['n']} late; {rows / load.made:.2f} rows an event beside the archive; most parts {parts}"
    )
    assert late["n"] == 0
    assert parts <= MOST_PARTS
    assert rows / load.made <= MOST_ROWS_AN_EVENT
    steady = [s for s in samples if s.minutes * SPEED / 60 > WARM_HOURS]
    if len(steady) * SAMPLE_SECONDS * SPEED < WARM_HOURS * 3600:
        print("too short a run for judging growth: MINUTES=10 or more")
        return
    for figure in ("engine_mb", "store_mb", "recovery_mb"):
        ratio, slope = growth(steady, figure)
        print(f"{figure}: × {ratio:.3f} from the first to the second half after the warm-up, {slope:+.2f} a minute")
        assert ratio <= MOST_GROWTH, figure
