"""Tables of the store, stated once: DDL, comments, checks of rows and documents derive from these declarations.

A table `x_rows` is the engine's own; people ask the view `x` (`schemas.views`), which hides versions and `FINAL`. Rows
are absolute upserts: of rows with equal `order_by`, the greatest `version` stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from schemas.declared import (
    COUNT,
    COUNTS,
    DIM,
    FINAL,
    MONEY,
    TIME,
    UNPACKED,
    VERSION,
    WHOLE_SECONDS,
    WRITTEN_AT,
    Column,
    Table,
    identifier,
)
from schemas.events import OPTIONAL
from schemas.session_tables import SESSION_TABLES

__all__ = ["TABLES", "TIME", "VERSION", "WHOLE_SECONDS", "WRITTEN_AT", "Column", "Table", "identifier", "table_of"]

_DIM: Final = Column("dim", DIM, "Which dimension value is one of; all: the whole, with an empty value")
_VALUE: Final = Column("value", "String", "The dimension's value; __other__ holds the tail beyond the cap")
_EVENTS: Final = Column("events", COUNT, "Accepted events", COUNTS)
_USERS: Final = Column("users", COUNT, "Users, exactly distinct", COUNTS)
_WATCH: Final = Column("watch_ms", COUNT, "Time watched, in ms")
_TOPIC: Final = Column("topic", DIM, "Topic of the message (view, like, gift, order, engage, ad)")
_PARTITION: Final = Column("partition", "Int32", "Partition of the topic; in a backfill the file's number")
_OFFSET: Final = Column("offset", "Int64", "Offset in the partition; in a backfill the line's number from 0")
_INGEST: Final = Column("ingest_time", TIME, "When the engine read the message")

ACTIVE_USERS: Final = Table(
    "active_users_rows",
    "Rows of active_users: live activity per window and dimension",
    (
        Column("window_start", WHOLE_SECONDS, "Start of the window, inclusive"),
        Column("window_seconds", "UInt32", "Length of the window: 60 or 3600"),
        _DIM, _VALUE, _EVENTS, _USERS, _WATCH, FINAL,
    ),
    order_by=("window_seconds", "dim", "window_start", "value"),
)  # fmt: skip

ACTIVE_HOURS: Final = Table(
    "active_hours_rows",
    "Rows of active_hours: activity per local hour",
    (
        Column("basis", DIM, "Whose clock: platform (the platform's zone) or user (each user's own)"),
        Column("date", "Date", "Local date"),
        Column("weekday", "UInt8", "Day of the week of date, 1 = Monday"),
        Column("hour", "UInt8", "Local hour, 0 to 23"),
        _DIM, _VALUE, _EVENTS, _USERS, _WATCH, FINAL,
    ),
    order_by=("basis", "dim", "date", "hour", "value"),
)  # fmt: skip

TOPIC_HEAT: Final = Table(
    "topic_heat_rows",
    "Rows of topic_heat: heat of topics, minute by minute",
    (
        Column("tick", WHOLE_SECONDS, "End of the minute: the row covers [tick - 60 s, tick), heat is taken at tick"),
        Column("topic", "String", "The tag, as events carry it"),
        Column("heat", "Float64", "Decayed sum of weights at tick", UNPACKED),
        Column("rank", "Nullable(UInt32)", "1 = hottest at that tick; NULL beyond 1,000 and on early rows"),
        _EVENTS, _USERS,
        Column("growth", "Nullable(Float64)", "ln(rate of 10 min / rate of 60 min); NULL without history"),
        Column("stage", DIM, "emerging, growing, peak, declining, tail, revival or unknown"),
        FINAL,
    ),
    order_by=("tick", "topic"),
)  # fmt: skip

TOPIC_LIFECYCLE: Final = Table(
    "topic_lifecycle_rows",
    "Rows of topic_lifecycle: the latest state of each topic",
    (
        Column("topic", "String", "The tag, as events carry it"),
        Column("first_seen", TIME, "Event time of the first event"),
        Column("peak_time", f"Nullable({TIME})", "When the event rate was greatest; NULL before the first 10-min tick"),
        Column("peak_heat", "Nullable(Float64)", "Greatest heat at any minute's end; NULL before the first one"),
        Column("peak_rate", "Nullable(Float64)", "That rate, in events a minute; NULL before the first 10-min tick"),
        Column(
            "half_life_minutes",
            "Nullable(Float64)",
            "Time from the peak until the rate had halved; NULL while it has not",
        ),
        Column("half_life_low", "Nullable(Float64)", "Lower end of its 95 % interval, in minutes"),
        Column("half_life_high", "Nullable(Float64)", "Upper end of its 95 % interval, in minutes"),
        Column(
            "model", "Nullable(String)", "The decay that fits better by AIC: exponential or power; NULL without a fit"
        ),
        Column("fit_r2", "Nullable(Float64)", "Coefficient of determination of that fit"),
        Column("stage", DIM, "emerging, growing, peak, declining, tail, revival or unknown"),
        Column("time_to_peak_minutes", "Nullable(Float64)", "From first_seen to peak_time"),
        Column("response_deadline", f"Nullable({TIME})", "When heat falls under half of its peak"),
    ),
    order_by=("topic",),
)

FUNNEL: Final = Table(
    "funnel_rows",
    "Rows of funnel: units that reached each step",
    (
        Column("funnel", DIM, "Name of the funnel's declaration"),
        Column("unit", DIM, "What is counted: user, or user_live (a user in a room)"),
        Column("bucket_start", WHOLE_SECONDS, "Hour (UTC) of the unit's first step"),
        _DIM, _VALUE,
        Column("step", "UInt8", "Step, from 1"),
        Column("step_name", DIM, "Name of the step"),
        Column("reached", COUNT, "Units that reached the step in order within the window"),
        Column("median_seconds", "Nullable(Float64)", "Exact median of the first time at the step, from step 1"),
        Column("amount_minor", MONEY, "Money of the step's events, in minor units of the platform's currency"),
        Column("other_currency_events", COUNT, "Qualifying events in other currencies, whose money is not summed"),
        Column("mature_at", TIME, "End of the bucket plus the funnel's windows: nothing changes after it"),
    ),
    order_by=("funnel", "unit", "dim", "bucket_start", "value", "step"),
)  # fmt: skip

ENGINE_PROGRESS: Final = Table(
    "engine_progress_rows",
    "Rows of engine_progress: where the engine stands in event time",
    (
        Column("name", DIM, "What reports: engine"),
        Column("last_event_time", TIME, "Greatest event time seen"),
        Column("watermark", TIME, "Event time up to which windows are closed"),
        Column("as_of", TIME, "When it was reported"),
    ),
    order_by=("name",),
)

LEDGER: Final = Table(
    "ingest_ledger_rows",
    "Rows of ingest_ledger: what became of every message",
    (
        _TOPIC, _PARTITION,
        Column("minute", WHOLE_SECONDS, "Minute of ingestion"),
        Column("consumed", COUNT, "Messages read, counted at the source"),
        Column("accepted", COUNT, "Messages that count"),
        Column("duplicate", COUNT, "Messages whose event_id was there before"),
        Column("late", COUNT, "Messages behind the time limit: late_events"),
        Column("rejected", COUNT, "Messages that break the contract: dead_letters"),
        Column("filtered", COUNT, "Valid messages that a setting leaves out"),
    ),
    order_by=("topic", "partition", "minute"),
)  # fmt: skip

DEAD_LETTERS: Final = Table(
    "dead_letters_rows",
    "Rows of dead_letters: rejected messages",
    (
        _TOPIC, _PARTITION, _OFFSET,
        Column("reason", DIM, "Stable code of what is wrong"),
        Column("detail", "String", "What is wrong, in words"),
        Column("raw", "String", "The message, byte by byte"),
        _INGEST,
    ),
    order_by=("topic", "partition", "offset"),
    versioned=False,
    retained_by="ingest_time",
)  # fmt: skip

LATE_EVENTS: Final = Table(
    "late_events_rows",
    "Rows of late_events: valid events that came too late to count",
    (
        _TOPIC, _PARTITION, _OFFSET,
        Column("event_id", "String", "Id of the event"),
        Column("user_id", "String", "Its user"),
        Column("event_time", TIME, "When it happened"),
        _INGEST,
        Column("max_event_time", TIME, "Greatest event time at lower offsets of its partition"),
        Column("cause", DIM, "bound: behind the out-of-orderness; idle: behind what idleness had closed"),
        Column("raw", "String", "The message, byte by byte"),
    ),
    order_by=("topic", "partition", "offset"),
    versioned=False,
    retained_by="ingest_time",
)  # fmt: skip

ANOMALIES: Final = Table(
    "anomalies_rows",
    "Rows of anomalies: what is unusual in the metrics",
    (
        Column("window_start", WHOLE_SECONDS, "Start of the window that told it"),
        Column("series", DIM, "View and measure, such as active_users.events; .share: its mix over a dimension"),
        _DIM, _VALUE,
        Column("actual", "Float64", "What the window had; of a mix: distance from the expected shares, 0 to 1"),
        Column("expected", "Float64", "What that hour of the week has"),
        Column("low", "Float64", "Lower end of what is usual (99.7 %)"),
        Column("high", "Float64", "Upper end of what is usual (99.7 %)"),
        Column("score", "Float64", "0 to 1; 0.5 is the limit of an alarm"),
        Column("kind", DIM, "spike, drop, zero, missing (no data at all), shift (it lasts) or mix"),
        Column("severity", DIM, "critical, warning or info"),
        Column("state", DIM, "open, resolved, or merged: another anomaly tells the same"),
        Column("explanation", "String", "What happened and what moved it, in words"),
        Column("window_seconds", "UInt32", "Length of the window"),
        Column("direction", DIM, "up, down or mix"),
        Column("route", DIM, "business: for operators; pipeline: a fault of ours explains it, for SRE"),
        Column("detected_at", WHOLE_SECONDS, "End of the window that told it; of a provisional one its start"),
        Column("resolved_at", "Nullable(DateTime('UTC'))", "End of the window that ended it; NULL while it stands"),
        Column("is_provisional", "UInt8", "1 while the window is open: it is beyond the bound already, and only grows"),
    ),
    order_by=("series", "dim", "value", "window_start"),
)  # fmt: skip

LOSSES: Final = Table(
    "accepted_losses_rows",
    "Rows of accepted_losses: messages that Kafka had deleted before they were read",
    (
        _TOPIC, _PARTITION,
        Column("wanted_offset", "Int64", "Offset to resume from"),
        Column("found_offset", "Int64", "First offset that was still there"),
        Column("recorded_at", TIME, "When the loss was accepted"),
    ),
    order_by=("topic", "partition", "wanted_offset"),
    versioned=False,
    retained_by="recorded_at",
)  # fmt: skip


def _event_type(name: str) -> str:
    """The column type of an optional field of `schemas.events`."""
    plain = {pl.String(): "String", pl.Int64(): "Int64", pl.Boolean(): "Bool"}
    dtype = OPTIONAL[name]
    return "Array(String)" if isinstance(dtype, pl.List) else f"Nullable({plain[dtype]})"


_EVENT_FIELDS: Final[Mapping[str, str]] = {
    "region": "Where the user is, ISO 3166-2",
    "tz": "IANA zone of the user; NULL: the platform's",
    "platform": "Where it happened",
    "channel": "Traffic source that brought the user here",
    "experiments": "Experiment to variant, as JSON text",
    "surface": "video or live (views)",
    "video_id": "Video",
    "live_id": "Live room",
    "creator_id": "Creator of the video or host of the room",
    "category": "Category of the content or product",
    "tags": "Topics of the content",
    "duration_ms": "Length of the video",
    "watch_ms": "Time watched since the last report of the same stay",
    "continued": "true: a further report of the same stay; NULL: false",
    "from_video_id": "The video that led to the room",
    "gift_id": "Gift",
    "quantity": "How many",
    "amount_minor": "Total money of the event, in minor units of currency",
    "currency": "ISO 4217; NULL: the platform's",
    "order_id": "Order",
    "status": "State that the order came into",
    "product_id": "Product",
    "action": "What was done (engage and ad)",
    "ad_id": "Ad",
    "campaign_id": "Campaign of the ad",
    "cost_minor": "Cost, in minor units of currency",
    "value_minor": "Value of the conversion, in minor units of currency",
    "v": "Version of the event contract; NULL: 1",
}
"""Comments of the fields that an event may lack. `tags` alone is empty instead of NULL."""

EVENTS: Final = Table(
    "events_rows",
    "Rows of events: the archive of accepted events",
    (
        Column("event_id", "String", "Id of the event"),
        Column("event_time", TIME, "When it happened"),
        Column("user_id", "String", "Its user"),
        *(Column(name, _event_type(name), comment) for name, comment in _EVENT_FIELDS.items()),
        _TOPIC, _INGEST, _PARTITION, _OFFSET,
    ),
    order_by=("topic", "partition", "offset"),
    versioned=False,
    retained_by="ingest_time",
    indices=("event_time",),
)  # fmt: skip

TABLES: Final = (
    ACTIVE_USERS, ACTIVE_HOURS, TOPIC_HEAT, TOPIC_LIFECYCLE, FUNNEL, EVENTS, DEAD_LETTERS, LATE_EVENTS, LEDGER,
    ENGINE_PROGRESS, LOSSES, *SESSION_TABLES, ANOMALIES,
)  # fmt: skip

_BY_NAME: Final = {name: table for table in TABLES for name in (table.name, table.view)}


def table_of(name: str) -> Table:
    """The table that rows of `name` go to: its own name or its view's. Errors: `KeyError` with the names there are."""
    if name not in _BY_NAME:
        raise KeyError(f"no table {name!r}; there are {', '.join(table.view for table in TABLES)}")
    return _BY_NAME[name]
