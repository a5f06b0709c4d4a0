"""What a series should be, and how far it is from it: a seasonal baseline with robust scale, window by window.

Expected value: level of the hour of the week (holidays have hours of their own), linear between the centres of hours,
times a slow ratio `level` (time constant half a day) that follows growth. Residual: y = √(x + 3/8) against the same of
the expected value (Anscombe 1948: the noise of counts becomes alike at every volume), over a scale learnt for the hour
of the day from clipped absolute residuals. A high quantile of it and how it adds up over windows are learnt too and
raise the limits: a bursty series does not alarm more often than a calm one.

An alarm is: one window far out, two running fairly far out, a run of zeros where much was expected, a fading mean of
the residual (Roberts 1959) far out of its own spread, for slow leaks in correlated noise, or a two-sided CUSUM (Page
1954) for small shifts. It stays open until `CALM` windows running are near; after
`ACCEPT` windows the new level is taken for normal. All state is in arrays with one row a series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows.anomaly_step import (
    ADDS_UP,
    DOWN,
    FACTS,
    FEW,
    KIND,
    LAST_SLOT,
    LEVEL,
    MEAN,
    MEDIAN,
    OPEN,
    RECENT,
    RUN_ACTUAL,
    RUN_EXPECTED,
    SLOTS,
    TAIL,
    UP,
    Floats,
    Ints,
    limits,
    step,
)


@dataclass(frozen=True, slots=True)
class Times:
    """Where windows lie in the week: shape (windows,). `beside` is the neighbouring hour, `weight` its part."""

    slot: Ints
    beside: Ints
    weight: Floats


@dataclass(frozen=True, slots=True)
class Found:
    """What each window told of each series; arrays of shape (windows, series)."""

    expected: Floats
    low: Floats  # 99.7 % of windows lie between low and high
    high: Floats
    score: Floats  # 0–1; an alarm is at least 0.5
    event: Ints  # NOTHING, OPENED, …
    kind: Ints  # SPIKE, DROP, …, while open; else 0
    known: npt.NDArray[np.bool_]  # the hour has been seen before: expected can be relied on


@dataclass(frozen=True, slots=True)
class Limits:
    """What some windows of some series may have before they are spikes; arrays of shape (n,)."""

    expected: Floats
    low: Floats
    high: Floats
    bound: Floats  # +inf: the series is not known, or has an alarm that stands
    far: Floats  # z of an alarm over that of the bound, for a score


class Baseline:
    """Baselines of `series` series. `warm`: windows that a series must have been seen before it may alarm."""

    def __init__(self, series: int, *, warm: int, accept: int) -> None:
        self.warm, self.accept = warm, accept
        self._hours = np.zeros((series, SLOTS, 2))  # level, times learnt
        self._scale = np.zeros((series, 24, 2))  # mean absolute residual, windows learnt from
        self._facts = np.zeros((series, FACTS))
        self._show(series)
        self.reset(np.arange(series))

    def reset(self, rows: Ints) -> None:
        """Forget what stood in these rows: another series takes them."""
        self.hours[rows], self.scale[rows], self.facts[rows] = 0.0, 0.0, 0.0
        self.facts[rows, LEVEL], self.facts[rows, TAIL], self.facts[rows, ADDS_UP] = 1.0, 3.0, MEDIAN
        self.facts[rows, LAST_SLOT] = -1.0

    def grow(self, series: int) -> None:
        """Room for more series."""
        before = len(self.facts)
        after = before + series
        if after > len(self._facts):
            room = max(2 * len(self._facts), after, 64)
            self._hours, self._scale = _roomier(self._hours, room), _roomier(self._scale, room)
            self._facts = _roomier(self._facts, room)
        self._show(after)
        self.reset(np.arange(before, after))

    def _show(self, series: int) -> None:
        self.hours, self.scale, self.facts = self._hours[:series], self._scale[:series], self._facts[:series]

    def arrays(self) -> dict[str, Floats]:
        """All state, by name."""
        return {"hours": self.hours, "scale": self.scale, "facts": self.facts}

    def become(self, arrays: Mapping[str, bytes], series: int) -> None:
        """Take the state that `arrays` gave, of so many series."""
        self._hours = np.frombuffer(arrays["hours"]).reshape(series, SLOTS, 2).copy()
        self._scale = np.frombuffer(arrays["scale"]).reshape(series, 24, 2).copy()
        self._facts = np.frombuffer(arrays["facts"]).reshape(series, FACTS).copy()
        self._show(series)

    def prepare(self) -> None:
        """Compile (or load what was compiled) now, and not when the first window closes."""
        none = np.zeros(0, np.int64)
        self.step(np.zeros((0, len(self.facts))), Times(none, none, np.zeros(0)), np.zeros(len(self.facts), np.bool_))
        self.limits(none, Times(none, none, np.zeros(0)), np.zeros(0, np.bool_))

    def is_open(self) -> npt.NDArray[np.bool_]:
        """Which series have an alarm that stands."""
        found: npt.NDArray[np.bool_] = self.facts[:, OPEN] > 0
        return found

    def close(self, rows: Ints) -> None:
        """End the alarms of these series without a word."""
        self.facts[rows[:, None], (OPEN, KIND, UP, DOWN, RUN_ACTUAL, RUN_EXPECTED, MEAN)] = 0.0

    def volume(self) -> Floats:
        """A recent mean of each series, a window (time constant 60 windows)."""
        return self.facts[:, RECENT]

    def step(
        self,
        actual: Floats,
        times: Times,
        counted: npt.NDArray[np.bool_],
        per: Ints | None = None,
        whole: npt.NDArray[np.bool_] | None = None,
        floor: float = 0.0,
    ) -> Found:
        """Take in consecutive windows. `actual` has shape (windows, series); `counted`, (series,): numbers of things.

        Numbers of things vary at least as Poisson's law says; other measures (money, time) have no such floor. `per`,
        (series,): the row of the count that a series is a sum over, or −1; where the recent mean of that count is less
        than `FEW` times `floor`, the sum is no figure, unless an alarm on it stands. `whole`, (series,): what all else
        is a part of: a slow leak is told sooner.
        """
        per = np.full(len(counted), -1) if per is None else per
        whole = np.zeros(len(counted), np.bool_) if whole is None else whole
        shape = actual.shape
        out = np.zeros((5, *shape))
        event, kind = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        step(
            actual, times.slot, times.beside, times.weight, counted, per, whole, FEW * floor, self.hours, self.scale,
            self.facts, out, event, kind, float(self.warm), float(self.accept),
        )  # fmt: skip
        return Found(out[0], out[1], out[2], out[3], event, kind, out[4] > 0)

    def limits(self, rows: Ints, times: Times, counted: npt.NDArray[np.bool_]) -> Limits:
        """Bounds of spikes of these rows (n,) at these times (n,), as they are known now; nothing is learnt."""
        out = np.zeros((5, len(rows)))
        limits(
            rows, times.slot, times.beside, times.weight, counted, self.hours, self.scale, self.facts, out,
            float(self.warm),
        )  # fmt: skip
        return Limits(*out)


def _roomier(array: Floats, rows: int) -> Floats:
    wider = np.zeros((rows, *array.shape[1:]))
    wider[: len(array)] = array
    return wider
