"""The columnar decoder gives what the judge gives, message by message, whatever the batch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.decode import Decoded, Decoder
from schemas.decode_fields import FIELDS
from schemas.events import KIND, OPTIONAL, TOPICS, Limits
from schemas.hashing import hash64, id_hash
from schemas.validate import Valid, judge, judge_line
from tests.unit.bad_inputs import CASES, GOOD, NOW_MS

ALL = frozenset(OPTIONAL)
DECODER = Decoder(ALL, Limits())

texts = st.text(max_size=20) | st.sampled_from(
    [
        "",
        " ",
        "\u3000",
        "food",
        "美食",
        "é",
        "😀",
        "Asia/Shanghai",
        "UTC",
        "CNY",
        "a" * 64,
        "a" * 65,
        "a" * 1_025,
        "中" * 85,
        "a\u0000",
    ]
)
numbers = st.integers(-5, 10**16) | st.sampled_from([0, 1, NOW_MS, NOW_MS + 10**6, 2**63, 10**40, 1.5, float("nan")])
times = st.datetimes().map(lambda when: when.isoformat() + "Z") | st.sampled_from(
    ["2026-01-02T03:04:05.678+05:45", "2026-02-29T00:00:00Z", "2024-02-29T00:00:00.1-23:59", NOW_MS]
)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=6
)
plausible: dict[str, st.SearchStrategy[Any]] = {
    "event_time": times,
    "tags": st.lists(texts, max_size=22),
    "experiments": st.dictionaries(texts, texts, max_size=18),
    "tz": st.sampled_from(["UTC", "America/New_York", "Nowhere", ""]),
    "currency": st.sampled_from(["CNY", "usd", "US", ""]),
    "continued": st.booleans(),
    "v": st.sampled_from([0, 1, 2, None]),
}


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes]:
    """A topic and a message: a good event, some fields changed, in any order and spelling, perhaps a byte off."""
    topic = draw(st.sampled_from(TOPICS))
    event = dict(GOOD[topic])
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([field.name for field in FIELDS]) | texts)
        event[name] = draw(plausible.get(name, scalars) | values)
    for name in draw(st.lists(st.sampled_from(sorted(event)), max_size=1)):
        del event[name]
    pairs = draw(st.permutations(list(event.items())) | st.just(list(event.items())))
    if draw(st.integers(0, 9)) == 0:
        pairs = [*pairs, draw(st.sampled_from(pairs))] if pairs else pairs
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")]))
    ascii_only = draw(st.booleans())
    spelled = [
        colon.join(json.dumps(part, ensure_ascii=ascii_only, separators=(",", ":")) for part in pair) for pair in pairs
    ]
    raw = ("{" + comma.join(spelled) + "}").encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(raw)))
        junk = draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b",", b"{", b"}", b"0", b"-", b".", b"e", b"\n"])
        )
        raw = raw[:at] + junk + raw[at + draw(st.integers(0, 2)) :]
    return topic, raw


def _expected(outcomes: list[Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Frame and rejects that the judge's outcomes make."""
    good = [(row, outcome) for row, outcome in enumerate(outcomes) if isinstance(outcome, Valid)]
    users = hash64(pl.Series([o.fields["user_id"] for _, o in good], dtype=pl.String)).to_numpy()
    events = hash64(pl.Series([o.fields["event_id"] for _, o in good], dtype=pl.String)).to_numpy()
    frame = {
        "row": pl.Series([row for row, _ in good], dtype=pl.UInt32),
        "kind": pl.Series([KIND[o.topic] for _, o in good], dtype=pl.UInt8),
        "event_time": pl.Series([o.fields["event_time"] for _, o in good], dtype=pl.Int64),
        "user_hash": pl.Series(users, dtype=pl.UInt64),
        "id_hash": pl.Series(id_hash(users, events), dtype=pl.UInt64),
    } | {name: pl.Series([o.fields.get(name) for _, o in good], dtype=kind) for name, kind in OPTIONAL.items()}
    rejects = [(row, o.topic, str(o.reason), o.detail) for row, o in enumerate(outcomes) if not isinstance(o, Valid)]
    schema = {"row": pl.UInt32, "topic": pl.String, "reason": pl.String, "detail": pl.String}
    return pl.DataFrame(frame), pl.DataFrame(rejects, schema=schema, orient="row")


