"""What a Kafka log means, message by message in plain Python (EVENTS.md, *Time limits*). Knows nothing of the engine.

Messages come with a flag that says whether they are valid, since their maker knows; so this oracle judges time and
duplicates only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Lane = tuple[str, int]
Event = dict[str, Any]


@dataclass(frozen=True)
class Logged:
    """One message of a partition: its offset, and the event it holds (None: it must be rejected)."""

    offset: int
    event: Event | None


@dataclass
class Verdict:
    """What must come of a whole log."""

    accepted: list[Event]
    late_offsets: dict[Lane, list[int]]
    counts: dict[Lane, Counter[str]]


def judge(
    log: Mapping[Lane, Sequence[Logged]],
    *,
    out_of_orderness: int = 300_000,
    lateness: int = 0,
    platforms: Collection[str] = (),
) -> Verdict:
    """Precedence: rejected, filtered, late, duplicate, accepted. Copies of one id carry one payload: any may stand.

    `platforms`: events of others, and of none, are filtered; they are valid, so later ones are late by them. ():
    nothing is.
    """
    accepted: dict[tuple[str, str], Event] = {}
    late: dict[Lane, list[int]] = {}
    counts: dict[Lane, Counter[str]] = {}
    for lane, messages in log.items():
        greatest: int | None = None
        tally = counts.setdefault(lane, Counter())
        for message in messages:
            tally["consumed"] += 1
            event = message.event
            if event is None:
                tally["rejected"] += 1
                continue
            time = event["event_time"]
            is_late = greatest is not None and time < greatest - out_of_orderness - lateness
            greatest = time if greatest is None else max(greatest, time)
            if platforms and event.get("platform") not in platforms:
                tally["filtered"] += 1
                continue
            if is_late:
                tally["late"] += 1
                late.setdefault(lane, []).append(message.offset)
                continue
            identity = (event["user_id"], event["event_id"])
            if identity in accepted:
                tally["duplicate"] += 1
            else:
                tally["accepted"] += 1
                accepted[identity] = {**event, "topic": lane[0]}
    return Verdict(list(accepted.values()), late, counts)
