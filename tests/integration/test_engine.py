"""The engine on a broker: exact rows, stops and resumes, kills, workers, refusals."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.broker import Broker
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce, total
from tests.oracles.log import judge

pytestmark = pytest.mark.integration

Topics = Callable[..., dict[str, str]]
Start = Callable[..., EngineProcess]
CORE = ("view", "like", "gift", "order")
HOUR = 3_600_000
KILLS = int(os.environ.get("KILLS", "3"))
IDLE = ("--idle-timeout", "2s")


@pytest.fixture
def engine(store_dir: Path, topic_prefix: str) -> Iterator[Start]:
    """`engine(broker, *flags)` starts one on this test's topics and store; it ends with the test."""
    started: list[EngineProcess] = []

    def start(broker: Broker, *flags: str) -> EngineProcess:
        process = EngineProcess(broker.address, topic_prefix, store_dir, *flags)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        if process.running:
            process.kill()


def test_rows_are_those_of_a_plain_recomputation(
    any_kafka: Broker, topics: Topics, topic_prefix: str, engine: Start
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=1, start_ms=hours_ago(3), stray_key_every=50)
    produce(any_kafka.address, topic_prefix, traffic, 20_000, step_ms=60)
    process = engine(any_kafka, *IDLE)
    process.until(lambda: process.consumed() == total(traffic))
    process.until(lambda: not process.rows("SELECT 1 FROM livepulse.active_users WHERE NOT is_final LIMIT 1"))
    agree(process, traffic, seconds=30)
    events = process.rows("SELECT count() AS n, uniqExact(topic, partition, offset) AS u FROM livepulse.events")[0]
    assert (events["n"], events["u"]) == (len(judge(traffic.log).accepted),) * 2
    counts = judge(traffic.log).counts.values()
    for name, outcome in (("events", "consumed"), ("accepted", "accepted"), ("rejects", "rejected"), ("late", "late")):
        assert process.metric(f"livepulse_{name}_total") == sum(tally[outcome] for tally in counts), name
    assert process.metric("livepulse_key_mismatches_total") == traffic.stray_keys > 0
    assert process.asked("/livez")[0] == 200
    assert process.asked("/readyz")[0] == 200, process.asked("/readyz")
    assert process.metric("livepulse_lag_messages") == 0
    assert process.metric("livepulse_snapshot_bytes_total") > 0
    assert process.stop() == 0


def test_a_stop_and_a_start_with_other_workers_lose_and_repeat_nothing(
    any_kafka: Broker, topics: Topics, topic_prefix: str, engine: Start
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=2, start_ms=hours_ago(0.6))  # within `reopen`: a slow machine may find all idle in between
    for workers in ("1", "2", "1"):
        produce(any_kafka.address, topic_prefix, traffic, 4_000)
        process = engine(any_kafka, *IDLE, "--workers", workers)
        process.until(lambda process=process: process.consumed() == total(traffic))  # type: ignore[misc]
        if workers == "1" and total(traffic) > 8_000:
            break
        assert process.stop() == 0
    agree(process, traffic, seconds=30)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_it_with_nothing_to_replay(
    any_kafka: Broker, topics: Topics, topic_prefix: str, engine: Start, workers: str
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=7, start_ms=hours_ago(0.6))
    produce(any_kafka.address, topic_prefix, traffic, 4_000)
    process = engine(any_kafka, *IDLE, "--workers", workers)
    process.until(lambda: process.consumed() == total(traffic))
    assert process.interrupt() == 0
    assert "nothing to replay" in process.said()
    assert "Traceback" not in process.said()
    process.start()
    ends = {f"{topic}/{partition:04d}": len(messages) for (topic, partition), messages in traffic.log.items()}
    process.until(lambda: next_offsets(process) == ends)
    agree(process, traffic, seconds=30)


def next_offsets(process: EngineProcess) -> dict[str, int]:
    """Where the last start began to read, by partition: each worker tells its own."""
    told = (json.loads(line) for line in process.said().splitlines() if '"next offsets to read"' in line)
    return {lane: offset for line in told for lane, offset in line.items() if "/" in lane}


def test_a_killed_worker_is_started_again(kafka: Broker, topics: Topics, topic_prefix: str, engine: Start) -> None:
    topics(kafka, names=CORE)
    traffic = Traffic(seed=5, start_ms=hours_ago(0.6))
    produce(kafka.address, topic_prefix, traffic, 3_000)
    process = engine(kafka, *IDLE, "--workers", "2")
    process.until(lambda: process.consumed() == total(traffic), 90)
    os.kill(process.workers()[0], signal.SIGKILL)
    produce(kafka.address, topic_prefix, traffic, 3_000)
    process.until(lambda: process.consumed() == total(traffic), 90)
    agree(process, traffic, seconds=30)
    assert "all workers start again" in process.said()
    assert process.stop() == 0


def test_kills_under_load_leave_no_trace(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Start, store_dir: Path
) -> None:
    """O1 and O2: the rows of an uninterrupted run, every message with one outcome."""
    topics(kafka, names=CORE)
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))  # in the file name of a failure's directory
    (store_dir.parent / f"seed-{seed}").touch()
    rnd, traffic = random.Random(seed), Traffic(seed=3, start_ms=hours_ago(0.6 + KILLS / 30))  # two minutes a kill
    rounds = 6_000

    def load() -> None:
        for _ in range(KILLS + 1):
            produce(kafka.address, topic_prefix, traffic, rounds)
            time.sleep(0.3)

    producer = threading.Thread(target=load)
    producer.start()
    process = engine(kafka, *IDLE, "--epoch", "300ms")
    for _ in range(KILLS):
        before = process.consumed()
        process.until(lambda before=before: process.consumed() > before or not producer.is_alive(), 90)  # type: ignore[misc]
        time.sleep(rnd.random() * 1.5)
        process.kill()
        process.start()
    producer.join()
    process.until(lambda: process.consumed() == total(traffic), 90)
    agree(process, traffic, seconds=30)
    assert process.stop() == 0
    # What a clean stop leaves is complete: a start finds nothing to do.
    process.start()
    process.until(lambda: bool(process.rows("SELECT 1")))
    time.sleep(2)
    agree(process, traffic, seconds=30)


def test_a_second_engine_is_refused(any_kafka: Broker, topics: Topics, engine: Start) -> None:
    topics(any_kafka, names=CORE)
    first = engine(any_kafka)
    first.until(lambda: bool(first.rows("SELECT 1")))
    second = engine(any_kafka)
    assert second.wait(60) == 1
    assert "another engine runs on" in second.said()
    assert first.running


def test_a_store_with_rows_and_no_recovery_is_refused(
    any_kafka: Broker, topics: Topics, topic_prefix: str, engine: Start, store_dir: Path
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=4, start_ms=hours_ago(1))
    produce(any_kafka.address, topic_prefix, traffic, 500)
    first = engine(any_kafka)
    first.until(lambda: first.consumed() == total(traffic))
    assert first.stop() == 0
    (store_dir / "recovery" / "facts.json").unlink()
    again = engine(any_kafka)
    assert again.wait(60) == 1
    assert "has rows but" in again.said()
