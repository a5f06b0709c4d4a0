"""Business or pipeline? A fall that our own plumbing explains goes to SRE and says so; all else to operators.

Evidence is read off the ingest ledger by minute of ingestion (rejects, late events, partitions that fell silent) and
the watermark. Shares are compared with what is usual for this stream: a feed that always rejects 3 % is no fault today.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import polars as pl

BUSINESS: Final = "business"
PIPELINE: Final = "pipeline"

_MINUTE_MS: Final = 60_000
_SHARE, _TIMES_USUAL, _SHARE_BY_CHANCE = 0.02, 3.0, 0.002
_SILENT_MIN: Final = 2
_LOOK_BACK_MIN: Final = 15
"""A window is judged when it closes, minutes after what broke it: evidence is looked for this far back."""
_BUSY_RATE: Final = 10.0
"""Messages a minute from which a partition's silence means something."""
_DELAY_MS, _HISTORY_MS = 600_000, 86_400_000
"""A watermark this far behind the clock is a delay; a day behind is a replay of history, which is none."""
_USUAL: Final = 1 / 60
"""Weight of a minute in what is usual: an hour."""
CELL_MS: Final = 300_000
_NEAR_MS: Final = 120_000
_CELLS_MAX: Final = 400
"""Cells with a fault that are remembered: 33 hours of it, longer than a funnel takes to close."""
FALLS: Final = frozenset({"drop", "zero", "missing", "shift", "mix"})


@dataclass(frozen=True, slots=True)
class Health:
    """What speaks for a fault of ours at a moment; each empty or 0 when all is well."""

    rejected_share: float = 0.0
    usual_rejected_share: float = 0.0
    late_share: float = 0.0
    usual_late_share: float = 0.0
    silent: tuple[str, ...] = ()  # topic/partition
    watermark_delay_ms: int = 0
    lag_messages: int = 0
    sink_errors: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """How things stand `now`, and what spoke for a fault of ours when, by cells of `CELL_MS` (start, epoch ms)."""

    now: Health = Health()
    faults: Mapping[int, Health] = field(default_factory=dict)

    def at(self, start: int, end: int) -> Health:
        """What speaks for a fault of ours in the windows of [start, end), or within two minutes of them."""
        near = [h for cell, h in self.faults.items() if cell + CELL_MS > start - _NEAR_MS and cell < end + _NEAR_MS]
        return functools.reduce(_worse, near, self.now)

    def plain(self) -> list[Any]:
        """As plain values."""
        return [asdict(self.now), [[cell, asdict(health)] for cell, health in self.faults.items()]]

    @classmethod
    def of(cls, plain: list[Any]) -> Evidence:
        """What `plain` told of."""
        return cls(_health(plain[0]), {cell: _health(fields) for cell, fields in plain[1]})


def _health(fields: Mapping[str, Any]) -> Health:
    return Health(**{**fields, "silent": tuple(fields["silent"])})


