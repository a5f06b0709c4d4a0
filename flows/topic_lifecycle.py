"""How topics live: stage, peak, half-life and the fit of their decay, at ten-minute ticks, over columns.

How the definitions of TABLES.md are read here
- A *window* is ten minutes of the clock, its *tick* is its end. c is a topic's events in a window, so r = c / 10 and
  R = (the last six c) / 60; windows before the first event are empty. g = ln(6c / Σ c), null when c = 0.
- *Stage*: unknown until the topic's first tick. That tick sets it at once (there is nothing to change from); later a
  change needs the same new stage at two ticks running. Younger than 60 min is measured at the tick, from the first
  event. "max" is the greatest r at any tick so far, this one included. Shares of another r are compared in whole
  events, exactly. *Revival* may only follow the confirmed stages declining and tail; once it is confirmed, the rules
  below it speak again. The *trough* is the least r since the greatest r, or since the last revival was confirmed if
  that came later. A greatest r that comes while the stage is declining or tail is what a revival may be: until another
  stage is confirmed the trough stays the one that it rose from. With c = 0, g is null, and the rules that ask for it do
  not fit.
- *Peak* is the greatest r, the first tick of it if there are several: `peak_time` is that tick, `peak_rate` is r in
  events a minute. A greater r later (in a revival, too) is a new peak: half-life and fit begin again. `peak_heat` is
  the greatest heat at any minute's tick.
- *Half-life* is the first multiple of ten minutes after the peak at which r, and r ten minutes later, are at most half.
- *Fit*: least squares on ln c over the windows after the peak, weighted by c (the variance of ln c is 1/c), until r
  falls under a tenth of the peak (but at least for an hour) or a revival is confirmed. Exponential: ln c falls with Δ.
  Power law: with ln(1 + Δ/τ), τ one of 10, 30, 90 min. The least AIC is kept (a power law pays for τ). A fit needs
  four windows with events and a rate that falls. The 95 % interval of the slope (Student's t; dispersion at least that
  of counts) gives the interval of the half-life; it is widened to hold the measured one, which comes in steps of ten
  minutes, and has no upper end where the slope might be none.
- *Response deadline*: heat now at least half of its peak, and a fit: when the fitted rate, carried forward from the
  last tick with the topic's mean weight an event, brings heat under half of the peak, null if not within 30 days. Heat
  under half already, and a fit: when that was. No fit: peak_time + H.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.topic_columns import HOUR_WINDOWS, NEVER, NO_TIME, Floats, Int64s, Mask, TopicColumns

STAGES: Final = ("unknown", "emerging", "growing", "peak", "declining", "tail", "revival")
UNKNOWN, EMERGING, GROWING, PEAK, DECLINING, TAIL, REVIVAL = range(7)

WINDOW_MINUTES: Final = 10
WINDOW_MS: Final = WINDOW_MINUTES * 60_000
SETTLED_MINUTES: Final = 140
"""After so long without an event no tick changes a stage any more: the hour is empty, two ticks have confirmed it."""

BASES: Final = ("exponential", "power", "power", "power")
"""The model that each regressor belongs to."""
_POWER_TAU: Final = np.array([[1.0], [3.0], [9.0]])  # windows
_PARAMETERS: Final = np.array([[2.0], [3.0], [3.0], [3.0]])
_YOUNG_MS: Final = 3_600_000
_GROWTH: Final = 0.2
_FIT_MIN_WINDOWS: Final = 4
_FLAT: Final = 1e-9  # a slope that rounding alone can give
_FIT_LEAST_SPAN: Final = 6  # windows after the peak that are fitted however few events they have
_LN2: Final = float(np.log(2.0))
_T_975: Final = np.array([
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042, 1.960,
])  # fmt: skip
"""Student's t, 97.5 %, for 1 to 30 degrees of freedom, then the normal limit."""
_FORECAST_STEPS: Final = 1.15 ** np.arange(47)  # windows; together 33 days
_FORECAST_WINDOWS: Final = 30 * 24 * 6


