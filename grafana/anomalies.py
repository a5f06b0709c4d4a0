"""Anomalies: what is unusual, since when, by how much, and who should act."""

from __future__ import annotations

from typing import Final

from grafana.model import Board, Column, Panel, Row, Text, Variable
from grafana.palette import BLUE, GREEN, ORANGE, PURPLE, SEVERITIES, VERMILION
from grafana.parts import ENGINE_BOARD, OPS_BOARD, as_of, plain, stat

_NONE: Final = Text("No anomalies in this range: all as usual", "此时间段内没有异常:一切正常")
_WHICH: Final = "state != 'merged' AND series IN (${series:singlequote}) AND route IN (${route:singlequote})"
_TOLD: Final = f"FROM anomalies WHERE $__timeFilter(window_start) AND {_WHICH}"
_OPEN: Final = "FROM anomalies WHERE state = 'open'"
_THING: Final = "if(dim = 'all', series, concat(series, ' · ', dim, ' = ', value))"
_RANK: Final = "indexOf(['critical', 'warning', 'info'], severity)"

_FIRST: Final = Row(
    Text("Is anything unusual right now?", "现在有异常吗?"),
    (
        stat(
            Text("Open anomalies", "未恢复的异常"),
            Text("Told and not resolved yet, whatever the range", "已告警且尚未恢复的异常(不受时间段限制)"),
            f"SELECT count() AS anomalies {_OPEN}",
            colour=ORANGE,
        ),
        stat(
            Text("Critical", "严重"),
            Text("Open ones where the whole is off by half, or gone", "整体偏离一半以上或归零、且未恢复的异常"),
            f"SELECT count() AS anomalies {_OPEN} AND severity = 'critical'",
            colour=VERMILION,
        ),
        stat(
            Text("Probably ours", "疑似管道故障"),
            Text("Open ones that a fault of our pipeline explains: for SRE", "由数据管道故障引起、未恢复的异常:由 SRE 处理"),
            f"SELECT count() AS anomalies {_OPEN} AND route = 'pipeline'",
            colour=PURPLE,
        ),
        stat(
            Text("Told in the range", "时间段内告警数"),
            Text("Anomalies that began in the range, without merged ones", "时间段内开始的异常(不含已合并)"),
            f"SELECT count() AS anomalies {_TOLD}",
            colour=BLUE,
        ),
        stat(
            Text("Median time to resolve", "恢复耗时中位数"),
            Text("From the end of the window that told it to its resolution", "从告警窗口结束到恢复的时间中位数"),
            "SELECT quantileExact(0.5)(dateDiff('second', detected_at, resolved_at)) AS seconds "
            f"{_TOLD} AND resolved_at IS NOT NULL HAVING count() > 0",
            unit="s",
            decimals=0,
            colour=GREEN,
        ),
        as_of(),
    ),
)  # fmt: skip

_WHAT: Final = Row(
    Text("What happened, and why?", "发生了什么,原因是什么?"),
    (
        Panel(
            "table",
            Text("What was told", "异常列表"),
            Text(
                "Open ones first, then the newest, 100 at most; a click on the value shows it on the board Live ops",
                "未恢复的在前,其次按时间倒序,最多 100 条;点击取值可跳转到直播运营总览",
            ),
            "SELECT window_start, severity, state, explanation, route, series, dim, value, kind, actual, expected, "
            f"score, if(route = 'pipeline', '→', '') AS engine {_TOLD} "
            f"ORDER BY state = 'open' DESC, window_start DESC, {_RANK}, series, dim, value LIMIT 100",
            width=24,
            height=12,
            rows_max=100,
            no_value=_NONE,
            columns={
                "window_start": plain("Since", "开始时间", "dateTimeAsIso"),
                "severity": plain("Severity", "级别"),
                "state": plain("State", "状态"),
                "route": plain("For", "负责方"),
                "series": plain("Series", "指标"),
                "dim": plain("Dimension", "维度"),
                "value": Column(Text("Value", "取值"), link=OPS_BOARD, as_variable="value", and_columns=("dim",)),
                "kind": plain("Kind", "类型"),
                "actual": plain("Actual", "实际值", "short", 2),
                "expected": plain("Expected", "预期值", "short", 2),
                "score": plain("Score", "得分", "short", 2),
                "explanation": plain("Explanation", "说明"),
                "engine": Column(Text("Engine health", "引擎健康"), link=ENGINE_BOARD),
            },
        ),
    ),
)

