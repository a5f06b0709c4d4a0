"""How a watch (`schemas.watches`) is kept: limits that cannot be built wrong, and the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from flows.anomaly_baseline import Times
from flows.anomaly_step import HOURS, Ints
from schemas.watches import ACTIVITY, Measure, Watch
from schemas.windows import DAY_MS, HOUR_MS, SECOND_MS, utc_offset_ms

_MONDAY_MS: Final = 4 * DAY_MS  # 1970-01-05
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class AnomalySpec:
    """The series of one view: each measure, for the whole and for each dimension value.

    Attributes:
        watch: which windows of which view, and what of them.
        zone: IANA zone of the week.
        holidays: local dates that have hours of their own.
        top: most dimension values that are watched at a time.
        floor: least mean volume of a window of a value that is watched; a rate over less is no figure.
        warm_ms: how long a series is watched before it may alarm.
        accept_ms: how long an anomaly lasts until its level is taken for normal.
    """

    watch: Watch = ACTIVITY
    zone: str = "Asia/Shanghai"
    holidays: frozenset[date] = frozenset()
    top: int = 1_000
    floor: float = 10.0
    warm_ms: int = DAY_MS
    accept_ms: int = DAY_MS // 2

    def __post_init__(self) -> None:
        seconds = self.watch.window_seconds
        if not 1 <= seconds <= HOUR_MS // SECOND_MS or HOUR_MS // SECOND_MS % seconds:
            raise ValueError(f"a window of {seconds} s does not divide an hour")
        if self.top < 1 or self.floor < 0 or self.warm_ms < 0 or self.accept_ms < self.window_ms:
            raise ValueError("top must be at least 1, floor and warm_ms not negative, accept_ms at least a window")
        utc_offset_ms(self.zone, 0)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is watched."""
        return self.watch.measures

    @property
    def window_seconds(self) -> int:
        """Length of a window."""
        return self.watch.window_seconds

    @property
    def window_ms(self) -> int:
        """Length of a window in ms."""
        return self.watch.window_seconds * SECOND_MS

    @property
    def fingerprint(self) -> str:
        """What state is of: state of another watch is of no use."""
        measures = ",".join(f"{m.name}={m.source}/{m.over}" for m in self.measures)
        return f"{self.watch.table} {self.watch.funnel} {self.watch.unit} {self.window_seconds} {measures}"

    def series(self, measure: int) -> str:
        """The name of a measure's series, as rows carry it."""
        of = f"{self.watch.funnel}." if self.watch.funnel else ""
        return f"{self.watch.table}.{of}{self.measures[measure].name}"


def calendar(spec: AnomalySpec, starts: Ints) -> Times:
    """Where windows lie in the local week. `starts`: epoch ms, shape (windows,)."""
    hours, back = np.unique(starts // HOUR_MS, return_inverse=True)
    local_hours = np.array(
        [(h * HOUR_MS + utc_offset_ms(spec.zone, int(h) * HOUR_MS)) // HOUR_MS for h in hours.tolist()]
    )
    offsets = np.array([utc_offset_ms(spec.zone, int(h) * HOUR_MS) % HOUR_MS for h in hours.tolist()])
    within = (starts % HOUR_MS + offsets[back] + spec.window_ms / 2) / HOUR_MS
    local = local_hours[back] + np.floor(within).astype(np.int64)
    part = within % 1.0
    left = part < 0.5
    beside = np.where(left, local - 1, local + 1)
    return Times(_slots(spec, local), _slots(spec, beside), np.where(left, 0.5 - part, part - 0.5))


def _slots(spec: AnomalySpec, local: Ints) -> Ints:
    """The slot of hours of the local clock: of the week, or of a holiday."""
    slots = (local - _MONDAY_MS // HOUR_MS) % HOURS
    if spec.holidays:
        days = np.array(sorted((day - _EPOCH).days for day in spec.holidays))
        slots = np.where(np.isin(local // 24, days), HOURS + local % 24, slots)
    return slots.astype(np.int64)
