"""What the engine must find of live rooms: worked out from the generator's events by plain group-bys, not by kernels.

Definitions: `schemas.sessions`. Only names and lengths of time are shared with the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import polars as pl

from flows.simulate_world import CATEGORIES, CHANNELS, MINUTE_MS, Rooms, product_number
from schemas.events import ENGAGE, ENGAGE_ACTIONS, GIFT, LIKE, ORDER, ORDER_STATUSES, VIEW
from schemas.sessions import MEASURES, STEP_MS, WATCHING_MS

_NAMES: Final = [measure.name for measure in MEASURES]
_KIND, _ROOM, _USER, _TIME = pl.col("kind"), pl.col("room"), pl.col("user"), pl.col("time")


def _acts(action: str) -> pl.Expr:
    return (_KIND == ENGAGE) & (pl.col("action") == ENGAGE_ACTIONS.index(action))


def _order(status: str) -> pl.Expr:
    return (_KIND == ORDER) & (pl.col("action") == ORDER_STATUSES.index(status))


_IN_VIEW: Final = _KIND == VIEW
_ENTRY: Final = _IN_VIEW & ~pl.col("continued")


def _figures(events: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Room, time, name and amount of all that adds up."""

    def part(
        name: str, which: pl.Expr, amount: pl.Expr | int = 1, *, first_of: list[str] | None = None
    ) -> pl.DataFrame:
        chosen = events.filter(which)
        if first_of is not None:
            chosen = chosen.sort("time", maintain_order=True).unique(["room", *first_of], keep="first")
        value = pl.lit(amount) if isinstance(amount, int) else amount
        return chosen.select(_ROOM, _TIME, pl.lit(name).alias("name"), value.cast(pl.Int64).alias("amount"))

    user, order, money = ["user"], ["user", "item"], pl.col("amount")
    yield part("events", pl.lit(value=True))
    yield part("views", _ENTRY)
    yield part("watch_ms", _IN_VIEW, pl.col("watch"))
    yield part("entered_users", _ENTRY, first_of=user)
    yield part("entered_from_video", _ENTRY, first_of=user)  # every entry of a simulation comes from a video
    yield part("likes", _KIND == LIKE)
    yield part("comments", _acts("comment"))
    yield part("shares", _acts("share"))
    for name, users, action in (
        ("exposures", "exposed_users", "live_exposure"),
        ("follows", "followers", "follow"),
        ("product_clicks", "clickers", "product_click"),
    ):
        yield part(name, _acts(action))
        yield part(users, _acts(action), first_of=user)
    yield part("gifts", _KIND == GIFT, pl.col("quantity"))
    yield part("gift_amount_minor", _KIND == GIFT, money)
    yield part("gifters", _KIND == GIFT, first_of=user)
    yield part("buyers", _order("paid"), first_of=user)
    for status, orders, total in (
        ("created", "orders_created", "gmv_created_minor"),
        ("paid", "orders", "gmv_minor"),
        ("refunded", "orders_refunded", "gmv_refunded_minor"),
    ):
        yield part(orders, _order(status), first_of=order)
        yield part(total, _order(status), money)


