"""Live ops: the platform at a glance, for whoever is on duty."""

from __future__ import annotations

from typing import Final

from grafana.model import Board, Column, Panel, Row, Text
from grafana.palette import BLUE, GREEN, LADDER, ORANGE, PURPLE, SKY, SURFACES
from grafana.parts import COMPLETE, DIM, LINES, LIVE_BOARD, MINUTES_IN, as_of, by_step, plain, stat, value_of

_MINUTES: Final = "FROM active_users WHERE window_seconds = 60 AND $__timeFilter(window_start)"
_ROOM_MINUTES: Final = "FROM live_session_minutes WHERE $__timeFilter(window_start)"
_STEP: Final = by_step("window_start")
_FULL: Final = f"{_MINUTES} {COMPLETE}"
_ROOM_FULL: Final = f"{_ROOM_MINUTES} {COMPLETE}"


def _last_full_minute(what: str, condition: str) -> str:
    """Of the newest minute that has passed."""
    return f"SELECT {what} {_FULL} AND {condition} ORDER BY window_start DESC LIMIT 1"


_NOW: Final = Row(
    Text("How is the platform right now?", "平台当前状况如何?"),
    (
        stat(
            Text("Active users", "活跃用户"),
            Text("Distinct users with any event in the last full minute", "上一完整分钟内有任何事件的去重用户数"),
            _last_full_minute("users", "dim = 'all'"),
        ),
        stat(
            Text("Live viewers", "直播观众"),
            Text("Distinct users watching live rooms in the last full minute", "上一完整分钟内观看直播的去重用户数"),
            _last_full_minute("users", "dim = 'surface' AND value = 'live'"),
            colour=ORANGE,
        ),
        stat(
            Text("Rooms on air", "在播直播间"),
            Text("Rooms whose state is live", "状态为直播中的直播间数"),
            "SELECT countIf(state = 'live') AS rooms FROM live_sessions",
            colour=ORANGE,
        ),
        stat(
            Text("GMV paid", "支付 GMV"),
            Text("Money of orders paid in live rooms, in the range", "所选时间段内直播间已支付订单金额"),
            f"SELECT sum(gmv_minor) / 100 AS gmv {_ROOM_MINUTES}",
            unit="currency:¥",
            colour=GREEN,
        ),
        stat(
            Text("Orders paid", "支付订单"),
            Text("Orders paid in live rooms, in the range", "所选时间段内直播间已支付订单数"),
            f"SELECT sum(orders) AS orders {_ROOM_MINUTES}",
            colour=GREEN,
        ),
        as_of(),
    ),
)

_AUDIENCE: Final = Row(
    Text("Is the audience coming or going?", "观众在增加还是减少?"),
    (
        Panel(
            "timeseries",
            Text("Active users by surface", "各场景活跃用户"),
            Text(
                "Distinct users a minute; a user of both counts in each, and once in all",
                "每分钟去重用户;同时使用两种场景者各计一次,合计只计一次",
            ),
            f"SELECT {_STEP} AS time, if(dim = 'all', 'all', value) AS surface, sum(users) / {MINUTES_IN} AS users {_FULL} "
            "AND dim IN ('all', 'surface') GROUP BY time, surface ORDER BY time, surface",
            colours=SURFACES,
        ),
        Panel(
            "timeseries",
            Text("Events per second", "每秒事件数"),
            Text("Accepted events, averaged over each minute", "每分钟平均的已接受事件速率"),
            f"SELECT {_STEP} AS time, sum(events) / 60 / {MINUTES_IN} AS events {_FULL} AND dim = 'all' "
            "GROUP BY time ORDER BY time",
            unit="eps",
            colours={"events": BLUE},
        ),
    ),
)

