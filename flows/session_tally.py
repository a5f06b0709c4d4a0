"""What the events of a frame add to rooms, minute by minute: the compiled part of `flows.live_sessions`.

Two tables are state: when each (user, room, sort of event) came first, and in which steps each user was present in or
watching a room. Both are looked at by event time alone, so nothing depends on the order in which events come.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from flows.funnel_pairs import Int64s, mixed, slot_of
from schemas import sessions as m
from schemas.decode_compile import compiled, inlined

(
    OTHER, ENTRY, REPORT, LIKE, EXPOSURE, CLICK, COMMENT, SHARE, FOLLOW, UNFOLLOW, START, END, GIFT, CREATED, PAID,
    REFUNDED, SETTLED,
) = range(17)  # fmt: skip
"""What an event of a room is (`Events.what`). SETTLED: an order that is cancelled or redeemed."""

BLOCK: Final = 60
"""Steps in one word of presence: 10 min, so that an hour has six and a minute never lies in two."""
MOST_CELLS: Final = 40
"""Most rows of one `Out` and most changes of state that one event can bring."""
_AFTER: Final = m.WATCHING_MS // m.STEP_MS - 1
_IN_FIRSTS, _IN_MARKS, FIRSTS_LOGGED, MARKS_LOGGED = range(4)  # `State.used`
_USER, _ORDER, _OF_PRODUCT = 1, 1 << 20, 1 << 21


class Events(NamedTuple):
    """Events of rooms. Shape (n,) each; hashes as their bit patterns, 0 for none."""

    what: Int64s
    room: Int64s
    user: Int64s
    time: Int64s
    watch: Int64s
    load: Int64s  # source of an entry: hash of its channel, the lowest bit said by `from_video_id`
    order: Int64s
    product: Int64s
    quantity: Int64s
    amount: Int64s
    foreign: Int64s  # 1: in another currency


class State(NamedTuple):
    """Open-addressing tables (a power of two long, key 0 is free) and the logs of their changes."""

    first_keys: Int64s
    first_times: Int64s
    first_loads: Int64s
    mark_keys: Int64s
    mark_blocks: Int64s
    present: Int64s  # bit k: step k of the block
    watching: Int64s
    first_log: Int64s  # shape (·, 3): key, time, load
    mark_log: Int64s  # shape (·, 4): key, block, present, watching
    used: Int64s
    was: Int64s  # time and load that a first event had before it moved


class Memories(NamedTuple):
    """How long a first event is remembered, ms."""

    audience: int  # who was there and did what
    orders: int  # which order, and whose


class Out(NamedTuple):
    """Rows of increments, found by `slots`."""

    slots: Int64s  # row + 1, 0 is free
    key: Int64s
    room: Int64s
    start: Int64s  # ms
    item: Int64s
    event: Int64s  # an event of the room
    named: Int64s  # an event that has the item's name; −1: none of this frame
    sums: Int64s
    used: Int64s


@compiled
def _cell(out: Out, room: int, start: int, item: int, event: int) -> int:
    """The row of a room, start and item."""
    key = mixed(mixed(room, start), item)
    mask = len(out.slots) - 1
    at = key & mask
    while out.slots[at] != 0 and out.key[out.slots[at] - 1] != key:
        at = (at + 1) & mask
    if out.slots[at] == 0:
        row = out.used[0]
        out.used[0] = row + 1
        out.slots[at] = row + 1
        out.key[row], out.room[row], out.start[row], out.item[row] = key, room, start, item
        out.event[row], out.named[row] = event, -1
        for column in range(out.sums.shape[1]):
            out.sums[row, column] = 0
        if out.sums.shape[1] == m.ROOM_WIDTH:
            out.sums[row, m.FIRST_EVENT] = out.sums[row, m.FIRST_START] = m.NEVER
            out.sums[row, m.LAST_START] = out.sums[row, m.LAST_END] = out.sums[row, m.LAST_ACTIVE] = -m.NEVER
    return int(out.slots[at] - 1)


@inlined
def _minute(out: Out, room: int, time: int, event: int) -> int:
    return _cell(out, room, time // m.MINUTE_MS * m.MINUTE_MS, 0, event)


@inlined
def _item(out: Out, e: Events, i: int, item: int, time: int) -> int:
    """The row of an item and day that event `i` has the name of."""
    row = _cell(out, e.room[i], time // m.PART_MS * m.PART_MS, item, i)
    out.named[row] = i
    return row


@compiled
def _first(s: State, key: int, time: int, load: int, memory: int) -> int:
    """Tell of an event of some sort. 0: there was an earlier one; 1: it is the first; 2: it is before the first known.

    Then `was` says when that one was. An event more than `memory` after the first known is a first one again.
    """
    at = slot_of(s.first_keys, key)
    answer = 1
    if s.first_keys[at] == 0:
        s.first_keys[at] = key
        s.used[_IN_FIRSTS] += 1
    elif time <= s.first_times[at] + memory:
        if time > s.first_times[at] or (time == s.first_times[at] and load >= s.first_loads[at]):
            return 0
        s.was[0], s.was[1] = s.first_times[at], s.first_loads[at]
        answer = 2
    s.first_times[at], s.first_loads[at] = time, load
    row = s.used[FIRSTS_LOGGED]
    s.first_log[row, 0], s.first_log[row, 1], s.first_log[row, 2] = key, time, load
    s.used[FIRSTS_LOGGED] = row + 1
    return answer


@inlined
def _key(who: int, sort: int, is_order: bool) -> int:  # noqa: FBT001
    """The key of a first event. Its lowest bit (1: of orders) says which of `Memories` holds."""
    return mixed(who, sort) & ~1 | int(is_order) | 2


@compiled
def _distinct(s: State, out: Out, e: Events, i: int, who: int, measure: int, memories: Memories) -> None:
    """Count `who` (a hash) in a measure of the room, in the minute of its first event of that sort."""
    is_order = e.what[i] >= CREATED
    memory = memories.orders if is_order else memories.audience
    answer = _first(s, _key(who, measure + 1, is_order), e.time[i], 0, memory)
    if answer != 0:
        out.sums[_minute(out, e.room[i], e.time[i], i), measure] += 1
    if answer == 2:
        out.sums[_minute(out, e.room[i], s.was[0], i), measure] -= 1


@compiled
def _distinct_of(s: State, out: Out, e: Events, i: int, who: int, measure: int, memories: Memories) -> None:
    """Count `who` in a measure of the product, on the day of its first event of that sort."""
    is_order = e.what[i] >= CREATED
    memory = memories.orders if is_order else memories.audience
    answer = _first(s, _key(who, _OF_PRODUCT + measure, is_order), e.time[i], 0, memory)
    if answer != 0:
        out.sums[_item(out, e, i, e.product[i], e.time[i]), measure] += 1
    if answer == 2:
        out.sums[_item(out, e, i, e.product[i], s.was[0]), measure] -= 1


@inlined
def _enter(s: State, out: Out, sources: Out, e: Events, i: int, who: int, memory: int) -> None:
    """Count a view as its user's entry, if it is the first."""
    answer = _first(s, _key(who, m.ENTERED + 1, False), e.time[i], e.load[i], memory)  # noqa: FBT003
    if answer != 0:
        row = _minute(out, e.room[i], e.time[i], i)
        out.sums[row, m.ENTERED] += 1
        out.sums[row, m.FROM_VIDEO] += e.load[i] & 1
        row = _item(sources, e, i, e.load[i] & ~1, e.time[i])
        sources.sums[row, 0] += 1
        sources.sums[row, 1] += e.load[i] & 1
    if answer == 2:
        row = _minute(out, e.room[i], s.was[0], i)
        out.sums[row, m.ENTERED] -= 1
        out.sums[row, m.FROM_VIDEO] -= s.was[1] & 1
        row = _cell(sources, e.room[i], s.was[0] // m.PART_MS * m.PART_MS, s.was[1] & ~1, i)
        sources.sums[row, 0] -= 1
        sources.sums[row, 1] -= s.was[1] & 1


@compiled
def _mark(s: State, out: Out, e: Events, i: int, who: int, low: int, high: int, column: int) -> None:
    """Put a user into the steps `low` to `high`: those that it was not in count once more in `column` and the next."""
    step = low
    while step <= high:
        block = step // BLOCK
        key = mixed(who, block)
        at = slot_of(s.mark_keys, key)
        if s.mark_keys[at] == 0:
            s.mark_keys[at], s.mark_blocks[at] = key, block
            s.present[at] = s.watching[at] = 0
            s.used[_IN_MARKS] += 1
        bits = s.present[at] if column == m.PRESENT else s.watching[at]
        before, last, row, minute = bits, min(high, block * BLOCK + BLOCK - 1), -1, -1
        while step <= last:
            place = step - block * BLOCK
            if (bits >> place) & 1 == 0:
                if step // m.STEPS != minute or row < 0:
                    minute = step // m.STEPS
                    row = _minute(out, e.room[i], minute * m.MINUTE_MS, i)
                    first = place // m.STEPS * m.STEPS
                    if column == m.PRESENT and (bits >> first) & ((1 << m.STEPS) - 1) == 0:
                        out.sums[row, m.VIEWERS] += 1
                out.sums[row, column + step - minute * m.STEPS] += 1
                bits |= 1 << place
            step += 1
        if bits != before:
            if column == m.PRESENT:
                s.present[at] = bits
            else:
                s.watching[at] = bits
            to = s.used[MARKS_LOGGED]
            s.mark_log[to, 0], s.mark_log[to, 1] = key, block
            s.mark_log[to, 2], s.mark_log[to, 3] = s.present[at], s.watching[at]
            s.used[MARKS_LOGGED] = to + 1


@inlined
def _stay(s: State, out: Out, e: Events, i: int, who: int) -> int:
    """Take in a report; the end of what it covers."""
    time, end = e.time[i], e.time[i] + min(e.watch[i], m.REPORT_MS_MAX)
    _mark(s, out, e, i, who, time // m.STEP_MS, max(time, end - 1) // m.STEP_MS, m.PRESENT)
    made = end // m.STEP_MS
    _mark(s, out, e, i, who, made, made + _AFTER, m.WATCHING)
    return int(end)


@inlined
def _order(s: State, out: Out, products: Out, e: Events, i: int, who: int, memories: Memories) -> None:
    """An order that is created, paid or refunded: one line of it."""
    what, row = e.what[i], _minute(out, e.room[i], e.time[i], i)
    of = _item(products, e, i, e.product[i], e.time[i])
    amount = 0 if e.foreign[i] else e.amount[i]
    out.sums[row, m.OTHER_CURRENCY] += e.foreign[i]
    products.sums[of, m.P_OTHER_CURRENCY] += e.foreign[i]
    order = mixed(mixed(who, e.order[i]), _ORDER)
    line, buyer = mixed(order, e.product[i]), mixed(who, e.product[i])
    if what == CREATED:
        out.sums[row, m.GMV_CREATED] += amount
        products.sums[of, m.P_GMV_CREATED] += amount
        _distinct(s, out, e, i, order, m.ORDERS_CREATED, memories)
        _distinct_of(s, products, e, i, line, m.P_ORDERS_CREATED, memories)
    elif what == PAID:
        out.sums[row, m.GMV] += amount
        products.sums[of, m.P_GMV] += amount
        products.sums[of, m.P_QUANTITY] += e.quantity[i]
        _distinct(s, out, e, i, order, m.ORDERS, memories)
        _distinct(s, out, e, i, who, m.BUYERS, memories)
        _distinct_of(s, products, e, i, line, m.P_ORDERS, memories)
        _distinct_of(s, products, e, i, buyer, m.P_BUYERS, memories)
    else:
        out.sums[row, m.GMV_REFUNDED] += amount
        products.sums[of, m.P_GMV_REFUNDED] += amount
        _distinct(s, out, e, i, order, m.ORDERS_REFUNDED, memories)
        _distinct_of(s, products, e, i, line, m.P_ORDERS_REFUNDED, memories)


@inlined
def _engage(s: State, out: Out, products: Out, e: Events, i: int, who: int, row: int, memories: Memories) -> None:
    """A like, a gift, or an action."""
    what = e.what[i]
    if what == LIKE:
        out.sums[row, m.LIKES] += 1
    elif what == COMMENT:
        out.sums[row, m.COMMENTS] += 1
    elif what == SHARE:
        out.sums[row, m.SHARES] += 1
    elif what == UNFOLLOW:
        out.sums[row, m.UNFOLLOWS] += 1
    elif what == FOLLOW:
        out.sums[row, m.FOLLOWS] += 1
        _distinct(s, out, e, i, who, m.FOLLOWERS, memories)
    elif what == EXPOSURE:
        out.sums[row, m.EXPOSURES] += 1
        _distinct(s, out, e, i, who, m.EXPOSED, memories)
    elif what == GIFT:
        out.sums[row, m.GIFTS] += e.quantity[i]
        out.sums[row, m.GIFT_AMOUNT] += 0 if e.foreign[i] else e.amount[i]
        out.sums[row, m.OTHER_CURRENCY] += e.foreign[i]
        _distinct(s, out, e, i, who, m.GIFTERS, memories)
    elif what == CLICK:
        out.sums[row, m.CLICKS] += 1
        _distinct(s, out, e, i, who, m.CLICKERS, memories)
        if e.product[i] != 0:
            products.sums[_item(products, e, i, e.product[i], e.time[i]), m.P_CLICKS] += 1
            _distinct_of(s, products, e, i, mixed(who, e.product[i]), m.P_CLICKERS, memories)


@compiled
def tally(e: Events, s: State, out: Out, sources: Out, products: Out, memories: Memories, start: int) -> int:
    """Add up events from number `start` on; the number of the first one that there was no room for."""
    room = min(len(out.key), len(sources.key), len(products.key)) - MOST_CELLS
    logs = min(len(s.first_log), len(s.mark_log)) - MOST_CELLS
    for i in range(start, len(e.what)):
        if max(out.used[0], sources.used[0], products.used[0]) > room:
            return i
        if max(s.used[FIRSTS_LOGGED], s.used[MARKS_LOGGED]) > logs:
            return i
        what, time = e.what[i], e.time[i]
        who = mixed(e.user[i], e.room[i])
        row = _minute(out, e.room[i], time, i)
        out.sums[row, m.EVENTS] += 1
        out.sums[row, m.FIRST_EVENT] = min(out.sums[row, m.FIRST_EVENT], time)
        active = time
        if what in (ENTRY, REPORT):
            out.sums[row, m.WATCH] += e.watch[i]
            active = _stay(s, out, e, i, who)
            if what == ENTRY:
                out.sums[row, m.VIEWS] += 1
                _enter(s, out, sources, e, i, who, memories.audience)
        elif what in (CREATED, PAID, REFUNDED):
            _order(s, out, products, e, i, who, memories)
        elif what == START:
            out.sums[row, m.FIRST_START] = min(out.sums[row, m.FIRST_START], time)
            out.sums[row, m.LAST_START] = max(out.sums[row, m.LAST_START], time)
        elif what == END:
            out.sums[row, m.LAST_END] = max(out.sums[row, m.LAST_END], time)
        else:
            _engage(s, out, products, e, i, who, row, memories)
        if what not in (PAID, REFUNDED, SETTLED):
            out.sums[row, m.LAST_ACTIVE] = max(out.sums[row, m.LAST_ACTIVE], active)
    return len(e.what)
