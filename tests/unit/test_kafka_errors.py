"""Errors of Kafka that end the engine say what to do; the others are left to the client."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from flows.errors import DependencyDown, Stop
from flows.kafka_batch import Trouble
from flows.kafka_feed import _end_by


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (KafkaError.OFFSET_OUT_OF_RANGE, Stop, "--accept-loss"),
        (KafkaError._AUTO_OFFSET_RESET, Stop, "--accept-loss"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Stop, "is gone from Kafka"),
        (KafkaError._UNKNOWN_PARTITION, Stop, "is gone from Kafka"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, DependencyDown, "does not let us read"),
        (-150, DependencyDown, "gave up"),
        (KafkaError._TRANSPORT, type(None), ""),
        (KafkaError._ALL_BROKERS_DOWN, type(None), ""),
    ],
)
def test_what_ends_the_engine(code: int, kind: type, words: str) -> None:
    error = _end_by(Trouble(code, "view", 3, 17, "what librdkafka says"))
    assert type(error) is kind
    if error is not None:
        assert words in str(error)
        assert "what librdkafka says" in str(error)
        assert "partition 3 of topic view" in str(error) or code == -150
