"""Times per key, asked for the latest one at or before a moment: an "as of" look-up that takes rows in any order.

Rows lie in sorted runs. A run packs the leading bits of the key and the time since the run's start into one 64-bit
number, so that one sort orders it and one binary search answers; whole keys are kept beside to tell keys with equal
leading bits apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Rows = tuple[Keys, Int64s, Keys]  # key, time, label

NEVER = -(1 << 62)
"""The time that is given where there is none."""

_MAX_YOUNG = 8
_SEALED_ROWS = 1 << 16


class _Run:
    """Rows ordered by (leading bits of the key, time, rank of the label)."""

    def __init__(self, rows: Rows, rank: Callable[[Keys], Keys]) -> None:
        keys, times, labels = rows
        self.first, self.last = int(times.min()), int(times.max())
        self._shift = np.uint64(max(1, (self.last - self.first).bit_length()))
        packed = (keys >> self._shift << self._shift) | (times - self.first).astype(np.uint64)
        order = np.argsort(packed, kind="stable")
        ordered = packed[order]
        tied = ordered[1:] == ordered[:-1]
        if tied.any() and (labels[order[1:]] != labels[order[:-1]])[tied].any():
            order = np.lexsort((rank(labels), packed))
            ordered = packed[order]
        self._packed, self.keys, self.labels = ordered, keys[order], labels[order]
        self.thin = False

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self) -> Rows:
        mask = (np.uint64(1) << self._shift) - np.uint64(1)
        return self.keys, (self._packed & mask).astype(np.int64) + self.first, self.labels

    def find(self, keys: Keys, times: Int64s) -> tuple[Int64s, Keys]:
        """The latest time at or before `times` (all ≥ `first`) and its label, or NEVER. Shapes: (n,)."""
        since = np.minimum(times - self.first, self.last - self.first).astype(np.uint64)
        leading = keys >> self._shift
        at = np.searchsorted(self._packed, (leading << self._shift) | since, side="right") - 1
        found = (at >= 0) & (self._packed[at] >> self._shift == leading)
        while (wrong := found & (self.keys[at] != keys)).any():  # another key with these leading bits
            at[wrong] -= 1
            found &= (at >= 0) & (self._packed[at] >> self._shift == leading)
        mask = (np.uint64(1) << self._shift) - np.uint64(1)
        latest = np.where(found, (self._packed[at] & mask).astype(np.int64) + self.first, NEVER)
        return latest, self.labels[at]


class TimeIndex:
    """(key, time, label) rows. Of a key's rows with one time the label of the highest `rank` counts.

    `window_ms`: how far back a time may lie to be an answer.
    """

    def __init__(self, window_ms: int, rank: Callable[[Keys], Keys]) -> None:
        self._window = window_ms
        self._rank = rank
        self._runs: list[_Run] = []
        self._fresh: list[Rows] | None = None  # None: nobody has asked for a snapshot yet

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, keys: Keys, times: Int64s, labels: Keys) -> None:
        """Take in rows (arrays of length n)."""
        if not len(keys):
            return
        rows = keys, times, labels
        if self._fresh is not None:
            self._fresh.append(rows)
        self._runs.append(_Run(rows, self._rank))
        young = [run for run in self._runs if len(run) < _SEALED_ROWS]
        if len(young) > _MAX_YOUNG:
            merged = _Run(_joined([run.rows() for run in young]), self._rank)
            self._runs = [run for run in self._runs if len(run) >= _SEALED_ROWS] + [merged]

    def latest(self, keys: Keys, times: Int64s) -> tuple[Int64s, Keys]:
        """Per (key, moment) the latest time within the window at or before it, and its label; NEVER where none is."""
        order = np.argsort(keys)
        keys, times = keys[order], times[order]
        best, label = np.full(len(keys), NEVER), np.zeros(len(keys), dtype=np.uint64)
        for run in sorted(self._runs, key=lambda run: run.last, reverse=True):
            asked = np.flatnonzero((times >= run.first) & (run.last >= np.maximum(best, times - self._window)))
            if not len(asked):
                continue
            time, name = run.find(keys[asked], times[asked])
            better = (time > best[asked]) & (time >= times[asked] - self._window)
            tied = np.flatnonzero((time == best[asked]) & (time > NEVER) & (name != label[asked]))
            better[tied] = self._rank(name[tied]) > self._rank(label[asked[tied]])
            best[asked[better]], label[asked[better]] = time[better], name[better]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return best[back], label[back]

    def prune(self, floor: int) -> None:
        """Drop what no question about a moment at or after `floor` can have as its answer."""
        oldest = floor - self._window
        kept = []
        for run in self._runs:
            if run.last < floor and not run.thin:
                keys, times, labels = run.rows()
                # Below the floor only the last row of a key can be the latest: rows of one key lie in order of time,
                # those with equal leading bits perhaps mixed, which keeps a row too many at worst.
                last = np.append(keys[1:] != keys[:-1], True) & (times >= oldest)
                if not last.any():
                    continue
                run = _Run((keys[last], times[last], labels[last]), self._rank)  # noqa: PLW2901
                run.thin = True
            if run.last >= oldest:
                kept.append(run)
        self._runs = kept
        if self._fresh:
            self._fresh = [rows for rows in self._fresh if int(rows[1].max()) >= oldest]

    def labels(self) -> Keys:
        """Labels in use."""
        return np.unique(np.concatenate([run.labels for run in self._runs] or [np.empty(0, dtype=np.uint64)]))

    def snapshot(self) -> bytes:
        """All rows; starts a new delta."""
        self._fresh = []
        return _pack([run.rows() for run in self._runs])

    def delta(self) -> bytes:
        """Rows added since the last `snapshot` or `delta`; all where there was none; empty when there are none."""
        fresh = [run.rows() for run in self._runs] if self._fresh is None else self._fresh
        self._fresh = []
        return _pack(fresh) if fresh else b""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the index that wrote these."""
        self._runs, self._fresh = [], None
        for blob in (snapshot, *deltas):
            if blob:
                self.add(*_unpack(blob))
        self._fresh = []


def _joined(rows: list[Rows]) -> Rows:
    keys, times, labels = zip(*rows, strict=True)
    return np.concatenate(keys), np.concatenate(times), np.concatenate(labels)


def _pack(rows: list[Rows]) -> bytes:
    return msgspec.msgpack.encode([array.tobytes() for array in _joined(rows)] if rows else [b"", b"", b""])


def _unpack(blob: bytes) -> Rows:
    keys, times, labels = msgspec.msgpack.decode(blob, type=tuple[bytes, bytes, bytes])
    return (
        np.frombuffer(keys, dtype="<u8").astype(np.uint64),
        np.frombuffer(times, dtype="<i8").astype(np.int64),
        np.frombuffer(labels, dtype="<u8").astype(np.uint64),
    )
