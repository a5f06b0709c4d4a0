"""Funnels of a list of events, by the words of TABLES.md, one chain at a time. Slow on purpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from schemas.funnels import Funnel, Match

Event = dict[str, Any]  # `topic` and the fields of EVENTS.md; event_time in ms
Row = tuple[str, str, int, str, str, int]  # funnel, unit, bucket_start, dim, value, step
Figures = tuple[int, float, int, int]  # reached, median_seconds, amount_minor, other_currency_events

HOUR = 3_600_000


def _is(event: Event, events: Iterable[Match]) -> bool:
    if event.get("continued"):
        return False
    return any(
        event["topic"] == match.topic and all(event.get(name) in values for name, values in match.where.items())
        for match in events
    )


def _entries(views: Sequence[Event], remember: int, tie: Callable[[Event], int]) -> list[Event]:
    """A user's first step 2 with one held value, and the next first one after it was forgotten."""
    entries: list[Event] = []
    for view in sorted(views, key=lambda e: (e["event_time"], -tie(e))):
        if not entries or view["event_time"] > entries[-1]["event_time"] + remember:
            entries.append(view)
    return entries


def _chains(funnel: Funnel, events: Sequence[Event], tie: Callable[[Event], int]) -> Iterable[dict[str, Any]]:
    """The chains of one user's events: its entry, its step 1, and per later step the qualifying events."""
    values = {e[funnel.hold] for e in events if e.get(funnel.hold) is not None}
    for value in values:
        held = [e for e in events if e.get(funnel.hold) == value]
        for entry in _entries([e for e in held if _is(e, funnel.steps[1].events)], funnel.remember_ms, tie):
            start = entry["event_time"]
            firsts = [
                e
                for e in (held if funnel.hold_from == 1 else events)
                if _is(e, funnel.steps[0].events) and start - funnel.enter_within_ms <= e["event_time"] <= start
            ]
            if not firsts:
                continue
            anchor = max(firsts, key=lambda e: (e["event_time"], tie(e)))
            end = start + funnel.finish_within_ms
            for event in held:
                if any(_is(event, x.events) for x in funnel.exclusions) and event["event_time"] >= start:
                    end = min(end, event["event_time"])
            reached: dict[int, list[Event]] = {2: [entry]}
            since: int | None = start  # the first time at the last step that is not optional
            for number, step in enumerate(funnel.steps[2:], start=3):
                mine = [
                    e for e in held if since is not None and _is(e, step.events) and since <= e["event_time"] <= end
                ]
                if mine:
                    reached[number] = mine
                if not step.optional:
                    since = min((e["event_time"] for e in mine), default=None)
            yield {"value": value, "anchor": anchor, "entry": entry, "reached": reached}


def funnel_rows(
    funnel: Funnel,
    events: Iterable[Event],
    dimensions: Sequence[str],
    tie: Callable[[Event], int],
    currency: str = "CNY",
) -> dict[Row, Figures]:
    """All rows with reached > 0. `tie`: of two events of one user and millisecond the higher one counts."""

    def values_of(event: Event) -> list[tuple[str, str]]:
        return [("all", ""), *((d, event[d]) for d in dimensions if event.get(d) is not None)]

    def money(found: Sequence[Event], number: int) -> tuple[int, int]:
        if not funnel.steps[number - 1].amount:
            return 0, 0
        ours = [e for e in found if (e.get("currency") or currency) == currency]
        return sum(e.get("amount_minor") or 0 for e in ours), len(found) - len(ours)

    by_user: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_user[event["user_id"]].append(event)
    beginners: dict[Row, set[Any]] = defaultdict(set)
    arrivals: dict[Row, dict[Any, list[tuple[int, int, int, int]]]] = defaultdict(lambda: defaultdict(list))
    for user, mine in by_user.items():
        for event in mine:
            if not _is(event, funnel.steps[0].events):
                continue
            bucket = event["event_time"] // HOUR * HOUR
            for dim, value in values_of(event):
                if "user" in funnel.units and (funnel.hold_from == 2 or event.get(funnel.hold) is not None):
                    beginners[funnel.name, "user", bucket, dim, value, 1].add(user)
                if funnel.pair_unit in funnel.units and funnel.hold_from == 1 and event.get(funnel.hold) is not None:
                    beginners[funnel.name, funnel.pair_unit, bucket, dim, value, 1].add((user, event[funnel.hold]))
        for chain in _chains(funnel, mine, tie):
            begin = chain["anchor"]["event_time"]
            bucket = begin // HOUR * HOUR
            for unit in funnel.units:
                who = user if unit == "user" else (user, chain["value"])
                named = chain["anchor"] if unit == "user" or funnel.hold_from == 1 else chain["entry"]
                for number, found in chain["reached"].items():
                    first = min(e["event_time"] for e in found)
                    for dim, value in values_of(named):
                        row = funnel.name, unit, bucket, dim, value, number
                        arrivals[row][who].append((first, first - begin, *money(found, number)))
    rows: dict[Row, Figures] = {row: (len(who), 0.0, 0, 0) for row, who in beginners.items()}
    for row, units in arrivals.items():
        took = [min(chains)[1] for chains in units.values()]  # the first arrival; of two at once the quicker
        every = [chain for chains in units.values() for chain in chains]
        rows[row] = len(units), median(took) / 1000, sum(c[2] for c in every), sum(c[3] for c in every)
    return rows
