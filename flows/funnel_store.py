"""Pools and tables of a funnel's state: made, grown, and read out by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from flows import funnel_pairs as fp
from schemas.decode_compile import compiled

Int64s = npt.NDArray[np.int64]

_SMALLEST: Final = 256  # a power of two
_LOAD: Final = 0.6  # most slots of a table in use
_LARGE: Final = 1 << 20  # rows of a pool that no longer doubles


def nothing(widths: Sequence[int]) -> fp.State:
    """State without a row; `widths` of anchors, chains, events and entries."""
    anchors, chains, events, entries = (np.zeros((_SMALLEST, width), dtype=np.int64) for width in widths)
    used = np.zeros(fp.N_EMPTY + 1, dtype=np.int64)
    used[[fp.FREE_EVENT, fp.FREE_ANCHOR]] = -1
    slots = {name: np.zeros(_SMALLEST, dtype=np.int64) for name in fp.State._fields}
    heads = np.zeros((_SMALLEST, fp.TOUCHED + 1), dtype=np.int64)
    old = np.zeros((_SMALLEST, widths[1] + 1), dtype=np.int64)
    pools = {"anchors": anchors, "chains": chains, "events": events, "entries": entries, "heads": heads, "old": old}
    return fp.State(**{**slots, **pools, "used": used})


def pool(rows: Int64s, count: int) -> Int64s:
    """The pool with room for `count` rows. It grows in its place: a copy of a large one would need the memory twice."""
    if count > len(rows):
        size = max(count, 2 * len(rows) if len(rows) < _LARGE else len(rows) + len(rows) // 4)
        rows.resize((size, *rows.shape[1:]), refcheck=False)  # nothing else looks at it between two calls
    return rows


def table(count: int, keys: Int64s, *columns: Int64s) -> tuple[Int64s, ...]:
    """A table's keys and columns with room for `count` keys."""
    return (keys, *columns) if count <= _LOAD * len(keys) else laid_out(count, np.flatnonzero(keys), keys, *columns)


def laid_out(count: int, held: npt.NDArray[np.intp], keys: Int64s, *columns: Int64s) -> tuple[Int64s, ...]:
    """A table of some of a table's slots, with room for `count` keys."""
    size = _SMALLEST
    while count > _LOAD * size:
        size *= 2
    grown = np.zeros(size, dtype=np.int64)
    places = np.zeros(len(held), dtype=np.int64)
    _put(keys[held], grown, places)
    moved = []
    for column in columns:
        fresh = np.zeros((size, *column.shape[1:]), dtype=np.int64)
        fresh[places] = column[held]
        moved.append(fresh)
    return grown, *moved


@compiled
def _put(keys: Int64s, into: Int64s, places: Int64s) -> None:
    for i in range(len(keys)):
        at = fp.slot_of(into, keys[i])
        into[at], places[i] = keys[i], at


def rows_of(s: fp.State, pairs: Int64s, head: int) -> Int64s:
    """Rows of chains, events or entries (named by the column of their list's head) of some pairs."""
    rows, link = {
        fp.CHAINS: (s.chains, fp.NEXT),
        fp.EVENTS: (s.events, fp.E_NEXT),
        fp.ENTRIES: (s.entries, fp.R_NEXT),
    }[head]
    places = np.zeros(_list(s, pairs, head, rows, link, np.zeros(0, dtype=np.int64)), dtype=np.int64)
    _list(s, pairs, head, rows, link, places)
    found = rows[places]
    living: Int64s = found[found[:, 0] != fp.DEAD]
    return living


@compiled
def _list(s: fp.State, pairs: Int64s, head: int, rows: Int64s, link: int, places: Int64s) -> int:
    """Write the rows of the pairs' lists into `places` as far as it has room; how many there are."""
    count = 0
    for i in range(len(pairs)):
        at = fp.slot_of(s.pair_keys, pairs[i])
        row = s.heads[at, head] if s.pair_keys[at] == pairs[i] else -1
        while row >= 0:
            if count < len(places):
                places[count] = row
            count, row = count + 1, rows[row, link]
    return count


def standing(matrices: Sequence[Int64s], replaced: Sequence[Int64s]) -> Int64s:
    """The rows that stand after a sequence of states: of each pair those of the last state that `replaced` it."""
    mentioned = np.concatenate(replaced)
    state = np.repeat(np.arange(len(replaced)), [len(pairs) for pairs in replaced])
    order = np.lexsort((state, mentioned))
    mentioned, state = mentioned[order], state[order]
    last = np.append(mentioned[1:] != mentioned[:-1], True)[: len(mentioned)]
    mentioned, state = mentioned[last], state[last]
    kept = []
    for number, rows in enumerate(matrices):
        at = np.searchsorted(mentioned, rows[:, 0])
        at[at == len(mentioned)] = 0
        stale = (
            (mentioned[at] == rows[:, 0]) & (state[at] > number) if len(mentioned) else np.zeros(len(rows), np.bool_)
        )
        kept.append(rows[~stale])
    return np.concatenate(kept)
