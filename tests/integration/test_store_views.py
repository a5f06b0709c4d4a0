"""The engine's client of the store, and the views over hand-made rows."""

from __future__ import annotations

import datetime as dt
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import polars as pl
import pytest

from schemas.events import OPTIONAL
from schemas.tables import table_of
from sinks import embedded
from sinks.clickhouse import Patience, Store, StoreDownError, StoreError
from sinks.embedded import Embedded
from sinks.migration import SchemaError
from tests.integration.stores import T0, active, kill_9

pytestmark = pytest.mark.integration

FINAL = 1 << 63
HourRow = tuple[str, dt.date, int, str, str, int, int]
HourKey = tuple[str, int, int, str, str]


# The engine's client


def test_migration_is_repeatable_and_mends_what_an_older_version_made(up: Embedded, store: Store) -> None:
    assert store.is_empty()
    store.insert("topic_heat", heat(tick=T0, version=1))
    store.migrate()
    store.command("ALTER TABLE livepulse.topic_heat_rows DROP COLUMN growth")
    store.command("DROP VIEW livepulse.topic_heat")
    store.migrate()
    assert store.query("SELECT topic, growth FROM topic_heat") == [{"topic": "a", "growth": None}]
    assert not store.is_empty()
    store.migrate(replace=True)
    assert store.is_empty()
    store.command("ALTER TABLE livepulse.topic_heat_rows MODIFY COLUMN heat Float32")
    with pytest.raises(SchemaError, match="heat is Float32 and not Float64"):
        store.migrate()
    store.migrate(replace=True)
    store.command("INSERT INTO livepulse.schema_version (version) VALUES (99)")
    with pytest.raises(SchemaError, match="has schema 99"):
        store.migrate()
    store.migrate(replace=True)


def test_codecs_are_those_declared_and_an_older_store_gets_them(store: Store) -> None:
    asked = (
        "SELECT name, compression_codec AS codec FROM system.columns"
        " WHERE database = 'livepulse' AND table = 'topic_heat_rows'"
    )
    declared = {c.name: f"CODEC({c.codec})" if c.codec else "" for c in table_of("topic_heat").stored}
    assert {"CODEC(NONE)", "CODEC(T64, LZ4)", ""} == set(declared.values())
    assert {row["name"]: row["codec"] for row in store.query(asked)} == declared
    store.command("ALTER TABLE livepulse.topic_heat_rows MODIFY COLUMN heat Float64 CODEC(Default)")
    store.command("ALTER TABLE livepulse.topic_heat_rows MODIFY COLUMN growth Nullable(Float64) CODEC(ZSTD(1))")
    store.migrate()
    found = {row["name"]: row["codec"] for row in store.query(asked)}
    assert found == declared | {"growth": "CODEC(Default)"}
    store.migrate()
    assert {row["name"]: row["codec"] for row in store.query(asked)} == found


def test_everything_in_the_database_has_a_comment(store: Store) -> None:
    sql = "SELECT name FROM system.tables WHERE database = 'livepulse' AND comment = ''"
    assert store.query(sql) == []
    sql = "SELECT table, name FROM system.columns WHERE database = 'livepulse' AND comment = ''"
    assert store.query(sql) == []


