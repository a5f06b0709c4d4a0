"""`livepulse simulate`: believable, seeded traffic to files or to Kafka, and the truth about it.

What is planted and what the engine must count comes back as a `Truth`. Messages of a user always go to the same
partition, chosen here, because which events are late is a function of each partition's log.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Producer

from flows.broker import ExternalBroker
from flows.errors import DependencyDown
from flows.kafka_ask import Asker
from flows.simulate_json import BAD, JsonWriter, bad_classes, bad_message
from flows.simulate_names import NameSender, write_names
from flows.simulate_plants import Plants
from flows.simulate_traffic import Events, Traffic, joined, rows
from flows.simulate_truth import ACCEPTED, OUTCOMES, Expectation, Judge, Truth, partition_rows, planted
from flows.simulate_world import Conversion, Int64s, Options
from schemas.events import KIND, TOPICS, VIEW

__all__ = ["Conversion", "Options", "Progress", "Truth", "simulate_to_files", "simulate_to_kafka"]

FILES_START: Final = 1_767_571_200_000
"""2026-01-05T00:00:00Z, a Monday: where files begin by default, so that they follow from the options alone."""
LIVE_STEP_MS: Final = 100
_FLUSH_SECONDS: Final = 30.0
_BROKEN: Final = "negative_watch"
"""What is wrong with messages that a planted fault breaks."""
_UNKNOWN: Final = len(TOPICS)  # topic of a file line that names none


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a simulation has come."""

    messages: int
    event_time: int  # epoch ms
    live: bool  # at the pace of the clock (false while history is sent)


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages in order of sending: arrays and lists of one length. `kinds`: topic (index into TOPICS, or unknown)."""

    kinds: Int64s
    partitions: Int64s
    keys: list[str]
    values: list[str | bytes | None]


class Stream:
    """Messages of one simulation, step by step, and their truth. `in_files`: lines of files, else Kafka messages."""

    def __init__(self, options: Options, start: int, *, in_files: bool) -> None:
        self.options, self.in_files = options, in_files
        self.traffic = Traffic(options, start)
        self.messages = 0
        prefix = f"{zlib.crc32(f'{options.seed} {start}'.encode()):08x}-"
        self._writer = JsonWriter(self.traffic, prefix, with_topic=in_files)
        self._prefix = prefix
        self._rng = np.random.default_rng((options.seed, 7))
        self._classes = bad_classes(in_files=in_files)
        self._bad_counts = np.zeros(len(self._classes), dtype=np.int64)
        logs = (len(TOPICS) + 1) * options.partitions
        self._counts = np.zeros((logs, len(OUTCOMES)), dtype=np.int64)
        self._plants = Plants(self.traffic)
        self._judge = Judge(logs, options.out_of_orderness_ms)
        self._expectation = Expectation(self.traffic)

    @property
    def step_ms(self) -> int:
        """Event time of about 20,000 messages, at most a minute."""
        return int(min(60_000, max(100, 20_000_000 / self.options.rate)))

    def until(self, time: int, *, fresh: bool = True) -> Batch:
        """Messages that are sent before `time`, but no more than the options ask for."""
        span = time - self.traffic.clock
        begin = self.traffic.clock
        events, broken = self._planted(self.traffic.until(time, fresh=fresh))
        rate = self.options.rate * self.traffic.curve.level(begin) * self.options.bad_share if fresh else 0.0
        bad = self._rng.integers(0, len(self._classes), int(self._rng.poisson(rate * span / 1000)))
        kinds = np.array([KIND[BAD[name].topic] for name in self._classes], dtype=np.int64)[bad]
        wrong = rows(len(bad), arrival=self._rng.integers(begin, time, len(bad)), kind=kinds, item=bad,
                     user=self._rng.integers(0, self.traffic.crowd.viewers, len(bad)))  # fmt: skip
        events = joined([events, wrong])
        is_bad = np.concatenate((broken, np.ones(len(wrong), dtype=np.bool_)))
        order = np.argsort(events["arrival"], kind="stable")[: self._room_left()]
        events, is_bad = events[order], is_bad[order]
        values = self._values(events, is_bad)
        partitions = self._partitions(events)
        framed = np.array([BAD[name].framed for name in self._classes])
        topics = events["kind"].astype(np.int64)
        if self.in_files:
            topics[np.flatnonzero(is_bad)[framed[events["item"][is_bad]]]] = _UNKNOWN
        self._record(events, is_bad, topics, partitions)
        return Batch(topics, partitions, [self._writer.keys[user] for user in events["user"].tolist()], values)

    def _partitions(self, events: Events) -> Int64s:
        return events["user"].astype(np.int64) * 2_654_435_761 % (1 << 32) * self.options.partitions >> 32

    def _planted(self, events: Events) -> tuple[Events, npt.NDArray[np.bool_]]:
        """The events as the planted anomalies leave them, and which of them break the contract for it."""
        events, broken = self._plants.apply(events, self._partitions(events))
        events["kind"][broken], events["copy"][broken] = VIEW, False
        events["item"][broken] = self._classes.index(_BROKEN)
        return events, broken

    def enough(self, *, drain: bool) -> bool:
        """Whether what is asked for was sent, or (with `drain`) will be when all that has begun has come to its end."""
        waiting = self.traffic.scheduled if drain else 0
        return self.options.events is not None and self.messages + waiting >= self.options.events

    def truth(self) -> Truth:
        """The truth about what was sent so far."""
        options, files = self.options, file_names(self.options) if self.in_files else None
        names = [
            (topic, partition, "" if files is None else files[self._file(kind, partition)])
            for kind, topic in enumerate((*TOPICS, ""))
            for partition in range(options.partitions)
        ]
        totals = dict(zip(OUTCOMES, self._counts.sum(axis=0).tolist(), strict=True))
        bad = {name: count for name, count in zip(self._classes, self._bad_counts.tolist(), strict=True) if count}
        return Truth(
            planted(self.traffic, self._plants.until(self.traffic.clock), self.traffic.clock),
            {"consumed": self.messages, **totals}, bad,
            partition_rows(self._counts, names), **self._expectation.tables(),
        )  # fmt: skip

    def files_of(self, batch: Batch) -> Int64s:
        """Number of the file of each message."""
        return batch.partitions + np.where(self._own_file(batch.kinds), batch.kinds * self.options.partitions, 0)

    def _file(self, kind: int, partition: int) -> int:
        return partition + (kind * self.options.partitions if self._own_file(np.array([kind]))[0] else 0)

    def _own_file(self, kinds: Int64s) -> npt.NDArray[np.bool_]:
        return (kinds < _UNKNOWN) & self.options.file_per_topic

    def _room_left(self) -> int | None:
        return None if self.options.events is None else max(0, self.options.events - self.messages)

    def _values(self, events: Events, is_bad: npt.NDArray[np.bool_]) -> list[str | bytes | None]:
        """Each message's text; those that are bad on purpose as bytes."""
        good = self._writer.write(events[~is_bad])
        values: list[str | bytes | None] = []
        for number, place in enumerate(np.flatnonzero(is_bad).tolist()):
            values += good[len(values) - number : place - number]
            event = events[place]
            name, user = self._classes[int(event["item"])], self._writer.keys[int(event["user"])]
            event_id = f"{self._prefix}bad{self.messages + place}"
            values.append(bad_message(name, event_id, int(event["arrival"]), user, with_topic=self.in_files))
        return values + good[len(values) - int(is_bad.sum()) :]

    def _record(self, events: Events, is_bad: npt.NDArray[np.bool_], topics: Int64s, partitions: Int64s) -> None:
        """Judge the messages and keep what is accepted."""
        own = self._own_file(topics) if self.in_files else np.ones(len(topics), dtype=np.bool_)
        logs = partitions + np.where(own, topics, 0) * self.options.partitions
        outcomes = self._judge.judge(logs, events["time"].astype(np.int64), events["copy"], is_bad)
        np.add.at(self._counts, (topics * self.options.partitions + partitions, outcomes), 1)
        self._bad_counts += np.bincount(events["item"][is_bad], minlength=len(self._classes))
        self._expectation.accept(events[outcomes == ACCEPTED])
        self.messages += len(events)


