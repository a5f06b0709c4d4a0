"""Rows of fixed shape found by a 64-bit key: put, take and find many at once, at a cost that follows what is asked.

Rows lie in runs sorted by key, merged as they grow, so that a look-up is a few binary searches of sorted keys. A row
that is taken is marked dead and goes when its run is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Records = npt.NDArray[Any]  # structured

_MAX_RUNS = 4


def distinct(keys: Keys) -> Keys:
    """Distinct keys, ascending (`np.unique` is slower: it hashes)."""
    ordered = np.sort(keys)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]


def among(keys: Keys, held: Keys) -> Mask:
    """Which of `keys` are in `held` (ascending)."""
    if not len(held):
        return np.zeros(len(keys), dtype=np.bool_)
    at = np.searchsorted(held, keys)
    at[at == len(held)] = 0
    mask: Mask = held[at] == keys
    return mask


class _Run:
    def __init__(self, rows: Records, key: str) -> None:
        order = np.argsort(rows[key], kind="stable")
        self.rows = rows[order]
        self.keys: Keys = np.ascontiguousarray(self.rows[key])
        self.alive = np.ones(len(rows), dtype=np.bool_)

    def living(self) -> Records:
        return self.rows if self.alive.all() else self.rows[self.alive]

    def places(self, low: Keys, high: Keys) -> npt.NDArray[np.intp]:
        """Indices of living rows with a key from `low[i]` to `high[i]` for any i (ranges ascend and do not overlap)."""
        left = np.searchsorted(self.keys, low)
        counts = np.searchsorted(self.keys, high, side="right") - left
        held = np.flatnonzero(counts)
        left, counts = left[held], counts[held]
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(left - (ends - counts), counts)
        living: npt.NDArray[np.intp] = places[self.alive[places]]
        return living


class KeyedRows:
    """A bag of rows of a structured `dtype`, several of which may have one key (its UInt64 field `key`)."""

    def __init__(self, dtype: npt.DTypeLike, key: str) -> None:
        self.dtype = np.dtype(dtype)
        self._key = key
        self._runs: list[_Run] = []
        self._touched: list[Keys] | None = None  # None: nobody has asked for a snapshot yet

    def __len__(self) -> int:
        return sum(int(run.alive.sum()) for run in self._runs)

    def put(self, rows: Records) -> None:
        """Add rows."""
        if not len(rows):
            return
        run = _Run(rows, self._key)
        self._touch(run.keys)
        self._runs.append(run)
        if len(self._runs) > _MAX_RUNS:
            self._compact()

    def take(self, keys: Keys) -> Records:
        """Remove and return every row with one of `keys` (ascending, distinct)."""
        found = []
        for run in self._runs:
            places = run.places(keys, keys)
            if len(places):
                found.append(run.rows[places])
                run.alive[places] = False
                self._touch(run.keys[places])
        return self._joined(found)

    def find(self, keys: Keys) -> Records:
        """Every row with one of `keys` (ascending, distinct)."""
        return self.find_between(keys, keys)

    def find_between(self, low: Keys, high: Keys) -> Records:
        """Every row with a key from `low[i]` to `high[i]` for any i (ranges ascend and do not overlap)."""
        return self._joined([run.rows[run.places(low, high)] for run in self._runs])

    def all(self) -> Records:
        """Every row."""
        return self._joined([run.living() for run in self._runs])

    def prune(self, keep: Callable[[Records], Mask]) -> None:
        """Drop rows that no longer matter. Not part of a delta: they may come back in a `restore`."""
        for run in self._runs:
            run.alive &= keep(run.rows)
        self._runs = [
            run if 2 * int(run.alive.sum()) > len(run.rows) else _Run(run.living(), self._key)
            for run in self._runs
            if run.alive.any()
        ]

    def _compact(self) -> None:
        """Merge the newest runs until each is at least twice as long as the next."""
        runs = self._runs
        while len(runs) > 1 and len(runs[-2].rows) < 2 * len(runs[-1].rows):
            rows = self._joined([runs[-2].living(), runs[-1].living()])
            runs[-2:] = [_Run(rows, self._key)] if len(rows) else []

    def _joined(self, parts: list[Records]) -> Records:
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)

    def _touch(self, keys: Keys) -> None:
        if self._touched is not None:
            self._touched.append(keys)

    def snapshot(self) -> bytes:
        """All rows; starts a new delta."""
        self._touched = []
        return self._pack(np.empty(0, dtype=np.uint64), self.all())

    def delta(self) -> bytes:
        """What now stands under the keys touched since the last `snapshot` or `delta`; all rows where there was none."""
        if self._touched is None:
            blob = self.snapshot() if self._runs else b""
            self._touched = []
            return blob
        if not self._touched:
            return b""
        keys = distinct(np.concatenate(self._touched))
        self._touched = []
        return self._pack(keys, self.find(keys))

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the rows that wrote these."""
        self._runs, self._touched = [], None
        for blob in (snapshot, *deltas):
            if blob:
                keys, rows = msgspec.msgpack.decode(blob, type=tuple[bytes, bytes])
                self.take(np.frombuffer(keys, dtype="<u8").astype(np.uint64))
                self.put(np.frombuffer(rows, dtype=self.dtype.newbyteorder("<")).astype(self.dtype))
        self._touched = []

    def _pack(self, keys: Keys, rows: Records) -> bytes:
        return msgspec.msgpack.encode((keys.tobytes(), rows.tobytes()))
