"""The fast reader of messages: one pass over the bytes of a batch, in compiled code, no Python object an event.

`scan` takes a message only if it has proved that `schemas.validate` would: every key and value is read by the grammar
of JSON and by the field's own rule, whatever the order of the keys, white space or unknown small fields. Everything
else (escapes in a field's text, an error, something large or rare) it leaves to the judge. So it decides speed, not
outcomes.
"""
# ruff: noqa: C901, PLR0911, PLR0913, PLR0917  # a reader is branches; tuples and calls are dear in compiled code

from __future__ import annotations

from schemas.decode_compile import Bytes, compiled, inlined, word_at
from schemas.decode_fields import CODE, MAX_EXPERIMENTS, Kind
from schemas.decode_json import (
    QUOTE,
    plain_string,
    read_integer,
    skip_false,
    skip_key,
    skip_null,
    skip_space,
    skip_true,
    skip_value,
)
from schemas.decode_rules import (
    ALLOWED_MASK,
    CHOICE_PLACE,
    CHOICES_FROM,
    CHOICES_TO,
    EVENT_TIME,
    FIRST_TOPIC,
    HEAD,
    HEAD_MASK,
    HIGH,
    KIND,
    LIMITS,
    LOW,
    MAX_MESSAGE_BYTES,
    MAX_TAGS,
    MAX_TEXT_BYTES,
    MAX_UNKNOWN,
    MIN_EVENT_TIME,
    NAMES_PLACE,
    NEXT,
    PRESENT,
    REQUIRED_MASK,
    SIZE,
    SLOT,
    SPAN_BITS,
    SPAN_MASK,
    TAG_COUNT,
    TAG_FIRST,
    TAGS_END,
    TAIL,
    TAIL_MASK,
    TAKEN,
    TOPIC_COUNT,
    Int64s,
    Table,
)
from schemas.decode_time import read_time
from schemas.events import LIKE, VIEW

# Kinds and fields as plain integers, which compiled code takes for constants
_ID, _CURRENCY, _CHOICE_KIND, _VERSION = (int(k) for k in (Kind.ID, Kind.CURRENCY, Kind.CHOICE, Kind.VERSION))
_BOOL, _TIME, _TAGS, _EXPERIMENTS = (int(k) for k in (Kind.BOOL, Kind.TIME, Kind.TAGS, Kind.EXPERIMENTS))
_TOPIC_FIELD, _VIDEO, _LIVE = CODE["topic"], 1 << CODE["video_id"], 1 << CODE["live_id"]


@inlined
def _same_text(text: Bytes, one: int, other: int) -> bool:
    """Whether two spans hold the same bytes."""
    size = one & SPAN_MASK
    if size != other & SPAN_MASK:
        return False
    first, second = one >> SPAN_BITS, other >> SPAN_BITS
    for place in range(size):  # noqa: SIM110  # compiled to a loop
        if text[first + place] != text[second + place]:
            return False
    return True


@inlined
def _has_name(text: Bytes, first: int, rules: Table, line: int) -> bool:
    """Whether the name of a line of the rules begins at `first`."""
    if word_at(text, first) & rules[line, HEAD_MASK] != rules[line, HEAD]:
        return False
    return bool(word_at(text, first + 8) & rules[line, TAIL_MASK] == rules[line, TAIL])


@inlined
def _line_of(text: Bytes, first: int, size: int, rules: Table, from_line: int, to_line: int) -> int:
    """The line of the rules, up to before `to_line`, that has this name, or −1."""
    for line in range(from_line, to_line):
        if rules[line, SIZE] == size and _has_name(text, first, rules, line):
            return line
    return -1


@inlined
def _is_new_name(text: Bytes, span: int, first: int, known: int, notes: Int64s) -> bool:
    """Whether none of the `known` names noted from place `first` on is this one; it is noted as the next."""
    for place in range(first, first + known):
        if _same_text(text, span, notes[place]):
            return False
    notes[first + known] = span
    return True


@inlined
def _has_ink(text: Bytes, first: int, last: int) -> bool:
    """Whether a byte is there that is no part of any white space (beyond ASCII it begins with C2 or E1 to E3)."""
    for place in range(first, last):
        byte = text[place]
        if 33 <= byte <= 126 or 0xC3 <= byte <= 0xDF or byte >= 0xE4:
            return True
    return False


