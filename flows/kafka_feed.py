"""Reads the partitions of one worker from Kafka: one consumer, a thread that fetches and a thread that decodes.

Both overlap with the dataflow's own thread: what they do for each message is compiled and needs no GIL.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from operator import attrgetter

import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from flows.errors import DependencyDown, LivePulseError, Stop
from flows.intake import Intake, Standing
from flows.kafka_batch import Batch, BatchReader, Run, Trouble
from flows.parts import MINUTE_MS, Messages, PartBuilder, Stretch
from schemas.events import KIND

log = structlog.get_logger()

_TUNING = {
    "queued.min.messages": 1_000_000,
    "fetch.wait.max.ms": 10,  # meanwhile what was read out of the full queues of others waits, too
    "fetch.max.bytes": 64 << 20,
    "fetch.queue.backoff.ms": 1,
}
"""librdkafka's fetch settings; a no-op loop reads 2.6 times as fast with them as without (DESIGN.md)."""
_FETCHED_KBYTES = (2 << 10, 64, 128)  # of all partitions in one answer, as sent; of each at least and at most
_AHEAD_KBYTES = (2 << 10, 128, 2 << 10)  # the same, of what is fetched before it is read

# Underscored names are the library's public ones for errors of its own.
_EXPIRED = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})  # noqa: SLF001
_GONE = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # noqa: SLF001
)
_REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION})  # noqa: SLF001
_DECODE_APART = 2_000  # messages that must wait; by itself a run takes 4 ms more
_SPARSE_MESSAGES = 60_000  # that wait beyond what alignment lets go: enough for rounds worth their cost
_LEAST_AHEAD = 500  # of one partition: a run costs some microseconds by itself
_FATAL_ERROR = -150  # RD_KAFKA_RESP_ERR__FATAL
_GATHER_SECONDS = 0.1  # what a live stream brings in this time is decoded together: a batch has a fixed cost
_BACKLOG_MS, _LOOK_AGAIN_SECONDS = 1_000, 0.01  # older messages are a backlog, in which others are soon wanted, too
_LOOK_SECONDS, _LOOK_SECONDS_EACH = 0.002, 5e-5  # between two looks at who may be read on; for each partition
_ADDING_SECONDS = 0.01  # in which all partitions are added: who is assigned alone keeps the others waiting for a read
_HOUSEKEEPING_SECONDS = 1.0
_DISCOVERY_SECONDS = 10.0


