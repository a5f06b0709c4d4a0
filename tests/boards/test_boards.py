"""Boards before anybody looks at them: files, rules, macros, and every query on a real store."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from grafana import provisioning
from grafana.alerting import RULES, AlertRule
from grafana.anomalies import ANOMALIES
from grafana.boards import BOARDS
from grafana.build import plain
from grafana.check import check
from grafana.choices import newest_ms, resolve
from grafana.lint import lint, panels_of
from grafana.macros import MacroError, Range, expand, expand_macros, interpolate
from grafana.model import LANGUAGES, Board, Panel, Row, Text, views_of
from grafana.view_times import measure
from grafana.words import values_of
from schemas.views import VIEWS
from tests.boards.conftest import Filled

HOUR = Range(1_770_000_000_000, 1_770_003_600_000)


def test_files_are_what_the_declarations_say() -> None:
    assert provisioning.drift() == [], "run `livepulse boards build` and commit what it writes"


def test_a_changed_a_missing_and_a_foreign_file_are_found(tmp_path: Path) -> None:
    assert len(provisioning.write(tmp_path)) == len(BOARDS) * len(LANGUAGES) + 3
    assert provisioning.drift(tmp_path) == []
    first = tmp_path / "dashboards/en/livepulse-ops.json"
    first.write_text(first.read_text().replace("Active users", "Users", 1))
    (tmp_path / "dashboards/zh/livepulse-ops.json").unlink()
    (tmp_path / "dashboards/en/own.json").write_text("{}")
    assert provisioning.drift(tmp_path) == [
        "dashboards/en/livepulse-ops.json", "dashboards/en/own.json", "dashboards/zh/livepulse-ops.json"
    ]  # fmt: skip


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_boards_keep_the_rules_and_read_views_that_exist(board: Board) -> None:
    for language in LANGUAGES:
        assert lint(plain(board, language)) == []
    views = {view.name for view in VIEWS}
    for panel in board.panels:
        assert panel.views <= views
        assert panel.title.en != "" != panel.title.zh


def test_words_of_one_panel_do_not_contradict_each_other() -> None:
    for panel in (panel for board in BOARDS for panel in board.panels if panel.kind != "table"):
        told: dict[str, Text] = {}
        for words in values_of(panel).values():
            assert all(told.setdefault(name, text) == text for name, text in words.items()), panel.title.en


def spoiled(change: Callable[[dict[str, Any]], object]) -> list[str]:
    board = copy.deepcopy(plain(BOARDS[0]))
    change(board)
    return lint(board)


def line(board: dict[str, Any]) -> dict[str, Any]:
    """The query of the board's first time series."""
    found: dict[str, Any] = next(panel for panel in board["panels"] if panel["type"] == "timeseries")["targets"][0]
    return found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: b.update(editable=True), "editable must be false"),
        (lambda b: b["time"].update({"from": "now-1h"}), "every 5 s over more than 15 min"),
        (lambda b: b["panels"][1].update(description=""), "needs a title and a description"),
        (lambda b: b["panels"][1].update(type="gauge"), "does not draw gauge"),
        (lambda b: b["panels"][1]["fieldConfig"]["defaults"].update(unit="currencyCNY"), "which is not known"),
        (lambda b: b["panels"][1]["fieldConfig"]["defaults"].update(noValue=""), "no data"),
        (lambda b: b["panels"][1]["targets"][0].update(rawSql="SELECT $dim"), "without :singlequote"),
        (lambda b: b["panels"][1]["targets"][0].update(rawSql="SELECT ${nope:singlequote}"), "which the board lacks"),
        (lambda b: line(b).update(rawSql="SELECT tick AS time, heat FROM topic_heat"), "a row for each minute"),
        (lambda b: b["panels"][1]["targets"][0].pop("pluginVersion"), "pluginVersion"),
        (lambda b: b["panels"][1]["gridPos"].update(w=24), "beyond the right edge|lies over"),
        (lambda b: b["templating"]["list"].pop(0), "must be the data source"),
        (lambda b: b["templating"]["list"][2].update(refresh=1), "must refresh with the time range"),
    ],
)
def test_each_rule_is_held(change: Callable[[dict[str, Any]], object], told: str) -> None:
    assert any(re.search(told, fault) for fault in spoiled(change))


def test_macros_expand_as_the_plugin_does() -> None:
    assert expand_macros("WHERE $__timeFilter(t) AND $__timeInterval(a.t) > $__fromTime_ms", HOUR) == (
        "WHERE t >= toDateTime(1770000000) AND t <= toDateTime(1770003600) "
        "AND toStartOfInterval(toDateTime(a.t), INTERVAL 3 second) > fromUnixTimestamp64Milli(1770000000000)"
    )
    assert expand_macros("$__dateFilter(d)", HOUR) == "d >= toDate('2026-02-02') AND d <= toDate('2026-02-02')"
    for wrong in ("$__timeFilter(a, b)", "$__conditionalAll(x, y)", "$__timeFilter(a"):
        with pytest.raises(MacroError):
            expand_macros(wrong, HOUR)


