"""The two HTTP endpoints of the embedded store: the engine's (token, read and write) and everybody's (read-only).

A thread a connection, because a query blocks inside chDB anyway; results go out block by block, so that a large export
does not take the memory of its result.
"""

from __future__ import annotations

import gzip
import hmac
import json
import re
import secrets
import sys
import threading
import uuid
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from sinks import block_frames, native_frames, sql_guard
from sinks.block_frames import FrameError
from sinks.chdb_session import STREAMABLE, ClickHouseError, Database, Handle, Result, quote_name
from sinks.clickhouse_http import Request, insert_of, request_of, status_of, wants_blocks, wants_framing, wants_gzip
from sinks.http_body import HOSTS, SAFE_HEADERS, check_site, named, read_body

STORE_HEADER: Final = "X-LivePulse-Store"
MAX_BODY_BYTES: Final = 1 << 30
MAX_READ_BODY_BYTES: Final = 1 << 20
_ENGINE_TIMEOUT_SECONDS: Final = 600.0
_READER_TIMEOUT_SECONDS: Final = 60.0
_GZIP_LEVEL: Final = 3  # on one machine the time to compress counts for more than the bytes
_VERDICTS: Final = 1024  # texts that passed are remembered: boards ask the same ones again and again
_SELECT_FORMAT: Final = re.compile(r" Identifier (\w+)")
_SELECT: Final = re.compile(r"(?:\s|/\*.*?\*/|--[^\n]*\n|\()*+(?:SELECT|WITH|FROM)\b", re.IGNORECASE | re.DOTALL)
_TAIL_FORMAT: Final = re.compile(r"\bFORMAT\s+(\w+)[\s;]*$", re.IGNORECASE)


class Backend:
    """The engine behind both ports."""

    def __init__(self, directory: Path, database: str, caps: sql_guard.Caps, simultaneous_reads: int = 8) -> None:
        self.name = secrets.token_hex(8)
        self.database, self.caps = database, caps
        self.engine = Database(directory / "clickhouse")
        self.reads = threading.BoundedSemaphore(simultaneous_reads)
        self._passed: dict[tuple[str, frozenset[tuple[str, str]]], None] = {}
        with self.engine.handle() as handle:
            handle.run(f"CREATE DATABASE IF NOT EXISTS {quote_name(database)}")
            self.version = handle.run("SELECT version()").body.decode().strip()
            self._table_functions = frozenset(
                handle.run(
                    "SELECT lower(name) FROM system.table_functions"
                    " WHERE lower(name) NOT IN (SELECT lower(name) FROM system.functions)"
                ).body.decode().split()
            )  # fmt: skip

    def guard(self, sql: str, handle: Handle, request: Request) -> None:
        """Raise unless a reader may run `sql`."""
        key = (sql, frozenset(request.params.items()))
        if key in self._passed:
            return
        sql_guard.check(sql, handle, request.params, self._table_functions)
        if len(self._passed) >= _VERDICTS:
            self._passed.clear()
        self._passed[key] = None


