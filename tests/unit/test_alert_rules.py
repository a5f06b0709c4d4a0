"""Alert rules: what is refused, what fires when, and what a backtest says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.alert_asof import History, query_at
from flows.alert_asof import judge as judge_shipped
from flows.alert_backtest import Incident, judge, read_truth
from flows.alert_rules import (
    ERROR,
    FAILED,
    FIRING,
    NO_DATA,
    NORMAL,
    PENDING,
    Rule,
    evaluate,
    failed_tests,
    fires,
    load_rules,
)
from flows.errors import Usage
from grafana.alerting import RULES, AlertRule, shipped

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
    states = evaluate(rule(for_windows=2, keep_windows=1).evaluation, [20, 5, 20, 5, 5, 20, 20, 5])
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
    assert evaluate(rule(no_data=no_data).evaluation, [5, None, 20]) == expected


@pytest.mark.parametrize(
    ("on_error", "expected"),
    [("ok", [FIRING, ERROR, NORMAL]), ("alert", [FIRING, FIRING, NORMAL]), ("keep", [FIRING, FIRING, NORMAL])],
)
def test_a_query_that_fails_means_what_the_rule_says(on_error: str, expected: list[str], tmp_path: Path) -> None:
    assert evaluate(rule(on_error=on_error).evaluation, [5, FAILED, 20]) == expected
    assert evaluate(rule(on_error=on_error).evaluation, [20, FAILED])[1] == (
        FIRING if on_error == "alert" else ERROR if on_error == "ok" else NORMAL
    )
    path = tmp_path / "rules.toml"
    path.write_text(
        '[[rule]]\nname = "r"\nview = "active_users"\nmeasure = "users"\nsummary = "s"\nbelow = 10\n'
        f'where = {{ dim = "all" }}\non_error = "{on_error}"\n'
        '[[rule.test]]\nvalues = [20, "error", nan, 20]\nfires_at = [1]\n'
    )
    (found,) = load_rules(path)
    assert found.tests[0].values == (20, FAILED, None, 20)
    assert bool(failed_tests(found)) is (on_error != "alert")


def test_silence_alone_fires_only_where_it_should() -> None:
    assert evaluate(rule(no_data="alert").evaluation, [None]) == [FIRING]
    assert evaluate(rule(no_data="keep").evaluation, [None]) == [NORMAL]


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
        ({"on_error": "maybe"}, "on_error"),
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


def _shipped(name: str) -> AlertRule:
    found = shipped(name)
    assert found is not None
    return found


def test_shipped_rules_are_asked_as_of_a_moment() -> None:
    assert shipped("LivePulseAnomaly") is shipped("livepulse-anomaly") is RULES[0]
    assert shipped("nothing") is None
    for given in RULES:
        if "engine_progress" in given.sql:
            with pytest.raises(Usage, match="engine_progress, which keeps no history"):
                query_at(given, 1_000_000, 300)
            continue
        sql = query_at(given, 1_000_000, 300)
        assert "$" not in sql
        assert "now" not in sql
        assert "toDateTime(1000000, 'UTC')" in sql
    nobody = query_at(_shipped("livepulse-nobody-active"), 1_000_000, 300)
    assert "window_start + window_seconds + 300 <= toDateTime(1000000, 'UTC')" in nobody
    assert "window_start >= toDateTime(998200, 'UTC')" in nobody  # half an hour back


def test_a_macro_that_is_not_known_is_refused() -> None:
    with pytest.raises(Usage, match=r"macro that is not known here: \$__interval"):
        query_at(
            AlertRule("u", "T", "SELECT max(users) FROM active_users WHERE $__interval", "", "", "", above=1), 0, 0
        )


def test_each_set_of_texts_is_an_alert_of_its_own() -> None:
    given = _shipped("livepulse-anomaly")
    past = History(0, 60, [{}, {"a": 0.6}, {"a": 0.6, "b": 0.7}, {"b": 0.7}, {}, {"a": 0.9}])
    told = judge_shipped(given, past, [Incident(60, 200)])
    assert told["fired_at"] == [f"1970-01-01T00:0{minute}:00+00:00" for minute in (1, 2, 5)]
    assert (told["recall"], told["median_delay_windows"], told["share_firing"]) == (1.0, 0, round(4 / 6, 5))
    assert told["precision"] == round(2 / 3, 4)


def test_pending_keeping_and_silence_of_shipped_rules() -> None:
    rejects = _shipped("livepulse-rejected-share")  # above 5 % for two minutes, keeps on for five
    values = [0.01, 0.1, 0.1, 0.1, 0.01, 0.01, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]
    told = judge_shipped(rejects, History(0, 60, [{"": value} for value in values]), None)
    assert told["fired_at"] == ["1970-01-01T00:03:00+00:00"]
    assert told["share_firing"] == round(9 / 14, 5)
    nobody = _shipped("livepulse-nobody-active")  # no row at all is an alert
    assert judge_shipped(nobody, History(0, 60, [{"": 80.0}, {}, {}, {"": 80.0}]), None)["fires"] == 1
    assert judge_shipped(nobody, History(0, 60, []), None)["fires"] == 0
