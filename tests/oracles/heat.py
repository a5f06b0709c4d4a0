"""Heat, stage and half-life by the text of TABLES.md: one event, one topic, one minute at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

MINUTE = 60_000
WINDOW = 10 * MINUTE


@dataclass(frozen=True)
class Event:
    """An accepted event, as far as heat cares. `weight` is what the declaration gives it (0 for a continued report)."""

    time: int
    user: str
    topics: tuple[str, ...]
    weight: float


@dataclass
class Row:
    """One row of `topic_heat`; `rank` is left to `ranks`."""

    heat: float
    events: int
    users: int
    growth: float | None
    stage: str
    must: bool  # a row by events or by the hour, whatever the rank


def by_topic(events: list[Event]) -> dict[str, list[Event]]:
    topics: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda e: e.time):
        for topic in set(event.topics):
            topics.setdefault(topic, []).append(event)
    return topics


def lives(events: list[Event], forget_days: int) -> list[list[Event]]:
    """A topic's events (by time), cut where it was idle for so long that it was forgotten (by minutes)."""
    parts: list[list[Event]] = []
    for event in events:
        if not parts or event.time // MINUTE - parts[-1][-1].time // MINUTE >= forget_days * 1440:
            parts.append([])
        parts[-1].append(event)
    return parts


def heat_at(events: list[Event], tick: int, half_life_minutes: float) -> float:
    return math.fsum(e.weight * 2 ** (-(tick - e.time) / (half_life_minutes * MINUTE)) for e in events if e.time < tick)


def capped(events: list[Event], cap: float) -> list[Event]:
    """A user's events of one topic and minute, scaled down together so that their weights are at most the cap."""
    groups: dict[tuple[str, int], float] = {}
    for e in events:
        key = (e.user, e.time // MINUTE)
        groups[key] = groups.get(key, 0.0) + e.weight
    return [
        Event(e.time, e.user, e.topics, e.weight * min(1.0, cap / groups[e.user, e.time // MINUTE])) if e.weight else e
        for e in events
    ]


@dataclass
class Life:
    """What the ten-minute ticks up to some time say of a topic."""

    stage: str = "unknown"
    growth: float | None = None
    peak: int = 0
    peak_time: int | None = None
    half_life: int | None = None


def live(events: list[Event], until: int) -> list[tuple[int, Life]]:
    """State after each ten-minute tick (tick, state) up to `until`, from the first event on."""
    first = events[0].time
    counts: dict[int, int] = {}
    for event in events:
        tick = (event.time // WINDOW + 1) * WINDOW
        counts[tick] = counts.get(tick, 0) + 1
    ticks = range((first // WINDOW + 1) * WINDOW, until + 1, WINDOW)
    out: list[tuple[int, Life]] = []
    stage, previous = "unknown", ""
    since: list[int] = []  # events of windows since the peak, or the last revival: the trough is their least
    highest = 0
    peak_time: int | None = None
    for tick in ticks:
        now = counts.get(tick, 0)
        hour = sum(counts.get(tick - k * WINDOW, 0) for k in range(6))
        r, mean = Fraction(now, 10), Fraction(hour, 60)
        growth = math.log(r / mean) if r else None
        if now > highest:
            highest, peak_time = now, tick
            if stage not in ("declining", "tail"):  # else the trough that it rises from counts until the stage changes
                since = []
        since.append(now)
        top, trough = Fraction(highest, 10), Fraction(min(since), 10)
        if tick - first < 60 * MINUTE:
            wanted = "emerging"
        elif stage in ("declining", "tail") and growth is not None and growth > 0.2 and r >= 2 * trough:
            wanted = "revival"
        elif r < top / 10:
            wanted = "tail"
        elif growth is not None and growth > 0.2:
            wanted = "growing"
        elif growth is not None and growth < -0.2:
            wanted = "declining"
        elif r >= top * Fraction(8, 10):
            wanted = "peak"
        else:
            wanted = stage
        if wanted != stage and (wanted == previous or stage == "unknown"):
            rose = peak_time is not None and peak_time >= tick - WINDOW
            if wanted == "revival" or (rose and stage in ("declining", "tail") and wanted not in ("declining", "tail")):
                since = [now]
            stage = wanted
        previous = wanted
        out.append((tick, Life(stage, growth, highest, peak_time, half_life(counts, peak_time, highest, tick))))
    return out


def half_life(counts: dict[int, int], peak_time: int | None, peak: int, until: int) -> int | None:
    """Minutes from the peak to the first of two windows running with at most half of the peak."""
    if peak_time is None:
        return None
    low = [2 * counts.get(tick, 0) <= peak for tick in range(peak_time + WINDOW, until + 1, WINDOW)]
    for place in range(len(low) - 1):
        if low[place] and low[place + 1]:
            return (place + 1) * 10
    return None


def heat_rows(
    events: list[Event], half_life_minutes: float, forget_days: int = 30, cap: float | None = None
) -> dict[int, dict[str, tuple[Row, list[Event]]]]:
    """Per tick, every topic that is known then: its row and the events of its present life."""
    topics = {topic: lives(own, forget_days) for topic, own in by_topic(events).items()}
    first, last = min(e.time for e in events) // MINUTE, max(e.time for e in events) // MINUTE
    states = {topic: [live(part, (last + 1) * MINUTE) for part in parts] for topic, parts in topics.items()}
    ticks: dict[int, dict[str, tuple[Row, list[Event]]]] = {}
    for minute in range(first, last + 1):
        tick = (minute + 1) * MINUTE
        before = [e for e in events if e.time < tick]
        newest = max(e.time for e in before)
        quiet = newest < tick - MINUTE
        if quiet and sum(e.weight for e in before) * 2 ** (-(tick - newest) / half_life_minutes / MINUTE) < 0.9:
            continue  # no row for anything: only to spare time
        for topic, parts in topics.items():
            begun = [n for n, part in enumerate(parts) if part[0].time < tick]
            if not begun:
                continue
            part = parts[begun[-1]]
            past = [e for e in part if e.time < tick]
            if minute - past[-1].time // MINUTE >= forget_days * 1440:
                continue
            own = [e for e in past if e.time >= tick - MINUTE]
            most = sum(e.weight for e in past) * 2 ** (-(tick - past[-1].time) / half_life_minutes / MINUTE)
            if quiet and most < 0.9:
                continue  # likewise: no row for it, nor for anything cooler
            weighed = past if cap is None else capped(past, cap)
            heat = heat_at(weighed, tick, half_life_minutes)
            taken = [life for when, life in states[topic][begun[-1]] if when <= tick]
            life = taken[-1] if taken else Life()
            must = bool(own) or (tick % (60 * MINUTE) == 0 and heat >= 1)
            row = Row(heat, len(own), len({e.user for e in own}), life.growth, life.stage, must)
            ticks.setdefault(tick, {})[topic] = (row, weighed)
    return ticks
