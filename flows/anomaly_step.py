"""The compiled part of `flows.anomaly_baseline`: what a window does to the state of each series, and what it tells."""

from __future__ import annotations

import math
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
_EARLY: Final = 1.25
"""Limits of an open window are so much wider: the baseline learns a little until it closes."""
FEW: Final = 3.0
_NEAR: Final = 3.0
_RELATIVE, _RELATIVE_UNKNOWN, _RELATIVE_SHIFT = 0.15, 0.5, 0.08
"""Least deviation from the expected value that matters to anybody: of a window, of a shift on average."""
_LEAST_COUNT: Final = 10.0
_ZERO_EXPECTED: Final = 25.0
_CUSUM_SLACK, _CUSUM_LIMIT, _CUSUM_CLIP = 0.75, 12.0, 4.0
_MEAN_WINDOWS, _MEAN_LIMIT, _MEAN_LIMIT_STEADY, _MEAN_LEAST = 8.0, 5.5, 4.1, 0.258
"""Of the fading mean of z: its time constant, its limit in its own spread (where the series is steady: less), and the
spread that white noise gives it. It watches the whole alone, which is one series of many: of their parts, which are
less regular, the CUSUM tells."""
_STEADY: Final = 0.2
"""Noise of a window, relative to the expected value, up to which a series is steady."""
_MEAN_LEARNT: Final = 10_080
"""Windows that its spread is learnt from, at most: runs of it are long, so a day holds too few of them."""
_RUN_WINDOWS: Final = 8.0
"""Time constant of the mean by which a run matters: of all of it, a leak would have to lose twice as much first."""
_LEVEL_WINDOWS: Final = 720
_RECENT, _RECENT_OPEN = 60.0, 600.0
"""Time constants of the recent mean: while an alarm is open it must not become what is expected within its length."""
_BLOCK_WINDOWS, MEDIAN = 20.0, 0.6745
_SCALE_WINDOWS, _GUESSED = 240, 20.0
"""Windows that a scale is learnt from, at most; and as how many those count that were compared with other weekdays, an
hour of the week never seen: their residuals are those of the weekday, not of noise. Such are counted as negative."""
_TAIL_STEP, _TAIL_MAX = 0.4, 16.0
_QUANTILE: Final = 0.9998
"""Of |z|, learnt by steps (Robbins & Monro 1951): about one window in three days and a half of minutes is beyond."""
_ONCE, _ONCE_MEAN, _YOUNG, _YOUNG_SPANS = 1.75, 0.25, 0.4, 7.0
"""Limits of sums over windows are wider where levels rest on little: as noisy as windows. Those of the CUSUM by so
much where the hour was seen once, half of that much after twice, and so on. That of the mean, which tells of leaks, by
a quarter after once and so on, for the level, and by a share for its spread, which is learnt from what it will be
compared with: 0.4 at first, less and less until seven times the warm-up was seen (a week after a day of it)."""
_UNKNOWN_FACTOR: Final = 2.0
"""Limits are so much wider where the hour of the week was never seen and other weekdays stand in for it."""

# Columns of Baseline.facts
(
    LEVEL, _SEEN, _SUM, _COUNT, _LAST_Z, _LAST_REL, TAIL, ADDS_UP, UP, DOWN, RUN_ACTUAL, RUN_EXPECTED, _ZEROS,
    OPEN, _SIGN, _CALM, _AGE, KIND, RECENT, LAST_SLOT, _CLIPPED,
    _OPEN_ACTUAL, _OPEN_EXPECTED, _BLOCK, _BLOCK_SIZE, MEAN, _MEAN_SPREAD, _MEAN_SEEN,
) = range(28)  # fmt: skip
FACTS: Final = 28


