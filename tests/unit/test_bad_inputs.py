"""Every class of bad input has its outcome, from the judge, from the decoder, alone and among 10,000 good messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.decode import Decoded, Decoder
from schemas.events import OPTIONAL, Limits
from schemas.reasons import MEANING, Reason
from schemas.validate import Valid, judge, judge_line
from tests.unit.bad_inputs import CASES, GOOD, NOW_MS, Case, compact

ALL = frozenset(OPTIONAL)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(ALL, Limits())


def _outcome(decoded: Decoded, row: int) -> tuple[str | None, dict[str, Any] | None]:
    """Reason and event of one row."""
    reasons = decoded.rejects.filter(row=row)["reason"].to_list()
    events = decoded.frame.filter(row=row).drop("row").to_dicts()
    assert len(reasons) + len(events) == 1
    return (reasons[0], None) if reasons else (None, events[0])


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_reason_has_a_meaning_and_a_case() -> None:
    assert set(MEANING) == set(Reason)
    assert {case.reason for case in CASES} | {Reason.UNKNOWN_TOPIC} == {*Reason, None}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_judge(case: Case) -> None:
    verdict = judge(case.raw, case.topic, NOW_MS, Limits())
    assert getattr(verdict, "reason", None) == case.reason, verdict
    if isinstance(verdict, Valid):
        for name, value in (case.fields or {}).items():
            assert verdict.fields.get(name) == value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decoder_alone(decoder: Decoder, case: Case) -> None:
    reason, event = _outcome(decoder.decode(case.topic, [case.raw], NOW_MS), 0)
    assert reason == case.reason
    for name, value in (case.fields or {}).items():
        assert event is not None
        assert event[name] == value


def test_decoder_among_10_000_good_messages(decoder: Decoder) -> None:
    for topic, good in GOOD.items():
        cases = [case for case in CASES if case.topic == topic]
        values: list[bytes | None] = [compact(good)] * 10_000
        places = [37 + 41 * number for number in range(len(cases))]
        for place, case in zip(places, cases, strict=True):
            values[place] = case.raw
        decoded = decoder.decode(topic, values, NOW_MS)
        bad = sum(case.reason is not None for case in cases)
        assert decoded.rejects.height == bad
        assert decoded.frame.height == 10_000 - bad
        assert decoded.frame["row"].is_sorted()
        for place, case in zip(places, cases, strict=True):
            alone = _outcome(decoder.decode(topic, [case.raw], NOW_MS), 0)
            assert _outcome(decoded, place) == alone, case.name


def test_line_of_a_file_has_the_outcome_of_its_message(decoder: Decoder) -> None:
    cases = [c for c in CASES if c.raw is not None and c.raw.startswith(b"{") and c.reason is not Reason.TOO_LARGE]
    lines = [b'{"topic":"' + case.topic.encode() + b'",' + (case.raw or b"")[1:] for case in cases]
    decoded = decoder.decode_lines(lines, NOW_MS)
    for row, case in enumerate(cases):
        if case.name in ("empty object", "single quotes"):
            continue
        reason, event = _outcome(decoded, row)
        assert reason == case.reason, case.name
        for name, value in (case.fields or {}).items():
            assert event is not None
            assert event[name] == value


@pytest.mark.parametrize(
    ("topic", "shown"),
    [
        ("vieww", "vieww"),
        ("View", "View"),
        ("", ""),
        (None, None),
        (7, None),
        (["view"], None),
        ("a\0\ud800", "a\ufffd?"),
    ],
)
def test_unknown_topic_of_a_line(decoder: Decoder, topic: object, shown: str | None) -> None:
    line = json.dumps(GOOD["view"] | {"topic": topic}).encode()
    decoded = decoder.decode_lines([line, line], NOW_MS)
    assert decoded.rejects.select("topic", "reason").rows() == [(shown, "unknown_topic")] * 2
    verdict = judge_line(line, NOW_MS, Limits())
    assert (verdict.topic, getattr(verdict, "reason", None)) == (shown, Reason.UNKNOWN_TOPIC)


def test_only_two_ids_are_short(decoder: Decoder) -> None:
    """EVENTS.md bounds event_id and user_id; a page's title may be a video."""
    view = GOOD["view"] | {"video_id": "Конгрес" * 20, "creator_id": "c" * 1_024}
    long = [view, view | {"event_id": "e" * 65}, view | {"user_id": "u" * 65}, view | {"video_id": "v" * 1_025}]
    decoded = decoder.decode("view", [compact(event) for event in long], NOW_MS)
    assert decoded.frame["row"].to_list() == [0]
    assert decoded.rejects["reason"].to_list() == ["invalid_id"] * 3


def test_line_with_no_topic_or_two(decoder: Decoder) -> None:
    two = b'{"topic":"view","topic":"like",' + compact(GOOD["like"])[1:]
    decoded = decoder.decode_lines([compact(GOOD["view"]), two], NOW_MS)
    assert decoded.rejects["reason"].to_list() == ["unknown_topic", "duplicate_key"]


def test_unknown_topic_of_kafka(decoder: Decoder) -> None:
    decoded = decoder.decode("vews", [compact(GOOD["view"])], NOW_MS)
    assert decoded.rejects["reason"].to_list() == ["unknown_topic"]


def test_message_may_say_another_topic(decoder: Decoder) -> None:
    assert decoder.decode("view", [compact(GOOD["view"] | {"topic": "like"})], NOW_MS).frame["kind"].to_list() == [0]


def test_details_are_short_and_storable(decoder: Decoder) -> None:
    for case in CASES:
        decoded = decoder.decode(case.topic, [case.raw], NOW_MS)
        for detail in decoded.rejects["detail"]:
            assert 0 < len(detail) < 200
            assert "\0" not in detail
