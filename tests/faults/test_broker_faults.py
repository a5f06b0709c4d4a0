"""The broker freezes, restarts, loses or gains partitions; traffic is lopsided, clocks are off, engines are stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from flows.broker import Broker, RealBroker
from tests.faults.conftest import SEED, Begin, long
from tests.faults.test_store_faults import CORE
from tests.integration.agreement import agree
from tests.integration.compare import differences
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce, total
from tests.oracles.log import judge

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(300), long]
Engine = Callable[..., EngineProcess]
Topics = Callable[..., object]


def test_frozen_then_restarted(kafka: Broker, begin: Begin, topic_prefix: str, engine: Engine) -> None:
    """Longer than every question to the broker waits for an answer: the engine must outlive that."""
    if not isinstance(kafka, RealBroker):
        pytest.skip("somebody else's broker")
    process = engine("--idle-timeout", "10min")
    traffic = begin(process, 2_000)
    kafka.freeze()
    try:
        time.sleep(32)
        assert process.running, process.said()[-3000:]
        assert process.asked("/readyz")[0] == 503
    finally:
        kafka.thaw()
    produce(kafka.address, topic_prefix, traffic, 1_000)
    process.until(lambda: process.consumed() == 3_000)
    kafka.stop()
    time.sleep(3)
    kafka.start()
    produce(kafka.address, topic_prefix, traffic, 1_000)
    began = time.monotonic()
    process.flags = ("--idle-timeout", "2s")
    process.until(lambda: process.consumed() == 4_000)
    print(f"\nrestarted broker: all read {time.monotonic() - began:.1f} s after it came back")
    assert process.stop() == 0
    process.start()
    agree(process, traffic)


@pytest.mark.parametrize("longer", [False, True])
def test_a_topic_made_anew_is_refused(
    kafka: Broker, topics: Topics, begin: Begin, topic_prefix: str, engine: Engine, *, longer: bool
) -> None:
    process = engine("--idle-timeout", "2s")
    traffic = begin(process, 2_000)
    assert process.stop() == 0
    admin = AdminClient({"bootstrap.servers": kafka.address})
    for done in admin.delete_topics([topic_prefix + "view"]).values():
        done.result()
    time.sleep(2)
    topics(kafka, names=("view",))
    if longer:  # every offset that the engine wants is there, in another log: those below it would never be read
        produce(kafka.address, topic_prefix, traffic, 6_000)
    process.start()
    assert process.wait(60) == 1
    assert "the topic was deleted and made anew" in process.said()
    process.flags = ("--idle-timeout", "2s", "--accept-loss")
    process.start()
    process.until(lambda: len(process.rows("SELECT 1 FROM livepulse.accepted_losses")) == 4)
    if not longer:
        produce(kafka.address, topic_prefix, traffic, 1_000)
    process.until(lambda: process.consumed() == total(traffic))
    assert process.stop() == 0
    process.flags = ("--idle-timeout", "2s")  # what was accepted is past: the next start needs no flag
    process.start()
    wrong: dict[str, list[object]] = {}

    def right() -> bool:
        # The new log's offsets begin at 0 again, so rows that are named by their offset cannot be told apart.
        wrong.clear()
        wrong.update(differences(process.rows, judge(traffic.log)))
        wrong.pop("late_events", None)
        return not wrong

    process.until(right, 30)
    assert process.stop() == 0


def test_partitions_added_while_it_runs(kafka: Broker, begin: Begin, topic_prefix: str, engine: Engine) -> None:
    process = engine("--idle-timeout", "2s")
    traffic = begin(process, 1_000)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    for done in admin.create_partitions([NewPartitions(topic_prefix + name, 6) for name in CORE]).values():
        done.result()
    traffic.partitions = 6
    time.sleep(3)
    produce(kafka.address, topic_prefix, traffic, 2_000)
    process.until(lambda: process.consumed() == 3_000, 90)
    agree(process, traffic)
    assert process.stop() == 0


def test_one_key_with_most_of_the_traffic(kafka: Broker, topics: Topics, topic_prefix: str, engine: Engine) -> None:
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(2), users=150)
    plain = traffic._random.randrange
    traffic._random.randrange = lambda *a: 7 if a == (150,) and traffic._random.random() < 0.9 else plain(*a)  # type: ignore[method-assign,misc,assignment]
    produce(kafka.address, topic_prefix, traffic, 10_000, step_ms=100)
    process = engine("--idle-timeout", "2s")
    process.start()
    process.until(lambda: process.consumed() == 10_000)
    agree(process, traffic)
    assert process.stop() == 0


def test_one_partition_of_each_topic_is_idle(kafka: Broker, topics: Topics, topic_prefix: str, engine: Engine) -> None:
    """It holds nobody once the idle timeout is over; what comes to it later counts as if it had come in time."""
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.6), partitions=3)  # of four
    process = engine("--idle-timeout", "2s")
    process.start()
    process.until(lambda: process.consumed() == 0)
    for _ in range(16):  # the others go on for longer than the timeout: not all is idle
        produce(kafka.address, topic_prefix, traffic, 200, step_ms=200)
        time.sleep(0.25)
    (found,) = process.rows("SELECT count() AS n FROM livepulse.active_users WHERE is_final = 1")
    assert found["n"] > 0, "an idle partition keeps all windows open"
    traffic.partitions = 4
    produce(kafka.address, topic_prefix, traffic, 2_000, step_ms=200)
    process.until(lambda: process.consumed() == total(traffic))
    agree(process, traffic)
    assert process.stop() == 0


@pytest.mark.parametrize("hours", [1, -1])
def test_clocks_an_hour_off(kafka: Broker, topics: Topics, topic_prefix: str, engine: Engine, hours: int) -> None:
    """Producers ahead of us (our clock is slow) stop the engine, offsets kept; behind us their events count."""
    topics(kafka, names=CORE)
    producer = Producer({"bootstrap.servers": kafka.address})
    for number in range(2_000):
        event = {
            "event_id": f"e{number}", "event_time": hours_ago(-hours), "user_id": f"u{number % 50}",
            "surface": "video", "video_id": "v", "creator_id": "c", "watch_ms": 1,
        }  # fmt: skip
        producer.produce(topic_prefix + "view", json.dumps(event), partition=number % 4)
    assert producer.flush(20) == 0
    process = engine("--idle-timeout", "2s", "--reject-window", "400")
    process.start()
    if hours > 0:
        assert process.wait(60) == 1
        assert "time_in_future" in process.said()
        process.flags = ("--reject-ratio", "1")
        process.start()
    process.until(lambda: process.consumed() == 2_000)
    (found,) = process.rows("SELECT sum(accepted) AS a, sum(rejected) AS r FROM livepulse.ingest_ledger")
    assert (found["a"], found["r"]) == ((0, 2_000) if hours > 0 else (2_000, 0))
    assert process.stop() == 0


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_of_this_host_is_an_hour_off(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Engine, hours: int
) -> None:
    """All is idle for a while, so that the watermark follows the wrong clock; then traffic goes on in the right time.

    An hour fast is as much as `reopen`: with more of it what idleness closed opens again, and all rows are exact.
    """
    process = engine("--idle-timeout", "2s", "--reopen", "2h")
    process.program = [sys.executable, "-m", "tests.faults.clock_engine"]
    process.environment = {"LIVEPULSE_TEST_CLOCK_S": str(hours * 3_600)}
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.2))
    produce(kafka.address, topic_prefix, traffic, 2_000, step_ms=100)
    process.start()
    process.until(lambda: process.consumed() == 2_000)
    time.sleep(6)
    produce(kafka.address, topic_prefix, traffic, 1_000, step_ms=100)
    process.until(lambda: process.consumed() == 3_000)
    age = json.loads(process.asked("/readyz")[1])["watermark_age_s"]
    told = process.rows("SELECT max(ingest_time) AS at FROM livepulse.events")[0]["at"].timestamp()
    assert abs(told - time.time() - hours * 3_600) < 600  # its clock was off
    if hours > 0:  # a slow clock closes nothing that traffic does not close
        agree(process, traffic)
    final = process.rows("SELECT count() AS n FROM livepulse.active_users WHERE is_final = 1")[0]["n"]
    print(f"\nclock {hours:+} h: watermark {age} s behind it, {final} final rows; 3,000 messages as the log has them")
    assert process.stop() == 0
    process.program, process.environment = [sys.executable, "-m", "flows.cli"], {}  # the clock is right again
    process.start()
    produce(kafka.address, topic_prefix, traffic, 500, step_ms=100)
    process.until(lambda: process.consumed() == 3_500)
    agree(process, traffic)
    assert process.stop() == 0


def test_workers_1_4_2(kafka: Broker, topics: Topics, topic_prefix: str, engine: Engine) -> None:
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.6))
    process = engine()
    for workers in (1, 4, 2):
        produce(kafka.address, topic_prefix, traffic, 2_000)
        process.flags = ("--idle-timeout", "2s", "--workers", str(workers), "--shards", "4")
        process.start()
        process.until(lambda: process.consumed() == total(traffic), 120)
        if workers != 2:
            assert process.stop() == 0
    agree(process, traffic)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_in_the_middle_of_a_backlog_leaves_nothing_to_replay(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Engine, workers: int
) -> None:
    """What is stored, what the group has committed and where the next start reads on are one, partition by partition."""
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(2))
    produce(kafka.address, topic_prefix, traffic, 60_000, step_ms=100)
    process = engine("--idle-timeout", "2s", "--batch-messages", "2000", "--workers", str(workers))
    process.start()
    process.until(lambda: process.metric("livepulse_events_total") > 0)
    began = time.monotonic()
    assert process.stop() == 0
    took = time.monotonic() - began
    stored = {
        f"{row['topic']}/{row['partition']:04d}": int(row["n"])
        for row in process.rows(
            "SELECT topic, partition, sum(consumed) AS n, sum(accepted + duplicate + late + rejected + filtered) AS o "
            "FROM livepulse.ingest_ledger GROUP BY topic, partition HAVING n = o"
        )
    }
    committed = _committed(kafka, topic_prefix)
    print(f"\nSIGTERM, {workers} workers: {took:.1f} s; {sum(stored.values()):,} of 60,000 read and committed")
    assert took <= 10
    assert 0 < sum(stored.values()) < 60_000
    assert {name: stored.get(name, 0) for name in committed} == committed
    read = {lane: log[: committed[f"{lane[0]}/{lane[1]:04d}"]] for lane, log in traffic.log.items()}
    (events,) = process.rows("SELECT count() AS n FROM livepulse.events")
    assert events["n"] == len(judge(read).accepted)  # no row of what would have to be read again
    said = process.said()
    assert "stopped; nothing to replay" in said
    process.flags = ("--idle-timeout", "2s", "--workers", str(workers))
    process.start()
    process.until(lambda: process.said().count("next offsets to read") == 2 * workers)
    assert _read_on(process.said()[len(said) :]) == committed
    process.until(lambda: process.consumed() == 60_000, 90)
    agree(process, traffic)


def _committed(kafka: Broker, prefix: str) -> dict[str, int]:
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": prefix})
    places = [TopicPartition(prefix + name, p) for name in CORE for p in range(4)]
    found = consumer.committed(places, timeout=10)
    consumer.close()
    return {f"{place.topic.removeprefix(prefix)}/{place.partition:04d}": max(0, place.offset) for place in found}


def _read_on(said: str) -> dict[str, int]:
    """Where the workers said that they read on."""
    told = [json.loads(line) for line in said.splitlines() if '"next offsets to read"' in line]
    return {name: offset for line in told for name, offset in line.items() if "/" in name}