def _assert_is(decoded: Decoded, outcomes: list[Any]) -> None:
    frame, rejects = _expected(outcomes)
    assert decoded.frame.equals(frame)
    assert decoded.frame.schema == frame.schema
    assert decoded.rejects.equals(rejects)


@given(st.lists(messages(), max_size=12))
def test_decode_is_the_judge(batch: list[tuple[str, bytes]]) -> None:
    for topic in {topic for topic, _ in batch}:
        raws = [raw for name, raw in batch if name == topic]
        _assert_is(DECODER.decode(topic, raws, NOW_MS), [judge(raw, topic, NOW_MS, Limits()) for raw in raws])


@given(st.lists(messages(), max_size=12), st.booleans())
def test_decode_lines_is_the_judge(batch: list[tuple[str, bytes]], last: bool) -> None:
    lines = []
    for topic, raw in batch:
        named = f'"topic":"{topic}"'.encode()
        lines.append(raw[:-1] + b"," + named + b"}" if last else raw[:1] + named + b"," + raw[1:])
    _assert_is(DECODER.decode_lines(lines, NOW_MS), [judge_line(line, NOW_MS, Limits()) for line in lines])


@given(st.lists(messages(), min_size=1, max_size=12), st.integers(1, 12))
@example([("view", case.raw or b"") for case in CASES[:200] if case.topic == "view"], 7)
def test_batches_do_not_matter(batch: list[tuple[str, bytes]], size: int) -> None:
    raws = [raw for _, raw in batch]
    whole = DECODER.decode("view", raws, NOW_MS)
    parts = [(at, DECODER.decode("view", raws[at : at + size], NOW_MS)) for at in range(0, len(raws), size)]
    row = pl.col("row")
    frames = [part.frame.with_columns((row + at).cast(pl.UInt32)) for at, part in parts]
    rejects = [part.rejects.with_columns((row + at).cast(pl.UInt32)) for at, part in parts]
    assert pl.concat(frames).equals(whole.frame)
    assert pl.concat(rejects).equals(whole.rejects)


@given(st.lists(messages(), max_size=8), st.sets(st.sampled_from(sorted(OPTIONAL))))
def test_wanted_columns_do_not_matter(batch: list[tuple[str, bytes]], wanted: set[str]) -> None:
    raws = [raw for _, raw in batch]
    narrow, wide = (
        Decoder(frozenset(wanted), Limits()).decode("like", raws, NOW_MS),
        DECODER.decode("like", raws, NOW_MS),
    )
    assert narrow.frame.equals(wide.frame.select(narrow.frame.columns))
    assert set(narrow.frame.columns) == {"row", "kind", "event_time", "user_hash", "id_hash"} | wanted
    assert narrow.rejects.equals(wide.rejects)


@given(st.lists(st.integers(-10, 10), max_size=8))
def test_own_record_times(offsets: list[int]) -> None:
    limits = Limits()
    record_ms = NOW_MS + np.array(offsets, dtype=np.int64)
    event = GOOD["view"] | {"event_time": NOW_MS + limits.max_future_ms}
    raws = [json.dumps(event).encode()] * len(offsets)
    outcomes = [judge(raw, "view", int(ms), limits) for raw, ms in zip(raws, record_ms, strict=True)]
    _assert_is(DECODER.decode("view", raws, record_ms), outcomes)


@pytest.mark.parametrize("topic", TOPICS)
def test_judge_agrees_with_itself_on_lines(topic: str) -> None:
    raw = json.dumps(GOOD[topic]).encode()
    named = judge_line(raw[:-1] + f', "topic": "{topic}"}}'.encode(), NOW_MS, Limits())
    assert named == judge(raw, topic, NOW_MS, Limits())
