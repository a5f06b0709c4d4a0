"""Funnels: where people get lost, by source and category, how long they take, and what may still change."""

from __future__ import annotations

from typing import Final

from grafana.model import Board, Column, Panel, Row, Text, Variable
from grafana.palette import BLUE, GREEN, GREY, ORANGE
from grafana.parts import as_of, plain, stat

_OF: Final = "FROM funnel WHERE funnel = ${funnel:singlequote} AND unit = ${unit:singlequote}"
_IN_RANGE: Final = f"{_OF} AND bucket_start >= toStartOfHour($__fromTime) AND bucket_start <= $__toTime"
_ALL: Final = f"{_IN_RANGE} AND dim = 'all'"
_SPLIT: Final = f"{_IN_RANGE} AND dim = ${{dim:singlequote}} AND value IN (${{value:singlequote}})"
_ENDS: Final = f"min(step) AS first, max(step) AS last {_OF} AND dim = 'all'"
_RATE: Final = "sumIf(reached, step = last) / nullIf(sumIf(reached, step = first), 0)"
_WITH: Final = f"WITH ends AS (SELECT {_ENDS}), (SELECT first FROM ends) AS first, (SELECT last FROM ends) AS last "

_FIRST: Final = Row(
    Text("How many make it?", "有多少人走到最后?"),
    (
        stat(
            Text("Began", "起始人数"),
            Text("Units at the first step, in the hours of the range", "时间段内各小时第一步的数量"),
            f"{_WITH}SELECT sumIf(reached, step = first) AS units {_ALL}",
            width=5,
        ),
        stat(
            Text("Converted", "完成人数"),
            Text("Units at the last step", "到达最后一步的数量"),
            f"{_WITH}SELECT sumIf(reached, step = last) AS units {_ALL}",
            width=4,
            colour=GREEN,
        ),
        stat(
            Text("Conversion", "转化率"),
            Text("Last step over first step", "最后一步与第一步之比"),
            f"{_WITH}SELECT {_RATE} AS rate {_ALL}",
            unit="percentunit",
            decimals=2,
            width=5,
            colour=GREEN,
        ),
        stat(
            Text("Money at the last step", "最后一步金额"),
            Text("Money of the last step's events", "最后一步事件的金额"),
            f"{_WITH}SELECT sumIf(amount_minor, step = last) / 100 AS money {_ALL}",
            unit="currency:¥",
            width=5,
        ),
        as_of(5),
    ),
)

_STEPS: Final = Row(
    Text("Where do they get lost, and how long do they take?", "在哪一步流失,需要多久?"),
    (
        Panel(
            "bargauge",
            Text("Steps", "各步骤"),
            Text("Units that reached each step in order within the window", "按顺序在时间窗内到达每一步的数量"),
            f"SELECT step_name, sum(reached) AS reached {_ALL} GROUP BY step, step_name ORDER BY step",
            height=10,
            rows_max=30,
        ),
        Panel(
            "barchart",
            Text("Time to each step", "到达每步的时间"),
            Text(
                "From the first step: the hours' medians, averaged by the units that reached the step",
                "自第一步起:各小时中位数按到达数量加权平均",
            ),
            "SELECT step_name, sum(median_seconds * reached) / nullIf(sumIf(reached, median_seconds IS NOT NULL), 0) "
            f"AS seconds {_ALL} GROUP BY step, step_name ORDER BY step",
            unit="s",
            height=10,
            rows_max=30,
            colours={"seconds": ORANGE},
        ),
    ),
)

_TIME: Final = Row(
    Text("Is it getting better?", "趋势在改善吗?"),
    (
        Panel(
            "timeseries",
            Text("Conversion by hour", "每小时转化率"),
            Text("Last step over first step, by the hour of the first step", "按第一步所在小时统计的转化率"),
            f"{_WITH}SELECT bucket_start AS time, {_RATE} AS conversion {_ALL} GROUP BY time ORDER BY time",
            unit="percentunit",
            colours={"conversion": GREEN},
        ),
        Panel(
            "timeseries",
            Text("Units by maturity", "成熟与未成熟"),
            Text("Units at the first step; those of open hours may still convert", "第一步数量;未成熟小时仍可能转化"),
            "SELECT bucket_start AS time, sumIf(reached, is_mature = 1) AS mature, sumIf(reached, is_mature = 0) AS open "
            f"{_ALL} AND step = (SELECT min(step) {_OF}) GROUP BY time ORDER BY time",
            colours={"mature": BLUE, "open": GREY},
            stacked=True,
        ),
    ),
)

_SPLITS: Final = Row(
    Text("Who converts?", "谁更容易转化?"),
    (
        Panel(
            "table",
            Text("Conversion by the chosen dimension", "按所选维度的转化"),
            Text(
                "First and last step, conversion and money of each value chosen", "每个所选取值的首末步、转化率与金额"
            ),
            f"{_WITH}SELECT value, sumIf(reached, step = first) AS began, sumIf(reached, step = last) AS converted, "
            f"{_RATE} AS conversion, sumIf(amount_minor, step = last) / 100 AS money {_SPLIT} "
            "GROUP BY value ORDER BY began DESC, value LIMIT 50",
            width=14,
            height=10,
            rows_max=50,
            columns={
                "value": plain("Value", "取值"),
                "began": plain("Began", "起始", "short"),
                "converted": plain("Converted", "完成", "short"),
                "conversion": Column(Text("Conversion", "转化率"), "percentunit", 2, heat=True),
                "money": plain("Money", "金额", "currency:¥", 2),
            },
        ),
        Panel(
            "barchart",
            Text("Conversion by value", "各取值转化率"),
            Text("Last step over first step of the ten largest values chosen", "所选最大的十个取值的转化率"),
            f"{_WITH}SELECT value, {_RATE} AS conversion {_SPLIT} GROUP BY value "
            "ORDER BY sumIf(reached, step = first) DESC, value LIMIT 10",
            unit="percentunit",
            decimals=2,
            width=10,
            height=10,
            rows_max=10,
            colours={"conversion": GREEN},
        ),
    ),
)

FUNNELS: Final = Board(
    "livepulse-funnels",
    Text("Funnels", "转化漏斗"),
    Text("Where people get lost on the way, by source and category", "转化路径上的流失,按来源与类目"),
    (_FIRST, _STEPS, _TIME, _SPLITS),
    (
        Variable("funnel", Text("Funnel", "漏斗"), "SELECT DISTINCT funnel FROM funnel ORDER BY funnel = 'video_to_live' DESC, funnel"),
        Variable("unit", Text("Unit", "单位"), options=("user", "user_live")),
        Variable("dim", Text("Split by", "维度"), options=("category", "region", "platform", "channel")),
        Variable(
            "value",
            Text("Values", "取值"),
            f"SELECT value {_OF} AND dim = ${{dim:singlequote}} GROUP BY value ORDER BY sum(reached) DESC, value LIMIT 50",
            many=True,
        ),
    ),
    refresh="1m",
    range_from="now-24h",
)  # fmt: skip
