"""Novelty of a value among the history of its own series: one online detector, one setting for every series.

Seven ways of being unusual are measured at each value: a jump against the short-term level, a shift of the level at two
horizons, a change of the spread, a deviation from the time of day and from the hour of the week, a fall under the long
level. Each measure is ranked among its own last `HISTORY` values, which makes them comparable between ways and between
series whatever their units and distributions (a conformal p-value: Laxhammar & Falkman 2014; HTM's anomaly likelihood
and KNN-CAD do alike). The score is the sum of the two smallest p-values, as −log10: two ways must agree. It is told
once: again within `QUIET` values only when it has reached a higher level.

No look-ahead; memory per series is fixed (about 40 kB). A series is a row of each array in `Novelty`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.decode_compile import compiled, inlined

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Measures = npt.NDArray[np.float32]

HISTORY: Final = 1024
QUIET: Final = 100
LOWEST_LEVEL: Final = 4.5
LEVEL_STEP: Final = 0.5
LEVELS: Final = 12
ALARM: Final = 5.5
"""A score of two p-values of less than about 1 in 560 each: where a score of 0.5 stands after scaling to 0–1."""

_WAYS: Final = 7
_RECENT: Final = 384
_SHORT, _MIDDLE, _LONG = 24, 96, 168
_DAY_SLOTS, _WEEK_SLOTS = 288, 168
_SLOT_MS, _HOUR_MS = 300_000, 3_600_000
# Columns of `Novelty.facts`
_FAST, _SLOW, _SPREAD, _SEASONAL, _S24, _Q24, _S96, _S168, _S384 = range(9)
_FACTS: Final = 9


class Novelty:
    """State of `series` series, and scoring of their values in the order of time."""

    def __init__(self, series: int) -> None:
        self.past = np.zeros((series, _WAYS, HISTORY), np.float32)
        self.recent = np.zeros((series, _RECENT))
        self.day = np.zeros((series, _DAY_SLOTS, 2))  # level, values seen
        self.week = np.zeros((series, _WEEK_SLOTS, 2))
        self.facts = np.zeros((series, _FACTS))
        self.seen = np.zeros((series, _WAYS + 1), np.int64)  # measures of each way; values
        self.told = np.full((series, LEVELS), -QUIET, np.int64)  # number of the value that told each level last

    def score(self, series: Ints, times: Ints, values: Floats) -> Floats:
        """Scores 0–1 (0.5: at `ALARM`) of values, in order; all arrays have shape (n,), times are epoch ms.

        A value that is not finite is passed over with a score of 0.
        """
        scores = np.zeros(len(values))
        measures = np.zeros(_WAYS)
        _score(
            series.astype(np.int64), times, values, measures, scores,
            self.past, self.recent, self.day, self.week, self.facts, self.seen, self.told,
        )  # fmt: skip
        return scores / (scores + ALARM)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All state, by name."""
        return {name: getattr(self, name) for name in ("past", "recent", "day", "week", "facts", "seen", "told")}


@compiled
def _score(  # noqa: PLR0913, PLR0917  # Numba takes arrays one by one
    series: Ints,
    times: Ints,
    values: Floats,
    measures: Floats,
    scores: Floats,
    past: Measures,
    recent: Floats,
    day: Floats,
    week: Floats,
    facts: Floats,
    seen: Ints,
    told: Ints,
) -> None:
    for row in range(len(values)):
        s, value = series[row], values[row]
        if not math.isfinite(value):
            continue
        _measure(s, times[row], value, measures, recent, day, week, facts, seen)
        first, second = 0.0, 0.0
        for way in range(_WAYS):
            if measures[way] < 0.0:
                continue
            surprise = _rank(s, way, measures[way], past, seen)
            if surprise > first:
                first, second = surprise, first
            elif surprise > second:
                second = surprise
        scores[row] = _tell(s, first + second, seen, told)


@inlined
def _rank(s: int, way: int, measure: float, past: Measures, seen: Ints) -> float:
    """−log10 of the share of past measures at least as great; beyond all of them 2 log10 of how far."""
    count = min(seen[s, way], HISTORY)
    wanted = np.float32(measure)
    reached = 0
    for i in range(count):
        reached += past[s, way, i] >= wanted
    surprise = -math.log10((reached + 1.0) / (count + 1.0))
    if reached == 0 and count > 0:
        greatest = 0.0
        for i in range(count):
            greatest = max(greatest, past[s, way, i])
        surprise += 2.0 * math.log10(wanted / (greatest + 1e-12)) if greatest > 1e-12 else 2.0
    past[s, way, seen[s, way] % HISTORY] = wanted
    seen[s, way] += 1
    return surprise


