"""Grafana's alert rules, contact points, policies and mute times, written with the boards and checked with them.

A rule asks for a figure of closed windows (A), takes the last (B) and compares it (C). Who is told is said by labels:
`route` (business: operators; pipeline: SRE) and `severity`. Grafana hands alerts to Alertmanager, which knows the
addresses: engine alerts and business alerts silence each other in one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from grafana.targets import PLUGIN, PLUGIN_VERSION

FOLDER: Final = "LivePulse"
SOURCE: Final = "livepulse"
"""Uid of the provisioned data source."""
_EXPRESSION: Final = "__expr__"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One rule. `sql` gives one figure, or one a row that columns of text name; it asks for closed windows only."""

    uid: str
    title: str
    sql: str
    summary: str
    description: str
    runbook: str
    above: float | None = None
    below: float | None = None
    back_seconds: int = 1_800
    pending: str = "0s"
    keep_firing: str = "0s"
    no_data: Literal["OK", "Alerting", "NoData", "KeepLast"] = "OK"
    board: str = "livepulse-anomalies"
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"rule {self.uid}: say above or below, one of them")


RULES: Final = (
    AlertRule(
        "livepulse-anomaly",
        "LivePulseAnomaly",
        # Route and severity come with the row; the sentence too. Texts become labels, and other labels are another
        # alert: the kind, which changes when a drop lasts, is none of them. (The sentence of a spike that was told
        # while its window was open changes once, when it closes.)
        "SELECT series, dim, value, direction, severity, route, explanation, max(score) AS score FROM anomalies "
        "WHERE state = 'open' AND $__timeFilter(detected_at) "
        "GROUP BY series, dim, value, direction, severity, route, explanation "
        "ORDER BY score DESC, series, dim, value LIMIT 100",
        "{{ .Labels.explanation }}",
        "{{ .Labels.series }}, {{ .Labels.dim }} {{ .Labels.value }}: {{ .Labels.direction }}",
        "docs/alerts.md#anomaly",
        above=0,
        back_seconds=43_200,  # after twelve hours the new level is taken for normal
    ),
    AlertRule(
        "livepulse-nobody-active",
        "LivePulseNobodyActive",
        "SELECT max(users) AS users FROM (SELECT users FROM active_users WHERE dim = 'all' AND window_seconds = 60 "
        "AND is_final = 1 AND $__timeFilter(window_start) ORDER BY window_start DESC LIMIT 3) HAVING count() > 0",
        "Fewer than 50 active users in each of the last three closed minutes",
        "The platform is empty, or no events arrive: look at the board Engine health first.",
        "docs/alerts.md#nobody-active",
        below=50,
        keep_firing="2m",
        no_data="Alerting",
        board="livepulse-ops",
        labels={"route": "business", "severity": "critical"},
    ),
    AlertRule(
        "livepulse-rejected-share",
        "LivePulseRejectedShare",
        "SELECT sum(rejected) / sum(consumed) AS share FROM ingest_ledger "
        "WHERE minute >= toStartOfMinute(now()) - INTERVAL 5 MINUTE AND minute < toStartOfMinute(now()) "
        "HAVING sum(consumed) >= 100",
        "Over 5 % of the messages of five whole minutes were rejected",
        "Figures fall because of us. dead_letters has the messages with their reasons.",
        "docs/alerts.md#rejects",
        above=0.05,
        pending="2m",
        keep_firing="5m",
        board="livepulse-engine",
        labels={"route": "pipeline", "severity": "warning"},
    ),
    AlertRule(
        "livepulse-figures-old",
        "LivePulseFiguresOld",
        "SELECT dateDiff('second', max(watermark), now64(3)) AS seconds FROM engine_progress "
        "WHERE watermark > toDateTime64(0, 3) HAVING count() > 0",
        "The last closed window is over 15 minutes old",
        "The engine stands or lags, a partition says nothing, or no events come.",
        "docs/alerts.md#watermark",
        above=900,
        pending="5m",
        no_data="NoData",
        board="livepulse-engine",
        labels={"route": "pipeline", "severity": "critical"},
    ),
)


