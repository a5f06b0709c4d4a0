"""Where the engine starts to read, when it refuses to, and what it notices while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from flows.broker import Broker
from sinks import embedded
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, produce
from tests.oracles.log import Lane, judge

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


def committed(broker: Broker, prefix: str, lanes: Collection[Lane]) -> dict[Lane, int]:
    """The offsets of the engine's consumer group, as lag tools see them."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": prefix})
    places = consumer.committed([TopicPartition(prefix + topic, partition) for topic, partition in lanes], timeout=10)
    consumer.close()
    return {(place.topic.removeprefix(prefix), place.partition): place.offset for place in places}


def likes(broker: Broker, prefix: str, partitions: Collection[int]) -> list[tuple[int, int, int]]:
    """Send 50 likes to each partition; (partition, offset, timestamp) that the broker gave to each."""
    sent: list[tuple[int, int, int]] = []

    def delivered(error: object, message: Message) -> None:
        assert error is None
        sent.append((message.partition(), message.offset(), message.timestamp()[1]))

    time.sleep(0.01)  # the broker's clock is in milliseconds: these are younger than those of the last call
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 1, "on_delivery": delivered})
    for number in range(50):
        for partition in partitions:
            event = {"event_id": f"{time.time_ns()}-{number}", "event_time": hour_ago(), "user_id": f"u{partition}"}
            value = json.dumps({**event, "creator_id": "c", "live_id": "l"})
            producer.produce(prefix + "like", value, partition=partition)
    assert producer.flush(30) == 0
    return sent


def archived(store: Path) -> set[tuple[int, int]]:
    """(partition, offset) of each like in the store of an engine that has ended."""
    told = embedded.ask(store, "SELECT partition, offset FROM events FORMAT JSONCompactEachRow")
    return {(int(partition), int(offset)) for partition, offset in map(json.loads, told.splitlines())}


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
    ends = {lane: len(old.log.get(lane, [])) + len(messages) for lane, messages in new.log.items()}
    assert committed(kafka, topic_prefix, ends) == ends


def test_the_groups_offsets_follow_while_it_runs(
    any_kafka: Broker, topics: Topics, topic_prefix: str, engine: Start
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=10, start_ms=hour_ago())
    process = engine(any_kafka)
    for _ in range(2):
        produce(any_kafka.address, topic_prefix, traffic, 500)
        ends = {lane: len(messages) for lane, messages in traffic.log.items()}
        process.until(lambda ends=ends: committed(any_kafka, topic_prefix, ends) == ends)  # type: ignore[misc]
        assert process.running
        assert committed(any_kafka, topic_prefix, ends) == ends


def test_a_first_start_at_a_time_reads_what_is_that_young_and_later_starts_go_on(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Start, store_dir: Path
) -> None:
    topics(kafka, names=CORE)
    every, kept = (0, 1, 2, 3), (0, 1, 2)  # nothing in partition 3 is young enough, and in other topics nothing is
    old = [sent for partitions in (every, kept) for sent in likes(kafka, topic_prefix, partitions)]
    young = [sent for _ in range(2) for sent in likes(kafka, topic_prefix, kept)]
    start = min(stamp for _, _, stamp in young)
    due = {(partition, offset) for partition, offset, stamp in old + young if stamp >= start}
    assert len(due) == len(young)  # the broker's clock moved on in between
    first = engine(kafka, "--from", datetime.fromtimestamp(start / 1000, UTC).isoformat(timespec="milliseconds"))
    first.until(lambda: first.consumed() >= len(due))
    assert first.stop() == 0
    assert archived(store_dir) == due
    for other in ("2005-01-01", "latest"):
        due.update((partition, offset) for partition, offset, _ in likes(kafka, topic_prefix, every))
        later = engine(kafka, "--from", other)
        later.until(lambda later=later: later.consumed() >= len(due))  # type: ignore[misc]
        assert later.stop() == 0
        assert archived(store_dir) == due
