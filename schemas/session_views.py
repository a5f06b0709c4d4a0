"""Views of live rooms: the days of a room added up, what follows from the clock of events, and rates.

`as_of` is how far the engine has come in event time. A rate is NULL while what it divides by is 0.
"""

from __future__ import annotations

from typing import Final

from schemas.declared import COUNT, DIM, MONEY, TIME, Column, View
from schemas.session_tables import (
    LABELS,
    LIVE_ID,
    LIVE_SESSION_MINUTES,
    LIVE_SESSION_PRODUCTS,
    LIVE_SESSION_SOURCES,
    LIVE_SESSIONS,
    PCU,
    WATCHING_PEAK,
    figures,
)
from schemas.sessions import MEASURES, PRODUCT_MEASURES, SILENCE_MS, SOURCE_MEASURES, STEP_MS, STEPS, Measure

_RATE: Final = "Nullable(Float64)"
_MINOR: Final = "in minor units of the platform's currency"
_NET: Final = Column("gmv_net_minor", MONEY, f"gmv_minor less gmv_refunded_minor, {_MINOR}")
_ROOM_FINAL: Final = Column(
    "is_final", "UInt8", "1 when every day (UTC) of the room is closed; later days may add rows"
)


def _sums(measures: tuple[Measure, ...]) -> str:
    return ",\n            ".join(f"sum(r.{x.name}) AS {x.name}" for x in measures)


def _name(kind: str, of: str) -> str:
    """A joined label, or the id where it has none."""
    return f"coalesce(nullIf({kind}_label.name, ''), {of})"


def _label(kind: str, of: str) -> str:
    """A join with the names of ids of one kind."""
    return (
        f"LEFT JOIN (SELECT id, name FROM {{database}}.labels_rows FINAL WHERE kind = '{kind}') AS {kind}_label "  # noqa: S608  # words of ours
        f"ON {kind}_label.id = {of}"
    )


_WATCHING_AT: Final = ", ".join(f"watching_{STEP_MS // 1000 * step}" for step in range(1, STEPS + 1))
_SESSIONS_SQL: Final = f"""
WITH
    assumeNotNull(
        (SELECT max(greatest(last_event_time, watermark)) FROM {{database}}.engine_progress_rows FINAL)
    ) AS now_at,
    toInt64(intDiv(toUnixTimestamp64Milli(now_at), {STEP_MS})) - 1 AS now_step,
    rooms AS
    (
        SELECT r.live_id AS live_id, minIf(r.creator_id, r.creator_id != '') AS creator_id,
            minIf(r.category, r.category != '') AS category,
            {_sums(MEASURES)},
            max(r.pcu) AS pcu, max(r.watching_peak) AS watching_peak, min(r.is_final) AS is_final,
            min(r.first_event_at) AS first_event, min(r.first_start_at) AS first_start,
            max(r.last_start_at) AS last_start, max(r.last_end_at) AS last_end,
            coalesce(max(r.last_active_at), first_event) AS last_active
        FROM {{database}}.live_sessions_rows AS r FINAL GROUP BY r.live_id
    ),
    states AS
    (
        SELECT *, coalesce(first_start, first_event) AS started,
            isNotNull(last_end) AND (isNull(last_start) OR last_end >= last_start) AS is_closed,
            is_closed OR now_at >= last_active + toIntervalMillisecond({SILENCE_MS}) AS is_over,
            if(is_over, if(is_closed, last_end, last_active), NULL) AS ended,
            assumeNotNull(greatest(0, dateDiff('millisecond', started, coalesce(ended, now_at)))) / 1000 AS seconds
        FROM rooms
    ),
    watched AS
    (
        SELECT live_id, [{_WATCHING_AT}][now_step % {STEPS} + 1] AS watching
        FROM {{database}}.live_session_minutes_rows FINAL
        WHERE window_start = toDateTime(intDiv(now_step, {STEPS}) * 60, 'UTC')
    )
SELECT s.live_id AS live_id, if(s.is_over, 'ended', 'live') AS state, now_at AS as_of,
    assumeNotNull(s.started) AS started_at, s.ended AS ended_at, s.seconds AS live_seconds,
    assumeNotNull(s.last_active) AS last_active_at, s.creator_id AS creator_id, s.category AS category,
    coalesce(w.watching, 0) AS watching_now, s.watching_peak AS watching_peak,
    s.pcu AS pcu, s.watch_ms / 1000 / nullIf(s.seconds, 0) AS acu,
    s.watch_ms / 1000 / nullIf(s.entered_users, 0) AS avg_stay_seconds,
    {", ".join(f"s.{x.name} AS {x.name}" for x in MEASURES)},
    s.gmv_minor - s.gmv_refunded_minor AS gmv_net_minor,
    s.comments * 60 / nullIf(s.seconds, 0) AS comments_per_minute,
    s.followers / nullIf(s.entered_users, 0) AS follow_rate,
    s.gmv_minor / nullIf(s.orders, 0) AS aov_minor,
    s.gmv_minor / nullIf(s.buyers, 0) AS gmv_per_buyer_minor,
    s.gmv_minor * 1000. / nullIf(s.views, 0) AS gpm_minor,
    s.gmv_minor / nullIf(s.entered_users, 0) AS uv_value_minor,
    s.entered_users / nullIf(s.exposed_users, 0) AS enter_rate,
    s.clickers / nullIf(s.entered_users, 0) AS click_rate,
    s.buyers / nullIf(s.clickers, 0) AS order_rate,
    s.entered_from_video / nullIf(s.entered_users, 0) AS from_video_share,
    {_name("live", "s.live_id")} AS live_name, {_name("creator", "s.creator_id")} AS creator_name,
    s.is_final AS is_final
FROM states AS s
LEFT JOIN watched AS w ON w.live_id = s.live_id
{_label("live", "s.live_id")}
{_label("creator", "s.creator_id")}
"""  # noqa: S608  # words of ours

