"""Every class of bad (or odd but good) message, with its outcome: one table for all tests that meet bad input."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.reasons import Reason

NOW_MS = 1_780_000_000_000
"""The record time of all cases."""
TIME_MS = NOW_MS - 60_000

VIEW: dict[str, Any] = {
    "event_id": "e-1", "event_time": TIME_MS, "user_id": "u-1", "surface": "video", "video_id": "v-1",
    "creator_id": "c-1", "category": "food", "tags": ["a", "b"], "watch_ms": 1200,
}  # fmt: skip
LIKE: dict[str, Any] = {
    "event_id": "e-2", "event_time": TIME_MS, "user_id": "u-1", "live_id": "l-1", "creator_id": "c-1",
}  # fmt: skip
GIFT: dict[str, Any] = {
    "event_id": "e-3", "event_time": TIME_MS, "user_id": "u-1", "live_id": "l-1", "creator_id": "c-1", "gift_id": "g-1",
    "quantity": 2, "amount_minor": 1990, "currency": "CNY",
}  # fmt: skip
ORDER: dict[str, Any] = {
    "event_id": "e-4", "event_time": TIME_MS, "user_id": "u-1", "order_id": "o-1", "status": "paid",
    "product_id": "p-1", "quantity": 1, "amount_minor": 9900,
}  # fmt: skip
ENGAGE: dict[str, Any] = {"event_id": "e-5", "event_time": TIME_MS, "user_id": "u-1", "action": "comment"}
AD: dict[str, Any] = {
    "event_id": "e-6", "event_time": TIME_MS, "user_id": "u-1", "action": "click", "ad_id": "a-1",
    "campaign_id": "k-1", "channel": "paid",
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "view": VIEW, "like": LIKE, "gift": GIFT, "order": ORDER, "engage": ENGAGE, "ad": AD,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A message of a topic; `reason` is None if it is good, and then `fields` are some that a frame must show."""

    name: str
    raw: bytes | None
    reason: Reason | None
    fields: dict[str, Any] | None = None
    topic: str = "view"


