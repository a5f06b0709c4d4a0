"""One event is told once: by the part that it is about, or by the whole, and it stays told when others follow."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.anomalies import AnomalyWatch
from flows.anomaly_book import MERGED, OPEN, RESOLVED_STATE, ROWS, Anomaly, Book
from flows.anomaly_once import is_of_the_whole, part_of
from flows.anomaly_route import Health
from flows.anomaly_series import WHOLE, Key
from flows.anomaly_step import TAIL
from flows.anomaly_why import Figures
from flows.bench_anomalies import Planted, judge
from schemas.watches import Measure
from tests.unit.test_anomalies import AT, MINUTE, MONDAY, SPEC, Change, during, history

KEYS = [WHOLE, ("region", "a"), ("region", "b"), ("platform", "x")]
PART = Anomaly(
    0, "active_users.events", "region", "a", 10, 100, 80, 120, 0.8, "drop", "warning", OPEN, "", 60, "down",
    "business", 60_000,
)  # fmt: skip
ALL_OF_IT = replace(PART, dim="all", value="", window_start=60_000 * 20)


def live(
    change: Change, length: int, *, deaf: float = 0.0, of: tuple[Key, ...] = (WHOLE,), restart: bool = False
) -> pl.DataFrame:
    """What is told minute by minute around `AT`. `deaf`: tail of the noise `of` these: their own alarms come late."""
    rows = history(change)
    start, watch = MONDAY + (AT - 5) * MINUTE, AnomalyWatch(SPEC)
    watch.warm_start(rows.filter(pl.col("window_start") < start))
    if deaf:
        watch.series.baseline.facts[[watch.series.places[key] for key in of], TAIL] = deaf
    told = []
    for minute in range(length + 60):
        at = start + minute * MINUTE
        told.append(watch.observe(rows.filter(pl.col("window_start") == at), at + MINUTE))
        if restart:
            saved, watch = watch.snapshot(), AnomalyWatch(SPEC)
            watch.restore(saved, [])
    return pl.concat(told)


def was_told(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """Of whom rows were ever open."""
    opened = rows.filter(pl.col("state") == OPEN).unique(["series", "dim", "value", "window_start"])
    return sorted(zip(opened["dim"], opened["value"], strict=True))


@pytest.mark.parametrize("restart", [False, True])
def test_a_part_that_is_why_the_whole_falls_is_told_alone(*, restart: bool) -> None:
    rows = live(during(40, 0.3, "west"), 40, restart=restart)
    assert was_told(rows) == [("region", "west")]
    whole = rows.filter(pl.col("dim") == "all")
    assert whole.height >= 1  # it alarmed, later
    assert set(whole["state"]) == {MERGED}
    assert whole["explanation"].str.ends_with("Part of: active_users.events of region west.").all()


@pytest.mark.parametrize("restart", [False, True])
def test_of_what_happens_to_all_the_whole_is_told_though_a_part_alarms_first(*, restart: bool) -> None:
    rows = live(during(30, 0.55), 30, deaf=16.0, restart=restart)
    assert was_told(rows) == [("all", "")]
    last = rows.unique(["series", "dim", "value", "window_start"], keep="last")
    (whole,) = last.filter(pl.col("dim") == "all").to_dicts()
    assert (whole["state"], whole["direction"], whole["route"]) == (RESOLVED_STATE, "down", "business")
    assert whole["window_start"] == MONDAY + AT * MINUTE
    assert whole["score"] >= 0.5
    parts = last.filter(pl.col("dim") != "all")
    assert set(parts["state"]) == {MERGED}
    assert parts["explanation"].str.ends_with("Part of: active_users.events.").all()


def test_a_part_that_is_gone_does_not_make_a_zero_of_the_whole() -> None:
    def fall(rates: np.ndarray, region: str) -> np.ndarray:
        return during(10, 0.0 if region == "west" else 0.75)(rates, region)

    rows = live(fall, 10, deaf=16.0)
    whole = rows.filter((pl.col("dim") == "all") & (pl.col("series") == "active_users.events")).to_dicts()[0]
    assert (whole["state"], whole["kind"], whole["severity"]) == (OPEN, "drop", "warning")
    assert whole["actual"] > 0
    assert "fell to 0" not in whole["explanation"]
    assert set(rows.filter(pl.col("value") == "west")["kind"]) == {"zero"}


def figures(before: list[float], after: list[float]) -> Figures:
    return Figures(KEYS, (Measure("events"),), np.array(before, float)[:, None], np.array(after, float)[:, None])


@pytest.mark.parametrize(
    ("after", "is_the_part"),
    [
        ([910, 10, 900, 900], True),  # the part alone
        ([880, 10, 870, 870], True),  # and noise of the rest
        ([700, 70, 630, 700], False),  # all alike
        ([600, 10, 590, 600], False),  # the part, and then all: news
    ],
)
def test_figures_say_whose_change_it_is(after: list[float], *, is_the_part: bool) -> None:
    told = figures([1_000, 100, 900, 1_000], after)
    assert part_of(ALL_OF_IT, told, 0, [PART]) is (PART if is_the_part else None)
    assert is_of_the_whole(("region", "a"), told, 0) is not is_the_part


def test_a_great_part_is_not_why_all_fall_alike() -> None:
    great = replace(PART, dim="platform", value="x")
    alike = figures([1_000, 100, 900, 800], [700, 70, 630, 540])
    assert part_of(ALL_OF_IT, alike, 0, [great]) is None
    alone = figures([1_000, 100, 900, 800], [750, 75, 675, 550])
    assert part_of(ALL_OF_IT, alone, 0, [great]) is great


@pytest.mark.parametrize(
    "changed",
    [
        {"whole": replace(ALL_OF_IT, severity="critical")},
        {"whole": replace(ALL_OF_IT, direction="up")},
        {"part": replace(PART, state=MERGED)},
        {"part": replace(PART, value="unknown")},
    ],
)
def test_the_whole_is_news(changed: dict[str, Any]) -> None:
    told = figures([1_000, 100, 900, 1_000], [910, 10, 900, 900])
    assert part_of(changed.get("whole", ALL_OF_IT), told, 0, [changed.get("part", PART)]) is None


def test_a_mix_that_was_told_says_it_too() -> None:
    mix = replace(PART, series="active_users.events.share", value="", kind="mix", direction="mix")
    assert part_of(ALL_OF_IT, figures([1_000, 100, 900, 1_000], [910, 10, 900, 900]), 0, [mix]) is mix
    assert part_of(ALL_OF_IT, figures([1_000, 100, 900, 1_000], [700, 70, 630, 700]), 0, [mix]) is None


def test_a_mix_of_what_is_watched_no_more_says_nothing() -> None:
    mix = replace(PART, series="active_users.events.share", dim="device", value="", kind="mix", direction="mix")
    told = figures([1_000, 100, 900, 1_000], [910, 10, 900, 900])
    assert part_of(ALL_OF_IT, told, 0, [mix]) is None
    assert part_of(ALL_OF_IT, told, 0, [mix, PART]) is PART


@pytest.mark.parametrize("left", [0, 1])
def test_a_mix_ends_when_its_values_are_watched_no_more(left: int) -> None:
    def swap(rates: np.ndarray, region: str) -> np.ndarray:
        return during(60, {"north": 0.7, "south": 1.0, "west": 1.75}[region])(rates, region)

    rows, end = history(swap), MONDAY + (AT + 20) * MINUTE
    watch = AnomalyWatch(SPEC)
    found = watch.observe(rows.filter(pl.col("window_start") < end), end)
    assert found.filter((pl.col("kind") == "mix") & pl.col("resolved_at").is_null()).height == 1
    for place, (dim, _) in list(enumerate(watch.series.keys))[1 + left :]:  # others take their places
        watch.series._place((f"{dim}_of_old", str(place)), place)
    for minute in range(2):
        at = end + minute * MINUTE
        now = rows.filter((pl.col("window_start") == at) & (pl.col("dim") == "all"))
        found = watch.observe(now, at + MINUTE).filter(pl.col("kind") == "mix")
        assert found["resolved_at"].to_list() == ([end + MINUTE] if minute == 0 else [])
    assert not any(a.kind == "mix" for a in watch.book.standing.values())


def stood(route: str = "business") -> Book:
    """A part that was told, and the whole that follows."""
    book, ours = Book(), Health(rejected_share=0.4, usual_rejected_share=0.001)
    part = replace(PART)
    book.open(part, ours if route == "pipeline" else Health())
    book.open(replace(ALL_OF_IT), Health(), part)
    return book


def states(book: Book) -> dict[str, str]:
    return {row["dim"]: row["state"] for row in book.take().to_dicts()}


def test_whoever_was_not_told_of_the_part_is_told_of_the_whole() -> None:
    assert states(stood()) == {"region": OPEN, "all": MERGED}
    assert states(stood("pipeline"))["all"] == OPEN


@pytest.mark.parametrize(("goes_on", "state"), [(True, OPEN), (False, MERGED)])
def test_when_the_part_is_over_and_the_whole_is_not_it_is_told(state: str, *, goes_on: bool) -> None:
    book = stood()
    again = Book()
    again.become(book.plain(), book.plain_ties())  # across a restart
    again.close(PART.key, 1_800_000, accepted=False)
    again.release(PART.key, 1_800_000, lambda _: goes_on)
    assert again.standing[ALL_OF_IT.key].state == state
    assert states(again).get("all") == (OPEN if goes_on else None)
    again.close(ALL_OF_IT.key, 3_600_000, accepted=False)
    assert not again.standing
    assert not again.ties


def told_for_a_part() -> Book:
    """The whole was told when a part alarmed."""
    book, part = Book(), replace(PART)
    book.open_for(part, replace(ALL_OF_IT, window_start=0), Health())
    book.open(part, Health())
    return book


def over(book: Book, part: Anomaly, *, goes_on: bool) -> None:
    book.close(part.key, 600_000, accepted=False)
    book.release(part.key, 600_000, lambda _: goes_on)


@pytest.mark.parametrize(("confirmed", "goes_on"), [(False, False), (False, True), (True, False), (True, True)])
def test_what_was_told_of_the_whole_for_a_part_ends_with_it_or_by_itself(*, confirmed: bool, goes_on: bool) -> None:
    book = told_for_a_part()
    assert states(book) == {"all": OPEN, "region": MERGED}
    if confirmed:
        assert book.confirms(replace(ALL_OF_IT), Health())
    over(book, PART, goes_on=goes_on)
    assert (ALL_OF_IT.key in book.standing) is (confirmed or goes_on)


def test_what_was_told_of_the_whole_stands_for_the_parts_that_go_on() -> None:
    book = told_for_a_part()
    rise, users = replace(PART, value="c", direction="up"), replace(PART, value="d", series="active_users.users")
    other = replace(PART, value="b")
    for part in (rise, users, other):
        book.open(part, Health())
    over(book, PART, goes_on=True)
    assert book.ties == {ALL_OF_IT.key: other.key}  # of its own measure first
    over(book, other, goes_on=True)
    assert book.ties == {ALL_OF_IT.key: users.key}
    over(book, users, goes_on=True)
    assert book.standing[ALL_OF_IT.key].state == OPEN
    assert book.loose() == [ALL_OF_IT.key]


def test_what_was_told_of_the_whole_ends_in_its_range_when_no_part_is_left() -> None:
    book = told_for_a_part()
    over(book, PART, goes_on=True)
    again = Book()
    again.become(book.plain(), book.plain_ties())  # across a restart
    for goes_on in (True, True, False):
        (loose,) = again.loose()
        again.release(loose, 1_200_000, lambda _, goes_on=goes_on: goes_on)  # type: ignore[misc]
    assert states(again) == {"all": RESOLVED_STATE}
    assert not again.loose()


@pytest.mark.parametrize("restart", [False, True])
def test_the_whole_stands_while_it_is_out_though_its_part_is_over(*, restart: bool) -> None:
    def fall(rates: np.ndarray, region: str) -> np.ndarray:
        return during(5, 0.2)(rates, region) if region == "west" else during(14, 0.7)(rates, region)

    rows = live(fall, 14, deaf=16.0, of=(WHOLE, ("region", "north"), ("region", "south")), restart=restart)
    assert was_told(rows) == [("all", "")]
    west = rows.filter((pl.col("value") == "west") & pl.col("resolved_at").is_not_null())
    (whole,) = rows.filter((pl.col("dim") == "all") & pl.col("resolved_at").is_not_null()).to_dicts()
    assert west["resolved_at"].to_list() == [MONDAY + (AT + 10) * MINUTE]
    assert whole["resolved_at"] == MONDAY + (AT + 15) * MINUTE


def test_a_rise_after_a_fall_that_was_told_for_a_part_is_another_one() -> None:
    book = Book()
    book.open_for(PART, replace(ALL_OF_IT, window_start=0), Health())
    rise = replace(ALL_OF_IT, direction="up", kind="spike")
    assert not book.confirms(rise, Health())
    book.open(rise, Health())
    rows = book.take()
    assert dict(zip(rows["direction"], rows["state"], strict=True)) == {"down": RESOLVED_STATE, "up": OPEN}


def test_the_whole_that_gets_critical_after_it_was_told_for_a_part_is_told_as_that() -> None:
    book, ours = Book(), Health(lag_messages=1_234)
    book.open_for(PART, replace(ALL_OF_IT, window_start=0), Health())
    book.take()
    worse = replace(ALL_OF_IT, actual=0, score=0.9, kind="missing", severity="critical", explanation="Nothing arrived.")
    assert book.confirms(worse, ours)
    (row,) = book.take().to_dicts()
    assert (row["window_start"], row["state"], row["detected_at"]) == (0, OPEN, 60_000)
    assert (row["severity"], row["kind"], row["actual"], row["score"]) == ("critical", "missing", 0, 0.9)
    assert row["route"] == "pipeline"
    assert row["explanation"] == "Probably ours, not the business: 1,234 messages of lag. Nothing arrived."
    assert not book.ties


def test_the_whole_that_is_no_worse_than_it_was_told_is_not_told_again() -> None:
    book = Book()
    book.open_for(PART, replace(ALL_OF_IT, window_start=0, severity="critical"), Health())
    book.take()
    assert book.confirms(replace(ALL_OF_IT), Health())
    assert book.take().height == 0
    assert book.standing[ALL_OF_IT.key].severity == "critical"


def test_a_fall_that_deepens_is_told_as_critical() -> None:
    def fall(rates: np.ndarray, region: str) -> np.ndarray:
        changed = during(30, 0.1 if region == "west" else 0.7)(rates, region)
        changed[AT + 3 : AT + 30] *= 0.1
        return changed

    rows = live(fall, 30, deaf=16.0).filter((pl.col("dim") == "all") & (pl.col("state") == OPEN))
    assert rows["window_start"].unique().to_list() == [MONDAY + AT * MINUTE]
    assert rows["severity"].unique(maintain_order=True).to_list() == ["warning", "critical"]


@functools.cache
def _alerts(*rows: tuple[int, str, str]) -> pl.DataFrame:
    found = [
        replace(PART, window_start=1_767_571_200_000 + minute * MINUTE, state=state, route=route)
        for minute, state, route in rows
    ]
    return pl.DataFrame([{name: getattr(a, name) for name in ROWS} for a in found], schema=ROWS, orient="row")


def test_the_bench_counts_what_was_told_to_whom_it_was_told_most() -> None:
    planted = [Planted("drop", 100, 120, np.full(20, 0.5)), Planted("drop", 500, 520, np.full(20, 0.5))]
    alerts = _alerts(
        (100, OPEN, "business"), (104, MERGED, "business"), (110, RESOLVED_STATE, "business"), (112, OPEN, "pipeline"),
        (501, OPEN, "business"), (900, RESOLVED_STATE, "business"),
    )  # fmt: skip
    told = judge(alerts, planted)
    assert told["kinds"]["drop"]["told"] == [2, 1]
    assert told["false"] == 1  # over within the hour it was taken in: it was told all the same