@inlined
def _read_text(
    text: Bytes, at: int, row: int, topic: int, code: int, rules: Table, columns: Table, notes: Int64s
) -> int:
    """Behind an id, a text, a zone (known or not), a currency or a choice."""
    if text[at] != QUOTE:
        return -1
    first = at + 1
    last = plain_string(text, first)
    size = last - first
    if last < 0 or size == 0:
        return last + 1 if last > 0 else -1  # an empty text is an absent field
    kind = rules[code, KIND]
    if kind == _ID:
        if size > rules[code, HIGH] or not _has_ink(text, first, last):
            return -1
    elif kind == _CHOICE_KIND:
        line = FIRST_TOPIC + topic
        choice = _line_of(text, first, size, rules, rules[line, CHOICES_FROM], rules[line, CHOICES_TO])
        if choice < 0:
            return -1
        notes[CHOICE_PLACE] = choice
    elif size > rules[LIMITS, MAX_TEXT_BYTES]:
        return -1
    elif kind == _CURRENCY:
        if size != 3:
            return -1
        for place in range(first, last):
            if not 65 <= text[place] <= 90:
                return -1
    columns[PRESENT, row] |= 1 << code
    slot = rules[code, SLOT]
    if slot >= 0:
        columns[slot, row] = first << SPAN_BITS | size
    return last + 1


@inlined
def _read_number(text: Bytes, at: int, row: int, code: int, rules: Table, columns: Table) -> int:
    """Behind an integer within its bounds, or a boolean."""
    if rules[code, KIND] == _BOOL:
        value = 1
        after = skip_true(text, at)
        if after < 0:
            value = 0
            after = skip_false(text, at)
    else:
        value, after = read_integer(text, at)
        if value < rules[code, LOW] or value > rules[code, HIGH]:
            return -1
    if after < 0:
        return -1
    columns[PRESENT, row] |= 1 << code
    slot = rules[code, SLOT]
    if slot >= 0:
        columns[slot, row] = value
    return after


@compiled
def _read_tags(text: Bytes, at: int, end: int, row: int, code: int, rules: Table, columns: Table, notes: Int64s) -> int:
    """Behind an array of texts; the ones that are not empty are kept."""
    if text[at] != 91:
        return -1
    used = notes[TAGS_END]
    columns[TAG_FIRST, row] = used
    count = 0
    at = skip_space(text, at + 1, end)
    closed = text[at] == 93
    while not closed:
        if text[at] != QUOTE:
            return -1
        first = at + 1
        last = plain_string(text, first)
        count += 1
        if last < 0 or last - first > rules[LIMITS, MAX_TEXT_BYTES] or count > rules[LIMITS, MAX_TAGS]:
            return -1
        if last > first:
            notes[used] = first << SPAN_BITS | (last - first)
            used += 1
        at = skip_space(text, last + 1, end)
        closed = text[at] == 93
        if not closed:
            if text[at] != 44:
                return -1
            at = skip_space(text, at + 1, end)
    kept = used - notes[TAGS_END]
    if kept > 0:
        columns[PRESENT, row] |= 1 << code
        columns[TAG_COUNT, row] = kept
        notes[TAGS_END] = used
    return at + 1


@compiled
def _read_experiments(text: Bytes, at: int, row: int, code: int, rules: Table, columns: Table, notes: Int64s) -> int:
    """Behind an object of texts that is written compactly, as a frame holds it."""
    start = at
    if text[at] != 123:
        return -1
    if text[at + 1] == 125:
        return at + 2
    count = 0
    while count == 0 or text[at] == 44:
        for part in range(2):  # name, variant
            if text[at + 1] != QUOTE:
                return -1
            first = at + 2
            last = plain_string(text, first)
            size = last - first
            if last < 0 or size == 0 or size > rules[LIMITS, MAX_TEXT_BYTES]:
                return -1
            at = last + 1
            if part == 0:
                if count == MAX_EXPERIMENTS or text[at] != 58:
                    return -1
                if not _is_new_name(text, first << SPAN_BITS | size, NAMES_PLACE + MAX_UNKNOWN, count, notes):
                    return -1
        count += 1
    if text[at] != 125:
        return -1
    columns[PRESENT, row] |= 1 << code
    slot = rules[code, SLOT]
    if slot >= 0:
        columns[slot, row] = start << SPAN_BITS | (at + 1 - start)
    return at + 1


@inlined
def _read_field(
    text: Bytes, at: int, end: int, row: int, topic: int, code: int, rules: Table, columns: Table, notes: Int64s
) -> int:
    """Behind the value of a known field of the topic, kept if it is wanted."""
    if text[at] == 110:
        return skip_null(text, at)  # an absent field
    kind = rules[code, KIND]
    if kind <= _CHOICE_KIND:
        return _read_text(text, at, row, topic, code, rules, columns, notes)
    if kind <= _BOOL:
        return _read_number(text, at, row, code, rules, columns)
    if kind == _TIME:
        event_time, at = read_time(text, at)
        if at < 0 or event_time < rules[LIMITS, MIN_EVENT_TIME]:
            return -1
        columns[EVENT_TIME, row] = event_time
        columns[PRESENT, row] |= 1 << code
        return at
    if kind == _TAGS:
        return _read_tags(text, at, end, row, code, rules, columns, notes)
    return _read_experiments(text, at, row, code, rules, columns, notes)


