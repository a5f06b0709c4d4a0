"""`active_users` and `active_hours` in plain Python, from the text of TABLES.md: slow and obvious."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Event:
    """An accepted event, as far as activity looks at it. `event_time` in epoch ms."""

    topic: str
    event_time: int
    user_id: str
    tz: str | None
    watch_ms: int | None
    values: tuple[tuple[str, str | None], ...]  # dimension → value, None where the event does not carry the field


Figures = tuple[int, int, int]  # events, distinct users, watch_ms
UserRow = tuple[int, int, str, str]  # window_start, window_seconds, dim, value
HourRow = tuple[str, date, int, int, str, str]  # basis, date, weekday, hour, dim, value


class _Tally:
    def __init__(self) -> None:
        self.events = 0
        self.users: set[str] = set()
        self.watch_ms = 0

    def add(self, event: Event) -> None:
        self.events += 1
        self.users.add(event.user_id)
        self.watch_ms += event.watch_ms or 0

    def figures(self) -> Figures:
        return self.events, len(self.users), self.watch_ms


def _groups(event: Event) -> list[tuple[str, str]]:
    return [("all", "")] + [(dim, value) for dim, value in event.values if value is not None]


def active_users(events: Iterable[Event], windows: Sequence[int]) -> dict[UserRow, Figures]:
    """Rows by key."""
    tallies: dict[UserRow, _Tally] = defaultdict(_Tally)
    for event in events:
        if event.topic == "ad":
            continue
        for seconds in windows:
            start = event.event_time - event.event_time % (seconds * 1000)
            for dim, value in _groups(event):
                tallies[start, seconds, dim, value].add(event)
    return {key: tally.figures() for key, tally in tallies.items()}


def local_hour(time_ms: int, zone: str) -> tuple[date, int, int]:
    """Date, weekday (1 = Monday) and hour that a clock in the zone shows."""
    clock = datetime.fromtimestamp(time_ms // 1000, ZoneInfo(zone))
    return clock.date(), clock.isoweekday(), clock.hour


def active_hours(events: Iterable[Event], platform_zone: str) -> dict[HourRow, Figures]:
    """Rows by key."""
    tallies: dict[HourRow, _Tally] = defaultdict(_Tally)
    for event in events:
        if event.topic == "ad":
            continue
        for basis, zone in (("platform", platform_zone), ("user", event.tz or platform_zone)):
            for dim, value in _groups(event):
                tallies[(basis, *local_hour(event.event_time, zone), dim, value)].add(event)
    return {key: tally.figures() for key, tally in tallies.items()}


@cache
def platform_hour_end(day: date, hour: int, zone: str) -> int:
    """Epoch ms of the first whole minute after which no clock in the zone shows that hour of that day again."""
    noon = int(datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo("UTC")).timestamp()) * 1000
    minutes = [noon + minute * 60_000 for minute in range(-40 * 60, 40 * 60)]
    shown = [t for t in minutes if local_hour(t, zone)[::2] == (day, hour)]
    return shown[-1] + 60_000


def user_hour_end(day: date, hour: int) -> int:
    """Epoch ms at which a clock in UTC−12 has passed that hour."""
    start = datetime(day.year, day.month, day.day, hour, tzinfo=ZoneInfo("Etc/GMT+12"))
    return int(start.timestamp()) * 1000 + 3_600_000
