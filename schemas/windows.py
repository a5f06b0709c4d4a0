"""Windows of event time as value objects that cannot be built wrong, and the spec of the activity family.

A window is named by its `start` in epoch ms: UTC for tumbling windows; for hours of local time the reading of the local
clock, as if that clock showed UTC (so both passes of an hour that a clock change doubles have one start).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from schemas.events import ALL, DIMENSIONS, OPTIONAL

Int64s = npt.NDArray[np.int64]

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
WEST_MOST_MS: Final = 12 * HOUR_MS
"""How far the last zone (UTC−12) is behind UTC: when its clock has passed an hour, every user's has."""


class Window(Protocol):
    """A way to cut time into windows."""

    @property
    def code(self) -> int:
        """A number that names this way of cutting in stored state."""

    @property
    def size_ms(self) -> int:
        """How far starts lie apart."""

    def starts(self, times: Int64s, platform_offsets: Int64s, user_offsets: Int64s) -> Int64s:
        """The window of each event: times are epoch ms, offsets ms east of UTC; all of length n."""

    def closes_at(self, start: int) -> int:
        """Epoch ms at which a watermark ends the window."""


@dataclass(frozen=True, slots=True)
class TumblingWindow:
    """UTC windows `[start, start + seconds)`, aligned to the epoch."""

    seconds: int

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= DAY_MS // SECOND_MS:
            raise ValueError(f"a window of {self.seconds} s: it must last from 1 s to a day")

    @property
    def code(self) -> int:
        """Its length in seconds."""
        return self.seconds

    @property
    def size_ms(self) -> int:
        """Its length in ms."""
        return self.seconds * SECOND_MS

    def starts(self, times: Int64s, platform_offsets: Int64s, user_offsets: Int64s) -> Int64s:  # noqa: ARG002
        """See `Window`; offsets are not looked at."""
        return times // self.size_ms * self.size_ms

    def closes_at(self, start: int) -> int:
        """See `Window`."""
        return start + self.size_ms


@dataclass(frozen=True, slots=True)
class PlatformHour:
    """The hours of the platform's own clock."""

    zone: str
    code: int = field(default=0, init=False)
    size_ms: int = field(default=HOUR_MS, init=False)

    def __post_init__(self) -> None:
        ZoneInfo(self.zone)  # raises for a zone that is not there

    def starts(self, times: Int64s, platform_offsets: Int64s, user_offsets: Int64s) -> Int64s:  # noqa: ARG002
        """See `Window`."""
        return (times + platform_offsets) // HOUR_MS * HOUR_MS

    def closes_at(self, start: int) -> int:
        """See `Window`: the end of the hour, of its second pass where a clock change doubles it."""
        return local_hour_end(self.zone, start)


@dataclass(frozen=True, slots=True)
class UserHour:
    """The hours of each user's own clock. One closes when even a clock in UTC−12 has passed it."""

    code: int = field(default=-1, init=False)
    size_ms: int = field(default=HOUR_MS, init=False)

    def starts(self, times: Int64s, platform_offsets: Int64s, user_offsets: Int64s) -> Int64s:  # noqa: ARG002
        """See `Window`."""
        return (times + user_offsets) // HOUR_MS * HOUR_MS

    def closes_at(self, start: int) -> int:
        """See `Window`."""
        return start + HOUR_MS + WEST_MOST_MS


def utc_offset_ms(zone: str, time_ms: int) -> int:
    """How far `zone` is ahead of UTC at an instant, in ms (historic offsets have seconds)."""
    moment = datetime.fromtimestamp(time_ms // SECOND_MS, ZoneInfo(zone))
    offset = moment.utcoffset()
    assert offset is not None
    return offset // timedelta(milliseconds=1)


@lru_cache(maxsize=4096)
def local_hour_end(zone: str, start: int) -> int:
    """The instant (epoch ms) that ends the local hour with this wall-clock `start` for the last time."""
    wall = [datetime.fromtimestamp(edge // SECOND_MS, UTC) for edge in (start, start + HOUR_MS)]
    offsets = {
        offset // timedelta(milliseconds=1)
        for edge in wall
        for fold in (0, 1)
        if (offset := edge.replace(tzinfo=ZoneInfo(zone), fold=fold).utcoffset()) is not None
    }
    end = start + HOUR_MS - min(offsets)
    if len(offsets) > 1:  # a clock change is near: walk back to the last second that shows this hour
        first = start - max(offsets)
        while end > first and (end - SECOND_MS + utc_offset_ms(zone, end - SECOND_MS)) // HOUR_MS * HOUR_MS != start:
            end -= SECOND_MS
    return end


@dataclass(frozen=True, slots=True)
class ActivitySpec:
    """What `active_users` and `active_hours` count, and how long their windows can be opened again.

    Attributes:
        windows: lengths of the tumbling windows of `active_users`, in seconds.
        hours: whether `active_hours` is kept.
        dimensions: event columns with a row for each value, beside `all`.
        platform_zone: IANA zone of the platform, and of events that name none.
        retain_ms: how far behind the watermark a closed window still takes events.
        value_cap: distinct values of one dimension in one window; further ones count as `__other__`.
    """

    windows: tuple[int, ...] = (60, 3600)
    hours: bool = True
    dimensions: tuple[str, ...] = DIMENSIONS
    platform_zone: str = "Asia/Shanghai"
    retain_ms: int = HOUR_MS
    value_cap: int = 10_000

    def __post_init__(self) -> None:
        if not self.windows and not self.hours:
            raise ValueError("activity with no windows and no hours counts nothing")
        if len(set(self.windows)) != len(self.windows):
            raise ValueError(f"a window is named twice: {self.windows}")
        unknown = [d for d in self.dimensions if d not in OPTIONAL or d == ALL]
        if unknown or len(set(self.dimensions)) != len(self.dimensions):
            raise ValueError(f"dimensions must be different event columns, not {self.dimensions}")
        if self.retain_ms < 0 or self.value_cap < 1:
            raise ValueError("retain_ms must not be negative, value_cap must be at least 1")
        self.cuts()

    def cuts(self) -> tuple[Window, ...]:
        """Every way in which this spec cuts time."""
        tumbling: tuple[Window, ...] = tuple(TumblingWindow(seconds) for seconds in self.windows)
        local: tuple[Window, ...] = (PlatformHour(self.platform_zone), UserHour()) if self.hours else ()
        return tumbling + local