def _wide(figures: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """A column for each measure."""
    sums = [pl.col("amount").filter(pl.col("name") == name).sum().alias(name) for name in _NAMES]
    return figures.group_by(keys).agg(sums)


def _steps(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Room, step and user of everybody present, and of everybody watching at the end of a step."""
    end = _TIME + pl.col("watch")
    last = pl.max_horizontal(_TIME, end - 1) // STEP_MS
    reports = events.filter(_IN_VIEW)
    present = reports.select(_ROOM, _USER, pl.int_ranges(_TIME // STEP_MS, last + 1).alias("step"))
    after = pl.int_ranges(end // STEP_MS, end // STEP_MS + WATCHING_MS // STEP_MS)
    watching = reports.select(_ROOM, _USER, after.alias("step"))
    return present.explode("step").unique(), watching.explode("step").unique()


def _at_once(steps: pl.DataFrame) -> pl.DataFrame:
    """Room, step and the number of users."""
    return steps.group_by("room", "step").agg(pl.len().cast(pl.Int64).alias("users"))


def _most(steps: pl.DataFrame, name: str) -> pl.DataFrame:
    return _at_once(steps).group_by("room").agg(pl.col("users").max().alias(name))


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.format("l{}", _ROOM).alias("live_id")).drop("room")


def room_tables(events: pl.DataFrame, rooms: Rooms) -> dict[str, pl.DataFrame]:
    """`rooms`, `room_minutes`, `room_sources`, `room_products` of a truth, from all accepted events."""
    inside = events.filter(_ROOM >= 0)
    if not inside.height:
        return {}
    figures = pl.concat(_figures(inside))
    present, watching = _steps(inside)
    minute = (_TIME // MINUTE_MS * MINUTE_MS).alias("window_start")
    of_step = (pl.col("step") * STEP_MS // MINUTE_MS * MINUTE_MS).alias("window_start")
    of_minutes = (
        _wide(figures.with_columns(minute), ["room", "window_start"])
        .join(_in_minutes(present, of_step), on=["room", "window_start"], how="full", coalesce=True)
        .join(_at_ends(watching), on=["room", "window_start"], how="left")
        .fill_null(0)
    )
    started = inside.filter(_acts("live_start")).group_by("room").agg(_TIME.min().alias("started_at"))
    ended = inside.filter(_acts("live_end")).group_by("room").agg(_TIME.max().alias("ended_at"))
    facts = pl.DataFrame({
        "room": range(len(rooms.creator)),
        "creator_id": [f"c{creator}" for creator in rooms.creator],
        "category": [CATEGORIES[category] for category in rooms.category],
    }, schema_overrides={"room": inside.schema["room"]})  # fmt: skip
    of_rooms = _wide(figures, ["room"])
    for part in (_most(present, "pcu"), _most(watching, "watching_peak"), started, ended, facts):
        of_rooms = of_rooms.join(part, on="room", how="left")
    entries = inside.filter(_ENTRY).sort("time", maintain_order=True).unique(["room", "user"], keep="first")
    of_sources = entries.group_by("room", "channel").agg(pl.len().cast(pl.Int64).alias("entered_users"))
    names = pl.Series("source", [CHANNELS[code] for code in of_sources["channel"].to_list()], dtype=pl.String)
    return {
        "rooms": _named(of_rooms.with_columns(pl.col("pcu", "watching_peak").fill_null(0))),
        "room_minutes": _named(of_minutes),
        "room_sources": _named(of_sources.with_columns(names).drop("channel")),
        "room_products": _named(_of_products(inside)),
    }


def _of_products(events: pl.DataFrame) -> pl.DataFrame:
    """What is clicked and bought of each product in each room."""
    product = product_number(_ROOM, pl.col("item"))
    clicks, paid = _acts("product_click"), _order("paid")
    return (
        events.filter(clicks | paid)
        .group_by(_ROOM, pl.format("p{}", product).alias("product_id"))
        .agg(
            clicks.sum().cast(pl.Int64).alias("product_clicks"),
            _USER.filter(clicks).n_unique().cast(pl.Int64).alias("clickers"),
            pl.col("item").filter(paid).n_unique().cast(pl.Int64).alias("orders"),
            _USER.filter(paid).n_unique().cast(pl.Int64).alias("buyers"),
            pl.col("amount").filter(paid).cast(pl.Int64).sum().alias("gmv_minor"),
        )
    )


def _in_minutes(present: pl.DataFrame, minute: pl.Expr) -> pl.DataFrame:
    """Users present in a minute, and most of them at once."""
    viewers = present.with_columns(minute).group_by("room", "window_start").agg(_USER.n_unique().alias("viewers"))
    most = (
        _at_once(present).with_columns(minute).group_by("room", "window_start").agg(pl.col("users").max().alias("pcu"))
    )
    return viewers.with_columns(pl.col("viewers").cast(pl.Int64)).join(most, on=["room", "window_start"])


def _at_ends(watching: pl.DataFrame) -> pl.DataFrame:
    """Users watching at the end of each minute."""
    per_minute = MINUTE_MS // STEP_MS
    ends = _at_once(watching).filter(pl.col("step") % per_minute == per_minute - 1)
    start = (pl.col("step") // per_minute * MINUTE_MS).alias("window_start")
    return ends.select(_ROOM, start, pl.col("users").alias("watching"))
