"""Topics: what heats up, what cools, how fast, and until when to respond."""

from __future__ import annotations

from typing import Final

from grafana.model import Board, Column, Panel, Row, Text, Variable
from grafana.palette import BLUE, GREEN, ORANGE, STAGES, VERMILION
from grafana.parts import TOPIC_BOARD, as_of, by_step, plain, stat

_LAST: Final = "(SELECT max(tick) FROM topic_heat WHERE is_final = 1 AND $__timeFilter(tick))"
_CHOSEN: Final = "FROM topic_heat WHERE topic IN (${topic:singlequote}) AND $__timeFilter(tick)"
_TEN: Final = (
    "FROM topic_heat WHERE $__timeFilter(tick) AND topic IN "
    f"(SELECT topic {_CHOSEN} GROUP BY topic ORDER BY max(heat) DESC, topic LIMIT 10)"
)
_STEP: Final = by_step("tick")
_FOCUS: Final = "topic = ${focus:singlequote}"

_FIRST: Final = Row(
    Text("What is going on?", "现在发生了什么?"),
    (
        stat(
            Text("Hottest topic", "最热话题"),
            Text("Rank 1 at the last closed minute of the range", "时间段内最后一个已关闭分钟的第一名"),
            f"SELECT topic FROM topic_heat WHERE tick = {_LAST} AND rank = 1 LIMIT 1",
            unit="string",
            width=6,
            colour=ORANGE,
        ),
        stat(
            Text("Growing", "上升中"),
            Text("Topics that emerge, grow or revive at that minute", "该分钟处于萌芽、上升或回春阶段的话题数"),
            f"SELECT countIf(stage IN ('emerging', 'growing', 'revival')) AS topics FROM topic_heat WHERE tick = {_LAST}",
            width=4,
            colour=GREEN,
        ),
        stat(
            Text("Declining", "下降中"),
            Text("Topics that decline at that minute", "该分钟处于下降阶段的话题数"),
            f"SELECT countIf(stage = 'declining') AS topics FROM topic_heat WHERE tick = {_LAST}",
            width=4,
            colour=VERMILION,
        ),
        stat(
            Text("Median half-life", "半衰期中位数"),
            Text("Of topics whose rate has halved since its peak", "自峰值后速率已减半的话题"),
            "SELECT quantileExact(0.5)(half_life_minutes) * 60 AS seconds FROM topic_lifecycle "
            "WHERE half_life_minutes IS NOT NULL AND peak_time >= $__fromTime AND peak_time <= $__toTime "
            "HAVING count() > 0",
            unit="s",
            decimals=0,
            width=5,
        ),
        as_of(5),
    ),
)  # fmt: skip

_CURVES: Final = Row(
    Text("What heats up, what cools?", "哪些在升温,哪些在降温?"),
    (
        Panel(
            "timeseries",
            Text("Heat", "热度"),
            Text("Decayed sum of weights of each topic chosen; the hottest ten of them", "所选话题的衰减加权热度;其中最热的十个"),
            f"SELECT {_STEP} AS time, topic, argMax(heat, tick) AS heat {_TEN} GROUP BY time, topic ORDER BY time, topic",
            width=14,
            height=10,
            rows_max=20_000,
        ),
        Panel(
            "state-timeline",
            Text("Stage of life", "生命周期阶段"),
            Text("Stage of the hottest ten topics chosen; over more than a day in steps of minutes", "所选最热十个话题的阶段;超过一天时按数分钟取样"),
            f"SELECT {_STEP} AS time, topic, argMax(stage, tick) AS stage {_TEN} GROUP BY time, topic ORDER BY time, topic",
            width=10,
            height=10,
            rows_max=20_000,
            colours=STAGES,
        ),
    ),
)  # fmt: skip

