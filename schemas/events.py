"""The event contract: topics, fields, limits, and the columns of a frame of decoded events.

A *frame* is a Polars DataFrame of valid events; each column below is one field of the contract in the type that all
kernels share. Times are epoch milliseconds (Int64, UTC), money is minor units (Int64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

TOPICS: Final = ("view", "like", "gift", "order", "engage", "ad")
"""Topic names; the index of a name is the event's `kind` in a frame."""

CORE_TOPICS: Final = TOPICS[:4]
KIND: Final[dict[str, int]] = {name: index for index, name in enumerate(TOPICS)}
VIEW, LIKE, GIFT, ORDER, ENGAGE, AD = range(6)

ORDER_STATUSES: Final = ("created", "paid", "cancelled", "refunded", "redeemed")
ENGAGE_ACTIONS: Final = (
    "impression", "live_exposure", "product_click", "comment", "share", "follow", "unfollow", "join_group",
    "report", "block", "signup", "push_open", "live_start", "live_end",
)  # fmt: skip
AD_ACTIONS: Final = ("impression", "click", "conversion")

ALWAYS: Final[dict[str, pl.DataType]] = {
    "kind": pl.UInt8(),  # index into TOPICS
    "partition": pl.Int32(),  # Kafka partition, or the file's number in a backfill
    "offset": pl.Int64(),  # Kafka offset, or the line's number (from 0) in a backfill
    "event_time": pl.Int64(),  # epoch ms
    "ingest_time": pl.Int64(),  # epoch ms
    "user_hash": pl.UInt64(),  # xxh3-like stable 64-bit hash of user_id (schemas.hashing)
    "id_hash": pl.UInt64(),  # stable 64-bit hash of (user_id, event_id): what duplicates are told by
}
"""Columns that every frame has."""

OPTIONAL: Final[dict[str, pl.DataType]] = {
    "event_id": pl.String(),
    "user_id": pl.String(),
    "region": pl.String(),
    "tz": pl.String(),  # null: the platform's zone
    "platform": pl.String(),
    "channel": pl.String(),
    "experiments": pl.String(),  # the object as JSON text
    "surface": pl.String(),  # view only: video | live
    "video_id": pl.String(),
    "live_id": pl.String(),
    "creator_id": pl.String(),
    "category": pl.String(),
    "tags": pl.List(pl.String()),
    "duration_ms": pl.Int64(),
    "watch_ms": pl.Int64(),
    "continued": pl.Boolean(),  # null: false
    "from_video_id": pl.String(),
    "gift_id": pl.String(),
    "quantity": pl.Int64(),
    "amount_minor": pl.Int64(),
    "currency": pl.String(),  # null: the platform's currency
    "order_id": pl.String(),
    "status": pl.String(),  # order only
    "product_id": pl.String(),
    "action": pl.String(),  # engage and ad
    "ad_id": pl.String(),
    "campaign_id": pl.String(),
    "cost_minor": pl.Int64(),
    "value_minor": pl.Int64(),
    "v": pl.Int64(),
}
"""Columns that a frame has when a consumer of it asked for them; null where a topic has no such field."""

COLUMNS: Final[dict[str, pl.DataType]] = {**ALWAYS, **OPTIONAL}

DIMENSIONS: Final = ("surface", "category", "region", "platform", "channel")
"""Grouping sets of `active_users` and `active_hours` beside `all`, in the order of TABLES.md."""

ALL: Final = "all"
OTHER: Final = "__other__"
"""The value that the tail of a dimension over its cap folds into."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a valid event (EVENTS.md). Times in epoch ms or ms."""

    min_event_time: int = 1_104_537_600_000  # 2005-01-01T00:00:00Z
    max_future_ms: int = 10 * 60_000
    max_message_bytes: int = 1_000_000
    max_id_bytes: int = 64  # event_id and user_id
    max_other_id_bytes: int = 1_024  # of a video, a room, a product: real ones are titles or addresses
    max_text_bytes: int = 256  # a dimension's value or a tag
    max_tags: int = 20
    max_watch_ms: int = 86_400_000
    max_count: int = 1_000_000_000
    max_amount_minor: int = 1_000_000_000_000  # 9 million such events fit into an Int64 sum


def frame_schema(wanted: frozenset[str]) -> dict[str, pl.DataType]:
    """The schema of a frame that carries `wanted` optional columns, in the contract's order."""
    unknown = wanted - COLUMNS.keys()
    if unknown:
        raise ValueError(f"no such event columns: {sorted(unknown)}")
    return {name: dtype for name, dtype in COLUMNS.items() if name in ALWAYS or name in wanted}
