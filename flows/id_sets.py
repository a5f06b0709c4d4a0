"""Exact distinct counts over many windows at once: keys get small ids, and each window holds a set of ids.

A user is active in a minute, in its hour and in two local hours; holding a 64-bit hash in each would take 8 bytes a
window. Here a key is looked up once (`KeyIndex`), and a window's set (`WindowSets`) is a bit an id.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.decode_compile import compiled, inlined, prefetch

Keys = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]
Places = npt.NDArray[np.int64]
Slots = npt.NDArray[np.int32]
Bits = npt.NDArray[np.uint8]

_MAX_LOAD = 0.6
_AHEAD = 12  # keys whose slots are on their way from memory while one is looked up
_BIT: Bits = np.left_shift(np.uint8(1), np.arange(8, dtype=np.uint8))


class KeyIndex:
    """Ids 1, 2, … for 64-bit keys, in the order in which they were first met. An open-addressing hash table."""

    def __init__(self, keys: Keys | None = None) -> None:
        """An index of these distinct keys (id 1 first), or an empty one."""
        held = np.zeros(0, dtype=np.uint64) if keys is None else keys
        self._count = 0
        self._keys = np.zeros(1, dtype=np.uint64)  # id → key; place 0 stands for "no id"
        self._slots = np.zeros(1024, dtype=np.int32)  # slot → id, 0 = free
        if len(held):
            self.ids(held)

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
        """The id of each key; new keys get the next ids in their order. Shapes: n → n."""
        self._make_room(len(keys))
        ids = np.empty(len(keys), dtype=np.int64)
        self._count = _ids(keys, self._keys, self._slots, self._count, ids)
        return ids

    def _make_room(self, more: int) -> None:
        """Room for `more` new keys. Grows by what is there, so that a key is moved a few times in all."""
        if self._count + more >= len(self._keys):
            grown = np.zeros((self._count + more) * 4 // 3 + 1, dtype=np.uint64)
            grown[: self._count + 1] = self._keys[: self._count + 1]
            self._keys = grown
        size = len(self._slots)
        while self._count + more > _MAX_LOAD * size:
            size *= 2
        if size > len(self._slots):
            self._slots = np.zeros(size, dtype=np.int32)
            _place(self._keys, self._count, self._slots)


class WindowSets:
    """A set of ids for each window of one size.

    Eight neighbouring windows share an array of bytes, one byte an id and one bit a window, so that a look-up is one
    read and a closed window takes a bit an id. A window with few ids for its universe is a sorted list instead.
    """

    def __init__(self, size_ms: int) -> None:
        self._size = size_ms
        self._few: dict[int, Slots] = {}  # start → ids, ascending
        self._bits: dict[int, Bits] = {}  # block of windows → bits by id
        self._in_bits: set[int] = set()  # starts of the windows in there

    def __contains__(self, start: int) -> bool:
        return start in self._few or start in self._in_bits

    def starts(self) -> list[int]:
        """The windows held, ascending."""
        return sorted((*self._few, *self._in_bits))

    def add(self, start: int, ids: Ids, universe: int) -> Places:
        """Add ids (each ≤ `universe`) to a window and answer the first place of each id that it lacked."""
        if start not in self._in_bits:
            few = self._few.setdefault(start, np.zeros(0, dtype=np.int32))
            if 32 * (len(few) + len(ids)) <= universe:  # four bytes an id are less than a bit of each
                return self._add_few(start, few, ids)
            self._to_bits(start, few, universe)
        block, bit = self._block(start, universe)
        places = np.empty(len(ids), dtype=np.int64)
        return places[: _add_bits(ids, block, bit, places)]

    def _add_few(self, start: int, few: Slots, ids: Ids) -> Places:
        distinct, places = np.unique(ids, return_index=True)
        lacked = ~np.isin(distinct, few, assume_unique=True)
        self._few[start] = np.sort(np.concatenate((few, distinct[lacked].astype(np.int32))))
        found: Places = places[lacked]
        return found

    def _block(self, start: int, universe: int) -> tuple[Bits, int]:
        """The array and the bit of a window; the array reaches every id of the universe."""
        number, place = divmod(start // self._size, 8)
        block = self._bits.get(number)
        if block is None or len(block) <= universe:
            grown = np.zeros(universe * 5 // 4 + 16, dtype=np.uint8)
            if block is not None:
                grown[: len(block)] = block
            block = self._bits[number] = grown
        return block, 1 << place

    def _to_bits(self, start: int, few: Slots, universe: int) -> None:
        block, bit = self._block(start, universe)
        block[few] |= np.uint8(bit)  # ids are distinct here
        self._in_bits.add(start)
        del self._few[start]

    def ids(self, start: int) -> Slots:
        """Ids of a window that is held, ascending."""
        if start in self._few:
            return self._few[start]
        number, place = divmod(start // self._size, 8)
        held: Slots = (self._bits[number] & _BIT[place]).nonzero()[0].astype(np.int32)
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
            reach = min(len(block), len(alive))
            alive[:reach] |= block[:reach] != 0

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


class RecentKeys:
    """A small lossy memory of keys: what it holds has been met; what it lacks may have been met too.

    It spares exact look-ups of what the last batches repeated. Direct-mapped, so of constant size and never stale.
    """

    def __init__(self, bits: int = 16) -> None:
        self._held = np.zeros(1 << bits, dtype=np.uint64)

    def unmet(self, keys: Keys) -> Places:
        """Places that include the first meeting of every key not met before; few others. Keys are remembered."""
        places = np.empty(len(keys), dtype=np.int64)
        return places[: _unmet(keys, self._held, places)]


@inlined
def _home(key: np.uint64, mask: int) -> int:
    """Where the search for a key begins: Fibonacci hashing, for keys of one shard share low bits."""
    return int(np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask)


@compiled
def _ids(keys: Keys, by_id: Keys, slots: Slots, count: int, ids: Ids) -> int:
    """Fill `ids`, adding what `slots` lacks; the new count."""
    mask = len(slots) - 1
    for i in range(len(keys)):
        if i + 2 * _AHEAD < len(keys):
            prefetch(slots, _home(keys[i + 2 * _AHEAD], mask))
        if i + _AHEAD < len(keys):
            prefetch(by_id, int(slots[_home(keys[i + _AHEAD], mask)]))
        at = _home(keys[i], mask)
        while slots[at] != 0 and by_id[slots[at]] != keys[i]:
            at = (at + 1) & mask
        if slots[at] == 0:
            count += 1
            slots[at] = count
            by_id[count] = keys[i]
        ids[i] = slots[at]
    return count


@compiled
def _place(by_id: Keys, count: int, slots: Slots) -> None:
    """Fill empty `slots` with the ids 1 to `count`."""
    mask = len(slots) - 1
    for number in range(1, count + 1):
        at = _home(by_id[number], mask)
        while slots[at] != 0:
            at = (at + 1) & mask
        slots[at] = number


@compiled
def _add_bits(ids: Ids, block: Bits, bit: int, places: Places) -> int:
    """Set `bit` for ids; the first places of those that lacked it go into `places`; how many."""
    count = 0
    for i in range(len(ids)):
        if block[ids[i]] & bit == 0:
            block[ids[i]] |= bit
            places[count] = i
            count += 1
    return count


@compiled
def _unmet(keys: Keys, held: Keys, places: Places) -> int:
    """See `RecentKeys.unmet`; how many. 0 marks a free slot: the key 0 is never held."""
    mask, count = len(held) - 1, 0
    for i in range(len(keys)):
        at = _home(keys[i], mask)
        if held[at] != keys[i] or keys[i] == 0:
            held[at] = keys[i]
            places[count] = i
            count += 1
    return count
