"""Grafana's rules as they would have been evaluated at moments of the past, on the store's history.

The rule's own query is asked, with the clock turned back: `now()` and Grafana's macros are the moment, each view is as
it was then: windows that had closed, anomalies that had been told and were not over yet.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from flows.alert_backtest import Incident, summary
from flows.alert_rules import FIRING, NOBODY, Evaluation, evaluate, fires
from flows.durations import parse_duration
from flows.errors import Usage
from flows.settings import Settings
from flows.store_access import opened
from sinks.clickhouse import Store

_STEP_S: Final = 60
"""How often Grafana evaluates our group."""
_BATCH: Final = 40
_EVALUATIONS_MAX: Final = 3_000
_NO_DATA: Final = {"OK": "ok", "Alerting": "alert", "NoData": "ok", "KeepLast": "keep"}
"""What no row at all means. "NoData" is an alert of its own in Grafana, about the rule and not about its figure; so is
"Error", which the history of a store cannot tell: a query of it that fails now says nothing of then."""
_VIEWS: Final = {
    "anomalies": "(SELECT * REPLACE (if(state = 'resolved' AND resolved_at > {at}, 'open', state) AS state) "
    "FROM anomalies WHERE detected_at <= {at})",
    "active_users": "(SELECT * FROM active_users WHERE window_start + window_seconds + {wait} <= {at})",
    "ingest_ledger": "(SELECT * FROM ingest_ledger WHERE minute < {at})",
}
"""Views as they were at `{at}`; `{wait}`: seconds that a window waits for late events."""


class GrafanaRule(Protocol):
    """What is read of a rule of `grafana.alerting`."""

    @property
    def uid(self) -> str: ...  # noqa: D102
    @property
    def sql(self) -> str: ...  # noqa: D102
    @property
    def above(self) -> float | None: ...  # noqa: D102
    @property
    def below(self) -> float | None: ...  # noqa: D102
    @property
    def back_seconds(self) -> int: ...  # noqa: D102
    @property
    def pending(self) -> str: ...  # noqa: D102
    @property
    def keep_firing(self) -> str: ...  # noqa: D102
    @property
    def no_data(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class History:
    """Evaluations of a rule: the first at `first` (epoch s), then every `step_s`; figures by the rows' texts."""

    first: int
    step_s: int
    figures: Sequence[dict[str, float]]


def query_at(rule: GrafanaRule, at: int, wait_s: int) -> str:
    """The rule's query as of `at` (epoch s).

    Raises:
        Usage: it asks a view that keeps no history.
    """
    moment = f"toDateTime({at}, 'UTC')"
    views = re.findall(r"\bFROM (\w+)", rule.sql)
    if unknown := sorted(set(views) - _VIEWS.keys()):
        raise Usage(f"rule {rule.uid} asks {', '.join(unknown)}, which keeps no history: it cannot be backtested")
    sql = re.sub(r"\bFROM (\w+)", lambda m: f"FROM {_VIEWS[m[1]].format(at=moment, wait=wait_s)} AS {m[1]}", rule.sql)
    since = f"toDateTime({at - rule.back_seconds}, 'UTC')"
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 >= {since} AND \1 <= {moment}", sql)
    sql = re.sub(r"\bnow(64\(\d\)|\(\))", moment, sql)
    if "$" in sql:
        raise Usage(f"rule {rule.uid} uses a macro that is not known here: {sql[sql.index('$') :][:40]}")
    return sql


