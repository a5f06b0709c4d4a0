"""Messages to columns, tens of thousands at a time.

`Decoder` reads a batch in compiled code (`decode_scan`), sends what that could not prove valid to the exact judge
(`validate`), one by one, and puts the good ones among them at their places. The outcome of a message is the judge's,
alone or in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from schemas import hashing
from schemas.decode_columns import (
    Mask,
    boolean_array,
    count_different,
    frame_of,
    list_array,
    number_array,
    text_array,
    text_columns,
)
from schemas.decode_compile import Bytes
from schemas.decode_fields import CODE, FIELDS, Kind, zone_names
from schemas.decode_rules import (
    EVENT_TIME,
    FIRST_SLOT,
    PRESENT,
    SPAN_BITS,
    TAG_COUNT,
    TAG_FIRST,
    TAGS_END,
    TAKEN,
    Found,
    Int64s,
    build_rules,
    empty_found,
)
from schemas.decode_scan import scan, scan_topics
from schemas.decode_text import PADDING, Texts
from schemas.events import KIND, OPTIONAL, TOPICS, Limits, frame_schema
from schemas.validate import Reject, Valid, judge, judge_line

REJECT_SCHEMA: Final = {"row": pl.UInt32(), "topic": pl.String(), "reason": pl.String(), "detail": pl.String()}
_NUMBERS: Final = frozenset(field.name for field in FIELDS if field.kind in (Kind.INT, Kind.VERSION))
_BOOLEANS: Final = frozenset(field.name for field in FIELDS if field.kind is Kind.BOOL)
_NO_TEXTS: Final = _NUMBERS | _BOOLEANS | {"tags"}
_OF_SOURCE: Final = frozenset({"partition", "offset", "ingest_time"})
_ALWAYS_READ: Final = ("event_id", "user_id", "tz")  # hashed, hashed, checked
_FIRST_LINE: Final = (
    b'{"topic":"like","event_id":"-","event_time":%d,"user_id":"-","live_id":"-","creator_id":"-","tags":["-"]}'
)
_NO_BYTES: Final = np.frombuffer(PADDING, dtype=np.uint8)
_NAMES: Final = tuple(TOPICS)
_HASHES: Final = (hashing.hash64_expr("user_id"), hashing.hash64_expr("event_id"))
_NO_REJECTS: Final = pl.DataFrame(schema=REJECT_SCHEMA)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded batch. `row` is a message's index in it (UInt32); rows are in the order of the batch.

    `frame`: valid events: `row` and the columns of `frame_schema(wanted)` without partition, offset and ingest_time.
    `rejects`: row, topic (null: not known), reason (a `Reason`), detail.
    `key_mismatches`: valid events whose message key is there and is not their user_id.
    """

    frame: pl.DataFrame
    rejects: pl.DataFrame
    key_mismatches: int