@compiled
def step(  # noqa: PLR0913, PLR0917  # Numba takes arrays one by one
    actual: Floats,
    slots: Ints,
    besides: Ints,
    weights: Floats,
    counted: npt.NDArray[np.bool_],
    per: Ints,
    whole: npt.NDArray[np.bool_],
    few: float,
    hours: Floats,
    scale: Floats,
    facts: Floats,
    out: Floats,
    event: Ints,
    kind: Ints,
    warm: float,
    accept: float,
) -> None:
    """See `flows.anomaly_baseline.Baseline.step`."""
    warm = max(warm, 1.0)  # of nothing that was seen there is nothing to tell
    for w in range(actual.shape[0]):
        slot = slots[w]
        for s in range(actual.shape[1]):
            x = actual[w, s]
            if slot != facts[s, LAST_SLOT]:
                _learn_hour(s, hours, facts)
                facts[s, LAST_SLOT] = slot
            season = _season(s, slot, besides[w], weights[w], hours)
            known, ready = hours[s, slot, 1] > 0.0, facts[s, _SEEN] >= warm
            if season <= 0.0:  # nothing like this hour was seen: the recent mean stands in
                season = facts[s, RECENT] / facts[s, LEVEL]
            expected = season * facts[s, LEVEL]
            middle = math.sqrt(max(expected, 0.0) + 0.375)
            spread = _spread(s, slot % 24, middle, counted[s], scale)
            z = (math.sqrt(max(x, 0.0) + 0.375) - middle) / spread
            out[0, w, s] = expected
            out[1, w, s] = max(max(middle - 3.0 * spread, 0.0) ** 2 - 0.375, 0.0)
            out[2, w, s] = (middle + 3.0 * spread) ** 2 - 0.375
            out[4, w, s] = 1.0 if known else 0.0
            # Not a number, or a sum over few: there is nothing to judge or to learn.
            if x != x or (per[s] >= 0 and facts[per[s], RECENT] < few and facts[s, OPEN] <= 0.0):  # noqa: PLR0124
                kind[w, s] = int(facts[s, KIND])
                continue
            # What a count with this relative spread would be: the units of zeros, whatever the measure's own. Of a
            # count that is noise of its own only it is the expected one, however small: no zero is news of itself.
            facts[s, _ZEROS] = facts[s, _ZEROS] + max(expected, 0.0) / (2.0 * spread) ** 2 if x == 0.0 else 0.0
            doubt = 1.0 + (_ONCE - 1.0) / max(hours[s, slot, 1], 1.0)
            factor = 1.0 if known else _UNKNOWN_FACTOR
            young = _young(hours[s, slot, 1], facts[s, _MEAN_SEEN], warm)
            of_mean = whole[s] and facts[s, _MEAN_SEEN] >= warm
            _judge(w, s, x, z, expected, spread, of_mean, doubt, young, factor, ready, facts, out, event, kind, accept)
            _learn(s, slot, x, z, season, spread, hours, scale, facts)


@compiled
def limits(  # noqa: PLR0913, PLR0917  # see step
    rows: Ints,
    slots: Ints,
    besides: Ints,
    weights: Floats,
    counted: npt.NDArray[np.bool_],
    hours: Floats,
    scale: Floats,
    facts: Floats,
    out: Floats,
    warm: float,
) -> None:
    """See `flows.anomaly_baseline.Baseline.limits`."""
    warm = max(warm, 1.0)
    for i in range(len(rows)):
        s = rows[i]
        season = _season(s, slots[i], besides[i], weights[i], hours)
        known = hours[s, slots[i], 1] > 0.0
        out[3, i], out[4, i] = math.inf, 1.0
        if season <= 0.0 or facts[s, _SEEN] < warm or facts[s, OPEN] > 0.0:
            continue
        expected = season * facts[s, LEVEL]
        middle = math.sqrt(max(expected, 0.0) + 0.375)
        spread = _spread(s, slots[i] % 24, middle, counted[i], scale)
        factor, relative = (1.0, _RELATIVE) if known else (_UNKNOWN_FACTOR, _RELATIVE_UNKNOWN)
        far = _EARLY * factor * max(FAR, 1.35 * max(facts[s, TAIL], 3.0))
        out[0, i] = expected
        out[1, i] = max(max(middle - 3.0 * spread, 0.0) ** 2 - 0.375, 0.0)
        out[2, i] = (middle + 3.0 * spread) ** 2 - 0.375
        matters = expected + max(_EARLY * relative * expected, _LEAST_COUNT)
        out[3, i] = max((middle + far * spread) ** 2 - 0.375, matters)
        out[4, i] = _EARLY


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
    if abs(scale[s, hour, 1]) < 60.0:
        for other in range(24):
            if scale[s, other, 1] != 0.0:
                own = max(own, 1.2533 * scale[s, other, 0])
    return float(max(own, 0.5 if counted else 1e-9, 0.01 * middle))


