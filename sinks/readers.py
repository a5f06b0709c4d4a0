"""A port for ClickHouse clients, fixed and with a user if wanted, in front of a store's read-only endpoint.

The store may have been started by an engine, with ports of its own choosing; `livepulse serve` puts this before it.
What passes is answered by the read-only endpoint, which guards every statement.
"""

from __future__ import annotations

import hmac
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sinks.chdb_session import ClickHouseError
from sinks.clickhouse_http import request_of, status_of
from sinks.embedded import Embedded
from sinks.http_body import HOSTS, SAFE_HEADERS, check_site, named, read_body

HOST: Final = "127.0.0.1"
MAX_BODY_BYTES: Final = 1 << 20
_TIMEOUT_SECONDS: Final = 60.0
_SKIPPED: Final = frozenset(
    {
        "connection",
        "transfer-encoding",
        "content-length",
        "host",
        "authorization",
        "keep-alive",
        "origin",
        "sec-fetch-site",
    }
)
_LOGIN: Final = ("x-clickhouse-user", "x-clickhouse-key")


def reader_of(user: str, password_file: Path | None) -> tuple[str, str]:
    """User and password. Errors: `ValueError` unless both are there."""
    if not user or password_file is None:
        raise ValueError("a user needs a password file, and a password file a user")
    password = password_file.read_text(encoding="utf-8").strip()
    if not password:
        raise ValueError(f"{password_file} is empty")
    return user, password


class Front(ThreadingHTTPServer):
    """The port. `reader`: user and password that a client must give; None: nobody is asked."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, behind: str, reader: tuple[str, str] | None) -> None:
        self.behind, self.reader = urlsplit(behind), reader
        super().__init__((HOST, port), _Exchange)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's error."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "LivePulse"
    timeout = _TIMEOUT_SECONDS
    server: Front

    def do_GET(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Silent."""

    def _pass_on(self) -> None:
        try:
            body = self._body()
            check_site(named(self.headers), HOSTS)
            self._authenticate(body)
            self._forward(body)
        except ClickHouseError as error:
            self._fail(status_of(error.code), error)
        except ValueError as error:
            self.close_connection = True
            self._fail(400, ClickHouseError.because(f"malformed request: {error}", 36, "BAD_ARGUMENTS"))
        except (HTTPException, ConnectionError, TimeoutError) as error:
            self.close_connection = True
            self._fail(502, ClickHouseError.because(f"the store does not answer: {error}", 210, "NETWORK_ERROR"))

    def _authenticate(self, body: bytes) -> None:
        reader = self.server.reader
        if reader is None or self.path.partition("?")[0] == "/ping":
            return
        request = request_of(self.path, {**named(self.headers), "content-encoding": ""}, body, MAX_BODY_BYTES)
        given = f"{request.user}\0{request.password}".encode()
        if not hmac.compare_digest(given, "\0".join(reader).encode()):
            user = request.user or "default"
            raise ClickHouseError.because(f"{user}: Authentication failed: password is incorrect, or there is no user"
                                          " with such name", 516, "AUTHENTICATION_FAILED")  # fmt: skip

    def _forward(self, body: bytes) -> None:
        behind = self.server.behind
        connection = HTTPConnection(behind.hostname or HOST, behind.port, timeout=_TIMEOUT_SECONDS)
        headers = {n: v for n, v in self.headers.items() if n.lower() not in _SKIPPED and n.lower() not in _LOGIN}
        try:
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in (*_SKIPPED, "server", "date"):
                    self.send_header(name, value)
            length = response.getheader("Content-Length")
            self.send_header(*(("Content-Length", length) if length else ("Transfer-Encoding", "chunked")))
            self.end_headers()
            if self.command == "HEAD":
                return
            while block := response.read1(1 << 18):
                self.wfile.write(block if length else b"%x\r\n%s\r\n" % (len(block), block))
            if not length:
                self.wfile.write(b"0\r\n\r\n")
        finally:
            connection.close()

    def _body(self) -> bytes:
        """The raw body. One that cannot be read ends the connection: nobody knows where the next request begins."""
        kept, self.close_connection = self.close_connection, True
        body = read_body(self.rfile, named(self.headers), MAX_BODY_BYTES)
        self.close_connection = kept
        return body

    def _fail(self, status: int, error: ClickHouseError) -> None:
        body = f"{error.message}\n".encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        for name, value in SAFE_HEADERS.items():
            self.send_header(name, value)
        self.send_header("X-ClickHouse-Exception-Code", str(error.code))
        if status == 403 and error.code == 516:
            self.send_header("WWW-Authenticate", 'Basic realm="LivePulse"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def front(store: Embedded, port: int, reader: tuple[str, str] | None = None) -> Iterator[str]:
    """The port while the block lasts; yields its URL. Errors: `OSError` when the port is taken."""
    serving = Front(port, store.read_url, reader)
    thread = threading.Thread(target=serving.serve_forever, args=(0.1,), daemon=True, name="readers")
    thread.start()
    try:
        yield f"http://{HOST}:{serving.server_address[1]}"
    finally:
        serving.shutdown()
        serving.server_close()


def basic(user: str, password: str) -> str:
    """The header Authorization for a reader."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()