_FIT: Final = Row(
    Text("How fast does the topic in focus decay?", "聚焦话题衰减多快?"),
    (
        Panel(
            "timeseries",
            Text("Rate and its decay", "速率及其衰减"),
            Text(
                "Events a minute in steps of 10 min of the topic in focus, beside the decay from its measured half-life",
                "聚焦话题每 10 分钟的平均速率,及按实测半衰期的衰减曲线",
            ),
            "SELECT toStartOfInterval(h.tick - INTERVAL 1 SECOND, INTERVAL 10 MINUTE) AS time, "
            "sum(h.events) / 10 AS measured, "
            "any(if(time >= l.peak_time, l.peak_rate * if(l.model = 'power', "
            "pow(1 + dateDiff('second', l.peak_time, time) / 60, -log(2) / log(1 + l.half_life_minutes)), "
            "exp2(-dateDiff('second', l.peak_time, time) / 60 / l.half_life_minutes)), NULL)) AS fitted "
            "FROM topic_heat AS h LEFT JOIN topic_lifecycle AS l ON h.topic = l.topic "
            f"WHERE h.{_FOCUS} AND $__timeFilter(h.tick) GROUP BY time ORDER BY time",
            width=14,
            height=13,
            unit="cpm",
            colours={"measured": BLUE, "fitted": ORANGE},
        ),
        Panel(
            "table",
            Text("The topic in focus", "聚焦话题"),
            Text("Its life so far: peak, half-life with its 95 % interval, fit, deadline", "其生命周期:峰值、半衰期(95% 区间)、拟合与截止时间"),
            "SELECT topic, stage, first_seen, peak_time, peak_heat, half_life_minutes, half_life_low, half_life_high, "
            f"model, fit_r2, response_deadline FROM topic_lifecycle WHERE {_FOCUS}",
            width=10,
            height=13,
            rows_max=1,
            columns={
                "topic": plain("Topic", "话题"),
                "stage": plain("Stage", "阶段"),
                "first_seen": plain("First seen", "首次出现", "dateTimeAsIso"),
                "peak_time": plain("Peak", "峰值时间", "dateTimeAsIso"),
                "peak_heat": plain("Peak heat", "峰值热度", "short", 1),
                "half_life_minutes": plain("Half-life", "半衰期", "m", 1),
                "half_life_low": plain("from", "下限", "m", 1),
                "half_life_high": plain("to", "上限", "m", 1),
                "model": plain("Decay", "衰减模型"),
                "fit_r2": plain("R²", "R²", "percentunit", 1),
                "response_deadline": plain("Respond until", "响应截止", "dateTimeAsIso"),
            },
        ),
    ),
)  # fmt: skip

_TABLE: Final = Row(
    Text("Which should we respond to first?", "应先响应哪些?"),
    (
        Panel(
            "table",
            Text("Top topics", "热门话题"),
            Text(
                "The 20 hottest at the last closed minute of the range; a click puts a topic into focus",
                "时间段内最后一个已关闭分钟最热的 20 个话题;点击可聚焦",
            ),
            "SELECT h.rank AS rank, h.topic AS topic, h.heat AS heat, h.growth AS growth, h.stage AS stage, "
            "l.half_life_minutes AS half_life, l.response_deadline AS deadline, "
            "if(isNull(l.response_deadline), NULL, dateDiff('second', h.tick, l.response_deadline)) AS left "
            "FROM topic_heat AS h LEFT JOIN topic_lifecycle AS l ON h.topic = l.topic "
            f"WHERE h.tick = {_LAST} AND h.rank <= 20 ORDER BY rank",
            width=24,
            height=12,
            rows_max=20,
            columns={
                "rank": plain("Rank", "排名"),
                "topic": Column(Text("Topic", "话题"), link=TOPIC_BOARD, as_variable="focus"),
                "heat": Column(Text("Heat", "热度"), "short", 1, heat=True),
                "growth": plain("Growth", "增速", "short", 2),
                "stage": plain("Stage", "阶段"),
                "half_life": plain("Half-life", "半衰期", "m", 1),
                "deadline": plain("Respond until", "响应截止", "dateTimeAsIso"),
                "left": plain("Left at that minute", "当时剩余", "s", 0),
            },
        ),
    ),
)

_HOTTEST: Final = (
    "SELECT topic FROM topic_heat WHERE $__timeFilter(tick) GROUP BY topic ORDER BY max(heat) DESC, topic LIMIT 40"
)

_IN_FOCUS: Final = (
    "SELECT topic FROM topic_heat WHERE $__timeFilter(tick) GROUP BY topic ORDER BY topic IN (SELECT topic "
    "FROM topic_lifecycle WHERE half_life_minutes IS NOT NULL ORDER BY peak_heat DESC, topic LIMIT 20) DESC, "
    "max(heat) DESC, topic LIMIT 60"
)
"""The hottest with a decay to show, then the hottest."""

TOPICS: Final = Board(
    "livepulse-topics",
    Text("Topics", "话题热度"),
    Text("What heats up, what cools, how fast, and until when to respond", "话题升温与降温、速度与响应截止时间"),
    (_FIRST, _CURVES, _FIT, _TABLE),
    (
        Variable("topic", Text("Topics", "话题"), _HOTTEST, many=True),
        Variable("focus", Text("In focus", "聚焦"), _IN_FOCUS),
    ),
    refresh="30s",
    range_from="now-3h",
)
