"""Funnels by hand: each clause of the definition in a world of a few events, the example's funnel, state and bounds."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.conversion_funnel import FunnelMerge, FunnelShard
from flows.funnel_counts import INCREMENTS
from flows.kernel import Progress
from flows.multisets import Multisets
from schemas.declarations import load
from schemas.events import KIND, OTHER, frame_schema
from schemas.funnels import VIDEO_TO_LIVE, Funnel, Match, Step
from schemas.hashing import hash64

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
T = 1_700_000_000_000 // HOUR * HOUR
BEFORE_ALL, AFTER_ALL = -(1 << 62), 1 << 62
EXAMPLE = Path(__file__).parents[2] / "examples" / "declarations.toml"

Event = dict[str, Any]


def video(time: int, user: str = "u", **fields: Any) -> Event:
    return {"topic": "view", "surface": "video", "event_time": time, "user_id": user, **fields}


def enter(time: int, room: str = "r", user: str = "u", **fields: Any) -> Event:
    return {"topic": "view", "surface": "live", "live_id": room, "event_time": time, "user_id": user, **fields}


def gift(time: int, amount: int = 1, room: str = "r", user: str = "u", **fields: Any) -> Event:
    return {"topic": "gift", "live_id": room, "event_time": time, "user_id": user, "amount_minor": amount, **fields}


def order(time: int, amount: int = 1, room: str = "r", user: str = "u", **fields: Any) -> Event:
    return {"status": "paid", **gift(time, amount, room, user, **fields), "topic": "order"}


def like(time: int, room: str = "r", user: str = "u") -> Event:
    return {"topic": "like", "live_id": room, "event_time": time, "user_id": user}


def frame_of(events: Iterable[Event], columns: frozenset[str]) -> pl.DataFrame:
    schema = frame_schema(columns)
    rows = [
        {name: event.get(name) for name in schema}
        | {"kind": KIND[event["topic"]], "partition": 0, "offset": n, "ingest_time": 0, "id_hash": n}
        | {"user_hash": hash64(pl.Series([event["user_id"]])).item()}
        for n, event in enumerate(events)
    ]
    return pl.DataFrame(rows, schema=schema)


def rows_of(
    events: Sequence[Event], funnels: Sequence[Funnel] = (VIDEO_TO_LIVE,), dimensions: Sequence[str] = ("category",)
) -> pl.DataFrame:
    """The rows after all of `events`, in one batch."""
    shard, merge = FunnelShard(funnels, dimensions), FunnelMerge(funnels)
    for increments in shard.fold(frame_of(events, shard.columns), Progress(BEFORE_ALL, 0, early=False)).values():
        merge.fold([increments])
    return merge.emit(Progress(AFTER_ALL, 0, early=False, end=True)).get("funnel", pl.DataFrame())


def reached(events: Sequence[Event], unit: str = "user_live", **kwargs: Any) -> dict[str, int]:
    """Units per step name under `all`, over all buckets."""
    rows = rows_of(events, **kwargs)
    if rows.is_empty():
        return {}
    rows = rows.filter((pl.col("dim") == "all") & (pl.col("unit") == unit) & (pl.col("reached") > 0))
    return dict(rows.group_by("step_name").agg(pl.col("reached").sum()).iter_rows())


def test_columns_are_those_of_the_table() -> None:
    rows = rows_of([video(T)])
    assert dict(rows.schema) == {
        "funnel": pl.String, "unit": pl.String, "bucket_start": pl.Int64, "dim": pl.String, "value": pl.String,
        "step": pl.UInt8, "step_name": pl.String, "reached": pl.Int64, "median_seconds": pl.Float64,
        "amount_minor": pl.Int64, "other_currency_events": pl.Int64, "mature_at": pl.Int64,
    }  # fmt: skip
    assert rows["mature_at"].to_list() == [T + HOUR + 24 * HOUR + 30 * MINUTE]


def test_optional_steps_may_be_left_out_and_each_step_counts_by_itself() -> None:
    events = [video(T), enter(T + 1), order(T + 2), video(T, "v"), enter(T + 1, user="v"), gift(T + 2, user="v")]
    assert reached(events) == {"live_enter": 2, "gift": 1, "order": 1}
    assert reached(events, "user") == {"video_view": 2, "live_enter": 2, "gift": 1, "order": 1}


@pytest.mark.parametrize(("wait", "entered"), [(0, 1), (30 * MINUTE, 1), (30 * MINUTE + 1, 0)])
def test_an_entry_within_30_minutes_inclusive_of_a_video(wait: int, entered: int) -> None:
    assert reached([video(T), enter(T + wait)]).get("live_enter", 0) == entered


@pytest.mark.parametrize(("wait", "paid"), [(0, 1), (24 * HOUR, 1), (24 * HOUR + 1, 0)])
def test_an_order_within_24_hours_inclusive_of_the_entry(wait: int, paid: int) -> None:
    assert reached([video(T), enter(T + 5), order(T + 5 + wait)]).get("order", 0) == paid


def test_what_comes_before_the_entry_or_in_another_room_is_no_step() -> None:
    assert reached([video(T), like(T), enter(T + 1), gift(T + 2, room="other"), order(T)]) == {"live_enter": 1}


def test_only_paid_orders_are_steps() -> None:
    events = [video(T), enter(T), *(order(T + 1, status=s) for s in ("created", "cancelled", "refunded", "redeemed"))]
    assert reached(events) == {"live_enter": 1}


@pytest.mark.parametrize(("back", "entries"), [(DAY, 1), (10 * DAY, 1), (10 * DAY + 1, 2)])
def test_only_the_first_view_of_a_room_in_10_days_enters_it(back: int, entries: int) -> None:
    assert reached([video(T), enter(T), video(T + back), enter(T + back)])["live_enter"] == entries


def test_a_first_view_without_a_video_before_it_takes_the_room_for_later_ones() -> None:
    assert reached([enter(T), video(T + 1), enter(T + 2), order(T + 3)]) == {}


def test_continued_reports_are_no_steps() -> None:
    assert reached([video(T, continued=True), enter(T + 1)]) == {}
    assert reached([video(T), enter(T + 1, continued=True), enter(T + 2)]) == {"live_enter": 1}


def test_the_bucket_and_the_value_are_those_of_the_latest_video() -> None:
    start = T + 59 * MINUTE
    events = [
        video(start, category="a"),
        video(start + 2 * MINUTE, category="b"),
        enter(start + 3 * MINUTE, category="c"),
    ]
    rows = rows_of(events).filter((pl.col("step") == 2) & (pl.col("dim") == "category"))
    assert sorted(rows.select("unit", "bucket_start", "value").rows()) == [
        ("user", T + HOUR, "b"),
        ("user_live", T + HOUR, "c"),
    ]


def test_a_user_counts_in_each_value_of_its_videos_and_once_over_all() -> None:
    rows = rows_of([video(T, category="a"), video(T + 1, category="b"), video(T + 2, category="a"), video(T + 3)])
    assert sorted(rows.select("dim", "value", "reached").rows()) == [
        ("all", "", 1), ("category", "a", 1), ("category", "b", 1),
    ]  # fmt: skip


def test_amounts_of_all_gifts_and_orders_in_the_platforms_currency() -> None:
    events = [video(T), enter(T), gift(T + 1, 10), gift(T + 2, 5, currency="CNY"), gift(T + 3, 7, currency="USD")]
    events += [order(T + 4, 100), enter(T, "s"), gift(T + 1, 1000, "s")]
    rows = rows_of(events).filter(pl.col("dim") == "all")
    figures = {
        (u, n): f
        for u, n, *f in rows.select("unit", "step_name", "reached", "amount_minor", "other_currency_events").rows()
    }
    assert figures["user", "gift"] == [1, 1015, 1]
    assert figures["user_live", "gift"] == [2, 1015, 1]
    assert figures["user", "order"] == [1, 100, 0]
    assert figures["user_live", "live_enter"] == [2, 0, 0]


def test_the_median_of_the_first_times_from_step_1_and_of_an_even_number_the_middle() -> None:
    events = [video(T), enter(T + 1500), gift(T + 9000), gift(T + 3000)]
    events += [video(T, "v"), enter(T + 2000, user="v"), video(T, "w"), enter(T + 9 * SECOND, user="w")]
    events += [video(T, "x"), enter(T + 10 * SECOND, user="x")]
    rows = rows_of(events).filter((pl.col("dim") == "all") & (pl.col("unit") == "user"))
    assert dict(rows.select("step_name", "median_seconds").rows()) == {
        "video_view": 0.0, "live_enter": 5.5, "gift": 3.0,
    }  # fmt: skip


def test_a_user_of_two_rooms_counts_once_with_the_first_arrival() -> None:
    events = [video(T), enter(T + 10 * SECOND, "a"), video(T + 20 * SECOND), enter(T + 21 * SECOND, "b")]
    rows = rows_of(events).filter((pl.col("dim") == "all") & (pl.col("step") == 2))
    assert {u: (n, m) for u, n, m in rows.select("unit", "reached", "median_seconds").rows()} == {
        "user": (1, 10.0), "user_live": (2, 5.5),
    }  # fmt: skip


def test_the_example_funnel_holds_the_product_from_its_first_step_and_ends_at_a_cancellation() -> None:
    def click(time: int, product: str) -> Event:
        return {"topic": "engage", "action": "product_click", "product_id": product, "event_time": time, "user_id": "u"}

    def change(time: int, status: str, product: str = "p") -> Event:
        return order(time, 9, status=status, product_id=product)

    own = [load(EXAMPLE).funnels[1]]
    events = [click(T, "p"), change(T + 1, "created"), change(T + 2, "paid"), change(T + 3, "redeemed")]
    full = {"click": 1, "order_created": 1, "order_paid": 1, "redeemed": 1}
    assert reached(events, "user_product", funnels=own) == full
    assert reached([*events, click(T, "q")], "user_product", funnels=own) == {**full, "click": 2}
    assert reached([*events, click(T, "q")], "user", funnels=own) == full
    assert reached([click(T, "q"), *events[1:]], "user", funnels=own) == {"click": 1}
    assert reached([*events, change(T + 2, "cancelled")], "user", funnels=own) == {
        n: 1 for n in full if n != "redeemed"
    }
    without_paid = [event for event in events if event.get("status") != "paid"]
    assert reached(without_paid, "user", funnels=own) == {"click": 1, "order_created": 1}


def _increments(rows: Sequence[tuple[str, int]]) -> pl.DataFrame:
    """Step 1 increments: value and reached."""
    return pl.DataFrame(
        [(hash64(pl.Series([v])).item(), "video_to_live", "user", T, "region", v, 1, n, 0, 0, []) for v, n in rows],
        schema=INCREMENTS,
        orient="row",
    )


def test_values_beyond_the_cap_are_one_row() -> None:
    merge = FunnelMerge(dimension_cap=2)
    merge.fold([_increments([("a", 1), ("b", 2)])])
    merge.fold([_increments([("c", 3), ("a", 1)]), _increments([("d", 4)])])
    again = FunnelMerge(dimension_cap=2)
    again.restore(merge.snapshot(), [])
    for kernel in (merge, again):
        rows = kernel.emit(Progress(T, 0, early=True))["funnel"]
        assert dict(rows.select("value", "reached").rows()) == {"a": 2, "b": 2, OTHER: 7}
    again.fold([_increments([("d", 1)])])
    assert again.emit(Progress(T, 0, early=True))["funnel"].select("value", "reached").rows() == [(OTHER, 8)]


def test_hundreds_of_thousands_of_values_stay_within_the_cap() -> None:
    """As many users, each with a video of a category of its own."""
    many, batch = 400_000, 50_000
    shard, merge = FunnelShard(dimensions=("category",)), FunnelMerge()
    view = frame_of([video(T)], shard.columns)
    for first in range(0, many, batch):
        numbers = pl.Series(range(first, first + batch), dtype=pl.UInt64)
        events = pl.select(user_hash=numbers + 1, category="value " + numbers.cast(pl.String))
        frame = view.drop(events.columns).join(events, how="cross").select(view.columns)
        for increments in shard.fold(frame, Progress(BEFORE_ALL, 0, early=False)).values():
            merge.fold([increments])
        assert len(merge._names) <= 10_000 + 2, "the cap, its tail, and the whole"
    rows = merge.emit(Progress(T, 0, early=True))["funnel"]
    found = {dim: values["reached"] for (dim,), values in rows.group_by("dim")}
    assert (len(found["category"]), found["category"].sum(), found["all"].to_list()) == (10_001, many, [many])
    assert rows.filter(value=OTHER)["reached"].item() == many - 10_000


def test_rows_come_at_once_when_early_else_when_the_bucket_matures() -> None:
    merge = FunnelMerge()
    merge.fold([_increments([("a", 1)])])
    mature = T + HOUR + 24 * HOUR + 30 * MINUTE
    assert merge.emit(Progress(mature - 1, 0, early=False)) == {}
    assert merge.emit(Progress(mature, 0, early=False))["funnel"]["reached"].to_list() == [1]
    assert merge.emit(Progress(mature, 0, early=True)) == {}
    merge.fold([_increments([("a", 1)])])
    assert merge.emit(Progress(mature, 0, early=True))["funnel"]["reached"].to_list() == [2]


def test_an_entry_after_the_room_was_forgotten_leaves_the_rows_of_the_first_alone() -> None:
    """The pair is counted anew as a whole, and the merge has forgotten the first chain's bucket."""
    shard, merge = FunnelShard([VIDEO_TO_LIVE], ["category"]), FunnelMerge()
    standing: dict[tuple[int, int], int] = {}
    again = T + 10 * DAY + 1
    for events, watermark in (([video(T), enter(T)], T), ([video(again), enter(again)], again), ([], again + 9 * DAY)):
        for increments in shard.fold(frame_of(events, shard.columns), Progress(T, 0, early=True)).values():
            merge.fold([increments])
        for rows in merge.emit(Progress(watermark, 0, early=True)).values():
            chosen = rows.filter((pl.col("unit") == "user_live") & (pl.col("dim") == "all"))
            standing |= {
                (bucket, step): n for bucket, step, n in chosen.select("bucket_start", "step", "reached").rows()
            }
    assert standing == {(T, 2): 1, (again // HOUR * HOUR, 2): 1}


def test_a_funnel_declared_otherwise_under_its_name_is_refused() -> None:
    steps = (Step("a", (Match("view"),)), Step("b", (Match("like"),)))
    first, second = (Funnel("own", steps, "live_id", within, 0) for within in (1, 2))
    state = FunnelShard([first]).snapshot()
    FunnelShard([first]).restore(state, [])
    FunnelShard([VIDEO_TO_LIVE]).restore(state, [])  # one that is declared no more is left out
    with pytest.raises(ValueError, match="'own' was declared otherwise before: give the new one another name"):
        FunnelShard([second]).restore(state, [])
    with pytest.raises(ValueError, match="declare those again"):
        FunnelShard([first], ["region"]).restore(state, [])


def test_a_delta_follows_what_changed_and_is_empty_when_nothing_did() -> None:
    shard = FunnelShard()
    users = [f"u{n}" for n in range(500)]
    events = [e for u in users for e in (video(T, u), enter(T + 1, user=u))]
    shard.fold(frame_of(events, shard.columns), Progress(BEFORE_ALL, 0, early=False))
    whole = len(shard.snapshot())
    assert shard.delta() == b""
    shard.fold(frame_of([gift(T + 2, user="u7")], shard.columns), Progress(T, 0, early=False))
    assert 0 < len(shard.delta()) < whole / 50


def test_state_is_bounded_by_the_windows() -> None:
    """A user a minute watches, enters and pays for 6 days: what is kept stops growing once windows have passed.

    It may be a third more than what is needed, before it is laid out anew.
    """
    shard = FunnelShard([VIDEO_TO_LIVE], ["category"])
    sizes = []
    for hour in range(24 * 6):
        start = T + hour * HOUR
        events = [
            e
            for n in range(60)
            for e in (
                video(start + n * MINUTE, f"u{hour}-{n}", category=f"c{hour}"),
                enter(start + n * MINUTE + 1, user=f"u{hour}-{n}"),
                order(start + n * MINUTE + 2, user=f"u{hour}-{n}"),
            )
        ]
        shard.fold(frame_of(events, shard.columns), Progress(start, 0, early=False))
        if hour % 24 == 23:
            sizes.append(len(shard.snapshot()))
    entries = 24 * 60 * 24  # a remembered entry takes 24 bytes, for 10 days
    day = sizes[0] - entries
    needed = 1.1 * day + entries * np.arange(1, len(sizes) + 1)  # chains stay for 25 h and a half
    assert (np.array(sizes) < 1.35 * needed).all(), (sizes, needed)


def test_multisets_give_the_medians_of_statistics() -> None:
    rng = random.Random(3)
    held: dict[int, list[int]] = {n: [] for n in range(20)}
    sets = Multisets()
    for _ in range(50):
        added = [(rng.randrange(20), rng.choice([0, 1, rng.randrange(1 << 31)])) for _ in range(40)]
        for number, value in added:
            held[number].append(value)
        sets.add(*np.array(added).T)
        removed = [
            (n, values.pop(rng.randrange(len(values)))) for n, values in held.items() if values and rng.random() < 0.5
        ]
        if removed:
            sets.remove(*np.array(removed).T)
        asked = [n for n, values in held.items() if values]
        sizes = np.array([len(held[n]) for n in asked])
        assert sets.medians(np.array(asked), sizes).tolist() == [statistics.median(held[n]) for n in asked]
    kept = np.array([n // 2 if n % 2 else -1 for n in range(20)])
    sets.renumber(kept)
    assert sets.members()[1].tolist() == [v for n in range(1, 20, 2) for v in sorted(held[n])]
