"""The score of the Numenta Anomaly Benchmark (Lavin & Ahmad 2015, arXiv:1510.03336) and its threshold sweep.

A row inside a labelled window earns by how early it is, a row outside costs by how far behind the last window it is, a
window without a detection costs; the first 15 % of a file (at most 750 rows) count for nothing. One threshold, the best
one, serves the whole corpus for a profile. Scores are scaled so that a detector that detects nothing has 0 and one
that detects each window at its first row, and nothing else, has 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PROBATION_SHARE: Final = 0.15
PROBATION_ROWS_OF: Final = 5_000
"""Files longer than this have the probation of one of this length: 750 rows."""
_OUTSIDE: Final = -1


@dataclass(frozen=True, slots=True)
class Profile:
    """What an application gains or pays: per window found, false alarm, window missed."""

    name: str
    found: float
    false_alarm: float
    missed: float


PROFILES: Final = (
    Profile("standard", 1.0, 0.11, 1.0),
    Profile("reward_low_FP", 1.0, 0.22, 1.0),
    Profile("reward_low_FN", 1.0, 0.11, 2.0),
)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFile:
    """One file of the corpus with a detector's scores.

    Attributes:
        name: `category/file.csv`.
        scores: anomaly scores, shape (rows,).
        windows: labelled windows as (first row, last row), both inclusive, in order.
    """

    name: str
    scores: Floats
    windows: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Result:
    """The score of a corpus under one profile, at the threshold that is best for it (or the one that was given)."""

    profile: str
    threshold: float
    score: float  # 0: finds nothing, 100: perfect
    windows: int
    found: int
    false_alarms: int


def scaled_sigmoid(position: Floats) -> Floats:
    """2 / (1 + e^(5y)) − 1 of the position y relative to a window's end (in windows); −1 beyond three windows."""
    return np.where(position > 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, 3.0))) - 1.0)


def probation(rows: int) -> int:
    """Rows at the start of a file that are not scored."""
    return math.floor(min(PROBATION_SHARE * rows, PROBATION_SHARE * PROBATION_ROWS_OF))


def positions(rows: int, windows: Sequence[tuple[int, int]]) -> tuple[Floats, Ints]:
    """Per row, what a detection there is worth before weights, and the number of its window (−1: outside).

    Inside: scaledSigmoid(−(last − i + 1) / width) over its value at the first row; outside: scaledSigmoid of the
    distance behind the previous window's last row over that window's (width − 1), −1 where there is none.
    """
    at = np.arange(rows)
    worth, owner = np.full(rows, -1.0), np.full(rows, _OUTSIDE)
    most = float(scaled_sigmoid(np.array([-1.0]))[0])
    for number, (first, last) in enumerate(windows):
        width = last - first + 1
        worth[last + 1 :] = scaled_sigmoid((at[last + 1 :] - last) / max(width - 1, 1))
        inside = slice(first, last + 1)
        worth[inside] = scaled_sigmoid(-(last - at[inside] + 1) / width) / most
        owner[inside] = number
    return worth, owner


def score(corpus: Sequence[LabelledFile], profile: Profile, threshold: float | None = None) -> Result:
    """Score all files of `corpus` together; without a `threshold` at the best one.

    A row is a detection when its score is at least the threshold; +inf is the threshold of detecting nothing.
    """
    windows = sum(len(file.windows) for file in corpus)
    levels, gains, false = _sweep(corpus, profile)
    totals = np.cumsum(gains) - profile.missed * windows
    # A threshold takes all rows of one score: the last of equal ones tells its total. Index 0 detects nothing.
    ends = np.flatnonzero(np.append(levels[1:] != levels[:-1], np.True_)) if len(levels) else np.zeros(0, np.int64)
    cuts = np.concatenate(([np.inf], levels[ends]))
    raw = np.concatenate(([-profile.missed * windows], totals[ends]))
    best = int(np.argmax(raw)) if threshold is None else int(np.flatnonzero(cuts >= threshold)[-1])
    spread = (profile.found + profile.missed) * windows
    scaled = 100.0 * (raw[best] + profile.missed * windows) / spread if windows else float(raw[best])
    cut = float(cuts[best]) if threshold is None else threshold
    found = sum(any((f.scores[max(a, probation(len(f.scores))) : b + 1] >= cut).any() for a, b in [w])
                for f in corpus for w in f.windows)  # fmt: skip
    return Result(profile.name, cut, float(scaled), windows, found, int(false[levels >= cut].sum()))


def _sweep(corpus: Sequence[LabelledFile], profile: Profile) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Scored rows of all files from the highest score down: the score, what it adds to the total, is it false."""
    levels, gains, false = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, np.bool_)]
    for file in corpus:
        worth, owner = positions(len(file.scores), file.windows)
        scored = slice(probation(len(file.scores)), None)
        owner_of, worth_of, score_of = owner[scored], worth[scored], file.scores[scored]
        outside = owner_of == _OUTSIDE
        gain = np.where(outside, profile.false_alarm * worth_of, 0.0)
        for number in range(len(file.windows)):
            mine = np.flatnonzero(owner_of == number)
            down = mine[np.argsort(-score_of[mine], kind="stable")]
            reached = np.maximum.accumulate(np.concatenate(([-profile.missed], profile.found * worth_of[down])))
            gain[down] = np.diff(reached)
        levels.append(score_of)
        gains.append(gain)
        false.append(outside)
    level = np.concatenate(levels)
    order = np.argsort(-level, kind="stable")
    return level[order], np.concatenate(gains)[order], np.concatenate(false)[order]
