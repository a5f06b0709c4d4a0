"""Alert rules as code: read from TOML, checked, and evaluated window by window as an alerting system would.

A rule asks for one figure a closed window (A), takes it as it is (B) and compares it (C). It fires after `for_windows`
breaches running, goes on for `keep_windows` windows after the last one, and says what no data means. Evaluation is
pure: the same state machine serves the tests inside a rules file and a backtest over history.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from flows.errors import Usage
from schemas.tables import identifier
from schemas.views import VIEWS, View

NORMAL, PENDING, FIRING, NO_DATA, ERROR = "normal", "pending", "firing", "no data", "error"
_NO_DATA: Final = ("ok", "alert", "keep")
_FAILED_WORD: Final = "error"


@dataclass(frozen=True, slots=True)
class RuleTest:
    """An example inside a rules file: figures window by window, and the windows at which it fires.

    A window without a row is `nan` in the file, one whose query failed "error".
    """

    values: tuple[float | None, ...]
    fires_at: tuple[int, ...]


NOBODY: Final = math.inf
"""In place of a figure: there are rows, but none of this alert's; it is normal whatever the limits."""
FAILED: Final = -math.inf
"""In place of a figure: the query failed (the store did not answer)."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When figures make an alert; see `Rule`."""

    below: float | None = None
    above: float | None = None
    for_windows: int = 1
    keep_windows: int = 0
    no_data: str = "ok"
    on_error: str = "keep"

    def breach(self, value: float) -> bool:
        """C: the figure is out of bounds."""
        return (self.below is not None and value < self.below) or (self.above is not None and value > self.above)


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert rule on the closed windows of a view.

    Attributes:
        name: lower-case letters, digits and _.
        view: a view with `window_start`, and `is_final` where windows can be open.
        measure: the column that is compared; `count` counts rows (for `anomalies`).
        where: column → value that rows must have.
        window_seconds: length of the windows; rows of one window are summed.
        below, above: limits; one of them or both.
        for_windows: breaches running until it fires.
        keep_windows: windows after the last breach for which it goes on firing.
        no_data: a window without a row is `ok`, a breach (`alert`), or changes nothing (`keep`).
        on_error: the same of a window whose query failed.
        summary: what a person is told.
        tests: examples that must hold.
    """

    name: str
    view: str
    measure: str
    summary: str
    where: Mapping[str, str | int] = field(default_factory=dict)
    window_seconds: int = 60
    below: float | None = None
    above: float | None = None
    for_windows: int = 1
    keep_windows: int = 0
    no_data: str = "ok"
    on_error: str = "keep"
    tests: tuple[RuleTest, ...] = ()

    def __post_init__(self) -> None:
        identifier(self.name)
        columns = {column.name: column for column in self._view().columns}
        if "window_start" not in columns:
            raise ValueError(f"view {self.view} has no window_start; rules are on closed windows")
        if unknown := {self.measure, *self.where} - {*columns, "count"}:
            raise ValueError(f"view {self.view} has no columns {sorted(unknown)}; it has {', '.join(columns)}")
        if self.measure != "count" and "String" in columns[self.measure].plain_type:
            raise ValueError(f"{self.measure} is text: it cannot be compared")
        if self.measure != "count" and "dim" in columns and "dim" not in self.where:
            raise ValueError("where must name a dim (all: the whole), or the same events are summed several times")
        if self.below is None and self.above is None:
            raise ValueError("say below or above")
        if self.for_windows < 1 or self.keep_windows < 0 or self.window_seconds < 1:
            raise ValueError("for_windows and window_seconds are at least 1, keep_windows is not negative")
        if self.no_data not in _NO_DATA:
            raise ValueError(f"no_data is one of {', '.join(_NO_DATA)}, not {self.no_data!r}")
        if self.on_error not in _NO_DATA:
            raise ValueError(f"on_error is one of {', '.join(_NO_DATA)}, not {self.on_error!r}")

    def _view(self) -> View:
        found = {view.name: view for view in VIEWS}
        if self.view not in found:
            raise ValueError(f"there is no view {self.view!r}; there are {', '.join(found)}")
        return found[self.view]

    def sql(self) -> str:
        """The figure of each closed window: `window_start` (epoch s) and `figure`, in order."""
        columns = {column.name for column in self._view().columns}
        conditions = [f"{identifier(name)} = {_literal(value)}" for name, value in self.where.items()]
        conditions += ["is_final = 1"] if "is_final" in columns else []
        conditions += [f"window_seconds = {self.window_seconds}"] if "window_seconds" in columns else []
        figure = "count()" if self.measure == "count" else f"sum(toFloat64({identifier(self.measure)}))"
        step = f"intDiv(toUnixTimestamp(window_start), {self.window_seconds}) * {self.window_seconds}"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return (
            f"SELECT {step} AS at, {figure} AS figure FROM {identifier(self.view)}{where} "  # noqa: S608  # checked names
            "GROUP BY at ORDER BY at"
        )

    @property
    def evaluation(self) -> Evaluation:
        """B and C."""
        return Evaluation(self.below, self.above, self.for_windows, self.keep_windows, self.no_data, self.on_error)


def evaluate(rule: Evaluation, values: Sequence[float | None]) -> list[str]:
    """The rule's state after each window; None: a window without a row, `FAILED`: without an answer."""
    states, breaches, since = [], 0, rule.keep_windows + 1
    state = NORMAL
    for value in values:
        without = {None: rule.no_data, FAILED: rule.on_error}.get(value)  # what it says of a window without a figure
        if without == "keep":
            states.append(state)
            continue
        bad = without == "alert" if without else value is not None and value is not NOBODY and rule.breach(value)
        breaches = breaches + 1 if bad else 0
        since = 0 if bad else since + 1
        if breaches >= rule.for_windows or (state == FIRING and (bad or since <= rule.keep_windows)):
            state = FIRING
        elif bad:
            state = PENDING
        else:
            state = NO_DATA if value is None else ERROR if value == FAILED else NORMAL
        states.append(state)
    return states