class Endpoint(ThreadingHTTPServer):
    """A port of the store. `token`: the password of a read-write endpoint, None for the read-only one."""

    daemon_threads = True
    allow_reuse_address = True  # else a port that was just closed cannot be taken again for a minute

    def __init__(self, address: tuple[str, int], store: Backend, token: str | None) -> None:
        self.store, self.token = store, token
        super().__init__(address, Exchange)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's error; anything else is printed."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Exchange(BaseHTTPRequestHandler):
    """Requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "LivePulse"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Endpoint
    _gzip = False  # the answer under way is compressed
    _blocks = False  # and, within that, in ClickHouse's own blocks

    def setup(self) -> None:
        """A reader that stalls gives up its place sooner than the engine."""
        super().setup()
        self.connection.settimeout(_READER_TIMEOUT_SECONDS if self.server.token is None else _ENGINE_TIMEOUT_SECONDS)

    def do_GET(self) -> None:
        """A query in the URL, or `/ping`."""
        self._answer()

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._answer()

    def do_POST(self) -> None:
        """A query, or rows, in the body."""
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Silent: the engine reports, not its store."""

    def _answer(self) -> None:
        self._gzip = self._blocks = False
        try:
            body = self._body()
            check_site(named(self.headers), HOSTS | {str(self.server.server_address[0])})
            path = self.path.partition("?")[0]
            if path not in ("/", ""):
                self._plain(
                    200 if path == "/ping" else 404,
                    b"Ok.\n" if path == "/ping" else b"There is no handle " + path.encode() + b"\n",
                )
                return
            request = request_of(self.path, named(self.headers), body, self._body_max())
            self._authenticate(request)
            self._blocks = wants_blocks(request)
            if not request.text.strip():
                self._plain(200, b"Ok.\n")
            elif self.server.token is None:
                self._read(request)
            else:
                self._execute(request)
        except ClickHouseError as error:
            self._fail(error)
        except FrameError as error:
            self._fail(ClickHouseError.because(f"decompress=1: {error}", 271, "CANNOT_DECOMPRESS"))
        except native_frames.UnknownTypeError as error:
            self._fail(ClickHouseError.because(f"{error} is not spoken in this framing", 48, "NOT_IMPLEMENTED"))
        except ValueError as error:  # a length, a chunk or a header that is none
            self.close_connection = True
            self._fail(ClickHouseError.because(f"malformed request: {error}", 36, "BAD_ARGUMENTS"))

    def _authenticate(self, request: Request) -> None:
        token = self.server.token
        if token is not None and not hmac.compare_digest(request.password.encode(), token.encode()):
            user = request.user or "default"
            raise ClickHouseError.because(
                f"{user}: Authentication failed: password is incorrect", 516, "AUTHENTICATION_FAILED"
            )

    def _read(self, request: Request) -> None:
        """One guarded statement."""
        store = self.server.store
        sql = request.text.decode(errors="replace")
        settings = store.caps.settings(request.settings)
        if not store.reads.acquire(timeout=10.0):
            raise ClickHouseError.because("Too many simultaneous queries", 202, "TOO_MANY_SIMULTANEOUS_QUERIES")
        try:
            with store.engine.handle() as handle:
                self._use(handle, request)
                handle.set(settings)
                store.guard(sql, handle, request)
                self._run(handle, sql, request)
        finally:
            store.reads.release()

    def _execute(self, request: Request) -> None:
        """Any statement of the engine's own."""
        with self.server.store.engine.handle() as handle:
            self._use(handle, request)
            handle.set(request.settings)
            insert = insert_of(request)
            if insert is not None:
                self._send(handle.insert(insert.statement, insert.fmt, insert.rows), None)
            else:
                self._run(handle, request.text.decode(errors="surrogateescape"), request)

    def _use(self, handle: Handle, request: Request) -> None:
        handle.use(
            request.parameters.get("database")
            or self.headers.get("X-ClickHouse-Database")
            or self.server.store.database
        )

    def _run(self, handle: Handle, sql: str, request: Request) -> None:
        """Run a statement and send its result: block by block where the format allows, else whole."""
        wanted = request.parameters.get("default_format") or self.headers.get("X-ClickHouse-Format") or ""
        default = wanted if wanted.isidentifier() else "TabSeparated"
        fmt = _format_of(handle, sql, request, default)
        self._gzip = wants_gzip(request, self.headers.get("Accept-Encoding", ""))
        if fmt in STREAMABLE and _SELECT.match(sql):
            with closing(handle.stream(sql, fmt, request.params)) as blocks:  # before the handle is, come what may
                self._send_stream(_shaped(blocks, fmt, request), fmt)
        else:
            result = handle.run(sql, default, request.params)
            if fmt == "Native" and wants_framing(request):
                result = replace(result, body=native_frames.framed(result.body))
            self._send(result, fmt)

    def _send_stream(self, blocks: Iterator[bytes], fmt: str) -> None:
        """The first blocks decide the status; an error after them can only break the body, as with ClickHouse."""
        first = next(blocks, b"")
        second = next(blocks, None)
        if second is None:
            self._send(Result(first), fmt)
            return
        self._head(200, fmt, None)
        if self.command == "HEAD":
            return
        packer = zlib.compressobj(_GZIP_LEVEL, wbits=31) if self._gzip else None
        pack = packer.compress if packer else bytes
        try:
            for block in (first, second):
                self._chunk(pack(self._framed(block)))
            for block in blocks:
                self._chunk(pack(self._framed(block)))
        except ClickHouseError as error:
            self._chunk(pack(self._framed(b"\n" + error.message.encode() + b"\n")))
            self._chunk(packer.flush() if packer else b"")
            self.close_connection = True
        else:
            self._chunk(packer.flush() if packer else b"")
            self.wfile.write(b"0\r\n\r\n")

    def _framed(self, data: bytes) -> bytes:
        return block_frames.framed(data) if self._blocks else data

    def _chunk(self, block: bytes) -> None:
        if not block:
            return  # an empty chunk would be the end
        self.wfile.write(f"{len(block):x}\r\n".encode())
        self.wfile.write(block)
        self.wfile.write(b"\r\n")

    def _send(self, result: Result, fmt: str | None) -> None:
        summary = {
            "read_rows": str(result.read_rows), "read_bytes": str(result.read_bytes),
            "written_rows": str(result.written_rows),
            "written_bytes": str(result.written_bytes), "elapsed_ns": str(result.elapsed_ns),
        }  # fmt: skip
        body = self._framed(result.body)
        body = gzip.compress(body, _GZIP_LEVEL) if self._gzip else body
        self._head(200, fmt, len(body), {"X-ClickHouse-Summary": json.dumps(summary, separators=(",", ":"))})
        self._write(body)

    def _fail(self, error: ClickHouseError) -> None:
        self._gzip = False
        body = self._framed(f"{error.message} (version {self.server.store.version})\n".encode(errors="replace"))
        self._head(status_of(error.code), None, len(body), {"X-ClickHouse-Exception-Code": str(error.code or 1002)})
        self._write(body)

    def _plain(self, status: int, body: bytes) -> None:
        self._head(status, None, len(body))
        self._write(body)

    def _write(self, body: bytes) -> None:
        """A body, which HEAD has none of: the next answer would begin within it."""
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, fmt: str | None, length: int | None, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _content_type(fmt))
        self.send_header("X-ClickHouse-Server-Display-Name", "livepulse")
        self.send_header("X-ClickHouse-Timezone", "UTC")
        self.send_header("X-ClickHouse-Query-Id", str(uuid.uuid4()))
        self.send_header(STORE_HEADER, self.server.store.name)
        if fmt is not None:
            self.send_header("X-ClickHouse-Format", fmt)
        if self._gzip:
            self.send_header("Content-Encoding", "gzip")
        for name, value in {**SAFE_HEADERS, **(extra or {})}.items():
            self.send_header(name, value)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _body(self) -> bytes:
        """The raw body. One that cannot be read ends the connection: nobody knows where the next request begins."""
        kept, self.close_connection = self.close_connection, True
        body = read_body(self.rfile, named(self.headers), self._body_max())
        self.close_connection = kept
        return body

    def _body_max(self) -> int:
        return MAX_BODY_BYTES if self.server.token is not None else MAX_READ_BODY_BYTES


