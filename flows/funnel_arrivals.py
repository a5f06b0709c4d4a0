"""When the units of a funnel first arrived at its steps: what is counted once per unit, however many chains it has.

An arrival is a unit at a step in a bucket, by the dimension values of one event. Its score orders arrivals: the time of
arrival, then (of two at once) the time from step 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flows.funnel_steps import UNREACHED, Chains
from flows.keyed_rows import KeyedRows, distinct
from schemas.funnels import BUCKET_MS
from schemas.hashing import mix

Keys = npt.NDArray[np.uint64]
Arrivals = npt.NDArray[Any]

ARRIVAL: Final = np.dtype(
    [
        ("unit", "u8"),  # user, or pair
        ("group", "u8"),  # hash of unit and bucket
        ("bucket", "i8"),
        ("label", "u8"),  # of the dimension values that it counts under
        ("step", "i8"),
        ("score", "u8"),
    ]
)
_TIME_BITS: Final = np.uint64(32)
_NO_SCORE: Final = np.uint64(0xFFFFFFFFFFFFFFFF)


def took_ms(scores: Keys) -> npt.NDArray[np.int64]:
    """The time from step 1 to each arrival."""
    return (scores & np.uint64(0xFFFFFFFF)).astype(np.int64)


def reached_steps(chains: Chains) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Rows of chains and the steps from 2 on that they reached: two arrays with one place per chain and step."""
    later = [np.flatnonzero(chains["first"][:, k] < UNREACHED) for k in range(chains["first"].shape[1])]
    return np.concatenate([np.arange(len(chains)), *later]), np.repeat(
        np.arange(2, 3 + len(later)), [len(chains), *map(len, later)]
    )


def arrivals(chains: Chains, unit: str, label: str) -> Arrivals:
    """One arrival per chain and step that it reached; `unit` and `label` name the fields of a chain to count by."""
    row, step = reached_steps(chains)
    found = np.empty(len(row), dtype=ARRIVAL)
    anchor = chains["anchor"]
    bucket = anchor // BUCKET_MS
    time = chains["entry"][row]
    later = np.flatnonzero(step > 2)
    time[later] = chains["first"][row[later], step[later] - 3]
    found["unit"], found["label"], found["step"] = chains[unit][row], chains[label][row], step
    found["group"] = mix(chains[unit], bucket.astype(np.uint64))[row]
    found["bucket"] = bucket[row] * BUCKET_MS
    found["score"] = ((time - found["bucket"]).astype(np.uint64) << _TIME_BITS) | (time - anchor[row]).astype(np.uint64)
    return found


def _cells(found: Arrivals) -> Keys:
    return mix(found["group"], found["label"] + (found["step"].astype(np.uint64) << np.uint64(56)))


class UserArrivals:
    """The first arrival of each user per bucket, label and step, so that a chain's change need not look at the others."""

    def __init__(self) -> None:
        self._first = KeyedRows(ARRIVAL, "group")

    def change(
        self, before: Arrivals, after: Arrivals, arrivals_of: Callable[[Keys], Arrivals]
    ) -> tuple[Arrivals, Arrivals]:
        """Replace arrivals of some chains by others: the first arrivals before and after of the groups that changed.

        `arrivals_of`: all arrivals of users as they are now; asked for where a first arrival is lost.
        """
        held = self._first.find(distinct(np.concatenate((before["group"], after["group"]))))
        rows = np.concatenate((held, before, after))
        cells, first, place = np.unique(_cells(rows), return_index=True, return_inverse=True)
        scores = np.full((3, len(cells)), _NO_SCORE)
        side = np.repeat([0, 1, 2], [len(held), len(before), len(after)])
        np.minimum.at(scores, (side, place), rows["score"])
        now, gone, come = scores
        best = np.minimum(now, come)
        lost = (gone == now) & (gone < come)
        if lost.any():
            others = arrivals_of(distinct(rows["unit"][first[lost]]))
            where = np.searchsorted(cells, _cells(others))
            where[where == len(cells)] = 0
            known = (cells[where] == _cells(others)) & lost[where]
            best[lost] = _NO_SCORE
            np.minimum.at(best, where[known], others["score"][known])
        moved = distinct(rows["group"][first[best != now]])
        old = self._first.take(moved)
        new = rows[first]
        new["score"] = best
        new = new[np.isin(new["group"], moved) & (best < _NO_SCORE)]
        self._first.put(new)
        return old, new

    def prune(self, oldest_bucket: int) -> None:
        """Forget buckets before it."""
        self._first.prune(lambda rows: rows["bucket"] >= oldest_bucket)

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return self._first.snapshot()

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return self._first.delta()

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        self._first.restore(snapshot, deltas)
