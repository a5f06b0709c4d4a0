"""The part of ClickHouse's HTTP interface that the store speaks: requests into statements, errors into answers.

Pure functions over what a request carries (no socket, no engine). Source of the protocol: ClickHouse documentation,
"HTTP Interface", and `src/Server/HTTP/exceptionCodeToHTTPStatus.cpp` for the status of an error.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final
from urllib.parse import parse_qsl

from sinks.block_frames import unframed
from sinks.chdb_session import ClickHouseError
from sinks.http_body import form_fields

TRANSPORT_PARAMETERS: Final = frozenset(
    {"query", "database", "default_format", "user", "password", "query_id", "session_id", "session_timeout",
     "session_check",
     "close_session", "quota_key", "role", "stacktrace", "buffer_size", "wait_end_of_query", "compress", "decompress",
     "client_protocol_version", "enable_http_compression", "send_progress_in_http_headers", "http_compression",
     "http_headers_progress_interval_ms", "http_zlib_compression_level"}
)  # fmt: skip
"""URL parameters that are not settings."""

_STATUS: Final[Mapping[int, tuple[int, ...]]] = {
    400: (6, 15, 16, 26, 27, 36, 38, 41, 44, 53, 62, 69, 72, 117, 131, 168, 235, 427, 441, 675, 676),
    401: (194,),
    403: (192, 193, 497, 512, 516),
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 119, 220, 511),
    408: (159,),
    413: (307,),
    501: (48,),
    503: (202, 209, 439),
}
_STATUS_OF_CODE: Final = {code: status for status, codes in _STATUS.items() for code in codes}

# No step is taken back (`*+`): a text can be cut into comments or names in 2^n ways.
_SPACE: Final = rb"(?:\s|/\*.*?\*/|--[^\n]*\n)*+"
_NAME: Final = rb"(?:`(?:[^`\\]|\\.)*+`|\"(?:[^\"\\]|\\.)*+\"|[A-Za-z_]\w*+)"
_INSERT: Final = re.compile(
    _SPACE + rb"INSERT\s+INTO\s+(?:TABLE\s+)?" + _NAME + rb"(?:\s*\.\s*" + _NAME + rb")?\s*"
    rb"(?:\((?:" + _NAME + rb"|[\s,])*+\))?\s*(?P<format>FORMAT\s+(?P<name>\w+))[ \t\f]*\r?\n?",
    re.IGNORECASE | re.DOTALL,
)  # fmt: skip


# lz4 and zstd come with clickhouse-connect and are loaded when a client speaks them.
_ENCODINGS: Final[Mapping[str, Callable[[], Any]]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "deflate": zlib.decompressobj,
    "lz4": lambda: import_module("lz4.frame").LZ4FrameDecompressor(),
    "zstd": lambda: import_module("backports.zstd").ZstdDecompressor(),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, body decompressed. `settings` and `params` (for `{name:Type}`) come from the URL."""

    parameters: Mapping[str, str]
    settings: Mapping[str, str]
    params: Mapping[str, str]
    user: str
    password: str
    body: bytes

    @property
    def text(self) -> bytes:
        """The statement: `query` of the URL, then the body, as ClickHouse joins them."""
        query = self.parameters.get("query", "").encode()
        return query + b"\n" + self.body if query and self.body else query or self.body


@dataclass(frozen=True, slots=True)
class Insert:
    """An insert whose rows follow it. `statement` has neither FORMAT nor rows."""

    statement: str
    fmt: str
    rows: bytes


def request_of(target: str, headers: Mapping[str, str], body: bytes, body_max: int) -> Request:
    """A request from its target (`/?a=b`), its headers (lower-case names) and its raw body.

    Errors: `ClickHouseError` for a credential or a compression that cannot be read, `FrameError` for blocks that are
    none; either when more than `body_max` bytes come out; `ValueError` for a form that is none.
    """
    parameters = dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))
    body = _decompressed(body, headers.get("content-encoding", ""), body_max)
    if _is_on(parameters, "decompress"):
        body = unframed(body, body_max)
    if headers.get("content-type", "").startswith("multipart/form-data"):
        parameters, body = {**parameters, **form_fields(headers["content-type"], body)}, b""
    user, password = _credentials(parameters, headers)
    settings = {k: v for k, v in parameters.items() if k not in TRANSPORT_PARAMETERS and not k.startswith("param_")}
    params = {k.removeprefix("param_"): v for k, v in parameters.items() if k.startswith("param_")}
    return Request(parameters, settings, params, user, password, body)


def insert_of(request: Request) -> Insert | None:
    """The insert of a request, or None when it is another statement (`INSERT … VALUES` and `… SELECT` are other)."""
    query = request.parameters.get("query", "").encode()
    head = query or request.body
    found = _INSERT.match(head)
    if found is None:
        return None
    rows = head[found.end() :]
    if query:
        rows = rows + request.body if rows else request.body
    return Insert(head[: found.start("format")].decode(errors="replace").strip(), found.group("name").decode(), rows)


def wants_framing(request: Request) -> bool:
    """Native with block info and serialization kinds: from version 54454 of the protocol on."""
    version = request.parameters.get("client_protocol_version", "")
    return version.isascii() and version.isdigit() and len(version) < 9 and int(version) >= 54_454


def wants_blocks(request: Request) -> bool:
    """The answer in ClickHouse's own compressed blocks."""
    return _is_on(request.parameters, "compress")


def wants_gzip(request: Request, accepted: str) -> bool:
    """As ClickHouse: only when both the URL and the header ask for it."""
    return _is_on(request.parameters, "enable_http_compression") and "gzip" in accepted


def _is_on(parameters: Mapping[str, str], name: str) -> bool:
    return parameters.get(name, "0") in ("1", "true")


def status_of(code: int) -> int:
    """The HTTP status that ClickHouse answers an error with."""
    return _STATUS_OF_CODE.get(code, 500)


def _decompressed(body: bytes, encoding: str, body_max: int) -> bytes:
    """Undo `Content-Encoding`, up to `body_max` bytes: a few can stand for gigabytes."""
    if encoding in ("", "identity") or not body:
        return body
    if encoding not in _ENCODINGS:
        raise ClickHouseError.because(f"Content-Encoding {encoding!r} is not spoken here", 48, "NOT_IMPLEMENTED")
    try:
        return _unpacked(body, encoding, body_max)
    except (OSError, EOFError, zlib.error, RuntimeError, ValueError, ImportError) as error:
        raise ClickHouseError.because(f"{encoding} body: {error}", 354, "ZLIB_INFLATE_FAILED") from error


def _unpacked(body: bytes, encoding: str, body_max: int) -> bytes:
    found, size = [], 0
    while body:  # one stream after another may stand there
        stream = _ENCODINGS[encoding]()
        found.append(stream.decompress(body, body_max - size + 1))
        size += len(found[-1])
        if size > body_max:
            raise ClickHouseError.because(f"a body may have {body_max} bytes unpacked", 307, "TOO_MANY_BYTES")
        if not stream.eof:
            raise EOFError("it is cut short")
        body = stream.unused_data or b""
    return b"".join(found)


def _credentials(parameters: Mapping[str, str], headers: Mapping[str, str]) -> tuple[str, str]:
    """User and password, from wherever ClickHouse takes them."""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            return "", ""
        return user, password
    if scheme.lower() == "bearer":
        return "", encoded
    if "x-clickhouse-user" in headers:
        return headers["x-clickhouse-user"], headers.get("x-clickhouse-key", "")
    return parameters.get("user", ""), parameters.get("password", "")
