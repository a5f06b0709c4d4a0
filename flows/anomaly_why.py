"""Why the whole is off: what moved a sum, a rate or a product, of usual figures and those of the window.

Figures are of shape (places, measures), before (expected) and after (actual); place i is of `keys[i]`. The parts of a
rate or a product add up to its change: what the watched values of a dimension leave out is a source of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from flows.anomaly_explain import (
    Factor,
    Part,
    Source,
    explain_product,
    product_parts,
    rate_parts,
    sum_parts,
    told_parts,
)
from flows.anomaly_series import WHOLE, Key
from flows.anomaly_step import Floats
from schemas.events import ALL
from schemas.watches import Measure

OTHERS: Final = "others"
ALIKE: Final = "All parts moved alike."
_EXCESS: Final = 0.15
"""How much more than its size the greatest part must have moved to be worth telling."""
_WORTH: Final = 0.1
"""Least change of a product that is told beside another measure's."""
_MONEY: Final = "_minor"


@dataclass(frozen=True, slots=True)
class Figures:
    """Usual figures and actual ones of some windows (summed). `measures` name the columns."""

    keys: Sequence[Key]
    measures: Sequence[Measure]
    before: Floats
    after: Floats

    @property
    def dims(self) -> list[str]:
        """Dimensions with watched values."""
        return list(dict.fromkeys(dim for dim, _ in self.keys if dim != ALL))

    def column(self, name: str) -> int:
        """Where a plain measure's figures are."""
        return next(i for i, m in enumerate(self.measures) if m.source == name and not m.is_rate)

    def whole(self, column: int) -> tuple[float, float]:
        """The whole's figure before and after."""
        place = self.keys.index(WHOLE)
        return max(float(self.before[place, column]), 0.0), max(float(self.after[place, column]), 0.0)

    def values(self, dim: str, column: int) -> tuple[dict[str, float], dict[str, float]]:
        """Figures of a dimension's values before and after; with what they leave out they add up to the whole's."""
        names = [(i, f"{d} {value}") for i, (d, value) in enumerate(self.keys) if d == dim]
        found = []
        for figures, whole in zip((self.before, self.after), self.whole(column), strict=True):
            of = {name: max(float(figures[i, column]), 0.0) for i, name in names}
            total = sum(of.values())
            if total > whole:  # a user counts in each of its values
                of = {name: figure * whole / total for name, figure in of.items()}
            found.append({**of, OTHERS: max(whole - total, 0.0)})
        return found[0], found[1]


def why(figures: Figures, measure: int) -> str:
    """What moved the whole's `measure`, in words, and what became of the money."""
    which = figures.measures[measure]
    if which.factors:
        return product(figures, which)
    told = f"Moved by {moved}." if (moved := _moved(figures, which, measure)) else ALIKE
    for other in figures.measures:
        if other.factors:
            before, after = figures.whole(figures.column(other.source))
            if abs(after - before) >= _WORTH * max(before, after):
                told += f" {product(figures, other)}"
    return told


def _moved(figures: Figures, which: Measure, measure: int) -> str:
    """The values that moved it, of the dimension in which the change is the most concentrated."""
    parts = [
        _rate_parts(_sources(figures, dim, which.source, which.over))
        if which.is_rate
        else _sum_parts(figures, measure, dim)
        for dim in figures.dims
    ]
    return max((told for told in map(_concentrated, parts)), default=(0.0, ""))[1]


def _sum_parts(figures: Figures, column: int, dim: str) -> list[tuple[Part, float]]:
    before, after = figures.values(dim, column)
    return _sized(sum_parts(before, after), before)


def _rate_parts(sources: Sequence[Source]) -> list[tuple[Part, float]]:
    return _sized(rate_parts(sources), {source.name: source.count_before for source in sources})


def _sized(parts: Sequence[Part], before: dict[str, float]) -> list[tuple[Part, float]]:
    """Each part with the share that it usually has."""
    usual = max(sum(before.values()), 1e-9)
    return [(part, before[part.name] / usual) for part in parts]


def _concentrated(parts: Sequence[tuple[Part, float]]) -> tuple[float, str]:
    """How much more than its size the greatest part moved (0 when all moved alike), and the parts in words."""
    whole = sum(part.change for part, _ in parts)
    if not whole:
        return 0.0, ""
    excess = max(abs(part.change / whole) - size for part, size in parts)
    return (excess, told_parts([part for part, _ in parts])) if excess > _EXCESS else (0.0, "")


def _sources(figures: Figures, dim: str, hits: str, counts: str) -> list[Source]:
    """What a rate is made of: Σ hits and Σ counts are the whole's."""
    of_count, of_hits = figures.values(dim, figures.column(counts)), figures.values(dim, figures.column(hits))
    return [
        Source(name, of_count[0][name], of_hits[0][name], of_count[1][name], of_hits[1][name]) for name in of_count[0]
    ]


def factors_of(figures: Figures, measure: Measure) -> list[tuple[Factor, str, str]]:
    """The factors of a product that is above 0, each with the columns that it is over and of.

    A count that nobody reports, before or after, is left out: its factor and the next are told as one.
    """
    found: list[tuple[Factor, str, str]] = []
    name, over, last = "", "", (1.0, 1.0)
    for label, column in measure.factors:
        name = f"{name} × {label}" if name else label
        before, after = figures.whole(figures.column(column))
        if before > 0 and after > 0:
            found.append((Factor(name, before / last[0], after / last[1]), over, column))
            name, over, last = "", column, (before, after)
    return found


def product(figures: Figures, measure: Measure) -> str:
    """A sentence: how the product changed, by factor, and by source within the factor that moved it most."""
    is_money = measure.name.endswith(_MONEY)
    label, scale = measure.name.removesuffix(_MONEY), 100.0 if is_money else 1.0
    label = label.upper() if label == "gmv" else label.replace("_", " ")
    before, after = figures.whole(figures.column(measure.source))
    if before <= 0 or after <= 0:
        return _ended(figures, measure, label) if before > 0 or after > 0 else ""
    chain = factors_of(figures, measure)
    factors = [factor for factor, _, _ in chain]
    factors[-1] = Factor(factors[-1].name, factors[-1].before / scale, factors[-1].after / scale)
    parts = product_parts(factors)
    top = max(range(len(parts)), key=lambda i: parts[i].change * (after - before))
    inner = max(_within(figures, chain[top]), default=(0.0, ()), key=lambda told: told[0])
    return explain_product(label, factors, {parts[top].name: inner[1]} if inner[0] > 0 else {})


def _ended(figures: Figures, measure: Measure, label: str) -> str:
    """A product that fell to 0 or came up from it: the first of its counts that did."""
    for _, column in measure.factors:
        before, after = figures.whole(figures.column(column))
        if (before > 0) != (after > 0):
            return f"{label} {'fell to 0' if before > 0 else 'came up from 0'}, with {column.replace('_', ' ')}."
    return ""


def _within(
    figures: Figures, factor: tuple[Factor, str, str]
) -> Iterator[tuple[float, Sequence[Source] | Sequence[Part]]]:
    """What each dimension says of a factor, with how concentrated it is: sources of a rate, or parts of a count."""
    _, over, column = factor
    for dim in figures.dims:
        if not over:
            sized = _sum_parts(figures, figures.column(column), dim)
            yield _concentrated(sized)[0], [part for part, _ in sized]
            continue
        sources = _sources(figures, dim, column, over)
        yield _concentrated(_rate_parts(sources))[0], sources
