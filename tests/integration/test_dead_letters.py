"""Dead letters: in the view and in a Kafka topic alike; listed, shown, sent again; too many stop the engine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from flows.broker import Broker
from tests.integration.engine_process import ROOT, EngineProcess

pytestmark = pytest.mark.integration

CORE = ("view", "like", "gift", "order")


@pytest.fixture
def engine(kafka: Broker, store_dir: Path, topic_prefix: str) -> Iterator[EngineProcess]:
    process = EngineProcess(kafka.address, topic_prefix, store_dir, "--idle-timeout", "2s", "--reject-window", "200")
    yield process
    if process.running:
        process.kill()


def event(number: int, **more: Any) -> bytes:
    base = {"event_id": f"e{number}", "event_time": int(time.time() * 1000), "user_id": f"u{number}"}
    return json.dumps(base | {"surface": "video", "video_id": "v", "creator_id": "c", "watch_ms": 1} | more).encode()


def put(broker: Broker, topic: str, values: list[bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(15) == 0


def letters_in(broker: Broker, topic: str) -> list[tuple[dict[str, str], bytes | None]]:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "look"})
    place = TopicPartition(topic, 0, 0)
    _, high = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    found = []
    while len(found) < high:
        message = consumer.poll(10)
        assert message is not None
        assert message.error() is None
        found.append(({name: text.decode() for name, text in message.headers() or []}, message.value()))
    consumer.close()
    return found


def livepulse(*arguments: str) -> str:
    command = [sys.executable, "-m", "flows.cli", "deadletters", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_the_topic_and_the_view_shown_and_sent_again(
    kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, engine: EngineProcess, store_dir: Path
) -> None:
    topics(kafka, names=CORE)
    ahead = int(time.time() * 1000) + 610_000  # over max_future by so much that it passes within the test
    bad: list[bytes | None] = [b"\x1b]0;title\x07 no json", None, b"[1]", event(900, event_time=ahead)]
    put(kafka, topic_prefix + "view", [*(event(n) for n in range(20)), *bad])
    engine.start()
    engine.until(lambda: engine.consumed() == 24)
    engine.until(lambda: bool(engine.rows("SELECT 1 FROM livepulse.dead_letters")))  # the ledger may be first
    rows = engine.rows("SELECT topic, partition, offset, reason, detail FROM livepulse.dead_letters ORDER BY offset")
    found = letters_in(kafka, topic_prefix + "livepulse.dead_letters")
    assert [{n: h[n] for n in ("topic", "partition", "offset", "reason", "detail")} for h, _ in found] == [
        {name: str(value) for name, value in row.items()} for row in rows
    ]
    assert [(h["reason"], value) for h, value in found] == list(
        zip(["invalid_json", "tombstone", "not_an_object", "time_in_future"], bad, strict=True)
    )
    store = ("--store", str(store_dir))
    listed = json.loads(livepulse("list", *store, "--json"))
    assert {r["reason"]: r["messages"] for r in listed} == dict.fromkeys((h["reason"] for h, _ in found), 1)
    shown = livepulse("show", "view/0/20", *store)
    assert "\\x1b]0;title\\x07 no json" in shown
    assert "\x1b" not in shown
    time.sleep(max(0, (ahead - 600_000) / 1000 - time.time() + 1))
    kafka_flags = ("--brokers", kafka.address, "--topic-prefix", topic_prefix)
    assert json.loads(livepulse("replay", *store, *kafka_flags, "--json")) == {
        "sent": 1, "still_bad": 3, "dry_run": False
    }  # fmt: skip
    engine.until(lambda: engine.consumed() == 25)
    assert engine.rows("SELECT event_id FROM livepulse.events WHERE event_id = 'e900'") == [{"event_id": "e900"}]
    assert engine.stop() == 0


def test_a_partition_of_rubbish_stops_the_engine_and_keeps_its_offsets(
    kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, engine: EngineProcess
) -> None:
    topics(kafka, names=CORE)
    put(kafka, topic_prefix + "view", [b"rubbish"] * 300)
    engine.start()
    assert engine.wait(60) == 1
    assert "300 of its last 300 messages break the contract (300 of them: invalid_json)" in engine.said()
    engine.flags = ("--reject-ratio", "1")
    engine.start()
    engine.until(lambda: engine.consumed() == 300)  # none was skipped
    assert engine.stop() == 0