class Decoder:
    """Decodes batches into frames with `wanted` optional columns. For one thread at a time."""

    def __init__(self, wanted: frozenset[str], limits: Limits) -> None:
        """Also compiles the reader, once a machine: some seconds the first time, then some milliseconds."""
        self._limits = limits
        self._schema = {name: kind for name, kind in frame_schema(wanted).items() if name not in _OF_SOURCE}
        kept = [name for name in OPTIONAL if name in wanted or name in _ALWAYS_READ]
        self._slots = {name: slot for slot, name in enumerate(kept, start=FIRST_SLOT) if name != "tags"}
        self._slot_count = len(kept)
        plain = wanted & OPTIONAL.keys() - {"user_id", "event_id"}
        self._names = ("user_id", "event_id", *(name for name in self._schema if name in plain))
        texts = {name: (self._slots[name], CODE[name]) for name in self._names if name not in _NO_TEXTS}
        # Those that are only hashed are written apart: they do not keep the others in memory, nor these them.
        self._hashed_texts = {name: place for name, place in texts.items() if name not in self._schema}
        self._kept_texts = {name: place for name, place in texts.items() if name in self._schema}
        self._rules = build_rules(limits, self._slots)
        self._nulls = {name: pl.lit(None, dtype=OPTIONAL[name]).alias(name) for name in OPTIONAL}
        self._zones = zone_names()
        self.decode_lines([_FIRST_LINE % limits.min_event_time], limits.min_event_time)

    def decode(
        self,
        topic: str,
        values: Sequence[bytes | None],
        record_ms: Int64s | int,
        keys: Sequence[bytes | None] | None = None,
    ) -> Decoded:
        """Decode messages of one Kafka topic, known or not. See `decode_batch`."""
        topics = np.full(len(values), KIND.get(topic, -1), dtype=np.int64)

        def verdict(raw: bytes | None, _: int, now: int) -> Valid | Reject:
            return judge(raw, topic, now, self._limits)

        return self._decode(Texts.of(values), topics, record_ms, verdict, None if keys is None else Texts.of(keys))

    def decode_batch(self, values: Texts, kinds: Int64s, record_ms: Int64s, keys: Texts) -> Decoded:
        """Decode n messages of known topics (`kinds`: `schemas.events.KIND` of each).

        `record_ms`: epoch ms by which the future of each is judged.
        """

        def verdict(raw: bytes | None, row: int, now: int) -> Valid | Reject:
            return judge(raw, _NAMES[kinds[row]], now, self._limits)

        return self._decode(values, kinds.copy(), record_ms, verdict, keys)

    def decode_lines(self, lines: Sequence[bytes], now_ms: int) -> Decoded:
        """Decode lines of a file, each of which names its topic. A reject's `topic` is null if it does not."""

        def verdict(raw: bytes | None, _: int, now: int) -> Valid | Reject:
            return judge_line(raw or b"", now, self._limits)

        return self._decode(Texts.of(lines), None, now_ms, verdict, None)

    def _decode(
        self,
        values: Texts,
        topics: Int64s | None,
        record_ms: Int64s | int,
        verdict: Callable[[bytes | None, int, int], Valid | Reject],
        keys: Texts | None,
    ) -> Decoded:
        text, starts, ends = values.text, values.starts, values.ends
        if topics is None:
            topics = np.empty(len(values), dtype=np.int64)
            scan_topics(text, starts, ends, self._rules, topics)
        found = empty_found(len(values), self._slot_count, self._limits.max_tags)
        scan(text, starts, ends, topics, self._rules, found.columns, found.notes)
        columns = found.columns
        self._untake_unknown_zones(text, found)
        columns[TAKEN, columns[EVENT_TIME] > record_ms + self._limits.max_future_ms] = 0
        patch = _Patch(found, self._slots, len(text))
        rejects: list[tuple[int, str | None, str, str]] = []
        for row in np.flatnonzero(columns[TAKEN] == 0).tolist():
            now = record_ms if isinstance(record_ms, int) else int(record_ms[row])
            outcome = verdict(values[row], row, now)
            if isinstance(outcome, Valid):
                topics[row] = KIND[outcome.topic]
                patch.put(row, outcome.fields)
            else:
                rejects.append((row, outcome.topic, outcome.reason.value, outcome.detail))
        frame, mismatches = self._frame(text, topics, patch, keys)
        rejected = pl.DataFrame(rejects, schema=REJECT_SCHEMA, orient="row") if rejects else _NO_REJECTS
        return Decoded(frame, rejected, mismatches)

    def _untake_unknown_zones(self, text: Bytes, found: Found) -> None:
        """Leave events to the judge whose zone is not one."""
        columns = found.columns
        rows = np.flatnonzero((columns[TAKEN] != 0) & _has(columns[PRESENT], "tz"))
        if len(rows) == 0:
            return
        spans = columns[self._slots["tz"], rows]
        zones = frame_of({"tz": text_array(text, _NO_BYTES, spans)})["tz"]
        unknown = [zone for zone in zones.unique().to_list() if zone not in self._zones]
        if unknown:
            columns[TAKEN, rows[zones.is_in(unknown).to_numpy()]] = 0

    def _frame(self, text: Bytes, topics: Int64s, patch: _Patch, keys: Texts | None) -> tuple[pl.DataFrame, int]:
        """The frame of the rows taken, and how many keys are not the user's."""
        extra, notes = patch.extra(), patch.notes()
        found = patch.found.columns
        rows = np.flatnonzero(found[TAKEN])
        everything = len(rows) == len(topics)

        def picked(line: Int64s) -> Int64s:
            return line if everything else line[rows]

        def kept(line: Int64s) -> Int64s:
            """A copy: a line of what was found would keep all lines in memory."""
            return line.copy() if everything else line[rows]

        present = picked(found[PRESENT])

        def array(name: str) -> pa.Array | None:
            is_there = _has(present, name)
            if not is_there.any():
                return None
            if name == "tags":
                return list_array(text, extra, notes, picked(found[TAG_FIRST]), picked(found[TAG_COUNT]))
            values = found[self._slots[name]]
            return number_array(kept(values), is_there) if name in _NUMBERS else boolean_array(picked(values), is_there)

        given = {name: array(name) for name in self._names if name in _NO_TEXTS}
        for texts in (self._hashed_texts, self._kept_texts):
            given |= text_columns(text, extra, found, rows, texts)
        frame = frame_of(
            {
                "row": number_array(rows.astype(np.uint32)),
                "kind": number_array(picked(topics).astype(np.uint8)),
                "event_time": number_array(kept(found[EVENT_TIME])),
                **{name: column for name, column in given.items() if column is not None},
            }
        )
        # A column that is null throughout takes no memory: views of one partition have a third of all fields.
        if nulls := [self._nulls[name] for name in self._names if given.get(name) is None]:
            frame = frame.with_columns(nulls)
        frame = _hashed(frame)[["row", *self._schema]]
        assert dict(frame.schema) == {"row": pl.UInt32(), **self._schema}
        if keys is None:
            return frame, 0
        users = found[self._slots["user_id"]]
        return frame, count_different(text, extra, users, rows, keys.text, keys.starts, keys.ends, keys.present)