@compiled
def _judge(  # noqa: PLR0913, PLR0917  # see step
    w: int,
    s: int,
    x: float,
    z: float,
    expected: float,
    spread: float,
    of_mean: bool,  # noqa: FBT001
    doubt: float,
    young: float,
    factor: float,
    ready: bool,  # noqa: FBT001
    facts: Floats,
    out: Floats,
    event: Ints,
    kind: Ints,
    accept: float,
) -> None:
    relative = abs(x - expected) / max(expected, 1.0)
    tail = max(facts[s, TAIL], 3.0)
    far, twice = factor * max(FAR, 1.35 * tail), factor * max(TWICE, tail)
    matters = relative >= (_RELATIVE if factor == 1.0 else _RELATIVE_UNKNOWN) and abs(x - expected) >= _LEAST_COUNT
    limit = doubt * _cusum(s, x, z if factor == 1.0 else 0.0, expected, tail, facts)
    before, before_relative = facts[s, _LAST_Z], facts[s, _LAST_REL]
    facts[s, _LAST_Z], facts[s, _LAST_REL] = z, relative
    two = z * before > 0.0 and min(abs(z), abs(before)) >= twice and before_relative >= _RELATIVE
    sums = max(facts[s, UP], facts[s, DOWN])
    steady = 2.0 * spread <= _STEADY * math.sqrt(expected + 0.375)
    mean_limit = _MEAN_LIMIT_STEADY * max(1.0, tail / 4.5) if steady else _MEAN_LIMIT * max(1.0, tail / 3.5)
    mean = facts[s, MEAN] / max(1.2533 * facts[s, _MEAN_SPREAD], _MEAN_LEAST)
    level = mean / (young * mean_limit) if of_mean else 0.0
    drifts = abs(facts[s, RUN_ACTUAL] / max(facts[s, RUN_EXPECTED], 1e-9) - 1.0) >= _RELATIVE_SHIFT
    found = 0
    if matters and (abs(z) >= far or two):
        found = (SPIKE if z > 0.0 else DROP) if x > 0.0 else ZERO
    elif facts[s, _ZEROS] >= _ZERO_EXPECTED * factor * max(1.0, tail / 4.0):
        found = ZERO
    elif sums >= limit and drifts:
        found = SHIFT_UP if facts[s, UP] > facts[s, DOWN] else SHIFT_DOWN
    elif abs(level) >= 1.0 and drifts:
        found = SHIFT_UP if level > 0.0 else SHIFT_DOWN
    strength = max(abs(z) / far if matters else 0.0, max(sums / limit, abs(level)) if drifts else 0.0)
    if found > 0:
        strength = max(strength, 1.0)
    out[3, w, s] = strength / (1.0 + strength)
    if facts[s, OPEN] > 0.0:
        facts[s, _OPEN_ACTUAL] += (x - facts[s, _OPEN_ACTUAL]) / 240.0
        facts[s, _OPEN_EXPECTED] += (expected - facts[s, _OPEN_EXPECTED]) / 240.0
        _follow(w, s, z, relative, found, facts, event, accept)
    elif found > 0 and ready:
        event[w, s] = OPENED
        facts[s, OPEN], facts[s, KIND], facts[s, _CALM], facts[s, _AGE] = 1.0, found, 0.0, 0.0
        facts[s, _OPEN_ACTUAL], facts[s, _OPEN_EXPECTED] = 0.0, 0.0
        facts[s, _SIGN] = 1.0 if found in (SPIKE, SHIFT_UP) else -1.0
    kind[w, s] = int(facts[s, KIND])


