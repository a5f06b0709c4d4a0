"""Baselines that rest on little: what is learnt of hours that were never seen must not make limits of later ones."""

from __future__ import annotations

import numpy as np

from flows.anomaly_baseline import Baseline, Times
from flows.anomaly_spec import AnomalySpec, calendar
from flows.anomaly_step import OPENED, Floats
from flows.bench_anomalies import usual

MONDAY, DAY = 1_767_571_200_000, 1_440
WHOLES = 20
DAYS = 16


def wholes(seed: int, rate: float) -> Floats:
    """Minutes of `WHOLES` streams of their own: a daily shape, correlated noise, Poisson counts."""
    r = np.random.default_rng(seed)
    minutes = np.arange(DAYS * DAY)
    shocks, noise = r.normal(0, 0.03, (len(minutes), WHOLES)), np.zeros((len(minutes), WHOLES))
    for i in range(1, len(minutes)):
        noise[i] = 0.8 * noise[i - 1] + 0.6 * shocks[i]
    return r.poisson(usual(minutes, rate)[:, None] * np.exp(noise)).astype(np.float64)


def observed(rows: Floats) -> tuple[Baseline, list[int]]:
    """The baseline after these minutes, and the minutes of its alarms."""
    baseline, opened = Baseline(WHOLES, warm=DAY, accept=720), []
    counted = whole = np.ones(WHOLES, np.bool_)
    for day in range(DAYS):
        minutes = np.arange(day * DAY, (day + 1) * DAY)
        found = baseline.step(
            rows[minutes], calendar(AnomalySpec(), MONDAY + minutes * 60_000), counted, None, whole, 10.0
        )
        opened += [int(minutes[w]) for w, s in zip(*np.nonzero(found.event == OPENED), strict=True)]
    return baseline, opened


def test_a_short_history_makes_no_false_alarms_of_the_whole() -> None:
    """Of 2 × 20 wholes over two weeks. Limits of the fading mean were made of hours it had not looked at: 13 alarms."""
    alarms = [minute for rate in (3_000.0, 300.0) for minute in observed(wholes(11, rate))[1]]
    assert len(alarms) <= 4


def test_hours_that_were_compared_with_other_weekdays_tell_little_of_noise() -> None:
    """Every day has another level: a week of such residuals is forgotten when the hours are known."""
    r = np.random.default_rng(3)
    levels = np.repeat(np.array([600, 680, 570, 660, 620, 560, 640], np.float64), DAY)
    rows = r.poisson(np.tile(levels, 2)[:, None], (2 * 7 * DAY, WHOLES)).astype(np.float64)
    baseline = Baseline(WHOLES, warm=DAY, accept=720)
    counted = whole = np.ones(WHOLES, np.bool_)
    spreads = []
    for day in range(2 * 7):
        minutes = np.arange(day * DAY, (day + 1) * DAY)
        times = calendar(AnomalySpec(zone="UTC"), MONDAY + minutes * 60_000)
        baseline.step(rows[minutes], times, counted, None, whole, 10.0)
        spreads.append(float(np.median(1.2533 * baseline.scale[:, :, 0])))
    assert spreads[6] > 1.0  # Poisson's is 0.5
    assert spreads[8] < 0.7
    assert spreads[13] < 0.6


def test_hours_that_are_new_later_are_learnt_from_as_before() -> None:
    baseline = Baseline(1, warm=1, accept=720)
    rows = np.full((60, 1), 100.0)
    for slot in (5, 5, 29):  # 29: the same hour of the next day
        times = Times(np.full(60, slot), np.full(60, slot + 1), np.zeros(60))
        baseline.step(rows, times, np.ones(1, np.bool_))
        other = Times(np.full(60, slot + 40), np.full(60, slot + 41), np.zeros(60))
        baseline.step(rows, other, np.ones(1, np.bool_))
    assert baseline.scale[0, 5, 1] == 20 + 60 + 60
