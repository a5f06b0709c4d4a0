"""`livepulse boards check`: every query of every board, in every kind of choice and range, on a real store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from grafana import build, provisioning
from grafana.asking import Answer, AskError, Store
from grafana.boards import BOARDS
from grafana.choices import ALL, newest_ms, resolve, variables_of
from grafana.lint import lint, panels_of
from grafana.macros import MacroError, Range, expand
from grafana.model import Board, Panel, views_of
from grafana.view_times import ViewTime, measure

RANGES_MS: Final = {"5m": 300_000, "1h": 3_600_000, "24h": 86_400_000, "30d": 2_592_000_000}
EMPTY: Final = Range(978_307_200_000, 978_310_800_000)
"""An hour of 2001, before any event that is accepted."""
_MANY: Final = 3
_NUMERIC: Final = ("UInt", "Int", "Float", "Decimal")


@dataclass(frozen=True, slots=True)
class Case:
    """One query as it is sent, and how its answer is judged."""

    where: str
    sql: str
    panel: Panel | None
    may_be_empty: bool


@dataclass(slots=True)
class Report:
    """What `check --json` tells."""

    boards: int = 0
    panels: int = 0
    queries: int = 0
    failed: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    slowest_ms: float = 0.0
    views: list[ViewTime] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "boards": self.boards, "panels": self.panels, "queries": self.queries, "failed": len(self.failed),
            "empty": len(self.empty), "failures": self.failed, "empty_panels": self.empty, "skipped": self.skipped,
            "slowest_ms": round(self.slowest_ms, 1),
            "views_ms": {one.view: {"first": one.first_ms, "again": one.again_ms} for one in self.views},
        }  # fmt: skip


def check(store: Store, boards: Sequence[Board] = BOARDS, *, budget_ms: float = 2_000, threads: int = 2) -> Report:
    """Lint all boards and run all of their queries."""
    report = Report(boards=len(boards), failed=[f"{name}: differs from the code" for name in provisioning.drift()])
    report.views = measure(store)  # before anything else: the first answers are cold
    report.failed += [
        f"view {one.view}: {one.first_ms:.0f} ms, then {one.again_ms:.0f} ms"
        for one in report.views
        if max(one.first_ms, one.again_ms) > budget_ms
    ]
    views = store.views()
    with ThreadPoolExecutor(threads) as pool:
        for board in boards:
            plain = build.plain(board)
            report.panels += len(board.panels)
            report.failed += lint(plain)
            told_something: set[str] = set()
            cases = list(_cases(store, board, plain, views, report))
            texts = list(dict.fromkeys(case.sql for case in cases))  # many choices give one text: it is run once
            answers = dict(zip(texts, pool.map(lambda sql: _asked(store, sql), texts), strict=True))
            for case in cases:
                answer, fault = answers[case.sql]
                report.queries += 1
                faults = [fault] if answer is None else _faults(case, answer, budget_ms)
                report.failed += [f"{case.where}: {text}" for text in faults]
                if answer is not None:
                    report.slowest_ms = max(report.slowest_ms, answer.took_ms)
                    if case.panel is not None and answer.rows and not case.may_be_empty:
                        told_something.add(case.panel.title.en)
            asked = {case.panel.title.en for case in cases if case.panel is not None}
            report.empty += [f"{board.uid}/{title}" for title in sorted(asked - told_something)]
    return report


def _cases(store: Store, board: Board, plain: dict[str, Any], views: frozenset[str], report: Report) -> Iterator[Case]:
    """Every panel in every range and kind of choice."""
    newest = newest_ms(store, plain)
    if newest is None:
        report.failed.append(f"{board.uid}: the store is empty")
        return
    ranges = {name: Range(newest - back, newest) for name, back in RANGES_MS.items()} | {"empty": EMPTY}
    runnable = list(_runnable(board, plain, views, report))
    for range_name, time in ranges.items():
        for kind, values in _choices(store, plain, ranges["24h"], views):
            where = f"{board.uid}/{{}}/{range_name}/{kind}"
            for variable in variables_of(plain):
                if variable["type"] == "query" and views_of(variable["query"]) <= views:
                    told = where.format("$" + variable["name"])
                    yield Case(told, expand(variable["query"], time, values), None, may_be_empty=True)
            yield from _notes(where, plain, time, values, views)
            for panel, sql in runnable:
                yield _case(where.format(panel.title.en), panel, sql, time, values, empty=range_name == "empty")


def _notes(
    where: str, plain: dict[str, Any], time: Range, values: Mapping[str, Sequence[str]], views: frozenset[str]
) -> Iterator[Case]:
    """Marks in time that every board carries."""
    for note in plain["annotations"]["list"]:
        sql = note["target"]["rawSql"]
        if views_of(sql) <= views:
            yield Case(where.format(note["name"]), expand(sql, time, values), None, may_be_empty=True)


def _case(where: str, panel: Panel, sql: str, time: Range, values: Mapping[str, Sequence[str]], *, empty: bool) -> Case:
    try:
        return Case(where, expand(sql, time, values), panel, empty)
    except MacroError as error:
        return Case(f"{where}: {error}", "", panel, empty)


def _runnable(
    board: Board, plain: dict[str, Any], views: frozenset[str], report: Report
) -> Iterator[tuple[Panel, str]]:
    """Panels with the SQL that the JSON holds; what cannot be asked here is told with its reason."""
    for panel, built in zip(board.panels, panels_of(plain), strict=True):
        missing = panel.views - views
        if panel.expr:
            report.skipped[f"{board.uid}/{panel.title.en}"] = "asks Prometheus"
        elif missing:
            report.skipped[f"{board.uid}/{panel.title.en}"] = f"needs {', '.join(sorted(missing))}, not in this store"
        elif panel.kind != "text":
            yield panel, built["targets"][0]["rawSql"]


def _choices(
    store: Store, plain: dict[str, Any], time: Range, views: frozenset[str]
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """One, many and all values of each variable; every option of those that are given by name."""
    options, _, _ = resolve(store, plain, time, {}, views)
    customs = [variable["name"] for variable in variables_of(plain) if variable["type"] == "custom"]
    for kind in ("one", "many", "all"):
        wanted = {
            variable["name"]: _picked(list(options[variable["name"]]), kind, many=bool(variable.get("multi")))
            for variable in variables_of(plain)
        }
        yield kind, resolve(store, plain, time, wanted, views)[2]
    for name in customs:
        for option in list(options[name])[1:]:
            yield f"{name}={option}", resolve(store, plain, time, {name: [option]}, views)[2]


def _picked(options: list[str], kind: str, *, many: bool) -> list[str]:
    if not many or kind == "one":
        return options[:1]
    return options[:_MANY] if kind == "many" else [ALL]


def _asked(store: Store, sql: str) -> tuple[Answer | None, str]:
    if not sql:
        return None, "its macros cannot be expanded"
    try:
        return store.ask(sql), ""
    except AskError as error:
        return None, str(error)


def _faults(case: Case, answer: Answer, budget_ms: float) -> Iterator[str]:
    """What is wrong with the shape of an answer."""
    if answer.took_ms > budget_ms:
        yield f"took {answer.took_ms:.0f} ms"
    panel = case.panel
    if panel is None:
        return
    if len(answer.rows) > panel.rows_max:
        yield f"{len(answer.rows)} rows, of {panel.rows_max} at most"
    names = [name for name, _ in answer.columns]
    kinds = [_plain(kind) for _, kind in answer.columns]
    if panel.columns and set(names) != set(panel.columns):
        yield f"its columns {names} are not those declared"
    if panel.is_series or panel.kind == "state-timeline":
        yield from _series_faults(panel, kinds, answer.rows)
    elif panel.kind == "stat":
        if len(kinds) != 1 or not (kinds[0].startswith(_NUMERIC) or panel.unit == "string"):
            yield f"a stat needs one figure, not {kinds}"
    elif panel.kind in ("barchart", "piechart", "bargauge") and (
        kinds[0] != "String" or not all(kind.startswith(_NUMERIC) for kind in kinds[1:])
    ):
        yield f"bars need a name and figures, not {kinds}"


def _series_faults(panel: Panel, kinds: list[str], rows: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """A series has times, sorted, and figures, one of each at a time."""
    if not kinds[0].startswith("DateTime"):
        yield f"its first column is {kinds[0]}, no time"
    if any(later[0] < earlier[0] for earlier, later in pairwise(rows)):
        yield "its times are not sorted"
    if panel.is_series and not any(kind.startswith(_NUMERIC) for kind in kinds[1:]):
        yield "it has no figures"
    texts = [kinds.index(kind) for kind in kinds if kind.startswith("DateTime")] + [
        at for at, kind in enumerate(kinds) if kind == "String" and panel.is_series
    ]
    keys = [(*(row[at] for at in texts), "" if panel.is_series else row[1]) for row in rows]
    if len(set(keys)) != len(keys):
        yield "a series has two points at one time"


def _plain(kind: str) -> str:
    """A type without its wrappers."""
    for wrapper in ("LowCardinality(", "Nullable("):
        kind = kind.removeprefix(wrapper)
    return kind.rstrip(")") if "(" not in kind else kind
