"""ClickHouse's compressed blocks: whatever goes in comes out, and a flipped bit never does."""

from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sinks import block_frames
from sinks.block_frames import FrameError, framed, unframed

MAX = 1 << 24


@given(st.binary(max_size=3_000), st.integers(1, 3_000))
def test_data_comes_through(seed: bytes, times: int) -> None:
    data = seed * times if len(seed) * times < 4 * block_frames.BLOCK_BYTES else seed
    assert unframed(framed(data), MAX) == data


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_changed_byte_is_found(data: bytes, drawn: st.DataObject) -> None:
    whole = bytearray(framed(data))
    whole[drawn.draw(st.integers(0, len(whole) - 1))] ^= drawn.draw(st.integers(1, 255))
    with pytest.raises(FrameError):
        unframed(bytes(whole), MAX)


@given(st.binary(max_size=200))
def test_rubbish_raises_nothing_else(body: bytes) -> None:
    """Of random bytes only none are blocks: a checksum of 128 bits stands before each."""
    if not body:
        assert unframed(body, MAX) == b""
        return
    with pytest.raises(FrameError):
        unframed(body, MAX)


def block(method: int, packed: bytes, size: int) -> bytes:
    body = struct.pack("<BII", method, 9 + len(packed), size) + packed
    return block_frames._checksum(body) + body


def test_other_methods_and_false_lengths() -> None:
    packed = zstandard.compress(b"x" * 500)
    assert unframed(block(0x90, packed, 500) + block(0x02, b"ab", 2), MAX) == b"x" * 500 + b"ab"
    for wrong in (block(0x90, packed, 499), block(0x90, b"no", 9), block(0x02, b"ab", 3), block(0x82, b"\xff\xff", 9),
                  block(0x99, b"", 0), block(0x02, b"a" * 99, 99)):  # fmt: skip
        with pytest.raises(FrameError):
            unframed(wrong, 98 if len(wrong) > 120 else 1_000)
