"""Live room: what a host and an operator look at while a room is on air, and after it."""

from __future__ import annotations

from typing import Final

from grafana.model import Board, Panel, Row, Text, Variable
from grafana.palette import BLUE, GREEN, LADDER, ORANGE, PURPLE, SKY
from grafana.parts import COMPLETE, LINES, MINUTES_IN, as_of, by_step, plain, stat

_ROOMS: Final = "FROM live_sessions WHERE live_id IN (${room:singlequote})"
_STEP: Final = by_step("window_start")
_MINUTES: Final = (
    "FROM live_session_minutes WHERE live_id IN (${room:singlequote}) AND $__timeFilter(window_start) " + COMPLETE
)

_FIRST: Final = Row(
    Text("How is the room right now?", "直播间当前状况如何?"),
    (
        stat(
            Text("Watching now (90 s)", "当前在看(90 秒)"),
            Text(
                "Users with a report in the last 90 s, those who left since among them: may be above the peak at one moment",
                "最近 90 秒内有观看上报的用户数,含期间已离开者,因此可能高于同一时刻的峰值",
            ),
            f"SELECT sum(watching_now) AS watching {_ROOMS}",
            colour=ORANGE,
        ),
        stat(
            Text("Peak at once (PCU)", "同时在线峰值 (PCU)"),
            Text(
                "Peak of users present at once; of several rooms the greatest", "同时在线人数峰值;多个直播间时取最大值"
            ),
            f"SELECT max(pcu) AS pcu {_ROOMS}",
            colour=ORANGE,
        ),
        stat(
            Text("Average at once (ACU)", "平均同时在线 (ACU)"),
            Text("Users at once, averaged over the time on air", "开播时间内的平均同时在线人数"),
            f"SELECT sum(watch_ms) / 1000 / nullIf(sum(live_seconds), 0) AS acu {_ROOMS}",
            decimals=1,
            colour=ORANGE,
        ),
        stat(
            Text("Average stay", "人均停留"),
            Text("Time watched per user who entered", "每位进入用户的平均观看时长"),
            f"SELECT sum(watch_ms) / 1000 / nullIf(sum(entered_users), 0) AS stay {_ROOMS}",
            unit="s",
            decimals=0,
            colour=SKY,
        ),
        stat(
            Text("On air", "已开播"),
            Text("From the first start to the end, or to now; of several rooms the longest", "从开播到结束或现在;多个直播间时取最长"),
            f"SELECT max(live_seconds) AS seconds {_ROOMS}",
            unit="s",
            decimals=0,
            colour=SKY,
        ),
        as_of(),
    ),
)  # fmt: skip

_SALES: Final = Row(
    Text("What does it earn?", "成交如何?"),
    (
        stat(
            Text("GMV net", "净 GMV"),
            Text("Money paid less money refunded", "支付金额减去退款金额"),
            f"SELECT sum(gmv_net_minor) / 100 AS gmv {_ROOMS}",
            unit="currency:¥",
            colour=GREEN,
        ),
        stat(
            Text("Orders paid", "支付订单"),
            Text("Distinct orders that were paid", "去重的已支付订单数"),
            f"SELECT sum(orders) AS orders {_ROOMS}",
            colour=GREEN,
        ),
        stat(
            Text("AOV", "客单价"),
            Text("GMV per order paid", "每个支付订单的平均金额"),
            f"SELECT sum(gmv_minor) / 100 / nullIf(sum(orders), 0) AS aov {_ROOMS}",
            unit="currency:¥",
            decimals=2,
        ),
        stat(
            Text("GPM", "千次观看成交 (GPM)"),
            Text("GMV per 1,000 views", "每千次观看的支付金额"),
            f"SELECT sum(gmv_minor) * 10. / nullIf(sum(views), 0) AS gpm {_ROOMS}",
            unit="currency:¥",
            decimals=2,
        ),
        stat(
            Text("UV value", "UV 价值"),
            Text("GMV per user who entered", "每位进入用户的支付金额"),
            f"SELECT sum(gmv_minor) / 100 / nullIf(sum(entered_users), 0) AS uv {_ROOMS}",
            unit="currency:¥",
            decimals=2,
        ),
        stat(
            Text("Gift money", "礼物金额"),
            Text("Money of gifts", "礼物总金额"),
            f"SELECT sum(gift_amount_minor) / 100 AS gifts {_ROOMS}",
            unit="currency:¥",
            colour=PURPLE,
        ),
    ),
)

