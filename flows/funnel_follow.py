"""The rules of a funnel, compiled: a pair's events into its chains, and its chains into what changes in the rows.

A pair is followed anew whenever an event of it comes. An event is *safe*, and leaves the waiting ones, once no chain
that could still take its chain's place would leave it out: none begins before the floor (see `flows.funnel_chains`).
"""

from __future__ import annotations

from flows.funnel_pairs import (
    ANCHOR,
    ANCHOR_LABEL,
    BEFORE,
    CHAIN_COLUMNS,
    CHAINS,
    DEAD,
    E_AMOUNT,
    E_LABEL,
    E_NEXT,
    E_OTHER,
    E_PAIR,
    E_STEP,
    E_TIME,
    E_USER,
    ENTRIES,
    ENTRY,
    ENTRY_LABEL,
    EVENTS,
    EXCLUSION,
    FREE_EVENT,
    LABEL,
    LATE,
    LATE_LABEL,
    LATER,
    MOST_CHAINS,
    N_CHAINS,
    N_VIEWS,
    NEVER,
    NEXT,
    PAIR,
    R_ENTRY,
    R_NEXT,
    R_PAIR,
    STOP,
    TIME,
    UNREACHED,
    USER,
    VIEWS,
    Rules,
    State,
    Values,
    drop_chain,
    link_user,
    outranks,
    remember,
    slot_of,
    step_of,
    steps_row,
)
from schemas.decode_compile import inlined


@inlined
def note_chains(s: State, at: int) -> int:
    """Copy the pair's chains into `old`, by entry; how many there are."""
    count, row, width = 0, s.heads[at, CHAINS], s.old.shape[1]
    while row >= 0:
        place = count
        while place > 0 and s.old[place - 1, ENTRY] > s.chains[row, ENTRY]:
            for column in range(width):
                s.old[place, column] = s.old[place - 1, column]
            place -= 1
        for column in range(CHAIN_COLUMNS):
            s.old[place, column] = s.chains[row, column]
        for column in range(width - 1 - CHAIN_COLUMNS):
            s.old[place, CHAIN_COLUMNS + column] = step_of(s, row, column)
        s.old[place, width - 1] = row
        count, row = count + 1, s.chains[row, NEXT]
    return count


@inlined
def row_before(s: State, c: int) -> int:
    """The row of the chain that was noted as number `c` of `old`."""
    return int(s.old[c, s.old.shape[1] - 1])


@inlined
def _comes_after(s: State, v: Values, row: int, other: int) -> bool:
    time, than = s.events[row, E_TIME], s.events[other, E_TIME]
    if time != than or s.events[row, E_STEP] != 2 or s.events[other, E_STEP] != 2:
        return bool(time > than)
    return outranks(v, s.events[row, E_LABEL], s.events[other, E_LABEL])


@inlined
def note_events(s: State, v: Values, at: int) -> int:
    """Put the pair's waiting events into `scratch`, by time, step 2 ones of one time by rank; how many there are."""
    count, row = 0, s.heads[at, EVENTS]
    while row >= 0:
        count, row = count + 1, s.events[row, E_NEXT]
    place, row = count - 1, s.heads[at, EVENTS]  # the list has the newest first
    while row >= 0:
        s.scratch[place] = row
        place, row = place - 1, s.events[row, E_NEXT]
    for i in range(1, count):
        row, place = s.scratch[i], i
        while place > 0 and _comes_after(s, v, s.scratch[place - 1], row):
            s.scratch[place] = s.scratch[place - 1]
            place -= 1
        s.scratch[place] = row
    return count


@inlined
def _begin(s: State, r: Rules, at: int, event: int) -> int:
    """A new chain that a step 2 event begins, with the latest step 1 before it if there is one in time."""
    row = s.used[N_CHAINS]
    s.used[N_CHAINS] += 1
    s.chains[row, LATER], s.chains[row, ANCHOR_LABEL], s.chains[row, LATE_LABEL] = -1, 0, 0
    s.chains[row, PAIR], s.chains[row, USER] = s.pair_keys[at], s.events[event, E_USER]
    s.chains[row, ENTRY], s.chains[row, ENTRY_LABEL] = s.events[event, E_TIME], s.events[event, E_LABEL]
    s.chains[row, ANCHOR], s.chains[row, LATE], s.chains[row, STOP] = NEVER, NEVER, UNREACHED
    link_user(s, row)
    at = slot_of(s.anchor_keys, s.chains[row, PAIR] if r.by_pair else s.chains[row, USER])
    anchor = s.anchor_heads[at] if s.anchor_keys[at] != 0 else -1
    while anchor >= 0 and s.anchors[anchor, TIME] > s.chains[row, ENTRY]:
        anchor = s.anchors[anchor, BEFORE]
    if anchor >= 0 and s.chains[row, ENTRY] - s.anchors[anchor, TIME] <= r.enter_within:
        s.chains[row, LATE], s.chains[row, LATE_LABEL] = s.anchors[anchor, TIME], s.anchors[anchor, LABEL]
    return int(row)


