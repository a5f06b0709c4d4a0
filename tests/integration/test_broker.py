"""One contract for every broker (a fake that fails it would make other tests lie), and what only the real one does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Message, Producer, TopicPartition

from flows import broker as brokers
from flows.broker import Broker, ExternalBroker, RealBroker
from flows.errors import DependencyDown

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
Topics = Callable[..., dict[str, str]]


@pytest.fixture(params=["kafka", "mock_kafka"])
def each_broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue(request.param)
    return broker


def _produce(address: str, topic: str, values: list[bytes], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": address, "linger.ms": 5, "message.timeout.ms": 20_000})
    for value in values:
        producer.produce(topic, value, key=b"u", partition=partition)
    assert producer.flush(20) == 0


def _consume(address: str, topic: str, count: int, partition: int = 0) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0)])
    got: list[Message] = []
    for _ in range(100):
        got += consumer.consume(count - len(got), 0.2)
        if len(got) >= count:
            break
    consumer.close()
    return got


def test_what_is_produced_is_consumed_in_order(each_broker: Broker, topics: Topics) -> None:
    topic = topics(each_broker)["view"]
    _produce(each_broker.address, topic, [b"%d" % n for n in range(500)], partition=3)
    got = _consume(each_broker.address, topic, 500, partition=3)
    assert [message.value() for message in got] == [b"%d" % n for n in range(500)]
    assert [message.offset() for message in got] == list(range(500))


def test_topics_that_exist_stay_as_they_are(each_broker: Broker, topics: Topics) -> None:
    topic = topics(each_broker)["like"]
    _produce(each_broker.address, topic, [b"kept"])
    topics(each_broker)
    assert [message.value() for message in _consume(each_broker.address, topic, 1)] == [b"kept"]


def test_group_offsets_are_kept(each_broker: Broker, topics: Topics) -> None:
    topic = topics(each_broker)["gift"]
    group = {"bootstrap.servers": each_broker.address, "group.id": f"g-{topic}", "enable.auto.commit": False}
    first = Consumer(group)
    first.commit(offsets=[TopicPartition(topic, 1, 41)], asynchronous=False)
    first.close()
    second = Consumer(group)
    assert [found.offset for found in second.committed([TopicPartition(topic, 1)], timeout=10)] == [41]
    second.close()


def test_the_real_broker_stamps_append_time(kafka: Broker, topics: Topics) -> None:
    topic = topics(kafka)["view"]
    producer = Producer({"bootstrap.servers": kafka.address})
    producer.produce(topic, b"x", timestamp=1_000, partition=0)
    assert producer.flush(20) == 0
    kind, stamp = _consume(kafka.address, topic, 1)[0].timestamp()
    assert kind == TIMESTAMP_LOG_APPEND_TIME
    assert stamp > 1_600_000_000_000


def test_partitions_as_asked(kafka: Broker, topics: Topics) -> None:
    topic = topics(kafka, partitions=2)["view"]
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "test"})
    assert sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions) == [0, 1]
    consumer.close()


def test_a_killed_broker_keeps_its_messages() -> None:
    if (missing := brokers.why_no_real_broker()) is not None:
        pytest.skip(f"needs a real Kafka broker of its own: {missing}")
    with RealBroker() as broker:
        address, home = broker.address, broker.home
        broker.create_topics(["view"])
        _produce(address, "view", [b"a", b"b"])
        broker.kill()
        with pytest.raises(RuntimeError, match="not running"):
            _ = broker.pid
        broker.start()
        assert broker.address == address
        assert [message.value() for message in _consume(address, "view", 2)] == [b"a", b"b"]
    assert not home.exists()


def test_without_java_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert "java" in (brokers.why_no_real_broker() or "")
    with brokers.find_broker() as found:
        assert found.kind == "mock"
    assert brokers.find_broker("kafka-1:9092").address == "kafka-1:9092"


def test_a_broker_that_is_not_there_is_named() -> None:
    with pytest.raises(DependencyDown, match=r"127\.0\.0\.1:1\b"):
        ExternalBroker("127.0.0.1:1").create_topics(["view"])


def test_the_mock_refuses_what_it_cannot_do(mock_kafka: Broker) -> None:
    with pytest.raises(ValueError, match="4 partitions"):
        mock_kafka.create_topics(["view"], partitions=8)


def _composed(port: int, controller: int, data: Path) -> str:
    """The broker's settings of docker-compose.yml, as its image makes them of its environment, on free ports."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["kafka"]
    settings = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in service["environment"].items()
        if name.startswith("KAFKA_")
    }
    places = {":9092": port, ":9093": controller, ":9094": brokers.free_port()}
    text = "".join(f"{name}={value}\n" for name, value in {**settings, "log.dirs": data}.items())
    for named, real in places.items():
        assert named in text
        text = re.sub(rf"//(kafka|127\.0\.0\.1)?{named}", f"//127.0.0.1:{real}", text)
        text = text.replace(f"1@kafka{named}", f"1@127.0.0.1:{real}")
    return text


def test_the_broker_of_docker_compose_starts_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    if why := brokers.why_no_real_broker():
        pytest.skip(why)
    monkeypatch.setattr(brokers, "_server_properties", _composed)
    with RealBroker(heap="512m") as broker:
        topic = "view"
        ExternalBroker(broker.address).create_topics([topic])
        _produce(broker.address, topic, [b"kept"])
        (got,) = _consume(broker.address, topic, 1)
        assert (got.value(), got.timestamp()[0]) == (b"kept", TIMESTAMP_LOG_APPEND_TIME)
