"""Alert rules: what is refused, what fires when, and what a backtest says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.alert_backtest import Incident, judge, read_truth
from flows.alert_rules import FIRING, NO_DATA, NORMAL, PENDING, Rule, evaluate, failed_tests, fires, load_rules
from flows.errors import Usage

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "alerts.toml"


def rule(**changes: object) -> Rule:
    given = {
        "name": "r",
        "view": "active_users",
        "measure": "users",
        "summary": "s",
        "below": 10.0,
        "where": {"dim": "all"},
    }
    return Rule(**{**given, **changes})  # type: ignore[arg-type]


def test_the_examples_hold() -> None:
    rules = load_rules(EXAMPLES)
    assert [failed_tests(r) for r in rules] == [[]] * len(rules)
    assert sum(len(r.tests) for r in rules) >= 3


def test_a_rule_waits_then_fires_then_keeps_firing() -> None:
    states = evaluate(rule(for_windows=2, keep_windows=1), [20, 5, 20, 5, 5, 20, 20, 5])
    assert states == [NORMAL, PENDING, NORMAL, PENDING, FIRING, FIRING, NORMAL, PENDING]
    assert fires(states) == [4]


@pytest.mark.parametrize(
    ("no_data", "expected"),
    [
        ("ok", [FIRING, NO_DATA, NORMAL]),
        ("alert", [FIRING, FIRING, NORMAL]),
        ("keep", [FIRING, FIRING, NORMAL]),
    ],
)
def test_no_data_means_what_the_rule_says(no_data: str, expected: list[str]) -> None:
    assert evaluate(rule(no_data=no_data), [5, None, 20]) == expected


def test_silence_alone_fires_only_where_it_should() -> None:
    assert evaluate(rule(no_data="alert"), [None]) == [FIRING]
    assert evaluate(rule(no_data="keep"), [None]) == [NORMAL]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"view": "nowhere"}, "no view"),
        ({"measure": "gmv"}, "no columns"),
        ({"measure": "value"}, "text"),
        ({"where": {}}, "name a dim"),
        ({"where": {"colour": "red"}}, "no columns"),
        ({"below": None}, "below or above"),
        ({"no_data": "maybe"}, "no_data"),
        ({"for_windows": 0}, "for_windows"),
        ({"name": "Bad Name"}, "name"),
        ({"view": "topic_lifecycle", "measure": "peak_rate", "where": {}}, "window_start"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        rule(**changes)


def test_a_file_that_cannot_work_names_the_rule(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('[[rule]]\nname = "a"\nview = "active_users"\nmeasure = "users"\nsummary = "s"\nbelov = 3\n')
    with pytest.raises(Usage, match=r"rule a: unknown belov"):
        load_rules(file)


def test_queries_quote_and_ask_for_closed_windows_only() -> None:
    query = rule(where={"dim": "region", "value": "it's"}).sql()
    assert "value = 'it\\'s'" in query
    assert "is_final = 1" in query
    assert "window_seconds = 60" in query
    assert "is_final" not in rule(view="anomalies", measure="count", above=0.0, where={}).sql()


def test_a_failing_example_is_told() -> None:
    given = load_rules(EXAMPLES)[2]
    wrong = Rule(**{name: getattr(given, name) for name in given.__slots__ if name != "below"}, below=1.0)
    assert failed_tests(wrong)


def test_a_backtest_tells_fires_delay_and_precision(tmp_path: Path) -> None:
    values: list[float | None] = [20.0] * 1440
    values[100:110] = [5.0] * 10
    values[700] = 5.0
    truth = tmp_path / "truth.csv"
    truth.write_text("start,end\n1970-01-01T01:38:00,1970-01-01T01:50:00\n1970-01-01T20:00:00,1970-01-01T20:10:00\n")
    incidents = read_truth(truth)
    assert incidents[0] == Incident(98 * 60, 110 * 60)
    told = judge(rule(), 0, values, incidents)
    assert (told["fires"], told["fires_per_day"], told["days"]) == (2, 2.0, 1.0)
    assert (told["recall"], told["precision"], told["median_delay_windows"]) == (0.5, 0.5, 2)
