"""The contract as one array for compiled code, and the arrays that compiled code fills.

Compiled code is given few flat arrays: each array in a tuple, and each slice of one, would cost counted references at
every call. A text is a *span*: index of its first byte << SPAN_BITS | number of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.decode_fields import ALLOWED, CHOICES, CODE, FIELDS, MAX_EXPERIMENTS, REQUIRED, Kind, high, most_id_bytes
from schemas.events import TOPICS, Limits

Int64s = npt.NDArray[np.int64]
Table = npt.NDArray[np.int64]

SPAN_BITS: Final = 20
SPAN_MASK: Final = (1 << SPAN_BITS) - 1
MAX_UNKNOWN: Final = 8
"""Unknown keys of a message that compiled code takes."""

_PER_TOPIC: Final = [[choice for choices in CHOICES[topic].values() for choice in choices] for topic in TOPICS]
_CHOICES: Final = [choice for choices in _PER_TOPIC for choice in choices]
_NAMES: Final = (*(field.name for field in FIELDS), *TOPICS, *_CHOICES)
# Lines of the rules: a line a field, then a line a topic, a line a choice, and one for the limits
FIRST_TOPIC: Final = len(FIELDS)
TOPIC_COUNT: Final = len(TOPICS)
FIRST_CHOICE: Final = FIRST_TOPIC + TOPIC_COUNT
LIMITS: Final = FIRST_CHOICE + len(_CHOICES)
# Columns of the lines of fields, topics and choices: the name as two words, the masks of its bytes, and how long it is;
# then, of a field or a topic, the field that came behind it last time (behind a topic: the first of all)
HEAD, TAIL, HEAD_MASK, TAIL_MASK, SIZE, NEXT = range(6)
KIND, LOW, HIGH, SLOT = range(6, 10)  # of a field; slot: the line of `columns` that keeps it, or −1
ALLOWED_MASK, REQUIRED_MASK, CHOICES_FROM, CHOICES_TO = range(6, 10)  # of a topic: masks of fields, lines of choices
MAX_MESSAGE_BYTES, MAX_TEXT_BYTES, MAX_TAGS, MIN_EVENT_TIME = range(4)  # of the limits
_WIDTH: Final = 10

# Lines of `Found.columns`, the wanted columns behind them
TAKEN, PRESENT, EVENT_TIME, TAG_FIRST, TAG_COUNT = range(5)
FIRST_SLOT: Final = 5
# Places of `Found.notes`: the choice last read, names seen in the object being read, end of the tags, the tags
CHOICE_PLACE, NAMES_PLACE = 0, 1
TAGS_END: Final = NAMES_PLACE + MAX_UNKNOWN + MAX_EXPERIMENTS
TAGS_PLACE: Final = TAGS_END + 1


@dataclass(frozen=True, slots=True)
class Found:
    """What compiled code finds in n messages.

    `columns` (lines, n): TAKEN (1: proved to be valid; 0: for the judge), PRESENT (bit mask of the fields that are
    there), EVENT_TIME (epoch ms), TAG_FIRST (place in `notes`), TAG_COUNT, and the wanted columns from FIRST_SLOT on:
    spans of texts, integers, booleans as 0 or 1. `notes`: scratch, and the spans of all tags, message after message.
    """

    columns: Table
    notes: Int64s


def build_rules(limits: Limits, slots: dict[str, int]) -> Table:
    """The contract under `limits` and the lines of the wanted columns, as the lines and columns above."""
    rules = np.zeros((LIMITS + 1, _WIDTH), dtype=np.int64)
    for line, name in enumerate(_NAMES):
        assert len(name) <= 16, f"{name} does not fit into two words"
        head, tail = np.frombuffer(name.encode().ljust(16, b"\0"), dtype="<i8")
        head_mask, tail_mask = np.frombuffer((b"\xff" * len(name)).ljust(16, b"\0"), dtype="<i8")
        rules[line, : NEXT + 1] = head, tail, head_mask, tail_mask, len(name), 0
    for code, field in enumerate(FIELDS):
        rules[code, KIND] = field.kind
        rules[code, SLOT] = slots.get(field.name, -1)
        if field.kind in (Kind.INT, Kind.VERSION):
            rules[code, LOW] = 1 if field.kind is Kind.VERSION else field.low
            rules[code, HIGH] = high(field, limits)
        if field.kind is Kind.ID:
            rules[code, HIGH] = most_id_bytes(field.name, limits)
    from_choice = FIRST_CHOICE
    for line, (topic, choices) in enumerate(zip(TOPICS, _PER_TOPIC, strict=True), start=FIRST_TOPIC):
        allowed, required = _mask(ALLOWED[topic] - {"topic"}), _mask(REQUIRED[topic])
        rules[line, ALLOWED_MASK:] = allowed, required, from_choice, from_choice + len(choices)
        from_choice += len(choices)
    max_message_bytes = min(limits.max_message_bytes, SPAN_MASK)
    max_text_bytes = min(limits.max_text_bytes, SPAN_MASK)
    bounds = max_message_bytes, max_text_bytes, limits.max_tags, limits.min_event_time
    rules[LIMITS, : len(bounds)] = bounds
    return rules


def empty_found(n: int, slot_count: int, max_tags: int) -> Found:
    """Room for n messages."""
    columns = np.empty((FIRST_SLOT + slot_count, n), dtype=np.int64)
    columns[:FIRST_SLOT] = 0
    notes = np.empty(TAGS_PLACE + n * max_tags, dtype=np.int64)  # memory is touched only where tags are
    notes[TAGS_END] = TAGS_PLACE
    return Found(columns, notes)


def _mask(names: frozenset[str]) -> int:
    return sum(1 << CODE[name] for name in names)