_MONEY: Final = Row(
    Text("Is it selling?", "卖得怎么样?"),
    (
        Panel(
            "timeseries",
            Text("GMV per minute", "每分钟 GMV"),
            Text("Money of orders created, paid and refunded in live rooms", "直播间订单的创建、支付与退款金额"),
            f"SELECT {_STEP} AS time, sum(gmv_created_minor) / 100 / {MINUTES_IN} AS created, "
            f"sum(gmv_minor) / 100 / {MINUTES_IN} AS paid, "
            f"sum(gmv_refunded_minor) / 100 / {MINUTES_IN} AS refunded {_ROOM_FULL} GROUP BY time ORDER BY time",
            unit="currency:¥",
            colours=LADDER,
        ),
        Panel(
            "timeseries",
            Text("Orders and gifts per minute", "每分钟订单与礼物"),
            Text("Orders paid and gifts given in live rooms", "直播间支付订单数与礼物数"),
            f"SELECT {_STEP} AS time, sum(orders) / {MINUTES_IN} AS orders, sum(gifts) / {MINUTES_IN} AS gifts {_ROOM_FULL} "
            "GROUP BY time ORDER BY time",
            colours={"orders": GREEN, "gifts": PURPLE},
        ),
    ),
)

_ROOMS: Final = Row(
    Text("Which rooms need a look?", "哪些直播间需要关注?"),
    (
        Panel(
            "table",
            Text("Top rooms by GMV", "GMV 最高的直播间"),
            Text(
                "The 20 rooms with the greatest GMV, those on air first; a click opens the room",
                "GMV 最高的 20 个直播间,在播优先;点击可进入直播间看板",
            ),
            "SELECT live_id, live_name, creator_name, category, state, watching_now, pcu, entered_users, orders, "
            "gmv_minor / 100 AS gmv, gpm_minor / 100 AS gpm, follow_rate FROM live_sessions "
            "WHERE started_at <= $__toTime AND coalesce(ended_at, as_of) >= $__fromTime "
            "ORDER BY state = 'live' DESC, gmv DESC, live_id LIMIT 20",
            width=24,
            height=11,
            rows_max=20,
            columns={
                "live_id": Column(Text("Room", "直播间"), link=LIVE_BOARD, as_variable="room"),
                "live_name": plain("Name", "名称"),
                "creator_name": plain("Host", "主播"),
                "category": plain("Category", "类目"),
                "state": plain("State", "状态"),
                "watching_now": Column(Text("Watching (90 s)", "在看(90 秒)"), "short", heat=True),
                "pcu": plain("PCU", "峰值在线", "short"),
                "entered_users": plain("Entered", "进入人数", "short"),
                "orders": plain("Orders", "订单", "short"),
                "gmv": plain("GMV", "GMV", "currency:¥", 2),
                "gpm": plain("GPM", "千次观看成交", "currency:¥", 2),
                "follow_rate": plain("Follow rate", "关注率", "percentunit", 1),
            },
        ),
    ),
)

_SPLIT: Final = Row(
    Text("Who is here?", "用户从哪里来?"),
    (
        Panel(
            "timeseries",
            Text("Users by the chosen dimension", "按所选维度的用户数"),
            Text(
                "Distinct users a minute for each value chosen, the twelve with most events",
                "每个所选取值每分钟的去重用户数,取事件最多的十二个",
            ),
            f"SELECT {_STEP} AS time, value, sum(users) / {MINUTES_IN} AS users {_FULL} AND dim = ${{dim:singlequote}} "
            f"AND value IN (SELECT value {_MINUTES} AND dim = ${{dim:singlequote}} AND value IN (${{value:singlequote}}) "
            f"GROUP BY value ORDER BY sum(events) DESC, value LIMIT {LINES}) GROUP BY time, value ORDER BY time, value",
            width=16,
            rows_max=20_000,
        ),
        Panel(
            "piechart",
            Text("Share of events", "事件占比"),
            Text("Events of each value chosen, in the range", "所选时间段内各取值的事件数"),
            f"SELECT value, sum(events) AS events {_MINUTES} AND dim = ${{dim:singlequote}} "
            "AND value IN (${value:singlequote}) GROUP BY value ORDER BY events DESC, value LIMIT 12",
            width=8,
            rows_max=12,
            colours={"video": SURFACES["video"], "live": SURFACES["live"], "feed": SKY},
        ),
    ),
)

LIVE_OPS: Final = Board(
    "livepulse-ops",
    Text("Live ops", "直播运营总览"),
    Text("The platform at a glance: audience, money, rooms", "平台总览:观众、成交、直播间"),
    (_NOW, _AUDIENCE, _MONEY, _ROOMS, _SPLIT),
    (DIM, value_of("active_users", "window_seconds = 3600")),
    refresh="5s",
    range_from="now-15m",
)
