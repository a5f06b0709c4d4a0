"""Which (user, group) pairs a shard has seen in which window, with its snapshot and deltas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from flows.id_sets import Ids, KeyIndex, Keys, Places, WindowSets
from schemas.windows import Int64s, Window

_FORMAT: Final = 1
_NEVER: Final = 1 << 62
_RENUMBER_MIN: Final = 1 << 14  # ids below which unused ones are not worth reclaiming
_UNTOLD_MIN: Final = 1 << 21  # noted changes below which nobody minds that no delta is ever asked for


class _Blob(msgspec.Struct, array_like=True):
    """State or its change as plain data. Arrays are little-endian."""

    format: int
    full: bool
    watermark: int
    keys: bytes  # u64, in the order of their ids
    sets: list[tuple[int, int, bytes]]  # code of the cut, start, ids as i32


class SeenPairs:
    """Sets of pairs, one per window. A window's set goes `retain_ms` after the window has closed."""

    def __init__(self, cuts: Iterable[Window], retain_ms: int) -> None:
        self._cuts = {cut.code: cut for cut in cuts}
        self._retain_ms = retain_ms
        self._start_empty()

    def _start_empty(self) -> None:
        self._watermark = -_NEVER
        self._next_expiry = _NEVER
        self._pairs = KeyIndex()
        self._renumber_at = _RENUMBER_MIN
        self._sets = {code: WindowSets(cut.size_ms) for code, cut in self._cuts.items()}
        self._start_delta(full=False)

    def _start_delta(self, *, full: bool) -> None:
        """Note changes from here on; `full`: they can only be told as a whole."""
        self._full = full
        self._moved = False
        self._keys_told = len(self._pairs)
        self._fresh: dict[tuple[int, int], list[npt.NDArray[np.int32]]] = {}
        self._fresh_count = 0

    def nbytes(self) -> int:
        """Bytes held in arrays."""
        return self._pairs.nbytes() + sum(s.nbytes() for s in self._sets.values())

    def ids(self, keys: Keys) -> Ids:
        """Ids of pairs, for `first`. Void after the next `expire`."""
        return self._pairs.ids(keys)

    def first(self, cut: Window, starts: Int64s, window: Int64s, ids: Ids) -> Places:
        """The first place of each (window, pair) that was not seen before; they are seen from now on.

        Args:
            cut: the way in which time is cut.
            starts: distinct windows.
            window: for each pair the place of its window in `starts`.
            ids: the id of each pair.
        """
        if len(starts) == 1:
            return self._add((cut.code, int(starts[0])), ids)
        short = window.astype(np.uint16) if len(starts) < 1 << 16 else window  # radix sort below 2^16
        order = np.argsort(short, kind="stable")
        ends = np.bincount(window, minlength=len(starts)).cumsum()
        places, begin = [], 0
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if end > begin:
                rows = order[begin:end]
                places.append(rows[self._add((cut.code, start), ids[rows])])
            begin = end
        return np.concatenate(places) if places else np.zeros(0, dtype=np.int64)

    def _add(self, name: tuple[int, int], ids: Ids) -> Places:
        code, start = name
        held = self._sets[code]
        if start not in held:
            self._next_expiry = min(self._next_expiry, self._expiry(name))
        places = held.add(start, ids, len(self._pairs))
        if len(places) and not self._full:
            self._fresh.setdefault(name, []).append(ids[places].astype(np.int32))
            self._fresh_count += len(places)
            if self._fresh_count > _UNTOLD_MIN + len(self._pairs):
                self._start_delta(full=True)  # nobody asks for deltas: do not hoard them
        return places

    def _names(self) -> list[tuple[int, int]]:
        return [(code, start) for code, held in self._sets.items() for start in held.starts()]

    def _expiry(self, name: tuple[int, int]) -> int:
        code, start = name
        return self._cuts[code].closes_at(start) + self._retain_ms

    def expire(self, watermark: int) -> None:
        """Forget windows that no admitted event can reach any more."""
        if watermark < self._next_expiry:
            return
        self._watermark, self._moved = watermark, True
        self._drop_passed()
        if len(self._pairs) > self._renumber_at:
            self._renumber()

    def _drop_passed(self) -> None:
        self._next_expiry = _NEVER
        for name in self._names():
            expiry = self._expiry(name)
            if expiry > self._watermark:
                self._next_expiry = min(self._next_expiry, expiry)
                continue
            self._sets[name[0]].drop(name[1])
            self._fresh_count -= sum(map(len, self._fresh.pop(name, ())))

    def _renumber(self) -> None:
        """Forget the pairs that are in no window, when they are half of all."""
        alive = np.zeros(len(self._pairs) + 1, dtype=np.bool_)
        for held in self._sets.values():
            held.mark(alive)
        count = int(np.count_nonzero(alive))
        if 2 * count <= len(self._pairs):
            self._pairs = KeyIndex(self._pairs.keys[alive[1:]])
            for held in self._sets.values():
                held.renumber(alive)
            self._start_delta(full=True)
        self._renumber_at = max(_RENUMBER_MIN, 2 * count, len(self._pairs) * 5 // 4)

    def snapshot(self) -> bytes:
        """Everything; starts a new delta."""
        self._start_delta(full=False)
        sets = [(*name, self._sets[name[0]].ids(name[1]).astype("<i4").tobytes()) for name in self._names()]
        keys = self._pairs.keys.astype("<u8").tobytes()
        return msgspec.msgpack.encode(_Blob(_FORMAT, full=True, watermark=self._watermark, keys=keys, sets=sets))

    def delta(self) -> bytes:
        """What changed since the last `snapshot` or `delta`; empty when nothing did."""
        if self._full:
            return self.snapshot()
        if not self._fresh and not self._moved and self._keys_told == len(self._pairs):
            return b""
        sets = [(*name, np.concatenate(ids).astype("<i4").tobytes()) for name, ids in self._fresh.items()]
        keys = self._pairs.keys[self._keys_told :].astype("<u8").tobytes()
        self._start_delta(full=False)
        return msgspec.msgpack.encode(_Blob(_FORMAT, full=False, watermark=self._watermark, keys=keys, sets=sets))

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the state that wrote these."""
        self._start_empty()
        for blob in (snapshot, *deltas):
            if blob:
                self._apply(msgspec.msgpack.decode(blob, type=_Blob))
        self._start_delta(full=False)

    def _apply(self, blob: _Blob) -> None:
        if blob.format != _FORMAT:
            raise ValueError(f"activity state of format {blob.format}; this version reads {_FORMAT}")
        if blob.full:
            self._start_empty()
        self._pairs.ids(np.frombuffer(blob.keys, dtype="<u8").astype(np.uint64))
        universe = len(self._pairs)
        for code, start, ids in blob.sets:
            self._sets[code].add(start, np.frombuffer(ids, dtype="<i4").astype(np.int64), universe)
        self._watermark = blob.watermark
        self._drop_passed()
