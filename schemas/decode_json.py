"""Reading JSON bytes in compiled code: the small steps that `decode_scan` is made of.

Each function reads `text` (UInt8 array) from index `at` and returns the index behind what it read, or −1 when it did
not find exactly that. They may read up to and including index `end`, the line feed that stands behind every message: it
is no part of a string, a number or a name, so no step runs on into the next message. Bytes are numbers, as compiled
code wants them: 34 quote, 44 comma, 45 minus, 46 point, 48 to 57 digits, 58 colon, 91 and 93 brackets, 92 backslash,
123 and 125 braces.
"""
# ruff: noqa: C901, PLR0911, PLR0912, PLR1714  # a reader is branches; calls and sets are dear in compiled code

from __future__ import annotations

from typing import Final

from schemas.decode_compile import Bytes, compiled, inlined, trailing_zeros, word_at

QUOTE: Final = 34
MAX_DIGITS: Final = 15
_ONES: Final = 0x0101_0101_0101_0101
_QUOTES: Final = _ONES * QUOTE
_SLASHES: Final = _ONES * 92
_SPACES: Final = _ONES * 32
_TOPS: Final = -0x7F7F_7F7F_7F7F_7F80  # 0x80 in every byte, as a signed integer
_MAX_DEPTH: Final = 16
_MAX_ITEMS: Final = 64


@inlined
def skip_space(text: Bytes, at: int, end: int) -> int:
    """Behind white space."""
    while text[at] <= 32 and at < end and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at


@inlined
def _skip_character(text: Bytes, at: int) -> int:
    """Behind one character beyond ASCII, well formed as RFC 3629 says: shortest form, no surrogates, up to U+10FFFF."""
    lead = text[at]
    second = text[at + 1]
    if 0xC2 <= lead <= 0xDF:
        return at + 2 if second & 0xC0 == 0x80 else -1
    low, high, length = 0x80, 0xBF, 3
    if lead == 0xE0:
        low = 0xA0
    elif lead == 0xED:
        high = 0x9F
    elif 0xF0 <= lead <= 0xF4:
        length = 4
        if lead == 0xF0:
            low = 0x90
        elif lead == 0xF4:
            high = 0x8F
    elif not 0xE1 <= lead <= 0xEF:
        return -1
    if not (low <= second <= high) or text[at + 2] & 0xC0 != 0x80:
        return -1
    if length == 4 and text[at + 3] & 0xC0 != 0x80:
        return -1
    return at + length


@compiled
def skip_characters(text: Bytes, at: int) -> int:
    """Behind all characters beyond ASCII that follow one another."""
    while text[at] >= 128:
        at = _skip_character(text, at)
        if at < 0:
            return -1
    return at


@inlined
def next_special(text: Bytes, at: int) -> int:
    """The index of the first byte from `at` on that is a quote, a backslash, below 32 or above 127.

    Eight bytes at a time. A byte of x is zero where `(x - 0x01…) & ~x` has its top bit (and perhaps, by the borrow, in
    bytes above that one: only the lowest is used); S. E. Anderson, "Bit Twiddling Hacks", *Determine if a word has a
    zero byte*.
    """
    while True:
        word = word_at(text, at)
        quote, slash = word ^ _QUOTES, word ^ _SLASHES
        marks = (((quote - _ONES) & ~quote) | ((slash - _ONES) & ~slash) | ((word - _SPACES) & ~word) | word) & _TOPS
        if marks != 0:
            return at + (trailing_zeros(marks) >> 3)
        at += 8


@inlined
def plain_string(text: Bytes, at: int) -> int:
    """From behind the opening quote to the closing quote of a string without escapes."""
    while True:
        at = next_special(text, at)
        if text[at] == QUOTE:
            return at
        if text[at] < 128:
            return -1
        at = skip_characters(text, at)
        if at < 0:
            return -1


@inlined
def skip_escape(text: Bytes, at: int) -> int:
    """From behind a backslash to behind the escape."""
    byte = text[at]
    if byte == 117:  # u
        for place in range(at + 1, at + 5):
            digit = text[place]
            if not (48 <= digit <= 57 or 65 <= digit <= 70 or 97 <= digit <= 102):
                return -1
        return at + 5
    if byte in (34, 92, 47, 98, 102, 110, 114, 116):  # " \ / b f n r t
        return at + 1
    return -1


