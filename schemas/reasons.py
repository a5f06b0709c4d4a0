"""Why a message is rejected: stable codes that dead letters, counters and documents share. Never rename one."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """The first fault found, in this order: framing, JSON, shape, topic, the fields in the contract's order, time."""

    TOMBSTONE = "tombstone"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    TOO_DEEP = "too_deep"
    TOO_COMPLEX = "too_complex"
    INVALID_JSON = "invalid_json"
    TRAILING_DATA = "trailing_data"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEY = "duplicate_key"
    UNKNOWN_TOPIC = "unknown_topic"
    UNSUPPORTED_VERSION = "unsupported_version"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_VALUE = "unknown_value"
    INVALID_ID = "invalid_id"
    INVALID_TEXT = "invalid_text"
    TOO_MANY_TAGS = "too_many_tags"
    UNKNOWN_ZONE = "unknown_zone"
    INVALID_CURRENCY = "invalid_currency"
    INVALID_EXPERIMENTS = "invalid_experiments"
    INVALID_TIME = "invalid_time"
    TIME_TOO_OLD = "time_too_old"
    TIME_IN_FUTURE = "time_in_future"


MEANING: Final[dict[Reason, str]] = {
    Reason.TOMBSTONE: "The message has no value.",
    Reason.EMPTY: "The value is empty or white space only.",
    Reason.TOO_LARGE: "The value is longer than the size limit.",
    Reason.NOT_UTF8: "The value is not UTF-8 text (UTF-16, compressed or binary data, a cut character).",
    Reason.TOO_DEEP: "Arrays and objects are nested too deeply.",
    Reason.TOO_COMPLEX: "There are too many keys or array elements.",
    Reason.INVALID_JSON: "The value is not JSON as RFC 8259 defines it (NaN and Infinity are not).",
    Reason.TRAILING_DATA: "More follows the first JSON document.",
    Reason.NOT_AN_OBJECT: "The JSON document is not an object.",
    Reason.DUPLICATE_KEY: "A key of the event, or of its experiments, is there twice.",
    Reason.UNKNOWN_TOPIC: "The topic is missing or not one of the contract's.",
    Reason.UNSUPPORTED_VERSION: "`v` is a version of the contract that this engine does not know.",
    Reason.MISSING_FIELD: "A required field is missing or null.",
    Reason.WRONG_TYPE: "A field has another JSON type than the contract says (a fraction where an integer is due too).",
    Reason.OUT_OF_RANGE: "A number is outside of its bounds.",
    Reason.UNKNOWN_VALUE: "A field with a closed list of values has another one.",
    Reason.INVALID_ID: "An id is empty, blank, over its length, or holds NUL or half a surrogate pair.",
    Reason.INVALID_TEXT: "A text is over its length, or holds NUL or half a surrogate pair.",
    Reason.TOO_MANY_TAGS: "There are more tags than allowed.",
    Reason.UNKNOWN_ZONE: "`tz` is not a zone of the IANA time zone database.",
    Reason.INVALID_CURRENCY: "`currency` is not three capital letters (ISO 4217).",
    Reason.INVALID_EXPERIMENTS: "`experiments` has too many entries, or an unusable name or variant.",
    Reason.INVALID_TIME: "`event_time` is not an RFC 3339 time with a zone (leap seconds are not taken).",
    Reason.TIME_TOO_OLD: "`event_time` is before the earliest time that is taken (seconds instead of milliseconds?).",
    Reason.TIME_IN_FUTURE: "`event_time` is too far ahead of the record's time (microseconds? a wrong clock?).",
}
"""One line a code."""
