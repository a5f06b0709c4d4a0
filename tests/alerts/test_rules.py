"""Alert rules before they may wake anybody: each one tested by promtool, on metrics that exist, told to who can act."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.metrics import METRICS, Kind
from grafana import alerting
from grafana.boards import BOARDS

ROOT = Path(__file__).resolve().parents[2]
RULES_FILE, TESTS_FILE = ROOT / "deploy/prometheus-rules.yml", ROOT / "tests/alerts/prometheus-rules.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES_FILE.read_text("utf-8"))["groups"] for rule in group["rules"]
]
TESTS: list[dict[str, Any]] = yaml.safe_load(TESTS_FILE.read_text("utf-8"))["tests"]
ROUTES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/alertmanager.yml").read_text("utf-8"))
ENGINE_HEALTH = next(board for board in BOARDS if board.uid == "livepulse-engine")
PROMETHEUS = "Debian's package prometheus (apt-get install prometheus)"
ALERTMANAGER = "Debian's package prometheus-alertmanager (apt-get install prometheus-alertmanager)"


def tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here: {package}")
    return path


def anchors() -> set[str]:
    """Places in docs/alerts.md that a link can name."""
    titles = re.findall(r"^#+ (.+)$", (ROOT / "docs/alerts.md").read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def exported() -> set[str]:
    """Names as they are scraped."""
    tails = ("_bucket", "_sum", "_count")
    return {m.name + tail for m in METRICS for tail in (tails if m.kind is Kind.HISTOGRAM else ("",))}


def test_promtool_agrees_with_every_rule() -> None:
    promtool = tool("promtool", PROMETHEUS)
    for arguments in (("check", "rules", RULES_FILE), ("test", "rules", TESTS_FILE)):
        done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tested_to_fire_and_to_keep_still() -> None:
    cases = [case for test in TESTS for case in test.get("alert_rule_test", ())]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    still = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fired == still == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_rule_says_what_it_is_about_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["labels"]["route"] == "pipeline"
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert file == "docs/alerts.md"
    assert anchor in anchors()
    used = set(re.findall(r"\blivepulse_\w+", rule["expr"]))
    assert used <= exported()
    assert used or "up{" in rule["expr"] or "ClickHouseAsyncMetrics" in rule["expr"]


def test_panels_ask_for_metrics_that_are_exported() -> None:
    asked = [set(re.findall(r"\blivepulse_\w+", panel.expr)) for panel in ENGINE_HEALTH.panels if panel.expr]
    assert all(asked)
    assert set().union(*asked) <= exported()


def _told(matcher: str, labels: dict[str, str]) -> bool:
    """Whether labels fit a matcher such as route=~"a|b"."""
    found = re.fullmatch(r'(\w+)(=~|!~|!=|=)"(.*)"', matcher)
    assert found is not None, matcher
    name, how, wanted = found.groups()
    fits = re.fullmatch(wanted, labels.get(name, "")) is not None if "~" in how else labels.get(name, "") == wanted
    return fits != how.startswith("!")


def test_nothing_that_is_silenced_at_night_silences_what_is_critical() -> None:
    critical = [
        rule["labels"] | {"alertname": rule["alert"]} for rule in RULES if rule["labels"]["severity"] == "critical"
    ]
    critical += [_anomaly(series, "critical") for series in ("active_users.events", "live_session_minutes.orders")]
    sources = [rule["labels"] | {"alertname": rule["alert"]} for rule in RULES]
    sources += [_anomaly("active_users.events", severity) for severity in ("critical", "warning")]
    for inhibit in ROUTES["inhibit_rules"]:
        fitting = [source for source in sources if all(_told(m, source) for m in inhibit["source_matchers"])]
        assert fitting, inhibit  # names a rule that is there
        silenced = [target for target in critical if all(_told(m, target) for m in inhibit["target_matchers"])]
        if silenced:
            assert {source["severity"] for source in fitting} == {"critical"}
        business = [target for target in silenced if target["route"] == "business"]
        if business:  # by an anomaly of the same direction and the same route only: it is the same event
            assert inhibit["equal"] == ["route", "direction"]
            assert {source["alertname"] for source in fitting} == {"LivePulseAnomaly"}
            assert {target["series"] for target in business} == {"live_session_minutes.orders"}


def _anomaly(series: str, severity: str) -> dict[str, str]:
    return {"alertname": "LivePulseAnomaly", "route": "business", "severity": severity, "series": series, "dim": "all"}


@pytest.mark.parametrize(
    ("route", "severity", "receiver"),
    [
        ("business", "critical", "operators"), ("business", "warning", "operators"), ("business", "info", "operators"),
        ("pipeline", "critical", "sre"), ("pipeline", "warning", "sre"), ("", "critical", "sre"),
    ],
)  # fmt: skip
def test_alerts_go_to_who_can_act(route: str, severity: str, receiver: str, tmp_path: Path) -> None:
    amtool = tool("amtool", ALERTMANAGER)
    config = tmp_path / "alertmanager.yml"
    config.write_text(with_addresses("http://127.0.0.1:1"))
    command = [amtool, "config", "routes", "test", f"--config.file={config}", f"severity={severity}"]
    done = subprocess.run(
        [*command, *([f"route={route}"] if route else [])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == receiver


def with_addresses(base: str) -> str:
    """The configuration with plain addresses: Debian's Alertmanager (0.25) cannot read them from files yet."""
    text = (ROOT / "deploy/alertmanager.yml").read_text("utf-8")
    text, changed = re.subn(r"url_file: /run/secrets/(\w+)_webhook", rf"url: {base}/\1", text)
    assert changed == 2
    return text


def test_a_drop_that_lasts_is_no_other_alert() -> None:
    """Texts that a rule asks for are labels. An anomaly's kind changes while it stands, what is asked for does not."""
    asked = next(rule.sql for rule in alerting.RULES if rule.uid == "livepulse-anomaly")
    assert asked.startswith("SELECT series, dim, value, direction, severity, route, explanation, max(score)")


def test_grafana_rules_are_whole() -> None:
    written = alerting.text()
    told = yaml.safe_load(written)
    assert told == json.loads(written.split("\n", 1)[1])
    contacts = {contact["name"] for contact in told["contactPoints"]}
    mutes = {mute["name"] for mute in told["muteTimes"]}
    policy = told["policies"][0]
    assert {policy["receiver"], *(route["receiver"] for route in policy["routes"])} == contacts
    assert {name for route in policy["routes"] for name in route.get("mute_time_intervals", ())} == mutes
    rules = told["groups"][0]["rules"]
    assert len({rule["uid"] for rule in rules}) == len({rule["title"] for rule in rules}) == len(alerting.RULES)
    boards = {f"/d/{board.uid}" for board in BOARDS}
    for rule in rules:
        steps = {step["refId"]: step["model"] for step in rule["data"]}
        assert list(steps) == ["A", "B", "C"]
        assert (steps["B"]["expression"], steps["C"]["expression"], rule["condition"]) == ("A", "B", "C")
        assert rule["annotations"]["board"] in boards
        assert rule["annotations"]["runbook_url"].partition("#")[2] in anchors()
        assert "$" not in json.dumps(rule["annotations"])  # Grafana would take it for a variable of its environment