@inlined
def _tell(s: int, score: float, seen: Ints, told: Ints) -> float:
    """The score, if it reaches a level that was not told within `QUIET` values; else 0."""
    now = seen[s, _WAYS]
    seen[s, _WAYS] += 1
    news = False
    for level in range(LEVELS):
        if score < LOWEST_LEVEL + level * LEVEL_STEP:
            break
        if now - told[s, level] >= QUIET:
            news = True
    if not news:
        return 0.0
    for level in range(LEVELS):
        if score >= LOWEST_LEVEL + level * LEVEL_STEP:
            told[s, level] = now
    return score


@inlined
def _measure(  # noqa: PLR0913, PLR0917  # see _score
    s: int,
    time: int,
    value: float,
    measures: Floats,
    recent: Floats,
    day: Floats,
    week: Floats,
    facts: Floats,
    seen: Ints,
) -> None:
    """How unusual the value is in each way, in the series' units (the spread: as a log ratio); −1: cannot be told."""
    count = seen[s, _WAYS]
    for way in range(_WAYS):
        measures[way] = -1.0
    if count == 0:
        facts[s, _FAST], facts[s, _SLOW] = value, value
    _push(s, value, count, recent, facts)
    if count >= 2:
        measures[0] = abs(value - facts[s, _FAST])
    facts[s, _FAST] += 0.3 * (value - facts[s, _FAST])
    if count >= _LONG:
        older = (facts[s, _S168] - facts[s, _S24]) / (_LONG - _SHORT)
        measures[1] = abs(facts[s, _S24] / _SHORT - older)
    if count >= _RECENT:
        older = (facts[s, _S384] - facts[s, _S96]) / (_RECENT - _MIDDLE)
        measures[2] = abs(facts[s, _S96] / _MIDDLE - older)
    if count >= _SHORT:
        mean = facts[s, _S24] / _SHORT
        spread = math.sqrt(max(facts[s, _Q24] / _SHORT - mean * mean, 0.0))
        level = math.log(spread + 1e-3 * abs(mean) + 1e-9)
        if count == _SHORT:
            facts[s, _SPREAD] = level
        if level > facts[s, _SPREAD]:
            measures[3] = level - facts[s, _SPREAD]
        facts[s, _SPREAD] += 0.01 * (level - facts[s, _SPREAD])
    _measure_seasons(s, time, value, measures, day, week, facts)
    measures[6] = max(facts[s, _SLOW] - value, 0.0)
    facts[s, _SLOW] += 0.005 * (value - facts[s, _SLOW])


@inlined
def _measure_seasons(
    s: int, time: int, value: float, measures: Floats, day: Floats, week: Floats, facts: Floats
) -> None:
    slot = (time // _SLOT_MS) % _DAY_SLOTS
    if day[s, slot, 1] > 0.0:
        facts[s, _SEASONAL] += 0.25 * (value - day[s, slot, 0] - facts[s, _SEASONAL])
        measures[4] = abs(facts[s, _SEASONAL])
    day[s, slot, 0] += (value - day[s, slot, 0]) / min(day[s, slot, 1] + 1.0, 4.0)
    day[s, slot, 1] += 1.0
    slot = (time // _HOUR_MS) % _WEEK_SLOTS
    if week[s, slot, 1] > 0.0:
        measures[5] = abs(value - week[s, slot, 0])
        week[s, slot, 0] += 0.1 * (value - week[s, slot, 0])
    else:
        week[s, slot, 0] = value
    week[s, slot, 1] += 1.0


@inlined
def _push(s: int, value: float, count: int, recent: Floats, facts: Floats) -> None:
    """Take the value into the ring of recent ones and its sums, which are summed anew once a turn."""
    at = count % _RECENT
    facts[s, _S24] += value - (recent[s, (at - _SHORT) % _RECENT] if count >= _SHORT else 0.0)
    gone = recent[s, (at - _SHORT) % _RECENT] if count >= _SHORT else 0.0
    facts[s, _Q24] += value * value - gone * gone
    facts[s, _S96] += value - (recent[s, (at - _MIDDLE) % _RECENT] if count >= _MIDDLE else 0.0)
    facts[s, _S168] += value - (recent[s, (at - _LONG) % _RECENT] if count >= _LONG else 0.0)
    facts[s, _S384] += value - (recent[s, at] if count >= _RECENT else 0.0)
    recent[s, at] = value
    if at != _RECENT - 1:
        return
    for column in range(_S24, _FACTS):
        facts[s, column] = 0.0
    for i in range(_RECENT):
        old = recent[s, i]
        facts[s, _S384] += old
        if i >= _RECENT - _LONG:
            facts[s, _S168] += old
        if i >= _RECENT - _MIDDLE:
            facts[s, _S96] += old
        if i >= _RECENT - _SHORT:
            facts[s, _S24] += old
            facts[s, _Q24] += old * old
