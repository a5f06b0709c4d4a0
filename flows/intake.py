"""What stands between the feed's threads and the dataflow: parts that wait, released in step of event time.

Alignment: a partition with a backlog may run at most `alignment` ahead of the one furthest behind (over all workers),
so that replaying a day takes the memory of living through it. The partition furthest behind can always go on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.messages import MAX_TIME, MIN_TIME, Slice, SourceProgress
from flows.parts import Part
from flows.watermark import PartitionTime, SourceClock, TimeBounds

_SPARSE_ROUND = 8_000  # messages; a round of a sparse day costs about as much as these


class Standing(NamedTuple):
    """How far one partition has been read."""

    name: str
    next_offset: int  # of the first message that has not been released
    newest: int  # event time of the last message that waits, or of the last one released
    ahead: bool  # the last one may not go yet: another partition is behind


class AlignmentBoard:
    """Each worker's least event time, shared between the worker processes of one machine through a small file."""

    def __init__(self, path: Path | None, worker: int, workers: int) -> None:
        self._worker = worker
        if path is None:
            self._slots = np.full(workers, MAX_TIME, dtype=np.int64)
            return
        self._slots = np.asarray(np.memmap(path, dtype=np.int64, mode="r+", shape=workers))

    @staticmethod
    def create(path: Path, workers: int) -> None:
        """A fresh board on which no worker holds another back."""
        path.write_bytes(np.full(workers, MAX_TIME, dtype=np.int64).tobytes())

    def least(self, mine: int) -> int:
        """Publish this worker's least event time; the least of all."""
        self._slots[self._worker] = mine
        return int(self._slots.min())


@dataclass(slots=True)
class _Lane:
    """One partition: what waits, and where it stands."""

    name: str
    time: PartitionTime
    next_offset: int
    waiting: deque[Part] = field(default_factory=deque)
    messages: int = 0  # in `waiting`
    backlog: bool = True  # more is known to be in the log, or `waiting` is not empty

    def free(self, limit: int) -> int:
        """How many of the messages that wait may go up to a limit of event time."""
        count = 0
        for part in self.waiting:
            mine = part.up_to(limit)
            count += mine
            if mine < len(part):
                break
        return count

    def newest(self) -> int:
        """The event time that this partition is at once all that waits is released."""
        return int(self.waiting[-1].maxima[-1]) if self.waiting else self.time.max_event_time

    def front(self) -> int:
        """The event time that this partition would be at after one more message."""
        if self.waiting:
            return int(self.waiting[0].maxima[1])
        return self.time.max_event_time


