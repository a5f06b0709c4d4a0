"""Many multisets of whole numbers at once, for exact medians: adding and removing are appends, asking is a search.

A member is packed with its set's number into one Int64 and kept in sorted runs, merged as they grow; removed members
have runs of their own. The k-th smallest of many sets is found by halving the range of values for all sets together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

_VALUE_BITS = 31  # times up to 20 days in ms
_MAX_RUNS = 4
_PENDING_MAX = 1 << 16
MAX_VALUE = (1 << _VALUE_BITS) - 1


class _Members:
    """Sorted runs of packed members."""

    def __init__(self) -> None:
        self.runs: list[Int64s] = []
        self._pending: list[Int64s] = []

    def add(self, members: Int64s) -> None:
        self._pending.append(members)
        if sum(map(len, self._pending)) > _PENDING_MAX:
            self.settle()

    def settle(self) -> None:
        """Sort what is pending into the runs."""
        if not self._pending:
            return
        runs = self.runs
        runs.append(np.sort(np.concatenate(self._pending)))
        self._pending = []
        while len(runs) > 1 and (len(runs) > _MAX_RUNS or len(runs[-2]) < 2 * len(runs[-1])):
            last = runs.pop()
            runs[-1] = np.sort(np.concatenate((runs[-1], last)), kind="stable")

    def rank(self, members: Int64s) -> Int64s:
        """How many of all sets are at most each of `members` (sorted)."""
        total = np.zeros(len(members), dtype=np.int64)
        for run in self.runs:
            total += np.searchsorted(run, members, side="right")
        return total


class Multisets:
    """Multisets 0, 1, 2, … of numbers from 0 to MAX_VALUE."""

    def __init__(self) -> None:
        self._added = _Members()
        self._removed = _Members()

    def add(self, sets: Int64s, values: Int64s) -> None:
        """Put one more of each value into its set (arrays of length n)."""
        self._added.add((sets << _VALUE_BITS) | values)

    def remove(self, sets: Int64s, values: Int64s) -> None:
        """Take one of each value out of its set, which holds it or will, once all increments are in."""
        self._removed.add((sets << _VALUE_BITS) | values)

    def medians(self, sets: Int64s, sizes: Int64s) -> npt.NDArray[np.float64]:
        """The exact median of each of `sets` (ascending, of size ≥ 1); of an even number the mean of the middle two."""
        self._added.settle()
        self._removed.settle()
        low = self._select(sets, (sizes - 1) // 2)
        high = low.copy()
        even = sizes % 2 == 0
        high[even] = self._select(sets[even], sizes[even] // 2)
        return (low + high) / 2

    def _select(self, sets: Int64s, places: Int64s) -> Int64s:
        """The value with `places` smaller-or-equal ones before it, per set."""
        if not len(sets):
            return np.zeros(0, dtype=np.int64)
        before = self._rank(sets << _VALUE_BITS, -1)
        low, high = np.zeros(len(sets), dtype=np.int64), np.full(len(sets), MAX_VALUE)
        while (open_ := low < high).any():
            middle = (low + high) >> 1
            enough = self._rank(sets << _VALUE_BITS, middle) - before > places
            high = np.where(open_ & enough, middle, high)
            low = np.where(open_ & ~enough, middle + 1, low)
        return low

    def _rank(self, base: Int64s, values: Int64s | int) -> Int64s:
        members = base + values
        return self._added.rank(members) - self._removed.rank(members)

    def members(self) -> tuple[Int64s, Int64s]:
        """Set and value of every member, ascending, with those removed taken out."""
        self._added.settle()
        self._removed.settle()
        added, counts = np.unique(np.concatenate([*self._added.runs, np.zeros(0, np.int64)]), return_counts=True)
        removed, minus = np.unique(np.concatenate([*self._removed.runs, np.zeros(0, np.int64)]), return_counts=True)
        counts[np.searchsorted(added, removed)] -= minus
        left = np.repeat(added, counts)
        return left >> _VALUE_BITS, left & MAX_VALUE

    def renumber(self, numbers: Int64s) -> None:
        """Set i becomes set `numbers[i]` (ascending among those kept), or goes where that is negative."""
        sets, values = self.members()
        kept = numbers[sets] >= 0
        self._added, self._removed = _Members(), _Members()
        if kept.any():
            self.add(numbers[sets[kept]], values[kept])
