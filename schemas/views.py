"""The public SQL surface (TABLES.md): what people, boards and alert rules query, as typed declarations.

A view hides versions and `FINAL` and adds what changes by time alone. Its columns are those of the table behind it
unless it says otherwise.
"""

from __future__ import annotations

from typing import Final

from schemas import tables
from schemas.declared import Column, View, view_of
from schemas.session_views import SESSION_VIEWS

__all__ = ["VIEWS", "View"]


_PROFILE_SQL: Final = """
WITH
    kept AS
    (
        SELECT basis, min(date) AS first, max(date) AS last
        FROM {database}.active_hours_rows FINAL WHERE is_final = 1 GROUP BY basis
    ),
    weekdays AS
    (
        SELECT basis, first, last, arrayJoin(range(1, 8)) AS weekday,
            arrayCount(d -> toDayOfWeek(first + d) = weekday, range(1, toUInt32(greatest(last - first, 1)))) AS days
        FROM kept
    ),
    cells AS
    (
        SELECT h.basis AS basis, h.weekday AS weekday, h.hour AS hour, h.dim AS dim, h.value AS value,
            sum(h.users) / any(w.days) AS users_per_day, sum(h.events) / any(w.days) AS events_per_day,
            any(w.days) AS days
        FROM (SELECT * FROM {database}.active_hours_rows FINAL WHERE is_final = 1) AS h
        INNER JOIN weekdays AS w ON h.basis = w.basis AND h.weekday = w.weekday
        WHERE h.date > w.first AND h.date < w.last
        GROUP BY basis, weekday, hour, dim, value
    )
SELECT basis, weekday, hour, dim, value, users_per_day, events_per_day,
    users_per_day / sum(users_per_day) OVER week AS share,
    days,
    168 * users_per_day / sum(users_per_day) OVER week AS lift
FROM cells
WINDOW week AS
    (PARTITION BY basis, dim, value ORDER BY weekday, hour ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
"""
"""The window is ordered so that the sum of floats is the same to the last bit at every call."""

_HOURS: Final = {column.name: column for column in tables.ACTIVE_HOURS.columns}

ACTIVE_HOUR_PROFILE: Final = View(
    "active_hour_profile",
    "The week's shape of activity over the complete days kept: what a push slot is chosen by",
    tables.ACTIVE_HOURS,
    (
        *(_HOURS[name] for name in ("basis", "weekday", "hour", "dim", "value")),
        Column("users_per_day", "Float64", "Users of that hour, a day of that weekday"),
        Column("events_per_day", "Float64", "Events of that hour, a day of that weekday"),
        Column("share", "Float64", "users_per_day over its sum in the week's 168 hours"),
        Column(
            "days", "UInt32", "Dates of that weekday between the first and the last (both left out), empty ones too"
        ),
        Column("lift", "Float64", "share times 168: 1 is an average hour"),
    ),
    sql=_PROFILE_SQL,
)

_FUNNEL_MATURE: Final = "toUInt8(mature_at <= (SELECT max(last_event_time) FROM {database}.engine_progress_rows))"
_FUNNEL: Final = {column.name: column for column in tables.FUNNEL.columns}

FUNNEL: Final = View(
    "funnel",
    "Conversion funnels: units that reached each step, by the hour of their first step",
    tables.FUNNEL,
    (
        *(column for column in tables.FUNNEL.columns if column.name not in ("mature_at", "other_currency_events")),
        Column("is_mature", "UInt8", "1 when the last event time seen is at or beyond mature_at: nothing changes more"),
        _FUNNEL["other_currency_events"],
    ),
    computed={"is_mature": _FUNNEL_MATURE},
    where="reached > 0",
)  # fmt: skip

VIEWS: Final = (
    view_of(tables.ACTIVE_USERS, "Live activity: events, users and time watched per minute and hour, by dimension"),
    view_of(tables.ACTIVE_HOURS, "The active-hour distribution: activity per local hour, by dimension"),
    ACTIVE_HOUR_PROFILE,
    view_of(tables.TOPIC_HEAT, "Heat of topics, minute by minute"),
    view_of(tables.TOPIC_LIFECYCLE, "The latest state of each topic: peak, half-life, stage"),
    FUNNEL,
    view_of(tables.EVENTS, "Every accepted event once"),
    view_of(tables.DEAD_LETTERS, "Every rejected message, with what is wrong"),
    view_of(tables.LATE_EVENTS, "Valid events that came too late to count"),
    view_of(tables.LEDGER, "consumed = accepted + duplicate + late + rejected + filtered, to the message"),
    view_of(tables.ENGINE_PROGRESS, "Where the engine stands in event time"),
    view_of(tables.LOSSES, "Messages that Kafka had deleted before they were read, accepted as lost"),
    view_of(tables.ANOMALIES, "What is unusual in the metrics, told once, with a reason: the source of alerts"),
    *SESSION_VIEWS,
)
