"""Tables of live rooms, from the measures that `schemas.sessions` states, and the names of opaque ids."""

from __future__ import annotations

from typing import Final

from schemas.declared import COUNT, DIM, FINAL, MONEY, TIME, WHOLE_SECONDS, Column, Table
from schemas.sessions import MEASURES, PRODUCT_MEASURES, SOURCE_MEASURES, STEP_MS, STEPS, Measure

LIVE_ID: Final = Column("live_id", "String", "Live room: one show")
PART: Final = Column("part_start", WHOLE_SECONDS, "Start of the UTC day that the figures are of")
PCU: Final = Column("pcu", COUNT, "Peak of users present at once (in one step of 10 s)")

WATCHING_PEAK: Final = Column(
    "watching_peak", COUNT, "Greatest of watching_now so far (it counts who left within 90 s)"
)


def figures(measures: tuple[Measure, ...]) -> tuple[Column, ...]:
    """A column for each measure."""
    return tuple(Column(x.name, MONEY if x.is_money else COUNT, x.comment) for x in measures)


LIVE_SESSIONS: Final = Table(
    "live_sessions_rows",
    "Rows of live_sessions: figures of a room by UTC day, which the view adds up",
    (
        LIVE_ID, PART,
        Column("creator_id", "String", "Host; empty when no event of the day names one"),
        Column("category", "String", "Category of the room; empty when no event of the day names one"),
        *figures(MEASURES), PCU, WATCHING_PEAK,
        Column("first_event_at", f"Nullable({TIME})", "Event time of the first event"),
        Column("first_start_at", f"Nullable({TIME})", "Event time of the first live_start"),
        Column("last_start_at", f"Nullable({TIME})", "Event time of the last live_start"),
        Column("last_end_at", f"Nullable({TIME})", "Event time of the last live_end"),
        Column("last_active_at", f"Nullable({TIME})", "Last sign of life: an event, or the end of a report"),
        FINAL,
    ),
    order_by=("live_id", "part_start"),
)  # fmt: skip

LIVE_SESSION_MINUTES: Final = Table(
    "live_session_minutes_rows",
    "Rows of live_session_minutes: figures of a room by minute",
    (
        LIVE_ID,
        Column("window_start", WHOLE_SECONDS, "Start of the minute, inclusive"),
        Column("window_seconds", "UInt32", "Length of the window: 60"),
        *figures(MEASURES),
        Column("viewers", COUNT, "Users present in the minute"),
        PCU,
        Column("acu", "Float64", "Users present, on average over the minute's steps of 10 s"),
        *(
            Column(f"watching_{second}", COUNT, f"Users with a report in the 90 s before second {second} of the minute")
            for second in range(STEP_MS // 1000, STEP_MS // 1000 * STEPS + 1, STEP_MS // 1000)
        ),
        FINAL,
    ),
    order_by=("window_start", "live_id"),  # boards ask for a range of time; watching_now for one minute
)  # fmt: skip

LIVE_SESSION_SOURCES: Final = Table(
    "live_session_sources_rows",
    "Rows of live_session_sources: where the users of a room came from, by UTC day",
    (
        LIVE_ID, PART,
        Column("source", DIM, "Channel of the user's entry: feed, search, follow, …; empty when the event names none"),
        *figures(SOURCE_MEASURES),
        FINAL,
    ),
    order_by=("live_id", "part_start", "source"),
)  # fmt: skip

LIVE_SESSION_PRODUCTS: Final = Table(
    "live_session_products_rows",
    "Rows of live_products: figures of a product in a room by UTC day",
    (LIVE_ID, PART, Column("product_id", "String", "Product"), *figures(PRODUCT_MEASURES), FINAL),
    order_by=("live_id", "part_start", "product_id"),
)

LABELS: Final = Table(
    "labels_rows",
    "Rows of labels: names that people know opaque ids by",
    (
        Column("kind", DIM, "What the id is of: live, creator, product, video, …"),
        Column("id", "String", "The id, as events carry it"),
        Column("name", "String", "Its name"),  # empty: taken away by a tombstone; the view leaves it out
    ),
    order_by=("kind", "id"),
    versioned=False,
)

SESSION_TABLES: Final = (
    LIVE_SESSIONS,
    LIVE_SESSION_MINUTES,
    LIVE_SESSION_SOURCES,
    LIVE_SESSION_PRODUCTS,
    LABELS,
)