_WHEN: Final = Row(
    Text("When?", "何时发生?"),
    (
        Panel(
            "state-timeline",
            Text("From told to resolved", "从告警到恢复"),
            Text("The fifteen series that told most, in the colour of severity", "告警最多的 15 个指标,颜色表示级别"),
            "SELECT time, thing, argMin(told, rank) AS told FROM ("
            f"SELECT window_start AS time, {_THING} AS thing, toString(severity) AS told, {_RANK} AS rank {_TOLD} "
            f"UNION ALL SELECT assumeNotNull(resolved_at) AS time, {_THING} AS thing, 'usual' AS told, 9 AS rank "
            f"{_TOLD} AND resolved_at IS NOT NULL) WHERE thing IN (SELECT {_THING} AS thing {_TOLD} "
            "GROUP BY thing ORDER BY count() DESC, thing LIMIT 15) GROUP BY time, thing ORDER BY time, thing",
            width=14,
            height=10,
            entity="thing",
            colours={**SEVERITIES, "usual": "#5A5A5A"},
            no_value=_NONE,
        ),
        Panel(
            "timeseries",
            Text("Told an hour", "每小时告警数"),
            Text("Anomalies by the hour in which they began, and severity", "按开始小时与级别统计的异常数"),
            "SELECT toStartOfHour(window_start) AS time, countIf(severity = 'critical') AS critical, "
            f"countIf(severity = 'warning') AS warning, countIf(severity = 'info') AS info {_TOLD} "
            "GROUP BY time ORDER BY time",
            width=10,
            height=10,
            colours=SEVERITIES,
            stacked=True,
            bars=True,
            no_value=_NONE,
        ),
    ),
)

_WHERE: Final = Row(
    Text("Where, and of which kind?", "在哪里,什么类型?"),
    (
        Panel(
            "barchart",
            Text("By severity", "按级别"),
            Text("Anomalies of the range by severity", "时间段内各级别的异常数"),
            f"SELECT severity, count() AS anomalies {_TOLD} GROUP BY severity ORDER BY {_RANK}",
            width=6,
            rows_max=3,
            colours=SEVERITIES,
            no_value=_NONE,
        ),
        Panel(
            "barchart",
            Text("By kind", "按类型"),
            Text("Spike, drop, zero, missing, shift, mix", "突增、突降、归零、缺失、水平偏移、结构变化"),
            f"SELECT kind, count() AS anomalies {_TOLD} GROUP BY kind ORDER BY anomalies DESC, kind",
            width=6,
            rows_max=10,
            colours={"anomalies": PURPLE},
            no_value=_NONE,
        ),
        Panel(
            "barchart",
            Text("By dimension value", "按维度取值"),
            Text("The fifteen values that told most; all: the whole", "告警最多的 15 个维度取值;all 表示整体"),
            f"SELECT if(dim = 'all', 'all', concat(dim, ' = ', value)) AS whose, count() AS anomalies {_TOLD} "
            "GROUP BY whose ORDER BY anomalies DESC, whose LIMIT 15",
            rows_max=15,
            colours={"anomalies": VERMILION},
            no_value=_NONE,
        ),
    ),
)

ANOMALIES: Final = Board(
    "livepulse-anomalies",
    Text("Anomalies", "异常"),
    Text("What is unusual, since when, by how much, why, and who should act", "哪些指标异常、何时开始、偏离多少、原因与负责方"),
    (_FIRST, _WHAT, _WHEN, _WHERE),
    (
        Variable(
            "series",
            Text("Series", "指标"),
            "SELECT series FROM anomalies GROUP BY series ORDER BY count() DESC, series LIMIT 50",
            many=True,
        ),
        Variable(
            "route",
            Text("For", "负责方"),
            "SELECT route FROM anomalies GROUP BY route ORDER BY route LIMIT 5",
            many=True,
        ),
    ),
    refresh="30s",
    range_from="now-24h",
)  # fmt: skip
