"""Event time: which events are late, when a partition is idle, and the least watermark. No clock and no thread inside.

Late is a function of the log alone: an event is late if its time is below M − out-of-orderness − allowed lateness, M
being the greatest valid event time at lower offsets of its own partition. The combined watermark only closes windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flows.messages import MAX_TIME, MIN_TIME

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """Settings of event time, all in ms."""

    out_of_orderness: int = 300_000
    allowed_lateness: int = 0
    idle_timeout: int = 30_000
    alignment: int = 120_000
    reopen: int = 3_600_000

    def __post_init__(self) -> None:
        for name in ("out_of_orderness", "allowed_lateness", "idle_timeout", "alignment", "reopen"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")

    @property
    def retain(self) -> int:
        """How far behind the watermark an accepted event may lie, and so how long closed windows are kept."""
        return max(self.reopen, self.allowed_lateness)


def running_max(event_times: Int64s, before: int) -> Int64s:
    """The greatest event time before each event and after the last: shape (n + 1,), starting with `before`."""
    return np.maximum.accumulate(np.concatenate((np.array([before], dtype=np.int64), event_times)))


def late_mask(event_times: Int64s, maxima: Int64s, bounds: TimeBounds) -> npt.NDArray[np.bool_]:
    """True where an event is late; `maxima` is `running_max(event_times, …)`."""
    late: npt.NDArray[np.bool_] = event_times < maxima[:-1] - bounds.out_of_orderness - bounds.allowed_lateness
    return late


@dataclass(slots=True)
class PartitionTime:
    """Event time of one partition as released downstream, and when it last had messages (ingest clock, ms)."""

    max_event_time: int = MIN_TIME
    last_message: int = 0
    caught_up: bool = False
    ended: bool = False

    def idle(self, now: int, bounds: TimeBounds) -> bool:
        """No data for the timeout *and* caught up with the log's end: out of the minimum."""
        return self.ended or (self.caught_up and now - self.last_message >= bounds.idle_timeout)


@dataclass(slots=True)
class SourceClock:
    """The least watermark over one worker's partitions; monotone."""

    bounds: TimeBounds
    partitions: dict[str, PartitionTime] = field(default_factory=dict)
    watermark: int = MIN_TIME

    def advance(self, now: int) -> tuple[int, bool]:
        """The watermark at `now`, and whether all partitions are idle (then it follows the clock)."""
        active = [p for p in self.partitions.values() if not p.idle(now, self.bounds)]
        if active:
            least = min(p.max_event_time for p in active)
            if least > MIN_TIME:
                self.watermark = max(self.watermark, least - self.bounds.out_of_orderness)
            return self.watermark, False
        if self.partitions and all(p.ended for p in self.partitions.values()):
            self.watermark = MAX_TIME
        elif self.last_event_time > MIN_TIME:
            self.watermark = max(self.watermark, now - self.bounds.out_of_orderness)
        return self.watermark, True

    @property
    def last_event_time(self) -> int:
        """The greatest event time released by any partition."""
        return max((p.max_event_time for p in self.partitions.values()), default=MIN_TIME)


@dataclass(slots=True)
class CombinedWatermark:
    """The least watermark over several upstream sources (workers, shards); monotone across restarts.

    Held back until each of `expected` sources has reported once. A source that is idle is left out while another is
    not; when all are idle the least of theirs holds.
    """

    expected: int
    watermark: int = MIN_TIME
    last_event_time: int = MIN_TIME
    _seen: dict[int, tuple[int, bool]] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)

    def report(self, source: int, watermark: int, *, idle: bool, end: bool, last_event_time: int) -> None:
        """Take in what one source says of itself."""
        self._seen[source] = (watermark, idle)
        if end:
            self._ended.add(source)
        self.last_event_time = max(self.last_event_time, last_event_time)
        if len(self._seen) >= self.expected:
            self.watermark = max(self.watermark, _least(self._seen.values()))

    @property
    def ended(self) -> bool:
        """Whether every source has ended (bounded input only)."""
        return len(self._ended) >= self.expected


def _least(marks: Iterable[tuple[int, bool]]) -> int:
    marks = list(marks)
    return min((w for w, idle in marks if not idle), default=min(w for w, _ in marks))
