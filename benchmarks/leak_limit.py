"""How soon any detector can tell the slow leak of `livepulse bench anomalies`: `python benchmarks/leak_limit.py`.

Noise as the simulation's (correlated, Poisson, an hour's level learnt of three) with a leak of 45 % in three hours. The
fading mean of eight windows that the engine uses against filters matched to this very leak and this very noise, which
are the best that can be, at the same rate of false alarms. Delays are in windows after the loss exceeds three standard
deviations of a window; negative: before that.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RATE: Final = 3_000.0
CORRELATED, AGAIN = 0.03, 0.8
LEVEL: Final = 0.0116 / np.sqrt(3.0)
SLOPE: Final = 0.45 / 180
BEGIN, WINDOWS, SETTLED = 150, 400, 100


def noise(r: np.random.Generator, series: int) -> Floats:
    """Relative noise of windows, shape (series, windows)."""
    found = r.normal(0, CORRELATED, (series, WINDOWS))
    for i in range(1, WINDOWS):
        found[:, i] = AGAIN * found[:, i - 1] + 0.6 * found[:, i]
    own = r.normal(0, 1 / np.sqrt(RATE), found.shape)
    told: Floats = found + own + r.normal(0, LEVEL, (series, 1))
    return told


def fading_mean(rows: Floats) -> Floats:
    """Of eight windows."""
    found, mean = np.zeros_like(rows), np.zeros(len(rows))
    for i in range(rows.shape[1]):
        mean += (rows[:, i] - mean) / 8.0
        found[:, i] = mean
    return found


def matched(rows: Floats, length: int) -> Floats:
    """The best linear filter for a leak that began `length` windows ago."""
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    covariance = CORRELATED**2 * AGAIN**apart + np.eye(length) / RATE + LEVEL**2
    weights = np.linalg.solve(covariance, np.arange(1, length + 1) * SLOPE)
    found = np.full_like(rows, -np.inf)
    seen = np.lib.stride_tricks.sliding_window_view(rows, length, axis=1)
    found[:, length - 1 :] = seen @ (weights / np.sqrt(weights @ covariance @ weights))
    return found


def main() -> None:
    """Print delays of each at two rates of false alarms."""
    r = np.random.default_rng(0)
    calm, leaking = noise(r, 20_000), noise(r, 6_000)
    leaking += np.clip(np.arange(WINDOWS) - BEGIN + 1, 0, 180) * SLOPE
    visible = 3.0 * np.sqrt(CORRELATED**2 + 1 / RATE) / SLOPE
    days = len(calm) * (WINDOWS - SETTLED) / 1_440
    for name, of in (
        ("fading mean", fading_mean),
        *((f"matched, {n} windows", lambda rows, n=n: matched(rows, n)) for n in (40, 60)),
    ):
        highest = np.sort(of(calm)[:, SETTLED:].max(axis=1))[::-1]
        found = of(leaking)[:, BEGIN:]
        for every in (120, 500):
            beyond = found > highest[int(days / every)]
            delays = beyond.argmax(axis=1)[beyond.any(axis=1)] - visible
            middle, most = np.quantile(delays, [0.5, 0.9])
            print(f"{name}, a false alarm in {every} days: median {middle:.0f}, nine in ten {most:.0f}")


if __name__ == "__main__":
    main()