@inlined
def _supersede(s: State, r: Rules, at: int, row: int, by: int, event: int, settled: int) -> None:
    """A chain's entry turns out to be none: chain `by`, begun by `event`, covers it and takes what was found for it."""
    entry = s.entries[s.heads[at, ENTRIES], R_ENTRY]
    known = s.heads[at, ENTRIES]
    while entry != s.chains[row, ENTRY]:
        known = s.entries[known, R_NEXT]
        entry = s.entries[known, R_ENTRY]
    s.entries[known, R_PAIR], s.entries[known, R_ENTRY] = DEAD, NEVER
    s.chains[by, STOP] = min(s.chains[by, STOP], s.chains[row, STOP])
    found = s.chains[row, LATER]
    if found >= 0:
        into = steps_row(s, by)
        for step in range(r.later):
            to = 3 * step
            s.steps[into, to] = min(s.steps[into, to], s.steps[found, to])
            s.steps[into, to + 1] += s.steps[found, to + 1]
            s.steps[into, to + 2] += s.steps[found, to + 2]
    if s.chains[row, ENTRY] > settled:  # a still earlier entry might leave it out again
        s.events[event, E_PAIR], s.events[event, E_STEP] = s.pair_keys[at], 2
        s.events[event, E_TIME], s.events[event, E_LABEL] = s.chains[row, ENTRY], s.chains[row, ENTRY_LABEL]
    drop_chain(s, row)


@inlined
def _next_known(s: State, at: int, after: int) -> int:
    """The first remembered entry after a time."""
    row, least = s.heads[at, ENTRIES], UNREACHED
    while row >= 0:
        entry = s.entries[row, R_ENTRY]
        if after < entry < least:
            least = entry
        row = s.entries[row, R_NEXT]
    return least


@inlined
def _next_view(s: State, e: int, events: int) -> int:
    """The place in `scratch` of the next step 2 event from `e` on; `events` without one."""
    while e < events and s.events[s.scratch[e], E_STEP] != 2:
        e += 1
    return e


@inlined
def _begin_at(s: State, r: Rules, v: Values, at: int, row: int, event: int) -> int:
    """The chain that begins: `row` where there was one, else of step 2 event `event`; −1 where there is neither."""
    if row < 0 and event >= 0:
        row = _begin(s, r, at, event)
        remember(s, at, s.chains[row, ENTRY])
    elif event >= 0 and outranks(v, s.events[event, E_LABEL], s.chains[row, ENTRY_LABEL]):
        s.chains[row, ENTRY_LABEL] = s.events[event, E_LABEL]
    if event >= 0:
        s.events[event, E_PAIR] = DEAD
    return row


@inlined
def stay(s: State, before: int) -> int:
    """Put the pair's chains into `mine` where there is no step 2 event; how many there are."""
    for c in range(before):
        s.mine[c] = row_before(s, c)
    return before


@inlined
def enter(s: State, r: Rules, v: Values, floor: int, at: int, before: int, events: int) -> int:
    """Put the pair's chains into `mine`, by entry, after its step 2 events; how many there are.

    In order of time, a step 2 event begins a chain unless an entry before it is remembered.
    """
    settled = floor + r.remember
    count, c, e, time, covered_until = 0, 0, 0, NEVER, NEVER
    current, begun_by = -1, -1
    while True:
        e = _next_view(s, e, events)
        entry = s.old[c, ENTRY] if c < before else UNREACHED
        view = s.events[s.scratch[e], E_TIME] if e < events else UNREACHED
        time = min(entry, view, _next_known(s, at, time))
        if time == UNREACHED:
            return count
        row, event = -1, -1
        if entry == time:
            row, c = row_before(s, c), c + 1
        while view == time:  # of several at one time the last counts, which has the highest rank
            event, e = s.scratch[e], _next_view(s, e + 1, events)
            if time <= settled:
                s.events[event, E_PAIR] = DEAD
            view = s.events[s.scratch[e], E_TIME] if e < events else UNREACHED
        if time <= covered_until:
            if row >= 0 and current >= 0:
                _supersede(s, r, at, row, current, begun_by, settled)
            continue
        covered_until, begun_by = time + r.remember, event
        current = _begin_at(s, r, v, at, row, event)
        if current >= 0:
            s.mine[count] = current
            count += 1