def fires(states: Sequence[str]) -> list[int]:
    """Windows at which it began to fire."""
    return [i for i, state in enumerate(states) if state == FIRING and (i == 0 or states[i - 1] != FIRING)]


def failed_tests(rule: Rule) -> list[str]:
    """What the rule's own examples say against it."""
    found = []
    for number, test in enumerate(rule.tests, start=1):
        got = fires(evaluate(rule.evaluation, test.values))
        if got != list(test.fires_at):
            found.append(f"{rule.name}, test {number}: fires at {got}, not at {list(test.fires_at)}")
    return found


def load_rules(path: Path) -> list[Rule]:
    """The rules of a file. Errors: `Usage`, naming the file, the rule and what is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Usage(f"{path}: {error}") from error
    if set(content) != {"rule"} or not isinstance(content["rule"], list):
        raise Usage(f"{path}: write [[rule]] for each rule, and nothing else at the top")
    rules = [_rule(path, number, given) for number, given in enumerate(content["rule"], start=1)]
    if len({rule.name for rule in rules}) < len(rules):
        raise Usage(f"{path}: two rules have one name")
    return rules


def _rule(path: Path, number: int, given: Mapping[str, Any]) -> Rule:
    known = {item.name for item in fields(Rule)} - {"tests"} | {"test"}
    place = f"{path}: rule {given.get('name', number)}"
    if unknown := given.keys() - known:
        raise Usage(f"{place}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
    try:
        tests = tuple(
            RuleTest(tuple(_example(value) for value in t["values"]), tuple(t["fires_at"]))
            for t in given.get("test", [])
        )
        return Rule(**{name: value for name, value in given.items() if name != "test"}, tests=tests)
    except (ValueError, TypeError, KeyError) as error:
        raise Usage(f"{place}: {error}") from error


def _example(value: Any) -> float | None:  # noqa: ANN401  # whatever TOML holds
    if value == _FAILED_WORD:
        return FAILED
    figure = float(value)
    return None if math.isnan(figure) else figure


def _literal(value: object) -> str:
    if isinstance(value, int):
        return str(int(value))
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
