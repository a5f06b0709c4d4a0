"""What readers may do and may not: the read-only endpoint and the port that `livepulse serve` puts before it."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import subprocess
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks import block_frames, native_frames
from sinks.clickhouse import Store
from sinks.embedded import Embedded
from sinks.readers import basic, front, reader_of
from tests.integration.stores import active

pytestmark = pytest.mark.integration
READER = ("analyst", "correct horse")
GO = Path(__file__).resolve().parents[1] / "go"


@pytest.fixture(scope="module")
def port(up: Embedded) -> Iterator[str]:
    with front(up, 0) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(up: Embedded) -> Iterator[str]:
    with front(up, 0, READER) as url:
        yield url


def ask(url: str, sql: str, headers: dict[str, str] | None = None, **parameters: object) -> bytes:
    with urlopen(Request(f"{url}/?{urlencode(parameters)}", data=sql.encode(), headers=headers or {})) as answer:
        return bytes(answer.read())


def refused(url: str, sql: str, **parameters: object) -> tuple[int, str]:
    with pytest.raises(HTTPError) as error:
        ask(url, sql, **parameters)
    text = error.value.read().decode()
    assert text.startswith(f"Code: {error.value.headers['X-ClickHouse-Exception-Code']}. DB::Exception: ")
    return error.value.code, text


def test_clients_of_all_kinds_are_answered(port: str, store: Store) -> None:
    store.insert("active_users", active(users=7))
    assert ask(port, "SELECT users FROM active_users", default_format="JSONEachRow") == b'{"users":7}\n'
    assert ask(port, "SELECT {n:UInt8} + 1", param_n="41") == b"42\n"
    assert ask(port, "SELECT currentDatabase()", database="system") == b"system\n"
    with urlopen(f"{port}/?{urlencode({'query': 'SELECT 1 FORMAT CSV'})}") as answer:
        assert answer.read() == b"1\n"
        assert answer.headers["Content-Type"].startswith("text/csv")
    with urlopen(f"{port}/ping") as answer:
        assert answer.read() == b"Ok.\n"
    assert ask(port, "", query="SELECT 'in the URL'") == b"in the URL\n"


def test_answers_are_compressed_when_both_sides_ask(port: str) -> None:
    sql = "SELECT number FROM numbers(100000) FORMAT TSV"
    plain = ask(port, sql)
    packed = ask(port, sql, {"Accept-Encoding": "gzip"}, enable_http_compression=1)
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain)
    assert ask(port, sql, {"Accept-Encoding": "gzip"}) == plain
    body = gzip.compress(b"SELECT 2")
    with urlopen(Request(port, data=body, headers={"Content-Encoding": "gzip"})) as answer:
        assert answer.read() == b"2\n"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4", "zstd"])
def test_a_body_that_unpacks_to_gigabytes_is_refused(port: str, encoding: str) -> None:
    codecs = {"gzip": gzip, "deflate": zlib, "lz4": import_module("lz4.frame"), "zstd": import_module("backports.zstd")}
    pack = codecs[encoding].compress
    for body, status, told in (
        (pack(b"SELECT 3"), 200, "3\n"),
        (pack(b"SELECT ") + pack(b"4"), 200, "4\n"),
        (pack(b"SELECT 5 -- " + b"x" * 100)[:-4], 500, "cut short|body"),
        (pack(b"SELECT 6 -- " + b"x" * (100 << 20)), 413, "bytes unpacked"),
    ):
        try:
            with urlopen(Request(port, data=body, headers={"Content-Encoding": encoding})) as answer:
                found = answer.status, answer.read().decode()
        except HTTPError as error:
            found = error.code, error.read().decode()
        assert found[0] == status, found
        assert re.search(told, found[1]), found


@pytest.mark.parametrize(
    "attack",
    [
        "SELECT 1 INTO OUTFILE '/tmp/livepulse-attack'",
        "SELECT * FROM file('/etc/passwd')",
        "SELECT file('/etc/passwd')",
        "SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a String')",
        "SELECT * FROM remote('127.0.0.1:9000', system.one)",
        "SELECT * FROM executable('id', TSV, 'a String')",
        "SELECT 1; DROP TABLE events_rows",
        "SELECT 1;;SELECT 2",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "DROP DATABASE livepulse",
        "INSERT INTO events_rows VALUES (1)",
        "CREATE TABLE x (a UInt8) ENGINE = Memory",
        "SYSTEM SHUTDOWN",
        "KILL QUERY WHERE 1",
        "ATTACH TABLE x FROM '/tmp'",
        "SELECT * FROM s3('http://127.0.0.1/x')",
        "SELECT * FROM cluster('c', system.one)",
        "SELECT sleep(3)",
        "SELECT arrayMap(file, ['/etc/passwd'])",
        "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "CREATE FUNCTION f AS (x) -> x",
        "GRANT ALL ON *.* TO default",
        "BACKUP DATABASE livepulse TO Disk('d', 'x')",
        "SELECT * FROM view(SELECT * FROM file('/etc/passwd'))",
        "WITH x AS (SELECT file('/etc/hosts')) SELECT * FROM x",
        "SELECT 1 /* ; */ FORMAT TSV INTO OUTFILE 'x'",
        "EXPLAIN SELECT * FROM file('/etc/passwd')",
        "SELECT * FROM system.one WHERE dummy IN remote('127.0.0.1', system.one)",
        "USE system",
        "SELECT \0 1",
        "INSERT INTO FUNCTION file('/tmp/livepulse-attack') SELECT 1",
        "DESCRIBE TABLE file('/etc/passwd')",
    ],
)
def test_attacks_are_refused(port: str, attack: str) -> None:
    status, text = refused(port, attack)
    assert status in (400, 403, 404, 500), text
    assert "root:" not in text
    assert not Path("/tmp/livepulse-attack").exists()
    assert ask(port, "SELECT 1") == b"1\n"


@pytest.mark.parametrize("setting", ["readonly", "allow_ddl", "allow_introspection_functions"])
def test_settings_that_would_open_the_door_have_no_effect(port: str, setting: str) -> None:
    assert refused(port, "CREATE TABLE y (a UInt8) ENGINE = Memory", **{setting: "0"})[0] == 403
    assert refused(port, "SELECT 1", max_untracked_memory=1)[0] in (403, 500)


def test_a_slow_query_ends_in_time(port: str) -> None:
    began = time.monotonic()
    status, text = refused(port, "SELECT sum(cityHash64(number)) FROM numbers(1e12)", max_execution_time=1)
    assert status == 408
    assert "TIMEOUT_EXCEEDED" in text
    assert time.monotonic() - began < 15


def test_a_huge_result_is_cut_off_and_a_hungry_query_refused(port: str) -> None:
    assert "TOO_MANY_ROWS" in refused(port, "SELECT number FROM numbers(1e6) FORMAT JSON", max_result_rows=1000)[1]
    assert "MEMORY_LIMIT" in refused(
        port, "SELECT length(groupArray(toString(number))) FROM numbers(5e7)", max_memory_usage=50_000_000
    )[1]  # fmt: skip
    assert refused(port, "SELECT '" + "x" * 300_000 + "'")[0] in (400, 403, 500)


def test_many_readers_at_once(port: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ask(port, f"SELECT {n} + sum(number) FROM numbers(1000)"), range(64)))
    assert answers == [f"{n + 499_500}\n".encode() for n in range(64)]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/../../etc/passwd", {}, 404), ("GET", "/play", {}, 404), ("GET", "/%2e%2e/token", {}, 404),
        ("POST", "/", {"Host": "evil.example"}, 403), ("POST", "/", {"Content-Length": "-1"}, 413),
        ("POST", "/", {"Content-Length": "99999999999"}, 413), ("POST", "/", {"Content-Length": "x"}, 400),
        ("PUT", "/", {}, 501), ("DELETE", "/", {}, 501), ("TRACE", "/", {}, 501),
    ],
)  # fmt: skip
def test_tricks_with_headers_and_paths(port: str, method: str, path: str, headers: dict[str, str], status: int) -> None:
    parts = urlsplit(port)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()
    assert ask(port, "SELECT 1") == b"1\n"


def test_a_user_is_asked_for_when_one_is_set(guarded: str) -> None:
    with pytest.raises(HTTPError) as error:
        ask(guarded, "SELECT 1")
    assert error.value.code == 403
    assert "AUTHENTICATION_FAILED" in error.value.read().decode()
    for headers in ({"Authorization": basic(*READER)}, {"X-ClickHouse-User": READER[0], "X-ClickHouse-Key": READER[1]}):
        assert ask(guarded, "SELECT 1", headers) == b"1\n"
    assert ask(guarded, "SELECT 1", user=READER[0], password=READER[1]) == b"1\n"
    for user, password in (("analyst", "wrong"), ("", ""), ("analyst\0correct horse", ""), ("ä", "ö")):
        assert refused(guarded, "SELECT 1", user=user, password=password)[0] == 403
    with urlopen(f"{guarded}/ping") as answer:
        assert answer.status == 200


def test_a_user_needs_a_password(tmp_path: Path) -> None:
    empty = tmp_path / "password"
    empty.write_text("\n")
    for user, file in (("a", None), ("", empty), ("a", empty)):
        with pytest.raises(ValueError, match=r"needs|is empty"):
            reader_of(user, file)


def test_clickhouse_connect_through_the_guarded_port(guarded: str) -> None:
    parts = urlsplit(guarded)
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=parts.port or 0,
        username=READER[0],
        password=READER[1],
        database="livepulse",
        compress=True,
    )
    assert client.query("SELECT number FROM numbers(3)").result_rows == [(0,), (1,), (2,)]
    with pytest.raises(DatabaseError):
        client.command("CREATE TABLE z (a UInt8) ENGINE = Memory")
    client.close()


def test_clickhouse_s_own_blocks_both_ways(port: str, guarded: str) -> None:
    big = "SELECT number, repeat('x', 100) FROM numbers(300000) ORDER BY number"
    for sql in ("SELECT 1", "SELECT 1 WHERE 0", "SHOW TABLES", big):
        for more in ({}, {"Accept-Encoding": "gzip"}):
            packed = ask(port, sql, more, compress=1, enable_http_compression=1)
            if more:
                packed = gzip.decompress(packed)
            assert block_frames.unframed(packed, 1 << 30) == ask(port, sql)
    assert len(ask(port, big, compress=1)) < len(ask(port, big)) / 5
    question = block_frames.framed(b"SELECT 2").decode("latin-1")
    with urlopen(Request(f"{port}/?decompress=1", data=question.encode("latin-1"))) as answer:
        assert answer.read() == b"2\n"
    with pytest.raises(HTTPError) as error:  # as ClickHouse: once a query is known, its error is framed as well
        ask(port, "SELECT nothing", compress=1)
    assert b"UNKNOWN_IDENTIFIER" in block_frames.unframed(error.value.read(), 1 << 20)
    with pytest.raises(HTTPError) as error:  # who may not ask is told so in the clear
        ask(guarded, "SELECT 1", compress=1)
    assert error.value.read().startswith(b"Code: ")


def test_blocks_that_are_none_or_a_bomb_are_refused(port: str) -> None:
    good = block_frames.framed(b"SELECT 2")
    bomb = block_frames.framed(b"SELECT 1" + b" " * (1 << 21))
    for body in (b"SELECT 2", good[:-1], good[:20], bytes([good[0] ^ 1]) + good[1:], bomb):
        with pytest.raises(HTTPError) as error:
            urlopen(Request(f"{port}/?decompress=1", data=body))
        assert "CANNOT_DECOMPRESS" in error.value.read().decode()


NATIVE = """SELECT number AS n, toLowCardinality(toString(number % 3)) AS low, toNullable(number) AS maybe,
    [(toString(number), 1)] AS pairs, map('a', number) AS m, toFixedString('ab', 2) AS f, toDecimal128(number, 3) AS d,
    CAST(number % 2, 'Enum8(\\'a(\\' = 0, \\'b,\\' = 1)') AS e, tuple(number, 'x')::Tuple(a UInt8, b String) AS t,
    arrayMap(x -> toLowCardinality(toString(x)), range(number % 4)) AS lows, toDateTime64(number, 3, 'UTC') AS at,
    toLowCardinality(toNullable(toString(number % 2))) AS lownull, toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0') AS u
    FROM numbers({rows}) FORMAT Native"""


@pytest.mark.parametrize("rows", [0, 1, 70_000])
def test_every_layout_of_native_is_walked_to_its_end(port: str, rows: int) -> None:
    plain = ask(port, NATIVE.replace("{rows}", str(rows)))
    framed = ask(port, NATIVE.replace("{rows}", str(rows)), client_protocol_version=54_460)
    assert framed == native_frames.framed(plain)
    columns = 13
    blocks = framed.count(native_frames.BLOCK_INFO)
    assert len(framed) - len(plain) == blocks * (len(native_frames.BLOCK_INFO) + columns)
    with pytest.raises((ValueError, IndexError)):
        native_frames.framed((plain or b"\x01\x01\x01a\x05UInt8")[:-1] + b"")


def test_a_type_without_a_known_layout_is_refused_and_not_garbled(port: str) -> None:
    status, text = refused(
        port, "SELECT CAST(1, 'Variant(UInt8, String)') AS v", default_format="Native", client_protocol_version=54460
    )
    assert (status, "NOT_IMPLEMENTED" in text) == (501, True)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_the_driver_of_the_grafana_plugin_reads_it(guarded: str, tmp_path: Path) -> None:
    program = tmp_path / "client"
    built = subprocess.run(
        ["go", "build", "-o", str(program), "."], cwd=GO, capture_output=True, text=True, check=False, timeout=280
    )
    if built.returncode and "dial tcp" in built.stderr:
        pytest.skip("clickhouse-go cannot be fetched here")
    assert built.returncode == 0, built.stderr
    for method in ("none", "gzip", "lz4"):
        environment = {**os.environ, "READER": READER[0], "READER_PASSWORD": READER[1], "COMPRESS": method}
        told = subprocess.run(
            [str(program), urlsplit(guarded).netloc],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=60,
        )
        assert told.returncode == 0, told.stderr
        assert told.stdout == "rows 200000 sum 10000000000\nrefused true\n"


def test_summary_and_format_are_told_as_clickhouse_tells_them(port: str) -> None:
    with urlopen(f"{port}/?{urlencode({'query': 'SELECT 1 AS a FORMAT JSON'})}") as answer:
        assert answer.headers["X-ClickHouse-Format"] == "JSON"
        assert json.loads(answer.headers["X-ClickHouse-Summary"]).keys() >= {"read_rows", "elapsed_ns"}
