"""The embedded store through clickhouse-connect's own HTTP client and plain HTTP."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import clickhouse_connect
import polars as pl
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks import embedded
from sinks.clickhouse import Store
from sinks.embedded import Embedded
from tests.integration.stores import T0, active, client_of, kill_9, read

pytestmark = pytest.mark.integration

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


def test_rows_sent_in_pieces_are_one_part(up: Embedded, store: Store) -> None:
    count = 50_000
    pieces = pl.concat([active()] * count).with_columns(value=pl.int_range(count).cast(pl.String))
    store.command("SYSTEM STOP MERGES active_users_rows")
    before = store.active_parts().get("active_users_rows", 0)
    try:
        store.insert("active_users", pieces)
        assert store.active_parts()["active_users_rows"] == before + 1
    finally:
        store.command("SYSTEM START MERGES active_users_rows")
    assert read(up, "SELECT uniqExact(value) FROM active_users WHERE value != ''").strip() == str(count)


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