def _worse(one: Health, other: Health) -> Health:
    """What speaks for a fault in either."""
    rejected = max(one, other, key=lambda h: h.rejected_share)
    late = max(one, other, key=lambda h: h.late_share)
    return Health(
        rejected.rejected_share, rejected.usual_rejected_share, late.late_share, late.usual_late_share,
        tuple(sorted({*one.silent, *other.silent})), max(one.watermark_delay_ms, other.watermark_delay_ms),
        max(one.lag_messages, other.lag_messages), max(one.sink_errors, other.sink_errors),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """Who is told, and why."""

    to: str
    reasons: tuple[str, ...] = ()

    def sentence(self) -> str:
        """What the alert says about it; empty for business."""
        return f"Probably ours, not the business: {'; '.join(self.reasons)}." if self.reasons else ""


def route(kind: str, *, fell: bool, health: Health) -> Route:
    """Where an anomaly goes. A rise is never explained by what we lost."""
    if not fell or kind not in FALLS:
        return Route(BUSINESS)
    reasons = []
    if _unusual(health.rejected_share, health.usual_rejected_share):
        reasons.append(f"{health.rejected_share:.0%} of messages rejected (usually {health.usual_rejected_share:.1%})")
    if _unusual(health.late_share, health.usual_late_share):
        reasons.append(f"{health.late_share:.0%} of events too late to count (usually {health.usual_late_share:.1%})")
    if health.silent:
        more = f" and {len(health.silent) - 3} more" if len(health.silent) > 3 else ""
        reasons.append(f"no messages from {', '.join(health.silent[:3])}{more}")
    if _DELAY_MS <= health.watermark_delay_ms < _HISTORY_MS:
        reasons.append(f"event time is {health.watermark_delay_ms // _MINUTE_MS} min behind the clock")
    if health.lag_messages:
        reasons.append(f"{health.lag_messages:,} messages of lag")
    if health.sink_errors:
        reasons.append(f"{health.sink_errors} failed writes to the store")
    return Route(PIPELINE if reasons else BUSINESS, tuple(reasons))


def _unusual(share: float, usual: float) -> bool:
    return share >= _SHARE and share >= _TIMES_USUAL * usual


def _told(count: int, of: int, usual: float) -> float:
    """The share count / of, or 0 where chance alone gives as much: a few late ones in a quiet minute are no fault."""
    expected = max(usual, _SHARE_BY_CHANCE) * of
    return count / of if count > expected + 4.0 * (math.sqrt(expected) + 1.0) else 0.0


@dataclass(slots=True)
class _Partition:
    usual: float = 0.0  # messages a minute
    minutes: int = 0
    last: int = -1
    gap_end: int = -1  # the minute that ended its last silence


@dataclass(slots=True)
class HealthTracker:
    """`Health` from ledger increments (columns topic, partition, minute, consumed, late, rejected), minute by minute.

    Bounded: one entry a partition, sums of the minutes that may still grow, cells in which something was wrong.
    Minutes are those of ingestion and closed by the next ones; with `by_log` they are those of the logs' own time,
    which differs between partitions, and closed by `advance`.
    """

    by_log: bool = False
    partitions: dict[str, _Partition] = field(default_factory=dict)
    open: dict[int, dict[str, int]] = field(default_factory=dict)  # minute → partition → consumed
    sums: dict[int, list[int]] = field(default_factory=dict)  # minute → consumed, rejected, late
    usual_rejected: float = 0.0
    usual_late: float = 0.0
    minutes: int = 0
    recent: list[tuple[float, float]] = field(default_factory=list)  # rejected, late of the last minutes
    faults: dict[int, Health] = field(default_factory=dict)

    def fold(self, frame: pl.DataFrame) -> None:
        """Add counts."""
        columns = ("topic", "partition", "minute", "consumed", "rejected", "late")
        for topic, partition, minute, consumed, rejected, late in frame.select(columns).iter_rows():
            total = self.sums.setdefault(minute, [0, 0, 0])
            for i, count in enumerate((consumed, rejected, late)):
                total[i] += count
            if consumed:
                by = self.open.setdefault(minute, {})
                name = f"{topic}/{partition}"
                by[name] = by.get(name, 0) + consumed
        if not self.by_log:
            self.advance(max(self.sums, default=0))

    def advance(self, until: int) -> None:
        """Nothing will be added to minutes that ended by `until`."""
        for minute in sorted(m for m in self.sums if m + _MINUTE_MS < until):
            self._close(minute)

    def _close(self, minute: int) -> None:
        consumed, rejected, late = self.sums.pop(minute)
        by = self.open.pop(minute, {})
        self._note(minute, (consumed, rejected, late), set(by))
        for name in by:
            self.partitions.setdefault(name, _Partition())
        for name, partition in self.partitions.items():
            partition.minutes += 1
            if name in by:
                if 0 <= partition.last < minute - _SILENT_MIN * _MINUTE_MS:
                    partition.gap_end = minute
                partition.last = minute
                partition.usual += (by[name] - partition.usual) * max(_USUAL, 1 / partition.minutes)
        if consumed:
            shares = rejected / consumed, late / consumed
            told = _told(rejected, consumed, self.usual_rejected), _told(late, consumed, self.usual_late)
            self.recent = [*self.recent, told][-_LOOK_BACK_MIN:]
            self.minutes += 1
            weight = max(_USUAL, 1 / self.minutes)
            # What is usual must not learn a fault at once: a minute counts for at most double.
            self.usual_rejected += weight * (min(shares[0], 2 * self.usual_rejected + 0.005) - self.usual_rejected)
            self.usual_late += weight * (min(shares[1], 2 * self.usual_late + 0.005) - self.usual_late)

    def _note(self, minute: int, counts: tuple[int, int, int], heard: set[str]) -> None:
        """Keep what speaks for a fault of ours in a minute."""
        consumed, rejected, late = counts
        busy = consumed >= _BUSY_RATE
        silent = sorted(
            name
            for name, p in self.partitions.items()
            if p.usual >= _BUSY_RATE and name not in heard and minute - p.last > _SILENT_MIN * _MINUTE_MS
        )
        found = Health(
            _told(rejected, consumed, self.usual_rejected) if busy else 0.0, self.usual_rejected,
            _told(late, consumed, self.usual_late) if busy else 0.0, self.usual_late, tuple(silent),
        )  # fmt: skip
        if self.minutes > 0 and route("drop", fell=True, health=found).reasons:
            cell = minute // CELL_MS * CELL_MS
            self.faults[cell] = _worse(self.faults.get(cell, Health()), found)
            for old in sorted(self.faults)[:-_CELLS_MAX]:
                del self.faults[old]

    def health(self, watermark_delay_ms: int = 0) -> Health:
        """How things stood in the last minutes."""
        newest = max(self.sums, default=0)
        rejected, late = max((r for r, _ in self.recent), default=0.0), max((b for _, b in self.recent), default=0.0)
        for consumed, bad, behind in self.sums.values():
            if consumed >= _BUSY_RATE:
                rejected = max(rejected, _told(bad, consumed, self.usual_rejected))
                late = max(late, _told(behind, consumed, self.usual_late))
        heard: dict[str, int] = {}  # when each was heard first, in minutes that may still grow
        for minute in sorted(self.open, reverse=True):
            heard |= dict.fromkeys(self.open[minute], minute)
        silent = sorted(
            name
            for name, p in self.partitions.items()
            if p.usual >= _BUSY_RATE
            and (
                # It is silent, or it has just come back: what it did not say is missing all the same.
                heard.get(name, newest) - p.last > _SILENT_MIN * _MINUTE_MS
                or 0 <= newest - p.gap_end < _LOOK_BACK_MIN * _MINUTE_MS
            )
        )
        return Health(rejected, self.usual_rejected, late, self.usual_late, tuple(silent), max(watermark_delay_ms, 0))

    def plain(self) -> list[Any]:
        """State as plain values."""
        partitions = [[name, p.usual, p.minutes, p.last, p.gap_end] for name, p in self.partitions.items()]
        by_minute = [[minute, sorted(by.items())] for minute, by in self.open.items()]
        sums = [[minute, *counts] for minute, counts in self.sums.items()]
        faults = [[cell, asdict(health)] for cell, health in self.faults.items()]
        return [partitions, by_minute, sums, self.usual_rejected, self.usual_late, self.minutes, self.recent, faults]

    @classmethod
    def of(cls, plain: list[Any]) -> HealthTracker:
        """The tracker that `plain` told of."""
        partitions, by_minute, sums, rejected, late, minutes, recent, *faults = plain
        return cls(
            False,  # noqa: FBT003  # bounded input has no state
            {name: _Partition(*facts) for name, *facts in partitions},
            {minute: dict(by) for minute, by in by_minute},
            {minute: counts for minute, *counts in sums},
            rejected,
            late,
            minutes,
            [(a, b) for a, b in recent],
            {cell: _health(fields) for cell, fields in (faults[0] if faults else [])},
        )