def _shaped(blocks: Iterator[bytes], fmt: str, request: Request) -> Iterator[bytes]:
    """Blocks as the client wants them framed."""
    return map(native_frames.framed, blocks) if fmt == "Native" and wants_framing(request) else blocks


def _format_of(handle: Handle, sql: str, request: Request, default: str) -> str | None:
    """The format that a statement's result comes in; None when it has no result."""
    if handle.classify(sql).kind != "READ_ONLY":
        return None
    if "format" not in sql.lower():
        return default
    if _SELECT.match(sql):  # children of the tree's root: the selects, then FORMAT's name and SETTINGS
        tree = handle.syntax_tree(sql, request.params)
        named = [found.group(1) for line in tree if (found := _SELECT_FORMAT.fullmatch(line))]
        return named[-1] if named else default
    written = _TAIL_FORMAT.search(sql)
    return written.group(1) if written else default


def _content_type(fmt: str | None) -> str:
    """As ClickHouse names it."""
    if fmt is None:
        return "text/plain; charset=UTF-8"
    if fmt.startswith("JSON"):
        return "application/x-ndjson; charset=UTF-8" if fmt.endswith("EachRow") else "application/json; charset=UTF-8"
    if fmt.startswith("CSV"):
        return "text/csv; charset=UTF-8"
    if fmt.startswith(("Tab", "TSV")):
        return "text/tab-separated-values; charset=UTF-8"
    return (
        "text/plain; charset=UTF-8"
        if fmt.startswith(("Pretty", "Vertical", "Values", "Markdown"))
        else "application/octet-stream"
    )
