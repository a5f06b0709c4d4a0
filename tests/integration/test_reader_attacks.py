"""What else was tried against the ports of a store: a browser's page as the hand, framing, forms, formats that write.

Each of these had an effect once, or is the neighbour of one that had.
"""

from __future__ import annotations

import socket
import stat
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from sinks import embedded
from sinks.clickhouse import Store
from sinks.embedded import Embedded
from sinks.http_body import SAFE_HEADERS, form_fields
from sinks.readers import front
from sinks.sql_guard import _LEAVE_THE_ANSWER

pytestmark = pytest.mark.integration
HEAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SCRIPT = "SELECT 'take(1)' FORMAT TSVRaw"


@pytest.fixture(scope="module")
def ports(up: Embedded) -> Iterator[dict[str, str]]:
    with front(up, 0) as url:
        yield {"front": url, "read": up.read_url}


@pytest.fixture(params=["front", "read"])
def port(request: pytest.FixtureRequest, ports: dict[str, str]) -> str:
    return ports[str(request.param)]


def get(url: str, sql: str, headers: dict[str, str] | None = None, **more: str) -> tuple[int, dict[str, str], bytes]:
    """As a page's `<script src>` would ask."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", "/?" + urlencode({"query": sql, **more}), headers=headers or {})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def raw(url: str, sent: bytes, seconds: float = 5) -> bytes:
    """Everything that comes back until the connection ends, or nothing comes any more."""
    with socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0), timeout=seconds) as one:
        one.sendall(sent)
        found = b""
        try:
            while data := one.recv(1 << 16):
                found += data
        except (TimeoutError, ConnectionError):
            pass
        return found


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
    ],
)
def test_a_page_from_elsewhere_cannot_ask(port: str, headers: dict[str, str]) -> None:
    """The port has no login by default: any page that an operator visits could have read it all by `<script src>`."""
    status, told, body = get(port, SCRIPT, headers)
    assert status == 403
    assert b"take(1)" not in body
    assert told["X-Content-Type-Options"] == "nosniff"


def test_no_answer_can_be_run_framed_or_embedded_by_a_page(port: str) -> None:
    for sql, status in ((SCRIPT, 200), ("SELECT number FROM numbers(200000) FORMAT TSV", 200), ("SELEC", 400)):
        found, told, _ = get(port, sql, {"Sec-Fetch-Site": "none"})
        assert found == status
        assert {name: told.get(name) for name in SAFE_HEADERS} == dict(SAFE_HEADERS)


def test_no_setting_of_a_format_writes_elsewhere(port: str, tmp_path: Path, connected: Store) -> None:
    """`output_format_schema` names a file that Protobuf overwrites, `readonly` or not."""
    target = tmp_path / "precious"
    target.write_text("mine")
    for name in _LEAVE_THE_ANSWER:
        status, _, body = get(port, "SELECT 1 AS a FORMAT Protobuf", **{name: str(target)})
        assert (status, b"READONLY" in body) == (500, True), name
    assert target.read_text() == "mine"
    assert get(port, "SELECT 1.5 AS a FORMAT JSONEachRow", output_format_json_quote_64bit_floats="1")[0] == 200
    texts = connected.query(
        "SELECT name FROM system.settings WHERE type = 'String' AND startsWith(name, 'output_format_')"
    )
    assert {row["name"] for row in texts} - _LEAVE_THE_ANSWER == {
        "output_format_pretty_grid_charset", "output_format_avro_codec", "output_format_avro_string_column_pattern",
        "output_format_orc_writer_time_zone_name", "output_format_sql_insert_table_name",
    }, "a new text setting of a format: does it name a file or an address?"  # fmt: skip


@pytest.mark.parametrize(
    "sent",
    [
        CHUNKED + b"-1\r\n" + b"x" * 4096,
        CHUNKED + b"5\r\nSELEC\r\n-1\r\n" + b"x" * 4096,
        CHUNKED + b"+8\r\nSELECT 7\r\n0\r\n\r\n",
        CHUNKED + b"0x8\r\nSELECT 7\r\n0\r\n\r\n",
        CHUNKED + b"0_8\r\nSELECT 7\r\n0\r\n\r\n",
        CHUNKED + b"8\r\nSELECT 77\r\n0\r\n\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"8\r\nSELECT 7\r\n0\r\n" + b"a: b\r\n" * 1_000,
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n8\r\nSELECT 7\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 8\r\n\r\n8\r\nSELECT 7\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 8\r\nContent-Length: 9\r\n\r\nSELECT 7x",
        HEAD + b"Content-Length: 0_8\r\n\r\nSELECT 7",
        HEAD + b"Content-Length: +8\r\n\r\nSELECT 7",
        HEAD + b"Content-Type: multipart/form-data\r\nContent-Length: 8\r\n\r\nSELECT 7",
    ],
)
def test_a_framing_that_can_be_read_in_two_ways_is_refused(port: str, sent: bytes) -> None:
    """A size of -1 read without end; what one side takes for a body another takes for the next request."""
    answer = raw(port, sent)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert answer.count(b"HTTP/1.1") == 1
    assert get(port, "SELECT 7")[2] == b"7\n"


def test_an_endless_chunk_takes_no_memory(up: Embedded, port: str) -> None:
    before = resident_mb(up.pid)
    address = (urlsplit(port).hostname or "", urlsplit(port).port or 0)
    with socket.create_connection(address, timeout=2) as one:
        one.sendall(CHUNKED + b"5\r\nSELEC\r\n-1\r\n")
        with pytest.raises((ConnectionError, TimeoutError)):
            send(one, 2_000 * 65_536)
    assert resident_mb(up.pid) - before < 40


def send(one: socket.socket, count: int) -> None:
    for _ in range(0, count, 65_536):
        one.sendall(b"x" * 65_536)


def resident_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_a_body_that_was_refused_is_no_request(port: str) -> None:
    """What is refused before its body is read must not leave the body as the connection's next request."""
    inner = b"GET /?query=SELECT+7 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    outer = b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: %d\r\n\r\n" % len(inner)
    answer = raw(port, outer + inner, seconds=1)
    assert answer.startswith(b"HTTP/1.1 403")
    assert answer.count(b"HTTP/1.1") == 1


