"""Sums by integer key, exact and without a sort where keys lie close together."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from flows.id_sets import KeyIndex
from schemas.decode_compile import compiled

Int64s = npt.NDArray[np.int64]

_DENSE: Final = 4  # a table is indexed directly while it has at most this many places a key


def distinct(keys: Int64s) -> tuple[Int64s, Int64s]:
    """Distinct keys, ascending, and the place of each key among them. Shapes: n → m ≤ n, n; n may not be 0."""
    low, high = int(keys.min()), int(keys.max())
    if low == high:
        return keys[:1], np.zeros(len(keys), dtype=np.int64)
    span = high - low + 1
    if span > _DENSE * len(keys) + 1024:
        return _distinct_far_apart(keys)
    place, values = np.zeros(span, dtype=np.int64), np.empty(min(span, len(keys)), dtype=np.int64)
    places = np.empty(len(keys), dtype=np.int64)
    return values[: _number(keys, low, place, values, places)], places


def _distinct_far_apart(keys: Int64s) -> tuple[Int64s, Int64s]:
    """The same by a hash table: only the distinct keys are sorted, which are few where there is something to sum."""
    index = KeyIndex()
    places = index.ids(keys.view(np.uint64)) - 1
    values = index.keys.view(np.int64)
    order = values.argsort()
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values))
    return values[order], rank[places]


def totals(keys: Int64s, weights: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Distinct keys, ascending, how often each occurs, and the sum of its weights. `keys` may not be empty."""
    values, places = distinct(keys)
    counts, sums = np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=np.int64)
    _add(places, weights, counts, sums)
    return values, counts, sums


@compiled
def _number(keys: Int64s, low: int, place: Int64s, values: Int64s, places: Int64s) -> int:
    for i in range(len(keys)):
        place[keys[i] - low] = 1
    count = 0
    for at in range(len(place)):
        if place[at]:
            place[at] = count
            values[count] = at + low
            count += 1
    for i in range(len(keys)):
        places[i] = place[keys[i] - low]
    return count


@compiled
def _add(places: Int64s, weights: Int64s, counts: Int64s, sums: Int64s) -> None:
    for i in range(len(places)):
        counts[places[i]] += 1
        sums[places[i]] += weights[i]