def file_names(options: Options) -> list[str]:
    """Names of the files of a simulation; each is a partition for `backfill`, in this order."""
    suffix = f".ndjson.{options.compression}" if options.compression else ".ndjson"
    if options.file_per_topic:
        return [f"{kind}-{topic}-{partition:03}{suffix}" for kind, topic in enumerate(TOPICS)
                for partition in range(options.partitions)]  # fmt: skip
    return [f"events-{partition:03}{suffix}" for partition in range(options.partitions)]


def simulate_to_files(
    directory: Path, options: Options, on_progress: Callable[[Progress], None] | None = None, stop: Event | None = None
) -> Truth:
    """Write NDJSON files (`topic` in each object, order = arrival), the truth and names. Needs a bound."""
    if options.events is None and options.duration_s is None:
        raise ValueError("files need a bound: events or duration_s")
    directory.mkdir(parents=True, exist_ok=True)
    stream = Stream(options, FILES_START if options.start is None else options.start, in_files=True)
    with ExitStack() as opened:
        files = [opened.enter_context(open_output(directory / name)) for name in file_names(options)]
        for batch in _bounded(stream, options, stop or Event()):
            numbers = stream.files_of(batch)
            for number, file in enumerate(files):
                lines = [_line(batch.values[place]) for place in np.flatnonzero(numbers == number).tolist()]
                if lines:
                    file.write("\n".join([*lines, ""]).encode("utf-8", "surrogateescape"))
            if on_progress:
                on_progress(Progress(stream.messages, stream.traffic.clock, live=False))
    truth = stream.truth()
    truth.write(directory)
    write_names(directory, options, stream.traffic.rooms)
    return truth


