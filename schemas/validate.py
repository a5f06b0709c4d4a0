"""The exact judge of one message: what is wrong with it, or what its fields are.

Slow (tens of microseconds) and plain: the columnar decoder sends it only what it cannot take itself, and is tested
against it. The parser is the standard library's, because its hooks show what a decoder into types hides: the text of
each number, and every pair of an object.

Where the contract is silent:
- An optional field that is null, an empty text, `[]` or `{}` is absent. An empty tag is left out of `tags`.
- A field that the topic does not have is ignored, whatever it holds, as long as the document is JSON and bounded.
  A key that is there twice at the top level (or in `experiments`) is a fault, also an unknown one: readers would
  differ.
- Texts are opaque: white space, control characters written as escapes, bidi marks and markup are kept as they are.
  Only NUL and half a surrogate pair are refused, because stores cannot hold them.
- `event_time` as text follows RFC 3339 to the letter: `t` and `z` may be small, a space for `T` may not stand, any
  number of digits of a second may follow and are cut to milliseconds, `-00:00` is UTC, second 60 is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from schemas.decode_fields import (
    ALLOWED,
    CHOICES,
    FIELDS,
    MAX_DEPTH,
    MAX_EXPERIMENTS,
    MAX_ITEMS,
    REQUIRED,
    Field,
    Kind,
    high,
    most_id_bytes,
    zone_names,
)
from schemas.events import TOPICS, Limits
from schemas.reasons import Reason

Json = Any
"""A JSON value: str, int, bool, None, list, `_Object`, `_Fraction` or `_HugeInteger`."""


@dataclass(frozen=True, slots=True)
class Valid:
    """A good message: topic, and fields as a frame holds them (`experiments` as compact JSON) without absent ones."""

    topic: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reject:
    """A bad message: reason, what exactly, and the topic, as far as it is known (a file's line may not say one)."""

    reason: Reason
    detail: str
    topic: str | None = None


class _Fault(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its pairs, the doubled ones too."""


class _Fraction:
    """A JSON number with a fraction or an exponent. No field takes one."""


class _HugeInteger:
    """A JSON integer of more digits than any bound has."""


_FRACTION = _Fraction()
_HUGE = _HugeInteger()
_EMPTY: Final[tuple[object, ...]] = ("", [])
# One that does not end goes up to the end, and no step is taken back: else time grows as the square of the length.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)
_CURRENCY = re.compile(r"[A-Z]{3}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAP_SECOND = 60


def judge(raw: bytes | None, topic: str, record_ms: int, limits: Limits) -> Valid | Reject:
    """Judge a Kafka message of `topic` whose record time (epoch ms) is `record_ms`."""
    return _judge(raw, topic, record_ms, limits)


def judge_line(raw: bytes, now_ms: int, limits: Limits) -> Valid | Reject:
    """Judge a line of a file, whose object names its topic."""
    return _judge(raw, None, now_ms, limits)


def text_field(raw: bytes, name: str, limits: Limits) -> str | Reject:
    """One text of a JSON object, by the rules of events; blank ends are cut, and something must be left."""
    try:
        return _text_of(dict(_event(_text(raw, limits))), name, limits)
    except _Fault as fault:
        return Reject(fault.reason, fault.detail)


def _text_of(values: dict[str, Any], name: str, limits: Limits) -> str:
    if values.get(name) is None:
        raise _Fault(Reason.MISSING_FIELD, f"{name} is {'null' if name in values else 'missing'}")
    text = _usable(name, _string(name, values[name]).strip(), limits.max_text_bytes, Reason.INVALID_TEXT)
    if not text:
        raise _Fault(Reason.MISSING_FIELD, f"{name} is empty")
    return text


def _judge(raw: bytes | None, topic: str | None, record_ms: int, limits: Limits) -> Valid | Reject:
    try:
        found = _event(_text(raw, limits))
        if topic is None:
            topic = _named_topic(found)
        if topic not in TOPICS:
            return Reject(Reason.UNKNOWN_TOPIC, "not a topic of the contract", topic)
        fields = _fields(found, topic, limits)
        _check_time(fields["event_time"], record_ms, limits)
    except _Fault as fault:
        return Reject(fault.reason, fault.detail, topic)
    return Valid(topic, fields)


def _text(raw: bytes | None, limits: Limits) -> str:
    """The message as text, its size, nesting and number of items bounded."""
    if raw is None:
        raise _Fault(Reason.TOMBSTONE, "no value")
    if len(raw) > limits.max_message_bytes:
        raise _Fault(Reason.TOO_LARGE, f"{len(raw)} bytes; the limit is {limits.max_message_bytes}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Fault(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from None
    if not text.strip(" \t\r\n"):
        raise _Fault(Reason.EMPTY, "nothing but white space" if text else "no bytes")
    _bound_structure(text)
    return text


def _bound_structure(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH and text.count(",") + text.count(":") <= MAX_ITEMS:
        return  # even if none of them were inside a string
    outside = _STRING.sub("", text)
    depth = 0
    for bracket in re.findall(r"[][{}]", outside):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise _Fault(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
    if outside.count(",") + outside.count(":") > MAX_ITEMS:
        raise _Fault(Reason.TOO_COMPLEX, f"more than {MAX_ITEMS} keys and elements")


def _integer(digits: str) -> int | _HugeInteger:
    return int(digits) if len(digits) < 20 else _HUGE  # an Int64 has at most 19 digits


def _no_constant(name: str) -> None:
    raise _Fault(Reason.INVALID_JSON, f"{name} is not JSON")


def _event(text: str) -> _Object:
    """The event's pairs, no key twice."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_Object,
            parse_int=_integer,
            parse_float=lambda _: _FRACTION,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        reason = Reason.TRAILING_DATA if error.msg == "Extra data" else Reason.INVALID_JSON
        raise _Fault(reason, f"{error.msg} at character {error.pos}") from None
    if not isinstance(value, _Object):
        raise _Fault(Reason.NOT_AN_OBJECT, f"the document is {_kind_of(value)}")
    _no_doubles(value)
    return value


def _no_doubles(pairs: _Object) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _Fault(Reason.DUPLICATE_KEY, f"{_shown(key)} is there twice")
        seen.add(key)


def _named_topic(found: _Object) -> str:
    name = dict(found).get("topic")
    if name is None:
        raise _Fault(Reason.UNKNOWN_TOPIC, "no topic")
    if not isinstance(name, str):
        raise _Fault(Reason.UNKNOWN_TOPIC, f"topic is {_kind_of(name)}")
    return _shown(name)


def _fields(found: _Object, topic: str, limits: Limits) -> dict[str, Any]:
    """The fields that `topic` has, each checked."""
    values = dict(found)
    fields: dict[str, Any] = {}
    for field in FIELDS:
        name = field.name
        if name not in ALLOWED[topic] or field.kind is Kind.TOPIC:
            continue
        value = values.get(name)
        required = name in REQUIRED[topic]
        if value is None:
            if required:
                raise _Fault(Reason.MISSING_FIELD, f"{name} is {'null' if name in values else 'missing'}")
            continue
        checked = _checked(field, value, topic, limits)
        if checked in _EMPTY:
            if required:
                raise _Fault(Reason.INVALID_ID if field.kind is Kind.ID else Reason.MISSING_FIELD, f"{name} is empty")
            continue
        fields[name] = checked
    _check_subject(fields, topic)
    return fields


def _check_subject(fields: dict[str, Any], topic: str) -> None:
    """What a view or a like must be about."""
    if topic == "view":
        subject = f"{fields['surface']}_id"
        if subject not in fields:
            raise _Fault(Reason.MISSING_FIELD, f"{subject} is missing on surface {fields['surface']}")
    elif topic == "like" and "video_id" not in fields and "live_id" not in fields:
        raise _Fault(Reason.MISSING_FIELD, "neither video_id nor live_id is there")


def _checked(field: Field, value: Json, topic: str, limits: Limits) -> Json:  # noqa: PLR0911  # one a kind
    """The value as a frame holds it; raises what is wrong with it."""
    match field.kind:
        case Kind.INT | Kind.VERSION:
            return _bounded(field, value, limits)
        case Kind.BOOL:
            return _of_type(field.name, value, bool, "true or false")
        case Kind.TIME:
            return _event_time(value)
        case Kind.TAGS:
            return _tags(field.name, value, limits)
        case Kind.EXPERIMENTS:
            return _experiments(field.name, value, limits)
        case Kind.CHOICE:
            if _string(field.name, value) not in CHOICES[topic][field.name]:
                raise _Fault(Reason.UNKNOWN_VALUE, f"{field.name} is {_shown(value)}")
            return value
        case Kind.ID:
            return _id(field.name, value, limits)
        case _:
            return _dimension(field, value, limits)


def _dimension(field: Field, value: Json, limits: Limits) -> str:  # a JSON value
    text = _usable(field.name, _string(field.name, value), limits.max_text_bytes, Reason.INVALID_TEXT)
    if text and field.kind is Kind.ZONE and text not in zone_names():
        raise _Fault(Reason.UNKNOWN_ZONE, f"no zone is called {_shown(text)}")
    if text and field.kind is Kind.CURRENCY and not _CURRENCY.fullmatch(text):
        raise _Fault(Reason.INVALID_CURRENCY, f"currency is {_shown(text)}")
    return text


def _id(name: str, value: Json, limits: Limits) -> str:  # a JSON value
    text = _usable(name, _string(name, value), most_id_bytes(name, limits), Reason.INVALID_ID)
    if text.isspace():
        raise _Fault(Reason.INVALID_ID, f"{name} is blank")
    return text


def _bounded(field: Field, value: Json, limits: Limits) -> int:  # a JSON value
    if isinstance(value, bool) or not isinstance(value, int | _HugeInteger):
        raise _Fault(Reason.WRONG_TYPE, f"{field.name} is {_kind_of(value)}, not an integer")
    most = high(field, limits)
    low = 1 if field.kind is Kind.VERSION else field.low
    if isinstance(value, _HugeInteger) or not low <= value <= most:
        reason = Reason.UNSUPPORTED_VERSION if field.kind is Kind.VERSION else Reason.OUT_OF_RANGE
        raise _Fault(reason, f"{field.name} is not within {low} and {most}")
    return value


def _tags(name: str, value: Json, limits: Limits) -> list[str]:  # a JSON value
    tags = _of_type(name, value, list, "an array")
    if isinstance(value, _Object):
        raise _Fault(Reason.WRONG_TYPE, f"{name} is an object, not an array")
    if len(tags) > limits.max_tags:
        raise _Fault(Reason.TOO_MANY_TAGS, f"{len(tags)} tags; the limit is {limits.max_tags}")
    texts = [_usable("a tag", _string("a tag", tag), limits.max_text_bytes, Reason.INVALID_TEXT) for tag in tags]
    return [text for text in texts if text]


def _experiments(name: str, value: Json, limits: Limits) -> str:  # a JSON value
    pairs = _of_type(name, value, _Object, "an object")
    if len(pairs) > MAX_EXPERIMENTS:
        raise _Fault(Reason.INVALID_EXPERIMENTS, f"{len(pairs)} experiments; the limit is {MAX_EXPERIMENTS}")
    _no_doubles(pairs)
    for experiment, variant in pairs:
        for text in (experiment, _string("a variant", variant)):
            if not _usable(name, text, limits.max_text_bytes, Reason.INVALID_EXPERIMENTS):
                raise _Fault(Reason.INVALID_EXPERIMENTS, "an empty name or variant")
    return json.dumps(dict(pairs), ensure_ascii=False, separators=(",", ":")) if pairs else ""


def _of_type(name: str, value: Json, kind: type, what: str) -> Any:  # noqa: ANN401  # a JSON value
    if not isinstance(value, kind):
        raise _Fault(Reason.WRONG_TYPE, f"{name} is {_kind_of(value)}, not {what}")
    return value


def _string(name: str, value: Json) -> str:  # a JSON value
    if not isinstance(value, str):
        raise _Fault(Reason.WRONG_TYPE, f"{name} is {_kind_of(value)}, not a string")
    return value


def _usable(name: str, text: str, max_bytes: int, reason: Reason) -> str:
    """The text, if it fits and every store can hold it; else `reason`."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _Fault(reason, f"{name} holds half a surrogate pair") from None
    if size > max_bytes:
        raise _Fault(reason, f"{name} has {size} bytes; the limit is {max_bytes}")
    if "\0" in text:
        raise _Fault(reason, f"{name} holds NUL")
    return text


def _event_time(value: Json) -> int:  # a JSON value
    """Epoch ms of an integer or an RFC 3339 text."""
    if isinstance(value, str):
        return rfc3339_ms(value)
    if isinstance(value, bool) or not isinstance(value, int | _HugeInteger):
        raise _Fault(Reason.WRONG_TYPE, f"event_time is {_kind_of(value)}, not a string or an integer")
    if isinstance(value, _HugeInteger):
        raise _Fault(Reason.INVALID_TIME, "event_time has more digits than a time has")
    return value


def rfc3339_ms(text: str) -> int:
    """Epoch ms of an RFC 3339 date-time, finer digits cut."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise _Fault(Reason.INVALID_TIME, "event_time is not an RFC 3339 time with a zone")
    *clock, fraction, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = map(int, clock)
    if second == _LEAP_SECOND:
        raise _Fault(Reason.INVALID_TIME, "event_time is a leap second")
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise _Fault(Reason.INVALID_TIME, f"event_time: {error}") from None
    ahead_minutes = int(f"{sign}1") * (int(hours) * 60 + int(minutes)) if sign else 0
    seconds = (local - _EPOCH) // timedelta(seconds=1) - ahead_minutes * 60
    return seconds * 1000 + int(((fraction or "") + "000")[:3])


def _check_time(event_time: int, record_ms: int, limits: Limits) -> None:
    if event_time < limits.min_event_time:
        raise _Fault(Reason.TIME_TOO_OLD, f"event_time {event_time} is before {limits.min_event_time}")
    if event_time > record_ms + limits.max_future_ms:
        ahead = event_time - record_ms
        raise _Fault(Reason.TIME_IN_FUTURE, f"event_time {event_time} is {ahead} ms ahead of the record's time")


def _kind_of(value: Json) -> str:  # a JSON value
    """The JSON type of a value, for a detail."""
    if isinstance(value, bool):
        return "true or false"
    names = ((str, "a string"), (_Object, "an object"), (list, "an array"), (_Fraction, "a number with a fraction"))
    return next((name for kind, name in names if isinstance(value, kind)), "null" if value is None else "an integer")


def _shown(text: str) -> str:
    """A text of the message for a detail or a ledger: short, and storable."""
    return text[:64].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
