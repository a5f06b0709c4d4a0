"""The embedded store through clickhouse-connect's own HTTP client and plain HTTP, and the views over hand-made rows."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import clickhouse_connect
import polars as pl
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.events import OPTIONAL
from sinks import embedded
from sinks.clickhouse import Patience, Store, StoreDownError, StoreError
from sinks.embedded import Embedded
from sinks.migration import SchemaError

pytestmark = pytest.mark.integration

FINAL = 1 << 63
HourRow = tuple[str, dt.date, int, str, str, int, int]
HourKey = tuple[str, int, int, str, str]
T0 = 1_700_000_000_000 // 3_600_000 * 3_600_000


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    store = embedded.start(tmp_path_factory.mktemp("store"), die_with_parent=True)
    yield store
    store.stop()
    assert store.process is not None
    assert store.process.returncode == 0


@pytest.fixture(scope="module")
def connected(up: Embedded) -> Iterator[Store]:
    store = Store.connect(up.url, user=up.user, password=up.token, database="livepulse")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def store(connected: Store) -> Store:
    """The migrated store, empty."""
    for table in connected.active_parts():
        if table != "schema_version":
            connected.command(f"TRUNCATE TABLE livepulse.{table}")
    return connected


def client_of(up: Embedded, compress: bool | str) -> Client:
    port = int(up.url.rpartition(":")[2])
    return clickhouse_connect.get_client(
        host="127.0.0.1", port=port, username=up.user, password=up.token, database="livepulse", compress=compress
    )


def kill_9(up: Embedded) -> None:
    assert up.process is not None
    os.kill(up.pid, signal.SIGKILL)
    up.process.wait()


def read(up: Embedded, sql: str, **parameters: object) -> str:
    with urlopen(f"{up.read_url}/?{urlencode(parameters)}", data=sql.encode()) as answer:
        return str(answer.read().decode())


def active(**changes: object) -> pl.DataFrame:
    row = {
        "window_start": T0, "window_seconds": 60, "dim": "all", "value": "", "events": 1, "users": 1, "watch_ms": 0,
        "is_final": 0, "version": 1,
    }  # fmt: skip
    return pl.DataFrame({k: [v] for k, v in (row | changes).items()}, schema_overrides={"version": pl.UInt64})


# The store's process


def test_the_directory_says_where_the_store_is_and_keeps_its_secret(up: Embedded) -> None:
    told = json.loads((up.directory / "endpoint.json").read_text())
    assert told["url"] == up.url
    assert told["read_url"] == up.read_url
    assert told["pid"] == up.pid
    assert stat.S_IMODE((up.directory / "token").stat().st_mode) == 0o600
    assert up.token not in (up.directory / "endpoint.json").read_text()


def test_a_second_start_attaches(up: Embedded) -> None:
    again = embedded.start(up.directory)
    assert (again.pid, again.url, again.process) == (up.pid, up.url, None)
    again.stop()  # not ours to stop
    assert embedded.attach(up.directory) is not None


def test_a_second_process_is_refused(up: Embedded) -> None:
    command = [sys.executable, "-m", "sinks.gateway", "--dir", str(up.directory)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 75
    assert "another process has the store" in second.stderr


def test_starting_takes_less_than_a_second_and_a_half_and_stopping_leaves_no_endpoint(tmp_path: Path) -> None:
    began = time.monotonic()
    fresh = embedded.start(tmp_path)
    took = time.monotonic() - began
    fresh.stop()
    assert fresh.process is not None
    assert fresh.process.returncode == 0
    assert not (tmp_path / "endpoint.json").exists()
    assert took < 1.5 * max(1.0, os.getloadavg()[0])  # a loaded machine is slower by its load


def test_acknowledged_rows_survive_kill_9(tmp_path: Path) -> None:
    for round_ in range(2):
        up = embedded.start(tmp_path)
        store = Store.connect(up.url, user=up.user, password=up.token)
        store.migrate()
        assert store.query("SELECT count() AS n FROM active_users") == [{"n": 5 * round_}]
        for minute in range(5):
            store.insert("active_users", active(window_start=T0 + (5 * round_ + minute) * 60_000))
        kill_9(up)
        assert embedded.attach(tmp_path) is None  # endpoint.json is there still
    assert embedded.ask(tmp_path, "SELECT count() FROM active_users FINAL") == b"10\n"


def test_the_store_dies_with_its_parent(tmp_path: Path) -> None:
    started = f"embedded.start({str(tmp_path)!r}, die_with_parent=True)"
    code = f"from sinks import embedded; print({started}.pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the store outlived its parent by 10 s")
    assert not (tmp_path / "endpoint.json").exists()


def test_a_question_is_answered_whether_the_store_is_up_or_not(tmp_path: Path) -> None:
    with pytest.raises(embedded.EmbeddedError, match="there is no store in"):
        embedded.ask(tmp_path / "none", "SELECT 1")
    up = embedded.start(tmp_path)
    store = Store.connect(up.url, user=up.user, password=up.token)
    store.migrate()
    store.insert("active_users", active(users=7))
    sql = "SELECT users FROM active_users FORMAT JSONEachRow"
    assert embedded.ask(tmp_path, sql) == b'{"users":7}\n'
    up.stop()
    assert embedded.ask(tmp_path, sql) == b'{"users":7}\n'
    assert embedded.ask(tmp_path, "SELECT users FROM active_users", default_format="CSV") == b"7\n"
    with pytest.raises(embedded.QueryError, match="UNKNOWN_TABLE"):
        embedded.ask(tmp_path, "SELECT * FROM nothing")
    with pytest.raises(embedded.QueryError, match="ACCESS_DENIED"):
        embedded.ask(tmp_path, "SELECT 1 INTO OUTFILE '/tmp/x'")


# ClickHouse HTTP


@pytest.mark.parametrize("compress", [False, True, "lz4", "zstd", "gzip"])
def test_clickhouse_connect_works_as_it_is(up: Embedded, store: Store, compress: bool | str) -> None:
    client = client_of(up, compress)
    client.command("CREATE TABLE IF NOT EXISTS c (a UInt64, b String, t DateTime64(3, 'UTC')) ENGINE = Memory")
    client.command("TRUNCATE TABLE c")
    when = dt.datetime(2024, 2, 29, 12, 0, 0, 123_000)  # noqa: DTZ001  # as the client takes and gives UTC
    client.insert("c", [[1, "ä'\\\n", when]], column_names=["a", "b", "t"])
    client.insert_arrow("c", pa.table({"a": pa.array([2], pa.uint64()), "b": ["arrow"]}))
    client.insert_df("c", pl.DataFrame({"a": [3], "b": ["df"]}).to_pandas())
    client.raw_insert("c", ["a", "b"], b'{"a": 4, "b": "raw"}', fmt="JSONEachRow")
    rows = client.query("SELECT a, b, t FROM c ORDER BY a").result_rows
    assert rows[0][:3] == (1, "ä'\\\n", when)
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    assert client.query_arrow("SELECT b FROM c ORDER BY a")["b"].to_pylist()[1:] == ["arrow", "df", "raw"]
    assert client.query("SELECT {x:String}", parameters={"x": "it's"}).result_rows == [("it's",)]
    assert client.query("SELECT length({x:String})", parameters={"x": "y" * 200_000}).result_rows == [(200_000,)]
    assert client.command("SELECT count() FROM c") == 4
    assert client.query("SELECT a FROM c WHERE a = 9").result_rows == []
    with client.query_row_block_stream("SELECT number FROM numbers(200000)") as blocks:
        assert sum(len(block) for block in blocks) == 200_000
    client.command("DROP TABLE c")


def test_the_read_only_endpoint_works_with_clickhouse_connect(up: Embedded, store: Store) -> None:
    store.insert("active_users", active(users=3))
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=int(up.read_url.rpartition(":")[2]), database="livepulse"
    )
    assert client.query("SELECT users FROM active_users").result_rows == [(3,)]
    assert client.query_arrow("SELECT users FROM active_users")["users"].to_pylist() == [3]
    for sql in ("INSERT INTO active_users_rows (users) VALUES (1)", "DROP TABLE active_users_rows"):
        with pytest.raises(DatabaseError, match="ACCESS_DENIED"):
            client.command(sql)


def test_curl_s_three_ways_in(up: Embedded, store: Store) -> None:
    assert read(up, "", query="SELECT 1 + 1 FORMAT CSV") == "2\n"
    assert read(up, "SELECT 1 AS x FORMAT JSONEachRow") == '{"x":1}\n'
    assert read(up, "SELECT {x:UInt8} + 1", param_x="4") == "5\n"
    auth = {"X-ClickHouse-User": up.user, "X-ClickHouse-Key": up.token}
    statement = "INSERT INTO topic_lifecycle_rows (topic, version) FORMAT JSONEachRow"
    body = b'{"topic": "a", "version": 1}\n{"topic": "b", "version": 1}\n'
    for encoding, packed in (("identity", body), ("gzip", gzip.compress(body.replace(b"a", b"c")))):
        headers = auth | {"Content-Encoding": encoding}
        with urlopen(Request(f"{up.url}/?query={quote(statement)}", data=packed, headers=headers)) as answer:
            assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    with urlopen(Request(up.url, data=b"INSERT INTO topic_lifecycle_rows (topic) VALUES ('v')", headers=auth)):
        pass
    assert read(up, "SELECT topic FROM topic_lifecycle ORDER BY topic") == "a\nb\nc\nv\n"


@pytest.mark.parametrize(
    ("sql", "status", "code", "name"),
    [
        ("SELECT * FROM nothing", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT nothing", 404, 47, "UNKNOWN_IDENTIFIER"),
        ("SELEC 1", 400, 62, "SYNTAX_ERROR"),
        ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("DROP TABLE active_users_rows", 403, 497, "ACCESS_DENIED"),
    ],
)
def test_errors_come_as_clickhouse_gives_them(
    up: Embedded, store: Store, sql: str, status: int, code: int, name: str
) -> None:
    with pytest.raises(HTTPError) as failed:
        read(up, sql)
    assert failed.value.code == status
    assert failed.value.headers["X-ClickHouse-Exception-Code"] == str(code)
    text = failed.value.read().decode()
    assert text.startswith(f"Code: {code}. DB::Exception: ")
    assert f"({name})" in text


def test_the_engine_s_endpoint_wants_the_token(up: Embedded) -> None:
    for headers in ({}, {"X-ClickHouse-User": up.user, "X-ClickHouse-Key": "wrong"}):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(up.url, data=b"SELECT 1", headers=headers))
        assert refused.value.code == 403
        assert refused.value.headers["X-ClickHouse-Exception-Code"] == "516"


def test_a_page_under_another_name_is_refused(up: Embedded) -> None:
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(up.read_url, data=b"SELECT 1", headers={"Host": "attacker.example"}))
    assert refused.value.code == 403


def test_settings_of_one_request_do_not_reach_the_next(up: Embedded) -> None:
    assert read(up, "SELECT getSetting('max_block_size')", max_block_size="77") == "77\n"
    assert read(up, "SELECT getSetting('max_block_size')") != "77\n"
    with pytest.raises(HTTPError, match="500"):  # READONLY
        read(up, "SELECT 1", max_memory_usage_for_user="0")


def test_reads_run_beside_writes(up: Embedded, store: Store) -> None:
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                assert int(read(up, "SELECT count() FROM active_users")) >= 0
        except BaseException as error:  # noqa: BLE001  # a thread's failure must reach the test
            failures.append(error)

    readers = [threading.Thread(target=ask) for _ in range(4)]
    for reader in readers:
        reader.start()
    for minute in range(20):
        store.insert("active_users", active(window_start=T0 + minute * 60_000))
    for reader in readers:
        reader.join()
    assert not failures
    assert int(read(up, "SELECT count() FROM active_users")) == 20


def test_a_large_answer_comes_whole_and_a_client_may_leave_it(up: Embedded) -> None:
    assert read(up, "SELECT number FROM numbers(2000000)").count("\n") == 2_000_000
    with urlopen(f"{up.read_url}/?query={quote('SELECT number FROM numbers(5000000)')}") as answer:
        assert answer.read(10) == b"0\n1\n2\n3\n4\n"
    assert read(up, "SELECT 1") == "1\n"


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