LIVE_SESSIONS_VIEW: Final = View(
    "live_sessions",
    "Live rooms, one row a room: its state, its audience, what they did and bought",
    LIVE_SESSIONS,
    (
        LIVE_ID,
        Column("state", DIM, "live, or ended: by live_end, or after 5 min without a sign of life"),
        Column("as_of", TIME, "Event time that the engine has come to: what state and watching_now are of"),
        Column("started_at", TIME, "First live_start, else the first event"),
        Column("ended_at", f"Nullable({TIME})", "Last live_end, else the last sign of life; NULL while live"),
        Column("live_seconds", "Float64", "From started_at to ended_at, or to as_of while live"),
        Column("last_active_at", TIME, "Last sign of life: an event, or the end of a report"),
        Column("creator_id", "String", "Host; empty when no event names one"),
        Column("category", "String", "Category of the room; empty when no event names one"),
        Column("watching_now", COUNT, "Users with a report in the 90 s before as_of (its last full 10 s)"),
        WATCHING_PEAK,
        PCU,
        Column("acu", _RATE, "Average of users at once: watch_ms over live_seconds"),
        Column("avg_stay_seconds", _RATE, "Time watched per user who entered"),
        *figures(MEASURES), _NET,
        Column("comments_per_minute", _RATE, "comments per minute of live_seconds"),
        Column("follow_rate", _RATE, "followers / entered_users"),
        Column("aov_minor", _RATE, f"Average order value: gmv_minor / orders, {_MINOR}"),
        Column("gmv_per_buyer_minor", _RATE, f"gmv_minor / buyers, {_MINOR}"),
        Column("gpm_minor", _RATE, f"gmv_minor per 1,000 views, {_MINOR}"),
        Column("uv_value_minor", _RATE, f"gmv_minor / entered_users, {_MINOR}"),
        Column("enter_rate", _RATE, "entered_users / exposed_users"),
        Column("click_rate", _RATE, "clickers / entered_users"),
        Column("order_rate", _RATE, "buyers / clickers"),
        Column("from_video_share", _RATE, "entered_from_video / entered_users"),
        Column("live_name", "String", "Name of the room by labels, else its id"),
        Column("creator_name", "String", "Name of the host by labels, else its id"),
        _ROOM_FINAL,
    ),
    sql=_SESSIONS_SQL,
)  # fmt: skip

