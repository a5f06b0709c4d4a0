"""Dead letters are acknowledged by Kafka before anything of them is stored: else the epoch must not commit."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from confluent_kafka import KafkaError

from sinks import dead_letter
from sinks.clickhouse import StoreDownError
from sinks.dead_letter import DeadLetterError, DeadLetterTopic, DeadLetterWriter

ROWS = pl.DataFrame(
    {
        "topic": ["view"] * 2, "partition": [3, 3], "offset": [1, 2], "reason": ["tombstone", "invalid_json"],
        "detail": ["none", "no JSON"], "raw": [b"", b"{"], "ingest_time": [datetime(2026, 1, 1, tzinfo=UTC)] * 2,
    }
)  # fmt: skip


class Broker:
    """A producer that acknowledges when it is told to; `said` tells what happened in which order."""

    def __init__(self, said: list[str], error: KafkaError | None = None, left: int = 0) -> None:
        self.said, self.error, self.left = said, error, left
        self.sent: list[dict[str, object]] = []

    def produce(self, topic: str, value: bytes | None, **more: object) -> None:
        self.said.append("produced")
        self.sent.append({"topic": topic, "value": value, **more})

    def poll(self, seconds: float) -> int:
        return 0

    def flush(self, seconds: float) -> int:
        for one in self.sent:
            delivered = one["on_delivery"]
            assert callable(delivered)
            delivered(self.error, None)
        self.said.append("acknowledged" if self.error is None and not self.left else "refused")
        return self.left


class Store:
    def __init__(self, said: list[str]) -> None:
        self.said = said

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        self.said.append(f"stored {table}")

    def close(self) -> None:
        self.said.append("closed")


def writer(broker: Broker) -> DeadLetterWriter:
    topic = DeadLetterTopic({}, "dead")
    topic._made = broker  # type: ignore[assignment]
    return DeadLetterWriter(Store(broker.said), topic)


def test_the_broker_has_them_before_the_store() -> None:
    broker = Broker([])
    writer(broker).insert("dead_letters", ROWS)
    assert broker.said == ["produced", "produced", "acknowledged", "stored dead_letters"]
    assert [one["value"] for one in broker.sent] == [None, b"{"]
    headers = broker.sent[1]["headers"]
    assert isinstance(headers, list)
    assert dict(headers) | {"ingest_time": b""} == {
        "topic": b"view", "partition": b"3", "offset": b"2", "reason": b"invalid_json", "detail": b"no JSON",
        "ingest_time": b"",
    }  # fmt: skip


@pytest.mark.parametrize(("error", "left"), [(KafkaError(KafkaError._MSG_TIMED_OUT), 0), (None, 1)])
def test_what_the_broker_does_not_take_is_not_stored(error: KafkaError | None, left: int) -> None:
    broker = Broker([], error, left)
    with pytest.raises(DeadLetterError) as failed:
        writer(broker).insert("dead_letters", ROWS)
    assert isinstance(failed.value, StoreDownError)  # ends the epoch, with exit code 3
    assert broker.said == ["produced", "produced", "refused"]


def test_other_rows_do_not_ask_the_broker() -> None:
    broker = Broker([])
    writer(broker).insert("events", ROWS)
    assert broker.said == ["stored events"]


def test_a_queue_that_stays_full_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Broker):
        def produce(self, topic: str, value: bytes | None, **more: object) -> None:
            raise BufferError

    monkeypatch.setattr(dead_letter, "_WAIT_SECONDS", 0.05)
    broker = Full([])
    with pytest.raises(DeadLetterError, match="takes no dead letters"):
        writer(broker).insert("dead_letters", ROWS)
    assert broker.said == []


def test_a_message_is_named_by_where_it_was() -> None:
    broker = Broker([])
    writer(broker).insert("dead_letters", ROWS)
    assert [one["key"] for one in broker.sent] == ["view/3/1", "view/3/2"]