_AUDIENCE: Final = Row(
    Text("Does the room hold its audience?", "能否留住观众?"),
    (
        Panel(
            "timeseries",
            Text("Watching (90 s)", "在看人数(90 秒)"),
            Text(
                "Users with a report in the 90 s before the minute's end; of many rooms the twelve that had most",
                "每分钟结束前 90 秒内有上报的用户数;直播间较多时取人数最多的十二个",
            ),
            f"SELECT {_STEP} AS time, live_id, sum(watching) / {MINUTES_IN} AS watching {_MINUTES} AND live_id IN (SELECT live_id "
            f"{_MINUTES} GROUP BY live_id ORDER BY sum(watching) DESC, live_id LIMIT {LINES}) "
            "GROUP BY time, live_id ORDER BY time, live_id",
            rows_max=20_000,
        ),
        Panel(
            "timeseries",
            Text("Entered per minute", "每分钟进入人数"),
            Text("First views in the room, and those of them that came by way of a video", "首次进入直播间的用户,及其中由视频引流者"),
            f"SELECT {_STEP} AS time, sum(entered_users) / {MINUTES_IN} AS entered, "
            f"sum(entered_from_video) / {MINUTES_IN} AS from_video {_MINUTES} GROUP BY time ORDER BY time",
            colours={"entered": ORANGE, "from_video": BLUE},
        ),
    ),
)  # fmt: skip

_ACTS: Final = Row(
    Text("Does the audience take part?", "观众是否互动?"),
    (
        Panel(
            "timeseries",
            Text("Interaction per minute", "每分钟互动"),
            Text("Likes, comments, shares and follows", "点赞、评论、分享与关注"),
            f"SELECT {_STEP} AS time, sum(likes) / {MINUTES_IN} AS likes, sum(comments) / {MINUTES_IN} AS comments, "
            f"sum(shares) / {MINUTES_IN} AS shares, sum(follows) / {MINUTES_IN} AS follows "
            f"{_MINUTES} GROUP BY time ORDER BY time",
            colours={"likes": PURPLE, "comments": SKY, "shares": GREEN, "follows": ORANGE},
        ),
        Panel(
            "timeseries",
            Text("GMV per minute", "每分钟 GMV"),
            Text("Money of orders created, paid and refunded", "订单创建、支付与退款金额"),
            f"SELECT {_STEP} AS time, sum(gmv_created_minor) / 100 / {MINUTES_IN} AS created, "
            f"sum(gmv_minor) / 100 / {MINUTES_IN} AS paid, "
            f"sum(gmv_refunded_minor) / 100 / {MINUTES_IN} AS refunded {_MINUTES} GROUP BY time ORDER BY time",
            unit="currency:¥",
            colours=LADDER,
        ),
    ),
)

