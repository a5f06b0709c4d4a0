"""What was planted comes out of the counts again: conversion, half-lives, the evening peak."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows.simulate import Conversion, Options, Truth, simulate_to_files
from flows.simulate_world import HOUR_CURVE, power_law_rank

DURATION_S = 9_000.0
OPTIONS = Options(
    seed=11, rate=45.0, duration_s=DURATION_S, daily_curve=False, users=20_000,
    videos=800, creators=80, topics=200, rooms=12,
    partitions=1, conversion=Conversion(enter=0.06, engage=0.4, gift=0.15, order=0.08), trend_peak_share=0.03,
    trend_half_lives_minutes=(10.0, 20.0), trend_interval_minutes=20.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return simulate_to_files(tmp_path_factory.mktemp("planted"), OPTIONS)


def within(count: int, trials: int, probability: float, sigmas: float = 4.5) -> bool:
    """Whether `count` of `trials` is a likely draw."""
    spread = math.sqrt(trials * probability * (1 - probability))
    return abs(count - trials * probability) <= sigmas * spread


def test_conversion_is_the_planted_one(truth: Truth) -> None:
    drawn, planted = truth.planted["drawn"], truth.planted["conversion"]
    assert drawn["entries"] > 8_000
    assert within(drawn["entries"], drawn["video_views"], planted["enter"])
    assert truth.funnel is not None
    rooms = truth.funnel.filter(unit="user_live", dim="all").group_by("step").agg(pl.col("reached").sum())
    reached = dict(rooms.iter_rows())
    for step, name in ((3, "engage"), (4, "gift"), (5, "order")):
        assert within(reached[step], reached[2], planted[name]), name
    assert reached[2] <= drawn["entries"]
    assert reached[2] > 0.99 * drawn["entries"]  # all but those whose bounds cut them off


def test_planted_topics_reach_their_peak_and_halve_in_their_half_life(truth: Truth) -> None:
    assert truth.topic_minutes is not None
    counts: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for tick, topic, events, _ in truth.topic_minutes.iter_rows():
        counts[topic][tick] = events
    tried = 0
    for trend in truth.planted["topics"]:
        half_life_ms = trend["half_life_minutes"] * 60_000
        end = min(trend["peak_time"] + 3 * half_life_ms, truth.planted["start"] + DURATION_S * 1000)
        if end < trend["peak_time"] + 1.5 * half_life_ms:
            continue
        tried += 1
        mine = counts[trend["topic"]]
        assert not any(tick <= trend["start"] for tick in mine)
        ticks = np.arange(int(trend["peak_time"] // 60_000 + 2) * 60_000, int(end), 60_000)
        events = np.array([mine.get(int(tick), 0) for tick in ticks])
        shape = np.exp2(-(ticks - 30_000 - trend["peak_time"]) / half_life_ms)
        expected = trend["peak_per_minute"] * shape
        assert abs(events.sum() - expected.sum()) < 5 * math.sqrt(expected.sum())
        measured = poisson_half_life(ticks - trend["peak_time"], events)
        assert measured == pytest.approx(trend["half_life_minutes"], rel=0.2)
    assert tried >= 4


def poisson_half_life(since_peak_ms: np.ndarray, events: np.ndarray) -> float:
    """Half-life in minutes by maximum likelihood of counts that fall exponentially: a search over candidates."""
    minutes = since_peak_ms / 60_000

    def likelihood(half_life: float) -> float:
        shape = np.exp2(-minutes / half_life)
        expected = shape * events.sum() / shape.sum()
        return float((events * np.log(expected) - expected).sum())

    return float(max(np.arange(3, 80, 0.25), key=likelihood))


def test_each_zone_is_busiest_in_its_own_evening(tmp_path: Path) -> None:
    options = replace(
        OPTIONS,
        rate=0.8,
        duration_s=86_400.0,
        daily_curve=True,
        trend_peak_share=0.0,
        conversion=Conversion(0, 0, 0, 0),
    )
    truth = simulate_to_files(tmp_path, options)
    assert truth.active_hours is not None
    by_user = truth.active_hours.filter(basis="user", dim="all").group_by("hour").agg(pl.col("events").sum())
    events = dict(by_user.iter_rows())
    mean = sum(events.values()) / 24
    for hour, relative in enumerate(HOUR_CURVE):
        expected = relative * mean
        # steps of the simulation and straight lines between hours blur the curve a little
        assert abs(events[hour] - expected) < 5 * math.sqrt(expected) + 0.12 * mean, hour
    assert truth.totals["consumed"] == pytest.approx(0.8 * 86_400, rel=0.03)


def test_the_rate_is_met_when_flat(truth: Truth) -> None:
    assert truth.totals["consumed"] == pytest.approx(OPTIONS.rate * DURATION_S, rel=0.03)


def test_power_law_ranks_follow_their_law() -> None:
    ranks = power_law_rank(np.random.default_rng(1).random(200_000), 1_000, 0.9)
    counts = np.bincount(ranks, minlength=1_000)
    assert ranks.min() == 0
    assert ranks.max() == 999
    slope = np.polyfit(np.log(np.arange(10, 300) + 1.0), np.log(counts[10:300]), 1)[0]
    assert slope == pytest.approx(-0.9, abs=0.05)


@pytest.mark.parametrize(
    "wrong",
    [{"late_share": 0.6}, {"rate": 0.0}, {"compression": "xz"}, {"topics": 2}, {"trend_half_lives_minutes": ()}],
)
def test_impossible_options_fail_when_they_are_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|needed"):
        Options(**wrong)  # type: ignore[arg-type]


def test_impossible_conversion_fails_when_it_is_built() -> None:
    with pytest.raises(ValueError, match="probability"):
        Conversion(enter=1.5)
