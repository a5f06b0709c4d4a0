"""Where the engine starts to read, when it refuses to, and what it notices while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from flows.broker import Broker
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, produce
from tests.oracles.log import judge

pytestmark = pytest.mark.integration

Topics = Callable[..., dict[str, str]]
Start = Callable[..., EngineProcess]
CORE = ("view", "like", "gift", "order")
HOUR = 3_600_000


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


def made(traffic: Traffic) -> int:
    return sum(map(len, traffic.log.values()))


def hour_ago() -> int:
    return int(time.time() * 1000) - HOUR


def test_expired_offsets_are_refused_until_the_loss_is_accepted_and_recorded(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Start
) -> None:
    topics(kafka, names=CORE)
    traffic = Traffic(seed=5, start_ms=hour_ago())
    produce(kafka.address, topic_prefix, traffic, 1_000)
    first = engine(kafka)
    first.until(lambda: first.consumed() == made(traffic))
    assert first.stop() == 0
    before = len(traffic.log["view", 1])
    produce(kafka.address, topic_prefix, traffic, 1_000)
    lost_until = len(traffic.log["view", 1]) - 10
    place = TopicPartition(topic_prefix + "view", 1, lost_until)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.delete_records([place])[place].result(30)
    refused = engine(kafka)
    assert refused.wait(60) == 1
    assert "--accept-loss" in refused.said()
    again = engine(kafka, "--accept-loss")
    lost = lost_until - before
    again.until(lambda: again.consumed() == made(traffic) - lost)
    (recorded,) = again.rows("SELECT * FROM livepulse.accepted_losses")
    assert (recorded["wanted_offset"], recorded["found_offset"]) == (before, lost_until)


def test_new_partitions_and_topics_are_taken_in_while_it_runs(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Start
) -> None:
    topics(kafka, partitions=2, names=("view", "like", "gift"))
    traffic = Traffic(seed=6, start_ms=hour_ago(), partitions=2)
    engine_ = engine(kafka)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    engine_.until(lambda: bool(engine_.rows("SELECT 1")))
    admin.create_topics([NewTopic(topic_prefix + "order", 4, 1)])[topic_prefix + "order"].result()
    admin.create_partitions([NewPartitions(topic_prefix + "view", 4)])[topic_prefix + "view"].result()
    traffic.partitions = 4
    admin.create_partitions([NewPartitions(topic_prefix + t, 4) for t in ("like", "gift")])
    time.sleep(1)
    produce(kafka.address, topic_prefix, traffic, 1_000)
    engine_.until(lambda: engine_.consumed() == made(traffic), 90)
    counts = judge(traffic.log).counts
    found = {
        (r["topic"], r["partition"]): r["n"]
        for r in engine_.rows(
            "SELECT topic, partition, sum(accepted) AS n FROM livepulse.ingest_ledger GROUP BY topic, partition"
        )
    }
    assert found == {lane: tally["accepted"] for lane, tally in counts.items()}
    assert engine_.stop() == 0


def test_a_first_start_at_latest_and_the_groups_offsets_follow(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Start
) -> None:
    topics(kafka, names=CORE)
    old = Traffic(seed=8, start_ms=hour_ago())
    produce(kafka.address, topic_prefix, old, 500)
    engine_ = engine(kafka, "--from", "latest")
    engine_.until(lambda: "reading" in engine_.said())
    new = Traffic(seed=9, start_ms=hour_ago())
    produce(kafka.address, topic_prefix, new, 500)
    engine_.until(lambda: engine_.consumed() == made(new))
    assert engine_.stop() == 0
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": topic_prefix})
    places = [TopicPartition(topic_prefix + topic, partition) for topic, partition in new.log]
    committed = {
        (p.topic.removeprefix(topic_prefix), p.partition): p.offset for p in consumer.committed(places, timeout=10)
    }
    consumer.close()
    assert committed == {lane: len(old.log.get(lane, [])) + len(messages) for lane, messages in new.log.items()}
