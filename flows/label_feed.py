"""Names of ids from the compacted topic `labels` into the store, beside the first worker's dataflow.

Always read from the beginning: the whole topic is what holds, and names are upserts, so there is no position to lose.
Whatever goes wrong here is said and tried again; the engine does not stop for a name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import polars as pl
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from flows.errors import LivePulseError
from flows.settings import Settings
from schemas.label_messages import TOPIC, Label, judge_label
from schemas.rows import RowsError
from schemas.session_tables import LABELS
from schemas.tables import DEAD_LETTERS
from schemas.validate import Reject
from sinks.clickhouse import Store, StoreError
from sinks.rows_sink import Writer

log = structlog.get_logger()

_LOOK_SECONDS: Final = 10.0  # for the topic, for partitions, after trouble
_GATHER_SECONDS: Final = 1.0  # so that there is at most one insert a second
_BATCH: Final = 5_000
_MOST_HELD: Final = 100_000
_TIMEOUT_SECONDS: Final = 15.0


@contextmanager
def labels_read(settings: Settings, connect: Callable[[], Store], writer: Callable[[Store], Writer]) -> Iterator[None]:
    """Keep names up to date while the block runs. `writer` takes dead letters on from a store."""
    if not settings.labels_topic:
        yield
        return
    feed = LabelFeed(settings, connect, writer)
    thread = threading.Thread(target=feed.run, name="labels", daemon=True)
    thread.start()
    try:
        yield
    finally:
        feed.stop.set()
        thread.join(5)


class LabelFeed:
    """Reads the topic for as long as `stop` is not set."""

    def __init__(self, settings: Settings, connect: Callable[[], Store], writer: Callable[[Store], Writer]) -> None:
        self._settings, self._connect, self._writer = settings, connect, writer
        self._topic = settings.topic(settings.labels_topic)
        self.stop = threading.Event()

    def run(self) -> None:
        """Until `stop`: wait for the topic, read it, begin anew when something was in the way."""
        told = False
        while not self.stop.is_set():
            try:
                partitions = self._partitions()
                if partitions:
                    self._follow(partitions)
                elif not told:
                    told = True
                    log.info("no topic of labels; it is read once it comes", topic=self._topic)
            except (KafkaException, StoreError, RowsError, LivePulseError, OSError) as error:
                log.warning("labels cannot be read; trying again", topic=self._topic, error=str(error))
            self.stop.wait(_LOOK_SECONDS)

    def _partitions(self) -> frozenset[int]:
        found = AdminClient({**self._settings.client_properties()}).list_topics(timeout=_TIMEOUT_SECONDS)
        topic = found.topics.get(self._topic)
        return frozenset() if topic is None or topic.error else frozenset(topic.partitions)

    def _follow(self, partitions: frozenset[int]) -> None:
        """Read all partitions from their first message on; returns when there are others."""
        properties = self._settings.client_properties()
        consumer = Consumer(
            {
                **properties, "group.id": f"{self._settings.group}.labels", "enable.auto.commit": False,
                "enable.auto.offset.store": False, "enable.partition.eof": True, "auto.offset.reset": "earliest",
            }
        )  # fmt: skip
        store = self._connect()
        book = _Book(store, self._writer(store), self._settings)
        try:
            consumer.assign([TopicPartition(self._topic, partition, 0) for partition in sorted(partitions)])
            looked, ended = time.monotonic(), set[int]()
            while not self.stop.is_set():
                for message in consumer.consume(_BATCH, _GATHER_SECONDS):
                    _heard(message, ended, book)
                if ended == partitions or len(book.names) >= _MOST_HELD:  # not before: an old name would be seen
                    book.write()
                if time.monotonic() - looked > _LOOK_SECONDS:
                    looked = time.monotonic()
                    if self._partitions() != partitions:
                        return
        finally:
            consumer.close()
            store.close()


class _Book:
    """What was read and is not stored yet: the last name of each id, and what is no label."""

    def __init__(self, store: Store, dead: Writer, settings: Settings) -> None:
        self._store, self._dead, self._limits = store, dead, settings.limits
        self.names: dict[tuple[str, str], str] = {}
        self._rejects: list[dict[str, Any]] = []
        self._known: set[tuple[int, int, bytes]] | None = None
        self._total = 0

    def take(self, message: Message) -> None:
        """Judge a message."""
        raw = message.value()
        judged = judge_label(message.key(), raw, self._limits)
        if isinstance(judged, Label):
            self.names[judged.kind, judged.id] = judged.name
        else:
            self._rejects.append(_dead_letter(message, raw, judged))

    def write(self) -> None:
        """Store it all."""
        if self._rejects:
            new = [one for one in self._rejects if (one["partition"], one["offset"], one["raw"]) not in self._stored()]
            if new:
                self._dead.insert(DEAD_LETTERS.view, pl.DataFrame(new))
                self._stored().update((one["partition"], one["offset"], one["raw"]) for one in new)
                log.warning("messages that are no labels", messages=len(new), first=new[0]["detail"])
            self._rejects.clear()
        if self.names:
            rows = [(kind, id_, name) for (kind, id_), name in self.names.items()]
            self._store.insert(LABELS.view, pl.DataFrame(rows, schema=["kind", "id", "name"], orient="row"))
            if not self._total:
                log.info("labels read", labels=len(rows))
            self._total += len(rows)
            self.names.clear()

    def _stored(self) -> set[tuple[int, int, bytes]]:
        """Dead letters that are stored: a topic that is read again at each start must not tell of them again."""
        if self._known is None:
            rows: Sequence[dict[str, Any]] = self._store.query(
                f"SELECT partition, offset, hex(raw) AS raw FROM {self._store.database}.dead_letters"  # noqa: S608  # an identifier
                " WHERE topic = {topic:String}",
                {"topic": TOPIC},
            )
            self._known = {(row["partition"], row["offset"], bytes.fromhex(row["raw"])) for row in rows}
        return self._known


def _heard(message: Message, ended: set[int], book: _Book) -> None:
    """A message, the end of a partition, or an error.

    Raises:
        KafkaException: what reading on does not mend.
    """
    error, partition = message.error(), message.partition() or 0
    if error is None:
        ended.discard(partition)
        book.take(message)
    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the library's public name for it
        ended.add(partition)
    elif not error.retriable():
        raise KafkaException(error)


def _dead_letter(message: Message, raw: bytes | None, judged: Reject) -> dict[str, Any]:
    return {
        "topic": TOPIC, "partition": message.partition(), "offset": message.offset(), "reason": judged.reason.value,
        "detail": judged.detail, "raw": raw or b"", "ingest_time": time.time_ns() // 1_000_000,
    }  # fmt: skip