def take_tick(state: TopicColumns, window: int, heat: Floats) -> Mask:
    """Close window number `window` (minute // 10) for all topics.

    `heat`: heat at the tick, length `state.size`. Returns which topics' lifecycle rows may have changed, same length.
    """
    size = state.size
    events = state.window[:size]
    state.recent[window % HOUR_WINDOWS, :size] = events
    hour = state.recent[:, :size].sum(axis=0)
    some = events > 0
    with np.errstate(all="ignore"):  # empty hours; masked below
        growth = np.where(some, np.log(6.0 * events / hour), np.nan)
    state.growth[:size] = growth
    reached = _follow_peak(state, window, events)
    _add_to_fit(state, window, events)
    restaged = _set_stage(state, window, events, growth)
    above = 2.0 * heat >= state.peak_heat[:size]
    changed = some | reached | restaged
    changed |= (above | state.was_above[:size]) & (state.fit_windows[:size] >= _FIT_MIN_WINDOWS)
    state.tick_heat[:size] = heat
    state.was_above[:size] = above
    state.window[:size] = 0
    return changed & (state.last[:size] > NEVER)


def _follow_peak(state: TopicColumns, window: int, events: Int64s) -> Mask:
    """New peaks, troughs and half-lives; which half-lives were reached at this tick."""
    size = len(events)
    risen = np.flatnonzero(events > state.peak[:size])
    if len(risen):
        state.peak[risen] = events[risen]
        rests = risen[~_has_fallen(state.stage[risen])]
        state.trough[rests] = events[rests]
        state.peak_window[risen] = window
        state.half_life[risen] = -1
        state.fitting[risen] = True
        for column in (state.fit_windows, state.fit_w, state.fit_y, state.fit_yy):
            column[risen] = 0
        for column in (state.fit_x, state.fit_xx, state.fit_xy):
            column[:, risen] = 0.0
    np.minimum(state.trough[:size], events, out=state.trough[:size])
    low = 2 * events <= state.peak[:size]  # false at the peak itself, whose events are the peak's
    low &= state.peak[:size] > 0
    reached: Mask = low & state.was_low[:size] & (state.half_life[:size] < 0)
    if reached.any():
        slots = np.flatnonzero(reached)
        state.half_life[slots] = (window - 1 - state.peak_window[slots]) * WINDOW_MINUTES
    state.was_low[:size] = low
    return reached


def _has_fallen(stage: npt.NDArray[np.uint8]) -> Mask:
    fallen: Mask = (stage == DECLINING) | (stage == TAIL)
    return fallen


def _add_to_fit(state: TopicColumns, window: int, events: Int64s) -> None:
    """Count this window into the decay fits that are under way. One addition a tick, so the sums are reproducible."""
    size = len(events)
    slots = np.flatnonzero(state.fitting[:size])
    if not len(slots):
        return
    counts, age = events[slots], window - state.peak_window[slots]
    over = (10 * counts < state.peak[slots]) & (age >= _FIT_LEAST_SPAN)
    state.fitting[slots[over]] = False
    used = ~over & (age > 0) & (counts > 0)
    slots, weight = slots[used], counts[used].astype(np.float64)
    if not len(slots):
        return
    y = np.log(weight / state.peak[slots])
    x = regressors(age[used].astype(np.float64))
    state.fit_windows[slots] += 1
    state.fit_w[slots] += weight
    state.fit_y[slots] += weight * y
    state.fit_yy[slots] += weight * y * y
    state.fit_x[:, slots] += weight * x
    state.fit_xx[:, slots] += weight * x * x
    state.fit_xy[:, slots] += weight * x * y


def regressors(age: Floats) -> Floats:
    """What ln r is linear in, per model of `BASES`: shape (4, n) for n ages in windows."""
    return np.concatenate((age[np.newaxis], np.log1p(age / _POWER_TAU)))