@compiled
def _cusum(s: int, x: float, z: float, expected: float, tail: float, facts: Floats) -> float:
    """Two-sided sums of clipped z; returns their limit, which grows with heavy tails and correlated noise."""
    clipped = min(max(z, -_CUSUM_CLIP), _CUSUM_CLIP)
    facts[s, MEAN] += (clipped - facts[s, MEAN]) / _MEAN_WINDOWS
    facts[s, UP] = max(0.0, facts[s, UP] + clipped - _CUSUM_SLACK)
    facts[s, DOWN] = max(0.0, facts[s, DOWN] - clipped - _CUSUM_SLACK)
    if facts[s, UP] + facts[s, DOWN] <= 0.0:
        facts[s, RUN_ACTUAL], facts[s, RUN_EXPECTED] = 0.0, 0.0
    else:
        facts[s, RUN_ACTUAL] += x - facts[s, RUN_ACTUAL] / _RUN_WINDOWS
        facts[s, RUN_EXPECTED] += expected - facts[s, RUN_EXPECTED] / _RUN_WINDOWS
    together = min(max((facts[s, ADDS_UP] / MEDIAN) ** 2, 1.0), 20.0)
    return float(_CUSUM_LIMIT * max(1.0, tail / 3.5) * together)


@compiled
def _follow(w: int, s: int, z: float, relative: float, found: int, facts: Floats, event: Ints, accept: float) -> None:
    """An open alarm: resolved, accepted as the new level, or grown into a shift."""
    facts[s, _AGE] += 1.0
    near = abs(z) < _NEAR or relative < _RELATIVE_SHIFT
    facts[s, _CALM] = facts[s, _CALM] + 1.0 if near and found in (0, SHIFT_UP, SHIFT_DOWN) else 0.0
    lasting = facts[s, KIND] in (SHIFT_UP, SHIFT_DOWN)
    if facts[s, _CALM] >= (CALM if not lasting else 6 * CALM):
        event[w, s] = RESOLVED
        if facts[s, _AGE] <= CALM:  # single windows far out, when they come often, are this series' way
            facts[s, TAIL] = min(facts[s, TAIL] + 1.0, _TAIL_MAX)
    elif facts[s, _AGE] >= accept:
        event[w, s] = ACCEPTED
        facts[s, LEVEL] *= min(max(facts[s, _OPEN_ACTUAL] / max(facts[s, _OPEN_EXPECTED], 1e-9), 0.01), 100.0)
    elif facts[s, _AGE] == 2 * CALM and facts[s, KIND] in (SPIKE, DROP):
        event[w, s] = BECAME_SHIFT
        facts[s, KIND] = SHIFT_UP if facts[s, _SIGN] > 0 else SHIFT_DOWN
    if event[w, s] == RESOLVED or event[w, s] == ACCEPTED:
        facts[s, OPEN], facts[s, KIND] = 0.0, 0.0
        facts[s, UP], facts[s, DOWN], facts[s, RUN_ACTUAL], facts[s, RUN_EXPECTED] = 0.0, 0.0, 0.0, 0.0
        facts[s, MEAN] = 0.0


