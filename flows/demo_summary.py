"""The end of the demo: what the engine counted beside what the simulator knows to be true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.live_table import Snapshot, conversions
from flows.simulate_truth import OUTCOMES, Truth

_SIGMAS: Final = 3.5
_LEAST_RATE: Final = 10.0
"""Events a minute of a topic at its peak from which its half-life is no matter of chance."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against its truth. `exact`: both must be equal; else `holds` says whether the difference is chance."""

    name: str
    measured: str
    truth: str
    holds: bool
    exact: bool


def checks(snapshot: Snapshot, truth: Truth) -> list[Check]:
    """Every figure that has a truth."""
    return [*_counts(snapshot, truth), *_conversion(snapshot, truth), *_half_lives(snapshot)]


def _counts(snapshot: Snapshot, truth: Truth) -> list[Check]:
    found = []
    for name in ("consumed", *OUTCOMES):
        measured, true = int(snapshot.ledger.get(name) or 0), truth.totals[name]
        found.append(Check(name, f"{measured:,}", f"{true:,}", measured == true, exact=True))
    return found


def _conversion(snapshot: Snapshot, truth: Truth) -> list[Check]:
    """Shares of visits against the planted probabilities: a draw of so many visits may differ by chance."""
    steps = conversions(snapshot.funnel)
    visits = next((row["visits"] for row in steps if row["step_name"] == "live_enter"), 0)
    found = []
    for row in steps:
        planted = truth.planted["conversion"].get(row["step_name"])
        if planted is not None and row["share"] is not None:
            spread = _SIGMAS * math.sqrt(planted * (1 - planted) / max(visits, 1))
            # visits that the end cut short have not yet done all that they would have
            holds = planted - spread - 0.1 * planted <= row["share"] <= planted + spread
            found.append(
                Check(f"conversion to {row['step_name']}", f"{row['share']:.2%}", f"{planted:.2%}", holds, exact=False)
            )
    return found


def _half_lives(snapshot: Snapshot) -> list[Check]:
    """Half-lives that the engine has measured: the step of ten minutes and counting noise leave a spread.

    A topic of few events has none to compare: noise alone halves its rate soon.
    """
    found = []
    for row in snapshot.trends:
        if row["half_life_minutes"] is None or float(row["peak_rate"] or 0.0) < _LEAST_RATE:
            continue
        measured, planted = float(row["half_life_minutes"]), float(row["planted"])
        holds = abs(measured - planted) <= 10 + 0.5 * planted
        found.append(
            Check(f"half-life of {row['topic']}", f"{measured:.1f} min", f"{planted:.0f} min", holds, exact=False)
        )
    return found


def render(found: list[Check], snapshot: Snapshot) -> RenderableType:
    """The table of the summary and its last line."""
    table = Table(title="Engine against truth", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (("figure", "left"), ("engine", "right"), ("truth", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # one of rich's words
    for check in found:
        word = ("exact" if check.exact else "agrees") if check.holds else ("WRONG" if check.exact else "differs")
        table.add_row(check.name, check.measured, check.truth, Text(word, style="green" if check.holds else "bold red"))
    exact = [check for check in found if check.exact]
    verdict = f"{sum(check.holds for check in exact)} of {len(exact)} counts exact over {snapshot.consumed:,} messages"
    return Group(Text(), table, Text(verdict, style="bold green" if all(c.holds for c in exact) else "bold red"))