def test_retention_counts_from_ingestion_and_can_be_changed(store: Store) -> None:
    def ttl(table: str) -> str:
        sql = "SELECT create_table_query AS q FROM system.tables WHERE database = 'livepulse' AND name = {t:String}"
        return str(store.query(sql, {"t": table})[0]["q"]).partition("TTL ")[2].partition(" SETTINGS")[0]

    assert ttl("events_rows") == ""
    store.migrate(events_ttl_days=30, retain_days={"active_users": 7})
    assert ttl("events_rows") == "toDateTime(ingest_time) + toIntervalDay(30)"
    assert ttl("active_users_rows") == "written_at + toIntervalDay(7)"
    store.insert("active_users", active(window_start=1_330_000_000_000 // 60_000 * 60_000))  # 2012
    store.command("OPTIMIZE TABLE livepulse.active_users_rows FINAL")
    assert len(store.query("SELECT * FROM active_users")) == 1
    store.migrate()
    assert ttl("events_rows") == ttl("active_users_rows") == ""


def test_max_version_is_that_of_all_tables_without_the_final_bit(store: Store) -> None:
    assert store.max_version() == 0
    store.insert("active_users", active(is_final=1, version=FINAL + (3 << 48) + 9))
    assert store.max_version() == (3 << 48) + 9
    store.insert("topic_heat", heat(version=(5 << 48) + 1))
    assert store.max_version() == (5 << 48) + 1


def test_parts_are_counted(store: Store) -> None:
    store.insert("active_users", active())
    assert store.active_parts()["active_users_rows"] == 1


def test_a_loss_is_recorded_once(store: Store) -> None:
    store.record_loss("view", 3, 100, 250)
    store.record_loss("view", 3, 100, 250)
    rows = store.query("SELECT topic, partition, wanted_offset, found_offset FROM accepted_losses")
    assert rows == [{"topic": "view", "partition": 3, "wanted_offset": 100, "found_offset": 250}]


def test_times_come_back_as_times(store: Store) -> None:
    store.insert("active_users", active(window_start=T0))
    when = dt.datetime.fromtimestamp(T0 / 1000, dt.UTC)
    assert store.query("SELECT window_start FROM active_users") == [{"window_start": when}]
    frame = store.frame("SELECT window_start, users FROM active_users")
    assert frame.schema["window_start"] == pl.Datetime("ms", "UTC")
    assert frame.row(0) == (when, 1)


def test_a_store_that_is_down_is_waited_for_and_named(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(StoreDownError, match=r"http://127\.0\.0\.1:9 does not answer"):
        Store.connect("http://127.0.0.1:9", patience=Patience(seconds=1))
    assert 0.3 < time.monotonic() - began < 5
    with pytest.raises(StoreError, match="is no address"):
        Store.connect("127.0.0.1:8123")


def test_an_insert_outlives_a_restart_of_the_store(tmp_path: Path) -> None:
    up = embedded.start(tmp_path)
    port, read_port = (url.rpartition(":")[2] for url in (up.url, up.read_url))
    store = Store.connect(up.url, user=up.user, password=up.token)
    store.migrate()
    kill_9(up)
    command = [sys.executable, "-m", "sinks.gateway", "--dir", str(tmp_path), "--port", port, "--read-port", read_port]
    timer = threading.Timer(0.5, lambda: restarted.append(subprocess.Popen(command)))
    restarted: list[subprocess.Popen[bytes]] = []
    timer.start()
    store.insert("active_users", active())
    assert store.query("SELECT count() AS n FROM active_users") == [{"n": 1}]
    restarted[0].terminate()
    assert restarted[0].wait(20) == 0


def test_what_is_wrong_with_a_call_is_not_retried(store: Store) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match="UNKNOWN_TABLE"):
        store.query("SELECT * FROM nothing")
    assert time.monotonic() - began < 2


# Views over hand-made rows


def heat(**changes: object) -> pl.DataFrame:
    row = {
        "tick": T0, "topic": "a", "heat": 1.5, "rank": None, "events": 1, "users": 1, "growth": None,
        "stage": "emerging",
        "is_final": 0, "version": 1,
    }  # fmt: skip
    overrides = {"version": pl.UInt64, "rank": pl.UInt32, "growth": pl.Float64}
    return pl.DataFrame({k: [v] for k, v in (row | changes).items()}, schema_overrides=overrides)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_greatest_version_stands_in_whatever_order_rows_arrive(store: Store, order: tuple[int, ...]) -> None:
    """A replayed early row of a later generation must not beat the final one."""
    rows = [
        active(users=1, version=(1 << 48) + 5),
        active(users=9, is_final=1, version=FINAL + (1 << 48) + 6),
        active(users=2, version=(2 << 48) + 1),
    ]
    for index in order:
        store.insert("active_users", rows[index])
    assert store.query("SELECT users, is_final FROM active_users") == [{"users": 9, "is_final": 1}]


def test_rows_of_one_insert_may_share_a_key(store: Store) -> None:
    store.insert("active_users", pl.concat([active(users=n, version=n) for n in (3, 8, 5)]))
    assert store.query("SELECT users FROM active_users WHERE users > 0") == [{"users": 8}]
    assert store.query("SELECT users FROM active_users WHERE users = 5") == []  # a superseded row shows nowhere


def test_archived_events_are_there_once_and_letters_keep_every_byte(store: Store) -> None:
    frame = pl.DataFrame(
        {name: pl.Series([None, None], dtype=dtype) for name, dtype in OPTIONAL.items()}
        | {"topic": ["view"] * 2, "partition": [0] * 2, "offset": [1, 2], "event_time": [T0 + 1, T0 + 2]}
        | {"ingest_time": [T0] * 2, "event_id": ["e1", "e2"], "user_id": ["u"] * 2, "tags": [["x", "y"], None]}
        | {"continued": [True, None], "watch_ms": [5, None], "experiments": ['{"a":"B"}', None]}
    )
    store.insert("events", frame)
    store.insert("events", frame)  # replayed
    rows = store.query("SELECT event_id, tags, continued, watch_ms, region, event_time FROM events ORDER BY offset")
    when = dt.datetime.fromtimestamp(T0 / 1000, dt.UTC)
    assert rows == [
        {"event_id": "e1", "tags": ["x", "y"], "continued": True, "watch_ms": 5, "region": None,
         "event_time": when + dt.timedelta(milliseconds=1)},
        {"event_id": "e2", "tags": [], "continued": None, "watch_ms": None, "region": None,
         "event_time": when + dt.timedelta(milliseconds=2)},
    ]  # fmt: skip
    raw = bytes(range(256))
    letter = {"topic": ["view"], "partition": [0], "offset": [7], "reason": ["not_json"], "detail": ["d"], "raw": [raw]}
    store.insert("dead_letters", pl.DataFrame(letter | {"ingest_time": [T0]}))
    assert store.query("SELECT hex(raw) AS raw FROM dead_letters") == [{"raw": raw.hex().upper()}]


def funnel(step: int, reached: int, version: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {"funnel": ["video_to_live"], "unit": ["user"], "bucket_start": [T0], "dim": ["all"], "value": [""],
         "step": [step],
         "step_name": ["s"], "reached": [reached], "median_seconds": [1.5], "amount_minor": [7],
         "other_currency_events": [1], "mature_at": [T0 + 1000], "version": pl.Series([version], dtype=pl.UInt64)}
    )  # fmt: skip


def progress(last_event_time: int, version: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {"name": ["engine"], "last_event_time": [last_event_time], "watermark": [T0], "as_of": [T0],
         "version": pl.Series([version], dtype=pl.UInt64)}
    )  # fmt: skip


def test_a_funnel_row_is_mature_when_event_time_has_passed_and_hidden_when_nobody_reached_it(store: Store) -> None:
    store.insert("funnel", funnel(1, 4))
    store.insert("funnel", pl.concat([funnel(2, 3), funnel(2, 0, version=2)]))
    mature = "SELECT step, is_mature FROM funnel"
    assert store.query(mature) == [{"step": 1, "is_mature": 0}]
    store.insert("engine_progress", progress(T0 + 999))
    assert store.query(mature) == [{"step": 1, "is_mature": 0}]
    store.insert("engine_progress", progress(T0 + 1000, version=2))
    assert store.query(mature) == [{"step": 1, "is_mature": 1}]


def hours(rows: list[HourRow]) -> pl.DataFrame:
    """Rows of active_hours: (basis, date, hour, dim, value, users, is_final)."""
    return pl.DataFrame(
        [
            {"basis": basis, "date": date, "weekday": date.isoweekday(), "hour": hour, "dim": dim, "value": value,
             "events": 2 * users, "users": users, "watch_ms": 0, "is_final": is_final,
             "version": is_final * FINAL + 1}
            for basis, date, hour, dim, value, users, is_final in rows
        ],
        schema_overrides={"version": pl.UInt64},
    )  # fmt: skip


def profile_oracle(rows: list[HourRow]) -> dict[HourKey, dict[str, float]]:
    """TABLES.md, `active_hour_profile`, in plain Python: {(basis, weekday, hour, dim, value): measures}."""
    final = [row for row in rows if row[6] == 1]
    cells: defaultdict[HourKey, list[int]] = defaultdict(lambda: [0, 0])
    days = {}
    for basis in {row[0] for row in final}:
        dates = [row[1] for row in final if row[0] == basis]
        first, last = min(dates), max(dates)
        between = [first + dt.timedelta(days=n) for n in range(1, (last - first).days)]
        for weekday in range(1, 8):
            days[basis, weekday] = sum(1 for date in between if date.isoweekday() == weekday)
        for row in final:
            if row[0] == basis and row[1] in between:
                cell = cells[basis, row[1].isoweekday(), row[2], row[3], row[4]]
                cell[0] += row[5]
                cell[1] += 2 * row[5]
    found: dict[HourKey, dict[str, float]] = {}
    for key, (users, events) in cells.items():
        count = days[key[0], key[1]]
        found[key] = {"users_per_day": users / count, "events_per_day": events / count, "days": count}
    for key, measures in found.items():
        week = sum(other["users_per_day"] for k, other in found.items() if (k[0], *k[3:]) == (key[0], *key[3:]))
        measures["share"] = measures["users_per_day"] / week
        measures["lift"] = 168 * measures["share"]
    return found


def test_the_profile_of_the_week(store: Store) -> None:
    chance = random.Random(5)
    rows = []
    for basis, first in (("platform", dt.date(2024, 2, 20)), ("user", dt.date(2024, 2, 24))):
        for day in range(19):
            date = first + dt.timedelta(days=day)
            if day in (3, 9):
                continue  # an empty date between counts as a day
            for hour in (0, 8, 21, 23):
                for dim, value in (("all", ""), ("region", "CN-GD"), ("region", "CN-BJ")):
                    if chance.random() < 0.8:
                        rows.append((basis, date, hour, dim, value, chance.randrange(1, 100), int(day < 17)))
    store.insert("active_hours", hours(rows))
    wanted = profile_oracle(rows)
    found = {
        tuple(row[name] for name in ("basis", "weekday", "hour", "dim", "value")): row
        for row in store.query("SELECT * FROM active_hour_profile")
    }
    assert found.keys() == wanted.keys()
    for key, cell in wanted.items():
        assert {name: found[key][name] for name in cell} == pytest.approx(cell, rel=1e-12)


def test_the_profile_of_too_few_days_is_empty(store: Store) -> None:
    date = dt.date(2024, 2, 20)
    store.insert("active_hours", hours([("platform", date, 1, "all", "", 5, 1)]))
    assert store.query("SELECT * FROM active_hour_profile") == []
    store.insert("active_hours", hours([("platform", date + dt.timedelta(days=1), 1, "all", "", 5, 1)]))
    assert store.query("SELECT * FROM active_hour_profile") == []