def _set_stage(state: TopicColumns, window: int, events: Int64s, growth: Floats) -> Mask:
    """The stage rules, last to first, so that the first that fits is what stays; which stages changed."""
    size = len(events)
    stage, peak = state.stage[:size], state.peak[:size]
    grows = growth > _GROWTH
    wanted = np.where(10 * events >= 8 * peak, np.uint8(PEAK), stage)
    wanted[growth < -_GROWTH] = DECLINING
    wanted[grows] = GROWING
    wanted[10 * events < peak] = TAIL
    fallen = _has_fallen(stage)
    revives = grows & fallen & (events >= 2 * state.trough[:size])
    wanted[revives] = REVIVAL
    wanted[(window + 1) * WINDOW_MS - state.first_ms[:size] < _YOUNG_MS] = EMERGING
    changed: Mask = (wanted != stage) & ((wanted == state.candidate[:size]) | (stage == UNKNOWN))
    changed &= state.last[:size] > NEVER
    stage[changed] = wanted[changed]
    state.candidate[:size] = wanted
    revived = changed & (wanted == REVIVAL)
    # Another way out of a decline that rose to a new peak at one of the two ticks: the trough begins there.
    left = changed & fallen & ~_has_fallen(wanted) & (state.peak_window[:size] >= window - 1)
    state.trough[:size][revived | left] = events[revived | left]
    state.fitting[:size][revived] = False
    return changed


class DecayFit(NamedTuple):
    """The fit kept per topic (arrays of length n). Where `fitted` is false the others mean nothing."""

    fitted: Mask
    basis: Int64s  # index into BASES
    slope: Floats  # of ln(c / peak) on the regressor
    intercept: Floats
    low: Floats  # 95 % interval of the half-life, minutes; NaN: no bound
    high: Floats
    r2: Floats


def fit_decay(state: TopicColumns, slots: Int64s) -> DecayFit:
    """Fit both decays to the windows summed so far; keep the better by AIC."""
    windows, weight = state.fit_windows[slots], state.fit_w[slots]
    sum_y, sum_x = state.fit_y[slots], state.fit_x[:, slots]
    with np.errstate(all="ignore"):  # topics without a fit divide by zero; they are masked
        mean_y, mean_x = sum_y / weight, sum_x / weight
        spread = state.fit_xx[:, slots] - sum_x * mean_x
        slopes = (state.fit_xy[:, slots] - sum_x * mean_y) / spread
        total = state.fit_yy[slots] - sum_y * mean_y
        residual = np.maximum(total - slopes * slopes * spread, 1e-9 * total + 1e-12)
        aic = windows * np.log(residual / windows) + 2 * _PARAMETERS
        basis = np.argmin(np.where(np.isnan(aic), np.inf, aic), axis=0)
        column = np.arange(len(slots))
        slope, residual, spread = slopes[basis, column], residual[basis, column], spread[basis, column]
        freedom = np.maximum(windows - 2, 1)
        margin = _T_975[np.minimum(freedom, len(_T_975)) - 1] * np.sqrt(np.maximum(1.0, residual / freedom) / spread)
        fitted = (windows >= _FIT_MIN_WINDOWS) & (slope < -_FLAT)
        r2 = 1.0 - np.minimum(residual / total, 1.0)
    low, high = _half_life(basis, margin - slope), _half_life(basis, -slope - margin)
    return DecayFit(fitted, basis, slope, mean_y - slope * mean_x[basis, column], low, high, r2)


def _half_life(basis: Int64s, speed: Floats) -> Floats:
    """Minutes in which a decay of this speed (minus the slope, per regressor) halves; NaN when it does not fall."""
    tau = np.concatenate(([1.0], _POWER_TAU[:, 0]))[basis]
    with np.errstate(all="ignore"):
        exponential = _LN2 / speed
        minutes = WINDOW_MINUTES * np.where(basis == 0, exponential, tau * np.expm1(exponential))
    return np.where((speed > 0) & np.isfinite(minutes), minutes, np.nan)


def _deadline_ms(state: TopicColumns, slots: Int64s, fit: DecayFit, tick_ms: int, half_life_ms: float) -> Floats:
    """`response_deadline` in epoch ms, NaN for none (see the module's docstring)."""
    half = state.peak_heat[slots] / 2.0
    peak_ms = (state.peak_window[slots] + 1).astype(np.float64) * WINDOW_MS
    with np.errstate(all="ignore"):
        fallen_ms = (state.above_minute[slots] + 1.0) * 60_000 + half_life_ms * np.log2(state.above_heat[slots] / half)
    deadline = np.where(fit.fitted, fallen_ms, peak_ms + half_life_ms)
    ahead = np.flatnonzero(fit.fitted & (state.tick_heat[slots] >= half))
    if len(ahead):
        at = slots[ahead]
        age = tick_ms // WINDOW_MS - 1 - state.peak_window[at]
        curve = (fit.basis[ahead], fit.intercept[ahead], fit.slope[ahead])
        with np.errstate(all="ignore"):
            level = state.weight_total[at] / state.events_total[at] * state.peak[at]
        windows = _windows_until_half(state.tick_heat[at], half[ahead], level, age, curve, half_life_ms / WINDOW_MS)
        deadline[ahead] = tick_ms + WINDOW_MS * windows
    deadline[state.peak[slots] == 0] = np.nan
    return deadline


