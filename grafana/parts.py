"""Panels and variables that several boards share."""

from __future__ import annotations

from typing import Final

from grafana.model import Column, Panel, Text, Threshold, Variable
from grafana.palette import BLUE

LIVE_BOARD: Final = "livepulse-room"
TOPIC_BOARD: Final = "livepulse-topics"
OPS_BOARD: Final = "livepulse-ops"
ENGINE_BOARD: Final = "livepulse-engine"


def stat(
    title: Text,
    description: Text,
    sql: str,
    *,
    unit: str = "short",
    decimals: int | None = None,
    width: int = 4,
    colour: str = BLUE,
    thresholds: tuple[Threshold, ...] = (),
) -> Panel:
    """One figure."""
    return Panel(
        "stat", title, description, sql, width=width, height=4, unit=unit, decimals=decimals, rows_max=1, low=None,
        thresholds=thresholds or (Threshold(None, colour),), no_value=Text("–", "–"),
    )  # fmt: skip


def as_of(width: int = 4) -> Panel:
    """How far the figures reach."""
    return stat(
        Text("Data as of", "数据截至"),
        Text(
            "Event time that the engine has come to. Far behind the clock: the engine lags, stands, or no events come",
            "引擎已处理到的事件时间。若明显落后于当前时间,说明引擎延迟、停止或没有事件",
        ),
        "SELECT nullIf(toUnixTimestamp64Milli(max(last_event_time)), 0) AS as_of FROM engine_progress",
        unit="dateTimeAsIso",
        width=width,
    )


COMPLETE: Final = "AND (is_final OR window_start < (SELECT toStartOfMinute(max(last_event_time)) FROM engine_progress))"
"""Minutes that have passed: a line over one that still fills would fall at its end."""


def by_step(column: str) -> str:
    """Minutes in steps that a line can show: on the embedded board one up to a range of a day, 6 of a week."""
    return f"toStartOfInterval({column}, INTERVAL {_STEP_MINUTES} MINUTE)"


_STEP_MINUTES: Final = "greatest(1, intDiv($__interval_s, 90))"
MINUTES_IN: Final = f"greatest(1, dateDiff('minute', greatest(time, $__fromTime), least(time + INTERVAL {_STEP_MINUTES} MINUTE, $__toTime)))"
"""Of the step that begins at `time`, as far as the range has it: sums are told by the minute, those without a row too."""
LINES: Final = 12
"""As many lines as the embedded board can name."""

DIM: Final = Variable("dim", Text("Split by", "维度"), options=("category", "region", "platform", "channel", "surface"))


def value_of(view: str, condition: str = "1 = 1") -> Variable:
    """Values of the dimension chosen, the greatest first."""
    return Variable(
        "value",
        Text("Values", "取值"),
        f"SELECT value FROM {view} WHERE dim = ${{dim:singlequote}} AND {condition} "  # words of ours
        "GROUP BY value ORDER BY sum(events) DESC LIMIT 50",
        many=True,
    )


def plain(en: str, zh: str, unit: str = "", decimals: int | None = None) -> Column:
    """A column of a table."""
    return Column(Text(en, zh), unit, decimals)
