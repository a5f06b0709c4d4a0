"""The rules of a funnel as pure functions over sorted arrays: who begins a chain, and which steps its events reach."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flows.funnel_events import EXCLUSION, Events
from flows.keyed_rows import distinct
from flows.time_index import NEVER
from schemas.funnels import Funnel

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]
Chains = npt.NDArray[Any]

UNREACHED: Final = 1 << 62
"""The time of a step that was not reached."""

_HALF: Final = np.uint64(0xFFFFFFFF)
_TIME_BITS: Final = 42  # epoch ms until the year 2109


def chain_dtype(funnel: Funnel) -> np.dtype[Any]:
    """One chain: a user's entry (step 2), its anchor (step 1) and the later steps. Every field has 8 bytes."""
    later = (len(funnel.steps) - 2,)
    return np.dtype(
        [
            ("user", "u8"),
            ("pair", "u8"),
            ("slot", "u8"),  # what it is found by, see `slots`
            ("entry", "i8"),
            ("label", "u8"),  # dimension values of the entry
            ("anchor", "i8"),  # NEVER: no step 1 in time, so it does not count
            ("anchor_label", "u8"),
            ("stop", "i8"),  # the first exclusion
            ("first", "i8", later),  # first time at steps 3, 4, …
            ("amount", "i8", later),
            ("other_currency", "i8", later),
        ]
    )


def slots(users: Keys, pairs: Keys) -> Keys:
    """A key by which a pair's chains are found, and in a range of which lie all those of a user."""
    return (users & ~_HALF) | (pairs >> np.uint64(32))


def slots_of_users(users: Keys) -> tuple[Keys, Keys]:
    """Ascending ranges of slots in which all chains of these users lie; and ones of other users perhaps."""
    low = distinct(users & ~_HALF)
    return low, low | _HALF


def unanchored(funnel: Funnel, users: Keys, pairs: Keys, entries: Int64s, labels: Keys) -> Chains:
    """Chains that have an entry and nothing else yet."""
    chains = np.zeros(len(users), dtype=chain_dtype(funnel))
    chains["user"], chains["pair"], chains["entry"], chains["label"] = users, pairs, entries, labels
    chains["slot"] = slots(users, pairs)
    chains["anchor"], chains["stop"], chains["first"] = NEVER, UNREACHED, UNREACHED
    return chains


def latest_at(keys: Keys, times: Int64s, asked: Keys, moments: Int64s) -> Places:
    """Per (asked key, moment) the row of that key with the latest time at or before it, −1 where there is none.

    `keys` and `times` are sorted by key, then time.
    """
    if not len(keys):
        return np.full(len(asked), -1)
    begins = np.append(True, keys[1:] != keys[:-1])
    number = np.cumsum(begins) - 1
    distinct = keys[begins]
    at = np.searchsorted(distinct, asked)
    at[at == len(distinct)] = 0
    place = np.searchsorted((number << _TIME_BITS) | times, (at << _TIME_BITS) | moments, side="right") - 1
    return np.where((distinct[at] == asked) & (place >= 0) & (number[place] == at), place, -1)


def entering(pairs: Keys, times: Int64s, remember_ms: int) -> Mask:
    """Which of the step 2 events of pairs begin a chain: a pair's first, and the first after each time it is forgotten.

    Rows are sorted by pair, time, rank; of several at one time the last counts.
    """
    entering = np.zeros(len(pairs), dtype=np.bool_)
    left = np.flatnonzero(np.append((pairs[1:] != pairs[:-1]) | (times[1:] != times[:-1]), True))
    while len(left):
        head = np.append(True, pairs[left[1:]] != pairs[left[:-1]])
        begin = left[head]
        entering[begin] = True
        since = times[begin][np.cumsum(head) - 1]
        left = left[times[left] > since + remember_ms]
    return entering


def carry(into: Chains, chains: Chains) -> None:
    """Give what was found for `chains` to the chains that took their place: of the pair, with an earlier entry."""
    owner = latest_at(into["pair"], into["entry"], chains["pair"], chains["entry"])
    chains, owner = chains[owner >= 0], owner[owner >= 0]
    np.minimum.at(into["stop"], owner, chains["stop"])
    np.minimum.at(into["first"], owner, chains["first"])
    np.add.at(into["amount"], owner, chains["amount"])
    np.add.at(into["other_currency"], owner, chains["other_currency"])


def follow(funnel: Funnel, chains: Chains, events: Events) -> tuple[Chains, Mask]:
    """The chains (sorted by pair, entry) with what `events` add to them, and which events counted."""
    chains = chains.copy()
    counted = np.zeros(len(events), dtype=np.bool_)
    if not len(chains) or not len(events):
        return chains, counted
    times, steps = events["time"], events["step"]
    owner = latest_at(chains["pair"], chains["entry"], events["pair"], times)
    for rows in (np.flatnonzero((steps == EXCLUSION) & (owner >= 0)),) if funnel.exclusions else ():
        np.minimum.at(chains["stop"], owner[rows], times[rows])
        counted[rows] = True
    limit = np.minimum(chains["entry"] + funnel.finish_within_ms, chains["stop"])
    for step in range(3, len(funnel.steps) + 1):
        rows = np.flatnonzero((steps == step) & (owner >= 0))
        needed = funnel.needed(step)
        earliest = chains["entry"] if needed == 2 else chains["first"][:, needed - 3]
        mine = owner[rows]
        reached = (times[rows] >= earliest[mine]) & (times[rows] <= limit[mine])
        rows, mine = rows[reached], mine[reached]
        np.minimum.at(chains["first"][:, step - 3], mine, times[rows])
        if funnel.steps[step - 1].amount:
            np.add.at(chains["amount"][:, step - 3], mine, events["amount"][rows])
            np.add.at(chains["other_currency"][:, step - 3], mine, events["other_currency"][rows])
        counted[rows] = True
    return chains, counted
