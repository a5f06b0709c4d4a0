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

from schemas.decode_compile import Bytes, compiled, set_word_at, word_at
from schemas.decode_rules import SPAN_BITS, SPAN_MASK, Int64s

Mask = npt.NDArray[np.bool_]
_INLINE: Final = 12
_WORD: Final = 8
_LOW_BYTES: Final = np.array([(1 << 8 * count) - 1 for count in range(8)] + [-1])  # masks of a word's lowest bytes


@compiled
def _long_bytes(spans: Int64s, is_there: Mask) -> int:
    """How many bytes the texts have that do not fit into a view."""
    total = 0
    for place in range(len(spans)):
        size = spans[place] & SPAN_MASK
        if is_there[place] and size > _INLINE:
            total += size
    return total


@compiled
def _write_views(text: Bytes, extra: Bytes, spans: Int64s, is_there: Mask, views: Int64s, long: Bytes) -> None:
    """Fill `views` (n, 2 words) and `long`. A span that begins behind `text` is one of `extra`."""
    used = 0
    for place in range(len(spans)):
        if not is_there[place]:
            views[place, 0] = views[place, 1] = 0
            continue
        first, size = spans[place] >> SPAN_BITS, spans[place] & SPAN_MASK
        source = text
        if first >= len(text):
            source = extra
            first -= len(text)
        views[place, 0] = size | (word_at(source, first) & _LOW_BYTES[min(size, 4)]) << 32
        if size <= _INLINE:
            views[place, 1] = word_at(source, first + 4) & _LOW_BYTES[max(size - 4, 0)]
            continue
        views[place, 1] = used << 32
        for index in range(0, size, 8):  # the last word may bring some bytes more, which the next text overwrites
            set_word_at(long, used + index, word_at(source, first + index))
        used += size


def text_array(text: Bytes, extra: Bytes, spans: Int64s, is_there: Mask) -> pa.StringViewArray:
    """Texts of n spans of valid UTF-8; null where `is_there` (n) is false."""
    n = len(spans)
    if not is_there.any():
        return pa.nulls(n, pa.string_view())
    views = np.empty((n, 2), dtype=np.int64)
    long = np.empty(_long_bytes(spans, is_there) + _WORD, dtype=np.uint8)
    assert len(long) < 1 << 31, "a column of 2 GiB: decode smaller batches"
    _write_views(text, extra, spans, is_there, views, long)
    buffers = [_validity(is_there), pa.py_buffer(views), pa.py_buffer(long)]
    return pa.StringViewArray.from_buffers(pa.string_view(), n, buffers)


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
    values = text_array(text, extra, gathered, np.ones(total, dtype=np.bool_))
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
