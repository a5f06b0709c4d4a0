"""Names from the compacted topic `labels`: shown, changed, taken away, kept over restarts; the bad ones told once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flows.broker import Broker
from flows.simulate import Options, simulate_to_kafka
from tests.integration.engine_process import EngineProcess

pytestmark = pytest.mark.integration

CORE = ("view", "like", "gift", "order")
Put = tuple[str | None, str | bytes | None]


@pytest.fixture
def engine(kafka: Broker, store_dir: Path, topic_prefix: str) -> Iterator[EngineProcess]:
    process = EngineProcess(kafka.address, topic_prefix, store_dir, "--idle-timeout", "2s")
    yield process
    if process.running:
        process.kill()


def make(broker: Broker, topic: str) -> None:
    new = NewTopic(topic, num_partitions=2, config={"cleanup.policy": "compact"})
    admin = AdminClient({"bootstrap.servers": broker.address})
    for made in admin.create_topics([new]).values():
        made.result(15)


def put(broker: Broker, topic: str, *messages: Put) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for key, value in messages:
        producer.produce(topic, value, key=key)
    assert producer.flush(15) == 0


def name(text: str) -> str:
    return json.dumps({"name": text})


def names(engine: EngineProcess) -> dict[str, str]:
    rows = engine.rows("SELECT kind, id, name FROM livepulse.labels")
    return {f"{row['kind']}/{row['id']}": row["name"] for row in rows}


def test_names_come_change_go_and_survive_a_restart(
    kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, engine: EngineProcess
) -> None:
    topics(kafka, names=CORE)
    topic = topic_prefix + "labels"
    make(kafka, topic)
    put(kafka, topic, ("live/l1", name("夜市")), ("creator/a/b", name("Li")), ("live/l2", name("old")),
        ("live/l2", name("new")), ("product/p1", name("Lamp")), ("product/p1", None),
        ("live/l3", "no json"), ("room/l4", name("x")))  # fmt: skip
    engine.start()
    engine.until(lambda: names(engine) == {"live/l1": "夜市", "creator/a/b": "Li", "live/l2": "new"})
    dead = (
        "SELECT reason, toString(raw) AS raw, ingest_time FROM livepulse.dead_letters"
        " WHERE topic = 'labels' ORDER BY reason"
    )
    engine.until(lambda: len(engine.rows(dead)) == 2)
    told = engine.rows(dead)
    assert [(row["reason"], row["raw"]) for row in told] == [("invalid_json", "no json"), ("unknown_value", name("x"))]
    put(kafka, topic, ("live/l1", None), ("live/l2", name("newer")))
    engine.until(lambda: names(engine) == {"creator/a/b": "Li", "live/l2": "newer"}, 20)
    engine.kill()
    put(kafka, topic, ("live/l5", name("while we were away")))
    engine.start()
    engine.until(lambda: names(engine).get("live/l5") == "while we were away")
    assert names(engine) == {"creator/a/b": "Li", "live/l2": "newer", "live/l5": "while we were away"}
    assert engine.rows(dead) == told  # not told anew
    assert engine.stop() == 0


def test_the_topic_may_come_later_and_simulated_rooms_have_names(
    kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, engine: EngineProcess
) -> None:
    topics(kafka)
    engine.start()
    engine.until(lambda: "no topic of labels" in engine.said())
    options = Options(rate=200, duration_s=60, events=2_000, paced=False, topic_prefix=topic_prefix, rooms=5)
    simulate_to_kafka(kafka.address, options, Event())
    rows = "SELECT live_id FROM livepulse.live_sessions WHERE live_name LIKE '% · %' AND creator_name != creator_id"
    engine.until(lambda: len(engine.rows(rows)) >= 5, 60)
    assert engine.stop() == 0
