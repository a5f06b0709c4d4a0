"""Pools and tables of a funnel's state: made, grown, and read out by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from flows import funnel_pairs as fp
from schemas.decode_compile import compiled, inlined

Int64s = npt.NDArray[np.int64]

_SMALLEST: Final = 256  # a power of two
_LOAD: Final = 0.6  # most slots of a table in use
_LARGE: Final = 1 << 20  # rows of a pool that no longer doubles


def nothing(widths: Sequence[int]) -> fp.State:
    """State without a row; `widths` of anchors, chains, steps, events and entries."""
    anchors, chains, steps, events, entries = (np.zeros((_SMALLEST, width), dtype=np.int64) for width in widths)
    used = np.zeros(fp.N_EMPTY + 1, dtype=np.int64)
    used[[fp.FREE_EVENT, fp.FREE_ANCHOR, fp.FREE_STEPS]] = -1
    slots = {name: np.zeros(_SMALLEST, dtype=np.int64) for name in fp.State._fields}
    heads = np.zeros((_SMALLEST, fp.TOUCHED + 1), dtype=np.int64)
    old = np.zeros((_SMALLEST, widths[1] + widths[2] + 1), dtype=np.int64)
    pools = {"anchors": anchors, "chains": chains, "steps": steps, "events": events, "entries": entries}
    return fp.State(**{**slots, **pools, "heads": heads, "old": old, "used": used})


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


def with_steps(chains: Int64s, steps: Int64s) -> tuple[Int64s, Int64s]:
    """Chains, whose `LATER` is set anew to places in the rows of `steps` that they have, and those rows."""
    has = np.flatnonzero(chains[:, fp.LATER] >= 0)
    mine: Int64s = steps[chains[has, fp.LATER]]
    chains[has, fp.LATER] = np.arange(len(has))
    return chains, mine


def rows_of(s: fp.State, pairs: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Rows of chains, events and entries of some pairs."""
    counts, nowhere = np.zeros(3, dtype=np.int64), np.zeros(0, dtype=np.int64)
    _list(s, pairs, counts, nowhere, nowhere, nowhere)
    chains, events, entries = (np.empty(count, dtype=np.int64) for count in counts.tolist())
    _list(s, pairs, counts, chains, events, entries)
    return s.chains[chains], s.events[events], s.entries[entries]


@compiled
def _list(s: fp.State, pairs: Int64s, counts: Int64s, chains: Int64s, events: Int64s, entries: Int64s) -> None:
    """Count the living rows of the pairs' lists; write where they are, if there is room."""
    counts[:] = 0
    for i in range(len(pairs)):
        at = fp.slot_of(s.pair_keys, pairs[i])
        if s.pair_keys[at] != pairs[i]:
            continue
        counts[0] = _walk(s.chains, s.heads[at, fp.CHAINS], fp.NEXT, counts[0], chains)
        counts[1] = _walk(s.events, s.heads[at, fp.EVENTS], fp.E_NEXT, counts[1], events)
        counts[2] = _walk(s.entries, s.heads[at, fp.ENTRIES], fp.R_NEXT, counts[2], entries)


@inlined
def _walk(rows: Int64s, row: int, link: int, count: int, places: Int64s) -> int:
    """Go on counting with the list from `row` on."""
    while row >= 0:
        if rows[row, 0] != fp.DEAD:
            if count < len(places):
                places[count] = row
            count += 1
        row = rows[row, link]
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