@inlined
def _credit(s: State, at: int, to: int, event: int) -> None:
    """Add an event to the columns of a step in a row of `steps`."""
    s.steps[at, to] = min(s.steps[at, to], s.events[event, E_TIME])
    s.steps[at, to + 1] += s.events[event, E_AMOUNT]
    s.steps[at, to + 2] += s.events[event, E_OTHER]


@inlined
def pass_steps(s: State, r: Rules, floor: int, c: int, count: int, events: int) -> None:
    """Let the pair's waiting events be steps of its chain number `c`; those that are safe wait no longer."""
    row = s.mine[c]
    entry = s.chains[row, ENTRY]
    until = s.chains[s.mine[c + 1], ENTRY] if c + 1 < count else UNREACHED
    safe_until = floor - 1 if r.excludes else floor + r.finish_within
    s.chains[row, ANCHOR], s.chains[row, ANCHOR_LABEL] = s.chains[row, LATE], s.chains[row, LATE_LABEL]
    stop = s.chains[row, STOP]
    for i in range(events if r.excludes else 0):
        event = s.scratch[i]
        time = s.events[event, E_TIME]
        if s.events[event, E_PAIR] != DEAD and s.events[event, E_STEP] == EXCLUSION and entry <= time < until:
            stop = min(stop, time)
            if time <= safe_until:
                s.chains[row, STOP] = min(s.chains[row, STOP], time)
                s.events[event, E_PAIR] = DEAD
    limit, so_far, at = min(entry + r.finish_within, stop), 3 * r.later, s.chains[row, LATER]
    for column in range(so_far if at >= 0 else 0):
        s.steps[at, so_far + column] = s.steps[at, column]
    for step in range(r.later):
        earliest = entry if r.needed[step] < 0 else step_of(s, row, so_far + 3 * r.needed[step])
        for i in range(events):
            event = s.scratch[i]
            time = s.events[event, E_TIME]
            if s.events[event, E_PAIR] == DEAD or s.events[event, E_STEP] != step + 3:
                continue
            if not (entry <= time < until and earliest <= time <= limit):
                continue
            at = steps_row(s, row)
            _credit(s, at, so_far + 3 * step, event)
            if time <= safe_until:
                _credit(s, at, 3 * step, event)
                s.events[event, E_PAIR] = DEAD


@inlined
def keep_events(s: State, floor: int, at: int, events: int) -> None:
    """Link what waits on."""
    s.used[N_VIEWS] -= s.heads[at, VIEWS]
    s.heads[at, EVENTS], s.heads[at, VIEWS] = -1, 0
    for i in range(events):
        row = s.scratch[i]
        if s.events[row, E_PAIR] == DEAD or s.events[row, E_TIME] < floor:
            s.events[row, E_PAIR] = DEAD
            s.events[row, E_NEXT], s.used[FREE_EVENT] = s.used[FREE_EVENT], row
            continue
        s.events[row, E_NEXT], s.heads[at, EVENTS] = s.heads[at, EVENTS], row
        s.heads[at, VIEWS] += s.events[row, E_STEP] == 2
    s.used[N_VIEWS] += s.heads[at, VIEWS]


@inlined
def keep_chains(s: State, floor: int, at: int, count: int) -> None:
    """Link the pair's chains; one without a step 1 that no step 1 can reach any more goes."""
    s.heads[at, CHAINS] = -1
    for c in range(count):
        row = s.mine[c]
        if s.chains[row, ANCHOR] == NEVER and s.chains[row, ENTRY] < floor:
            drop_chain(s, row)
            continue
        s.chains[row, NEXT], s.heads[at, CHAINS] = s.heads[at, CHAINS], row
    s.used[MOST_CHAINS] = max(s.used[MOST_CHAINS], count)
