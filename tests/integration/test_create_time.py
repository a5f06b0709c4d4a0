"""Topics whose messages carry their producers' stamps (CreateTime), none (-1) among them: all count, by our clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flows.broker import Broker
from tests.integration.engine_process import EngineProcess

pytestmark = pytest.mark.integration

MINUTE_MS, DAY_MS = 60_000, 86_400_000
NONE = -1


def make_topic(broker: Broker, topic: str) -> None:
    """A topic that keeps what producers stamp, as the mock cluster's do anyway."""
    if broker.kind == "mock":
        return
    admin = AdminClient({"bootstrap.servers": broker.address})
    config = {"message.timestamp.type": "CreateTime"}
    for made in admin.create_topics([NewTopic(topic, num_partitions=4, config=config)]).values():
        made.result(15)


def put(broker: Broker, topic: str, stamps: list[int], first: int, ahead_ms: int = 0) -> None:
    """A view for each stamp, numbered from `first`, that happened just now (or is said to happen later)."""
    producer = Producer({"bootstrap.servers": broker.address})
    errors: list[object] = []
    for number, stamp in enumerate(stamps, start=first):
        event = {
            "event_id": f"e{number}", "user_id": f"u{number}", "event_time": int(time.time() * 1000) + ahead_ms,
            "surface": "video", "video_id": "v", "creator_id": "c", "watch_ms": 1,
        }  # fmt: skip
        producer.produce(
            topic, json.dumps(event), partition=0, timestamp=stamp, on_delivery=lambda error, _: errors.append(error)
        )
    assert producer.flush(20) == 0
    assert errors == [None] * len(stamps)


def stamps_in(broker: Broker, topic: str, count: int) -> list[tuple[int, int]]:
    """(type, stamp) of the first messages, as a client of Kafka reads them."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "stamps"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while len(found) < count:
        message = consumer.poll(15)
        assert message is not None
        assert message.error() is None
        found.append(message.timestamp())
    consumer.close()
    return found


def ledger(engine: EngineProcess) -> dict[str, tuple[int, int, int]]:
    """(consumed, accepted, rejected) of the view topic: of 1970-01-01 00:00 (no stamp, or one over 30 days behind its
    partition's newest), and of all later minutes."""
    sums = ", ".join(f"toInt64(sum({name})) AS {name[:1]}" for name in ("consumed", "accepted", "rejected"))
    rows = engine.rows(
        f"SELECT if(toUnixTimestamp(minute) = 0, 'none', 'stamped') AS stamp, {sums} FROM livepulse.ingest_ledger "
        "WHERE topic = 'view' GROUP BY stamp"
    )
    return {row["stamp"]: (int(row["c"]), int(row["a"]), int(row["r"])) for row in rows}


def test_messages_with_no_stamp_or_a_strange_one_count(
    any_kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, store_dir: Path
) -> None:
    make_topic(any_kafka, topic_prefix + "view")
    topic = topics(any_kafka)["view"]  # those that exist stay as they are
    now = int(time.time() * 1000)
    stamps = [NONE] * 6 + [1, 1_000] + [now] * 3 + [now - 20 * DAY_MS, now - 40 * DAY_MS]
    put(any_kafka, topic, stamps, 0)
    # Whether an event is ahead of time is judged by our clock, not by a stamp that any producer may make up. (Kafka
    # itself refuses one that is an hour ahead.)
    put(any_kafka, topic, [NONE, now + 50 * MINUTE_MS], 100, ahead_ms=55 * MINUTE_MS)
    kept = stamps_in(any_kafka, topic, len(stamps))
    assert [stamp for _, stamp in kept] == stamps
    assert TIMESTAMP_LOG_APPEND_TIME not in {kind for kind, _ in kept}
    flags = ("--idle-timeout", "2s", "--reject-ratio", "1")
    engine = EngineProcess(any_kafka.address, topic_prefix, store_dir, *flags)
    engine.start()
    try:
        engine.until(lambda: engine.consumed() == len(stamps) + 2)
        assert ledger(engine) == {"none": (10, 9, 1), "stamped": (5, 4, 1)}
        dead = engine.rows("SELECT reason, offset FROM livepulse.dead_letters ORDER BY offset")
        assert [(row["reason"], int(row["offset"])) for row in dead] == [("time_in_future", 13), ("time_in_future", 14)]
        assert engine.stop() == 0
        put(any_kafka, topic, [NONE] * 4, 200)
        engine.start()
        engine.until(lambda: engine.consumed() == len(stamps) + 6)
        assert ledger(engine) == {"none": (14, 13, 1), "stamped": (5, 4, 1)}, "no row began anew"
        (events,) = engine.rows("SELECT count() AS n, uniqExact(event_id) AS ids FROM livepulse.events")
        assert (int(events["n"]), int(events["ids"])) == (17, 17)
        assert engine.stop() == 0
    finally:
        if engine.running:
            engine.kill()