_LOSS: Final = Row(
    Text("Where do viewers get lost?", "观众在哪一步流失?"),
    (
        Panel(
            "bargauge",
            Text("From exposure to order", "从曝光到下单"),
            Text("Distinct users at each step", "每一步的去重用户数"),
            "SELECT pair.1 AS step, pair.2 AS users FROM (SELECT arrayJoin([('exposed', sum(exposed_users)), "
            "('entered', sum(entered_users)), ('clicked a product', sum(clickers)), ('paid', sum(buyers))]) AS pair "
            f"{_ROOMS})",
            width=8,
            rows_max=4,
            colours={"exposed": SKY, "entered": ORANGE, "clicked a product": PURPLE, "paid": GREEN},
        ),
        Panel(
            "piechart",
            Text("Where they came from", "流量来源"),
            Text("Users who entered, by traffic source", "按流量来源统计的进入用户"),
            "SELECT if(source = '', 'unknown', source) AS source, sum(entered_users) AS users "
            "FROM live_session_sources WHERE live_id IN (${room:singlequote}) GROUP BY source ORDER BY users DESC, source",
            width=8,
            rows_max=100,
        ),
        Panel(
            "barchart",
            Text("The GMV ladder", "GMV 阶梯"),
            Text("Money created, paid, refunded, and what stays", "创建、支付、退款金额与净额"),
            "SELECT pair.1 AS step, pair.2 AS money FROM (SELECT arrayJoin([('created', sum(gmv_created_minor) / 100), "
            "('paid', sum(gmv_minor) / 100), ('refunded', sum(gmv_refunded_minor) / 100), "
            f"('net', sum(gmv_net_minor) / 100)]) AS pair {_ROOMS})",
            width=8,
            unit="currency:¥",
            rows_max=4,
            colours=LADDER,
        ),
    ),
)  # fmt: skip

_PRODUCTS: Final = Row(
    Text("Which products sell?", "哪些商品好卖?"),
    (
        Panel(
            "table",
            Text("Products", "商品"),
            Text("Clicks, orders and GMV of each product in the room", "直播间内每个商品的点击、订单与 GMV"),
            "SELECT product_name, sum(product_clicks) AS clicks, sum(orders) AS orders, sum(buyers) AS buyers, "
            "sum(gmv_minor) / 100 AS gmv, sum(gmv_net_minor) / 100 AS net, "
            "sum(p.buyers) / nullIf(sum(p.clickers), 0) AS order_rate FROM live_products AS p "
            "WHERE live_id IN (${room:singlequote}) GROUP BY product_id, product_name ORDER BY gmv DESC, product_id LIMIT 30",
            width=24,
            height=9,
            rows_max=30,
            columns={
                "product_name": plain("Product", "商品"),
                "clicks": plain("Clicks", "点击", "short"),
                "orders": plain("Orders", "订单", "short"),
                "buyers": plain("Buyers", "买家", "short"),
                "gmv": plain("GMV", "GMV", "currency:¥", 2),
                "net": plain("Net", "净额", "currency:¥", 2),
                "order_rate": plain("Buyers per clicker", "点击成交率", "percentunit", 1),
            },
        ),
    ),
)

LIVE_ROOM: Final = Board(
    "livepulse-room",
    Text("Live room", "直播间"),
    Text("One room: audience, sales, interaction, products", "单个直播间:观众、成交、互动、商品"),
    (_FIRST, _SALES, _AUDIENCE, _ACTS, _LOSS, _PRODUCTS),
    (
        Variable(
            "category",
            Text("Category", "类目"),
            "SELECT category FROM live_sessions GROUP BY category ORDER BY sum(gmv_minor) DESC, category LIMIT 50",
            many=True,
        ),
        Variable(
            "creator",
            Text("Creator", "主播"),
            "SELECT creator_id, any(creator_name) AS name FROM live_sessions WHERE category IN (${category:singlequote}) "
            "GROUP BY creator_id ORDER BY sum(gmv_minor) DESC, creator_id LIMIT 200",
            many=True,
        ),
        Variable(
            "room",
            Text("Room", "直播间"),
            "SELECT live_id, live_name FROM live_sessions WHERE category IN (${category:singlequote}) "
            "AND creator_id IN (${creator:singlequote}) AND started_at <= $__toTime "
            "AND coalesce(ended_at, as_of) >= $__fromTime "
            "ORDER BY state = 'live' DESC, watching_now DESC, gmv_minor DESC, live_id LIMIT 200",
            many=True,
            starts_with_all=False,
        ),
    ),
    refresh="5s",
    range_from="now-15m",
)
