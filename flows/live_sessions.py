"""The family `sessions`: live rooms, minute by minute (definitions: `schemas.sessions`).

A shard turns the events of its users into sums per room and minute, per room and source, per room and product
(`flows.session_tally`). `flows.session_merge` adds the shards' sums up and gives out rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import polars as pl

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
    Memories,
    Out,
    tally,
)
from flows.session_tally import GIFT as GIFT_EVENT
from schemas.events import AD, ALWAYS, ENGAGE, GIFT, ORDER, ORDER_STATUSES, VIEW
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
    "key": pl.Int64(),  # hash of room, start and item; NEWS
    "room": pl.Int64(),  # hash of live_id
    "start": pl.Int64(),  # of the minute or day, ms
    "live_id": pl.String(),
    "item": pl.String(),  # null: none, or this only takes back what an earlier increment gave
}
"""Columns of the increments before `sums`, an Array of Int64."""

NEWS: Final = 0
"""The key of an increment that tells of a room (and day) and adds nothing: `item` is creator, BETWEEN and category."""
BETWEEN: Final = "\0"
NO_SUMS: Final = np.zeros((1, ROOM_WIDTH), dtype=np.int64)
NO_SUMS[0, [FIRST_EVENT, FIRST_START]] = NEVER
NO_SUMS[0, [LAST_START, LAST_END, LAST_ACTIVE]] = -NEVER

_ACTIONS: Final = {
    "live_exposure": EXPOSURE, "product_click": CLICK, "comment": COMMENT, "share": SHARE, "follow": FOLLOW,
    "unfollow": UNFOLLOW, "live_start": START, "live_end": END,
}  # fmt: skip
_STATUSES: Final = {**dict.fromkeys(ORDER_STATUSES, SETTLED), "created": CREATED, "paid": PAID, "refunded": REFUNDED}
_ROWS: Final = 1 << 10  # of an `Out`


_COLUMNS: Final = (
    "kind", "event_time", "user_hash", "live_id", "surface", "continued", "watch_ms", "from_video_id", "channel",
    "action", "status", "order_id", "product_id", "quantity", "amount_minor", "currency", "creator_id", "category",
)  # fmt: skip


class SessionShard:
    """Rooms as one user shard sees them (a `flows.kernel.ShardKernel`)."""

    name = ROOMS
    columns = frozenset(_COLUMNS) - ALWAYS.keys()

    def __init__(
        self,
        *,
        currency: str = "CNY",
        memory_ms: int = 86_400_000,
        order_memory_ms: int = 864_000_000,
        retain_ms: int = 3_600_000,
    ) -> None:
        self._state = Memory(Memories(memory_ms, order_memory_ms), retain_ms)
        self._outs = {
            ROOMS: new_out(ROOM_WIDTH, _ROWS),
            SOURCES: new_out(len(SOURCE_MEASURES), _ROWS),
            PRODUCTS: new_out(len(PRODUCT_MEASURES), _ROWS),
        }
        self._told = RecentKeys(12)
        self._inside, self._read = _inside(), _read(currency)

    def fold(self, frame: pl.DataFrame, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """See `flows.kernel.ShardKernel`. Increments of each merge kernel: `INCREMENTS` and `sums`."""
        found: dict[str, list[pl.DataFrame]] = {ROOMS: [], SOURCES: [], PRODUCTS: []}
        # Few calls of Polars, and none of its planner: a call costs as much as a thousand rows.
        inside = pl.DataFrame([frame[name] for name in _COLUMNS]).filter(self._inside)
        if inside.height:
            self._add(inside.select(self._read), found)
        self._state.expire(progress.watermark)
        return {name: pl.concat(frames) for name, frames in found.items() if frames}

    def _add(self, read: pl.DataFrame, found: dict[str, list[pl.DataFrame]]) -> None:
        events = _events(read)
        outs, start = self._outs, 0
        while start < read.height:
            self._state.make_room()
            state, memories = self._state.state, self._state.memories
            start = tally(events, state, outs[ROOMS], outs[SOURCES], outs[PRODUCTS], memories, start)
            self._state.note()
            for name, item in ((ROOMS, None), (SOURCES, "channel"), (PRODUCTS, "product_id")):
                if outs[name].used[0]:
                    found[name].append(_taken(outs[name], read, item))
        news = self._news(read, events)
        if news is not None:
            found[ROOMS].append(news)

    def _news(self, read: pl.DataFrame, events: Events) -> pl.DataFrame | None:
        """Increments of nothing that tell a room's creator and category, where they have not been told lately."""
        facts = read["facts"].to_numpy()
        places = np.flatnonzero((facts != 0) | (events.what == START))
        days, facts = events.time[places] // PART_MS, facts[places]
        new = self._told.unmet((events.room[places].view(np.uint64) ^ facts) + days.astype(np.uint64))
        if not len(new):
            return None
        places = places[new]
        told = read.select("live_id", "creator_id", "category")[places]
        return pl.DataFrame([
            pl.Series("key", np.full(len(places), NEWS)),
            pl.Series("room", events.room[places]),
            pl.Series("start", days[new] * PART_MS),
            told["live_id"],
            (told["creator_id"].fill_null("") + BETWEEN + told["category"].fill_null("")).alias("item"),
            pl.Series("sums", np.repeat(NO_SUMS, len(places), axis=0)),
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


def _inside() -> pl.Expr:
    """Whether an event is in a room."""
    kind = pl.col("kind")
    in_view = (kind != VIEW) | (pl.col("surface") == "live").fill_null(value=False)
    return pl.col("live_id").is_not_null() & (kind != AD) & in_view


def _read(currency: str) -> list[pl.Expr]:
    """What is read of an event in a room."""
    kind = pl.col("kind")
    views = pl.when(pl.col("continued").fill_null(value=False)).then(REPORT).otherwise(ENTRY)
    actions = pl.col("action").replace_strict(_ACTIONS, default=OTHER, return_dtype=pl.Int64)
    statuses = pl.col("status").replace_strict(_STATUSES, default=OTHER, return_dtype=pl.Int64)
    what = (
        pl.when(kind == VIEW).then(views).when(kind == LIKE_KIND).then(LIKE).when(kind == GIFT).then(GIFT_EVENT)
        .when(kind == ENGAGE).then(actions).when(kind == ORDER).then(statuses).otherwise(OTHER)
    )  # fmt: skip
    foreign = pl.col("currency").fill_null(currency) != currency
    creator, category = hash64_expr("creator_id").fill_null(0), hash64_expr("category").fill_null(0)
    return [
        what.cast(pl.Int64).alias("what"),
        hash64_expr("live_id").alias("room"),
        pl.col("user_hash"),
        pl.col("event_time"),
        pl.col("watch_ms", "quantity", "amount_minor").fill_null(0),
        hash64_expr("channel").fill_null(0).alias("source"),
        pl.col("from_video_id").is_not_null().cast(pl.UInt64).alias("led"),
        hash64_expr("order_id").fill_null(0).alias("order"),
        hash64_expr("product_id").fill_null(0).alias("product"),
        foreign.cast(pl.Int64).alias("foreign"),
        pl.col("live_id", "product_id", "creator_id", "category"),
        pl.col("channel").fill_null(""),
        (creator * 3 ^ category).alias("facts"),
    ]


def _events(read: pl.DataFrame) -> Events:
    """The columns of `_read` for compiled code."""
    numbers = {name: read[name].to_numpy() for name in ("what", "event_time", "watch_ms", "quantity", "amount_minor")}
    hashes = {name: read[name].to_numpy() for name in ("room", "user_hash", "source", "led", "order", "product")}
    load = (hashes["source"] & ~np.uint64(1)) | hashes["led"]
    return Events(
        what=numbers["what"], room=hashes["room"].view(np.int64), user=hashes["user_hash"].view(np.int64),
        time=numbers["event_time"], watch=numbers["watch_ms"], load=load.view(np.int64),
        order=hashes["order"].view(np.int64), product=hashes["product"].view(np.int64), quantity=numbers["quantity"],
        amount=numbers["amount_minor"], foreign=read["foreign"].to_numpy(),
    )  # fmt: skip


def _taken(out: Out, read: pl.DataFrame, item: str | None) -> pl.DataFrame:
    """The rows of `out` as increments; it is empty afterwards."""
    count = int(out.used[0])
    named = out.named[:count]
    if item is None:
        names = pl.Series("item", [None], dtype=pl.String).new_from_index(0, count)
    else:
        names = pl.DataFrame([read[item]])[np.maximum(named, 0)].to_series().alias("item")
        if (named < 0).any():
            names = pl.select(pl.when(pl.Series(named >= 0)).then(names)).to_series().alias("item")
    taken = pl.DataFrame([
        pl.Series("key", out.key[:count].copy()),
        pl.Series("room", out.room[:count].copy()),
        pl.Series("start", out.start[:count].copy()),
        pl.DataFrame([read["live_id"]])[out.event[:count]].to_series(),
        names,
        pl.Series("sums", out.sums[:count].copy()),
    ])  # fmt: skip
    out.slots[:] = 0
    out.used[0] = 0
    return taken
