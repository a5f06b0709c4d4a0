"""Faults: an engine on a store that outlives it, a broker that may be disturbed, seeds that repeat a run."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.broker import Broker
from schemas.events import CORE_TOPICS
from sinks import embedded
from sinks.embedded import Embedded
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 1 << 30)
EVERYTHING = os.environ.get("FAULTS") == "all"
long = pytest.mark.skipif(not EVERYTHING, reason="make test-faults runs it")
Begin = Callable[[EngineProcess, int], Traffic]


@pytest.fixture
def up(store_dir: Path) -> Iterator[Embedded]:
    """The store of this test, in a process that the engine's death does not end."""
    store = embedded.start(store_dir, die_with_parent=True)
    yield store
    store.stop()


@pytest.fixture
def engine(up: Embedded, store_dir: Path, topic_prefix: str, kafka: Broker) -> Iterator[Callable[..., EngineProcess]]:
    """`engine(*flags)`: one that is not started yet; it ends with the test."""
    made: list[EngineProcess] = []

    def make(*flags: str) -> EngineProcess:
        made.append(EngineProcess(kafka.address, topic_prefix, store_dir, *flags))
        return made[-1]

    yield make
    for process in made:
        if process.running:
            process.kill()


@pytest.fixture
def begin(kafka: Broker, topics: Callable[..., object], topic_prefix: str) -> Begin:
    """`begin(engine, messages)`: so many messages in fresh topics, and an engine that has read them."""

    def start(process: EngineProcess, messages: int) -> Traffic:
        topics(kafka, names=CORE_TOPICS)
        traffic = Traffic(seed=SEED, start_ms=hours_ago(0.5))
        produce(kafka.address, topic_prefix, traffic, messages)
        process.start()
        process.until(lambda: process.consumed() == messages)
        return traffic

    return start
