"""The built-in funnel `video_to_live` worked out from TABLES.md, a chain at a time, in plain Python."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from flows.simulate_world import HOUR_MS, MINUTE_MS
from schemas.events import DIMENSIONS, ENGAGE, ENGAGE_ACTIONS, GIFT, LIKE, ORDER, ORDER_STATUSES, VIEW

ENTER_WITHIN_MS: Final = 30 * MINUTE_MS
REST_WITHIN_MS: Final = 24 * HOUR_MS
_COMMENT = ENGAGE_ACTIONS.index("comment")
_PAID = ORDER_STATUSES.index("paid")

Values = tuple[tuple[str, str], ...]
"""Dimension and value of an event, `("all", "")` first."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One user's way into one room, from its latest video view before."""

    user: int
    bucket: int
    step1: Values
    step2: Values
    reached: tuple[int, ...]
    amounts: Mapping[int, int]


def funnel_rows(frame: pl.DataFrame, names: Mapping[str, tuple[str, ...]]) -> pl.DataFrame:
    """Rows of both units: unit, bucket_start, dim, value, step, reached, amount_minor.

    `frame`: accepted events of the simulation with a code for each dimension; `names`: what the codes stand for.
    """
    units: defaultdict[tuple[str, int, str, str, int], set[tuple[int, int]]] = defaultdict(set)
    money: defaultdict[tuple[str, int, str, str, int], int] = defaultdict(int)
    for number, chain in enumerate(_chains(frame, names)):
        for unit, values, identity in (
            ("user", chain.step1, (chain.user, 0)),
            ("user_live", chain.step2, (chain.user, number)),
        ):
            for dim, value in values:
                for step in chain.reached:
                    key = (unit, chain.bucket, dim, value, step)
                    units[key].add(identity)
                    money[key] += chain.amounts.get(step, 0)
    found = [(*key, len(members), money[key]) for key, members in units.items()]
    schema = {"unit": pl.String, "bucket_start": pl.Int64, "dim": pl.String, "value": pl.String, "step": pl.Int64,
              "reached": pl.Int64, "amount_minor": pl.Int64}  # fmt: skip
    chains = pl.DataFrame(found, schema=schema, orient="row")
    return pl.concat((_first_steps(frame, names), chains)).sort("unit", "bucket_start", "dim", "value", "step")


def _first_steps(frame: pl.DataFrame, names: Mapping[str, tuple[str, ...]]) -> pl.DataFrame:
    """Step 1 of unit `user`: users with a video view in each hour."""
    views = _video_views(frame).with_columns((pl.col("time") // HOUR_MS * HOUR_MS).alias("bucket_start"))
    parts = []
    for dim in ("all", *DIMENSIONS):
        keys = ["bucket_start"] if dim == "all" else ["bucket_start", dim]
        grouped = (
            (views if dim == "all" else views.filter(pl.col(dim) >= 0)).group_by(keys).agg(pl.col("user").n_unique())
        )
        values = ["" if dim == "all" else names[dim][code] for code in (grouped[keys[-1]].to_list())]
        parts.append(grouped.select(
            pl.lit("user").alias("unit"), "bucket_start", pl.lit(dim).alias("dim"),
            pl.Series("value", values, dtype=pl.String),
            pl.lit(1, dtype=pl.Int64).alias("step"), pl.col("user").cast(pl.Int64).alias("reached"),
            pl.lit(0, dtype=pl.Int64).alias("amount_minor"),
        ))  # fmt: skip
    return pl.concat(parts)


def _video_views(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter((pl.col("kind") == VIEW) & (pl.col("room") < 0) & ~pl.col("continued"))


def _chains(frame: pl.DataFrame, names: Mapping[str, tuple[str, ...]]) -> Iterator[Chain]:
    """Every chain that has its step 2, from step 1 of the user within 30 min before."""
    in_room = frame.filter(pl.col("room") >= 0)
    entries = in_room.filter((pl.col("kind") == VIEW) & ~pl.col("continued")).sort("time", maintain_order=True)
    entries = entries.unique(["user", "room"], keep="first", maintain_order=True)
    views = (
        _video_views(frame)
        .filter(pl.col("user").is_in(entries["user"].unique().to_list()))
        .sort("time", maintain_order=True)
    )
    times: defaultdict[int, list[int]] = defaultdict(list)
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for row, (user, time) in enumerate(views.select("user", "time").iter_rows()):
        times[user].append(time)
        rows[user].append(row)
    later = _later_steps(in_room)
    view_values, entry_values = _values(views, names), _values(entries, names)
    for row, (user, room, entered) in enumerate(entries.select("user", "room", "time").iter_rows()):
        at = bisect_right(times[user], entered) - 1
        if at < 0 or entered - times[user][at] > ENTER_WITHIN_MS:
            continue
        amounts: dict[int, int] = {2: 0}
        for step, time, amount in later.get((user, room), ()):
            if entered <= time <= entered + REST_WITHIN_MS:
                amounts[step] = amounts.get(step, 0) + (amount if step >= 4 else 0)
        bucket = times[user][at] // HOUR_MS * HOUR_MS
        yield Chain(user, bucket, view_values(rows[user][at]), entry_values(row), tuple(amounts), amounts)


def _later_steps(in_room: pl.DataFrame) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
    """Per user and room: step, time and amount of everything that can be a step 3, 4 or 5."""
    kind, action = pl.col("kind"), pl.col("action")
    step = (
        pl.when((kind == LIKE) | ((kind == ENGAGE) & (action == _COMMENT))).then(3)
        .when(kind == GIFT).then(4)
        .when((kind == ORDER) & (action == _PAID)).then(5)
        .otherwise(0)
    )  # fmt: skip
    steps = in_room.with_columns(step.alias("step")).filter(pl.col("step") > 0)
    found: defaultdict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for user, room, number, time, amount in steps.select("user", "room", "step", "time", "amount").iter_rows():
        found[user, room].append((number, time, amount))
    return found


def _values(frame: pl.DataFrame, names: Mapping[str, tuple[str, ...]]) -> Callable[[int], Values]:
    """A function from the number of a row to its dimension values."""
    codes = np.stack([frame[dim].cast(pl.Int64).to_numpy() for dim in DIMENSIONS], axis=1)

    def of_row(row: int) -> Values:
        found = [
            (dim, names[dim][code]) for dim, code in zip(DIMENSIONS, codes[row].tolist(), strict=True) if code >= 0
        ]
        return (("all", ""), *found)

    return of_row
