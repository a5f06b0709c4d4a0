"""Messages of topic `labels`: what is a name, what takes one away, what is neither and why."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Limits
from schemas.label_messages import KINDS, TOPIC, Label, judge_label
from schemas.reasons import Reason
from schemas.validate import Reject

LIMITS = Limits()
GOOD = b'{"name":"x"}'
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: bool(text.strip()) and len(text.encode()) <= 64
)


@given(st.sampled_from(KINDS), IDS, IDS)
def test_a_name_comes_through_whatever_the_id(kind: str, id_: str, name: str) -> None:
    key = f"{kind}/{id_}".encode()
    assert judge_label(key, json.dumps({"name": name, "more": 1}).encode(), LIMITS) == Label(kind, id_, name.strip())
    assert judge_label(key, None, LIMITS) == Label(kind, id_, "")


@given(st.none() | st.binary(max_size=80), st.none() | st.binary(max_size=80))
def test_rubbish_is_told_and_never_raises(key: bytes | None, value: bytes | None) -> None:
    judged = judge_label(key, value, LIMITS)
    assert isinstance(judged, Label) or (judged.topic == TOPIC and judged.detail)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, GOOD, Reason.INVALID_ID),
        (b"l1", GOOD, Reason.INVALID_ID),
        (b"live/", None, Reason.INVALID_ID),
        (b"live/" + b"x" * 1_025, GOOD, Reason.INVALID_ID),
        (b"room/l1", GOOD, Reason.UNKNOWN_VALUE),
        (b"live/\xff", GOOD, Reason.NOT_UTF8),
        (b"live/l1", b"", Reason.EMPTY),
        (b"live/l1", b"name", Reason.INVALID_JSON),
        (b"live/l1", b'["x"]', Reason.NOT_AN_OBJECT),
        (b"live/l1", b"{}", Reason.MISSING_FIELD),
        (b"live/l1", b'{"name":" "}', Reason.MISSING_FIELD),
        (b"live/l1", b'{"name":7}', Reason.WRONG_TYPE),
        (b"live/l1", b'{"name":"\\u0000"}', Reason.INVALID_TEXT),
        (b"live/l1", b'{"name":"%s"}' % (b"x" * 257), Reason.INVALID_TEXT),
        (b"live/l1", b'{"name":"a","name":"b"}', Reason.DUPLICATE_KEY),
    ],
)
def test_each_fault_has_its_stable_reason(key: bytes | None, value: bytes | None, reason: Reason) -> None:
    judged = judge_label(key, value, LIMITS)
    assert isinstance(judged, Reject)
    assert judged.reason == reason