@compiled
def _learn(  # noqa: PLR0913, PLR0917  # see step
    s: int, slot: int, x: float, z: float, season: float, spread: float, hours: Floats, scale: Floats, facts: Floats
) -> None:
    facts[s, _SEEN] += 1.0
    if facts[s, OPEN] > 0.0:
        facts[s, RECENT] += (x - facts[s, RECENT]) / _RECENT_OPEN
        return
    facts[s, RECENT] += (x - facts[s, RECENT]) / min(facts[s, _SEEN], _RECENT)
    facts[s, _SUM] += x
    facts[s, _COUNT] += 1.0
    clipped, known = min(max(z, -_NEAR), _NEAR), hours[s, slot, 1] > 0.0
    if known and season > 0.0:  # an hour of nothing tells of no level
        seen = x if abs(z) < _NEAR else season * facts[s, LEVEL]
        facts[s, LEVEL] += min(max(seen / season - facts[s, LEVEL], -0.5), 0.5) / _LEVEL_WINDOWS
    beyond = abs(z) > facts[s, TAIL] and abs(facts[s, _CLIPPED]) < _NEAR  # a run counts once
    facts[s, TAIL] += _TAIL_STEP * (_QUANTILE if beyond else _QUANTILE - 1.0)
    facts[s, TAIL] = min(max(facts[s, TAIL], 2.5), _TAIL_MAX)
    facts[s, _CLIPPED] = clipped
    facts[s, _BLOCK] += clipped
    facts[s, _BLOCK_SIZE] += 1.0
    if facts[s, _BLOCK_SIZE] >= _BLOCK_WINDOWS:  # how noise adds up: the median block, which incidents hardly move
        size = abs(facts[s, _BLOCK]) / math.sqrt(_BLOCK_WINDOWS)
        blocks = facts[s, _SEEN] / _BLOCK_WINDOWS
        by = 1.0 + max(0.01, min(0.25, 2.0 / blocks))  # in a day it must come to where it belongs
        facts[s, ADDS_UP] *= by if size > facts[s, ADDS_UP] else 1.0 / by
        facts[s, _BLOCK], facts[s, _BLOCK_SIZE] = 0.0, 0.0
    if known:  # of hours never seen nothing is added up: that nothing is no calm
        facts[s, _MEAN_SEEN] += 1.0
        size = min(abs(facts[s, MEAN]), max(3.0 * facts[s, _MEAN_SPREAD], 1.0))
        facts[s, _MEAN_SPREAD] += (size - facts[s, _MEAN_SPREAD]) / min(facts[s, _MEAN_SEEN], _MEAN_LEARNT)
    _learn_scale(s, slot % 24, abs(clipped) * spread, known, scale)


@compiled
def _learn_scale(s: int, hour: int, size: float, known: bool, scale: Floats) -> None:  # noqa: FBT001
    """Take in the size of a residual. `known`: of an hour of the week that was seen before."""
    count = scale[s, hour, 1]
    if known:
        count = (count if count >= 0.0 else min(-count, _GUESSED)) + 1.0
    else:
        count = count - 1.0 if count <= 0.0 else count + 1.0
    scale[s, hour, 1] = count
    scale[s, hour, 0] += (size - scale[s, hour, 0]) / min(abs(count), float(_SCALE_WINDOWS))


@compiled
def _young(times_seen: float, learnt: float, warm: float) -> float:
    """By how much the limit of the mean is wider while what it rests on is young."""
    return float(1.0 + _ONCE_MEAN / max(times_seen, 1.0) + _YOUNG * max(0.0, 1.0 - learnt / (_YOUNG_SPANS * warm)))


@compiled
def _learn_hour(s: int, hours: Floats, facts: Floats) -> None:
    """Take what the hour that ends had on average, at the level of then, into its slot."""
    slot = int(facts[s, LAST_SLOT])
    if facts[s, _COUNT] > 0.0 and slot >= 0:
        mean = facts[s, _SUM] / facts[s, _COUNT] / facts[s, LEVEL]
        hours[s, slot, 1] += 1.0
        hours[s, slot, 0] += (mean - hours[s, slot, 0]) * max(1.0 / hours[s, slot, 1], 0.25)
    facts[s, _SUM], facts[s, _COUNT] = 0.0, 0.0
