"""Which partitions there are, where to start them, and when not to start at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog
from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from flows.errors import DependencyDown, Stop
from flows.kafka_ask import Asker
from flows.kafka_feed import KafkaFeed, fetching, lane_name, lane_place
from flows.messages import MIN_TIME
from flows.settings import Settings
from flows.source import PartitionState
from schemas.events import TOPICS

log = structlog.get_logger()

_TIMEOUT_SECONDS = 15.0
_MOCK_CLUSTER = "mockCluster"  # librdkafka's: it has no controller, for whose answer a question would wait in vain
_OFFSET_END = -1  # what offsets_for_times answers when no message is that young

Lane = tuple[str, int]
"""(topic by contract, partition)."""


def list_lanes(settings: Settings) -> frozenset[Lane]:
    """Every partition of the contract's topics that the broker has.

    Raises:
        DependencyDown: no broker answers, or it does not let us in.
    """
    metadata = Asker(settings.client_properties()).metadata()
    found = ((name, metadata.topics.get(settings.topic(name))) for name in TOPICS)
    return frozenset(
        (name, p) for name, topic in found if topic is not None and not topic.error for p in topic.partitions
    )


def absent_topics(lanes: Iterable[Lane]) -> list[str]:
    """The contract's topics without a partition."""
    have = {topic for topic, _ in lanes}
    return [name for name in TOPICS if name not in have]


def topic_ids(settings: Settings, lanes: Iterable[Lane]) -> dict[str, str]:
    """Topic by contract → Kafka's id of it, another one for a topic made anew; none from a broker that has none.

    Raises:
        DependencyDown: the broker gives no answer. To go on without ids would be to read another log unseen.
    """
    names = {settings.topic(name): name for name in dict(lanes)}
    asker = Asker(settings.client_properties())
    if str(asker.metadata().cluster_id).startswith(_MOCK_CLUSTER):
        return {}
    asked = asker.admin.describe_topics(TopicCollection(list(names)), request_timeout=_TIMEOUT_SECONDS)
    found = {}
    for topic, answer in asked.items():
        try:
            given = answer.result().topic_id
        except KafkaException as error:
            raise DependencyDown(
                f"the Kafka broker at {settings.brokers} does not describe topic {topic}: {error.args[0].str()}"
            ) from None
        if given.get_most_significant_bits() or given.get_least_significant_bits():  # both 0: a broker before 2.8
            found[names[topic]] = str(given)
    return found


def make_consumer(settings: Settings, partitions: int = 1) -> Consumer:
    """A consumer of so many partitions.

    It commits nothing by itself, reports the ends of partitions and never jumps on a lost offset.
    """
    return Consumer(
        {
            **fetching(partitions),
            **settings.client_properties(),
            "group.id": settings.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )


def warm_consumer(consumer: Consumer, settings: Settings, lanes: Iterable[Lane]) -> None:
    """Let the client learn who leads the topics and connect there: else the first fetch waits half a second for it."""
    for name, partition in dict(lanes).items():  # one partition of each topic
        try:
            consumer.get_watermark_offsets(TopicPartition(settings.topic(name), partition), timeout=_TIMEOUT_SECONDS)
        except KafkaException as error:
            raise DependencyDown(f"topic {settings.topic(name)} cannot be read: {error.args[0].str()}") from None


def log_ends(settings: Settings, lanes: Iterable[Lane]) -> dict[str, tuple[int, int]]:
    """Lane name → first offset that the broker has, and the offset after its last."""
    admin = AdminClient({**settings.client_properties()})
    places = {
        TopicPartition(settings.topic(topic), partition): lane_name(topic, partition) for topic, partition in lanes
    }
    answers = [
        admin.list_offsets(dict.fromkeys(places, spec), request_timeout=_TIMEOUT_SECONDS)
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
    ]
    try:
        return {
            name: (answers[0][place].result().offset, answers[1][place].result().offset)
            for place, name in places.items()
        }
    except KafkaException as error:
        raise DependencyDown(
            f"cannot list the offsets of the topics at {settings.brokers}: {error.args[0].str()}"
        ) from None


def first_offsets(settings: Settings, lanes: Iterable[Lane]) -> dict[str, int]:
    """Lane name → offset at which a first start begins (setting `from`)."""
    start = settings.start
    ends = log_ends(settings, lanes)
    if not isinstance(start, int):
        return {name: low if start == "earliest" else high for name, (low, high) in ends.items()}
    consumer = make_consumer(settings)
    try:
        wanted = [TopicPartition(settings.topic(topic), partition, start) for topic, partition in sorted(lanes)]
        found = consumer.offsets_for_times(wanted, timeout=_TIMEOUT_SECONDS)
    finally:
        consumer.close()
    names = {place.topic + "/" + str(place.partition): place.offset for place in found}
    return {
        lane_name(topic, partition): high
        if (offset := names[f"{settings.topic(topic)}/{partition}"]) == _OFFSET_END
        else offset
        for topic, partition in lanes
        for _, high in [ends[lane_name(topic, partition)]]
    }


class ResumingFeed:
    """Opens partitions of a Kafka feed at checked offsets (the `Feed` of flows.source)."""

    def __init__(
        self,
        feed: KafkaFeed,
        settings: Settings,
        lanes: Iterable[Lane],
        first: dict[str, int],
        record_loss: Callable[[str, int, int, int], None],
        ids: Mapping[str, str],
    ) -> None:
        self._feed, self._settings, self._first = feed, settings, first
        self._record_loss, self._ids = record_loss, ids
        self._ends = log_ends(settings, lanes)
        self._opened: dict[str, int] = {}

    @property
    def failure(self) -> BaseException | None:
        """Why a thread of the feed died."""
        return self._feed.failure

    @property
    def topology_changed(self) -> bool:
        """Whether topics or partitions have come since the start."""
        return self._feed.topology_changed

    def commit(self, name: str, offset: int) -> None:
        """See `KafkaFeed.commit`."""
        self._feed.commit(name, offset)

    def open(self, name: str, state: PartitionState | None) -> None:
        """Start to read at the recovered offset; a partition that is new begins at its first message.

        Raises:
            Stop: the offset is gone from Kafka, or beyond its end (the topic was made anew).
        """
        topic, partition = lane_place(name)
        place = TopicPartition(self._settings.topic(topic), partition)
        low, high = self._ends[name]
        wanted = state.next_offset if state is not None else self._first.get(name, low)
        was, now = state.topic_id if state is not None else "", self._ids.get(topic, "")
        anew = bool(was and now) and was != now
        if anew or wanted < low or wanted > high:
            if anew:
                what = f"is another one, from {low} to {high}: the topic was deleted and made anew"
            elif wanted < low:
                what = f"starts at {low}"
            else:
                what = f"ends at {high}: was the topic deleted and made anew?"
            if not self._settings.accept_loss:
                raise Stop(
                    f"partition {partition} of topic {place.topic}: the next offset to read is {wanted}, "
                    f"but Kafka's log {what}. Messages are missing; --accept-loss goes on at {low} and records the gap"
                )
            self._record_loss(topic, partition, wanted, low)
            log.warning("offsets lost", topic=topic, partition=partition, wanted=wanted, low=low, high=high)
            wanted = low
        self._opened[name] = wanted
        if len(self._opened) == len(self._ends):
            log.info("next offsets to read", **self._opened)
        self._feed.add(topic, partition, wanted, state.max_event_time if state is not None else MIN_TIME)

    def close(self) -> None:
        """Stop the feed."""
        self._feed.close()
