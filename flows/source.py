"""The Bytewax source: one source partition for each Kafka partition (or file), offsets in its snapshot.

The parts themselves are read, decoded and aligned by an intake and its feed; here they are only taken, in step with
Bytewax's epochs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.intake import Intake
from flows.messages import MIN_TIME, SourceItem, SourceProgress
from flows.metrics import EngineMetrics
from flows.reject_guard import RejectGuard
from flows.state_log import check_format
from sinks import fail_points

_FORMAT = 1
_IDLE_WAIT_MS = 20  # each partition asks by itself: 16 of them every 5 ms took a tenth of a core
_HEARTBEAT_MS = 100
_ROUND_MS = 250  # a round is due when this has passed or a whole round of events waits: folds cost by the call
_BACKLOG_REST_MS = 100  # with a backlog nobody waits for early rows: so long after a round for one that is worth it


class PartitionState(msgspec.Struct, frozen=True, array_like=True):
    """What a source partition's snapshot holds."""

    format: int
    next_offset: int
    max_event_time: int
    topic_id: str = ""  # Kafka's own, by which a topic that was made anew is known; "": it told none


class Feed(Protocol):
    """What fills an intake: Kafka or files."""

    @property
    def failure(self) -> BaseException | None:
        """Why a thread of the feed died."""

    @property
    def topology_changed(self) -> bool:
        """Whether topics or partitions have come since the start."""

    def open(self, name: str, state: PartitionState | None) -> None:
        """Start to read a partition, where `state` left off."""

    def commit(self, name: str, offset: int) -> None:
        """Everything below `offset` is in a committed epoch."""


@dataclass(slots=True)
class SourceRun:
    """One worker's side of the source, shared by its partitions."""

    intake: Intake
    feed: Feed
    clock: Callable[[], int]
    early: Callable[[], bool]  # whether early rows are wanted now
    batch_events: int  # most events taken in one round over the partitions
    bounded: bool
    drain: threading.Event = field(default_factory=threading.Event)  # stop cleanly, nothing to replay
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    guard: RejectGuard = field(default_factory=RejectGuard)
    topic_ids: Mapping[str, str] = field(default_factory=dict)  # by topic
    early_interval_ms: int = 2 * _ROUND_MS  # early rows are asked for so often: a round before them is enough
    _left: int = 0
    _taking: bool = False
    _rested: int = 0
    _last_emit: int = 0
    _last_round: int = 0
    _served: set[str] = field(default_factory=set)  # partitions that have asked in this pass over them
    _took: set[str] = field(default_factory=set)  # and those whose turn in this round is over

    def take(self, name: str) -> list[SourceItem]:
        """Items of one partition for this round; whoever finds the last emission too old adds a heartbeat."""
        if self.feed.failure is not None:
            raise self.feed.failure
        now = self.clock()
        self.metrics.looped()
        if name in self._served or not self._served:
            self._served.clear()
            self._begin_round(now)
        self._served.add(name)
        items = []
        had_turn = name in self._took
        self._took.add(name)
        # All that may go: with one part a round, what a stall piles up would stay in the way for ever.
        while not had_turn and (taken := self.intake.take(name, self._left, now)) is not None:
            if taken.frame is not None:
                self._left -= taken.frame.height
            self.metrics.took(taken)
            self.guard.count(name, taken)
            items.append(SourceItem(taken, self._progress(now)))
        if items:
            self._last_emit = now
            return items
        return [self.heartbeat()] if now - self._last_emit >= _HEARTBEAT_MS else []

    def _begin_round(self, now: int) -> None:
        """Begin one if it is due; else whoever has not had a turn in the last one still may: not all ask at once."""
        if self._taking:
            self._rested = now  # what was taken has gone through the dataflow
        if self.bounded:
            due = True
        elif self.early():
            apart = min(_ROUND_MS, self.early_interval_ms // 2)
            due = now - self._last_round >= apart or self.intake.total_waiting() >= self.batch_events
        else:
            due = now - self._rested >= _BACKLOG_REST_MS or (
                self.intake.total_waiting() >= 2 * self.batch_events or self.intake.ready(self.batch_events // 4)
            )
        self._taking = due
        if due:
            self._last_round, self._left = now, self.batch_events
            self._took.clear()
            self.intake.open_round()

    def heartbeat(self) -> SourceItem:
        """Progress without messages."""
        self._last_emit = self.clock()
        return SourceItem(None, self._progress(self._last_emit))

    def _progress(self, now: int) -> SourceProgress:
        progress = self.intake.progress(now, early=self.early())
        self.metrics.looped(progress)
        return progress

    def ending(self) -> bool:
        """Whether the partitions must end now, with their state kept."""
        return self.drain.is_set() or self.feed.topology_changed


class _Partition(StatefulSourcePartition[SourceItem, bytes]):
    def __init__(self, run: SourceRun, name: str, topic_id: str = "") -> None:
        self._run, self._name = run, name
        self._topic_id = run.topic_ids.get(name.rsplit("/", 1)[0]) or topic_id  # a broker without ids forgets none
        self._committed = MIN_TIME
        self._idle = self._ended = False

    def next_batch(self) -> list[SourceItem]:
        if self._ended or self._run.ending():
            raise StopIteration
        items = self._run.take(self._name)
        self._idle = not items
        if self._run.bounded and self._run.intake.finish(self._name):
            # Say once more how things stand: the last partition to end lets every window close.
            self._ended = True
            return [*items, self._run.heartbeat()]
        return items

    def next_awake(self) -> datetime | None:
        """The next of the instants at which all idle partitions ask: together they make one round, apart several."""
        if not self._idle:
            return None
        return datetime.fromtimestamp((time.time_ns() // 1_000_000 // _IDLE_WAIT_MS + 1) * _IDLE_WAIT_MS / 1000, UTC)

    def snapshot(self) -> bytes:
        # The state of the last snapshot is committed by now: an epoch's data is taken only after the one before it.
        if self._committed != MIN_TIME:
            self._run.feed.commit(self._name, self._committed)
        offset, max_event_time = self._run.intake.position(self._name)
        self._committed = offset
        self._run.metrics.epoch(self._name)
        fail_points.reach(fail_points.IN_COMMIT)
        return msgspec.msgpack.encode(PartitionState(_FORMAT, offset, max_event_time, self._topic_id))


class IntakeSource(FixedPartitionedSource[SourceItem, bytes]):
    """A Bytewax source over an intake. `names`: the partitions of this worker."""

    def __init__(self, run: SourceRun, names: Sequence[str]) -> None:
        self._run, self._names = run, list(names)

    def list_parts(self) -> list[str]:
        return self._names

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _Partition:
        state = None
        if resume_state is not None:
            check_format(f"state of source partition {for_part}", resume_state, _FORMAT)
            state = msgspec.msgpack.decode(resume_state, type=PartitionState)
        self._run.feed.open(for_part, state)
        return _Partition(self._run, for_part, state.topic_id if state else "")
