"""Parts of a change add up to the whole, whatever the figures; routing by evidence."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.anomaly_explain import (
    Factor,
    Source,
    explain_product,
    log_mean,
    product_parts,
    rate_parts,
    rate_parts_in,
    sum_parts,
    told_parts,
)
from flows.anomaly_route import Health, HealthTracker, route

AMOUNT = st.one_of(st.just(0.0), st.floats(1e-3, 1e6))
POSITIVE = st.floats(1e-3, 1e6)


@given(st.lists(st.tuples(AMOUNT, AMOUNT), min_size=1, max_size=5))
def test_factors_add_up_to_the_product(pairs: list[tuple[float, float]]) -> None:
    factors = [Factor(f"f{i}", before, after) for i, (before, after) in enumerate(pairs)]
    before, after = math.prod(f.before for f in factors), math.prod(f.after for f in factors)
    parts = product_parts(factors)
    assert sum(p.change for p in parts) == pytest.approx(after - before, rel=1e-6, abs=1e-9 * (before + after))


@st.composite
def sources(draw: st.DrawFn) -> list[Source]:
    made = []
    for i in range(draw(st.integers(1, 5))):
        counts = [draw(AMOUNT), draw(AMOUNT)]
        rates = [draw(st.floats(0, 1)), draw(st.floats(0, 1))]
        made.append(Source(f"s{i}", counts[0], counts[0] * rates[0], counts[1], counts[1] * rates[1]))
    return made


@given(sources())
def test_mix_and_rate_add_up_to_the_change_of_the_rate(made: list[Source]) -> None:
    n0, n1 = sum(s.count_before for s in made), sum(s.count_after for s in made)
    if n0 > 0 and n1 > 0:
        change = sum(s.hits_after for s in made) / n1 - sum(s.hits_before for s in made) / n0
        assert sum(p.change for p in rate_parts(made)) == pytest.approx(change, abs=1e-9)
    else:
        assert rate_parts(made) == []


@given(st.dictionaries(st.text(max_size=3), AMOUNT), st.dictionaries(st.text(max_size=3), AMOUNT))
def test_values_add_up_to_the_sum(before: dict[str, float], after: dict[str, float]) -> None:
    change = sum(after.values()) - sum(before.values())
    assert sum(p.change for p in sum_parts(before, after)) == pytest.approx(change, abs=1e-3)


@given(POSITIVE, POSITIVE)
def test_the_logarithmic_mean_lies_between(a: float, b: float) -> None:
    mean = log_mean(a, b)
    assert min(a, b) * (1 - 1e-9) <= mean <= max(a, b) * (1 + 1e-9)
    assert mean == pytest.approx(log_mean(b, a))


def test_sources_add_up_to_their_factor() -> None:
    made = [Source("feed", 1_000, 100, 1_000, 60), Source("search", 500, 100, 900, 180)]
    rate0, rate1 = 200 / 1_500, 240 / 1_900
    factors = [Factor("views", 100, 130), Factor("enter rate", rate0, rate1), Factor("AOV", 20, 21)]
    before, after = math.prod(f.before for f in factors), math.prod(f.after for f in factors)
    mine = product_parts(factors)[1].change
    assert sum(p.change for p in rate_parts_in(before, after, made)) == pytest.approx(mine)


def test_the_sentence_names_the_factor_and_its_source() -> None:
    made = [Source("feed", 1_000, 100, 1_000, 40), Source("search", 1_000, 100, 1_000, 100)]
    factors = [Factor("views", 10_000, 10_000), Factor("enter rate", 0.1, 0.07), Factor("AOV", 5_000, 5_000)]
    told = explain_product("GMV", factors, {"enter rate": made})
    assert told == (
        "GMV fell 30%, from 5,000,000 to 3,500,000; driven by enter rate 100%; within enter rate: feed (its rate) 100%."
    )
    assert told_parts([]) == ""


def test_evidence_routes_falls_only() -> None:
    assert route("drop", fell=True, health=Health()).to == "business"
    faults = (
        Health(rejected_share=0.1), Health(late_share=0.1), Health(silent=("view/3",)), Health(sink_errors=1),
        Health(watermark_delay_ms=900_000), Health(lag_messages=5),
    )  # fmt: skip
    for health in faults:
        sent = route("drop", fell=True, health=health)
        assert sent.to == "pipeline"
        assert sent.sentence().startswith("Probably ours, not the business: ")
        assert route("spike", fell=False, health=health).to == "business"
    usual = Health(rejected_share=0.05, usual_rejected_share=0.04)
    assert route("drop", fell=True, health=usual).to == "business"
    assert route("drop", fell=True, health=Health(watermark_delay_ms=9 * 86_400_000)).to == "business"


def _minute(minute: int, counts: list[int], rejected: int = 0) -> pl.DataFrame:
    rows = [("view", p, minute * 60_000, n, rejected if p == 0 else 0, 0) for p, n in enumerate(counts) if n]
    return pl.DataFrame(rows, schema=["topic", "partition", "minute", "consumed", "rejected", "late"], orient="row")


def test_the_ledger_tells_of_silence_and_rejects_for_a_while() -> None:
    tracker = HealthTracker()
    for minute in range(60):
        tracker.fold(_minute(minute, [100, 100]))
    assert tracker.health() == Health()
    for minute in range(60, 64):
        tracker.fold(_minute(minute, [100, 0]))
    assert tracker.health().silent == ("view/1",)
    tracker = HealthTracker.of(tracker.plain())
    for minute in range(64, 74):
        tracker.fold(_minute(minute, [100, 100], rejected=50 if minute == 64 else 0))
        # It spoke again, from its first word on; but a window that it broke may only now be judged.
        assert tracker.health().silent == ("view/1",)
    assert tracker.health().rejected_share == pytest.approx(0.25)
    for minute in range(74, 100):
        tracker.fold(_minute(minute, [100, 100]))
    assert tracker.health().silent == ()
    assert tracker.health().rejected_share == 0
