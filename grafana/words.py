"""Words of ours that figures carry: names of columns, and texts that queries give. Names of people and things are not.

A panel takes those that its query may show (`words_of`), so that legends, axes, tables and cells speak its language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from grafana.model import Panel, Text

COLUMNS: Final[Mapping[str, Text]] = {
    "time": Text("time", "时间"), "value": Text("value", "取值"), "surface": Text("surface", "场景"),
    "users": Text("users", "用户数"), "events": Text("events", "事件数"), "live_id": Text("room", "直播间"),
    "live_name": Text("room", "直播间"), "room": Text("room", "直播间"), "watching": Text("watching", "在看人数"),
    "entered": Text("entered", "进入"), "from_video": Text("from a video", "视频引流"),
    "likes": Text("likes", "点赞"), "comments": Text("comments", "评论"), "shares": Text("shares", "分享"),
    "follows": Text("follows", "关注"), "created": Text("created", "已下单"), "paid": Text("paid", "已支付"),
    "refunded": Text("refunded", "已退款"), "orders": Text("orders", "订单"), "gifts": Text("gifts", "礼物"),
    "step": Text("step", "步骤"), "source": Text("source", "来源"), "money": Text("money", "金额"),
    "hour_of_day": Text("hour", "小时"), "lift": Text("lift", "提升度"), "topic": Text("topic", "话题"),
    "heat": Text("heat", "热度"), "stage": Text("stage", "阶段"), "measured": Text("measured", "实测"),
    "fitted": Text("fitted", "拟合"), "step_name": Text("step", "步骤"), "reached": Text("reached", "到达"),
    "seconds": Text("time", "用时"), "conversion": Text("conversion", "转化率"), "mature": Text("mature", "已成熟"),
    "open": Text("open", "未成熟"), "thing": Text("series", "指标"), "told": Text("severity", "级别"),
    "critical": Text("critical", "严重"), "warning": Text("warning", "警告"), "info": Text("info", "提示"),
    "severity": Text("severity", "级别"), "anomalies": Text("anomalies", "异常数"), "kind": Text("kind", "类型"),
    "whose": Text("value", "取值"), "accepted": Text("accepted", "已接受"), "duplicate": Text("duplicate", "重复"),
    "late": Text("late", "迟到"), "rejected": Text("rejected", "已拒收"), "filtered": Text("filtered", "已过滤"),
    "consumed": Text("read", "已读取"), "reason": Text("reason", "原因"), "messages": Text("messages", "消息数"),
}  # fmt: skip
"""Names of columns that charts show, in legends and in their table view; table panels state their own."""

_LADDER: Final = {
    "created": COLUMNS["created"], "paid": COLUMNS["paid"], "refunded": COLUMNS["refunded"], "net": Text("net", "净额"),
    "exposed": Text("exposed", "曝光"), "entered": COLUMNS["entered"],
    "clicked a product": Text("clicked a product", "点击商品"),
}  # fmt: skip
_SEVERITIES: Final = {name: COLUMNS[name] for name in ("critical", "warning", "info")}
CHANNELS: Final = {
    "feed": Text("feed", "推荐"), "search": Text("search", "搜索"), "follow": Text("follow", "关注"),
    "share": Text("share", "分享"), "paid": Text("paid", "付费"), "unknown": Text("unknown", "未知"),
}  # fmt: skip
SURFACES: Final = {"video": Text("video", "短视频"), "live": Text("live", "直播"), "all": Text("all", "全部")}
DIMENSIONS: Final = {
    "all": Text("all", "全部"), "category": Text("category", "类目"), "region": Text("region", "地区"),
    "platform": Text("platform", "平台"), "channel": Text("channel", "渠道"), "surface": Text("surface", "场景"),
}  # fmt: skip
VALUES: Final[Mapping[str, Mapping[str, Text]]] = {
    "surface": SURFACES,
    "source": CHANNELS,
    "value": {name: text for name, text in {**SURFACES, **CHANNELS}.items() if name != "all"},
    "step": _LADDER,
    "day": {
        en: Text(en, zh)
        for en, zh in zip(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), "一二三四五六日", strict=True)
    },
    "stage": {
        "emerging": Text("emerging", "萌芽"), "growing": Text("growing", "上升"), "peak": Text("peak", "高峰"),
        "declining": Text("declining", "下降"), "tail": Text("tail", "长尾"), "revival": Text("revival", "回春"),
        "unknown": Text("unknown", "未知"),
    },
    "model": {"exponential": Text("exponential", "指数"), "power": Text("power law", "幂律")},
    "state": {
        "live": Text("live", "直播中"), "ended": Text("ended", "已结束"), "open": Text("open", "未恢复"),
        "resolved": Text("resolved", "已恢复"),
    },
    "step_name": {
        "video_view": Text("video view", "观看视频"), "live_enter": Text("enters a room", "进入直播间"),
        "engage": Text("engages", "互动"), "gift": Text("gift", "送礼"), "order": Text("order", "下单"),
    },
    "severity": _SEVERITIES,
    "told": {**_SEVERITIES, "usual": Text("usual", "正常")},
    "route": {"business": Text("business", "业务"), "pipeline": Text("pipeline", "管道")},
    "kind": {
        "spike": Text("spike", "突增"), "drop": Text("drop", "突降"), "zero": Text("zero", "归零"),
        "missing": Text("missing", "缺失"), "shift": Text("shift", "水平偏移"),
        "mix": Text("mix", "结构变化"),
    },
    "whose": {"all": Text("all", "整体")},
    "dim": DIMENSIONS,
}  # fmt: skip
"""Texts that a column of this name may hold."""

OPTIONS: Final[Mapping[str, Mapping[str, Text]]] = {
    "dim": DIMENSIONS,
    "basis": {"platform": Text("platform", "平台时区"), "user": Text("user", "用户时区")},
    "unit": {"user": Text("user", "用户"), "user_live": Text("user in a room", "用户 × 直播间")},
}
"""Texts of choices, by variable."""

_NAME: Final = re.compile(r"(?:\bAS|\bSELECT|,) ([a-z_]+)\b(?! ?[!=])")
"""A column that a query gives, and not only asks about."""


def columns_of(panel: Panel) -> dict[str, Text]:
    """Names that a chart's figures may have."""
    if panel.kind in ("stat", "table", "text"):
        return {}
    named = set(_NAME.findall(panel.sql))
    return {name: text for name, text in COLUMNS.items() if name in named}


def values_of(panel: Panel) -> dict[str, Mapping[str, Text]]:
    """Texts by the column that holds them."""
    named = set(panel.columns) if panel.kind == "table" else set(_NAME.findall(panel.sql))
    return {name: words for name, words in VALUES.items() if name in named}
