"""However final rows are split, shuffled, repeated, and the kernel killed: the same anomalies. Parts add up."""

from __future__ import annotations

import functools
import random
from itertools import pairwise

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.anomalies import AnomalyWatch
from flows.anomaly_explain import product_parts, rate_parts_in, sum_parts
from flows.anomaly_series import WHOLE
from flows.anomaly_spec import AnomalySpec
from flows.anomaly_why import Figures, _sources, factors_of, why
from schemas.watches import ROOMS
from tests.unit.test_anomaly_money import AT, MINUTE, MONDAY, during, rooms

SPEC = AnomalySpec(ROOMS, zone="UTC", top=3)
FIRST = MONDAY + (AT - 90) * MINUTE
KEY = ["series", "dim", "value", "window_start"]
SPAN = 150


@functools.cache
def world() -> tuple[bytes, pl.DataFrame, pl.DataFrame]:
    """State after history, the rows that follow, and what comes of them at once."""
    rows = rooms(during("conversion", 0.3, 15, only="r1"))
    watch = AnomalyWatch(SPEC)
    watch.observe(rows.filter(pl.col("window_start") < FIRST), FIRST)
    state = watch.snapshot()
    rest = rows.filter(pl.col("window_start").is_between(FIRST, FIRST + SPAN * MINUTE - 1))
    return state, rest, watch.observe(rest, FIRST + SPAN * MINUTE)


@st.composite
def ways(draw: st.DrawFn) -> tuple[list[int], list[bool], int]:
    cuts = sorted(draw(st.sets(st.integers(1, SPAN - 1), max_size=8)))
    return [0, *cuts, SPAN], draw(st.lists(st.booleans(), min_size=9, max_size=9)), draw(st.integers(0, 1 << 16))


@given(ways())
@hypothesis_settings(max_examples=25, deadline=None)
def test_every_way_gives_the_same_anomalies(way: tuple[list[int], list[bool], int]) -> None:
    cuts, kills, seed = way
    state, rest, expected = world()
    rng = random.Random(seed)
    watch = AnomalyWatch(SPEC)
    watch.restore(state, [])
    base, deltas, told = state, [], []
    for (low, high), kill in zip(pairwise(cuts), kills, strict=False):
        # Rows of windows judged before come again, altered; they are passed over.
        part = rest.filter(pl.col("window_start").is_between(FIRST + (low - 4) * MINUTE, FIRST + high * MINUTE - 1))
        part = part.with_columns(orders=pl.col("orders") + (pl.col("window_start") < FIRST + low * MINUTE))
        shuffled = part.sample(fraction=1.0, shuffle=True, seed=rng.randrange(1 << 30))
        told.append(watch.observe(shuffled, FIRST + high * MINUTE))
        deltas.append(watch.delta())
        if kill:  # what came after the last delta is told again by the one that goes on
            watch = AnomalyWatch(SPEC)
            watch.restore(base, deltas)
            if rng.random() < 0.5:
                base, deltas = watch.snapshot(), []
    last = pl.concat(told).unique(KEY, keep="last")
    assert last.sort(KEY).equals(expected.unique(KEY, keep="last").sort(KEY))
    assert expected.height >= 3


def test_state_of_other_measures_is_not_taken() -> None:
    state = world()[0]
    assert AnomalyWatch(SPEC).fits(state)
    assert not AnomalyWatch(AnomalySpec()).fits(state)


@pytest.mark.parametrize("former", [1, 2])
def test_state_of_a_former_format_is_not_taken(former: int) -> None:
    blob = [former, *msgspec.msgpack.decode(world()[0])[1:]]
    assert not AnomalyWatch(SPEC).fits(msgspec.msgpack.encode(blob))
    with pytest.raises(ValueError, match=f"of format {former}; this version reads 3"):
        AnomalyWatch(SPEC).restore(msgspec.msgpack.encode(blob), [])


COUNT = st.one_of(st.just(0), st.integers(1, 10_000))


@st.composite
def figures(draw: st.DrawFn) -> Figures:
    """Whatever the watched values of two dimensions are, even more than the whole."""
    keys = [WHOLE, ("live_id", "a"), ("live_id", "b"), ("channel", "c")]
    shape = (len(keys), len(ROOMS.measures))
    before, after = (
        np.array(draw(st.lists(COUNT, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])), float).reshape(
            shape
        )
        for _ in range(2)
    )
    return Figures(keys, ROOMS.measures, before, after)


@given(figures())
def test_factors_and_their_sources_add_up_to_the_change_of_the_money(drawn: Figures) -> None:
    measure = ROOMS.measures[-1]
    before, after = drawn.whole(drawn.column("gmv_minor"))
    text = why(drawn, len(ROOMS.measures) - 1)
    if min(before, after) <= 0:
        assert (text == "") == (before == after)
        return
    chain = factors_of(drawn, measure)
    parts = product_parts([factor for factor, _, _ in chain])
    assert sum(part.change for part in parts) == pytest.approx(after - before, rel=1e-6, abs=1e-6 * (before + after))
    for part, (_, over, column) in zip(parts, chain, strict=True):
        for dim in drawn.dims:
            if over:
                inner = rate_parts_in(before, after, _sources(drawn, dim, column, over))
                assert sum(p.change for p in inner) == pytest.approx(part.change, rel=1e-6, abs=1e-6 * (before + after))
            else:
                at = drawn.column(column)
                of = sum_parts(*drawn.values(dim, at))
                first, last = drawn.whole(at)
                assert sum(p.change for p in of) == pytest.approx(last - first, abs=1e-6 * (first + last))
    assert "GMV" in text


@given(figures(), st.integers(0, len(ROOMS.measures) - 1))
def test_every_measure_has_a_sentence(drawn: Figures, measure: int) -> None:
    assert isinstance(why(drawn, measure), str)