@inlined
def skip_string(text: Bytes, at: int) -> int:
    """From behind the opening quote to behind the closing quote of any string."""
    while True:
        byte = text[at]
        if byte == QUOTE:
            return at + 1
        if byte < 32:
            return -1
        if byte == 92:
            at = skip_escape(text, at + 1)
        elif byte < 128:
            at += 1
        else:
            at = skip_characters(text, at)
        if at < 0:
            return -1


@inlined
def skip_digits(text: Bytes, at: int) -> int:
    """Behind one digit or more."""
    first = at
    while 48 <= text[at] <= 57:
        at += 1
    return at if at > first else -1


@inlined
def skip_number(text: Bytes, at: int) -> int:
    """Behind any JSON number."""
    if text[at] == 45:
        at += 1
    at = at + 1 if text[at] == 48 else skip_digits(text, at)
    if at < 0:
        return -1
    if text[at] == 46:
        at = skip_digits(text, at + 1)
        if at < 0:
            return -1
    if text[at] == 101 or text[at] == 69:
        at += 1
        if text[at] == 43 or text[at] == 45:
            at += 1
        at = skip_digits(text, at)
    return at


@inlined
def skip_true(text: Bytes, at: int) -> int:
    """Behind `true`."""
    return at + 4 if text[at] == 116 and text[at + 1] == 114 and text[at + 2] == 117 and text[at + 3] == 101 else -1


@inlined
def skip_false(text: Bytes, at: int) -> int:
    """Behind `false`."""
    if text[at] == 102 and text[at + 1] == 97 and text[at + 2] == 108 and text[at + 3] == 115 and text[at + 4] == 101:
        return at + 5
    return -1


@inlined
def skip_null(text: Bytes, at: int) -> int:
    """Behind `null`."""
    return at + 4 if text[at] == 110 and text[at + 1] == 117 and text[at + 2] == 108 and text[at + 3] == 108 else -1


@inlined
def skip_scalar(text: Bytes, at: int) -> int:
    """Behind a string, a number or a literal."""
    byte = text[at]
    if byte == QUOTE:
        return skip_string(text, at + 1)
    if byte == 116:
        return skip_true(text, at)
    if byte == 102:
        return skip_false(text, at)
    if byte == 110:
        return skip_null(text, at)
    return skip_number(text, at)


@compiled
def skip_key(text: Bytes, at: int, end: int) -> int:
    """Behind `"key" :` and white space."""
    if text[at] != QUOTE:
        return -1
    at = skip_string(text, at + 1)
    if at < 0:
        return -1
    at = skip_space(text, at, end)
    return skip_space(text, at + 1, end) if text[at] == 58 else -1


@compiled
def skip_value(text: Bytes, at: int, end: int) -> int:
    """Behind any JSON value of few items and little nesting. `objects`: a bit a level, set where an object is open."""
    depth, items, objects = 0, 0, 0
    while True:
        opening = text[at]
        if opening == 91 or opening == 123:  # [ {
            items += 1
            depth += 1
            if depth > _MAX_DEPTH:
                return -1
            objects = (objects << 1) | (opening == 123)
            at = skip_space(text, at + 1, end)
            if text[at] != opening + 2:  # not closed at once
                if opening == 123:
                    at = skip_key(text, at, end)
                    if at < 0:
                        return -1
                continue
        else:
            at = skip_scalar(text, at)
            if at < 0:
                return -1
            if depth == 0:
                return at
            at = skip_space(text, at, end)
        while text[at] == (125 if objects & 1 else 93):  # close what ends here
            at += 1
            depth -= 1
            objects >>= 1
            if depth == 0:
                return at
            at = skip_space(text, at, end)
        items += 1
        if text[at] != 44 or items > _MAX_ITEMS:
            return -1
        at = skip_space(text, at + 1, end)
        if objects & 1:
            at = skip_key(text, at, end)
            if at < 0:
                return -1


@inlined
def read_integer(text: Bytes, at: int) -> tuple[int, int]:
    """A JSON integer ≥ 0 of at most 15 digits, and the index behind it."""
    first = at
    value = 0
    while 48 <= text[at] <= 57:
        value = value * 10 + (text[at] - 48)
        at += 1
        if at - first > MAX_DIGITS:
            return 0, -1
    if at == first or (text[first] == 48 and at > first + 1):
        return 0, -1
    return value, at


@inlined
def read_digits(text: Bytes, at: int, count: int) -> int:
    """The value of exactly `count` digits, or a number far below zero."""
    value = 0
    for place in range(at, at + count):
        if not 48 <= text[place] <= 57:
            return -1_000_000
        value = value * 10 + (text[place] - 48)
    return value