def fetching(partitions: int) -> dict[str, int]:
    """The fetch settings of one who reads so many partitions."""

    def each(of_all: int, least: int, most: int) -> int:
        return min(most, max(least, of_all // max(1, partitions)))

    fetched, ahead = each(*_FETCHED_KBYTES), each(*_AHEAD_KBYTES)
    return {**_TUNING, "fetch.message.max.bytes": fetched << 10, "queued.max.messages.kbytes": ahead}


def lane_name(topic: str, partition: int) -> str:
    """The name of a partition's lane and of its Bytewax source partition; sorts by number."""
    return f"{topic}/{partition:04d}"


def lane_place(name: str) -> tuple[str, int]:
    """Topic by contract and partition of a lane: what `lane_name` was made of."""
    topic, partition = name.rsplit("/", 1)
    return topic, int(partition)


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
        log_ends: Callable[[Iterable[tuple[str, int]]], Mapping[str, tuple[int, int]]],
        clock: Callable[[], int],
    ) -> None:
        self._consumer, self._intake, self._builder = consumer, intake, builder
        self._reader = BatchReader(consumer, batch_messages)
        self._prefix, self._max_waiting = prefix, max_waiting
        self._known, self._discover, self._log_ends, self._clock = known, discover, log_ends, clock
        self._fetched: queue.Queue[Batch | None] = queue.Queue(1)
        self._read: dict[str, tuple[int, int]] = {}  # lane → next offset to decode, greatest event time decoded
        self._taken: dict[str, int] = {}  # lanes that are read → offset of the next message to take out of the queue
        self._wanted: set[str] = set()  # of these, since the last housekeeping
        self._paused: set[str] = set()
        self._paused_ends: dict[str, int] = {}  # of paused lanes, whose ends no fetch tells
        self._unassigned: queue.SimpleQueue[TopicPartition] = queue.SimpleQueue()
        self._commits: dict[str, int] = {}
        self._stop = threading.Event()
        self._decoding = False
        self.topology_changed = False
        self.key_mismatches = 0
        self.failure: BaseException | None = None
        self.heard: Callable[[], None] = lambda: None  # told that the broker answered
        self.mismatched: Callable[[int], None] = lambda _: None  # told of keys that are not the user_id
        self.lag: int | None = None  # messages in the log that have not been fetched
        self._threads: list[threading.Thread] = []

    def add(self, topic: str, partition: int, offset: int, max_event_time: int) -> None:
        """Start to read a partition at `offset`."""
        name = lane_name(topic, partition)
        self._read[name] = (offset, max_event_time)
        self._intake.add(name, offset, max_event_time, self._clock())
        self._unassigned.put(TopicPartition(self._prefix + topic, partition, offset))
        if not self._threads:
            for run in (self._fetch, self._decode, self._look_for_partitions):
                thread = threading.Thread(target=self._guarded, args=(run,), name=run.__name__, daemon=True)
                self._threads.append(thread)
                thread.start()

    def commit(self, name: str, offset: int) -> None:
        """Let the consumer group's offset follow: everything below `offset` is in a committed epoch."""
        self._commits[name] = offset

    def close(self) -> None:
        """Stop the threads, commit what is due and leave."""
        self._stop.set()
        for thread in self._threads[:2]:  # the third one only asks, and touches nothing of ours
            thread.join(10)
        self._commit(wait=True)
        self._reader.close()
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
        housekeeping = time.monotonic()
        time.sleep(_ADDING_SECONDS)
        while not self._stop.is_set():
            self._assign()
            wanted = self._choose()
            if time.monotonic() - housekeeping >= _HOUSEKEEPING_SECONDS:
                self._commit(wait=False)
                self._measure_lag()
                self._pause()
                housekeeping = time.monotonic()
            if not wanted:
                time.sleep(max(_LOOK_SECONDS, _LOOK_SECONDS_EACH * len(self._taken)))
                continue
            backlog = self._intake.lagging(_BACKLOG_MS)
            batch = self._reader.read(_LOOK_AGAIN_SECONDS if backlog else _GATHER_SECONDS, wanted, self._may_gather)
            if batch is not None:
                self.heard()
                self._taken |= {self._lane_of(run): int(batch.offsets[run.last - 1]) + 1 for run in batch.runs}
                self._fetched.put(batch)
        self._fetched.put(None)

    def _may_gather(self) -> bool:
        """Whether a batch may grow, since an older one is being decoded: each has a fixed cost."""
        return self._decoding and not self._stop.is_set()

    def _assign(self) -> None:
        """Assign what was added since, in one go: each call to librdkafka costs a round of its threads."""
        added: list[TopicPartition] = []
        while not self._unassigned.empty():
            added.append(self._unassigned.get())
        if added:
            self._consumer.incremental_assign(added)
            for place in added:
                name = self._lane_of(place)
                self._reader.open(name, place)
                self._taken[name] = place.offset
                self._wanted.add(name)

    def _choose(self) -> dict[str, int]:
        """Backpressure: the partitions to read on, those that are behind first, and how many messages of each.

        One of which nothing is on its way may hold back all others, so it is always read. The others are while there
        is room: those that must wait for another partition up to their share of it.
        """
        standing = self._intake.standing(list(self._taken))
        waiting = {lane.name: self._taken[lane.name] - lane.next_offset for lane in standing}
        room = sum(waiting.values()) < self._max_waiting
        share = max(_LEAST_AHEAD, _SPARSE_MESSAGES // max(1, len(standing)))
        chosen = {}
        for lane in sorted(standing, key=attrgetter("newest")):
            count = waiting[lane.name]
            if not count or (room and (2 * count < share or not lane.ahead)):
                chosen[lane.name] = self._max_waiting if room and not lane.ahead else share - count
        self._wanted |= chosen.keys()
        if again := self._paused & chosen.keys():
            self._consumer.resume([self._topic_partition(name) for name in again])
            self._paused -= again
        return chosen

    def _pause(self) -> None:
        """Fetch no more of partitions that have not been read for some time.

        In their queues each uncompressed message keeps the whole answer in memory that it came in, megabytes of all
        partitions. What was fetched of them is fetched again.
        """
        rest = self._taken.keys() - self._wanted - self._paused
        if rest:
            self._consumer.pause([self._topic_partition(name) for name in rest])
            self._reader.forget(rest)
            self._paused |= rest
        self._wanted.clear()

    def _lane_of(self, place: Run | Trouble | TopicPartition) -> str:
        return lane_name(place.topic.removeprefix(self._prefix), place.partition)

    def _topic_partition(self, name: str, offset: int | None = None) -> TopicPartition:
        topic, partition = lane_place(name)
        if offset is None:
            return TopicPartition(self._prefix + topic, partition)
        return TopicPartition(self._prefix + topic, partition, offset)

    def _look_for_partitions(self) -> None:
        """New partitions, and the ends of those that are not fetched.

        A thread of its own: with a broker that hangs the question takes 15 s, and fetching must go on and stop. It
        must not touch the consumer, which is closed without waiting for it.
        """
        while not self._stop.wait(_DISCOVERY_SECONDS):
            try:
                self.topology_changed = bool(self._discover() - self._known)
                self.heard()
                if paused := [lane_place(name) for name in list(self._paused)]:
                    self._paused_ends |= {name: high for name, (_, high) in self._log_ends(paused).items()}
            except (KafkaException, DependencyDown) as error:  # it may come back: librdkafka goes on trying, too
                log.warning("cannot list topics and their ends", error=str(error))

    def _measure_lag(self) -> None:
        """From the ends that fetches told of, and those last asked for of partitions that are not fetched."""
        lag = 0
        for name, (offset, _) in list(self._read.items()):
            _, high = self._consumer.get_watermark_offsets(self._topic_partition(name), cached=True)
            if high < 0:
                self.lag = None
                return
            lag += max(0, max(high, self._paused_ends.get(name, 0)) - offset)
        self.lag = lag + self._intake.total_waiting()

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
        while (batch := self._fetched.get()) is not None:
            self._decoding = True
            ends = self._ends(batch.troubles)
            touched = set(ends)
            if len(batch):
                touched |= self._decode_batch(batch)
            for name in touched:
                # The end of a partition is reported in order, after its last message.
                self._intake.caught_up(name, caught_up=ends.get(name, -1) >= self._read[name][0])
            self._decoding = False

    def _decode_batch(self, batch: Batch) -> set[str]:
        """Put a part for each partition; the names of their lanes."""
        last = min(int(batch.stamps[run.last - 1]) for run in batch.runs)
        self._intake.lag_ms = max(0, self._clock() - last) if last > 0 else 0
        groups = _together(batch.runs, self._intake.standing([self._lane_of(run) for run in batch.runs]))
        return set().union(*(self._decode_runs(*_cut(batch, runs)) for runs in groups))

    def _decode_runs(self, batch: Batch, runs: list[Run]) -> set[str]:
        now = self._clock()
        topics = [run.topic.removeprefix(self._prefix) for run in runs]
        names = [self._lane_of(run) for run in runs]
        sizes = [run.last - run.first for run in runs]
        kinds = np.repeat(np.array([KIND[topic] for topic in topics], dtype=np.int64), sizes)
        append_time = np.repeat(np.array([run.append_time for run in runs]), sizes)
        record_ms = np.where(append_time, batch.stamps, now)
        decoded = self._builder.decoder.decode_batch(batch.values, kinds, record_ms, batch.keys)
        self.key_mismatches += decoded.key_mismatches
        self.mismatched(decoded.key_mismatches)
        stretches = [
            Stretch(run.partition, run.first, run.last, self._read[name][1])
            for name, run in zip(names, runs, strict=True)
        ]
        minutes = np.maximum(batch.stamps, 0) // MINUTE_MS * MINUTE_MS
        messages = Messages(stretches, batch.offsets, minutes, kinds.astype(np.uint8), batch.values, now)
        for name, part in zip(names, self._builder.build(messages, decoded), strict=True):
            self._read[name] = (part.next_offset, int(part.maxima[-1]))
            self._intake.put(name, part)
        return set(names)

    def _ends(self, troubles: list[Trouble]) -> dict[str, int]:
        """The end offsets of the partitions that were read to their end.

        Raises:
            LivePulseError: an error that librdkafka does not mend by itself.
        """
        ends: dict[str, int] = {}
        for trouble in troubles:
            if trouble.code == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the library's public name for it
                ends[self._lane_of(trouble)] = trouble.offset
            elif (end := _end_by(trouble)) is not None:
                raise end
            else:
                log.warning("kafka", error=trouble.text)
        return ends


def _together(runs: Iterable[Run], standing: Iterable[Standing]) -> list[list[Run]]:
    """Which runs of a batch are decoded together, where they stand beside each other.

    Parts of one frame keep all of it in memory: those that must wait are decoded apart, a long one by itself.
    """

    def fate(of: tuple[Run, Standing]) -> str | bool:
        run, lane = of
        return lane.name if lane.ahead and run.last - run.first >= _DECODE_APART else lane.ahead

    return [[run for run, _ in some] for _, some in groupby(zip(runs, standing, strict=True), fate)]


def _cut(batch: Batch, runs: list[Run]) -> tuple[Batch, list[Run]]:
    """Consecutive runs of a batch as one of their own."""
    first = runs[0].first
    return batch.rows(first, runs[-1].last), [run.moved(-first) for run in runs]


def _end_by(trouble: Trouble) -> LivePulseError | None:
    """The error that the engine must end with; None where librdkafka goes on trying."""
    place = f"partition {trouble.partition} of topic {trouble.topic}"
    if trouble.code in _EXPIRED:
        return Stop(
            f"{place}: Kafka no longer has the next offset to read: its retention overtook the engine, or the topic "
            f"was made anew ({trouble.text}). Messages are missing; state is kept: the next start names the gap, "
            "and --accept-loss goes on after it and records it"
        )
    if trouble.code in _GONE:
        return Stop(f"{place} is gone from Kafka ({trouble.text}): state is kept; start again once it is there")
    if trouble.code in _REFUSED:
        return DependencyDown(f"Kafka does not let us read {place}: {trouble.text}; see the setting kafka and its ACLs")
    return DependencyDown(f"Kafka's client gave up: {trouble.text}") if trouble.code == _FATAL_ERROR else None
