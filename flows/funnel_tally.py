"""What changes in the rows of a funnel when pairs are followed: units gained and lost at steps, their times, amounts.

A unit counts once per bucket, dimension value and step, with its first arrival there. A score orders arrivals: the time
since the bucket's start, then (of two at once) the time from step 1.
"""

from __future__ import annotations

from flows.funnel_follow import (
    enter,
    keep_chains,
    keep_events,
    note_chains,
    note_events,
    pass_steps,
    row_before,
    stay,
)
from flows.funnel_pairs import (
    ABSENT,
    ANCHOR,
    ANCHOR_LABEL,
    BUCKET,
    CHAIN_COLUMNS,
    CHAINS,
    CODE_BITS,
    DEAD,
    ENTRY,
    ENTRY_LABEL,
    HOUR_BITS,
    MOST_CHAINS,
    N_FIRSTS,
    N_OUT,
    N_STEPS,
    N_TOUCHED,
    NEVER,
    NEXT_OF_USER,
    NO_SCORE,
    PAIR,
    STEP_BITS,
    TOOK_BITS,
    TOUCHED,
    UNREACHED,
    USER,
    VIEWS,
    Int64s,
    Out,
    Rules,
    State,
    Values,
    mixed,
    place_of,
    slot_of,
    step_of,
)
from schemas.decode_compile import compiled, inlined

THEN, NOW = range(2)
"""Chains before a pair is followed (rows of `old`) and after (of `chains`)."""


@inlined
def _cell(unit: int, step: int, code: int, anchor: int) -> int:
    """What names a row of the table: unit, step (−1: the second, 0: the third), value and hour in one number."""
    return ((((unit << STEP_BITS) | (step + 3)) << CODE_BITS | code) << HOUR_BITS) | anchor // BUCKET


@inlined
def _so_far(s: State, now: int, row: int, column: int) -> int:
    """A column of the steps of a chain as it is (`NOW`: a row of `chains`) or was (`THEN`: of `old`)."""
    return step_of(s, row, column) if now else int(s.old[row, CHAIN_COLUMNS + column])


@inlined
def _arrival(s: State, r: Rules, now: int, row: int, step: int) -> int:
    """When a chain first was at a step (as in `_cell`); UNREACHED also where it has no step 1."""
    rows = s.chains if now else s.old
    if rows[row, ANCHOR] == NEVER:
        return UNREACHED
    return int(rows[row, ENTRY]) if step < 0 else _so_far(s, now, row, 3 * (r.later + step))


