"""Exact first-seen over (bucket, key): what dedupe and distinct counts stand on.

Keys are 64-bit hashes, held per bucket (a window's start, say) as a few sorted NumPy runs, so that a look-up is a
binary search of sorted needles and a whole bucket is dropped at once when it expires. Two different keys of one bucket
with equal hashes count as one: with n keys in a bucket that has probability n²/2⁶⁵ (2.7e-8 for a million).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_FORMAT = 1
_HEADER = struct.Struct("<BQq")  # format, number of buckets, expiry floor
_BUCKET = struct.Struct("<qQ")  # bucket, number of keys
_MAX_RUNS = 4


class KeyedSet:
    """A set of (bucket, key) pairs that says which pairs of a batch are new."""

    def __init__(self) -> None:
        self._runs: dict[int, list[Keys]] = {}
        self._fresh: dict[int, list[Keys]] = {}
        self._floor = -(1 << 62)  # buckets below it have expired
        self._floor_moved = False

    def __len__(self) -> int:
        return sum(len(run) for runs in self._runs.values() for run in runs)

    def first_seen(self, buckets: Int64s, keys: Keys) -> Mask:
        """True at the first place of each (bucket, key) that the set did not hold; such pairs are added.

        Shapes: `buckets`, `keys` and the answer are of length n. A bucket below the expiry floor is held again until
        the next `expire`.
        """
        new = np.zeros(len(keys), dtype=np.bool_)
        if len(keys) == 0:
            return new
        low, high = int(buckets.min()), int(buckets.max())
        if low == high:
            new[self._add(low, keys)] = True
            return new
        for bucket in np.unique(buckets):
            rows = np.flatnonzero(buckets == bucket)
            new[rows[self._add(int(bucket), keys[rows])]] = True
        return new

    def _add(self, bucket: int, keys: Keys) -> npt.NDArray[np.intp]:
        """Indices of the first places of keys that `bucket` lacks; adds them."""
        places = np.flatnonzero(pl.Series(keys).is_first_distinct().to_numpy())
        fresh = keys[places]
        order = np.argsort(fresh)
        fresh, places = fresh[order], places[order]
        runs = self._runs.setdefault(bucket, [])
        for run in runs:
            at = np.searchsorted(run, fresh)
            at[at == len(run)] = len(run) - 1
            unseen = run[at] != fresh
            fresh, places = fresh[unseen], places[unseen]
        if len(fresh):
            self._fresh.setdefault(bucket, []).append(fresh)
            runs.append(fresh)
            if len(runs) > _MAX_RUNS:
                _compact(runs)
        return places

    def contains(self, bucket: int, keys: Keys) -> Mask:
        """Which of `keys` the bucket holds. Nothing is added."""
        held = np.zeros(len(keys), dtype=np.bool_)
        for run in self._runs.get(bucket, ()):
            at = np.searchsorted(run, keys)
            at[at == len(run)] = len(run) - 1
            held |= run[at] == keys
        return held

    def expire(self, before: int) -> None:
        """Forget every bucket below `before`."""
        if before > self._floor:
            self._floor, self._floor_moved = before, True
        for bucket in [b for b in self._runs if b < before]:
            del self._runs[bucket]
            self._fresh.pop(bucket, None)

    def buckets(self) -> list[int]:
        """Buckets held, ascending."""
        return sorted(self._runs)

    def snapshot(self) -> bytes:
        """All pairs; starts a new delta."""
        self._fresh, self._floor_moved = {}, False
        return self._pack(self._runs)

    def delta(self) -> bytes:
        """Pairs added (and the expiry) since the last `snapshot` or `delta`; empty when nothing changed."""
        if not self._fresh and not self._floor_moved:
            return b""
        fresh, self._fresh, self._floor_moved = self._fresh, {}, False
        return self._pack(fresh)

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the set that wrote these."""
        self.__init__()  # type: ignore[misc]  # start from nothing, as a new set does
        for blob in (snapshot, *deltas):
            if blob:
                self._unpack(blob)
        self._fresh, self._floor_moved = {}, False

    def _pack(self, runs: dict[int, list[Keys]]) -> bytes:
        parts = [_HEADER.pack(_FORMAT, len(runs), self._floor)]
        for bucket, arrays in runs.items():
            parts.append(_BUCKET.pack(bucket, sum(map(len, arrays))))
            parts.extend(array.tobytes() for array in arrays)
        return b"".join(parts)

    def _unpack(self, blob: bytes) -> None:
        form, count, floor = _HEADER.unpack_from(blob)
        if form != _FORMAT:
            raise ValueError(f"key set of format {form}; this version reads {_FORMAT}")
        at = _HEADER.size
        for _ in range(count):
            bucket, size = _BUCKET.unpack_from(blob, at)
            at += _BUCKET.size
            keys = np.sort(np.frombuffer(blob, dtype="<u8", count=size, offset=at).astype(np.uint64))
            at += size * 8
            runs = self._runs.setdefault(bucket, [])
            runs.append(keys)
            if len(runs) > _MAX_RUNS:
                _compact(runs)
        self.expire(floor)


def _compact(runs: list[Keys]) -> None:
    """Merge the newest runs until each is at least twice as long as the next, so that look-ups stay few and merges cheap."""
    while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
        last = runs.pop()
        runs[-1] = np.sort(np.concatenate((runs[-1], last)))
