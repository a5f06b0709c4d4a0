"""The state of a funnel for compiled code, and how events get into it.

State is pools of rows (matrices of Int64, hashes as their bit patterns) that are linked into lists, and hash tables
that name the lists' heads: per user (or pair) its step 1 times, latest first; per pair (user, held value) its chains,
waiting events and remembered entries; per user its chains. Most chains never get past their entry: what they find later
is in a pool of its own, which takes a third of the memory. `flows.funnel_follow` works on the same state.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.decode_compile import compiled, inlined

Int64s = npt.NDArray[np.int64]

NEVER: Final = -(1 << 62)
UNREACHED: Final = 1 << 62
NO_SCORE: Final = (1 << 63) - 1
DEAD: Final = 0
"""In a row's first column, which holds a hash: the row is no more."""

BUCKET: Final = 3_600_000
TOOK_BITS: Final = 31
CODE_BITS: Final = 28
HOUR_BITS: Final = 24
STEP_BITS: Final = 4
EXCLUSION: Final = 0
ABSENT: Final = -1

KEY, TIME, LABEL, BEFORE = range(4)
"""Columns of `anchors`: whose step 1, when, its dimension values; the row with the next earlier time."""

PAIR, USER, ENTRY, ENTRY_LABEL, ANCHOR, ANCHOR_LABEL, LATE, LATE_LABEL, STOP, NEXT, NEXT_OF_USER, LATER = range(12)
"""Columns of `chains`. `LATE`: the anchor as of now, which becomes `ANCHOR` when the pair is followed. `STOP`: the
first exclusion. `LATER`: its row of `steps`, −1 without one."""
CHAIN_COLUMNS: Final = 12
STEP_COLUMNS: Final = 6
"""Columns of `steps` for each step from the third: first time, amount and other-currency events of the events that are
safe; behind those of all steps, the same of all events so far."""

E_PAIR, E_USER, E_TIME, E_STEP, E_LABEL, E_AMOUNT, E_OTHER, E_NEXT = range(8)
"""Columns of `events`: the ones that wait."""

R_PAIR, R_ENTRY, R_NEXT = range(3)
"""Columns of `entries`: the remembered ones."""

CHAINS, EVENTS, ENTRIES, VIEWS, TOUCHED = range(5)
"""Columns of `heads` of a pair: first rows of its lists; how many step 2 events wait; whether it is to be followed."""

N_ANCHORS, N_CHAINS, N_STEPS, N_EVENTS, N_ENTRIES = range(5)
N_ANCHOR_KEYS, N_USERS, N_PAIRS, N_TOUCHED, N_FIRSTS, N_OUT, N_VIEWS, MOST_CHAINS = range(5, 13)
FREE_EVENT, FREE_ANCHOR, FREE_STEPS, N_EMPTY = range(13, 17)
"""Places of `used`: rows and keys in use, step 2 events that wait, the most chains that a pair has had, the first of a
list of rows of `events`, `anchors` and `steps` that are free, and the keys of anchors that have none any more."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MURMUR_1: Final = np.uint64(0xFF51AFD7ED558CCD)
_MURMUR_2: Final = np.uint64(0xC4CEB9FE1A85EC53)


class Rules(NamedTuple):
    """A funnel in numbers."""

    enter_within: int
    finish_within: int
    remember: int
    later: int  # steps after the second
    needed: Int64s  # per later step: the later step (0 = the third) that it must not precede; −1: the entry
    excludes: bool
    by_pair: bool  # step 1 carries the held value
    user_unit: int  # number of the unit `user`, −1 without
    pair_unit: int
    pair_by_anchor: bool  # the pair's dimension values are those of its step 1


class State(NamedTuple):
    """Pools and tables; a table's key 0 is a free slot."""

    used: Int64s
    anchors: Int64s
    anchor_keys: Int64s
    anchor_heads: Int64s
    chains: Int64s
    steps: Int64s  # free rows are linked by their first column
    user_keys: Int64s
    user_heads: Int64s
    user_latest: Int64s  # greatest entry so far
    events: Int64s
    entries: Int64s
    pair_keys: Int64s
    heads: Int64s
    touched: Int64s  # slots of pairs to be followed
    first_keys: Int64s  # first arrivals of users: hash of user and cell → score
    first_scores: Int64s
    scratch: Int64s  # rows of events
    old: Int64s  # chains before: columns of `chains`, then those of `steps`, then the row's number
    mine: Int64s  # chains now: numbers of rows