@inlined
def _score(rows: Int64s, row: int, time: int) -> int:
    anchor = rows[row, ANCHOR]
    return int(((time - anchor // BUCKET * BUCKET) << TOOK_BITS) | (time - anchor))


@inlined
def _took(score: int) -> int:
    return score & ((1 << TOOK_BITS) - 1)


@inlined
def _put(s: State, out: Out, cell: int, sign: int, time: int) -> None:
    """A unit is gained (sign 1) or lost (−1) with its time from step 1."""
    at = s.used[N_OUT]
    out.cell[at], out.reached[at], out.amount[at], out.other[at] = cell, sign, 0, 0
    out.time[at] = time if sign > 0 else -1 - time
    s.used[N_OUT] = at + 1


@inlined
def _before_of(s: State, row: int, before: int) -> int:
    """Where a chain stood before among `old`; −1: nowhere."""
    for c in range(before):
        if row_before(s, c) == row:
            return c
    return -1


@inlined
def _is_same(s: State, c: int, row: int, label: int) -> bool:
    """Whether a chain counts in the bucket and by the values it counted by before."""
    return bool(s.old[c, ANCHOR] == s.chains[row, ANCHOR] and s.old[c, label] == s.chains[row, label])


@inlined
def _count_amounts(s: State, r: Rules, v: Values, out: Out, unit: int, label: int, before: int, count: int) -> None:
    """What the amounts of the pair's chains add to their buckets, less what they added before."""
    for c in range(before + count):
        row = row_before(s, c) if c < before else s.mine[c - before]
        then = c if c < before else _before_of(s, row, before)
        same = then >= 0 and s.chains[row, PAIR] != DEAD and _is_same(s, then, row, label)
        if c >= before and same:
            continue  # counted with its former self
        now, rows, at, sign = (THEN, s.old, c, -1) if c < before else (NOW, s.chains, row, 1)
        if rows[at, ANCHOR] == NEVER:
            continue
        codes = place_of(v, rows[at, label])
        for step in range(r.later):
            to = 3 * (r.later + step)
            amount, other = sign * _so_far(s, now, at, to + 1), sign * _so_far(s, now, at, to + 2)
            if same:
                amount, other = amount + step_of(s, row, to + 1), other + step_of(s, row, to + 2)
            if amount == 0 and other == 0:
                continue
            for d in range(v.codes.shape[1]):
                if v.codes[codes, d] != ABSENT:
                    place = s.used[N_OUT]
                    out.cell[place] = _cell(unit, step, v.codes[codes, d], rows[at, ANCHOR])
                    out.reached[place], out.amount[place], out.other[place] = 0, amount, other
                    out.time[place] = UNREACHED
                    s.used[N_OUT] = place + 1


@inlined
def _count_side(s: State, r: Rules, v: Values, out: Out, label: int, sign: int, count: int) -> None:
    """Count the pair at the steps that its chains reach now (sign 1), or uncount it at those of before (−1).

    Once per bucket, value and step, with the first arrival.
    """
    now = NOW if sign > 0 else THEN
    rows = s.chains if now else s.old
    for c in range(count):
        row = s.mine[c] if now else c
        for step in range(-1, r.later):
            time = _arrival(s, r, now, row, step)
            if time == UNREACHED:
                continue
            score, codes = _score(rows, row, time), place_of(v, rows[row, label])
            for d in range(v.codes.shape[1]):
                code, first = v.codes[codes, d], True
                for other in range(count if code != ABSENT else 0):
                    rival = s.mine[other] if now else other
                    reached = _arrival(s, r, now, rival, step)
                    if other == c or reached == UNREACHED or v.codes[place_of(v, rows[rival, label]), d] != code:
                        continue
                    if rows[rival, ANCHOR] // BUCKET == rows[row, ANCHOR] // BUCKET:
                        than = _score(rows, rival, reached)
                        first = first and not (than < score or (than == score and other < c))
                if code != ABSENT and first:
                    _put(s, out, _cell(r.pair_unit, step, code, rows[row, ANCHOR]), sign, _took(score))


@inlined
def _count_moves(s: State, r: Rules, v: Values, out: Out, label: int) -> None:
    """Count the steps at which a pair's only chain has another time than before."""
    row = s.mine[0]
    codes = place_of(v, s.chains[row, label])
    for step in range(r.later):
        then, time = _arrival(s, r, THEN, 0, step), _arrival(s, r, NOW, row, step)
        for d in range(v.codes.shape[1] if then != time else 0):
            if v.codes[codes, d] != ABSENT:
                cell = _cell(r.pair_unit, step, v.codes[codes, d], s.chains[row, ANCHOR])
                if then != UNREACHED:
                    _put(s, out, cell, -1, then - s.chains[row, ANCHOR])
                if time != UNREACHED:
                    _put(s, out, cell, 1, time - s.chains[row, ANCHOR])


@inlined
def _count_pair(s: State, r: Rules, v: Values, out: Out, before: int, count: int) -> None:
    """Changes of the rows of the unit (user, held value)."""
    label = ANCHOR_LABEL if r.pair_by_anchor else ENTRY_LABEL
    _count_amounts(s, r, v, out, r.pair_unit, label, before, count)
    if before == count == 1 and row_before(s, 0) == s.mine[0] and _is_same(s, 0, s.mine[0], label):
        _count_moves(s, r, v, out, label)
        return
    _count_side(s, r, v, out, label, -1, before)
    _count_side(s, r, v, out, label, 1, count)


@inlined
def _first_slot(s: State, user: int, cell: int) -> int:
    key = mixed(user, cell)
    at = slot_of(s.first_keys, key)
    if s.first_keys[at] == 0:
        s.first_keys[at], s.first_scores[at] = key, NO_SCORE
        s.used[N_FIRSTS] += 1
    return at


@inlined
def _set_first(s: State, out: Out, cell: int, at: int, score: int) -> None:
    """Replace a user's first arrival at a cell by another, or by none."""
    if s.first_scores[at] != NO_SCORE:
        _put(s, out, cell, -1, _took(s.first_scores[at]))
    if score != NO_SCORE:
        _put(s, out, cell, 1, _took(score))
    s.first_scores[at] = score


@inlined
def _first_of_user(s: State, r: Rules, v: Values, user: int, step: int, d: int, code: int, anchor: int) -> int:
    """The least score of all chains of a user in a bucket at a step under a value; NO_SCORE without one."""
    least, row = NO_SCORE, s.user_heads[slot_of(s.user_keys, user)]
    while row >= 0:
        if s.chains[row, PAIR] != DEAD and s.chains[row, ANCHOR] // BUCKET == anchor // BUCKET:
            time = _arrival(s, r, NOW, row, step)
            if time != UNREACHED and v.codes[place_of(v, s.chains[row, ANCHOR_LABEL]), d] == code:
                least = min(least, _score(s.chains, row, time))
        row = s.chains[row, NEXT_OF_USER]
    return least


@inlined
def _gain_firsts(s: State, r: Rules, v: Values, out: Out, before: int, count: int) -> None:
    """Let new arrivals of the pair's chains be their user's first where they are."""
    for c in range(count):
        row = s.mine[c]
        then = _before_of(s, row, before)
        same = then >= 0 and _is_same(s, then, row, ANCHOR_LABEL)
        for step in range(-1, r.later):
            time = _arrival(s, r, NOW, row, step)
            if time == UNREACHED or (same and _arrival(s, r, THEN, then, step) == time):
                continue
            score, codes = _score(s.chains, row, time), place_of(v, s.chains[row, ANCHOR_LABEL])
            for d in range(v.codes.shape[1]):
                if v.codes[codes, d] != ABSENT:
                    cell = _cell(r.user_unit, step, v.codes[codes, d], s.chains[row, ANCHOR])
                    at = _first_slot(s, s.chains[row, USER], cell)
                    if score < s.first_scores[at]:
                        _set_first(s, out, cell, at, score)


@inlined
def _lose_firsts(s: State, r: Rules, v: Values, out: Out, before: int) -> None:
    """Where a first arrival of a user was one that is no more, find the user's first among the others."""
    for c in range(before):
        row, user, anchor = row_before(s, c), s.old[c, USER], s.old[c, ANCHOR]
        same = s.chains[row, PAIR] != DEAD and _is_same(s, c, row, ANCHOR_LABEL)
        for step in range(-1, r.later):
            time = _arrival(s, r, THEN, c, step)
            if time == UNREACHED or (same and _arrival(s, r, NOW, row, step) == time):
                continue
            score, codes = _score(s.old, c, time), place_of(v, s.old[c, ANCHOR_LABEL])
            for d in range(v.codes.shape[1]):
                code = v.codes[codes, d]
                if code == ABSENT:
                    continue
                cell = _cell(r.user_unit, step, code, anchor)
                at = _first_slot(s, user, cell)
                if score == s.first_scores[at]:  # it may have been this one's
                    least = _first_of_user(s, r, v, user, step, d, code, anchor)
                    if least != score:
                        _set_first(s, out, cell, at, least)


@compiled
def follow(s: State, r: Rules, v: Values, floor: int, out: Out, start: int) -> int:
    """Follow the touched pairs from number `start` on; the number of the first one that there was no room for."""
    for i in range(start, s.used[N_TOUCHED]):
        at = s.touched[i]
        if len(out.cell) - s.used[N_OUT] < room_of(s, r, v, at):
            return i
        if len(s.steps) - s.used[N_STEPS] <= s.used[MOST_CHAINS] + s.heads[at, VIEWS]:  # each chain may need a row
            return i
        s.heads[at, TOUCHED] = 0
        if s.heads[at, CHAINS] < 0 and s.heads[at, VIEWS] == 0:
            continue
        before, events = note_chains(s, at), note_events(s, v, at)
        count = enter(s, r, v, floor, at, before, events) if s.heads[at, VIEWS] > 0 else stay(s, before)
        for c in range(count):
            pass_steps(s, r, floor, c, count, events)
        keep_events(s, floor, at, events)
        if r.pair_unit >= 0:
            _count_pair(s, r, v, out, before, count)
        if r.user_unit >= 0:
            _count_amounts(s, r, v, out, r.user_unit, ANCHOR_LABEL, before, count)
            _gain_firsts(s, r, v, out, before, count)
            _lose_firsts(s, r, v, out, before)
        keep_chains(s, floor, at, count)
    return int(s.used[N_TOUCHED])


@inlined
def room_of(s: State, r: Rules, v: Values, at: int) -> int:
    """The most changes that following one pair can make."""
    return int(8 * (2 * s.used[MOST_CHAINS] + s.heads[at, VIEWS] + 1) * (r.later + 1) * v.codes.shape[1])


@compiled
def recount_users(s: State, r: Rules, v: Values, begin: int, end: int) -> None:
    """Find the first arrivals of users anew, from some rows of the pool."""
    for row in range(begin, end):
        if s.chains[row, PAIR] == DEAD:
            continue
        codes = place_of(v, s.chains[row, ANCHOR_LABEL])
        for step in range(-1, r.later):
            time = _arrival(s, r, NOW, row, step)
            for d in range(v.codes.shape[1] if time != UNREACHED else 0):
                if v.codes[codes, d] != ABSENT:
                    cell = _cell(r.user_unit, step, v.codes[codes, d], s.chains[row, ANCHOR])
                    at = _first_slot(s, s.chains[row, USER], cell)
                    s.first_scores[at] = min(s.first_scores[at], _score(s.chains, row, time))
