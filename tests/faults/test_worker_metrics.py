"""Several workers: each has a port, the first one lists them, and the sum over them is what the log says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from urllib.request import urlopen

import pytest

from flows.broker import Broker, free_port
from tests.faults.conftest import SEED
from tests.faults.test_store_faults import CORE
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce
from tests.oracles.log import judge

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(300)]
OUTCOMES = {
    "events": "consumed",
    "accepted": "accepted",
    "rejects": "rejected",
    "late": "late",
    "duplicates": "duplicate",
}


def free_ports() -> int:
    """The first of two free ports in a row, below those that the system gives to connections, which may come first."""
    while True:
        first = random.randrange(20_000, 32_000)
        if free_port(first) == first and free_port(first + 1) == first + 1:
            return first


def test_the_sum_over_workers_is_right(
    kafka: Broker, topics: Callable[..., object], topic_prefix: str, engine: Callable[..., EngineProcess]
) -> None:
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.5))
    produce(kafka.address, topic_prefix, traffic, 4_000)
    process = engine("--idle-timeout", "10min", "--workers", "2")
    process.metrics_port = free_ports()
    process.flags = (*process.flags, "--metrics-port", str(process.metrics_port))
    process.start()
    process.until(lambda: process.consumed() == 4_000)
    (listed,) = json.loads(process.asked("/targets")[1])
    assert listed["targets"] == [f"127.0.0.1:{process.metrics_port + n}" for n in range(2)]
    should = judge(traffic.log).counts.values()
    by_worker: dict[str, list[float]] = {}
    for address in listed["targets"]:
        with urlopen(f"http://{address}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        for name in OUTCOMES:
            mine = [
                line for line in lines if line.startswith((f"livepulse_{name}_total{{", f"livepulse_{name}_total "))
            ]
            by_worker.setdefault(name, []).append(sum(float(line.rsplit(" ", 1)[1]) for line in mine))
    print(f"\nby worker: {by_worker}")
    for name, outcome in OUTCOMES.items():
        assert sum(by_worker[name]) == sum(tally[outcome] for tally in should), name
    assert all(by_worker["events"])
    assert all(by_worker["accepted"])
    assert process.stop() == 0
