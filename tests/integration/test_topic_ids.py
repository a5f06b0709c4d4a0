"""Kafka's ids of topics, by which one that was made anew is known: told, none to tell, or the start waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from flows.broker import Broker
from flows.errors import DependencyDown
from flows.kafka_start import topic_ids
from flows.settings import Settings

pytestmark = pytest.mark.integration

Topics = Callable[..., dict[str, str]]


def test_each_topic_has_an_id_of_its_own(kafka: Broker, topics: Topics, settings_for: Callable[..., Settings]) -> None:
    topics(kafka, names=("view", "like"))
    found = topic_ids(settings_for(kafka), [("view", 0), ("view", 1), ("like", 0)])
    assert set(found) == {"view", "like"}
    assert len(set(found.values())) == 2


def test_a_topic_that_the_broker_does_not_describe_ends_the_start(
    kafka: Broker, topics: Topics, settings_for: Callable[..., Settings]
) -> None:
    """Without an id, a longer log of a topic made anew would be read on in its middle."""
    topics(kafka, names=("view",))
    with pytest.raises(DependencyDown, match=r"does not describe topic .*like: .*Unknown topic"):
        topic_ids(settings_for(kafka), [("view", 0), ("like", 0)])


def test_the_mock_cluster_has_none_and_says_so_at_once(
    mock_kafka: Broker, topics: Topics, settings_for: Callable[..., Settings]
) -> None:
    topics(mock_kafka, names=("view",))
    began = time.monotonic()
    assert topic_ids(settings_for(mock_kafka), [("view", 0)]) == {}
    assert time.monotonic() - began < 10  # a question to its controller, which it has not, takes 15 s
