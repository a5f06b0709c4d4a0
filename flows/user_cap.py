"""The optional cap on what one user adds to one topic in one minute.

A capped contribution must not depend on the order in which events come. So it is a function of sums: with W the sum of
a user's full weights in a topic and minute, and Q the sum of its faded ones, the contribution is Q while W ≤ cap, and
Q · cap / W beyond. A batch changes W and Q; what it adds is the difference of the contributions after and before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from flows.topic_columns import Int64s, pack, unpack

_FORMAT: Final = 1
_Keys = npt.NDArray[np.uint64]
_Sums = tuple[_Keys, Int64s, Int64s]  # keys ascending, each once; full weight W; faded weight Q


class UserCap:
    """Sums per minute and key (a user and topic); weights in fixed-point units."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._minutes: dict[int, _Sums] = {}
        self._fresh: dict[int, list[_Sums]] = {}  # sums of the batches since the last snapshot or delta

    def add(self, minutes: Int64s, keys: _Keys, full: Int64s, faded: Int64s) -> Int64s:
        """What each event adds under the cap: the change of a key at its first event of the batch, 0 at the others.

        All arrays have length n.
        """
        added = np.zeros(len(keys), dtype=np.int64)
        for minute in np.unique(minutes).tolist():
            rows = np.flatnonzero(minutes == minute)
            unique, first, place = np.unique(keys[rows], return_index=True, return_inverse=True)
            batch = (unique, _sum_by(place, full[rows], len(unique)), _sum_by(place, faded[rows], len(unique)))
            added[rows[first]] = self._add(minute, batch)
            self._fresh.setdefault(minute, []).append(batch)
        return added

    def _add(self, minute: int, batch: _Sums) -> Int64s:
        """The change of each key of `batch`."""
        known = self._minutes.get(minute, _NOTHING)
        keys, place = np.unique(np.concatenate((known[0], batch[0])), return_inverse=True)
        old, new = place[: len(known[0])], place[len(known[0]) :]
        full, faded = np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
        full[old], faded[old] = known[1], known[2]
        before = self._contribution(full[new], faded[new])
        full[new] += batch[1]
        faded[new] += batch[2]
        self._minutes[minute] = (keys, full, faded)
        return self._contribution(full[new], faded[new]) - before

    def _contribution(self, full: Int64s, faded: Int64s) -> Int64s:
        return np.where(full <= self._cap, faded, np.rint(faded * (self._cap / np.maximum(full, 1))).astype(np.int64))

    def expire(self, before: int) -> None:
        """Forget every minute below `before`."""
        for minute in [m for m in self._minutes if m < before]:
            del self._minutes[minute]
            self._fresh.pop(minute, None)

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        self._fresh = {}
        return _pack({minute: [sums] for minute, sums in self._minutes.items()})

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`. Minutes that expire are dropped again by the next `expire`."""
        fresh, self._fresh = self._fresh, {}
        return _pack(fresh) if fresh else b""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        self._minutes = {}
        for blob in (snapshot, *deltas):
            if not blob:
                continue
            value = unpack(blob)
            if value["format"] != _FORMAT:
                raise ValueError(f"user cap of format {value['format']}; this version reads {_FORMAT}")
            for minute, keys, full, faded in value["batches"]:
                self._add(minute, (keys, full, faded))
        self._fresh = {}


_NOTHING: Final[_Sums] = (np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _sum_by(place: Int64s, values: Int64s, size: int) -> Int64s:
    sums = np.zeros(size, dtype=np.int64)
    np.add.at(sums, place, values)
    return sums


def _pack(minutes: dict[int, list[_Sums]]) -> bytes:
    batches = [(minute, *sums) for minute, parts in minutes.items() for sums in parts]
    return pack({"format": _FORMAT, "batches": batches})
