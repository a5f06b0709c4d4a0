"""What a series should be, and how far it is from it: a seasonal baseline with robust scale, window by window.

Expected value: level of the hour of the week (holidays have hours of their own), linear between the centres of hours,
times a slow ratio `level` (time constant half a day) that follows growth. Residual: y = √(x + 3/8) against the same of
the expected value (Anscombe 1948: the noise of counts becomes alike at every volume), over a scale learnt for the hour
of the day from clipped absolute residuals. A high quantile of it and how it adds up over windows are learnt too and
raise the limits: a bursty series does not alarm more often than a calm one.

An alarm is: one window far out, two running fairly far out, a run of zeros where much was expected, or a two-sided
CUSUM (Page 1954) for small shifts and slow leaks. It stays open until `CALM` windows running are near; after
`ACCEPT` windows the new level is taken for normal. All state is in arrays with one row a series.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.decode_compile import compiled

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HOURS: Final = 168
SLOTS: Final = HOURS + 24
"""Hours of the week from Monday 00:00, then the hours of a holiday."""

NOTHING, OPENED, RESOLVED, ACCEPTED, BECAME_SHIFT = range(5)
SPIKE, DROP, ZERO, SHIFT_UP, SHIFT_DOWN = range(1, 6)

CALM: Final = 5
FAR, TWICE = 6.0, 4.5
"""Limits of |z| for one window and for each of two running."""
_NEAR: Final = 3.0
_RELATIVE, _RELATIVE_UNKNOWN, _RELATIVE_SHIFT = 0.15, 0.5, 0.08
"""Least deviation from the expected value that matters to anybody: of a window, of a shift on average."""
_LEAST_COUNT: Final = 10.0
_ZERO_EXPECTED: Final = 25.0
_CUSUM_SLACK, _CUSUM_LIMIT, _CUSUM_CLIP = 0.75, 12.0, 4.0
_LEVEL_WINDOWS: Final = 720
_BLOCK_WINDOWS, _MEDIAN = 20.0, 0.6745
_SCALE_WINDOWS: Final = 240
_TAIL_STEP, _TAIL_MAX = 0.4, 16.0
_QUANTILE: Final = 0.9998
"""Of |z|, learnt by steps (Robbins & Monro 1951): about one window in three days and a half of minutes is beyond."""
_UNKNOWN_FACTOR: Final = 2.0
"""Limits are so much wider where the hour of the week was never seen and other weekdays stand in for it."""

# Columns of Baseline.facts
(
    _LEVEL, _SEEN, _SUM, _COUNT, _LAST_Z, _LAST_REL, _TAIL, _ADDS_UP, _UP, _DOWN, _RUN_ACTUAL, _RUN_EXPECTED, _ZEROS,
    _OPEN, _SIGN, _CALM, _AGE, _KIND, _RECENT, _LAST_SLOT, _CLIPPED,
    _OPEN_ACTUAL, _OPEN_EXPECTED, _BLOCK, _BLOCK_SIZE,
) = range(25)  # fmt: skip
_FACTS: Final = 25


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


class Baseline:
    """Baselines of `series` series. `warm`: windows that a series must have been seen before it may alarm."""

    def __init__(self, series: int, *, warm: int, accept: int) -> None:
        self.warm, self.accept = warm, accept
        self._hours = np.zeros((series, SLOTS, 2))  # level, times learnt
        self._scale = np.zeros((series, 24, 2))  # mean absolute residual, windows learnt from
        self._facts = np.zeros((series, _FACTS))
        self._show(series)
        self.reset(np.arange(series))

    def reset(self, rows: Ints) -> None:
        """Forget what stood in these rows: another series takes them."""
        self.hours[rows], self.scale[rows], self.facts[rows] = 0.0, 0.0, 0.0
        self.facts[rows, _LEVEL], self.facts[rows, _TAIL], self.facts[rows, _ADDS_UP] = 1.0, 3.0, _MEDIAN
        self.facts[rows, _LAST_SLOT] = -1.0

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
        self._facts = np.frombuffer(arrays["facts"]).reshape(series, _FACTS).copy()
        self._show(series)

    def prepare(self) -> None:
        """Compile (or load what was compiled) now, and not when the first window closes."""
        none = np.zeros(0, np.int64)
        self.step(np.zeros((0, len(self.facts))), Times(none, none, np.zeros(0)), np.zeros(len(self.facts), np.bool_))

    def is_open(self) -> npt.NDArray[np.bool_]:
        """Which series have an alarm that stands."""
        found: npt.NDArray[np.bool_] = self.facts[:, _OPEN] > 0
        return found

    def close(self, rows: Ints) -> None:
        """End the alarms of these series without a word."""
        self.facts[rows[:, None], (_OPEN, _KIND, _UP, _DOWN, _RUN_ACTUAL, _RUN_EXPECTED)] = 0.0

    def volume(self) -> Floats:
        """A recent mean of each series, a window (time constant 60 windows)."""
        return self.facts[:, _RECENT]

    def step(self, actual: Floats, times: Times, counted: npt.NDArray[np.bool_]) -> Found:
        """Take in consecutive windows. `actual` has shape (windows, series); `counted`, (series,): numbers of things.

        Numbers of things vary at least as Poisson's law says; other measures (money, time) have no such floor.
        """
        shape = actual.shape
        out = np.zeros((5, *shape))
        event, kind = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        _step(
            actual, times.slot, times.beside, times.weight, counted, self.hours, self.scale, self.facts,
            out, event, kind, float(self.warm), float(self.accept),
        )  # fmt: skip
        return Found(out[0], out[1], out[2], out[3], event, kind, out[4] > 0)


def _roomier(array: Floats, rows: int) -> Floats:
    wider = np.zeros((rows, *array.shape[1:]))
    wider[: len(array)] = array
    return wider


@compiled
def _step(  # noqa: PLR0913, PLR0917  # Numba takes arrays one by one
    actual: Floats,
    slots: Ints,
    besides: Ints,
    weights: Floats,
    counted: npt.NDArray[np.bool_],
    hours: Floats,
    scale: Floats,
    facts: Floats,
    out: Floats,
    event: Ints,
    kind: Ints,
    warm: float,
    accept: float,
) -> None:
    for w in range(actual.shape[0]):
        slot = slots[w]
        for s in range(actual.shape[1]):
            x = actual[w, s]
            if slot != facts[s, _LAST_SLOT]:
                _learn_hour(s, hours, facts)
                facts[s, _LAST_SLOT] = slot
            season = _season(s, slot, besides[w], weights[w], hours)
            known, ready = hours[s, slot, 1] > 0.0, season > 0.0 and facts[s, _SEEN] >= warm
            if season <= 0.0:  # nothing like this hour was seen: the recent mean stands in, and nothing alarms
                season = facts[s, _RECENT] / facts[s, _LEVEL]
            expected = season * facts[s, _LEVEL]
            middle = math.sqrt(max(expected, 0.0) + 0.375)
            spread = _spread(s, slot % 24, middle, counted[s], scale)
            z = (math.sqrt(max(x, 0.0) + 0.375) - middle) / spread
            out[0, w, s] = expected
            out[1, w, s] = max(max(middle - 3.0 * spread, 0.0) ** 2 - 0.375, 0.0)
            out[2, w, s] = (middle + 3.0 * spread) ** 2 - 0.375
            out[4, w, s] = 1.0 if known else 0.0
            if x != x:  # not a number: there is nothing to judge or to learn  # noqa: PLR0124
                kind[w, s] = int(facts[s, _KIND])
                continue
            # What a count with this relative spread would be: the units of zeros, whatever the measure's own.
            facts[s, _ZEROS] = facts[s, _ZEROS] + (middle / (2.0 * spread)) ** 2 if x == 0.0 else 0.0
            _judge(w, s, x, z, expected, 1.0 if known else _UNKNOWN_FACTOR, ready, facts, out, event, kind, accept)
            _learn(s, slot, x, z, season, spread, hours, scale, facts)


@compiled
def _season(s: int, slot: int, beside: int, weight: float, hours: Floats) -> float:
    """Level of a moment from two neighbouring hours; of the same hour on other days where it was never seen."""
    here, there = _hour(s, slot, hours), _hour(s, beside, hours)
    if here <= 0.0:
        return 0.0
    return here if there <= 0.0 else (1.0 - weight) * here + weight * there


@compiled
def _hour(s: int, slot: int, hours: Floats) -> float:
    if hours[s, slot, 1] > 0.0:
        return float(hours[s, slot, 0])
    if slot >= HOURS and hours[s, slot - 24, 1] > 0.0:  # a holiday never seen is like a Sunday
        return float(hours[s, slot - 24, 0])
    total, count = 0.0, 0
    for day in range(7):
        other = day * 24 + slot % 24
        if hours[s, other, 1] > 0.0:
            total += hours[s, other, 0]
            count += 1
    return total / count if count else 0.0


@compiled
def _spread(s: int, hour: int, middle: float, counted: bool, scale: Floats) -> float:  # noqa: FBT001
    """Standard deviation of the residual: of the hour of the day, with a floor, wider while little is known."""
    own = 1.2533 * scale[s, hour, 0]
    if scale[s, hour, 1] < 60.0:
        for other in range(24):
            if scale[s, other, 1] > 0.0:
                own = max(own, 1.2533 * scale[s, other, 0])
    return float(max(own, 0.5 if counted else 1e-9, 0.01 * middle))


@compiled
def _judge(  # noqa: PLR0913, PLR0917  # see _step
    w: int,
    s: int,
    x: float,
    z: float,
    expected: float,
    factor: float,
    ready: bool,  # noqa: FBT001
    facts: Floats,
    out: Floats,
    event: Ints,
    kind: Ints,
    accept: float,
) -> None:
    relative = abs(x - expected) / max(expected, 1.0)
    tail = max(facts[s, _TAIL], 3.0)
    far, twice = factor * max(FAR, 1.35 * tail), factor * max(TWICE, tail)
    matters = relative >= (_RELATIVE if factor == 1.0 else _RELATIVE_UNKNOWN) and abs(x - expected) >= _LEAST_COUNT
    limit = _cusum(s, x, z if factor == 1.0 else 0.0, expected, tail, facts)
    before, before_relative = facts[s, _LAST_Z], facts[s, _LAST_REL]
    facts[s, _LAST_Z], facts[s, _LAST_REL] = z, relative
    two = z * before > 0.0 and min(abs(z), abs(before)) >= twice and before_relative >= _RELATIVE
    sums = max(facts[s, _UP], facts[s, _DOWN])
    drifts = abs(facts[s, _RUN_ACTUAL] / max(facts[s, _RUN_EXPECTED], 1e-9) - 1.0) >= _RELATIVE_SHIFT
    found = 0
    if matters and (abs(z) >= far or two):
        found = (SPIKE if z > 0.0 else DROP) if x > 0.0 else ZERO
    elif facts[s, _ZEROS] >= _ZERO_EXPECTED * factor * max(1.0, tail / 4.0):
        found = ZERO
    elif sums >= limit and drifts:
        found = SHIFT_UP if facts[s, _UP] > facts[s, _DOWN] else SHIFT_DOWN
    strength = max(abs(z) / far if matters else 0.0, sums / limit if drifts else 0.0)
    if found > 0:
        strength = max(strength, 1.0)
    out[3, w, s] = strength / (1.0 + strength)
    if facts[s, _OPEN] > 0.0:
        facts[s, _OPEN_ACTUAL] += (x - facts[s, _OPEN_ACTUAL]) / 240.0
        facts[s, _OPEN_EXPECTED] += (expected - facts[s, _OPEN_EXPECTED]) / 240.0
        _follow(w, s, z, relative, found, facts, event, accept)
    elif found > 0 and ready:
        event[w, s] = OPENED
        facts[s, _OPEN], facts[s, _KIND], facts[s, _CALM], facts[s, _AGE] = 1.0, found, 0.0, 0.0
        facts[s, _OPEN_ACTUAL], facts[s, _OPEN_EXPECTED] = 0.0, 0.0
        facts[s, _SIGN] = 1.0 if found in (SPIKE, SHIFT_UP) else -1.0
    kind[w, s] = int(facts[s, _KIND])


@compiled
def _cusum(s: int, x: float, z: float, expected: float, tail: float, facts: Floats) -> float:
    """Two-sided sums of clipped z; returns their limit, which grows with heavy tails and correlated noise."""
    clipped = min(max(z, -_CUSUM_CLIP), _CUSUM_CLIP)
    facts[s, _UP] = max(0.0, facts[s, _UP] + clipped - _CUSUM_SLACK)
    facts[s, _DOWN] = max(0.0, facts[s, _DOWN] - clipped - _CUSUM_SLACK)
    if facts[s, _UP] + facts[s, _DOWN] <= 0.0:
        facts[s, _RUN_ACTUAL], facts[s, _RUN_EXPECTED] = 0.0, 0.0
    else:
        facts[s, _RUN_ACTUAL] += x
        facts[s, _RUN_EXPECTED] += expected
    together = min(max((facts[s, _ADDS_UP] / _MEDIAN) ** 2, 1.0), 20.0)
    return float(_CUSUM_LIMIT * max(1.0, tail / 3.5) * together)


@compiled
def _follow(w: int, s: int, z: float, relative: float, found: int, facts: Floats, event: Ints, accept: float) -> None:
    """An open alarm: resolved, accepted as the new level, or grown into a shift."""
    facts[s, _AGE] += 1.0
    near = abs(z) < _NEAR or relative < _RELATIVE_SHIFT
    facts[s, _CALM] = facts[s, _CALM] + 1.0 if near and found in (0, SHIFT_UP, SHIFT_DOWN) else 0.0
    lasting = facts[s, _KIND] in (SHIFT_UP, SHIFT_DOWN)
    if facts[s, _CALM] >= (CALM if not lasting else 6 * CALM):
        event[w, s] = RESOLVED
        if facts[s, _AGE] <= CALM:  # single windows far out, when they come often, are this series' way
            facts[s, _TAIL] = min(facts[s, _TAIL] + 1.0, _TAIL_MAX)
    elif facts[s, _AGE] >= accept:
        event[w, s] = ACCEPTED
        facts[s, _LEVEL] *= min(max(facts[s, _OPEN_ACTUAL] / max(facts[s, _OPEN_EXPECTED], 1e-9), 0.01), 100.0)
    elif facts[s, _AGE] == 2 * CALM and facts[s, _KIND] in (SPIKE, DROP):
        event[w, s] = BECAME_SHIFT
        facts[s, _KIND] = SHIFT_UP if facts[s, _SIGN] > 0 else SHIFT_DOWN
    if event[w, s] == RESOLVED or event[w, s] == ACCEPTED:
        facts[s, _OPEN], facts[s, _KIND] = 0.0, 0.0
        facts[s, _UP], facts[s, _DOWN], facts[s, _RUN_ACTUAL], facts[s, _RUN_EXPECTED] = 0.0, 0.0, 0.0, 0.0


@compiled
def _learn(  # noqa: PLR0913, PLR0917  # see _step
    s: int, slot: int, x: float, z: float, season: float, spread: float, hours: Floats, scale: Floats, facts: Floats
) -> None:
    facts[s, _SEEN] += 1.0
    facts[s, _RECENT] += (x - facts[s, _RECENT]) / min(facts[s, _SEEN], 60.0)
    if facts[s, _OPEN] > 0.0:
        return
    facts[s, _SUM] += x
    facts[s, _COUNT] += 1.0
    clipped = min(max(z, -_NEAR), _NEAR)
    if hours[s, slot, 1] > 0.0:
        seen = x if abs(z) < _NEAR else season * facts[s, _LEVEL]
        facts[s, _LEVEL] += min(max(seen / season - facts[s, _LEVEL], -0.5), 0.5) / _LEVEL_WINDOWS
    beyond = abs(z) > facts[s, _TAIL] and abs(facts[s, _CLIPPED]) < _NEAR  # a run counts once
    facts[s, _TAIL] += _TAIL_STEP * (_QUANTILE if beyond else _QUANTILE - 1.0)
    facts[s, _TAIL] = min(max(facts[s, _TAIL], 2.5), _TAIL_MAX)
    facts[s, _CLIPPED] = clipped
    facts[s, _BLOCK] += clipped
    facts[s, _BLOCK_SIZE] += 1.0
    if facts[s, _BLOCK_SIZE] >= _BLOCK_WINDOWS:  # how noise adds up: the median block, which incidents hardly move
        size = abs(facts[s, _BLOCK]) / math.sqrt(_BLOCK_WINDOWS)
        facts[s, _ADDS_UP] *= 1.01 if size > facts[s, _ADDS_UP] else 1.0 / 1.01
        facts[s, _BLOCK], facts[s, _BLOCK_SIZE] = 0.0, 0.0
    hour = slot % 24
    scale[s, hour, 1] += 1.0
    known = min(scale[s, hour, 1], float(_SCALE_WINDOWS))
    scale[s, hour, 0] += (abs(clipped) * spread - scale[s, hour, 0]) / known


@compiled
def _learn_hour(s: int, hours: Floats, facts: Floats) -> None:
    """Take what the hour that ends had on average, at the level of then, into its slot."""
    slot = int(facts[s, _LAST_SLOT])
    if facts[s, _COUNT] > 0.0 and slot >= 0:
        mean = facts[s, _SUM] / facts[s, _COUNT] / facts[s, _LEVEL]
        hours[s, slot, 1] += 1.0
        hours[s, slot, 0] += (mean - hours[s, slot, 0]) * max(1.0 / hours[s, slot, 1], 0.25)
    facts[s, _SUM], facts[s, _COUNT] = 0.0, 0.0