def test_head_has_no_body(port: str) -> None:
    """An error's text after HEAD was the beginning of the next answer."""
    asked = b""
    for sql in (b"SELEC", b"SELECT+1", b"SELECT+number+FROM+numbers(200000)+FORMAT+TSV"):
        asked += b"HEAD /?query=" + sql + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for path in (b"/ping HTTP/1.1\r\n", b"/x HTTP/1.1\r\nConnection: close\r\n"):
        asked += b"HEAD " + path + b"Host: 127.0.0.1\r\n\r\n"
    answers = raw(port, asked, seconds=3).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"400", b"200", b"200", b"200", b"404"]
    assert all(answer.endswith(b"\r\n\r\n") and answer.count(b"\r\n\r\n") == 1 for answer in answers)


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def test_forms_of_all_kinds(port: str) -> None:
    """Parts of parts of parts filled the stack, and the store's log with its traceback."""
    kind = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    disposition = b'Content-Disposition: form-data; name="%s"\r\n\r\n%s'
    good = form(disposition % (b"query", b"SELECT {n:UInt8}"), disposition % (b"param_n", b"9"))
    assert raw(port, HEAD + kind % len(good) + good).endswith(b"\r\n\r\n9\n")
    deep = b"".join(b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (n, n + 1) for n in range(3_000))
    heads = form(b"Content-Disposition: form-data; " + b"a=b; " * 150_000 + b'name="query"\r\n\r\nSELECT 1')
    for body, told in (
        (deep.replace(b"--b0", b"--b", 1), b"HTTP/1.1"),
        (heads, b"HTTP/1.1 400"),
        (form(b'Content-Disposition: form-data; name="x"; filename="x"\r\n\r\n1'), b"HTTP/1.1 501"),
        (b"--b\r\n" * 170_000, b"HTTP/1.1 400"),
        (b"\xff" * 1_000_000, b"HTTP/1.1"),
    ):
        began = time.monotonic()
        assert raw(port, HEAD + kind % len(body) + body).startswith(told)
        assert time.monotonic() - began < 1
    assert get(port, "SELECT 7")[2] == b"7\n"


