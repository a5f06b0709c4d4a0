"""Stages and half-lives of planted curves: what each definition of TABLES.md must say of a life that is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from flows.topic_columns import TopicColumns
from flows.topic_lifecycle import STAGES, WINDOW_MS, lifecycle_rows, take_tick

HEAT_HALF_LIFE_MS = 6 * 3_600_000
START = 2_833_333  # number of the first window: some morning
Row = dict[str, object]


def live(counts: Sequence[int], weight: float = 1.0) -> tuple[Row, list[str], TopicColumns]:
    """One topic with these events per window, all at the window's end: its row after the last, and its stages."""
    state, stages = TopicColumns.empty(), []
    state.resize(1)
    fade = 2.0 ** (-WINDOW_MS / HEAT_HALF_LIFE_MS)
    for window, count in enumerate(counts, START):
        state.heat[0] = state.heat[0] * fade + weight * count
        if count:
            state.last[0] = state.heat_minute[0] = window * 10 + 9
            state.first_ms[0] = min(state.first_ms[0], window * WINDOW_MS)
        state.window[0] = count
        state.events_total[0] += count
        state.weight_total[0] += weight * count
        state.peak_heat[0] = max(state.peak_heat[0], state.heat[0])
        if 2 * state.heat[0] >= state.peak_heat[0]:
            state.above_minute[0], state.above_heat[0] = window * 10 + 9, state.heat[0]
        take_tick(state, window, state.heat[:1].copy())
        stages.append(STAGES[state.stage[0]])
    row = lifecycle_rows(state, np.array([0]), START + len(counts) - 1, HEAT_HALF_LIFE_MS).to_dicts()[0]
    return row, stages, state


def exponential(half_life_minutes: float, peak: int, windows: int) -> list[int]:
    return [round(peak * 2 ** (-10 * age / half_life_minutes)) for age in range(windows)]


def power(tau_minutes: float, exponent: float, peak: int, windows: int) -> list[int]:
    return [round(peak * (1 + 10 * age / tau_minutes) ** -exponent) for age in range(windows)]


def test_a_first_hour_is_emerging_whatever_it_does() -> None:
    _, stages, _ = live([1, 100, 1, 0, 50, 3])
    assert stages[:5] == ["emerging"] * 5


def test_a_change_needs_two_ticks() -> None:
    _, stages, _ = live([10] * 12 + [13, 10, 15, 20])
    assert stages[11:] == ["peak", "peak", "peak", "peak", "growing"]  # one tick of growth is not growth


def test_a_life_from_beginning_to_end() -> None:
    counts = [10, 20, 40, 60, 80, 100, 110, 110, 110, 110, 110, 110, 110, 60, 50, 40, 30, 20, 10, 9, 5, 5, 0, 0]
    _, stages, _ = live(counts)
    order = [stage for place, stage in enumerate(stages) if place == 0 or stages[place - 1] != stage]
    assert order == ["emerging", "growing", "peak", "declining", "tail"]


def test_a_revival_needs_twice_the_trough_and_growth() -> None:
    fallen = [10, 100, 100, 100, 100, 100, 100, 50, 40, 30, 20, 20, 20, 20, 20, 20, 20, 20]
    assert live(fallen)[1][-1] == "declining"  # flat, neither peak nor tail: unchanged
    assert live([*fallen, 39, 39])[1][-1] == "growing"
    assert live([*fallen, 40, 40])[1][-1] == "revival"
    assert live([*fallen, 40, 20])[1][-1] == "declining"


def test_a_revival_out_of_silence() -> None:
    row, stages, _ = live([50, 100, 80, 60, 40, 20, 5, 0, 0, 0, 0, 0, 0, 0, 0, 30, 40])
    assert stages[-2:] == ["tail", "revival"]
    assert row["peak_time"] == (START + 2) * WINDOW_MS


def test_growth_is_null_without_events() -> None:
    state = live([5, 0])[2]
    assert np.isnan(state.growth[0])
    assert live([5, 5])[2].growth[0] == pytest.approx(np.log(3))


