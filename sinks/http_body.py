"""What a request must be like before anything of it is believed: its framing, its size, and who may have sent it.

Both HTTP ports of a store (`sinks.endpoint`, `sinks.readers`) stand behind this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from email.message import Message
from io import BufferedIOBase
from typing import Final

from sinks.chdb_session import ClickHouseError

HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
SAFE_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
"""On every answer: else a page anywhere could run `SELECT 'take(' || … || ')'` as a script and have the rows."""
_OWN_SITES: Final = frozenset({"", "same-origin", "none"})
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_LINE_BYTES_MAX: Final = 1024
_TRAILERS_MAX: Final = 100


def named(headers: Message) -> dict[str, str]:
    """Headers by lower-case name; one that stands twice has both values, which is no length and no host."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def check_site(headers: Mapping[str, str], own: frozenset[str]) -> None:
    """Refuse what a page in a browser sends from elsewhere, or under a name of its own (DNS rebinding).

    `headers` by lower-case name; `own`: names of this host. ClickHouse clients send neither of the browsers' headers.
    """
    host = headers.get("host", "127.0.0.1").rsplit(":", 1)[0]
    if host not in own:
        raise ClickHouseError.because(f"host {host!r} is not this store", 497, "ACCESS_DENIED")
    origin = headers.get("origin", "")
    if headers.get("sec-fetch-site", "") not in _OWN_SITES or (
        origin and origin != f"http://{headers.get('host', '')}"
    ):
        raise ClickHouseError.because("pages from elsewhere may not ask this store", 497, "ACCESS_DENIED")


def read_body(stream: BufferedIOBase, headers: Mapping[str, str], limit: int) -> bytes:
    """The raw body, of at most `limit` bytes. After an error the rest of the connection is of no use.

    Errors: `ClickHouseError` over the limit, `ValueError` for a framing that is none, or that can be read in two ways.
    """
    coding, told = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if coding.strip().lower() != "chunked" or told is not None:
            raise ValueError("Transfer-Encoding is chunked, without a Content-Length")
        return b"".join(_chunks(stream, limit))
    told = (told or "0").strip()
    if told.startswith("-"):
        raise _too_large(limit)
    if not _LENGTH.fullmatch(told):
        raise ValueError("Content-Length is no number")
    if int(told) > limit:
        raise _too_large(limit)
    body = stream.read(int(told))
    if len(body) < int(told):  # the client is gone: half a statement may be another one
        raise ValueError("the body ends before its length")
    return body


def _chunks(stream: BufferedIOBase, limit: int) -> Iterator[bytes]:
    total = 0
    while True:
        head = _CHUNK.fullmatch(stream.readline(_LINE_BYTES_MAX))  # int() would take -1, which reads without end
        if head is None:
            raise ValueError("a chunk begins with its size")
        size = int(head.group(1), 16)
        if not size:
            break
        total += size
        if total > limit:
            raise _too_large(limit)
        chunk = stream.read(size)
        if len(chunk) < size:
            raise ValueError("the body ends within a chunk")
        yield chunk
        if stream.readline(3) not in (b"\r\n", b"\n"):
            raise ValueError("a chunk ends where its size says")
    for _ in range(_TRAILERS_MAX):
        if not stream.readline(_LINE_BYTES_MAX).strip():
            return
    raise ValueError("too many trailers")


def _too_large(limit: int) -> ClickHouseError:
    return ClickHouseError.because(f"a body may have {limit} bytes", 307, "TOO_MANY_BYTES")


_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"\r\n]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_PART_NAME: Final = re.compile(
    rb'^Content-Disposition:[^\r\n]*?;\s*name="([^"\r\n]{1,200})"', re.IGNORECASE | re.MULTILINE
)
_PART_FILE: Final = re.compile(rb"^Content-Disposition:[^\r\n]*?;\s*filename\*?=", re.IGNORECASE | re.MULTILINE)
_PART_HEAD_BYTES_MAX: Final = 2048


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """Fields of a multipart form: how clients send a query or parameters that are too long for a URL.

    Not by the `email` package, which goes down into parts of parts until the stack is full.
    Errors: `ValueError` for what is no such form, `ClickHouseError` for a file in it.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise ValueError("a form without a boundary")
    fields: dict[str, str] = {}
    delimiter = b"\r\n--" + (found.group(1) or found.group(2)).encode()
    for part in (b"\r\n" + body).split(delimiter)[1:]:
        if part.startswith(b"--"):
            break
        head, there, payload = part.partition(b"\r\n\r\n")
        if not there or len(head) > _PART_HEAD_BYTES_MAX:
            raise ValueError("a part of a form without a head")
        if _PART_FILE.search(head):
            raise ClickHouseError.because("External data is not spoken here", 48, "NOT_IMPLEMENTED")
        name = _PART_NAME.search(head)
        if name is not None:
            fields[name.group(1).decode()] = payload.decode()
    return fields