@inlined
def _read_key(text: Bytes, at: int, rules: Table, before: int) -> tuple[int, int]:
    """The code of the field that a key names (−1: none) and the index of the key's closing quote (−1: not plain).

    `before`: the line of the field before it, or of the topic. What followed that last time is tried first.
    """
    if text[at] != QUOTE:
        return -1, -1
    first = at + 1
    guess = rules[before, NEXT]
    last = first + rules[guess, SIZE]
    if _has_name(text, first, rules, guess) and text[last] == QUOTE:
        return guess, last
    last = plain_string(text, first)
    code = _line_of(text, first, last - first, rules, 0, FIRST_TOPIC)
    if code >= 0:
        rules[before, NEXT] = code
    return code, last


@inlined
def _behind_colon(text: Bytes, at: int, end: int) -> int:
    """From a key's closing quote to its value."""
    at = skip_space(text, at + 1, end)
    return skip_space(text, at + 1, end) if text[at] == 58 else -1


@inlined
def _read_fields(
    text: Bytes, at: int, end: int, row: int, topic: int, rules: Table, columns: Table, notes: Int64s
) -> int:
    """From behind `{` to behind `}`; −1 also when a key is there twice."""
    seen, unknown, before = 0, 0, FIRST_TOPIC + topic
    while True:
        first = skip_space(text, at, end)
        code, last = _read_key(text, first, rules, before)
        at = _behind_colon(text, last, end) if last >= 0 else -1
        if at < 0:
            return -1
        if code < 0:
            name = (first + 1) << SPAN_BITS | (last - first - 1)
            if unknown == MAX_UNKNOWN or not _is_new_name(text, name, NAMES_PLACE, unknown, notes):
                return -1
            unknown += 1
            at = skip_value(text, at, end)
        else:
            if seen >> code & 1:
                return -1
            seen |= 1 << code
            before = code
            if rules[FIRST_TOPIC + topic, ALLOWED_MASK] >> code & 1:
                at = _read_field(text, at, end, row, topic, code, rules, columns, notes)
            else:
                at = skip_value(text, at, end)
        if at < 0:
            return -1
        at = skip_space(text, at, end)
        if text[at] == 125:
            return at + 1
        if text[at] != 44:
            return -1
        at += 1


@inlined
def _is_complete(row: int, topic: int, rules: Table, columns: Table, notes: Int64s) -> bool:
    """Whether all is there that the topic requires."""
    present = columns[PRESENT, row]
    required = rules[FIRST_TOPIC + topic, REQUIRED_MASK]
    if present & required != required:
        return False
    if topic == VIEW:
        subject = _VIDEO if notes[CHOICE_PLACE] == rules[FIRST_TOPIC, CHOICES_FROM] else _LIVE
        return bool(present & subject != 0)
    if topic == LIKE:
        return bool(present & (_LIVE | _VIDEO) != 0)
    return True


@compiled
def scan(
    text: Bytes, starts: Int64s, ends: Int64s, topics: Int64s, rules: Table, columns: Table, notes: Int64s
) -> None:
    """Read n messages into `columns` and `notes` (see `Found`).

    Message i is `text[starts[i]:ends[i]]`, of topic `topics[i]` (−1: left out). A line feed stands behind each
    message, and 32 more behind the last.
    """
    for row in range(len(starts)):
        start, end, topic = starts[row], ends[row], topics[row]
        if topic < 0 or end - start > rules[LIMITS, MAX_MESSAGE_BYTES]:
            continue
        at = skip_space(text, start, end)
        if text[at] != 123:
            continue
        at = _read_fields(text, at + 1, end, row, topic, rules, columns, notes)
        if at >= 0 and skip_space(text, at, end) == end:
            columns[TAKEN, row] = _is_complete(row, topic, rules, columns, notes)


@inlined
def _topic_of(text: Bytes, at: int, end: int, rules: Table) -> int:
    """The topic that an object names, or −1; from behind `{`."""
    while True:
        key = skip_space(text, at, end)
        value = skip_key(text, key, end)
        at = skip_value(text, value, end) if value >= 0 else -1
        if at < 0:
            return -1
        if _has_name(text, key + 1, rules, _TOPIC_FIELD) and text[key + 1 + rules[_TOPIC_FIELD, SIZE]] == QUOTE:
            if text[value] != QUOTE:
                return -1
            line = _line_of(text, value + 1, at - value - 2, rules, FIRST_TOPIC, FIRST_TOPIC + TOPIC_COUNT)
            return line - FIRST_TOPIC if line >= 0 else -1
        at = skip_space(text, at, end)
        if text[at] != 44:
            return -1
        at += 1


@compiled
def scan_topics(text: Bytes, starts: Int64s, ends: Int64s, rules: Table, topics: Int64s) -> None:
    """The topic that each line names, or −1, into `topics`. Arrays as for `scan`."""
    for row in range(len(starts)):
        at = skip_space(text, starts[row], ends[row])
        topics[row] = _topic_of(text, at + 1, ends[row], rules) if text[at] == 123 else -1
