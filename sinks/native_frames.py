"""ClickHouse's Native format, framed as clients that name a `client_protocol_version` expect it.

A server that is told a version ≥ 51903 puts block info before each block, and from 54454 on a byte after each column's
type (0: no custom serialization). chDB writes neither, and clickhouse-go, the driver of Grafana's plugin, reads only
that. So columns are walked through, to find where one ends and the next begins. Layouts: ClickHouse's
`src/DataTypes/Serializations`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

BLOCK_INFO: Final = bytes((1, 0, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0))
"""No overflow rows, bucket −1, end."""
_WIDTHS: Final = {
    "Bool": 1, "Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8, "Enum8": 1, "Enum16": 2, "UUID": 16, "IPv4": 4,
    "IPv6": 16, "BFloat16": 2, "Float32": 4, "Float64": 8, "Decimal32": 4, "Decimal64": 8, "Decimal128": 16,
    "Decimal256": 32, "Nothing": 1, "Time": 4, "Time64": 8,
    **{f"{sign}Int{bits}": bits // 8 for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)},
    **{f"Interval{unit}": 8 for unit in ("Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour", "Day",
                                         "Week", "Month", "Quarter", "Year")},
}  # fmt: skip
_DECIMAL_WIDTHS: Final = ((9, 4), (18, 8), (38, 16), (76, 32))
_INNER: Final = re.compile(r"(\w+)(?:\((.*)\))?\Z", re.DOTALL)
_ADDITIONAL_KEYS, _NEEDS_GLOBAL = 1 << 9, 1 << 8


class UnknownTypeError(ValueError):
    """A column type whose layout is not known here."""


def framed(data: bytes) -> bytes:
    """All blocks of `data`, in the newer framing. Errors: `UnknownTypeError`; `ValueError` for broken data."""
    return b"".join(_blocks(data))


def _blocks(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        begin = at
        columns, at = _number(data, at)
        rows, at = _number(data, at)
        yield BLOCK_INFO + data[begin:at]
        for _ in range(columns):
            begin = at
            _, at = _text(data, at)
            kind, at = _text(data, at)
            yield data[begin:at] + b"\0"
            if rows:
                begin = at
                at = _values(data, _prefix(data, at, kind), kind, rows)
                yield data[begin:at]
    if at != len(data):
        raise ValueError("a block of Native is cut off")


def _prefix(data: bytes, at: int, kind: str) -> int:
    """Past what a column begins with: the version of each dictionary in it."""
    name, arguments = _parsed(kind)
    if name == "LowCardinality":
        return at + 8
    if name in ("Array", "Nullable", "Tuple", "Map", "SimpleAggregateFunction"):
        for inner in arguments[name == "SimpleAggregateFunction" :]:
            at = _prefix(data, at, _unnamed(inner))
    return at


def _values(data: bytes, at: int, kind: str, rows: int) -> int:  # noqa: PLR0911  # a layout each
    """Past `rows` values of a type."""
    name, arguments = _parsed(kind)
    if name == "String":
        for _ in range(rows):
            length, at = _number(data, at)
            at += length
        return at
    if name == "Nullable":
        return _values(data, at + rows, arguments[0], rows)
    if name == "LowCardinality":
        return _dictionary(data, at, arguments[0], rows)
    if name in ("Array", "Map"):
        return _nested(data, at, name, arguments, rows)
    if name == "Tuple":
        for inner in arguments:
            at = _values(data, at, _unnamed(inner), rows)
        return at
    if name == "SimpleAggregateFunction":
        return _values(data, at, arguments[1], rows)
    return at + rows * _width(name, arguments)


def _nested(data: bytes, at: int, name: str, arguments: list[str], rows: int) -> int:
    """Past arrays or maps: ends of each, then all of their elements."""
    if rows == 0:
        return at
    at += 8 * rows
    elements = struct.unpack_from("<Q", data, at - 8)[0]
    for inner in arguments if name == "Map" else arguments[:1]:
        at = _values(data, at, inner, elements)
    return at


def _dictionary(data: bytes, at: int, inner: str, rows: int) -> int:
    """Past a dictionary of a block and the rows' keys into it."""
    if rows == 0:
        return at
    flags = struct.unpack_from("<Q", data, at)[0]
    at += 8
    if flags & _NEEDS_GLOBAL or not flags & _ADDITIONAL_KEYS:
        raise UnknownTypeError("a LowCardinality column with a shared dictionary")
    size = struct.unpack_from("<Q", data, at)[0]
    at = _values(data, at + 8, inner.removeprefix("Nullable(")[:-1] if inner.startswith("Nullable(") else inner, size)
    keys = struct.unpack_from("<Q", data, at)[0]
    return int(at + 8 + keys * (1 << (flags & 0xFF)))


def _width(name: str, arguments: list[str]) -> int:
    if name == "FixedString":
        return int(arguments[0])
    if name == "Decimal":
        digits = int(arguments[0])
        return next(width for most, width in _DECIMAL_WIDTHS if digits <= most)
    if name not in _WIDTHS:
        raise UnknownTypeError(f"a column of type {name}")
    return _WIDTHS[name]


def _parsed(kind: str) -> tuple[str, list[str]]:
    """`Map(String, Array(UInt8))` → `Map`, its arguments."""
    found = _INNER.match(kind)
    if found is None:
        raise UnknownTypeError(f"a column of type {kind}")
    arguments, depth, begin, quoted = [], 0, 0, False
    text = found.group(2) or ""
    for at, letter in enumerate(text):
        if letter == "'" and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif not quoted and letter in "()":
            depth += 1 if letter == "(" else -1
        elif not quoted and letter == "," and depth == 0:
            arguments.append(text[begin:at].strip())
            begin = at + 1
    return found.group(1), [*arguments, text[begin:].strip()] if text else []


def _unnamed(element: str) -> str:
    """An element of a tuple without its name: `a UInt8`, `` `a b` String ``."""
    named = re.match(r"(?:`(?:[^`\\]|\\.)*`|\w+) (?=[A-Z])", element)
    return element[named.end() :] if named else element


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length number."""
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a block of Native is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(data: bytes, at: int) -> tuple[str, int]:
    length, at = _number(data, at)
    return data[at : at + length].decode(), at + length