def compact(event: dict[str, Any]) -> bytes:
    """An event as producers write it."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def with_fields(topic: str = "view", **fields: Any) -> bytes:
    """A good event of the topic with some fields replaced."""
    return compact(GOOD[topic] | fields)


def without(name: str, topic: str = "view") -> bytes:
    """A good event of the topic with a field less."""
    return compact({key: value for key, value in GOOD[topic].items() if key != name})


def with_raw(name: str, text: str, topic: str = "view") -> bytes:
    """A good event of the topic with a field whose value is this JSON text, sound or not."""
    event = {key: value for key, value in GOOD[topic].items() if key != name}
    return compact(event)[:-1] + f',"{name}":{text}}}'.encode()


_BODY = compact(VIEW)
_FRAMING = [
    Case("tombstone", None, Reason.TOMBSTONE),
    Case("empty", b"", Reason.EMPTY),
    Case("white space", b" \r\n\t ", Reason.EMPTY),
    Case("BOM alone", b"\xef\xbb\xbf", Reason.EMPTY),
    Case("null", b"null", Reason.NOT_AN_OBJECT),
    Case("scalar", b"42", Reason.NOT_AN_OBJECT),
    Case("string", b'"view"', Reason.NOT_AN_OBJECT),
    Case("array", b"[" + _BODY + b"]", Reason.NOT_AN_OBJECT),
    Case("empty object", b"{}", Reason.MISSING_FIELD),
    Case("truncated", _BODY[:-9], Reason.INVALID_JSON),
    Case("one brace short", _BODY[:-1], Reason.INVALID_JSON),
    Case("trailing bytes", _BODY + b"x", Reason.TRAILING_DATA),
    Case("trailing comma", _BODY[:-1] + b",}", Reason.INVALID_JSON),
    Case("two documents", _BODY + _BODY, Reason.TRAILING_DATA),
    Case("two documents on two lines", _BODY + b"\n" + _BODY, Reason.TRAILING_DATA),
    Case("BOM", b"\xef\xbb\xbf" + _BODY, None, {"user_id": "u-1"}),
    Case("pretty-printed", json.dumps(VIEW, indent=2).encode(), None, {"tags": ["a", "b"]}),
    Case("white space around", b" \r\n" + _BODY + b"\n ", None, {"user_id": "u-1"}),
    Case("UTF-16", _BODY.decode().encode("utf-16"), Reason.NOT_UTF8),
    Case("UTF-16 without a mark", _BODY.decode().encode("utf-16-le"), Reason.INVALID_JSON),
    Case("invalid UTF-8", _BODY.replace(b"food", b"f\xffod"), Reason.NOT_UTF8),
    Case("overlong UTF-8", _BODY.replace(b"food", b"\xc0\xafod"), Reason.NOT_UTF8),
    Case("surrogate as UTF-8", _BODY.replace(b"food", b"\xed\xa0\x80d"), Reason.NOT_UTF8),
    Case("cut character", _BODY.replace(b"food", b"\xe7\xbe"), Reason.NOT_UTF8),
    Case("beyond U+10FFFF", _BODY.replace(b"food", b"\xf4\x90\x80\x80"), Reason.NOT_UTF8),
    Case("raw control character", _BODY.replace(b"food", b"fo\x01d"), Reason.INVALID_JSON),
    Case("raw line feed in a text", _BODY.replace(b"food", b"fo\nd"), Reason.INVALID_JSON),
    Case("gzip", gzip.compress(_BODY, mtime=0), Reason.NOT_UTF8),
    Case("Avro", b"\x00\x00\x00\x00\x01" + _BODY, Reason.INVALID_JSON),
    Case("over the size limit", with_fields(note="x" * 1_000_000), Reason.TOO_LARGE),
    Case("as large as allowed", with_fields(note="x" * 900_000), None, {"user_id": "u-1"}),
    Case("form feed for white space", b"\x0c" + _BODY, Reason.INVALID_JSON),
    Case("single quotes", _BODY.replace(b'"', b"'"), Reason.INVALID_JSON),
    Case("comment", _BODY[:-1] + b"/*x*/}", Reason.INVALID_JSON),
]
_STRUCTURE = [
    Case("depth 1,000", with_raw("x", "[" * 1_000 + "]" * 1_000), Reason.TOO_DEEP),
    Case("depth 100,000", with_raw("x", "[" * 100_000 + "]" * 100_000), Reason.TOO_DEEP),
    Case("depth 100,000 of objects", with_raw("x", '{"a":' * 100_000 + "1" + "}" * 100_000), Reason.TOO_DEEP),
    Case("depth 100,000, never closed", b"[" * 100_000, Reason.TOO_DEEP),
    Case("depth 10", with_raw("x", "[" * 9 + "]" * 9), None, {"user_id": "u-1"}),
    Case("depth 30", with_raw("x", "[" * 29 + "]" * 29), None, {"user_id": "u-1"}),
    Case("brackets in a text", with_fields(category="[" * 200), None, {"category": "[" * 200}),
    # Named by numbers in base 36, so that so many stay under the size limit.
    Case("100,000 keys", compact(VIEW | {np.base_repr(i, 36): 0 for i in range(100_000)}), Reason.TOO_COMPLEX),
    Case("huge array", with_raw("x", "[" + "1," * 200_000 + "1]"), Reason.TOO_COMPLEX),
    Case("200 elements", with_raw("x", "[" + "1," * 199 + "1]"), None, {"user_id": "u-1"}),
    Case("duplicate key", with_raw("event_id", '"a","event_id":"b"'), Reason.DUPLICATE_KEY),
    Case("duplicate key, written with an escape", with_raw("x", '1,"event\\u005fid":"b"'), Reason.DUPLICATE_KEY),
    Case("duplicate unknown key", with_raw("x", '1,"x":2'), Reason.DUPLICATE_KEY),
    Case("duplicate key of an unknown object", with_raw("x", '{"a":1,"a":2}'), None, {"user_id": "u-1"}),
    Case("unknown field", with_fields(brand_new={"a": [1, "\\", None]}), None, {"user_id": "u-1"}),
    Case("unknown fields by the dozen", compact(VIEW | {f"n{i}": i for i in range(12)}), None, {"user_id": "u-1"}),
    Case("unknown field that is no JSON", with_raw("x", "nul"), Reason.INVALID_JSON),
    Case("unknown field 01", with_raw("x", "01"), Reason.INVALID_JSON),
    Case("unknown field .5", with_raw("x", ".5"), Reason.INVALID_JSON),
    Case("unknown field 1.", with_raw("x", "1."), Reason.INVALID_JSON),
    Case("unknown field with a bad escape", with_raw("x", r'"\x41"'), Reason.INVALID_JSON),
    Case("unknown field 1.5e+300", with_raw("x", "-1.5e+300"), None, {"user_id": "u-1"}),
    Case("field of another topic", with_fields(amount_minor="none"), None, {"amount_minor": None}),
    Case("missing user", without("user_id"), Reason.MISSING_FIELD),
    Case("missing time", without("event_time"), Reason.MISSING_FIELD),
    Case("missing surface", without("surface"), Reason.MISSING_FIELD),
    Case("missing video_id", without("video_id"), Reason.MISSING_FIELD),
    Case("missing live_id", with_fields(surface="live"), Reason.MISSING_FIELD),
    Case("like of nothing", without("live_id", "like"), Reason.MISSING_FIELD, topic="like"),
    Case("gift with no gift", without("gift_id", "gift"), Reason.MISSING_FIELD, topic="gift"),
    Case("ad with no channel", with_fields("ad", channel=""), Reason.MISSING_FIELD, topic="ad"),
    Case("null in a required field", with_fields(user_id=None), Reason.MISSING_FIELD),
    Case("null in an optional field", with_fields(category=None, tags=None), None, {"category": None, "tags": None}),
    Case("empty optional fields", with_fields(category="", tags=[], experiments={}), None, {"category": None}),
    Case("empty optional id", with_fields("order", live_id=""), None, {"live_id": None}, "order"),
    Case("object for a scalar", with_fields(user_id={"id": 1}), Reason.WRONG_TYPE),
    Case("array for a scalar", with_fields(category=["food"]), Reason.WRONG_TYPE),
    Case("object for an array", with_fields(tags={}), Reason.WRONG_TYPE),
    Case("number in tags", with_fields(tags=["a", 1]), Reason.WRONG_TYPE),
    Case("null in tags", with_fields(tags=[None]), Reason.WRONG_TYPE),
    Case("21 tags", with_fields(tags=list("abcdefghijklmnopqrstu")), Reason.TOO_MANY_TAGS),
    Case("20 tags", with_fields(tags=["t"] * 20), None, {"tags": ["t"] * 20}),
    Case("empty tag", with_fields(tags=["", "a", ""]), None, {"tags": ["a"]}),
    Case("unknown surface", with_fields(surface="tv"), Reason.UNKNOWN_VALUE),
    Case("unknown status", with_fields("order", status="lost"), Reason.UNKNOWN_VALUE, topic="order"),
    Case("unknown action", with_fields("engage", action="click"), Reason.UNKNOWN_VALUE, topic="engage"),
    Case("v 1", with_fields(v=1), None, {"v": 1}),
    Case("v 0", with_fields(v=0), Reason.UNSUPPORTED_VERSION),
    Case("v future", with_fields(v=2), Reason.UNSUPPORTED_VERSION),
    Case("v string", with_fields(v="1"), Reason.WRONG_TYPE),
    Case("field in another case", compact({k.replace("u", "U"): v for k, v in VIEW.items()}), Reason.MISSING_FIELD),
    Case("continued", with_fields(continued=True), None, {"continued": True}),
    Case("continued as a number", with_fields(continued=1), Reason.WRONG_TYPE),
    Case("experiments", with_fields(experiments={"r": "B"}), None, {"experiments": '{"r":"B"}'}),
    Case("experiment twice", with_raw("experiments", '{"r":"A","r":"B"}'), Reason.DUPLICATE_KEY),
    Case("experiment with a number", with_fields(experiments={"r": 1}), Reason.WRONG_TYPE),
    Case("17 experiments", with_fields(experiments={f"r{i}": "A" for i in range(17)}), Reason.INVALID_EXPERIMENTS),
    Case("empty variant", with_fields(experiments={"r": ""}), Reason.INVALID_EXPERIMENTS),
    Case("experiments with white space", with_raw("experiments", '{ "r" : "B" }'), None, {"experiments": '{"r":"B"}'}),
]
_NUMBERS = [
    Case("NaN", with_raw("watch_ms", "NaN"), Reason.INVALID_JSON),
    Case("Infinity", with_raw("watch_ms", "Infinity"), Reason.INVALID_JSON),
    Case("-Infinity", with_raw("x", "-Infinity"), Reason.INVALID_JSON),
    Case("1e400", with_raw("watch_ms", "1e400"), Reason.WRONG_TYPE),
    Case("1e-400", with_raw("watch_ms", "1e-400"), Reason.WRONG_TYPE),
    Case("2^53+1 for an id", with_raw("user_id", "9007199254740993"), Reason.WRONG_TYPE),
    Case("2^63", with_raw("watch_ms", str(2**63)), Reason.OUT_OF_RANGE),
    Case("2^64", with_raw("watch_ms", str(2**64)), Reason.OUT_OF_RANGE),
    Case("40 digits", with_raw("watch_ms", "1" * 40), Reason.OUT_OF_RANGE),
    Case("5,000 digits", with_raw("watch_ms", "1" * 5_000), Reason.OUT_OF_RANGE),
    Case("5,000 digits in an unknown field", with_raw("x", "1" * 5_000), None, {"user_id": "u-1"}),
    Case("-0", with_raw("watch_ms", "-0"), None, {"watch_ms": 0}),
    Case("+1", with_raw("watch_ms", "+1"), Reason.INVALID_JSON),
    Case("007", with_raw("watch_ms", "007"), Reason.INVALID_JSON),
    Case("boolean for a number", with_fields(watch_ms=True), Reason.WRONG_TYPE),
    Case("numeric string", with_fields(watch_ms="12"), Reason.WRONG_TYPE),
    Case("1.0 for an integer", with_raw("watch_ms", "1.0"), Reason.WRONG_TYPE),
    Case("1e3 for an integer", with_raw("watch_ms", "1e3"), Reason.WRONG_TYPE),
    Case("negative money", with_fields("gift", amount_minor=-1), Reason.OUT_OF_RANGE, topic="gift"),
    Case("no money", with_fields("gift", amount_minor=0), None, {"amount_minor": 0}, "gift"),
    Case("decimals of money", with_fields("order", amount_minor=12.345), Reason.WRONG_TYPE, topic="order"),
    Case("money at the limit", with_fields("order", amount_minor=10**12), None, {"amount_minor": 10**12}, "order"),
    Case("money over the limit", with_fields("order", amount_minor=10**12 + 1), Reason.OUT_OF_RANGE, topic="order"),
    Case("zero quantity", with_fields("gift", quantity=0), Reason.OUT_OF_RANGE, topic="gift"),
    Case("negative quantity", with_fields("order", quantity=-1), Reason.OUT_OF_RANGE, topic="order"),
    Case("negative watch_ms", with_fields(watch_ms=-1), Reason.OUT_OF_RANGE),
    Case("watch_ms of a day", with_fields(watch_ms=86_400_000), None, {"watch_ms": 86_400_000}),
    Case("watch_ms over a day", with_fields(watch_ms=86_400_001), Reason.OUT_OF_RANGE),
]
_PAYLOADS = ["'; DROP TABLE events; --", "<script>alert(1)</script>", "{{7*7}} ${jndi:ldap://x}", "a|b,c\td\\e"]
_TEXT = [
    Case("lone surrogate", with_raw("category", r'"\ud800"'), Reason.INVALID_TEXT),
    Case("lone surrogate in an id", with_raw("user_id", r'"\udfff"'), Reason.INVALID_ID),
    Case("surrogate pair", with_raw("category", r'"\ud83d\ude00"'), None, {"category": "😀"}),
    Case("NUL", with_raw("category", r'"a\u0000b"'), Reason.INVALID_TEXT),
    Case("NUL in an id", with_raw("event_id", r'"a\u0000b"'), Reason.INVALID_ID),
    Case("NUL in a tag", with_raw("tags", r'["\u0000"]'), Reason.INVALID_TEXT),
    Case("escapes", with_raw("category", r'"\"\\\/\b\f\n\r\t\u4e2d"'), None, {"category": '"\\/\b\f\n\r\t中'}),
    Case("escape in a key", with_raw("x", '1,"region\\u0020":"y"'), None, {"region": None}),
    Case("known key with an escape", with_raw("x", '1,"\\u0072egion":"y"'), None, {"region": "y"}),
    Case("empty id", with_fields(event_id=""), Reason.INVALID_ID),
    Case("blank id", with_fields(user_id="  "), Reason.INVALID_ID),
    Case("blank id of another script", with_fields(user_id="\u3000\u2003"), Reason.INVALID_ID),
    Case("blank id by escapes", with_raw("user_id", r'"\t\u0020"'), Reason.INVALID_ID),
    Case("blank optional id", with_fields("order", live_id=" "), Reason.INVALID_ID, topic="order"),
    Case("10 KB id", with_fields(user_id="u" * 10_000), Reason.INVALID_ID),
    Case("64 bytes of id", with_fields(user_id="中" * 21 + "a"), None, {"user_id": "中" * 21 + "a"}),
    Case("65 bytes of id", with_fields(user_id="中" * 21 + "ab"), Reason.INVALID_ID),
    Case("NFC", with_fields(user_id="\u00e9"), None, {"user_id": "\u00e9"}),
    Case("NFD", with_fields(user_id="e\u0301"), None, {"user_id": "e\u0301"}),
    Case("bidi and zero-width", with_fields(category="\u202ea\u200b\ufeff"), None, {"category": "\u202ea\u200b\ufeff"}),
    Case("delimiter in a dimension", with_fields(region="CN|GD,x;y"), None, {"region": "CN|GD,x;y"}),
    Case("256 bytes of category", with_fields(category="c" * 256), None, {"category": "c" * 256}),
    Case("257 bytes of category", with_fields(category="c" * 257), Reason.INVALID_TEXT),
    Case("257 bytes of tag", with_fields(tags=["ok", "c" * 257]), Reason.INVALID_TEXT),
    Case("bad currency", with_fields("gift", currency="yuan"), Reason.INVALID_CURRENCY, topic="gift"),
    Case("small currency", with_fields("gift", currency="cny"), Reason.INVALID_CURRENCY, topic="gift"),
    Case("currency of digits", with_fields("gift", currency="156"), Reason.INVALID_CURRENCY, topic="gift"),
    Case("another currency", with_fields("gift", currency="USD"), None, {"currency": "USD"}, "gift"),
    *(
        Case(f"payload {payload[:12]} in {name}", with_fields(**{name: payload}), None, {name: payload})
        for payload in _PAYLOADS
        for name in ("event_id", "user_id", "video_id", "category", "region", "platform", "channel")
    ),
    *(
        Case(f"payload {payload[:12]} in tags", with_fields(tags=[payload]), None, {"tags": [payload]})
        for payload in _PAYLOADS
    ),
]
_HOUR_MS = 3_600_000


def _at(text: Any, ms: int | None, reason: Reason | None = None) -> Case:
    fields = None if ms is None else {"event_time": ms}
    return Case(f"time {text!r}", with_fields(event_time=text), reason, fields)


_TIME = [
    _at(NOW_MS + 600_000, NOW_MS + 600_000),
    _at(NOW_MS + 600_001, None, Reason.TIME_IN_FUTURE),
    _at(NOW_MS + _HOUR_MS, None, Reason.TIME_IN_FUTURE),
    _at(NOW_MS + 100 * 8_766 * _HOUR_MS, None, Reason.TIME_IN_FUTURE),
    _at(0, None, Reason.TIME_TOO_OLD),
    _at(-1, None, Reason.TIME_TOO_OLD),
    _at(TIME_MS // 1_000, None, Reason.TIME_TOO_OLD),
    _at(TIME_MS * 1_000, None, Reason.TIME_IN_FUTURE),
    _at(1_104_537_600_000, 1_104_537_600_000),
    _at(1_104_537_599_999, None, Reason.TIME_TOO_OLD),
    _at(1_779_999_960_000, 1_779_999_960_000),  # exactly on the edge of a minute
    _at(True, None, Reason.WRONG_TYPE),
    _at(1.5, None, Reason.WRONG_TYPE),
    _at(10**30, None, Reason.INVALID_TIME),
    _at("1779999960000", None, Reason.INVALID_TIME),
    _at("2026-05-01T00:00:00Z", 1_777_593_600_000),
    _at("2026-05-01T08:00:00+08:00", 1_777_593_600_000),
    _at("2026-04-30T18:15:00-05:45", 1_777_593_600_000),
    _at("2026-05-01T00:00:00-00:00", 1_777_593_600_000),
    _at("2026-05-01t00:00:00z", 1_777_593_600_000),
    _at("2026-05-01T00:00:00.5Z", 1_777_593_600_500),
    _at("2026-05-01T00:00:00.123456789Z", 1_777_593_600_123),
    _at("2026-05-01T00:00:00.000999999999999999999Z", 1_777_593_600_000),
    _at("2024-02-29T23:59:59.999Z", 1_709_251_199_999),
    _at("2026-05-01T00:00:00.Z", None, Reason.INVALID_TIME),
    _at("2026-05-01 00:00:00Z", None, Reason.INVALID_TIME),
    _at("2026-05-01T00:00:00", None, Reason.INVALID_TIME),
    _at("2026-05-01T00:00:00+0800", None, Reason.INVALID_TIME),
    _at("2026-05-01T00:00:00+24:00", None, Reason.INVALID_TIME),
    _at("2026-05-01T00:00:00+08:60", None, Reason.INVALID_TIME),
    _at("2026-05-01T24:00:00Z", None, Reason.INVALID_TIME),
    _at("2026-05-01T00:60:00Z", None, Reason.INVALID_TIME),
    _at("2016-12-31T23:59:60Z", None, Reason.INVALID_TIME),
    _at("2026-02-30T00:00:00Z", None, Reason.INVALID_TIME),
    _at("2023-02-29T00:00:00Z", None, Reason.INVALID_TIME),
    _at("2026-04-31T00:00:00Z", None, Reason.INVALID_TIME),
    _at("2026-13-01T00:00:00Z", None, Reason.INVALID_TIME),
    _at("2026-00-01T00:00:00Z", None, Reason.INVALID_TIME),
    _at("2026-05-00T00:00:00Z", None, Reason.INVALID_TIME),
    _at("2026-5-1T00:00:00Z", None, Reason.INVALID_TIME),
    _at("10000-01-01T00:00:00Z", None, Reason.INVALID_TIME),
    _at("9999-12-31T23:59:59Z", None, Reason.TIME_IN_FUTURE),
    _at("0000-01-01T00:00:00Z", None, Reason.INVALID_TIME),
    _at("0001-01-01T00:00:00Z", None, Reason.TIME_TOO_OLD),
    _at("٢026-05-01T00:00:00Z", None, Reason.INVALID_TIME),
    _at("", None, Reason.INVALID_TIME),
    Case("zone", with_fields(tz="Asia/Kathmandu"), None, {"tz": "Asia/Kathmandu"}),
    Case("zone of a link", with_fields(tz="PRC"), None, {"tz": "PRC"}),
    Case("no zone", with_fields(tz=""), None, {"tz": None}),
    Case("unknown zone", with_fields(tz="Asia/Atlantis"), Reason.UNKNOWN_ZONE),
    Case("zone in another case", with_fields(tz="asia/shanghai"), Reason.UNKNOWN_ZONE),
    Case("zone as a path", with_fields(tz="../../etc/passwd"), Reason.UNKNOWN_ZONE),
    Case("zone as an offset", with_fields(tz="+08:00"), Reason.UNKNOWN_ZONE),
]
_GOOD = [Case(f"a good {topic}", compact(event), None, event, topic) for topic, event in GOOD.items()]
CASES = [*_GOOD, *_FRAMING, *_STRUCTURE, *_NUMBERS, *_TEXT, *_TIME]
