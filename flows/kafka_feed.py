"""Reads the partitions of one worker from Kafka: one consumer, a thread that fetches and a thread that decodes.

Both overlap with the dataflow's own thread, since librdkafka and Polars release the GIL.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl
import structlog
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, Message, TopicPartition

from flows.intake import Intake
from flows.parts import MINUTE_MS, Messages, PartBuilder
from schemas.decode import Decoded

log = structlog.get_logger()

TUNING = {
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 131_072,
    "fetch.wait.max.ms": 50,
    "fetch.message.max.bytes": 2
    << 20,  # larger ones come as long runs of one partition, for which the others must wait
    "fetch.max.bytes": 64 << 20,
    "fetch.queue.backoff.ms": 1,
}
"""librdkafka's fetch settings; a no-op loop reads 2.6 times as fast with them as without (DESIGN.md)."""

Rows = npt.NDArray[np.int64]

_FATAL = frozenset(
    {
        # Underscored names are the library's public ones for errors of its own.
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
_DECODE_APART = 1_000
_POLL_SECONDS = 0.05
_GATHER_SECONDS = 0.1  # what a live stream brings in this time is decoded together: a batch has a fixed cost
_CHUNK = 2_000  # messages a call: it holds the GIL while it makes their objects, and the dataflow waits
_HOUSEKEEPING_SECONDS = 1.0
_DISCOVERY_SECONDS = 10.0


def lane_name(topic: str, partition: int) -> str:
    """The name of a partition's lane and of its Bytewax source partition; sorts by number."""
    return f"{topic}/{partition:04d}"


class KafkaFeed:
    """Fetches, decodes and puts parts into an intake. `prefix` stands before each topic's name at the broker."""

    def __init__(  # noqa: PLR0913  # all of it is of one thing
        self,
        consumer: Consumer,
        intake: Intake,
        builder: PartBuilder,
        *,
        prefix: str,
        batch_messages: int,
        max_waiting: int,
        known: frozenset[tuple[str, int]],
        discover: Callable[[], frozenset[tuple[str, int]]],
        clock: Callable[[], int],
    ) -> None:
        self._consumer, self._intake, self._builder = consumer, intake, builder
        self._prefix, self._batch, self._max_waiting = prefix, batch_messages, max_waiting
        self._known, self._discover, self._clock = known, discover, clock
        self._fetched: queue.Queue[list[Message] | None] = queue.Queue(2)
        self._read: dict[str, tuple[int, int]] = {}  # lane → next offset to decode, greatest event time decoded
        self._paused: set[str] = set()
        self._unassigned: queue.SimpleQueue[TopicPartition] = queue.SimpleQueue()
        self._commits: dict[str, int] = {}
        self._stop = threading.Event()
        self.topology_changed = False
        self.key_mismatches = 0
        self.failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def add(self, topic: str, partition: int, offset: int, max_event_time: int) -> None:
        """Start to read a partition at `offset`."""
        name = lane_name(topic, partition)
        self._read[name] = (offset, max_event_time)
        self._intake.add(name, offset, max_event_time, self._clock())
        self._unassigned.put(TopicPartition(self._prefix + topic, partition, offset))
        if not self._threads:
            for run in (self._fetch, self._decode):
                thread = threading.Thread(target=self._guarded, args=(run,), name=run.__name__, daemon=True)
                self._threads.append(thread)
                thread.start()

    def commit(self, name: str, offset: int) -> None:
        """Let the consumer group's offset follow: everything below `offset` is in a committed epoch."""
        self._commits[name] = offset

    def close(self) -> None:
        """Stop the threads, commit what is due and leave."""
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self._commit(wait=True)
        self._consumer.close()
        if self.key_mismatches:
            log.info("messages whose key is not their user_id (accepted)", messages=self.key_mismatches)

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001  # the dataflow's thread raises it again
            self.failure = error
            self._intake.arrived.set()

    def _fetch(self) -> None:
        housekeeping = discovery = time.monotonic()
        while not self._stop.is_set():
            self._assign()
            now = time.monotonic()
            if now - housekeeping >= _HOUSEKEEPING_SECONDS:
                housekeeping = now
                self._commit(wait=False)
            if now - discovery >= _DISCOVERY_SECONDS:
                discovery = now
                self._look_for_partitions()
            if not self._may_read():
                time.sleep(0.002)
                continue
            messages = self._consumer.consume(_CHUNK, _POLL_SECONDS)
            until = time.monotonic() + _GATHER_SECONDS
            while messages and len(messages) < self._batch and (left := until - time.monotonic()) > 0:
                messages += self._consumer.consume(_CHUNK, left)
            if messages:
                self._fetched.put(messages)
        self._fetched.put(None)

    def _assign(self) -> None:
        """Assign what was added since, in one go: each call to librdkafka costs a round of its threads."""
        added: list[TopicPartition] = []
        while not self._unassigned.empty():
            added.append(self._unassigned.get())
        if added:
            self._consumer.incremental_assign(added)

    def _may_read(self) -> bool:
        """Backpressure: read on while little waits, or when all that waits must wait for a partition not yet read."""
        waiting = self._intake.waiting()
        full = sum(waiting.values()) >= self._max_waiting
        if full and not self._intake.starved():
            return False
        # A pause throws away what was fetched ahead, so only lanes are paused that others would be kept from by memory.
        if self._paused:
            self._resume([name for name in self._paused if waiting[name] < self._lane_limit() // 2])
        ahead = [n for n, count in waiting.items() if full and count > self._lane_limit() and n not in self._paused]
        if ahead:
            self._consumer.pause([self._topic_partition(n) for n in ahead])
            self._paused.update(ahead)
        return True

    def _lane_limit(self) -> int:
        return max(1000, self._max_waiting // max(1, len(self._read)))

    def _resume(self, names: list[str]) -> None:
        if names:
            self._consumer.resume([self._topic_partition(n) for n in names])
            self._paused.difference_update(names)

    def _topic_partition(self, name: str, offset: int | None = None) -> TopicPartition:
        topic, partition = name.rsplit("/", 1)
        if offset is None:
            return TopicPartition(self._prefix + topic, int(partition))
        return TopicPartition(self._prefix + topic, int(partition), offset)

    def _look_for_partitions(self) -> None:
        try:
            self.topology_changed = bool(self._discover() - self._known)
        except KafkaException as error:
            log.warning("cannot list topics", error=str(error))

    def _commit(self, *, wait: bool) -> None:
        due, self._commits = self._commits, {}
        if due:
            offsets = [self._topic_partition(name, offset) for name, offset in due.items()]
            try:
                if wait:
                    self._consumer.commit(offsets=offsets, asynchronous=False)
                else:
                    self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:  # advisory: recovery offsets rule
                log.warning("consumer group commit failed", error=str(error))

    def _decode(self) -> None:
        while (messages := self._fetched.get()) is not None:
            messages, ends = _without_errors(messages)
            touched: set[str] = set(ends)
            for topic, mine in _by_topic(messages):
                touched |= self._decode_topic(topic.removeprefix(self._prefix), mine)
            for name in touched:
                # The end of a partition is reported in order, after its last message.
                lane = name.removeprefix(self._prefix)
                self._intake.caught_up(lane, caught_up=ends.get(name, -1) >= self._read[lane][0])

    def _decode_topic(self, topic: str, messages: list[Message]) -> set[str]:
        """Put one part for each partition; the names of their lanes at the broker."""
        now = self._clock()
        values = list(map(Message.value, messages))
        offsets = np.fromiter(map(Message.offset, messages), dtype=np.int64, count=len(messages))
        groups = _by_partition(messages)
        stamps, append_time = _stamps(messages, [rows for _, rows in groups])

        def own_times() -> Rows:
            return np.fromiter((m.timestamp()[1] for m in messages), dtype=np.int64, count=len(messages))

        keys = list(map(Message.key, messages))
        if append_time:  # `stamps` are lower bounds: each message's own time is asked for only when one is passed
            decoded = self._builder.decoder.decode(topic, values, stamps, keys, own_times)
        else:
            decoded = self._builder.decoder.decode(topic, values, now, keys)
        self.key_mismatches += decoded.key_mismatches
        self._intake.lag_ms = now - int(stamps[-1]) if stamps[-1] > 0 else 0
        minutes = np.maximum(stamps, 0) // MINUTE_MS * MINUTE_MS
        for number, rows in groups:
            name = lane_name(topic, number)
            whole = len(groups) == 1
            mine = decoded if whole else _of_partition(decoded, rows, len(messages))
            part_values = values if whole else [values[i] for i in rows.tolist()]
            batch = Messages(number, offsets[rows], minutes[rows], part_values, now)
            topics = pl.Series("topic", [topic]).new_from_index(0, len(rows))
            part = self._builder.build(batch, mine, topics, self._read[name][1])
            self._read[name] = (part.next_offset, int(part.maxima[-1]))
            self._intake.put(name, part)
        return {self._prefix + lane_name(topic, number) for number, _ in groups}


def _without_errors(messages: list[Message]) -> tuple[list[Message], dict[str, int]]:
    """The messages that are messages, and the end offsets of the partitions that were read to their end.

    Raises:
        KafkaException: an error that librdkafka does not mend by itself.
    """
    errors = list(map(Message.error, messages))
    if not any(errors):
        return messages, {}
    ends: dict[str, int] = {}
    for message, error in zip(messages, errors, strict=True):
        if error is None:
            continue
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the library's public name for it
            ends[lane_name(_topic(message), message.partition() or 0)] = message.offset() or 0
        elif error.fatal() or error.code() in _FATAL:
            raise KafkaException(error)
        else:
            log.warning("kafka", error=error.str())
    return [m for m, error in zip(messages, errors, strict=True) if error is None], ends


_topic = cast("Callable[[Message], str]", Message.topic)  # None only for messages that are errors of no partition


def _by_topic(messages: list[Message]) -> Iterator[tuple[str, list[Message]]]:
    """Messages to decode together: a large partition by itself, so that nothing is taken apart; small ones by topic."""
    topics = list(map(_topic, messages))
    numbers = {name: number for number, name in enumerate(sorted(set(topics)))}
    lanes = np.fromiter(map(Message.partition, messages), dtype=np.int64, count=len(messages)) * len(numbers)
    lanes += np.fromiter(map(numbers.__getitem__, topics), dtype=np.int64, count=len(messages))
    for name, number in numbers.items():
        of_topic = np.flatnonzero(lanes % len(numbers) == number)
        found = np.unique(lanes[of_topic])
        if len(of_topic) >= _DECODE_APART * len(found):
            for lane in found:
                yield name, _picked(messages, np.flatnonzero(lanes == lane))
        else:
            yield name, _picked(messages, of_topic)


def _by_partition(messages: list[Message]) -> list[tuple[int, Rows]]:
    """(partition, its rows in order)."""
    partitions = np.fromiter(map(Message.partition, messages), dtype=np.int32, count=len(messages))
    return [(int(number), np.flatnonzero(partitions == number)) for number in np.unique(partitions)]


def _picked(messages: list[Message], rows: Rows) -> list[Message]:
    return messages if len(rows) == len(messages) else [messages[i] for i in rows.tolist()]


def _stamps(messages: list[Message], groups: list[Rows]) -> tuple[Rows, bool]:
    """A time of each message that is in its ledger minute and not after it, and whether they are the broker's own.

    Under LogAppendTime times rise within a partition, so where the first and the last are of one minute the first
    stands for all and spares a call a message.
    """
    stamps = np.empty(len(messages), dtype=np.int64)
    append_time = True
    for rows in groups:
        kind, first = messages[rows[0]].timestamp()
        _, last = messages[rows[-1]].timestamp()
        append_time = append_time and kind == TIMESTAMP_LOG_APPEND_TIME
        if kind == TIMESTAMP_LOG_APPEND_TIME and first // MINUTE_MS == last // MINUTE_MS:
            stamps[rows] = first
        else:
            stamps[rows] = [messages[i].timestamp()[1] for i in rows]
    return stamps, append_time


def _of_partition(decoded: Decoded, rows: Rows, count: int) -> Decoded:
    """The decoded rows of one partition, with `row` counted among that partition's messages."""
    place = np.full(count, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))

    def mine(frame: pl.DataFrame) -> pl.DataFrame:
        places = pl.Series("row", place[frame["row"].to_numpy()])
        return frame.with_columns(places).filter(pl.col("row") >= 0)

    return Decoded(frame=mine(decoded.frame), rejects=mine(decoded.rejects), key_mismatches=0)