def history(settings: Settings, rule: GrafanaRule, last_ms: int | None = None) -> History:
    """Evaluate the rule every minute of the store's history (its last `last_ms`), less often were it too many times.

    Raises:
        Usage: there is no history, or the rule asks what has none.
    """
    wait = (settings.out_of_orderness_ms + settings.allowed_lateness_ms) // 1000
    query_at(rule, 0, wait)  # refuses before the store is opened
    with opened(settings) as store:
        span = store.query(
            "SELECT toUnixTimestamp(min(window_start)) AS first, toUnixTimestamp(max(window_start)) AS last, "
            "count() AS rows FROM active_users"
        )[0]
        if not span["rows"]:
            raise Usage(f"rule {rule.uid}: the store has no history of active_users to go by")
        end = int(span["last"]) + wait + 2 * _STEP_S
        first = int(span["first"]) if last_ms is None else max(int(span["first"]), end - last_ms // 1000)
        first = first // _STEP_S * _STEP_S
        changes = _changes(store, rule)
        step = _STEP_S
        if changes is None:  # it may tell something else at every moment
            step *= -(-(end - first) // (_STEP_S * _EVALUATIONS_MAX))
        moments = list(range(first, end + step, step))
        asked = moments if changes is None else _first_after(moments, changes)
        told = _figures(store, rule, asked, wait)
    figures, now = [], told.get(first, {})
    for at in moments:
        now = told.get(at, now)
        figures.append(now)
    return History(first, step, figures)


def _changes(store: Store, rule: GrafanaRule) -> list[int] | None:
    """When the answer of a rule on anomalies may change (epoch s); None: whenever."""
    if set(re.findall(r"\bFROM (\w+)", rule.sql)) != {"anomalies"}:
        return None
    rows = store.query(
        "SELECT DISTINCT toUnixTimestamp(detected_at) AS told, toUnixTimestamp(resolved_at) AS over FROM anomalies"
    )
    found = {int(row["told"]) for row in rows} | {int(row["over"]) for row in rows if row["over"]}
    return sorted(found | {at + rule.back_seconds + 1 for at in found})


def _first_after(moments: Sequence[int], changes: Sequence[int]) -> list[int]:
    """The first moment, and the first one at or after each change."""
    at = [bisect_left(moments, change) for change in changes]
    return sorted({moments[0], *(moments[i] for i in at if i < len(moments))})


def _figures(store: Store, rule: GrafanaRule, moments: Sequence[int], wait_s: int) -> dict[int, dict[str, float]]:
    """Of each moment: figures by the row's texts."""
    found: dict[int, dict[str, float]] = {at: {} for at in moments}
    for start in range(0, len(moments), _BATCH):
        parts = [
            f"SELECT {at} AS at_s, * FROM ({query_at(rule, at, wait_s)})"  # noqa: S608  # the rule is ours
            for at in moments[start : start + _BATCH]
        ]
        for row in store.query(" UNION ALL ".join(parts)):
            at = int(row.pop("at_s"))
            numbers = [float(value) for value in row.values() if isinstance(value, int | float)]
            labels = " ".join(str(value) for value in row.values() if isinstance(value, str))
            if numbers and not math.isnan(numbers[-1]):
                found[at][labels] = numbers[-1]
    return found


def judge(rule: GrafanaRule, past: History, truth: Sequence[Incident] | None) -> dict[str, Any]:
    """As `flows.alert_backtest.judge`: rows with the same texts are one alert, which fires by itself.

    A row that is no longer there is normal; that the whole query has none is what `no_data` of the rule says.
    """
    windows = {name: -(-parse_duration(text) // (past.step_s * 1000)) for name, text in
               (("pending", rule.pending), ("keep", rule.keep_firing))}  # fmt: skip
    state = Evaluation(
        above=rule.above, below=rule.below, for_windows=windows["pending"] + 1, keep_windows=windows["keep"],
        no_data=_NO_DATA[rule.no_data],
    )  # fmt: skip
    begun: list[int] = []
    firing = [False] * len(past.figures)
    instances = sorted({labels for figures in past.figures for labels in figures}) or [""]
    for labels in instances:
        # Without any row the rule itself has no data; beside other rows an alert that is gone is over.
        values = [figures.get(labels, None if not figures else NOBODY) for figures in past.figures]
        states = evaluate(state, values)
        begun += [past.first + i * past.step_s for i in fires(states)]
        firing = [was or now == FIRING for was, now in zip(firing, states, strict=True)]
    return summary(rule.uid, past.first, past.step_s, sorted(begun), firing, truth)