@pytest.mark.parametrize("half_life", [20, 45, 90, 300])
def test_half_life_of_an_exponential(half_life: int) -> None:
    row, _, _ = live([100, 1_000, *exponential(half_life, 5_000, 60)])
    assert row["half_life_minutes"] == -(-half_life // 10) * 10  # the first tick at or after it
    assert row["model"] == "exponential"
    low, high = row["half_life_low"], row["half_life_high"]
    assert isinstance(low, float) and isinstance(high, float)  # noqa: PT018
    assert low <= half_life <= high
    assert low > 0.9 * half_life
    assert isinstance(row["fit_r2"], float) and row["fit_r2"] > 0.999  # noqa: PT018


@pytest.mark.parametrize(("tau", "exponent"), [(10, 0.8), (10, 1.5), (30, 1.5), (60, 1.2), (90, 1.5)])
def test_half_life_of_a_power_law(tau: int, exponent: float) -> None:
    row, _, _ = live([100, 1_000, *power(tau, exponent, 20_000, 100)])
    truth = tau * (2 ** (1 / exponent) - 1)
    assert row["model"] == "power"
    assert row["half_life_minutes"] == -(-truth // 10) * 10
    low, high = row["half_life_low"], row["half_life_high"]
    assert isinstance(low, float) and isinstance(high, float)  # noqa: PT018
    assert low * 0.85 <= truth <= high


def test_the_interval_covers_the_truth_of_noisy_decays() -> None:
    rng, hits = np.random.default_rng(3), 0
    for _ in range(100):
        counts = rng.poisson(exponential(60, 60, 40))
        row = live([20, 70, *counts.tolist()])[0]
        low, high = row["half_life_low"], row["half_life_high"]
        hits += low is not None and low <= 60 and (high is None or high >= 60)  # type: ignore[operator]
    assert hits >= 90


def test_half_needs_two_windows_running() -> None:
    assert live([100, 50, 60, 50, 40, 90])[0]["half_life_minutes"] == 30
    assert live([100, 50])[0]["half_life_minutes"] is None
    assert live([100, 51, 51, 51])[0]["half_life_minutes"] is None  # never halves


def test_peak_at_the_start() -> None:
    row, _, _ = live([80, 40, 20, 10, 5])
    assert (row["peak_time"], row["time_to_peak_minutes"], row["half_life_minutes"]) == (
        (START + 1) * WINDOW_MS,
        10,
        10,
    )


def test_a_greater_peak_starts_again() -> None:
    row, _, _ = live([80, 40, 20, 10, 5, 100, 90])
    assert (row["peak_rate"], row["half_life_minutes"], row["model"]) == (10, None, None)
    assert row["peak_time"] == (START + 6) * WINDOW_MS


def test_nothing_is_fitted_to_a_rate_that_does_not_fall() -> None:
    row, _, _ = live([100, *[90] * 20])
    assert (row["model"], row["half_life_low"], row["half_life_high"], row["fit_r2"]) == (None, None, None, None)


def deadline_by_the_minute(counts: list[int], half_life_minutes: float) -> float:
    """Carry the planted exponential forward, minute by minute, until heat is under half of its peak; in windows."""
    heat = peak = 0.0
    fade = 2.0 ** (-WINDOW_MS / HEAT_HALF_LIFE_MS)
    for count in counts:
        heat = heat * fade + count
        peak = max(peak, heat)
    minutes = 0
    while heat >= peak / 2:
        minutes += 1
        rate = counts[-1] / 10 * 2 ** (-(minutes - 0.5) / half_life_minutes)
        # counts[-1] is a window's mean, reached five minutes before its tick
        heat = heat * fade**0.1 + rate * 2 ** (-5 / half_life_minutes)
    return minutes / 10


def test_response_deadline_carries_the_fit_forward() -> None:
    counts = [1_000, *exponential(60, 5_000, 14)]
    row, _, _ = live(counts)
    ahead = (float(str(row["response_deadline"])) / WINDOW_MS) - (START + len(counts))
    assert ahead == pytest.approx(deadline_by_the_minute(counts, 60), rel=0.03)


def test_response_deadline_without_a_fit() -> None:
    row, _, _ = live([100, 100])
    assert row["response_deadline"] == (START + 1) * WINDOW_MS + HEAT_HALF_LIFE_MS


def test_response_deadline_stays_once_passed() -> None:
    counts = exponential(30, 5_000, 12)
    passed = {live([*counts, *[0] * silent])[0]["response_deadline"] for silent in (60, 90, 200)}
    assert len(passed) == 1
    (when,) = passed
    assert START * WINDOW_MS + HEAT_HALF_LIFE_MS < float(str(when)) < START * WINDOW_MS + 1.5 * HEAT_HALF_LIFE_MS


def test_columns_are_those_of_the_contract() -> None:
    state = TopicColumns.empty()
    rows = lifecycle_rows(state, np.zeros(0, dtype=np.int64), START, HEAT_HALF_LIFE_MS)
    assert rows.columns == [
        "first_seen", "peak_time", "peak_heat", "peak_rate", "half_life_minutes", "half_life_low", "half_life_high",
        "model", "fit_r2", "stage", "time_to_peak_minutes", "response_deadline",
    ]  # fmt: skip
    assert rows.schema["response_deadline"] == pl.Int64