class Intake:
    """Lanes of parts, one for each partition of this worker. Feed threads `put`; the dataflow's thread `take`s."""

    def __init__(self, bounds: TimeBounds, board: AlignmentBoard, worker: int, *, follow_clock: bool) -> None:
        self._bounds = bounds
        self._board = board
        self._worker = worker
        self._clock = SourceClock(bounds)
        self._lanes: dict[str, _Lane] = {}
        self._lock = threading.Lock()
        self._follow_clock = follow_clock  # false for bounded input, which has no idleness
        self._until = MIN_TIME  # of this round; MIN_TIME: no more than alignment says
        self.arrived = threading.Event()
        self.lag_ms = 0

    def add(self, name: str, next_offset: int, max_event_time: int, now: int) -> None:
        """Open a lane for a partition that resumes at these."""
        time = PartitionTime(max_event_time, last_message=now)
        with self._lock:
            self._lanes[name] = _Lane(name, time, next_offset)
            self._clock.partitions[name] = time

    def put(self, name: str, part: Part) -> None:
        """A part to wait for its release (feed thread)."""
        with self._lock:
            lane = self._lanes[name]
            lane.waiting.append(part)
            lane.messages += len(part)
        self.arrived.set()

    def caught_up(self, name: str, *, caught_up: bool, ended: bool = False) -> None:
        """Whether the feed has read the partition to its present end (feed thread)."""
        with self._lock:
            lane = self._lanes[name]
            lane.backlog = not caught_up
            lane.time.caught_up = caught_up and not lane.waiting
            if ended and not lane.waiting:
                lane.time.ended = True

    def waiting(self) -> dict[str, int]:
        """Messages that wait, by partition."""
        return {name: lane.messages for name, lane in self._lanes.items()}

    def total_waiting(self) -> int:
        """Messages that wait, of all partitions."""
        return sum(lane.messages for lane in list(self._lanes.values()))

    def standing(self, names: Iterable[str]) -> list[Standing]:
        """How far these partitions have been read."""
        with self._lock:
            limit, lanes = self._limit(), [self._lanes[name] for name in names]
            unknown = limit == MIN_TIME  # of some partition nothing is known
            return [
                Standing(
                    lane.name,
                    lane.next_offset,
                    newest := lane.newest(),
                    newest > limit or (unknown and not lane.waiting),
                )
                for lane in lanes
            ]

    def ready(self, worth: int) -> bool:
        """Whether a round would release so many messages, or all there are: every partition was read to its end.

        In sparse history a smaller round will do.
        """
        with self._lock:
            lanes = self._lanes.values()
            if not any(lane.backlog for lane in lanes):
                return any(lane.waiting for lane in lanes)
            limit = self._limit()
            return self._free(limit) >= worth or (
                (reach := self._reach(limit)) > limit and self._free(reach) >= _SPARSE_ROUND
            )

    def open_round(self) -> None:
        """Set how far in event time `take` may go: to the alignment, and beyond it in sparse history."""
        with self._lock:
            reach = self._reach(self._limit())
            self._until = MIN_TIME if reach == MAX_TIME else reach  # nothing was there: what comes is held to the limit

    def lagging(self, limit_ms: int) -> bool:
        """Whether a backlog older than `limit_ms` is being worked off."""
        return self.lag_ms > limit_ms and any(lane.backlog or lane.waiting for lane in list(self._lanes.values()))

    def positions(self) -> dict[str, tuple[int, int]]:
        """Per partition: offset of the next message to release, greatest event time released."""
        return {name: (lane.next_offset, lane.time.max_event_time) for name, lane in self._lanes.items()}

    def _front(self) -> int:
        return min((lane.front() for lane in self._lanes.values() if lane.backlog or lane.waiting), default=MAX_TIME)

    def _limit(self) -> int:
        least = self._board.least(self._front())
        return least if least in (MIN_TIME, MAX_TIME) else least + self._bounds.alignment

    def _free(self, limit: int) -> int:
        return sum(lane.free(limit) for lane in self._lanes.values())

    def _reach(self, limit: int) -> int:
        """The limit; moved on in sparse history, where a round would else release hardly more than it costs.

        No further than all own partitions with a backlog are known, and only by the worker that is furthest behind:
        what others hold would find windows open that alignment keeps shut.
        """
        if limit in (MIN_TIME, MAX_TIME) or self._front() + self._bounds.alignment > limit:
            return limit
        lanes = self._lanes.values()
        known = min((lane.newest() for lane in lanes if lane.backlog), default=MAX_TIME)
        last = min(known, max(lane.newest() for lane in lanes))
        reach, step = limit, max(1, self._bounds.alignment)
        while reach < last and self._free(reach) < _SPARSE_ROUND:
            reach, step = reach + step, 2 * step
        return max(limit, min(reach, last))

    def take(self, name: str, most: int, now: int) -> Slice | None:
        """The next messages of a partition that may go in this round, at most `most`; None when it must wait."""
        with self._lock:
            lane = self._lanes[name]
            if not lane.waiting or most <= 0:
                return None
            part = lane.waiting[0]
            count = min(part.up_to(max(self._limit(), self._until)), most)
            if count == 0:
                return None
            if count < len(part):
                part, lane.waiting[0] = part.split(count)
            else:
                lane.waiting.popleft()
            lane.messages -= count
            lane.next_offset = part.next_offset
            lane.time.max_event_time = int(part.maxima[-1])
            lane.time.last_message = now
            lane.time.caught_up = not lane.backlog and not lane.waiting
        return part.slice(by_log=not self._follow_clock)

    def position(self, name: str) -> tuple[int, int]:
        """(next offset, greatest event time) of one partition, as released."""
        lane = self._lanes[name]
        return lane.next_offset, lane.time.max_event_time

    def finish(self, name: str) -> bool:
        """Mark a bounded partition as ended if all of it was released; whether it was."""
        with self._lock:
            lane = self._lanes[name]
            if lane.waiting or lane.backlog:
                return False
            lane.time.ended = lane.time.caught_up = True
            return True

    def progress(self, now: int, *, early: bool) -> SourceProgress:
        """Where this worker's partitions stand."""
        with self._lock:
            self._limit()  # says on the board that nothing waits here, where `take` does not come to it
            if self._follow_clock:
                watermark, idle = self._clock.advance(now)
            else:
                watermark, idle = self._clock.advance(0)
            end = all(lane.time.ended for lane in self._lanes.values())
            return SourceProgress(self._worker, watermark, idle, now, early, end, self._clock.last_event_time)
