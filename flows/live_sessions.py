"""The family `sessions`: live rooms, minute by minute (definitions: `schemas.sessions`).

A shard turns the events of its users into sums per room and minute, per room and source, per room and product
(`flows.session_tally`). `flows.session_merge` adds the shards' sums up and gives out rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import polars as pl

from flows.funnel_pairs import Int64s
from flows.id_sets import RecentKeys
from flows.kernel import Progress
from flows.session_state import Memory, new_out
from flows.session_tally import (
    CLICK,
    COMMENT,
    CREATED,
    END,
    ENTRY,
    EXPOSURE,
    FOLLOW,
    LIKE,
    OTHER,
    PAID,
    REFUNDED,
    REPORT,
    SETTLED,
    SHARE,
    START,
    UNFOLLOW,
    Events,
    Out,
    tally,
)
from flows.session_tally import GIFT as GIFT_EVENT
from schemas.events import AD, ENGAGE, GIFT, ORDER, ORDER_STATUSES, VIEW
from schemas.events import LIKE as LIKE_KIND
from schemas.hashing import hash64_expr
from schemas.sessions import (
    FIRST_EVENT,
    FIRST_START,
    LAST_ACTIVE,
    LAST_END,
    LAST_START,
    NEVER,
    PART_MS,
    PRODUCT_MEASURES,
    ROOM_WIDTH,
    SOURCE_MEASURES,
)

ROOMS: Final = "sessions"
SOURCES: Final = "session_sources"
PRODUCTS: Final = "session_products"
"""Names of the merge kernels."""

INCREMENTS: Final[dict[str, pl.DataType]] = {
    "key": pl.Int64(),  # hash of room, start and item
    "room": pl.Int64(),  # hash of live_id
    "start": pl.Int64(),  # of the minute or day, ms
    "live_id": pl.String(),
    "item": pl.String(),  # null where this increment only takes back what an earlier one gave
    "creator_id": pl.String(),
    "category": pl.String(),
}
"""Columns of the increments before `sums`, an Array of Int64. `creator_id`, `category`: null unless they are news."""

NEWS: Final = 0
"""The key of an increment that tells of a room (and day) and adds nothing."""
NO_SUMS: Final = np.zeros((1, ROOM_WIDTH), dtype=np.int64)
NO_SUMS[0, [FIRST_EVENT, FIRST_START]] = NEVER
NO_SUMS[0, [LAST_START, LAST_END, LAST_ACTIVE]] = -NEVER

_ACTIONS: Final = {
    "live_exposure": EXPOSURE, "product_click": CLICK, "comment": COMMENT, "share": SHARE, "follow": FOLLOW,
    "unfollow": UNFOLLOW, "live_start": START, "live_end": END,
}  # fmt: skip
_STATUSES: Final = {**dict.fromkeys(ORDER_STATUSES, SETTLED), "created": CREATED, "paid": PAID, "refunded": REFUNDED}
_ROWS: Final = 1 << 10  # of an `Out`


class SessionShard:
    """Rooms as one user shard sees them (a `flows.kernel.ShardKernel`)."""

    name = ROOMS
    columns = frozenset({
        "live_id", "surface", "continued", "watch_ms", "from_video_id", "channel", "action", "status", "order_id",
        "product_id", "quantity", "amount_minor", "currency", "creator_id", "category",
    })  # fmt: skip

    def __init__(self, *, currency: str = "CNY", memory_ms: int = 864_000_000, retain_ms: int = 3_600_000) -> None:
        self._currency, self._memory_ms = currency, memory_ms
        self._state = Memory(memory_ms, retain_ms)
        self._outs = {
            ROOMS: new_out(ROOM_WIDTH, _ROWS),
            SOURCES: new_out(len(SOURCE_MEASURES), _ROWS),
            PRODUCTS: new_out(len(PRODUCT_MEASURES), _ROWS),
        }
        self._told = RecentKeys(12)

    def fold(self, frame: pl.DataFrame, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """See `flows.kernel.ShardKernel`. Increments of each merge kernel: `INCREMENTS` and `sums`."""
        found: dict[str, list[pl.DataFrame]] = {ROOMS: [], SOURCES: [], PRODUCTS: []}
        inside = self._inside(frame)
        if inside.height:
            self._add(inside, found)
        self._state.expire(progress.watermark)
        return {name: pl.concat(frames) for name, frames in found.items() if frames}

    def _inside(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The events of rooms."""
        kinds = frame["kind"].to_numpy()
        inside = frame["live_id"].is_not_null().to_numpy() & (kinds != AD)
        views = kinds == VIEW
        if views.any():
            inside &= ~views | (frame["surface"] == "live").fill_null(value=False).to_numpy()
        return (
            frame
            if inside.all()
            else frame.select(*self.columns, "kind", "event_time", "user_hash")[inside.nonzero()[0]]
        )

    def _add(self, frame: pl.DataFrame, found: dict[str, list[pl.DataFrame]]) -> None:
        events = self._events(frame)
        outs = self._outs
        start = 0
        while start < frame.height:
            self._state.make_room()
            start = tally(events, self._state.state, outs[ROOMS], outs[SOURCES], outs[PRODUCTS], self._memory_ms, start)
            self._state.note()
            for name, column in ((ROOMS, None), (SOURCES, "channel"), (PRODUCTS, "product_id")):
                if outs[name].used[0]:
                    found[name].append(_taken(outs[name], frame, column))
        news = self._news(frame, events)
        if news.height:
            found[ROOMS].append(news)

    def _events(self, frame: pl.DataFrame) -> Events:
        foreign = pl.col("currency").fill_null(self._currency) != self._currency
        read = frame.select(
            hash64_expr("live_id").alias("room"),
            hash64_expr("channel").fill_null(0),
            hash64_expr("order_id").fill_null(0),
            hash64_expr("product_id").fill_null(0),
            pl.col("from_video_id").is_not_null().cast(pl.UInt64).alias("led"),
            pl.col("event_time"),
            pl.col("watch_ms", "quantity", "amount_minor").fill_null(0),
            foreign.cast(pl.Int64).alias("foreign"),
        )
        numbers = {name: read[name].to_numpy() for name in read.columns}
        load = (numbers["channel"] & ~np.uint64(1)) | numbers["led"]
        bits = [numbers[name].view(np.int64) for name in ("room", "order_id", "product_id")]
        return Events(
            what=_what(frame), room=bits[0], user=frame["user_hash"].to_numpy().view(np.int64),
            time=numbers["event_time"], watch=numbers["watch_ms"], load=load.view(np.int64), order=bits[1],
            product=bits[2], quantity=numbers["quantity"], amount=numbers["amount_minor"], foreign=numbers["foreign"],
        )  # fmt: skip

    def _news(self, frame: pl.DataFrame, events: Events) -> pl.DataFrame:
        """Increments of nothing that tell a room's creator and category, where they have not been told lately."""
        described = np.flatnonzero((events.what == ENTRY) | (events.what == REPORT) | (events.what == START))
        if not len(described):
            return pl.DataFrame()
        facts = frame.select("creator_id", "category")
        if len(described) < frame.height:
            facts = facts[described]
        hashed = facts.select(hash64_expr("creator_id").fill_null(0), hash64_expr("category").fill_null(0))
        days = (events.time[described] // PART_MS).astype(np.uint64)
        keys = events.room[described].view(np.uint64) * np.uint64(3) + days
        keys = (keys ^ hashed["creator_id"].to_numpy()) * np.uint64(5) + hashed["category"].to_numpy()
        rows = self._told.unmet(keys)
        if not len(rows):
            return pl.DataFrame()
        told = facts[rows]
        places = described[rows]
        return pl.DataFrame([
            pl.Series("key", np.full(len(rows), NEWS)),
            pl.Series("room", events.room[places]),
            pl.Series("start", events.time[places] // PART_MS * PART_MS),
            frame["live_id"].gather(places),
            pl.Series("item", [None] * len(rows), dtype=pl.String),
            told["creator_id"],
            told["category"],
            pl.Series("sums", np.repeat(NO_SUMS, len(rows), axis=0)),
        ])  # fmt: skip

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`. What was told of rooms is no state: told again, it changes nothing."""
        return self._state.snapshot()

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return self._state.delta()

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        self._told = RecentKeys(12)
        self._state.restore(snapshot, deltas)


def _what(frame: pl.DataFrame) -> Int64s:
    """What each event is to its room, see `flows.session_tally`."""
    kinds = frame["kind"].to_numpy()
    what = np.full(len(kinds), OTHER, dtype=np.int64)
    what[kinds == LIKE_KIND], what[kinds == GIFT], what[kinds == VIEW] = LIKE, GIFT_EVENT, ENTRY
    continued = frame["continued"]
    if continued.null_count() < len(continued):
        what[(kinds == VIEW) & continued.fill_null(value=False).to_numpy()] = REPORT
    for kind, column, codes in ((ENGAGE, "action", _ACTIONS), (ORDER, "status", _STATUSES)):
        places = np.flatnonzero(kinds == kind)
        if len(places):
            texts = frame[column].gather(places)
            what[places] = texts.replace_strict(codes, default=OTHER, return_dtype=pl.Int64).to_numpy()
    return what


def _taken(out: Out, frame: pl.DataFrame, item: str | None) -> pl.DataFrame:
    """The rows of `out` as increments; it is empty afterwards."""
    count = int(out.used[0])
    nothing = pl.Series("item", [None] * count, dtype=pl.String)
    names = nothing
    if item is not None:
        named = pl.Series(out.named[:count])
        names = frame[item].gather(named.replace(-1, None)).fill_null("").alias("item")
        names = pl.select(pl.when(named >= 0).then(names)).to_series().alias("item")
    taken = pl.DataFrame([
        pl.Series("key", out.key[:count].copy()),
        pl.Series("room", out.room[:count].copy()),
        pl.Series("start", out.start[:count].copy()),
        frame["live_id"].gather(out.event[:count]),
        names,
        nothing.alias("creator_id"),
        nothing.alias("category"),
        pl.Series("sums", out.sums[:count].copy()),
    ])  # fmt: skip
    out.slots[:] = 0
    out.used[0] = 0
    return taken