def test_variables_are_filled_in_and_cannot_leave_their_quotes() -> None:
    values = {"v": ["a", "b'; DROP TABLE x --", "c\\"], "none": []}
    assert interpolate("IN (${v:singlequote})", values) == "IN ('a','b\\'; DROP TABLE x --','c\\\\')"
    assert interpolate("IN (${none:singlequote})", values) == "IN ('')"
    for raw in ("= $v", "= ${v}", "= ${v:raw}", "= ${w:singlequote}"):
        with pytest.raises(MacroError):
            interpolate(raw, values)


def test_names_that_a_query_defines_itself_are_no_views() -> None:
    assert views_of("WITH a AS (SELECT 1 FROM funnel) SELECT * FROM a JOIN topic_heat AS h, (SELECT 1 FROM numbers(3))") == {
        "funnel", "topic_heat"
    }  # fmt: skip


@pytest.mark.integration
def test_every_query_of_every_board_runs(filled: Filled) -> None:
    report = check(filled.store, budget_ms=10_000)
    assert report.failed == []
    assert report.boards == len(BOARDS)
    assert report.queries > 800
    assert all("Prometheus" in why or "not in this store" in why for why in report.skipped.values())
    quiet = {f"livepulse-anomalies/{panel.title.en}" for panel in ANOMALIES.panels}  # a day of watching comes first
    assert set(report.empty) <= quiet | {"livepulse-hours/Best push hours", "livepulse-hours/Lift by hour of day"}
    json.dumps(report.plain())


@pytest.mark.integration
def test_every_view_answers_soon_over_a_day_the_first_time_too(filled: Filled) -> None:
    found = measure(filled.store)
    assert {one.view for one in found} == {view.name for view in VIEWS}
    slow = {one.view: one for one in found if max(one.first_ms, one.again_ms) > 2_000}  # 300 on a machine of one's own
    assert slow == {}
    assert sum(one.rows for one in found) > 50_000


@pytest.mark.integration
def test_the_check_finds_what_is_wrong(filled: Filled) -> None:
    words = Text("w", "w")
    panels = {
        "a column that is not there": "SELECT nothing FROM active_users",
        "unsorted": "SELECT window_start AS time, users FROM active_users WHERE dim = 'all' ORDER BY time DESC",
        "no time first": "SELECT users, window_start FROM active_users WHERE dim = 'all' AND $__timeFilter(window_start)",
        "no such macro": "SELECT $__nope(x) AS time, 1 AS y FROM active_users",
        "twice": "SELECT toDateTime(0) AS time, number AS n FROM numbers(2) ORDER BY time",
    }
    made = tuple(Panel("timeseries", Text(name, name), words, sql) for name, sql in panels.items())
    report = check(filled.store, (Board("bad", words, words, (Row(words, made),)),))
    found = " ".join(report.failed)
    for told in ("UNKNOWN_IDENTIFIER", "not sorted", "no time", "cannot be expanded", "two points at one time"):
        assert told in found


@pytest.mark.integration
def test_the_funnel_board_tells_the_planted_truth(filled: Filled) -> None:
    truth = pl.read_parquet(filled.traffic / "truth-funnel.parquet").filter(
        pl.col("unit") == "user", pl.col("dim") == "all"
    )
    expected = dict(truth.group_by("step").agg(pl.col("reached").sum()).sort("step").iter_rows())
    board = plain(next(board for board in BOARDS if board.uid == "livepulse-funnels"))
    end = newest_ms(filled.store, board)
    assert end is not None
    time = Range(end - 40 * 3_600_000, end)
    values = resolve(filled.store, board, time, {}, filled.store.views())[2]
    panel = next(panel for panel in panels_of(board) if panel["title"] == "Steps")
    rows = filled.store.ask(expand(panel["targets"][0]["rawSql"], time, values)).rows
    assert [reached for _, reached in rows] == list(expected.values())
    assert sum(expected.values()) > 1_000


@pytest.mark.integration
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.uid)
def test_alert_rules_of_grafana_give_one_figure_a_row(rule: AlertRule, filled: Filled) -> None:
    time = Range(0, 4_000_000_000_000) if "$__timeFilter" in rule.sql else HOUR  # all of the store
    answer = filled.store.ask(expand(rule.sql, time, {}))
    kinds = [kind.removeprefix("LowCardinality(").removeprefix("Nullable(") for _, kind in answer.columns]
    assert sum(kind.startswith(("UInt", "Int", "Float")) for kind in kinds) == 1
    assert all(kind.startswith(("UInt", "Int", "Float", "String")) for kind in kinds)  # Grafana takes text for labels
    assert answer.rows or rule.uid in ("livepulse-anomaly", "livepulse-rejected-share")  # may be quiet; no traffic now
