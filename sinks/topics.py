"""Topics that LivePulse itself writes to: made where they are absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

_ANSWER_SECONDS: Final = 15.0


def ensure_topic(
    properties: Mapping[str, str], topic: str, config: Mapping[str, str], create_seconds: float = _ANSWER_SECONDS
) -> None:
    """Make a topic of one partition unless it is there. `properties`: librdkafka's, with bootstrap.servers.

    Raises:
        KafkaException: it is not there and cannot be made.
    """
    admin = AdminClient({**properties, "allow.auto.create.topics": True})
    if topic in admin.list_topics(timeout=_ANSWER_SECONDS).topics:
        return
    new = NewTopic(topic, num_partitions=1, config=dict(config))
    try:
        for made in admin.create_topics([new], request_timeout=create_seconds).values():
            made.result()
    except KafkaException:
        found = admin.list_topics(topic, timeout=_ANSWER_SECONDS).topics.get(topic)
        if found is None or found.error is not None:  # somebody else was quicker, or it was made when asked about
            raise
