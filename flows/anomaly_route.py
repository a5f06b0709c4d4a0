"""Business or pipeline? A fall that our own plumbing explains goes to SRE and says so; all else to operators.

Evidence is read off the ingest ledger by minute of ingestion (rejects, late events, partitions that fell silent) and
the watermark. Shares are compared with what is usual for this stream: a feed that always rejects 3 % is no fault today.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

BUSINESS: Final = "business"
PIPELINE: Final = "pipeline"

_MINUTE_MS: Final = 60_000
_SHARE, _TIMES_USUAL = 0.02, 3.0
_SILENT_MIN: Final = 2
_LOOK_BACK_MIN: Final = 15
"""A window is judged when it closes, minutes after what broke it: evidence is looked for this far back."""
_BUSY_RATE: Final = 10.0
"""Messages a minute from which a partition's silence means something."""
_DELAY_MS, _HISTORY_MS = 600_000, 86_400_000
"""A watermark this far behind the clock is a delay; a day behind is a replay of history, which is none."""
_USUAL: Final = 1 / 60
"""Weight of a minute in what is usual: an hour."""
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


@dataclass(slots=True)
class _Partition:
    usual: float = 0.0  # messages a minute
    minutes: int = 0
    last: int = -1
    gap_end: int = -1  # the minute that ended its last silence


@dataclass(slots=True)
class HealthTracker:
    """`Health` from ledger increments (columns topic, partition, minute, consumed, late, rejected), minute by minute.

    Bounded: one entry a partition, sums of the minutes that may still grow.
    """

    partitions: dict[str, _Partition] = field(default_factory=dict)
    open: dict[int, dict[str, int]] = field(default_factory=dict)  # minute → partition → consumed
    sums: dict[int, list[int]] = field(default_factory=dict)  # minute → consumed, rejected, late
    usual_rejected: float = 0.0
    usual_late: float = 0.0
    minutes: int = 0
    recent: list[tuple[float, float]] = field(default_factory=list)  # rejected, late of the last minutes

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
        newest = max(self.sums, default=0)
        for minute in sorted(m for m in self.sums if m < newest - _MINUTE_MS):
            self._close(minute)

    def _close(self, minute: int) -> None:
        consumed, rejected, late = self.sums.pop(minute)
        by = self.open.pop(minute, {})
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
            self.recent = [*self.recent, shares][-_LOOK_BACK_MIN:]
            self.minutes += 1
            weight = max(_USUAL, 1 / self.minutes)
            # What is usual must not learn a fault at once: a minute counts for at most double.
            self.usual_rejected += weight * (min(shares[0], 2 * self.usual_rejected + 0.005) - self.usual_rejected)
            self.usual_late += weight * (min(shares[1], 2 * self.usual_late + 0.005) - self.usual_late)

    def health(self, watermark_delay_ms: int = 0) -> Health:
        """How things stood in the last minutes."""
        newest = max(self.sums, default=0)
        rejected, late = max((r for r, _ in self.recent), default=0.0), max((b for _, b in self.recent), default=0.0)
        for consumed, bad, behind in self.sums.values():
            if consumed >= _BUSY_RATE:
                rejected, late = max(rejected, bad / consumed), max(late, behind / consumed)
        heard = {name for by in self.open.values() for name in by}
        silent = sorted(
            name
            for name, p in self.partitions.items()
            if p.usual >= _BUSY_RATE
            and (
                (name not in heard and newest - p.last > _SILENT_MIN * _MINUTE_MS)
                or 0 <= newest - p.gap_end < _LOOK_BACK_MIN * _MINUTE_MS
            )
        )
        return Health(rejected, self.usual_rejected, late, self.usual_late, tuple(silent), max(watermark_delay_ms, 0))

    def plain(self) -> list[Any]:
        """State as plain values."""
        partitions = [[name, p.usual, p.minutes, p.last, p.gap_end] for name, p in self.partitions.items()]
        by_minute = [[minute, sorted(by.items())] for minute, by in self.open.items()]
        sums = [[minute, *counts] for minute, counts in self.sums.items()]
        return [partitions, by_minute, sums, self.usual_rejected, self.usual_late, self.minutes, self.recent]

    @classmethod
    def of(cls, plain: list[Any]) -> HealthTracker:
        """The tracker that `plain` told of."""
        partitions, by_minute, sums, rejected, late, minutes, recent = plain
        return cls(
            {name: _Partition(*facts) for name, *facts in partitions},
            {minute: dict(by) for minute, by in by_minute},
            {minute: counts for minute, *counts in sums},
            rejected,
            late,
            minutes,
            [(a, b) for a, b in recent],
        )
