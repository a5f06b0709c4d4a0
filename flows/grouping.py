"""Distinct integers of an array, without a sort where they lie close together."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

_DENSE: Final = 4  # a table is indexed directly while it has at most this many places a key


def distinct(keys: Int64s) -> tuple[Int64s, Int64s]:
    """Distinct keys, ascending, and the place of each key among them. Shapes: n → m ≤ n, n; n may not be 0."""
    low, high = int(keys.min()), int(keys.max())
    if low == high:
        return keys[:1], np.zeros(len(keys), dtype=np.int64)
    span = high - low + 1
    if span > _DENSE * len(keys) + 1024:
        values, places = np.unique(keys, return_inverse=True)
        return values, places
    shifted = keys - low
    present = np.zeros(span, dtype=np.bool_)
    present[shifted] = True
    values = present.nonzero()[0]
    place = np.empty(span, dtype=np.int64)
    place[values] = np.arange(len(values))
    return values + low, place.take(shifted)


def totals(keys: Int64s, weights: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Distinct keys, ascending, how often each occurs, and the sum of its weights. Exact. `keys` may not be empty."""
    low = int(keys.min())
    span = int(keys.max()) - low + 1
    if span > _DENSE * len(keys) + 1024:
        values, places = np.unique(keys, return_inverse=True)
        sums = np.zeros(len(values), dtype=np.int64)
        np.add.at(sums, places, weights)
        return values, np.bincount(places), sums
    shifted = keys - low
    counts = np.bincount(shifted)
    sums = np.zeros(span, dtype=np.int64)
    np.add.at(sums, shifted, weights)  # integers, not the floats of bincount's weights
    values = counts.nonzero()[0]
    return values + low, counts[values], sums[values]
