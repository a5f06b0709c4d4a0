"""Live rooms of a list of events, by the words of `schemas.sessions`, one event and one step at a time.

Slow on purpose. First events are remembered for ever here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import polars as pl

from schemas.hashing import hash64

Event = dict[str, Any]  # `topic` and the fields of EVENTS.md; event_time in ms
Figures = dict[str, Any]

MINUTE, STEP, DAY = 60_000, 10_000, 86_400_000


def source_hash(event: Event) -> int:
    """What orders two views in one millisecond: the lesser hash of the source is the entry."""
    channel = event.get("channel")
    code = 0 if channel is None else int(hash64(pl.Series([channel])).item())
    code = (code & ~1) | (event.get("from_video_id") is not None)
    return code - (1 << 64) if code >> 63 else code


def in_rooms(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Events by room."""
    rooms: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        away = event["topic"] == "ad" or (event["topic"] == "view" and event.get("surface") != "live")
        if event.get("live_id") is not None and not away:
            rooms[event["live_id"]].append(event)
    return rooms


def _is_entry(event: Event) -> bool:
    return event["topic"] == "view" and not event.get("continued")


def _acts(event: Event, *actions: str) -> bool:
    return event["topic"] == "engage" and event["action"] in actions


def _order(event: Event, status: str) -> bool:
    return event["topic"] == "order" and event["status"] == status


def _firsts(events: Sequence[Event], who: Callable[[Event], Any]) -> list[Event]:
    """The first event of each `who`; `events` are in order."""
    found: dict[Any, Event] = {}
    for event in events:
        found.setdefault(who(event), event)
    return list(found.values())


def _money(event: Event, currency: str) -> int:
    return event.get("amount_minor") or 0 if (event.get("currency") or currency) == currency else 0


def _foreign(event: Event, currency: str) -> bool:
    counts = event["topic"] == "gift" or any(_order(event, s) for s in ("created", "paid", "refunded"))
    return counts and (event.get("currency") or currency) != currency


def _user(event: Event) -> Any:
    return event["user_id"]


def room_sums(events: Sequence[Event], currency: str) -> list[tuple[str, int, int]]:
    """Measure, event time and what it adds, for each figure of one room's events."""
    events = sorted(events, key=lambda e: (e["event_time"], source_hash(e)))
    found: list[tuple[str, int, int]] = []

    def add(name: str, chosen: Iterable[Event], amount: Callable[[Event], int] = lambda _: 1) -> None:
        found.extend((name, e["event_time"], amount(e)) for e in chosen)

    def money(event: Event) -> int:
        return _money(event, currency)

    entries = [e for e in events if _is_entry(e)]
    gifts = [e for e in events if e["topic"] == "gift"]
    add("events", events)
    add("views", entries)
    add("watch_ms", (e for e in events if e["topic"] == "view"), lambda e: e.get("watch_ms") or 0)
    first_entries = _firsts(entries, _user)
    add("entered_users", first_entries)
    add("entered_from_video", (e for e in first_entries if e.get("from_video_id") is not None))
    add("likes", (e for e in events if e["topic"] == "like"))
    for name, action in (("comments", "comment"), ("shares", "share"), ("unfollows", "unfollow")):
        add(name, (e for e in events if _acts(e, action)))
    for name, users, action in (
        ("exposures", "exposed_users", "live_exposure"),
        ("follows", "followers", "follow"),
        ("product_clicks", "clickers", "product_click"),
    ):
        chosen = [e for e in events if _acts(e, action)]
        add(name, chosen)
        add(users, _firsts(chosen, _user))
    add("gifts", gifts, lambda e: e["quantity"])
    add("gift_amount_minor", gifts, money)
    add("gifters", _firsts(gifts, _user))
    add("other_currency_events", (e for e in events if _foreign(e, currency)))
    for status, orders, amount in (
        ("created", "orders_created", "gmv_created_minor"),
        ("paid", "orders", "gmv_minor"),
        ("refunded", "orders_refunded", "gmv_refunded_minor"),
    ):
        chosen = [e for e in events if _order(e, status)]
        add(orders, _firsts(chosen, lambda e: (e["user_id"], e["order_id"])))
        add(amount, chosen, money)
    add("buyers", _firsts([e for e in events if _order(e, "paid")], _user))
    return found


def _report(event: Event) -> tuple[int, int]:
    """What a report covers."""
    begin = event["event_time"]
    return begin, begin + min(event.get("watch_ms") or 0, 600_000)


