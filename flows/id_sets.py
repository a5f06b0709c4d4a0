"""Exact distinct counts over many windows at once: keys get small ids, and each window holds a set of ids.

A user is active in a minute, in its hour and in two local hours; holding a 64-bit hash in each would take 8 bytes a
window. Here a key is looked up once (`KeyIndex`), and a window's set (`IdSet`) is a bitmap over ids, or a sorted list
of ids where that is smaller: look-ups are array gathers, and a closed window of a busy minute takes a bit a key.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads keys that share low bits, as a shard's do
_MAX_LOAD = 0.6
_SMALL_UNIVERSE = 1 << 13  # up to this many ids a bitmap (1 KiB) is always used
_BIT: npt.NDArray[np.uint8] = np.left_shift(np.uint8(1), np.arange(8, dtype=np.uint8))


class KeyIndex:
    """Ids 1, 2, … for 64-bit keys, in the order in which they were first met. An open-addressing hash table."""

    def __init__(self, keys: Keys | None = None) -> None:
        """An index of these distinct keys (id 1 first), or an empty one."""
        held = np.zeros(0, dtype=np.uint64) if keys is None else keys
        self._count = len(held)
        self._keys = np.zeros(max(1024, 1 + len(held)), dtype=np.uint64)  # id → key; place 0 stands for "no id"
        self._keys[1 : 1 + len(held)] = held
        self._rebuild()

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> Keys:
        """Keys by id, from id 1."""
        return self._keys[1 : 1 + self._count]

    def nbytes(self) -> int:
        """Bytes held."""
        return self._keys.nbytes + self._slots.nbytes

    def ids(self, keys: Keys) -> Ids:
        """The id of each key; new keys get the next ids. Shapes: n → n."""
        found = self._find(keys)
        missing = np.flatnonzero(found == 0)
        if len(missing):
            new, inverse = np.unique(keys[missing], return_inverse=True)
            found[missing] = self._count + 1 + inverse
            self.extend(new)
        return found

    def _find(self, keys: Keys) -> Ids:
        """Ids of keys, 0 where there is none."""
        slot = self._home(keys)
        found = self._slots.take(slot).astype(np.int64)
        todo = np.flatnonzero((self._keys.take(found) != keys) & (found != 0))
        slot, wanted, step = slot[todo], keys[todo], 0
        while len(todo):
            step += 1
            slot = (slot + step) & self._mask
            at = self._slots.take(slot).astype(np.int64)
            found[todo] = at
            on = np.flatnonzero((self._keys.take(at) != wanted) & (at != 0))
            todo, slot, wanted = todo[on], slot[on], wanted[on]
        return found

    def extend(self, new: Keys) -> None:
        """Give the next ids, in this order, to distinct keys that the index lacks."""
        first, self._count = self._count + 1, self._count + len(new)
        if self._count >= len(self._keys):
            grown = np.zeros(max(self._count + 1, len(self._keys) * 3 // 2), dtype=np.uint64)
            grown[:first] = self._keys[:first]
            self._keys = grown
        self._keys[first : self._count + 1] = new
        if self._count > _MAX_LOAD * len(self._slots):
            self._rebuild()
        else:
            self._place(np.arange(first, self._count + 1, dtype=np.int32))

    def _rebuild(self) -> None:
        """A table with room for as many keys again."""
        size = 1024
        while self._count > _MAX_LOAD / 2 * size:
            size *= 2
        self._mask = np.int64(size - 1)
        self._shift = np.uint64(65 - size.bit_length())
        self._slots = np.zeros(size, dtype=np.int32)  # slot → id, 0 = free
        self._place(np.arange(1, self._count + 1, dtype=np.int32))

    def _place(self, ids: npt.NDArray[np.int32]) -> None:
        """Put ids whose keys the table lacks into free slots. Where two want one slot the last written has it."""
        slot, step = self._home(self._keys[ids]), 0
        while len(ids):
            free = self._slots.take(slot) == 0
            self._slots[slot[free]] = ids[free]
            on = np.flatnonzero(self._slots.take(slot) != ids)
            step += 1
            ids, slot = ids[on], (slot[on] + step) & self._mask

    def _home(self, keys: Keys) -> Ids:
        return ((keys * _MIX) >> self._shift).astype(np.int64)


class IdSet:
    """A set of ids, as a bitmap or, while that is smaller, as a sorted list."""

    __slots__ = ("_bits", "_few")

    def __init__(self) -> None:
        self._few: npt.NDArray[np.int32] | None = np.zeros(0, dtype=np.int32)
        self._bits = np.zeros(0, dtype=np.uint8)

    def add(self, ids: Ids, universe: int, scratch: Ids) -> Places:
        """Add ids (each ≤ `universe`) and answer one place of each id that the set lacked.

        `scratch` has a cell for each id up to `universe`; what it holds does not matter.
        """
        if self._few is not None and (universe < _SMALL_UNIVERSE or 32 * (len(self._few) + len(ids)) > universe):
            self._bits, self._few = self._bitmap(universe), None
        lacked = self._lacked(ids, universe)
        wanted = ids[lacked]
        order = np.arange(len(lacked))
        scratch[wanted] = order  # of several places of one id the last written stays
        places = lacked[scratch[wanted] == order]
        self._put(ids[places])
        return places

    def _lacked(self, ids: Ids, universe: int) -> Places:
        if self._few is not None:
            if not len(self._few):
                return np.arange(len(ids))
            at = np.searchsorted(self._few, ids)
            at[at == len(self._few)] = 0
            return np.flatnonzero(self._few[at] != ids)
        if universe // 8 >= len(self._bits):
            grown = np.zeros(universe * 5 // 32 + 16, dtype=np.uint8)  # a quarter more than now needed
            grown[: len(self._bits)] = self._bits
            self._bits = grown
        return np.flatnonzero((self._bits.take(ids >> 3) & _BIT.take(ids & 7)) == 0)

    def _put(self, ids: Ids) -> None:
        """Add distinct ids that are not there."""
        if self._few is not None:
            self._few = np.sort(np.concatenate((self._few, ids.astype(np.int32))))
        else:
            np.bitwise_or.at(self._bits, ids >> 3, _BIT.take(ids & 7))

    def ids(self) -> npt.NDArray[np.int32]:
        """All ids, ascending."""
        if self._few is not None:
            return self._few
        return np.flatnonzero(np.unpackbits(self._bits, bitorder="little")).astype(np.int32)

    def mark(self, alive: npt.NDArray[np.bool_]) -> None:
        """Set `alive[id]` for each id held."""
        alive[self.ids()] = True

    def nbytes(self) -> int:
        """Bytes held."""
        return self._bits.nbytes + (0 if self._few is None else self._few.nbytes)

    def load(self, ids: Ids, universe: int) -> None:
        """Become the set of these distinct ids and those already there."""
        self.add(ids, universe, np.empty(universe + 1, dtype=np.int64))

    def _bitmap(self, universe: int) -> npt.NDArray[np.uint8]:
        bits = np.zeros(universe // 8 + 1, dtype=np.uint8)
        if self._few is not None:
            np.bitwise_or.at(bits, self._few >> 3, _BIT.take(self._few & 7))
        return bits


class RecentKeys:
    """A small lossy memory of keys: what it holds has been met; what it lacks may have been met too.

    It spares exact look-ups of what the last batches repeated. Direct-mapped, so of constant size and never stale.
    """

    def __init__(self, bits: int = 16) -> None:
        self._shift = np.uint64(64 - bits)
        self._held = np.zeros(1 << bits, dtype=np.uint64)
        self._held[0] = 1 << 63  # the key 0 lives in slot 0; this one does not, so no key is held at the start
        self._owner = np.zeros(1 << bits, dtype=np.int64)

    def unmet(self, keys: Keys) -> Places:
        """Places that include the first meeting of every key not met before; few others. Keys are remembered."""
        slot = ((keys * _MIX) >> self._shift).astype(np.int64)
        rows = np.flatnonzero(self._held.take(slot) != keys)
        slot, wanted = slot[rows], keys[rows]
        self._held[slot] = wanted
        self._owner[slot] = rows
        owner = self._owner.take(slot)
        return rows[(owner == rows) | (keys[owner] != wanted)]
