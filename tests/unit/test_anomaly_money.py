"""Money, rooms and funnels are watched as users are; the sentence says which factor and which source moved them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from flows.anomalies import AnomalyWatch
from flows.anomaly_merge import ANOMALIES, WatchedMerge
from flows.anomaly_spec import AnomalySpec
from flows.conversion_funnel import FunnelMerge
from flows.families import step_config
from flows.funnel_counts import INCREMENTS
from flows.kernel import Progress
from flows.settings import Settings
from schemas.funnels import VIDEO_TO_LIVE
from schemas.sessions import MEASURES
from schemas.watches import ACTIVITY, ROOMS, WATCHES, Measure, Watch, of_funnel

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MONDAY = 1_767_571_200_000
DAYS = 9
AT = (8 * 24 + 10) * 60  # minute of what is planted
LIVE = {"r1": 0.5, "r2": 0.3, "r3": 0.2}
COLUMNS = list(ROOMS.columns)
Change = Callable[[str, str, np.ndarray], np.ndarray]


def rooms(change: Change | None = None, seed: int = 1, days: int = DAYS, scale: float = 1.0) -> pl.DataFrame:
    """Final rows of three rooms that are always live. `change(room, step, rates)` alters a step of the chain."""
    r = np.random.default_rng(seed)
    minutes = np.arange(days * 1440)
    frames = []
    for room, share in LIVE.items():

        def changed(step: str, rates: np.ndarray, room: str = room) -> np.ndarray:
            return change(room, step, rates) if change else rates

        exposures = r.poisson(
            changed("exposures", 4_000 * scale * share * (1 + 0.3 * np.sin(2 * np.pi * minutes / 1440)))
        )
        views = r.binomial(exposures, changed("enter", np.full(len(minutes), 0.3)))
        clicks = r.binomial(views, changed("click", np.full(len(minutes), 0.3)))
        orders = r.binomial(clicks, changed("conversion", np.full(len(minutes), 0.4)))
        money = np.round(orders * 6_000 * np.exp(r.normal(0, 0.05, len(minutes)))).astype(np.int64)
        figures = {"viewers": views * 3, "likes": r.poisson(views * 0.5), "comments": r.poisson(views * 0.2),
                   "exposures": exposures, "views": views, "product_clicks": clicks, "orders": orders,
                   "gmv_minor": money}  # fmt: skip
        frames.append(
            pl.DataFrame({"live_id": [room] * len(minutes), "window_start": MONDAY + minutes * MINUTE, **figures})
        )
    return pl.concat(frames).sort("window_start", maintain_order=True).with_columns(window_seconds=60)


def during(step: str, factor: float, length: int, only: str | None = None) -> Change:
    def change(room: str, of: str, rates: np.ndarray) -> np.ndarray:
        if of != step or only not in (None, room):
            return rates
        rates = rates.copy()
        rates[AT : AT + length] *= factor
        return rates

    return change


def told(rows: pl.DataFrame) -> pl.DataFrame:
    watch = AnomalyWatch(AnomalySpec(ROOMS, zone="UTC", top=ROOMS.top))
    return watch.observe(rows, int(rows["window_start"].max()) + MINUTE)  # type: ignore[call-overload]


@functools.cache
def calm() -> pl.DataFrame:
    return rooms()


def test_calm_rooms_tell_nothing() -> None:
    assert told(calm()).height == 0


def test_gmv_falls_because_one_room_no_longer_converts() -> None:
    found = told(rooms(during("conversion", 0.25, 20, only="r1")))
    whole = found.filter(pl.col("dim") == "all")
    assert set(whole["series"]) == {"live_session_minutes.orders", "live_session_minutes.gmv_minor"}
    (parent,) = found.filter(pl.col("state") != "merged").to_dicts()
    assert parent["value"] == "r1"  # it alarms a window before the whole, which it moved
    assert "The whole is" in parent["explanation"]
    assert 0 <= parent["window_start"] - (MONDAY + AT * MINUTE) <= 2 * MINUTE
    assert parent["direction"] == "down"
    text = whole.filter(pl.col("series") == "live_session_minutes.gmv_minor")["explanation"][0]
    assert "GMV fell" in text
    assert "driven by conversion" in text
    assert "within conversion: live_id r1 (its rate)" in text
    # The room's own says what became of the money, too.
    assert "GMV fell" in parent["explanation"]
    assert {row for row in found["value"] if row} <= {"r1"}


def test_fewer_exposures_are_told_as_such_by_all_that_follows_from_them() -> None:
    found = told(rooms(during("exposures", 0.3, 20))).filter(pl.col("dim") == "all")
    assert found.filter(pl.col("state") != "merged").height == 1
    text = found.filter(pl.col("state") != "merged")["explanation"][0]
    assert "GMV fell" in text
    assert "driven by exposures" in text


def test_orders_end_while_people_click_on() -> None:
    found = told(rooms(during("conversion", 0.0, 20)))
    kinds = found.filter((pl.col("dim") == "all") & (pl.col("series") == "live_session_minutes.orders"))["kind"]
    assert kinds.to_list() == ["zero"]
    assert "GMV fell to 0, with orders." in " ".join(found["explanation"])


def test_money_is_told_in_whole_units() -> None:
    found = told(rooms(during("conversion", 0.25, 20)))
    text = found.filter(pl.col("series") == "live_session_minutes.gmv_minor").filter(pl.col("dim") == "all")
    first = text["explanation"][0]
    assert first.startswith("GMV at ")
    usual = text["expected"][0] / 100
    assert f"{usual:,.0f}" in first


def funnel_rows(change: Callable[[int, str, int, float], float] | None = None, days: int = 30) -> pl.DataFrame:
    """Rows of the view `funnel` of mature hours: step 1 to 5 by channel, and all."""
    r = np.random.default_rng(3)
    rates = {1: 1.0, 2: 0.2, 3: 0.5, 4: 0.2, 5: 0.15}
    rows = []
    for hour in range(days * 24):
        total = {step: [0, 0] for step in rates}
        for channel, share in (("feed", 0.6), ("search", 0.3), ("paid", 0.1)):
            users = int(r.poisson(60_000 * share * (1 + 0.4 * np.sin(2 * np.pi * hour / 24))))
            reached = {1: users}
            for step in (2, 3, 4, 5):
                rate = rates[step] if change is None else change(hour, channel, step, rates[step])
                reached[step] = int(r.binomial(reached[1 if step == 2 else 2], rate))
            for step, count in reached.items():
                amount = count * 5_000 if step == 5 else 0
                total[step][0] += count
                total[step][1] += amount
                rows.append((hour, "channel", channel, step, count, amount))
        rows += [(hour, "all", "", step, count, amount) for step, (count, amount) in total.items()]
    frame = pl.DataFrame(rows, schema=["hour", "dim", "value", "step", "reached", "amount_minor"], orient="row")
    names = [step.name for step in VIDEO_TO_LIVE.steps]
    return frame.select(
        pl.lit("video_to_live").alias("funnel"), pl.lit("user").alias("unit"),
        (MONDAY + pl.col("hour") * HOUR).alias("bucket_start"), "dim", "value", "step",
        pl.col("step").map_elements(lambda s: names[s - 1], return_dtype=pl.String).alias("step_name"),
        "reached", "amount_minor",
    )  # fmt: skip


def test_a_funnel_s_rate_falls_in_one_channel() -> None:
    spec = AnomalySpec(of_funnel(VIDEO_TO_LIVE), zone="UTC", top=200, warm_ms=3 * DAY)
    bad = range(26 * 24 + 10, 26 * 24 + 14)

    def change(hour: int, channel: str, step: int, rate: float) -> float:
        return rate * 0.3 if hour in bad and channel == "feed" and step == 2 else rate

    assert AnomalyWatch(spec).observe(funnel_rows(), MONDAY + 30 * DAY).height == 0
    found = AnomalyWatch(spec).observe(funnel_rows(change), MONDAY + 30 * DAY)
    rate = found.filter((pl.col("series") == "funnel.video_to_live.live_enter_rate") & (pl.col("dim") == "all"))
    (row,) = rate.to_dicts()
    assert row["window_start"] == MONDAY + bad[0] * HOUR
    assert row["expected"] == pytest.approx(0.2, rel=0.05)
    assert row["actual"] == pytest.approx(0.2 * (0.4 + 0.6 * 0.3), rel=0.05)
    assert row["window_seconds"] == 3_600
    assert "channel feed (its rate)" in row["explanation"]
    money = found.filter((pl.col("series") == "funnel.video_to_live.order_amount_minor") & (pl.col("dim") == "all"))
    assert "driven by live_enter rate" in money["explanation"][0]
    assert set(found.filter(pl.col("state") != "merged")["direction"]) == {"down"}


def test_mature_buckets_are_judged_once_though_they_were_given_out_early() -> None:
    """A bucket whose early rows were told and which nothing changes after is final without coming out again."""
    rows = funnel_rows(days=2).with_columns(row=pl.struct(pl.all()).hash())
    increments = rows.select(
        *(pl.col(name) for name in ("row", "funnel", "unit", "bucket_start", "dim", "value", "step", "reached",
                                    "amount_minor")),
        other_currency_events=pl.lit(0), times=pl.lit([], pl.List(pl.Int64)),
    ).select(pl.col(name).cast(kind) for name, kind in INCREMENTS.items())  # fmt: skip
    spec = AnomalySpec(of_funnel(VIDEO_TO_LIVE), zone="UTC", top=200)
    watch = AnomalyWatch(spec)
    merge = WatchedMerge(FunnelMerge(), [watch])
    merge.fold([increments])
    merge.emit(Progress(MONDAY + 2 * DAY, 0, early=True))
    ripe_until = MONDAY + 2 * DAY - VIDEO_TO_LIVE.matures_after_ms
    assert watch.next == ripe_until // HOUR * HOUR
    merge.emit(Progress(MONDAY + 5 * DAY, 0, early=True))
    whole = watch.series.keys.index(("all", ""))
    assert watch.series.baseline.facts[whole, 1] >= 48  # windows seen: each of the two days' hours
    assert merge.delta()


def test_declared_watches_reach_the_families() -> None:
    settings = Settings()
    config = step_config(settings, sources=1, generation=1, state_dir=None)
    assert set(config.ledger_to) == {"activity", "sessions", "funnel"}
    watched = {name: config.merge_kernels[name]() for name in config.ledger_to}
    assert all(isinstance(kernel, WatchedMerge) for kernel in watched.values())
    off = step_config(Settings(families=("activity", "sessions")), sources=1, generation=1, state_dir=None)
    assert off.ledger_to == ()


def test_a_watch_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="has no columns"):
        Watch("active_users", (Measure("nothing"),))
    with pytest.raises(ValueError, match="no number"):
        Watch("live_session_minutes", (Measure("viewers"), Measure("live_id")), by="live_id")
    with pytest.raises(ValueError, match="named twice"):
        ACTIVITY.with_measures((Measure("events"),))
    with pytest.raises(ValueError, match="volume"):
        Watch("active_users", (Measure("rate", column="users", over="events"),))
    with pytest.raises(ValueError, match="must be watched themselves"):
        ROOMS.with_measures((Measure("gifts", factors=(("viewers", "viewers"), ("x", "shares"), ("each", "gifts"))),))
    with pytest.raises(ValueError, match="ends with the measure"):
        Measure("gmv_minor", factors=(("exposures", "exposures"), ("orders", "orders")))


def test_what_is_watched_of_rooms_is_in_the_view() -> None:
    assert set(COLUMNS) - {measure.name for measure in MEASURES} == {"viewers"}
    assert WATCHES == (ACTIVITY, ROOMS)
    assert ANOMALIES == "anomalies"