def _bounded(stream: Stream, options: Options, stop: Event) -> Iterator[Batch]:
    """All messages that the options ask for, as fast as possible."""
    end = None if options.duration_s is None else stream.traffic.start + round(options.duration_s * 1000)
    while not stop.is_set() and not stream.enough(drain=options.drain) and (end is None or stream.traffic.clock < end):
        step = stream.traffic.clock + stream.step_ms
        yield stream.until(step if end is None else min(step, end))
    while options.drain and stream.traffic.scheduled and not stop.is_set() and not stream.enough(drain=False):
        yield stream.until(stream.traffic.clock + stream.step_ms, fresh=False)


def _line(value: str | bytes | None) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value or ""


def open_output(path: Path) -> BinaryIO:
    """A file to write, compressed as its name says; the same content gives the same bytes."""
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if codec:
        return cast("BinaryIO", pa.CompressedOutputStream(str(path), codec))
    return path.open("wb")


def simulate_to_kafka(
    brokers: str,
    options: Options,
    stop: Event,
    on_progress: Callable[[Progress], None] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Truth:
    """Send messages until the bound or until `stop` is set.

    Topics that are absent are made; the truth is exact if they were empty before. `on_progress` may block: that holds
    the sender back. Raises `DependencyDown`.
    """
    topics = [options.topic_prefix + name for name in TOPICS]
    options = replace(options, partitions=ensure_topics(brokers, topics, options.partitions, properties))
    names = NameSender(brokers, options, properties)  # before the clock is read: it may wait for the broker
    stream = Stream(options, _kafka_start(options), in_files=False)
    sender = Sender(brokers, topics, properties)
    try:
        for batch, live in _paced(stream, options, stop):
            names.follow(stream.traffic.rooms)
            sender.send(batch)
            if on_progress:
                on_progress(Progress(stream.messages, stream.traffic.clock, live))
    finally:
        names.close()
        sender.flush()
    return stream.truth()


def _kafka_start(options: Options) -> int:
    """Event time at which the stream begins, so that it comes to the present."""
    if options.start is not None:
        return options.start
    back_s = options.history_s
    if not options.paced:
        back_s = options.duration_s or (options.events or 0) / options.rate
    return round((time.time() - back_s) * 1000)


def _paced(stream: Stream, options: Options, stop: Event) -> Iterator[tuple[Batch, bool]]:
    """Batches, and whether each is live: as fast as possible up to the present, then at the clock's pace."""
    if not options.paced:
        yield from ((batch, False) for batch in _bounded(stream, options, stop))
        return
    start, end = stream.traffic.start, None
    if options.duration_s is not None:
        end = start + round((options.history_s + options.duration_s) * 1000)
    while not stop.is_set() and not stream.enough(drain=False) and (end is None or stream.traffic.clock < end):
        clock, now = stream.traffic.clock, round(time.time() * 1000)
        behind = now - clock
        if behind < LIVE_STEP_MS:
            stop.wait((LIVE_STEP_MS - behind) / 1000)
            continue
        step = clock + min(behind, stream.step_ms)
        yield stream.until(step if end is None else min(step, end)), behind < 2_000


def ensure_topics(brokers: str, topics: list[str], partitions: int, properties: Mapping[str, str] | None = None) -> int:
    """Make the topics that are absent; the number of partitions that all of them have. Raises `DependencyDown`."""
    asker = Asker({**(properties or {}), "bootstrap.servers": brokers})
    known = asker.metadata().topics
    absent = [name for name in topics if name not in known]
    if absent:
        ExternalBroker(brokers, dict(properties or {})).create_topics(absent, partitions)
        known = asker.metadata().topics
    return min(len(known[name].partitions) for name in topics)


class Sender:
    """Messages to Kafka in order, each to the partition that it belongs to. `kinds` of a batch index `topics`."""

    def __init__(self, brokers: str, topics: list[str], properties: Mapping[str, str] | None = None) -> None:
        self._topics = topics
        self._failed: str | None = None
        self._producer = Producer({
            **(properties or {}), "bootstrap.servers": brokers, "log_level": 0, "enable.idempotence": True,
            "compression.type": "lz4", "linger.ms": 20, "batch.size": 1_000_000,
            "queue.buffering.max.messages": 400_000, "queue.buffering.max.kbytes": 400_000,
            "delivery.report.only.error": True, "on_delivery": self._delivered,
        })  # fmt: skip

    def send(self, batch: Batch) -> None:
        """Hand the batch to the client; waits while its queue is full. Raises `DependencyDown` for what went before."""
        produce, topics = self._producer.produce, self._topics
        messages = zip(batch.kinds.tolist(), batch.values, batch.keys, batch.partitions.tolist(), strict=True)
        for kind, value, key, partition in messages:
            while True:
                try:
                    produce(topics[kind], value, key, partition)
                    break
                except BufferError:
                    self._producer.poll(0.1)
                    self._check()
        self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Return when everything has arrived. Raises `DependencyDown` if something did not."""
        left = self._producer.flush(_FLUSH_SECONDS)
        if left:
            self._failed = self._failed or f"{left} messages could not be delivered in {_FLUSH_SECONDS:.0f} s"
        self._check()

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._failed = str(error)

    def _check(self) -> None:
        if self._failed:
            raise DependencyDown(
                f"Kafka did not take a message: {self._failed}; the truth would be wrong, so the simulation ends"
            )
