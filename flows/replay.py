"""`livepulse replay`: recorded events back into Kafka, at the pace at which they happened or faster."""

from __future__ import annotations

import heapq
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any, Final, Literal

import orjson
from confluent_kafka import Producer

from flows.broker import PARTITIONS
from flows.errors import DependencyDown, Usage
from flows.file_feed import open_lines
from flows.simulate import ensure_topics
from schemas.events import TOPICS

_FLUSH_SECONDS: Final = 30.0
_REPORT_SECONDS: Final = 0.2
_PATIENCE_MS: Final = 5.0  # a wait shorter than this is not worth it
_LONG_NUMBER: Final = re.compile(rb"\d{19}")  # orjson would turn one of 2^64 and more into a float
_UNPLACED: Final = -(1 << 62)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay.

    `speed`: event time per wall time; None: as fast as possible. `shift_to_now`: move all event times so that the
    recording starts or ends now. `partitions`: of topics that are made.
    """

    speed: float | None = 1.0
    shift_to_now: Literal["start", "end"] | None = None
    topic_prefix: str = ""
    partitions: int = PARTITIONS

    def __post_init__(self) -> None:
        if self.speed is not None and not self.speed > 0:
            raise ValueError("speed must be over 0, or max")
        if self.shift_to_now == "start" and (self.speed is None or self.speed > 1):
            raise ValueError(
                "a recording that starts now and runs faster than the clock would lie in the future, where events are "
                "rejected: let it end now, or use a speed of 1 or less"
            )


@dataclass(frozen=True, slots=True)
class Survey:
    """What the files hold. Times in epoch ms, None if no event has a time that can be read."""

    lines: int
    first: int | None
    last: int | None


@dataclass(slots=True)
class ReplayCounts:
    """What became of the lines."""

    lines: int = 0
    published: Counter[str] = field(default_factory=Counter)  # by topic
    unroutable: int = 0  # no JSON object, or none of the contract's topics in it: nobody can tell where it belongs
    event_time: int = 0  # epoch ms, as recorded
    done: float = 0.0  # 0–1


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded message without its `topic`. `due`: greatest event time so far in its file, epoch ms."""

    due: int
    topic: str
    event: dict[str, Any]
    plain: bool  # orjson keeps all of it


def replay(
    files: Sequence[Path],
    brokers: str,
    options: ReplayOptions,
    stop: Event,
    on_progress: Callable[[ReplayCounts], None] | None = None,
    properties: Mapping[str, str] | None = None,
) -> ReplayCounts:
    """Publish the events of the files until their end or until `stop` is set; keyed by user, in each file's order.

    Several files are one stream in event time. Raises `Usage` (a file), `DependencyDown` (Kafka).
    """
    for path in files:
        if not path.is_file():
            raise Usage(f"{path}: no such file")
    survey = surveyed(files, times=options.shift_to_now is not None)
    now = round(time.time() * 1000)
    anchor = survey.first if options.shift_to_now == "start" else survey.last
    shift = 0 if options.shift_to_now is None or anchor is None else now - anchor
    ensure_topics(brokers, [options.topic_prefix + topic for topic in TOPICS], options.partitions, properties)
    publisher = _Publisher(brokers, properties)
    counts = ReplayCounts()
    pace = _Pace(options.speed, stop, publisher.serve)
    reported = time.monotonic()
    for recorded in _merged(files, counts):
        counts.event_time = max(counts.event_time, recorded.due)
        if not pace.wait_for(recorded.due):
            break
        publisher.send(options.topic_prefix + recorded.topic, _key(recorded.event), _value(recorded, shift))
        counts.published[recorded.topic] += 1
        if on_progress and time.monotonic() - reported > _REPORT_SECONDS:
            reported, counts.done = time.monotonic(), counts.lines / max(1, survey.lines)
            on_progress(counts)
    publisher.flush()
    counts.done = counts.lines / max(1, survey.lines)
    if on_progress:
        on_progress(counts)
    return counts


def surveyed(files: Sequence[Path], *, times: bool) -> Survey:
    """One look at all lines; event times only if asked for."""
    lines, first, last = 0, None, None
    for path in files:
        with open_lines(path) as file:
            for line in file:
                lines += 1
                if times and (recorded := parsed(line, _UNPLACED)) and recorded.due > _UNPLACED:
                    first = recorded.due if first is None else min(first, recorded.due)
                    last = recorded.due if last is None else max(last, recorded.due)
    return Survey(lines, first, last)


