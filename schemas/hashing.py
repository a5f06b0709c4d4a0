"""Stable 64-bit hashes of ids: the same on every machine, in every version, so that state may outlive the program.

Text is hashed by XXH3-64, seed 0, over its UTF-8 bytes. XXH3 is frozen since xxHash 0.8.0 (its specification:
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), unlike `Series.hash()`, which Polars may change.
Golden values in the tests hold it. Not for secrets: whoever chooses ids freely can make two collide.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash as plh

Hashes = npt.NDArray[np.uint64]

_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
_MURMUR_1 = np.uint64(0xFF51AFD7ED558CCD)
_MURMUR_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


def hash64_expr(column: str) -> pl.Expr:
    """XXH3-64 of a String or Binary column as UInt64; null stays null."""
    return plh.col(column).nchash.xxh3_64()


def hash64(series: pl.Series) -> pl.Series:
    """XXH3-64 of each text of a String or Binary series as UInt64, under the series' name; null stays null."""
    return series.to_frame("text").select(hash64_expr("text").alias(series.name)).to_series()


def mix(first: Hashes, second: Hashes) -> Hashes:
    """One hash of each ordered pair of hashes (arrays of length n): `mix(a, b)` differs from `mix(b, a)`.

    The pair is joined by a multiply (modulo 2**64) and an exclusive or, and spread by MurmurHash3's 64-bit finalizer,
    which is a bijection: for a fixed `first`, two different `second` never collide.
    """
    mixed = (first * _GOLDEN_RATIO) ^ second
    mixed ^= mixed >> _SHIFT
    mixed *= _MURMUR_1
    mixed ^= mixed >> _SHIFT
    mixed *= _MURMUR_2
    mixed ^= mixed >> _SHIFT
    return mixed


def id_hash(user_hashes: Hashes, event_hashes: Hashes) -> Hashes:
    """What duplicates are told by: the hash of (user_id, event_id), from the hashes of both."""
    return mix(user_hashes, event_hashes)
