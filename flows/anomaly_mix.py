"""Mix shift: the whole is as it should be, but its parts are not.

Per dimension: the χ² distance, a degree of freedom, of the values' shares from what their baselines expect, as a cube
root (nearly normal: Wilson & Hilferty 1931), against its own slowly learnt mean and spread. It alarms when it is far
out twice running and the total variation distance (½ Σ |share − expected share|) says that it matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from flows.anomaly_step import ACCEPTED, NOTHING, OPENED, RESOLVED, Floats

LEAST_DISTANCE: Final = 0.1
_FAR, _NEAR = 6.0, 3.0
_LEAST_SPREAD: Final = 0.1
_LEAST_TOTAL: Final = 200.0
_WINDOWS: Final = 1440
_CALM: Final = 5


@dataclass(slots=True)
class MixWatch:
    """State of one dimension."""

    mean: float = 0.0
    square: float = 0.0
    seen: int = 0
    far: int = 0
    calm: int = 0
    age: int = 0
    open: bool = False

    def step(self, actual: Floats, expected: Floats, warm: int, accept: int) -> tuple[int, float, float]:
        """One window of the dimension's values, shapes (values,): (event, distance, score 0–1)."""
        total, usual = float(actual.sum()), float(expected.sum())
        if total < _LEAST_TOTAL or usual <= 0 or np.count_nonzero(expected > 0) < 2:
            return NOTHING, 0.0, 0.0
        wanted = np.maximum(expected, 1e-9) * (total / usual)
        chi = float(((actual - wanted) ** 2 / np.maximum(wanted, 1.0)).sum()) / (len(actual) - 1)
        distance = 0.5 * float(np.abs(actual - wanted).sum()) / total
        value = chi ** (1.0 / 3.0)
        spread = max(math.sqrt(max(self.square - self.mean**2, 0.0)), _LEAST_SPREAD)
        z = (value - self.mean) / spread
        far = z >= _FAR and distance >= LEAST_DISTANCE and self.seen >= warm
        self.far = self.far + 1 if far else 0
        score = max(z, 0.0) / (max(z, 0.0) + _FAR) if distance >= LEAST_DISTANCE else 0.0
        event = self._follow(near=z < _NEAR or distance < LEAST_DISTANCE / 2, accept=accept)
        if not self.open and event in (NOTHING, ACCEPTED) and self.far < 1:
            self._learn(min(value, self.mean + 3 * spread) if self.seen >= warm else value)
        return event, distance, score

    def _follow(self, *, near: bool, accept: int) -> int:
        if not self.open:
            if self.far >= 2:
                self.open, self.calm, self.age = True, 0, 0
                return OPENED
            return NOTHING
        self.age += 1
        self.calm = self.calm + 1 if near else 0
        if self.calm >= _CALM or self.age >= accept:
            self.open = False
            if self.calm >= _CALM:
                return RESOLVED
            self.mean, self.square, self.seen = 0.0, 0.0, 0
            return ACCEPTED
        return NOTHING

    def _learn(self, value: float) -> None:
        self.seen += 1
        weight = 1.0 / min(self.seen, _WINDOWS)
        self.mean += weight * (value - self.mean)
        self.square += weight * (value * value - self.square)

    def plain(self) -> list[float]:
        """State as plain numbers."""
        return [self.mean, self.square, self.seen, self.far, self.calm, self.age, int(self.open)]

    @classmethod
    def of(cls, plain: list[float]) -> MixWatch:
        """The state that `plain` gave."""
        mean, square, seen, far, calm, age, is_open = plain
        return cls(mean, square, int(seen), int(far), int(calm), int(age), bool(is_open))