def shipped(name: str) -> AlertRule | None:
    """A rule by its uid or title."""
    return next((rule for rule in RULES if name in (rule.uid, rule.title)), None)


_NIGHTS: Final = {"times": [{"start_time": "15:00", "end_time": "24:00"}]}  # UTC: 23:00 to 08:00 in China
_WEEKENDS: Final = {"weekdays": ["saturday", "sunday"]}


def text() -> str:
    """The provisioning file: JSON, which is YAML, under a comment."""
    content = {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "livepulse",
                "folder": FOLDER,
                "interval": "1m",
                "rules": [_rule(rule) for rule in RULES],
            }
        ],
        "contactPoints": [_contact(name) for name in ("operators", "sre")],
        "policies": [_policies()],
        "muteTimes": [
            {"orgId": 1, "name": "nights", "time_intervals": [_NIGHTS]},
            {"orgId": 1, "name": "weekends", "time_intervals": [_WEEKENDS]},
        ],
    }
    told = json.dumps(content, ensure_ascii=False, indent=1)
    return f"# Written by `livepulse boards build`; a test holds it against the code.\n{told}\n"


def _rule(rule: AlertRule) -> dict[str, Any]:
    """A → B → C. Macros in the query stay as they are: Grafana expands no variables in a query's model."""
    limit, kind = (rule.above, "gt") if rule.above is not None else (rule.below, "lt")
    asked = {
        "refId": "A", "editorType": "sql", "rawSql": rule.sql, "format": 1, "queryType": "table",
        "pluginVersion": PLUGIN_VERSION, "datasource": {"type": PLUGIN, "uid": SOURCE}, "meta": {},
    }  # fmt: skip
    last = {"refId": "B", "type": "reduce", "expression": "A", "reducer": "last"}
    compared = {
        "refId": "C", "type": "threshold", "expression": "B",
        "conditions": [{"evaluator": {"type": kind, "params": [limit]}}],
    }  # fmt: skip
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": "C",
        "data": [
            _step(asked, SOURCE, rule.back_seconds),
            _step(last, _EXPRESSION, 0),
            _step(compared, _EXPRESSION, 0),
        ],
        "noDataState": rule.no_data,
        "execErrState": "Error",
        "for": rule.pending,
        "keepFiringFor": rule.keep_firing,
        "annotations": {"summary": rule.summary, "description": rule.description, "runbook_url": rule.runbook,
                        "board": f"/d/{rule.board}"},
        "labels": dict(rule.labels),
        "isPaused": False,
    }  # fmt: skip


def _step(model: dict[str, Any], source: str, back_seconds: int) -> dict[str, Any]:
    return {
        "refId": model["refId"],
        "relativeTimeRange": {"from": back_seconds, "to": 0},
        "datasourceUid": source,
        "model": model,
    }


def _contact(name: str) -> dict[str, Any]:
    return {
        "orgId": 1,
        "name": name,
        "receivers": [
            {
                "uid": f"livepulse-{name}",
                "type": "prometheus-alertmanager",
                "disableResolveMessage": False,
                "settings": {"url": "$LIVEPULSE_ALERTMANAGER_URL"},
            }
        ],
    }


def _policies() -> dict[str, Any]:
    """What nobody claims goes to SRE; what is no hurry waits until the morning."""

    def route(receiver: str, route: str, severities: str, *mutes: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "receiver": receiver,
            "object_matchers": [["route", "=", route], ["severity", "=~", severities]],
        }
        return found | ({"mute_time_intervals": list(mutes)} if mutes else {})

    return {
        "orgId": 1,
        "receiver": "sre",
        "group_by": ["alertname", "route"],
        "group_wait": "10s",
        "group_interval": "1m",
        "repeat_interval": "1m",  # Alertmanager takes one that is not told again within four minutes for resolved
        "routes": [
            route("operators", "business", "info", "nights", "weekends"),
            route("operators", "business", "warning", "nights"),
            route("operators", "business", ".*"),
            route("sre", "pipeline", "warning|info", "nights"),
            route("sre", "pipeline", ".*"),
        ],
    }
