"""`livepulse bench views`: a day is grown out of the minutes that were lived through, row by row, and then asked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing

import polars as pl
import pytest

from flows.bench_day import DAY_S, HOUR_S, KINDS, MINUTE_S, Lived, counts, grow, lived, rest
from flows.bench_engine import StoreReader
from flows.bench_views import over_a_day, questions
from flows.errors import DependencyDown
from grafana.view_times import query_of, rows_of
from schemas.views import VIEWS
from sinks.clickhouse import Store
from sinks.embedded import Embedded
from tests.integration.stores import T0, read

pytestmark = pytest.mark.integration

CAME = T0 // 1_000 + HOUR_S - 3 * MINUTE_S  # messages came from this minute on: most of the rest is in the next hour
MINUTES = 7  # whole ones, which a day is no multiple of
WHOLE = Lived(CAME + MINUTE_S, CAME + (1 + MINUTES) * MINUTE_S)
EARLY, CLOSED = 1, (1 << 63) + 2


def frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema_overrides={"version": pl.UInt64}, infer_schema_length=None)


def heats(number: int) -> list[tuple[str, float]]:
    """Topics of a minute and their heat: no two minutes have the same."""
    return [(f"t{topic}", 100.0 * number + topic) for topic in range(number % 3 + 1)]


@pytest.fixture
def lived_through(store: Store) -> Iterator[Store]:
    """Minutes as an engine leaves them: the first and the last in part, each row early first and final then."""
    for number, start in enumerate(range(CAME, CAME + (2 + MINUTES) * MINUTE_S, MINUTE_S)):
        whole = 1 <= number <= MINUTES
        for version in (EARLY, CLOSED) if whole else (EARLY,):
            final = {"is_final": int(version == CLOSED), "version": version}
            store.insert("topic_heat", frame([
                {"tick": (start + MINUTE_S) * 1_000, "topic": topic, "heat": heat if final["is_final"] else 0.5,
                 "rank": None, "events": 1, "users": 1, "growth": None, "stage": "emerging", **final}
                for topic, heat in heats(number)
            ]))  # fmt: skip
            store.insert("active_users", frame([
                {"window_start": start * 1_000, "window_seconds": 60, "dim": "category", "value": value,
                 "events": 10 * number, "users": 1, "watch_ms": 0, **final}
                for value in ("food", "game")
            ]))  # fmt: skip
            store.insert("ingest_ledger", frame([
                {"topic": "view", "partition": 0, "minute": start * 1_000, "consumed": 6_000, "accepted": 6_000,
                 "duplicate": 0, "late": 0, "rejected": 0, "filtered": 0, "version": version}
            ]))  # fmt: skip
    hours(store)
    progress = (WHOLE.last + 20) * 1_000
    store.insert("engine_progress", frame([
        {"name": "engine", "last_event_time": progress, "watermark": progress, "as_of": progress, "version": 1}
    ]))  # fmt: skip
    return store


def hours(store: Store) -> None:
    """The hour before has one value, the other has two."""
    for start, values in ((T0, ("food",)), (T0 + 3_600_000, ("food", "game"))):
        local = dt.datetime.fromtimestamp(start / 1_000, dt.UTC)
        open_ = {"watch_ms": 0, "is_final": 0, "version": 1}
        store.insert("active_users", frame([
            {"window_start": start, "window_seconds": 3_600, "dim": "category", "value": value, "events": 5, "users": 2,
             **open_} for value in values
        ]))  # fmt: skip
        store.insert("active_hours", frame([
            {"basis": "platform", "date": local.date(), "weekday": local.isoweekday(), "hour": local.hour,
             "dim": "category", "value": value, "events": 5, "users": 2, **open_} for value in values
        ]))  # fmt: skip
        store.insert("funnel", frame([
            {"funnel": "f", "unit": "user", "bucket_start": start, "dim": "category", "value": value, "step": 1,
             "step_name": "view", "reached": 3, "median_seconds": None, "amount_minor": 0, "other_currency_events": 0,
             "mature_at": start + 88_200_000, "version": 1} for value in values
        ]))  # fmt: skip


def test_whole_minutes_are_those_between_the_first_that_messages_came_in_and_the_watermark(
    up: Embedded, store: Store, request: pytest.FixtureRequest
) -> None:
    with closing(StoreReader(up.read_url)) as reader:
        assert lived(reader).seconds == 0  # of an engine that has read nothing
        request.getfixturevalue("lived_through")
        assert lived(reader) == WHOLE
        assert WHOLE.seconds == MINUTES * MINUTE_S


def test_each_minute_of_the_day_has_the_final_rows_of_the_one_that_it_is_a_copy_of(lived_through: Store) -> None:
    grow(lived_through, WHOLE)
    ticks = lived_through.query(
        "SELECT toUnixTimestamp(tick) - 60 AS begins, groupArray((topic, heat)) AS found, min(is_final) AS final "
        "FROM (SELECT * FROM topic_heat ORDER BY tick, topic) GROUP BY tick ORDER BY tick DESC"
    )
    assert [row["begins"] for row in ticks] == list(range(WHOLE.last - MINUTE_S, WHOLE.last - DAY_S - 1, -MINUTE_S))
    for back, row in enumerate(ticks):
        assert [tuple(one) for one in row["found"]] == heats(MINUTES - back % MINUTES)
        assert row["final"] == 1
    users = lived_through.query(
        "SELECT groupArray(events) AS found FROM (SELECT * FROM active_users WHERE window_seconds = 60) "
        "GROUP BY window_start ORDER BY window_start DESC"
    )
    assert [row["found"] for row in users] == [[10 * (MINUTES - back % MINUTES)] * 2 for back in range(1_440)]
    assert counts(lived_through)["ingest_ledger_rows"] == DAY_S // MINUTE_S


def test_each_hour_of_the_day_has_the_rows_of_the_fullest(lived_through: Store) -> None:
    grow(lived_through, WHOLE)
    began = T0 // 1_000 + HOUR_S
    expected = [(began - HOUR_S * back, "food,game") for back in range(24)]
    for sql in (
        "SELECT toUnixTimestamp(window_start) AS h, {v} FROM active_users WHERE window_seconds = 3600",
        "SELECT toUnixTimestamp(bucket_start) AS h, {v} FROM funnel_rows FINAL WHERE mature_at = bucket_start + 88200",
        (
            "SELECT toUnixTimestamp(toDateTime(date, 'UTC') + 3600 * hour) AS h, {v} FROM active_hours "
            "WHERE weekday = toDayOfWeek(date)"
        ),
    ):
        values = "arrayStringConcat(arraySort(groupArray(value)), ',') AS v"
        found = lived_through.query(sql.format(v=values) + " GROUP BY h ORDER BY h DESC")
        assert [(row["h"], row["v"]) for row in found] == expected


def test_copies_are_there_once(lived_through: Store) -> None:
    grow(lived_through, WHOLE)
    for kind in KINDS:
        copies = f"WHERE {kind.where} AND {kind.begins} < toDateTime({WHOLE.first // HOUR_S * HOUR_S}, 'UTC')"
        table = f"livepulse.{kind.table.name}"
        (found,) = lived_through.query(
            f"SELECT (SELECT count() FROM {table} {copies}) AS raw, (SELECT count() FROM {table} FINAL {copies}) AS n"
        )
        assert found["raw"] == found["n"] > 0, kind


def test_a_minute_that_was_lived_through_and_left_no_rows_is_told(lived_through: Store) -> None:
    lived_through.command(
        f"ALTER TABLE livepulse.topic_heat_rows DELETE WHERE tick = toDateTime({WHOLE.last}, 'UTC') "
        "SETTINGS mutations_sync = 1"
    )
    with pytest.raises(DependencyDown, match=r"topic_heat_rows has rows of 123\d of the day's 1440 times 60 s"):
        grow(lived_through, WHOLE)


def test_a_store_comes_to_rest(lived_through: Store) -> None:
    assert rest(lived_through, 30, 0.6)
    assert not rest(lived_through, 0.1, 0.6)


def test_every_view_of_the_day_is_asked(up: Embedded, lived_through: Store) -> None:
    said: list[str] = []
    found = over_a_day(up.directory, query_of, rows_of, said.append)
    assert found["achieved_rate"] == 100
    assert found["minutes"] == MINUTES
    assert found["rows"] == counts(lived_through)
    assert found["rows"]["topic_heat_rows"] == sum(len(heats(MINUTES - back % MINUTES)) for back in range(1_440))
    filled = {"active_users", "active_hours", "topic_heat", "funnel", "ingest_ledger", "engine_progress"}
    assert set(found["empty_views"]) == {view.name for view in VIEWS} - filled
    asked = found["views"]
    for view in filled:
        assert {f"{view}: sums by hour", f"{view}: every row"} <= asked.keys()
    assert asked["topic_heat: every row"]["rows"] == found["rows"]["topic_heat_rows"]
    assert asked["active_users: every row"]["rows"] == found["rows"]["active_users_rows"]
    assert asked["active_users: a line a category"]["rows"] == 2 * 1_440
    assert asked["topic_heat: ten hottest now"]["rows"] == len(heats(MINUTES))
    assert asked["funnel: steps of the day"]["rows"] == 0  # it has a category and no whole
    assert all(0 < one["p50_ms"] <= one["max_ms"] for one in asked.values())
    assert found["slowest_p50_ms"] == asked[found["slowest"]]["p50_ms"] == max(one["p50_ms"] for one in asked.values())
    assert any(line.startswith("topic_heat_rows: ") for line in said)


def test_what_is_asked_of_every_view_is_sql(up: Embedded, lived_through: Store) -> None:
    assert not lived_through.is_empty()
    for question in questions(list(VIEWS), WHOLE.since, query_of, rows_of):
        assert read(up, f"SELECT count() FROM ({question.sql})"), question.name
