"""Dead letters also as a Kafka topic, for those who would rather consume than query them.

Written in the sink's `insert`, and acknowledged by the broker before the rows go to the store: so both are there before
the epoch commits. What an epoch wrote that did not commit is written again: at least once, and `origin` names the
message, so that a consumer can tell copies.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.tables import DEAD_LETTERS
from sinks.clickhouse import StoreDownError
from sinks.rows_sink import Writer
from sinks.topics import ensure_topic

ORIGIN: Final = ("topic", "partition", "offset")
HEADERS: Final = (*ORIGIN, "reason", "detail", "ingest_time")
"""Headers of a dead letter, as UTF-8 text; the value is the message as it was (none: a tombstone)."""
_WAIT_SECONDS: Final = 60.0


class DeadLetterError(StoreDownError):
    """The broker did not take a dead letter: the epoch must not commit."""


class DeadLetterTopic:
    """A producer of dead letters. `properties`: librdkafka's, with bootstrap.servers."""

    def __init__(self, properties: Mapping[str, str], topic: str) -> None:
        self.topic = topic
        self._properties = dict(properties)
        self._made: Producer | None = None  # with the first dead letter: most engines hardly ever need it
        self._failures: list[str] = []

    def write(self, rows: pl.DataFrame) -> None:
        """Produce the rows of `dead_letters` and wait until the broker has them all.

        Raises:
            DeadLetterError: it does not have them all.
        """
        producer = self._producer()
        self._failures.clear()
        for row in rows.iter_rows(named=True):
            headers = [(name, str(row[name]).encode("utf-8", "replace")) for name in HEADERS]
            value = None if row["reason"] == "tombstone" else row["raw"]
            key = "/".join(str(row[name]) for name in ORIGIN)
            self._produce(producer, value, key, headers)
        left = producer.flush(_WAIT_SECONDS)
        if left or self._failures:
            why = self._failures[0] if self._failures else f"{left} were not acknowledged within {_WAIT_SECONDS:.0f} s"
            raise DeadLetterError(f"dead letters could not be written to topic {self.topic}: {why}")

    def _produce(self, producer: Producer, value: bytes | None, key: str, headers: list[tuple[str, bytes]]) -> None:
        give_up = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                producer.produce(self.topic, value, key=key, headers=list(headers), on_delivery=self._delivered)
            except BufferError:  # wait for room
                if time.monotonic() > give_up:
                    raise DeadLetterError(f"topic {self.topic} takes no dead letters") from None
                producer.poll(0.1)
            else:
                producer.poll(0)
                return

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error.str())

    def _producer(self) -> Producer:
        if self._made is None:
            self._ensure_topic()
            self._made = Producer(
                {
                    **self._properties,
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "message.max.bytes": 2_097_152,  # a message of our limit and its headers
                    "delivery.timeout.ms": round(_WAIT_SECONDS * 1000),
                }
            )
        return self._made

    def _ensure_topic(self) -> None:
        try:
            ensure_topic(self._properties, self.topic, {"max.message.bytes": "2097152"})
        except KafkaException as error:
            raise DeadLetterError(
                f"topic {self.topic} for dead letters is not there and cannot be made ({error.args[0].str()}); "
                'make it, or set dead_letters_topic = "" (they are in the view dead_letters, too)'
            ) from None


class DeadLetterWriter:
    """A writer (sinks.rows_sink) that sends dead letters to Kafka before everything goes to the store."""

    def __init__(self, store: Writer, topic: DeadLetterTopic) -> None:
        self._store, self._topic = store, topic

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        """Insert rows; dead letters are in Kafka before."""
        if table == DEAD_LETTERS.view:
            self._topic.write(frame)
        self._store.insert(table, frame)

    def close(self) -> None:
        """Let go of the store; a producer has nothing in flight after `write`."""
        self._store.close()
