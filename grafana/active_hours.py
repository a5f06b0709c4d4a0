"""Active hours: when people are there, and when to push."""

from __future__ import annotations

from typing import Final

from grafana.model import Board, Column, Panel, Row, Text, Variable
from grafana.palette import BLUE, GREEN, ORANGE
from grafana.parts import as_of, plain, stat

_CHOSEN: Final = "basis = ${basis:singlequote} AND dim = ${dim:singlequote} AND value IN (${value:singlequote})"
_DATES: Final = "date BETWEEN toDate($__fromTime - INTERVAL 12 HOUR) AND toDate($__toTime + INTERVAL 14 HOUR)"
"""Local dates that the range touches somewhere: it may be tomorrow there already, or yesterday still."""
_HOURS: Final = f"FROM active_hours WHERE {_CHOSEN} AND {_DATES}"
_PROFILE: Final = f"FROM active_hour_profile WHERE {_CHOSEN}"
_WEEKDAYS: Final = "['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun']"
_NO_DAY: Final = Text("No whole local day has been counted yet", "尚无完整的一天数据")
_HOUR_NAME: Final = "concat(leftPad(toString(hour), 2, '0'), ':00')"

_FIRST: Final = Row(
    Text("When is the peak?", "高峰在什么时候?"),
    (
        stat(
            Text("Peak hour", "高峰时段"),
            Text("Local hour with the most distinct users on a date of the range", "所选日期内去重用户最多的当地小时"),
            f"SELECT hour {_HOURS} GROUP BY date, hour ORDER BY sum(users) DESC, hour LIMIT 1",
            unit="suffix::00",
            width=6,
            colour=ORANGE,
        ),
        stat(
            Text("Users in the peak hour", "高峰小时用户"),
            Text("Distinct users of that hour", "该小时的去重用户数"),
            f"SELECT sum(users) AS users {_HOURS} GROUP BY date, hour ORDER BY users DESC LIMIT 1",
            width=6,
        ),
        stat(
            Text("Time watched", "观看时长"),
            Text("Time watched on the dates of the range", "所选日期内的观看总时长"),
            f"SELECT sum(watch_ms) / 1000 AS seconds {_HOURS}",
            unit="s",
            decimals=1,
            width=6,
            colour=GREEN,
        ),
        as_of(6),
    ),
)

_WEEK: Final = Row(
    Text("What does the week look like?", "一周的活跃分布?"),
    (
        Panel(
            "table",
            Text("Users by weekday and hour", "星期 × 小时的用户数"),
            Text(
                "Distinct users of each local hour, averaged over the dates of the range; the darker the more",
                "所选日期内每个当地小时的平均去重用户数;颜色越深人数越多",
            ),
            f"SELECT {_WEEKDAYS}[weekday] AS day, "
            + ", ".join(
                f"round(sumIf(users, hour = {h}) / nullIf(uniqExactIf(date, hour = {h}), 0)) AS h{h:02d}"
                for h in range(24)
            )
            + f" {_HOURS} GROUP BY weekday ORDER BY weekday",
            width=24,
            height=10,
            rows_max=7,
            columns={
                "day": plain("Weekday", "星期"),
                **{f"h{h:02d}": Column(Text(f"{h:02d}", f"{h:02d}"), "short", heat=True) for h in range(24)},
            },
        ),
    ),
)

_DAYS: Final = Row(
    Text("Does it change from day to day?", "每天有变化吗?"),
    (
        Panel(
            "heatmap",
            Text("Users by date and hour", "日期 × 小时的用户数"),
            Text("Distinct users of each local hour of each date", "每个日期每个当地小时的去重用户数"),
            "SELECT toDateTime(date) AS time, "
            + ", ".join(f"sumOrNullIf(users, hour = {h}) AS `{h:02d}:00`" for h in range(24))
            + f" {_HOURS} GROUP BY time ORDER BY time",
            height=10,
            rows_max=4_000,
        ),
        Panel(
            "barchart",
            Text("Users by hour of day", "一天中各小时的用户数"),
            Text("Distinct users of each local hour, averaged over the dates of the range", "所选日期内每个当地小时的平均去重用户数"),
            f"SELECT {_HOUR_NAME} AS hour_of_day, sum(users) / uniqExact(date) AS users {_HOURS} "
            "GROUP BY hour_of_day ORDER BY hour_of_day",
            height=10,
            rows_max=24,
            colours={"users": BLUE},
        ),
    ),
)  # fmt: skip

_PUSH: Final = Row(
    Text("When should we push?", "何时推送最好?"),
    (
        Panel(
            "table",
            Text("Best push hours", "最佳推送时段"),
            Text(
                "The ten hours of the week with the greatest lift (1 = an average hour) over the complete days kept",
                "在完整日期中提升度最高的十个时段(1 = 平均水平)",
            ),
            f"SELECT {_WEEKDAYS}[weekday] AS day, {_HOUR_NAME} AS hour_of_day, value, users_per_day, share, lift, days "
            f"{_PROFILE} ORDER BY lift DESC, weekday, hour LIMIT 10",
            width=14,
            height=10,
            rows_max=10,
            no_value=_NO_DAY,
            columns={
                "day": plain("Weekday", "星期"),
                "hour_of_day": plain("Hour", "小时"),
                "value": plain("Value", "取值"),
                "users_per_day": plain("Users a day", "日均用户", "short", 0),
                "share": plain("Share of the week", "占一周比例", "percentunit", 2),
                "lift": Column(Text("Lift", "提升度"), "short", 2, heat=True),
                "days": plain("Days", "天数", "short"),
            },
        ),
        Panel(
            "barchart",
            Text("Lift by hour of day", "各小时提升度"),
            Text("Users a day of the hour over the week's average hour", "该小时日均用户与一周平均小时之比"),
            f"SELECT {_HOUR_NAME} AS hour_of_day, avg(lift) AS lift {_PROFILE} "
            "GROUP BY hour_of_day ORDER BY hour_of_day",
            width=10,
            height=10,
            decimals=2,
            rows_max=24,
            no_value=_NO_DAY,
            colours={"lift": GREEN},
        ),
    ),
)

ACTIVE_HOURS: Final = Board(
    "livepulse-hours",
    Text("Active hours", "活跃时段"),
    Text("When people are there, in the platform's and in their own zone", "用户活跃时段:平台时区与用户当地时区"),
    (_FIRST, _WEEK, _DAYS, _PUSH),
    (
        Variable("basis", Text("Clock", "时区基准"), options=("platform", "user")),
        Variable("dim", Text("Split by", "维度"), options=("all", "category", "region", "platform", "channel", "surface")),
        Variable(
            "value",
            Text("Values", "取值"),
            "SELECT value FROM active_hours WHERE basis = ${basis:singlequote} AND dim = ${dim:singlequote} "
            "GROUP BY value ORDER BY sum(events) DESC LIMIT 50",
            many=True,
        ),
    ),
    refresh="1m",
    range_from="now-7d",
)  # fmt: skip
