"""From spans of bytes to columns.

A String column of Polars (Arrow's `Utf8View`) is 16 bytes a value: the length, then the text itself up to 12 bytes, or
its first 4 bytes, the number of a buffer and an offset in it (*Variable-size Binary View Layout* of
https://arrow.apache.org/docs/format/Columnar.html). They are written here in compiled code and handed to Polars without
a copy. Long texts are copied into a buffer of the column's own, so that a frame does not hold on to the messages that
it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from schemas.decode_compile import Bytes, compiled, inlined, set_word_at, word_at
from schemas.decode_rules import PRESENT, SPAN_BITS, SPAN_MASK, Int64s, Table

Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
Views = npt.NDArray[np.int64]
_INLINE: Final = 12
_WORD: Final = 8
_ROWS_AT_ONCE: Final = 512  # of some 250 bytes: half of what a core's own cache holds
_LOW_BYTES: Final = np.array([(1 << 8 * count) - 1 for count in range(8)] + [-1])  # masks of a word's lowest bytes


@inlined
def _write_view(text: Bytes, extra: Bytes, span: int, views: Table, place: int, long: Bytes, used: int) -> int:
    """Fill a view (a row of 2 words); a long text itself goes behind the `used` bytes of `long`. Bytes used by then."""
    first, size = span >> SPAN_BITS, span & SPAN_MASK
    source = text
    if first >= len(text):
        source = extra
        first -= len(text)
    views[place, 0] = size | (word_at(source, first) & _LOW_BYTES[min(size, 4)]) << 32
    if size <= _INLINE:
        views[place, 1] = word_at(source, first + 4) & _LOW_BYTES[max(size - 4, 0)]
        return used
    views[place, 1] = used << 32
    for index in range(0, size, 8):  # the last word may bring some bytes more, which the next text overwrites
        set_word_at(long, used + index, word_at(source, first + index))
    return used + size


@compiled
def _measure(columns: Table, rows: Int64s, fields: Int64s, sizes: Int64s, bits: Bits) -> None:
    """Of each field (slot, code): how many of the rows have it, the bytes that do not fit into views, the bitmap."""
    for field in range(len(fields)):
        slot, code = fields[field, 0], fields[field, 1]
        for place in range(len(rows)):
            row = rows[place]
            if columns[PRESENT, row] >> code & 1:
                bits[field, place >> 3] |= 1 << (place & 7)
                sizes[field, 0] += 1
                size = columns[slot, row] & SPAN_MASK
                if size > _INLINE:
                    sizes[field, 1] += size


@compiled
def _write_views(
    text: Bytes, extra: Bytes, columns: Table, rows: Int64s, fields: Int64s, views: Views, long: Bytes, used: Int64s
) -> None:
    """Fill `views` (fields, n, 2 words) and `long`, where each field writes from `used` on.

    Some rows at a time, so that their bytes are still in the cache for the next field. A span that begins behind `text`
    is one of `extra`.
    """
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        for field in range(len(fields)):
            slot, code = fields[field, 0], fields[field, 1]
            spans, present, own, into = columns[slot], columns[PRESENT], views[field], long[used[field, 0] :]
            at = used[field, 1]
            for place in range(begin, min(begin + _ROWS_AT_ONCE, len(rows))):
                row = rows[place]
                if present[row] >> code & 1:
                    at = _write_view(text, extra, spans[row], own, place, into, at)
                else:
                    own[place, 0] = own[place, 1] = 0
            used[field, 1] = at


def text_columns(
    text: Bytes, extra: Bytes, columns: Table, rows: Int64s, fields: Mapping[str, tuple[int, int]]
) -> dict[str, pa.StringViewArray]:
    """Of each field (name → slot, code; see `Found`) that any of the rows has: its texts, null where they have none.

    All are written at once and hold each other in memory.
    """
    places = np.array([*fields.values()], dtype=np.int64).reshape(-1, 2)
    sizes, bits = (
        np.zeros((len(places), 2), dtype=np.int64),
        np.zeros((len(places), len(rows) + 7 >> 3), dtype=np.uint8),
    )
    _measure(columns, rows, places, sizes, bits)
    held = sizes[:, 0] > 0
    ends = np.cumsum(sizes[held, 1] + _WORD)
    assert ends.max(initial=0) < 1 << 31, "columns of 2 GiB: decode smaller batches"
    used = np.stack([ends - sizes[held, 1] - _WORD, np.zeros(len(ends), dtype=np.int64)], axis=1)
    views, long = np.empty((len(ends), len(rows), 2), dtype=np.int64), np.empty(ends.max(initial=0), dtype=np.uint8)
    _write_views(text, extra, columns, rows, places[held], views, long, used)
    arrays = {}
    for at, (name, field) in enumerate((name, field) for field, name in enumerate(fields) if held[field]):
        validity = None if sizes[field, 0] == len(rows) else pa.py_buffer(bits[field])
        own = long[used[at, 0] : ends[at]]
        buffers = [validity, pa.py_buffer(views[at]), pa.py_buffer(own)]
        arrays[name] = pa.StringViewArray.from_buffers(pa.string_view(), len(rows), buffers)
    return arrays


@compiled
def _write_texts(text: Bytes, extra: Bytes, spans: Int64s, views: Table, long: Bytes) -> None:
    """Fill `views` (n, 2 words) and `long`, which has room for all of them."""
    used = 0
    for place in range(len(spans)):
        used = _write_view(text, extra, spans[place], views, place, long, used)


def text_array(text: Bytes, extra: Bytes, spans: Int64s) -> pa.StringViewArray:
    """Texts of n spans of valid UTF-8."""
    sizes = spans & SPAN_MASK
    views = np.empty((len(spans), 2), dtype=np.int64)
    long = np.empty(int(sizes[sizes > _INLINE].sum()) + _WORD, dtype=np.uint8)
    assert len(long) < 1 << 31, "a column of 2 GiB: decode smaller batches"
    _write_texts(text, extra, spans, views, long)
    buffers = [None, pa.py_buffer(views), pa.py_buffer(long)]
    return pa.StringViewArray.from_buffers(pa.string_view(), len(spans), buffers)


def number_array(numbers: npt.NDArray[np.integer], is_there: Mask | None = None) -> pa.Array:
    """Integers, not copied; null where `is_there` is false.

    `pa.array` would import pandas to look at them: half a second of each start, and 45 MB.
    """
    validity = None if is_there is None else _validity(is_there)
    kind = pa.from_numpy_dtype(numbers.dtype)
    return pa.Array.from_buffers(kind, len(numbers), [validity, pa.py_buffer(numbers)])


def boolean_array(numbers: Int64s, is_there: Mask) -> pa.Array:
    """Booleans, of 0 and 1; null where `is_there` is false."""
    return pa.Array.from_buffers(pa.bool_(), len(numbers), [_validity(is_there), _bits((numbers != 0) & is_there)])


@compiled
def _gather_lists(spans: Int64s, first: Int64s, count: Int64s, offsets: Int64s, gathered: Int64s) -> None:
    used = 0
    for row in range(len(first)):
        offsets[row] = used
        for place in range(first[row], first[row] + count[row]):
            gathered[used] = spans[place]
            used += 1
    offsets[len(first)] = used


def list_array(text: Bytes, extra: Bytes, spans: Int64s, first: Int64s, count: Int64s) -> pa.LargeListArray:
    """Lists of texts: row i holds `spans[first[i] : first[i] + count[i]]`; null where the count is 0."""
    n = len(first)
    kind = pa.large_list(pa.string_view())
    total = int(count.sum())
    if total == 0:
        return pa.nulls(n, kind)
    offsets = np.empty(n + 1, dtype=np.int64)
    gathered = np.empty(total, dtype=np.int64)
    _gather_lists(spans, first, count, offsets, gathered)
    values = text_array(text, extra, gathered)
    return pa.LargeListArray.from_buffers(kind, n, [_validity(count > 0), pa.py_buffer(offsets)], children=[values])


@compiled
def count_different(
    text: Bytes, extra: Bytes, spans: Int64s, rows: Int64s, other: Bytes, starts: Int64s, ends: Int64s, present: Mask
) -> int:
    """How many of `rows` have another text at their span than in `other`, where that is present."""
    different = 0
    for place in range(len(rows)):
        row = rows[place]
        if not present[row]:
            continue
        first, size = spans[row] >> SPAN_BITS, spans[row] & SPAN_MASK
        source = text
        if first >= len(text):
            source = extra
            first -= len(text)
        start = starts[row]
        same = ends[row] - start == size
        index = 0
        while same and index < size:
            same = source[first + index] == other[start + index]
            index += 1
        different += not same
    return different


def frame_of(arrays: Mapping[str, pa.Array]) -> pl.DataFrame:
    """The arrays as columns, not copied."""
    frame = pl.from_arrow(pa.RecordBatch.from_pydict(dict(arrays)))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _validity(is_there: Mask) -> pa.Buffer | None:
    """Arrow's validity bitmap; none when all are there."""
    return None if is_there.all() else _bits(is_there)


def _bits(mask: Mask) -> pa.Buffer:
    return pa.py_buffer(np.packbits(mask, bitorder="little"))