def presence(events: Sequence[Event]) -> tuple[dict[int, set[str]], dict[int, set[str]]]:
    """Users present in each step, and users watching at the end of each step."""
    present: dict[int, set[str]] = defaultdict(set)
    watching: dict[int, set[str]] = defaultdict(set)
    for event in events:
        if event["topic"] != "view":
            continue
        begin, end = _report(event)
        for step in range(begin // STEP, max(begin, end - 1) // STEP + 1):
            present[step].add(event["user_id"])
        for instant in range(end // STEP * STEP, end + 100_000, STEP):
            if 0 < instant - end <= 90_000:  # a report at the very instant counts from the next one
                watching[instant // STEP - 1].add(event["user_id"])
    return present, watching


def minutes(events: Iterable[Event], currency: str = "CNY") -> dict[tuple[str, int], Figures]:
    """Rows of `live_session_minutes`; of the sums those that are not 0."""
    rows: dict[tuple[str, int], Figures] = {}
    for room, mine in in_rooms(events).items():
        sums: dict[int, Counter[str]] = defaultdict(Counter)
        for name, time, amount in room_sums(mine, currency):
            sums[time // MINUTE * MINUTE][name] += amount
        present, watching = presence(mine)
        for minute in sums.keys() | {step * STEP // MINUTE * MINUTE for step in present}:
            steps = [present.get(minute // STEP + k, set()) for k in range(6)]
            rows[room, minute] = {
                **{name: amount for name, amount in sums[minute].items() if amount},
                "viewers": len(set().union(*steps)),
                "pcu": max(map(len, steps)),
                "acu": sum(map(len, steps)) / 6,
                "watching": len(watching.get(minute // STEP + 5, set())),
            }
    return rows


def rooms(events: Iterable[Event], as_of: int, currency: str = "CNY") -> dict[str, Figures]:
    """Rows of `live_sessions`; of the sums those that are not 0. Times in ms."""
    rows: dict[str, Figures] = {}
    for room, mine in in_rooms(events).items():
        sums: Counter[str] = Counter()
        for name, _, amount in room_sums(mine, currency):
            sums[name] += amount
        present, watching = presence(mine)
        first = min(e["event_time"] for e in mine)
        starts = [e["event_time"] for e in mine if _acts(e, "live_start")]
        ends = [e["event_time"] for e in mine if _acts(e, "live_end")]
        settled = ("paid", "refunded", "cancelled", "redeemed")
        signs = [e for e in mine if not any(_order(e, status) for status in settled)]
        alive = max((_report(e)[1] if e["topic"] == "view" else e["event_time"] for e in signs), default=first)
        closed = bool(ends) and (not starts or max(ends) >= max(starts))
        over = closed or as_of >= alive + 300_000
        started, ended = min(starts, default=first), (max(ends) if closed else alive) if over else None
        rows[room] = {
            **{name: amount for name, amount in sums.items() if amount},
            "state": "ended" if over else "live",
            "started_at": started,
            "ended_at": ended,
            "last_active_at": alive,
            "live_seconds": max(0, (as_of if ended is None else ended) - started) / 1000,
            "pcu": max(map(len, present.values()), default=0),
            "watching_peak": max(map(len, watching.values()), default=0),
            "watching_now": len(watching.get(as_of // STEP - 1, set())),
            "creator_id": min((e["creator_id"] for e in mine if e.get("creator_id")), default=""),
            "category": min((e["category"] for e in mine if e.get("category")), default=""),
        }
    return rows


def sources(events: Iterable[Event]) -> dict[tuple[str, str], tuple[int, int]]:
    """Rows of `live_session_sources`: users who entered, and those of them who came from a video."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for room, mine in in_rooms(events).items():
        entries = sorted((e for e in mine if _is_entry(e)), key=lambda e: (e["event_time"], source_hash(e)))
        for entry in _firsts(entries, _user):
            row = rows[room, entry.get("channel") or ""]
            row[0] += 1
            row[1] += entry.get("from_video_id") is not None
    return {key: (row[0], row[1]) for key, row in rows.items()}


def products(events: Iterable[Event], currency: str = "CNY") -> dict[tuple[str, str], Figures]:
    """Rows of `live_products`; figures that are not 0."""
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    users: dict[tuple[str, str, str], set[Any]] = defaultdict(set)
    for room, mine in in_rooms(events).items():
        for event in mine:
            key = room, event.get("product_id") or ""
            if _acts(event, "product_click") and event.get("product_id"):
                rows[key]["product_clicks"] += 1
                users[*key, "clickers"].add(event["user_id"])
            for status, orders, amount in (
                ("created", "orders_created", "gmv_created_minor"),
                ("paid", "orders", "gmv_minor"),
                ("refunded", "orders_refunded", "gmv_refunded_minor"),
            ):
                if _order(event, status):
                    rows[key][amount] += _money(event, currency)
                    rows[key]["other_currency_events"] += _foreign(event, currency)
                    users[*key, orders].add((event["user_id"], event["order_id"]))
            if _order(event, "paid"):
                rows[key]["quantity"] += event["quantity"]
                users[*key, "buyers"].add(event["user_id"])
    for (room, product, name), members in users.items():
        rows[room, product][name] = len(members)
    return {key: {name: n for name, n in row.items() if n} for key, row in rows.items()}
