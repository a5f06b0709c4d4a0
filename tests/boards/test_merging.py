"""Figures over the same rows are asked at once, and the answers are those of asking one by one."""

from __future__ import annotations

import pytest

from grafana.boards import BOARDS
from grafana.build import plain
from grafana.choices import newest_ms, resolve
from grafana.lint import panels_of
from grafana.macros import Range, expand
from grafana.merging import merged
from tests.boards.conftest import Filled

ROWS = "FROM live_sessions WHERE live_id IN ('a', 'it\\'s FROM x')"


def test_only_figures_over_the_same_rows_are_merged() -> None:
    together = [f"SELECT sum(a) / 2 AS x {ROWS}", f"SELECT max(b) AS y {ROWS}", f"SELECT min(b) AS y {ROWS}"]
    apart = [
        "SELECT sum(a) AS x FROM live_sessions",
        f"SELECT a AS x {ROWS}",
        f"SELECT sum(a) AS x, sum(b) AS y {ROWS}",
        f"SELECT sum(a) AS x {ROWS} HAVING count() > 0",
        f"SELECT sum(a) AS x {ROWS} GROUP BY b",
        "SELECT sum(a) AS x FROM (SELECT 1 AS a) WHERE 1 = 1 AND 'x' != ''",
    ]
    queries = [together[0], apart[0], together[1], *apart[1:], together[2]]
    found = merged(queries)
    assert sorted(place for one in found for place in one.places) == list(range(len(queries)))
    assert [one.sql for one in found if one.columns] == [
        f"SELECT sum(a) / 2 AS figure_0, max(b) AS figure_1, min(b) AS figure_2 {ROWS}"
    ]
    assert all(one.sql == queries[one.places[0]] for one in found if not one.columns)


@pytest.mark.integration
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_answers_are_the_same(board: object, filled: Filled) -> None:
    built = plain(board)  # type: ignore[arg-type]  # pytest has no types for its parameters
    end = newest_ms(filled.store, built)
    assert end is not None
    time = Range(end - 86_400_000, end)
    values = resolve(filled.store, built, time, {}, filled.store.views())[2]
    queries = [
        expand(panel["targets"][0]["rawSql"], time, values)
        for panel in panels_of(built)
        if panel["targets"] and "rawSql" in panel["targets"][0]
    ]
    questions = [one for one in merged(queries) if one.columns]
    for question in questions:
        (row,) = filled.store.ask(question.sql).rows
        for place, column in (question.columns or {}).items():
            assert list(filled.store.ask(queries[place]).rows) == [(row[column],)]
    if board.uid == "livepulse-room":  # type: ignore[attr-defined]
        assert max(len(question.places) for question in questions) == 11