_MINUTES: Final = {column.name: column for column in LIVE_SESSION_MINUTES.columns}

LIVE_SESSION_MINUTES_VIEW: Final = View(
    "live_session_minutes",
    "Live rooms by minute: each with an event or with somebody present",
    LIVE_SESSION_MINUTES,
    (
        *(column for column in LIVE_SESSION_MINUTES.columns if not column.name.startswith("watching_")
          and column.name != "is_final"),
        Column("watching", COUNT, "Users with a report in the 90 s before the minute's end"),
        _NET,
        _MINUTES["is_final"],
    ),
    computed={
        "watching": f"watching_{STEP_MS // 1000 * STEPS}",
        "gmv_net_minor": "gmv_minor - gmv_refunded_minor",
    },
    where="events > 0 OR viewers > 0",
)  # fmt: skip

_SOURCES_SQL: Final = f"""
SELECT live_id, source, entered_users, entered_from_video,
    entered_users / sum(entered_users) OVER (PARTITION BY live_id) AS share, is_final
FROM
(
    SELECT r.live_id AS live_id, r.source AS source,
            {_sums(SOURCE_MEASURES)},
            min(r.is_final) AS is_final
    FROM {{database}}.live_session_sources_rows AS r FINAL GROUP BY r.live_id, r.source
)
WHERE entered_users > 0
"""  # noqa: S608  # words of ours

LIVE_SESSION_SOURCES_VIEW: Final = View(
    "live_session_sources",
    "Where the users of live rooms came from",
    LIVE_SESSION_SOURCES,
    (
        LIVE_ID,
        Column("source", DIM, "Channel of the user's entry: feed, search, follow, …; empty when the event names none"),
        *figures(SOURCE_MEASURES),
        Column("share", "Float64", "entered_users over those of the room"),
        _ROOM_FINAL,
    ),
    sql=_SOURCES_SQL,
)

_PRODUCTS_SQL: Final = f"""
SELECT p.live_id AS live_id, p.product_id AS product_id,
    {", ".join(f"p.{x.name} AS {x.name}" for x in PRODUCT_MEASURES)},
    p.gmv_minor - p.gmv_refunded_minor AS gmv_net_minor, p.buyers / nullIf(p.clickers, 0) AS order_rate,
    {_name("product", "p.product_id")} AS product_name, p.is_final AS is_final
FROM
(
    SELECT r.live_id AS live_id, r.product_id AS product_id,
            {_sums(PRODUCT_MEASURES)},
            min(r.is_final) AS is_final
    FROM {{database}}.live_session_products_rows AS r FINAL GROUP BY r.live_id, r.product_id
) AS p
{_label("product", "p.product_id")}
"""  # noqa: S608  # words of ours

LIVE_PRODUCTS_VIEW: Final = View(
    "live_products",
    "Products of live rooms: clicks, orders and GMV of each",
    LIVE_SESSION_PRODUCTS,
    (
        LIVE_ID,
        Column("product_id", "String", "Product"),
        *figures(PRODUCT_MEASURES),
        _NET,
        Column("order_rate", _RATE, "buyers / clickers"),
        Column("product_name", "String", "Name of the product by labels, else its id"),
        _ROOM_FINAL,
    ),
    sql=_PRODUCTS_SQL,
)

SESSION_VIEWS: Final = (
    LIVE_SESSIONS_VIEW,
    LIVE_SESSION_MINUTES_VIEW,
    LIVE_SESSION_SOURCES_VIEW,
    LIVE_PRODUCTS_VIEW,
    View(LABELS.view, "Names that people know opaque ids by", LABELS, LABELS.columns, where="name != ''"),
)