_Curve = tuple[Int64s, Floats, Floats]


def _windows_until_half(
    heat: Floats, half: Floats, peak_weight: Floats, age: Int64s, curve: _Curve, half_life: float
) -> Floats:
    """Windows from now until heat, fed by the fitted rate, falls under `half`; NaN if not within 30 days.

    Steps of growing length, each with the rate of its middle, which makes heat within a step a closed form.
    `peak_weight`: weight a window at the peak; `age`: windows since the peak; `curve`: basis, intercept and slope of
    the fit; `half_life`: of heat, in windows.
    """
    basis, intercept, slope = curve
    until = np.full(len(heat), np.nan)
    columns = np.arange(len(heat))
    elapsed, heat = 0.0, heat.copy()
    for step in _FORECAST_STEPS.tolist():
        middle = regressors(age + elapsed + step / 2.0)[basis, columns]
        level = peak_weight * np.exp(intercept + slope * middle) * (half_life / _LN2)  # where heat would settle
        then = level + (heat - level) * 2.0 ** (-step / half_life)
        crosses = np.flatnonzero((then < half) & np.isnan(until))
        if len(crosses):
            share = (half[crosses] - level[crosses]) / (heat[crosses] - level[crosses])
            until[crosses] = elapsed - half_life * np.log2(share)
        heat, elapsed = then, elapsed + step
    return np.where(until <= _FORECAST_WINDOWS, until, np.nan)


def lifecycle_rows(state: TopicColumns, slots: Int64s, window: int, half_life_ms: float) -> pl.DataFrame:
    """Rows of `topic_lifecycle` without the topic, one a slot. `window`: the last window closed; times in epoch ms."""
    fit = fit_decay(state, slots)
    peaked = state.peak[slots] > 0
    measured = np.where(state.half_life[slots] >= 0, state.half_life[slots], np.nan).astype(np.float64)
    first_ms, peak_ms = state.first_ms[slots], (state.peak_window[slots] + 1) * WINDOW_MS
    peak_heat = state.peak_heat[slots]
    seen = first_ms < NO_TIME
    deadline = _deadline_ms(state, slots, fit, (window + 1) * WINDOW_MS, half_life_ms)
    models = pl.Series(BASES, dtype=pl.String).gather(fit.basis)
    stages = pl.Series(STAGES, dtype=pl.String).gather(state.stage[slots].astype(np.int64))
    rows = pl.DataFrame({
        "first_seen": first_ms,
        "peak_time": peak_ms,
        "peak_heat": peak_heat,
        "peak_rate": state.peak[slots] / WINDOW_MINUTES,
        "half_life_minutes": measured,
        "half_life_low": np.where(fit.fitted, np.fmin(fit.low, measured), np.nan),
        "half_life_high": np.where(fit.fitted & ~np.isnan(fit.high), np.fmax(fit.high, measured), np.nan),
        "model": models,
        "fit_r2": np.where(fit.fitted, fit.r2, np.nan),
        "stage": stages,
        "time_to_peak_minutes": (peak_ms - first_ms) / 60_000,
        "response_deadline": np.rint(deadline),
        "_seen": seen, "_peaked": peaked, "_fitted": fit.fitted,
    })  # fmt: skip
    peak_only = ("peak_time", "peak_rate", "time_to_peak_minutes")
    return rows.with_columns(
        pl.when("_seen").then("first_seen"),
        pl.when("_seen").then("peak_heat"),
        pl.when("_fitted").then("model"),
        pl.col("half_life_minutes", "half_life_low", "half_life_high", "fit_r2").fill_nan(None),
        pl.col("response_deadline").fill_nan(None).cast(pl.Int64),
        *(pl.when("_peaked").then(name).alias(name) for name in peak_only),
    ).drop("_seen", "_peaked", "_fitted")
