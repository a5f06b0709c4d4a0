"""Exact distinct counts over many windows at once: keys get small ids, and each window holds a set of ids.

A user is active in a minute, in its hour and in two local hours; holding a 64-bit hash in each would take 8 bytes a
window. Here a key is looked up once (`KeyIndex`), and a window's set (`WindowSets`) is a bit an id.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads keys that share low bits, as a shard's do
_MAX_LOAD = 0.6
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
        return ((keys * _MIX) >> self._shift).view(np.int64)


class WindowSets:
    """A set of ids for each window of one size.

    Eight neighbouring windows share an array of bytes, one byte an id and one bit a window, so that a look-up is one
    gather and a closed window takes a bit an id. A window with few ids for its universe is a sorted list instead.
    """

    def __init__(self, size_ms: int) -> None:
        self._size = size_ms
        self._few: dict[int, npt.NDArray[np.int32]] = {}  # start → ids, ascending
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}  # block of windows → bits by id
        self._in_bits: set[int] = set()  # starts of the windows in there

    def __contains__(self, start: int) -> bool:
        return start in self._few or start in self._in_bits

    def starts(self) -> list[int]:
        """The windows held, ascending."""
        return sorted((*self._few, *self._in_bits))

    def add(self, start: int, ids: Ids, universe: int, scratch: Ids) -> Places:
        """Add ids (each ≤ `universe`) to a window and answer one place of each id that it lacked.

        `scratch` has a cell for each id up to `universe`; what it holds does not matter.
        """
        if start not in self._in_bits:
            few = self._few.setdefault(start, np.zeros(0, dtype=np.int32))
            if 32 * (len(few) + len(ids)) > universe:  # four bytes an id are more than a bit of each
                self._to_bits(start, few, universe)
        if start in self._in_bits:
            block, bit = self._block(start, universe)
            lacked = ((block.take(ids) & bit) == 0).nonzero()[0]
        else:
            block, bit = None, np.uint8(0)
            lacked = np.flatnonzero(~_member(few, ids))
        wanted = ids[lacked]
        order = np.arange(len(lacked))
        scratch[wanted] = order  # of several places of one id the last written stays
        once = (scratch.take(wanted) == order).nonzero()[0]
        places: Places = lacked[once]
        added = wanted[once]
        if block is None:
            self._few[start] = np.sort(np.concatenate((few, added.astype(np.int32))))
        else:
            block[added] |= bit  # ids are distinct here
        return places

    def _block(self, start: int, universe: int) -> tuple[npt.NDArray[np.uint8], np.uint8]:
        """The array and the bit of a window; the array reaches every id of the universe."""
        number, place = divmod(start // self._size, 8)
        block = self._bits.get(number)
        if block is None or len(block) <= universe:
            grown = np.zeros(universe * 5 // 4 + 16, dtype=np.uint8)
            if block is not None:
                grown[: len(block)] = block
            block = self._bits[number] = grown
        return block, _BIT[place]

    def _to_bits(self, start: int, few: npt.NDArray[np.int32], universe: int) -> None:
        block, bit = self._block(start, universe)
        block[few] |= bit
        self._in_bits.add(start)
        del self._few[start]

    def ids(self, start: int) -> npt.NDArray[np.int32]:
        """Ids of a window that is held."""
        if start in self._few:
            return self._few[start]
        number, place = divmod(start // self._size, 8)
        held: npt.NDArray[np.int32] = (self._bits[number] & _BIT[place]).nonzero()[0].astype(np.int32)
        return held

    def drop(self, start: int) -> None:
        """Forget a window."""
        if self._few.pop(start, None) is not None or start not in self._in_bits:
            return
        self._in_bits.remove(start)
        number, place = divmod(start // self._size, 8)
        if any(other // self._size // 8 == number for other in self._in_bits):
            self._bits[number] &= ~_BIT[place]
        else:
            del self._bits[number]

    def mark(self, alive: npt.NDArray[np.bool_]) -> None:
        """Set `alive[id]` for every id that any window holds."""
        for few in self._few.values():
            alive[few] = True
        for block in self._bits.values():
            alive[: len(block)] |= block[: len(alive)] != 0

    def renumber(self, alive: npt.NDArray[np.bool_]) -> None:
        """Give the ids marked in `alive` (others are not held) the numbers 1, 2, … in their order."""
        number = np.cumsum(alive).astype(np.int32)
        old = np.flatnonzero(alive)
        self._few = {start: number[few] for start, few in self._few.items()}
        for name, block in self._bits.items():
            within = old[old < len(block)]
            self._bits[name] = np.concatenate((np.zeros(1, dtype=np.uint8), block[within]))

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(few.nbytes for few in self._few.values()) + sum(block.nbytes for block in self._bits.values())


def _member(ascending: npt.NDArray[np.int32], ids: Ids) -> npt.NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(ids), dtype=np.bool_)
    at = np.searchsorted(ascending, ids.astype(np.int32))
    at[at == len(ascending)] = 0
    found: npt.NDArray[np.bool_] = ascending[at] == ids
    return found


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
        slot = ((keys * _MIX) >> self._shift).view(np.int64)
        rows = np.flatnonzero(self._held.take(slot) != keys)
        slot, wanted = slot[rows], keys[rows]
        self._held[slot] = wanted
        self._owner[slot] = rows
        owner = self._owner.take(slot)
        kept: Places = rows[(owner == rows) | (keys[owner] != wanted)]
        return kept
