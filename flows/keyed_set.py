"""Exact first-seen over (bucket, key): what dedupe and distinct counts stand on.

An open-addressing hash table in NumPy arrays (key, bucket), walked by compiled code in the order of the input, so that
the first of several copies wins. Keys are 64-bit hashes; two different keys with equal hashes in
one bucket count as one: with n keys in a bucket that has probability n²/2⁶⁵ (2.7e-8 for a million).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from schemas.decode_compile import compiled, prefetch

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Buckets = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_FORMAT = 2
_HEADER = struct.Struct("<BQq")  # format, number of pairs, expiry floor
_LOAD = 0.7  # most slots in use
_SMALLEST = 256
_NO_FLOOR = -(1 << 31)
_AHEAD = 12  # keys whose slots are on their way from memory while one is looked up


class KeyedSet:
    """A set of (bucket, key) pairs that says which pairs of a batch are new. Buckets fit 32 bits (minutes, hours).

    `reach`: a pair also counts as held if its key is held in a bucket at most this far away (dedupe within a horizon).
    """

    def __init__(self, reach: int = 0) -> None:
        self._reach = reach
        self._keys, self._buckets = np.zeros(_SMALLEST, dtype=np.uint64), np.zeros(_SMALLEST, dtype=np.int32)
        self._used = 0  # slots, expired pairs among them
        self._floor = _NO_FLOOR  # buckets below it have expired
        self._fresh: list[tuple[Buckets, Keys]] = []  # since the last snapshot or delta
        self._floor_moved = False

    def __len__(self) -> int:
        """Pairs held."""
        return int(np.count_nonzero((self._keys != 0) & (self._buckets >= self._floor)))

    def first_seen(self, buckets: Int64s, keys: Keys) -> Mask:
        """True at the first place of each (bucket, key) that the set did not hold; such pairs are added.

        Shapes: `buckets`, `keys` and the answer are of length n. A pair added to a bucket that has expired is held
        until the table is next laid out anew.
        """
        new = np.zeros(len(keys), dtype=np.bool_)
        if not len(keys):
            return new
        narrow = buckets.astype(np.int32)
        self._make_room(len(keys))
        self._used += _add(keys, narrow, self._keys, self._buckets, self._reach, self._floor, new)
        if new.any():
            self._fresh.append((narrow[new], keys[new]))
        return new

    def expire(self, before: int) -> None:
        """Forget every bucket below `before`. Their slots are used again when the table is next laid out anew."""
        if before > self._floor:
            self._floor, self._floor_moved = before, True

    def snapshot(self) -> bytes:
        """All pairs; starts a new delta."""
        self._fresh, self._floor_moved = [], False
        held = (self._keys != 0) & (self._buckets >= self._floor)
        return self._pack([(self._buckets[held], self._keys[held])])

    def delta(self) -> bytes:
        """Pairs added (and the expiry) since the last `snapshot` or `delta`; empty when nothing changed."""
        if not self._fresh and not self._floor_moved:
            return b""
        fresh, self._fresh, self._floor_moved = self._fresh, [], False
        return self._pack(fresh)

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the set that wrote these."""
        self.__init__(self._reach)  # type: ignore[misc]  # start from nothing, as a new set does
        for blob in (snapshot, *deltas):
            if blob:
                self._unpack(blob)
        self._fresh, self._floor_moved = [], False

    def _make_room(self, count: int) -> None:
        """Lay the table out anew, without expired pairs, before `count` more could overfill it."""
        if self._used + count <= _LOAD * len(self._keys):
            return
        live = len(self)
        size = _SMALLEST
        while live + count > _LOAD * 0.75 * size:  # with some room, so that it lasts
            size *= 2
        keys, buckets = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.int32)
        self._used = _move(self._keys, self._buckets, keys, buckets, self._reach, self._floor)
        self._keys, self._buckets = keys, buckets

    def _pack(self, runs: list[tuple[Buckets, Keys]]) -> bytes:
        parts = [_HEADER.pack(_FORMAT, sum(len(keys) for _, keys in runs), self._floor)]
        parts.extend(buckets.tobytes() for buckets, _ in runs)
        parts.extend(keys.tobytes() for _, keys in runs)
        return b"".join(parts)

    def _unpack(self, blob: bytes) -> None:
        form, count, floor = _HEADER.unpack_from(blob)
        if form != _FORMAT:
            raise ValueError(f"key set of format {form}; this version reads {_FORMAT}")
        buckets = np.frombuffer(blob, dtype="<i4", count=count, offset=_HEADER.size)
        keys = np.frombuffer(blob, dtype="<u8", count=count, offset=_HEADER.size + 4 * count)
        # A delta is written after its pairs were added, so its floor holds for what came before it.
        self.first_seen(buckets.astype(np.int64), keys.astype(np.uint64))
        self.expire(floor)


@compiled
def _home(key: np.uint64, bucket: np.int32, reach: int, size: int) -> int:
    """The slot where the search for a pair begins: buckets are told apart there unless they must meet."""
    mixed = key
    if reach == 0:
        mixed ^= np.uint64(bucket) * np.uint64(0xD6E8FEB86659FD93)
    mixed *= np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: the high bits are the mixed ones
    return int(np.int64(mixed >> np.uint64(20)) & (size - 1))


@compiled
def _add(keys: Keys, buckets: Buckets, slots: Keys, places: Buckets, reach: int, floor: int, new: Mask) -> int:
    """Mark and add the pairs that are not held; how many slots were taken. 0 marks a free slot, so key 0 becomes 1."""
    size, taken = len(slots), 0
    for i in range(len(keys)):
        if i + _AHEAD < len(keys):
            soon = _home(keys[i + _AHEAD], buckets[i + _AHEAD], reach, size)
            prefetch(slots, soon)
            prefetch(places, soon)
        key = keys[i] if keys[i] != 0 else np.uint64(1)
        bucket = buckets[i]
        at = _home(key, bucket, reach, size)
        while slots[at] != 0:
            near = abs(np.int64(places[at]) - np.int64(bucket)) <= reach
            if slots[at] == key and near and (places[at] >= floor or bucket < floor):
                break
            at = (at + 1) & (size - 1)
        if slots[at] == 0:
            slots[at], places[at] = key, bucket
            new[i] = True
            taken += 1
    return taken


@compiled
def _move(slots: Keys, places: Buckets, into: Keys, into_places: Buckets, reach: int, floor: int) -> int:
    """Copy the pairs that have not expired into another table; how many there are."""
    size, taken = len(into), 0
    for i in range(len(slots)):
        if slots[i] != 0 and places[i] >= floor:
            at = _home(slots[i], places[i], reach, size)
            while into[at] != 0:
                at = (at + 1) & (size - 1)
            into[at], into_places[at] = slots[i], places[i]
            taken += 1
    return taken