class Values(NamedTuple):
    """Dimension values: labels ascending, as bit patterns of UInt64, with rank and codes of each."""

    labels: npt.NDArray[np.uint64]
    ranks: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.int32]


class Out(NamedTuple):
    """What changes, see `flows.funnel_counts.Changes`."""

    cell: Int64s
    reached: Int64s
    amount: Int64s
    other: Int64s
    time: Int64s


@inlined
def slot_of(keys: Int64s, key: int) -> int:
    """The slot of a key, or the free one where it would go."""
    mask = len(keys) - 1
    at = int(np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(20))) & mask
    while keys[at] not in (0, key):
        at = (at + 1) & mask
    return at


@inlined
def mixed(first: int, second: int) -> int:
    """As `schemas.hashing.mix`, and never 0."""
    bits = (np.uint64(first) * _GOLDEN) ^ np.uint64(second)
    bits ^= bits >> np.uint64(33)
    bits *= _MURMUR_1
    bits ^= bits >> np.uint64(33)
    bits *= _MURMUR_2
    bits ^= bits >> np.uint64(33)
    return int(np.int64(bits | np.uint64(bits == 0)))


@inlined
def place_of(v: Values, label: int) -> int:
    """Where a label stands among those known."""
    low, high, wanted = 0, len(v.labels) - 1, np.uint64(label)
    while low < high:
        middle = (low + high) >> 1
        if v.labels[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def outranks(v: Values, label: int, other: int) -> bool:
    """Whether of two events of one millisecond the one with `label` counts, not the one with `other`."""
    return label != other and v.ranks[place_of(v, label)] > v.ranks[place_of(v, other)]


@inlined
def touch(s: State, slot: int) -> None:
    """Let a pair be followed."""
    if s.heads[slot, TOUCHED] == 0:
        s.heads[slot, TOUCHED] = 1
        s.touched[s.used[N_TOUCHED]] = slot
        s.used[N_TOUCHED] += 1


@inlined
def pair_slot(s: State, pair: int) -> int:
    """The slot of a pair, which it gets if it has none."""
    at = slot_of(s.pair_keys, pair)
    if s.pair_keys[at] == 0:
        s.pair_keys[at] = pair
        s.heads[at, CHAINS] = s.heads[at, EVENTS] = s.heads[at, ENTRIES] = -1
        s.heads[at, VIEWS] = s.heads[at, TOUCHED] = 0
        s.used[N_PAIRS] += 1
    return at


@inlined
def _unused_row(s: State, rows: Int64s, link: int, free: int, count: int) -> int:
    """A row of a pool: the first of its free ones, which `link` links, or one more."""
    new = s.used[free]
    if new >= 0:
        s.used[free] = rows[new, link]
    else:
        new = s.used[count]
        s.used[count] += 1
    return int(new)


@inlined
def step_of(s: State, row: int, column: int) -> int:
    """What a chain has in a column of `steps`."""
    at = s.chains[row, LATER]
    if at >= 0:
        return int(s.steps[at, column])
    return UNREACHED if column % 3 == 0 else 0


@inlined
def steps_row(s: State, row: int) -> int:
    """A chain's row of `steps`, which it gets if it has none."""
    at = s.chains[row, LATER]
    if at < 0:
        at = _unused_row(s, s.steps, 0, FREE_STEPS, N_STEPS)
        for column in range(s.steps.shape[1]):
            s.steps[at, column] = UNREACHED if column % 3 == 0 else 0
        s.chains[row, LATER] = at
    return int(at)


@inlined
def drop_chain(s: State, row: int) -> None:
    """A chain is no more."""
    s.chains[row, PAIR] = DEAD
    at = s.chains[row, LATER]
    if at >= 0:
        s.steps[at, 0], s.used[FREE_STEPS] = s.used[FREE_STEPS], at
        s.chains[row, LATER] = -1


@inlined
def _add_anchor(s: State, v: Values, key: int, time: int, label: int) -> None:
    at = slot_of(s.anchor_keys, key)
    if s.anchor_keys[at] == 0:
        s.anchor_keys[at], s.anchor_heads[at] = key, -1
        s.used[N_ANCHOR_KEYS] += 1
    elif s.anchor_heads[at] < 0:
        s.used[N_EMPTY] -= 1
    after, row = -1, s.anchor_heads[at]
    while row >= 0 and s.anchors[row, TIME] > time:
        after, row = row, s.anchors[row, BEFORE]
    if row >= 0 and s.anchors[row, TIME] == time:
        if outranks(v, label, s.anchors[row, LABEL]):
            s.anchors[row, LABEL] = label
        return
    new = _unused_row(s, s.anchors, BEFORE, FREE_ANCHOR, N_ANCHORS)
    s.anchors[new, KEY], s.anchors[new, TIME], s.anchors[new, LABEL], s.anchors[new, BEFORE] = key, time, label, row
    if after < 0:
        s.anchor_heads[at] = new
    else:
        s.anchors[after, BEFORE] = new


@compiled
def add_anchors(s: State, r: Rules, v: Values, users: Int64s, pairs: Int64s, times: Int64s, labels: Int64s) -> None:
    """Take in step 1 events (best in order of time); pairs that one of them reaches late are to be followed."""
    for i in range(len(times)):
        _add_anchor(s, v, pairs[i] if r.by_pair else users[i], times[i], labels[i])
        user = slot_of(s.user_keys, users[i])
        if s.user_keys[user] == 0 or times[i] > s.user_latest[user]:
            continue
        row = s.user_heads[user]
        while row >= 0:
            since = s.chains[row, ENTRY] - times[i]
            mine = s.chains[row, PAIR] == pairs[i] if r.by_pair else s.chains[row, PAIR] != DEAD
            if (
                mine
                and 0 <= since <= r.enter_within
                and (
                    times[i] > s.chains[row, LATE]
                    or (times[i] == s.chains[row, LATE] and outranks(v, labels[i], s.chains[row, LATE_LABEL]))
                )
            ):
                s.chains[row, LATE], s.chains[row, LATE_LABEL] = times[i], labels[i]
                touch(s, slot_of(s.pair_keys, s.chains[row, PAIR]))
            row = s.chains[row, NEXT_OF_USER]


@compiled
def sweep_anchors(s: State, floor: int, window: int, begin: int, end: int) -> None:
    """Free what no entry at or after `floor` can have as its step 1, of the keys in some slots.

    The latest one before `floor` may still be one, while it is in time; those before that one never.
    """
    for at in range(begin, end):
        row, last = s.anchor_heads[at] if s.anchor_keys[at] != 0 else -1, -1
        while row >= 0 and s.anchors[row, TIME] >= floor:
            last, row = row, s.anchors[row, BEFORE]
        if row >= 0 and s.anchors[row, TIME] >= floor - window:
            last, row = row, s.anchors[row, BEFORE]
        if row < 0:
            continue
        if last >= 0:
            s.anchors[last, BEFORE] = -1
        else:
            s.anchor_heads[at] = -1
            s.used[N_EMPTY] += 1
        while row >= 0:
            before = s.anchors[row, BEFORE]
            s.anchors[row, KEY] = DEAD
            s.anchors[row, BEFORE], s.used[FREE_ANCHOR] = s.used[FREE_ANCHOR], row
            row = before


@compiled
def add_events(s: State, r: Rules, floor: int, rows: Int64s) -> None:
    """Take in events of later steps, rows as of `events`; their pairs are to be followed."""
    for i in range(len(rows)):
        pair, time, step = rows[i, E_PAIR], rows[i, E_TIME], rows[i, E_STEP]
        at = pair_slot(s, pair)
        if step == 2:
            # An entry before it that it cannot outlive: whatever comes, this one begins no chain.
            row, covered = s.heads[at, ENTRIES], False
            while row >= 0 and not covered:
                entry = s.entries[row, R_ENTRY]
                covered = entry < time <= entry + r.remember and time <= floor + r.remember
                row = s.entries[row, R_NEXT]
            if covered:
                continue
            s.heads[at, VIEWS] += 1
            s.used[N_VIEWS] += 1
        new = _unused_row(s, s.events, E_NEXT, FREE_EVENT, N_EVENTS)
        for column in range(E_NEXT):
            s.events[new, column] = rows[i, column]
        s.events[new, E_NEXT], s.heads[at, EVENTS] = s.heads[at, EVENTS], new
        touch(s, at)


@inlined
def link_user(s: State, row: int) -> None:
    """Put a chain into its user's list."""
    at = slot_of(s.user_keys, s.chains[row, USER])
    if s.user_keys[at] == 0:
        s.user_keys[at], s.user_heads[at], s.user_latest[at] = s.chains[row, USER], -1, NEVER
        s.used[N_USERS] += 1
    s.chains[row, NEXT_OF_USER], s.user_heads[at] = s.user_heads[at], row
    s.user_latest[at] = max(s.user_latest[at], s.chains[row, ENTRY])


@compiled
def touch_overdue(s: State, floor: int) -> None:
    """Let the pairs be followed that have an event before `floor` waiting: it counts now or never."""
    for row in range(s.used[N_EVENTS]):
        if s.events[row, E_PAIR] != DEAD and s.events[row, E_TIME] < floor:
            touch(s, slot_of(s.pair_keys, s.events[row, E_PAIR]))


@compiled
def link_anchors(s: State, v: Values, rows: Int64s, order: Int64s) -> None:
    """Take in step 1 times: rows as of `anchors` without the last column, and their order in time."""
    for i in order:
        _add_anchor(s, v, rows[i, KEY], rows[i, TIME], rows[i, LABEL])


@compiled
def copy_anchors(s: State, rows: Int64s) -> None:
    """Write the step 1 times as `link_anchors` takes them."""
    count = 0
    for row in range(s.used[N_ANCHORS]):
        if s.anchors[row, KEY] != DEAD:
            rows[count, KEY], rows[count, TIME] = s.anchors[row, KEY], s.anchors[row, TIME]
            rows[count, LABEL] = s.anchors[row, LABEL]
            count += 1


@compiled
def link_chains(s: State, count: int) -> None:
    """Link the first `count` chains of the pool."""
    for row in range(count):
        at = pair_slot(s, s.chains[row, PAIR])
        s.chains[row, NEXT], s.heads[at, CHAINS] = s.heads[at, CHAINS], row
        link_user(s, row)


@inlined
def remember(s: State, at: int, entry: int) -> None:
    """Put an entry into the list of the pair in slot `at`."""
    row = s.used[N_ENTRIES]
    s.used[N_ENTRIES] += 1
    s.entries[row, R_PAIR], s.entries[row, R_ENTRY] = s.pair_keys[at], entry
    s.entries[row, R_NEXT], s.heads[at, ENTRIES] = s.heads[at, ENTRIES], row


@compiled
def add_entries(s: State, rows: Int64s) -> None:
    """Take in remembered entries, rows as of `entries`."""
    for i in range(len(rows)):
        remember(s, pair_slot(s, rows[i, R_PAIR]), rows[i, R_ENTRY])
