"""Why a figure changed: parts that add up to the whole, and a sentence that a person understands.

A product (GMV = views × enter rate × click rate × conversion × AOV): the logarithmic mean Divisia index (Ang 2004), so
that factor i's part is L(after, before) · ln(fᵢ' / fᵢ) with L(a, b) = (a − b) / ln(a / b): no residual, no order of
factors. A rate over sources, R = Σ wᵥ rᵥ: of source v the rate changed, mean weight × Δrᵥ, or the mix, Δwᵥ × (mean rᵥ −
mean R). A sum over values of a dimension: each value's own change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_TOLD: Final = 0.2
"""Share of the whole change from which a part is worth telling."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of a product before and after: both ≥ 0."""

    name: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Source:
    """One source of a rate: `count` of the denominator and `hits` of the numerator, before and after."""

    name: str
    count_before: float
    hits_before: float
    count_after: float
    hits_after: float


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a change, in the units of what changed. `of`: factor, rate, mix or value."""

    name: str
    of: str
    change: float


def log_mean(a: float, b: float) -> float:
    """(a − b) / ln(a / b), a when they are equal, for a, b > 0. Stable where they are close."""
    u = (a - b) / (a + b)
    if abs(u) < 1e-4:  # ln(a/b) = 2 artanh(u) = 2u (1 + u²/3 + …)
        return (a + b) / 2.0 / (1.0 + u * u / 3.0)
    return (a - b) / math.log(a / b)


def product_parts(factors: Sequence[Factor]) -> list[Part]:
    """What each factor did to the product. Parts sum to product after − product before.

    Where a factor became 0 or was 0, logarithms end: such factors share the whole change alike, the others have none.
    """
    before, after = math.prod(f.before for f in factors), math.prod(f.after for f in factors)
    if before > 0 and after > 0:
        scale = log_mean(after, before)
        return [Part(f.name, "factor", scale * math.log(f.after / f.before)) for f in factors]
    guilty = [f.name for f in factors if (f.before > 0) != (f.after > 0)]
    change = after - before
    return [Part(f.name, "factor", change / len(guilty) if f.name in guilty else 0.0) for f in factors]


def rate_parts(sources: Sequence[Source]) -> list[Part]:
    """What each source did to the overall rate hits / count, by rate and by mix. Parts sum to rate after − before."""
    n0, n1 = sum(s.count_before for s in sources), sum(s.count_after for s in sources)
    if n0 <= 0 or n1 <= 0:
        return []
    overall0, overall1 = sum(s.hits_before for s in sources) / n0, sum(s.hits_after for s in sources) / n1
    parts = []
    for s in sources:
        w0, w1 = s.count_before / n0, s.count_after / n1
        # A source that was not there before has the rate it has now: its coming is mix.
        r1 = s.hits_after / s.count_after if s.count_after > 0 else s.hits_before / max(s.count_before, 1e-300)
        r0 = s.hits_before / s.count_before if s.count_before > 0 else r1
        # Hits of a source without a count (an order a minute after the last click) have no rate, and yet are hits.
        beside = (s.hits_after / n1 - w1 * r1) - (s.hits_before / n0 - w0 * r0)
        parts += [
            Part(s.name, "rate", (w0 + w1) / 2.0 * (r1 - r0) + beside),
            Part(s.name, "mix", (w1 - w0) * ((r0 + r1) / 2.0 - (overall0 + overall1) / 2.0)),
        ]
    return parts


def rate_parts_in(product_before: float, product_after: float, sources: Sequence[Source]) -> list[Part]:
    """`rate_parts` in the units of a product that the rate is a factor of: they sum to that factor's part.

    Both products and both rates must be > 0.
    """
    n0, n1 = sum(s.count_before for s in sources), sum(s.count_after for s in sources)
    rate0, rate1 = sum(s.hits_before for s in sources) / n0, sum(s.hits_after for s in sources) / n1
    scale = log_mean(product_after, product_before) / log_mean(rate1, rate0)
    return [Part(p.name, p.of, p.change * scale) for p in rate_parts(sources)]


def sum_parts(before: Mapping[str, float], after: Mapping[str, float]) -> list[Part]:
    """What each value of a dimension did to the sum, the greatest first. Parts sum to Σ after − Σ before."""
    changes = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in sorted(before.keys() | after.keys())}
    return [Part(n, "value", c) for n, c in sorted(changes.items(), key=lambda item: (-abs(item[1]), item[0]))]


def told_parts(parts: Sequence[Part], most: int = 3) -> str:
    """The parts that drove a change in words, as shares of it; empty when none stands out."""
    whole = sum(part.change for part in parts)
    if not whole:
        return ""
    shares = sorted(((part.change / whole, part) for part in parts), key=lambda pair: (-pair[0], pair[1].name))
    driving = [(share, part) for share, part in shares if share >= _TOLD][:most]
    words = {"factor": "", "value": "", "rate": " (its rate)", "mix": " (its share of the traffic)"}
    return ", ".join(f"{part.name}{words[part.of]} {share:.0%}" for share, part in driving)


def explain_product(
    name: str, factors: Sequence[Factor], sources: Mapping[str, Sequence[Source] | Sequence[Part]]
) -> str:
    """A sentence for a product that changed: by factor, and by source within the factor that moved it most.

    `sources`: per factor that is a rate, what it is made of (its `before` and `after` being Σ hits / Σ count); per
    factor that is a count, its parts.
    """
    before, after = math.prod(f.before for f in factors), math.prod(f.after for f in factors)
    parts = product_parts(factors)
    if before <= 0 or after == before:
        return f"{name} {'did not change' if after == before else f'came up to {amount(after)}'}."
    way = "rose" if after > before else "fell"
    told = f"{name} {way} {abs(after / before - 1):.0%}, from {amount(before)} to {amount(after)}"
    if drivers := told_parts(parts):
        told += f"; driven by {drivers}"
    top = max(parts, key=lambda part: part.change / (after - before)).name
    if top in sources and after > 0:
        made_of = sources[top]
        rates, counts = [s for s in made_of if isinstance(s, Source)], [p for p in made_of if isinstance(p, Part)]
        if inner_told := told_parts(rate_parts_in(before, after, rates) if rates else counts):
            told += f"; within {top}: {inner_told}"
    return told + "."


def amount(value: float) -> str:
    """A number as people write it: 3 digits that matter, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