def test_fields_of_a_form_are_their_bytes() -> None:
    text = "SELECT '\r\n--c\r\n', 'ü'"
    body = f'--b\r\nContent-Disposition: form-data; name="query"\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--b--'
    assert form_fields('multipart/form-data; boundary="b"', body.encode()) == {"query": text}


def test_connections_that_say_nothing_hold_nobody_up(port: str) -> None:
    address = (urlsplit(port).hostname or "", urlsplit(port).port or 0)
    idle = [socket.create_connection(address, timeout=5) for _ in range(200)]
    try:
        for one in idle[:100]:
            one.sendall(HEAD + b"Content-Length: 1000\r\n\r\nSELECT")
        began = time.monotonic()
        assert get(port, "SELECT 7")[2] == b"7\n"
        assert time.monotonic() - began < 5
    finally:
        for one in idle:
            one.close()


@pytest.mark.parametrize(
    ("sql", "more"),
    [
        ("SELECT 1", {"session_timezone": "../../../etc/passwd"}),
        ("SELECT 1", {"database": "livepulse`; DROP DATABASE livepulse; --"}),
        ("SELECT * FROM {t:Identifier}", {"param_t": "file('/etc/passwd')"}),
        ("SELECT * FROM {t:Identifier}('/etc/passwd')", {"param_t": "file"}),
        ("SELECT {f:Identifier}('/etc/passwd')", {"param_f": "file"}),
        ("SELECT 1", {"default_format": "Template\r\nX-Injected: 1"}),
        ("SELECT 1 FORMAT Template", {"format_template_row": "/etc/passwd"}),
        ("SELECT 1 FORMAT CapnProto", {"format_schema": "/etc/passwd:x"}),
        ("SELECT 1", {"log_comment": "x" * 10_000}),
        ("SELECT 1", {"add_http_cors_header": "1"}),
        ("SELECT 1", {"http_response_headers": "{'X-Injected': '1'}"}),
        ("SELECT * FROM (EXPLAIN AST DROP TABLE events_rows)", {}),
        ("SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))", {}),
        ("SHOW CREATE USER default", {}),
        ("SELECT * FROM system.users", {}),
        ("SELECT repeat('x', 1000000000), repeat('y', 1000000000)", {}),
    ],
)
def test_parameters_are_no_way_in(port: str, sql: str, more: dict[str, str]) -> None:
    status, told, body = get(port, sql, None, **more)
    assert status >= 400 or body == b"1\n", body
    assert "X-Injected" not in told
    assert "Access-Control-Allow-Origin" not in told
    assert b"root:" not in body
    assert get(port, "SELECT count() FROM system.databases WHERE name = 'livepulse'")[2] == b"1\n"


@pytest.mark.parametrize(
    ("sql", "status"),
    [("/**/" * 60 + "SHOW TABLES", 200), ("--\n" * 60 + "SHOW TABLES", 200), (f"SELECT 1 AS {'a' * 60_000}", 200),
     ("/*" * 60_000, 400), (f"SELECT {'a.' * 60_000}b", 404)],
)  # fmt: skip
def test_a_text_made_for_patterns_is_soon_answered(port: str, sql: str, status: int) -> None:
    """While a pattern is looked for nobody else is answered, the engine included."""
    connection = HTTPConnection(urlsplit(port).netloc, timeout=20)
    connection.request("POST", "/", sql)
    assert connection.getresponse().status == status
    connection.close()


def test_a_store_directory_that_others_could_look_into_is_closed(tmp_path: Path) -> None:
    """chDB makes directories of mode 0777 in it: only the store's own keeps others out."""
    directory = tmp_path / "made-before"
    directory.mkdir(mode=0o755)
    up = embedded.start(directory, die_with_parent=True)
    try:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
    finally:
        up.stop()
