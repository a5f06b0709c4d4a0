"""Reading `event_time` in compiled code: epoch milliseconds, or RFC 3339 text."""

from __future__ import annotations

from schemas.decode_compile import Bytes, compiled, inlined
from schemas.decode_json import QUOTE, read_digits, read_integer

_DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_DAYS_0000_TO_1970 = 719_468  # from 0000-03-01
_DAYS_400_YEARS = 146_097


@inlined
def days_in_month(year: int, month: int) -> int:
    """28 to 31, in the Gregorian calendar."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@inlined
def days_since_1970(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a Gregorian date (year ≥ 1). Years begin in March, so that a leap day is the last.

    `days_from_civil` of Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    https://howardhinnant.github.io/date_algorithms.html.
    """
    if month <= 2:
        year -= 1
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * _DAYS_400_YEARS + day_of_era - _DAYS_0000_TO_1970


@inlined
def _read_fraction(text: Bytes, at: int) -> tuple[int, int]:
    """Milliseconds of `.ddd…` (finer digits cut), or 0 of nothing, and the index behind; −1 when no digit follows."""
    if text[at] != 46:
        return 0, at
    at += 1
    first = at
    ms, unit = 0, 100
    while 48 <= text[at] <= 57:
        ms += unit * (text[at] - 48)
        unit //= 10
        at += 1
    return ms, at if at > first else -1


@inlined
def _read_offset(text: Bytes, at: int) -> tuple[int, int]:
    """Minutes that local time is ahead of UTC by `Z` or `±hh:mm`, and the index behind or −1."""
    if text[at] == 90 or text[at] == 122:
        return 0, at + 1
    if text[at] != 43 and text[at] != 45:
        return 0, -1
    hours = read_digits(text, at + 1, 2)
    minutes = read_digits(text, at + 4, 2)
    if text[at + 3] != 58 or not 0 <= hours <= 23 or not 0 <= minutes <= 59:
        return 0, -1
    ahead = hours * 60 + minutes
    return ahead if text[at] == 43 else -ahead, at + 6


@inlined
def _read_clock(text: Bytes, at: int) -> tuple[int, int]:
    """Milliseconds since 1970 of `YYYY-MM-DDThh:mm:ss` taken as UTC, and the index behind or −1."""
    year, month, day = read_digits(text, at, 4), read_digits(text, at + 5, 2), read_digits(text, at + 8, 2)
    hour, minute, second = read_digits(text, at + 11, 2), read_digits(text, at + 14, 2), read_digits(text, at + 17, 2)
    if text[at + 4] != 45 or text[at + 7] != 45 or text[at + 13] != 58 or text[at + 16] != 58:
        return 0, -1
    if text[at + 10] != 84 and text[at + 10] != 116:
        return 0, -1
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= days_in_month(year, month):
        return 0, -1
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return 0, -1
    clock_ms = ((hour * 60 + minute) * 60 + second) * 1000
    return days_since_1970(year, month, day) * _DAY_MS + clock_ms, at + 19


@compiled
def read_time(text: Bytes, at: int) -> tuple[int, int]:
    """Epoch ms, and the index behind or −1."""
    if text[at] != QUOTE:
        return read_integer(text, at)
    clock_ms, at = _read_clock(text, at + 1)
    if at < 0:
        return 0, -1
    fraction_ms, at = _read_fraction(text, at)
    if at < 0:
        return 0, -1
    ahead, at = _read_offset(text, at)
    if at < 0 or text[at] != QUOTE:
        return 0, -1
    return clock_ms + fraction_ms - ahead * _MINUTE_MS, at + 1