class _Patch:
    """Events that the judge found good, put among those that compiled code found."""

    def __init__(self, found: Found, slots: dict[str, int], text_bytes: int) -> None:
        self.found = found
        self._slots = slots
        self._text_bytes = text_bytes
        self._extra = bytearray()
        self._tags: list[int] = []

    def put(self, row: int, fields: dict[str, Any]) -> None:
        """Write the fields of one event."""
        columns = self.found.columns
        columns[TAKEN, row] = 1
        columns[PRESENT, row] = sum(1 << CODE[name] for name in fields)
        columns[EVENT_TIME, row] = fields["event_time"]
        tags = fields.get("tags", [])
        columns[TAG_FIRST, row] = int(self.found.notes[TAGS_END]) + len(self._tags)
        columns[TAG_COUNT, row] = len(tags)
        self._tags.extend(self._span(tag) for tag in tags)
        for name, value in fields.items():
            slot = self._slots.get(name)
            if slot is not None:
                columns[slot, row] = self._span(value) if isinstance(value, str) else int(value)

    def _span(self, value: str) -> int:
        encoded = value.encode()
        first = self._text_bytes + len(self._extra)
        self._extra += encoded
        return first << SPAN_BITS | len(encoded)

    def extra(self) -> Bytes:
        """The texts of these events, which spans behind the batch's bytes mean."""
        return np.frombuffer(bytes(self._extra) + PADDING, dtype=np.uint8)

    def notes(self) -> Int64s:
        """What `Found.notes` is up to the end of the tags, and the spans of these events' tags."""
        notes = self.found.notes
        return np.concatenate((notes[: notes[TAGS_END]], np.array(self._tags, dtype=np.int64)))


def _hashed(frame: pl.DataFrame) -> pl.DataFrame:
    """With user_hash and id_hash, of user_id and event_id."""
    hashes = frame.select(_HASHES)
    users, events = hashes["user_id"].to_numpy(), hashes["event_id"].to_numpy()
    ids = hashing.id_hash(users, events)
    return frame.hstack([pl.Series("user_hash", users), pl.Series("id_hash", ids)])


def _has(present: Int64s, name: str) -> Mask:
    is_there: Mask = (present & (1 << CODE[name])) != 0
    return is_there
