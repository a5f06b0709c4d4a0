"""ClickHouse's own block compression (`compress=1`, `decompress=1`): a checksum, a head of nine bytes, packed data."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import lz4.block
import zstandard
from clickhouse_cityhash.cityhash import CityHash128

BLOCK_BYTES: Final = 1 << 20
"""Most bytes of a block before they are packed, as ClickHouse cuts them."""
_LZ4, _ZSTD, _NONE = 0x82, 0x90, 0x02
_HEAD: Final = struct.Struct("<BII")  # method, bytes with this head, bytes unpacked
_SUM: Final = struct.Struct("<QQ")


class FrameError(ValueError):
    """The bytes are no blocks."""


def framed(data: bytes) -> bytes:
    """`data` as LZ4 blocks."""
    return b"".join(_block(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES))


def unframed(body: bytes, bytes_max: int) -> bytes:
    """What blocks hold: LZ4, ZSTD or as it is. No more than `bytes_max` is ever unpacked.

    Raises:
        FrameError: a checksum, a length or packed data is wrong, or it is more.
    """
    return b"".join(_unpacked(body, bytes_max))


def _block(piece: bytes) -> bytes:
    packed: bytes = lz4.block.compress(piece, store_size=False)
    head = _HEAD.pack(_LZ4, _HEAD.size + len(packed), len(piece))
    return _checksum(head + packed) + head + packed


def _checksum(block: bytes) -> bytes:
    found = CityHash128(block)
    return _SUM.pack(found >> 64, found & 0xFFFF_FFFF_FFFF_FFFF)


def _unpacked(body: bytes, bytes_max: int) -> Iterator[bytes]:
    at, left = 0, bytes_max
    while at < len(body):
        start = at + _SUM.size
        if len(body) < start + _HEAD.size:
            raise FrameError("a block is cut short")
        method, packed_size, size = _HEAD.unpack_from(body, start)
        block = body[start : start + packed_size]
        if packed_size < _HEAD.size or len(block) < packed_size:
            raise FrameError("a block is cut short")
        if _checksum(block) != body[at:start]:
            raise FrameError("a block's checksum is wrong")
        if size > left:
            raise FrameError(f"unpacked it has more than {bytes_max} bytes")
        yield _unpack(method, block[_HEAD.size :], size)
        left -= size
        at = start + packed_size


def _unpack(method: int, packed: bytes, size: int) -> bytes:
    try:
        if method == _LZ4:
            data: bytes = lz4.block.decompress(packed, uncompressed_size=size)
        elif method == _ZSTD:
            data = _unzstd(packed, size)
        elif method == _NONE:
            data = packed
        else:
            raise FrameError(f"compression method 0x{method:02x} is not spoken here")
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise FrameError(f"a block cannot be unpacked: {error}") from error
    if len(data) != size:
        raise FrameError("a block does not have the length that it tells")
    return data


def _unzstd(packed: bytes, size: int) -> bytes:
    if zstandard.frame_content_size(packed) not in (-1, size):  # else that much would be made room for
        raise FrameError("a block does not have the length that it tells")
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