def parsed(line: bytes, greatest: int) -> Recorded | None:
    """The event of a line, due at its time but never before `greatest`; None if it cannot be routed."""
    plain = not _LONG_NUMBER.search(line)
    try:
        event = orjson.loads(line) if plain else json.loads(line)
    except ValueError:
        plain = False
        try:
            event = json.loads(line)  # takes NaN, lone surrogates and the like: still worth publishing
        except (ValueError, RecursionError):
            return None
    except RecursionError:
        return None
    topic = event.pop("topic", None) if isinstance(event, dict) else None
    if topic not in TOPICS:
        return None
    return Recorded(max(greatest, _event_time(event.get("event_time"))), topic, event, plain)


def _event_time(value: object) -> int:
    """Epoch ms of a time as the contract allows it; before everything if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value < 1 << 45 else _UNPLACED
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return _UNPLACED
        return _UNPLACED if moment.tzinfo is None else int(moment.timestamp() * 1000)
    return _UNPLACED


def _merged(files: Sequence[Path], counts: ReplayCounts) -> Iterator[Recorded]:
    """All routable events, each file in its own order, the files merged by when they are due."""
    return heapq.merge(*(_of_file(path, counts) for path in files), key=lambda recorded: recorded.due)


def _of_file(path: Path, counts: ReplayCounts) -> Iterator[Recorded]:
    greatest = _UNPLACED
    with open_lines(path) as file:
        for line in file:
            counts.lines += 1
            recorded = parsed(line, greatest)
            if recorded is None:
                counts.unroutable += 1
                continue
            greatest = recorded.due
            yield recorded


def _key(event: Mapping[str, Any]) -> str | None:
    user = event.get("user_id")
    try:
        return user if isinstance(user, str) and user.encode() else None
    except UnicodeEncodeError:
        return None


def _value(recorded: Recorded, shift_ms: int) -> bytes:
    """The message, its event time moved by `shift_ms` in the form that it has."""
    event = recorded.event
    told: Any = event.get("event_time")
    if shift_ms and (moved := _event_time(told) + shift_ms) > 0:
        if isinstance(told, str):
            moment = datetime.fromtimestamp(moved / 1000, datetime.fromisoformat(told).tzinfo)
            event = {**event, "event_time": moment.isoformat(timespec="milliseconds")}
        else:
            event = {**event, "event_time": moved}
    return orjson.dumps(event) if recorded.plain else json.dumps(event).encode()


class _Pace:
    """Waits until an event is due. `serve` is called while waiting."""

    def __init__(self, speed: float | None, stop: Event, serve: Callable[[], None]) -> None:
        self._speed, self._stop, self._serve = speed, stop, serve
        self._began: tuple[float, int] | None = None  # wall seconds, event time

    def wait_for(self, due: int) -> bool:
        """False: asked to stop."""
        if self._speed is None or due == _UNPLACED:
            return not self._stop.is_set()
        if self._began is None:
            self._began = (time.monotonic(), due)
        at = self._began[0] + (due - self._began[1]) / 1000 / self._speed
        while (left := at - time.monotonic()) * 1000 > _PATIENCE_MS and not self._stop.is_set():
            self._serve()
            self._stop.wait(min(left, 0.1))
        return not self._stop.is_set()


class _Publisher:
    """Sends in order; a message that does not arrive ends the replay."""

    def __init__(self, brokers: str, properties: Mapping[str, str] | None) -> None:
        self._failed: str | None = None
        self._waiting = 0
        self._producer = Producer({
            **(properties or {}), "bootstrap.servers": brokers, "log_level": 0, "enable.idempotence": True,
            "compression.type": "lz4", "linger.ms": 20, "delivery.report.only.error": True,
            "on_delivery": self._delivered,
        })  # fmt: skip

    def send(self, topic: str, key: str | None, value: bytes) -> None:
        """Hand over one message; waits while the client's queue is full."""
        while True:
            try:
                self._producer.produce(topic, value, key)
                break
            except BufferError:
                self.serve(0.1)
        self._waiting += 1
        if self._waiting >= 1_000:
            self.serve()

    def serve(self, seconds: float = 0.0) -> None:
        """Take in what the client has to tell. Raises `DependencyDown` if a message was lost."""
        self._waiting = 0
        self._producer.poll(seconds)
        if self._failed:
            raise DependencyDown(f"Kafka did not take a message: {self._failed}")

    def flush(self) -> None:
        """Return when everything has arrived."""
        left = self._producer.flush(_FLUSH_SECONDS)
        if left:
            raise DependencyDown(f"{left} messages could not be delivered in {_FLUSH_SECONDS:.0f} s")
        self.serve()

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._failed = str(error)
