"""The contract of topic `labels`: names of opaque ids. Key `kind/id`, value `{"name": …}`; no value takes a name away.

The topic is compacted, so its whole is what holds. It is no topic of events: nothing of it is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.events import Limits
from schemas.reasons import Reason
from schemas.validate import Reject, text_field

TOPIC: Final = "labels"
"""Its name in `dead_letters`, whatever the broker calls it."""
KINDS: Final = ("live", "creator", "product", "video", "category", "campaign", "ad", "gift")
"""What an id may be of."""
_DAMAGED_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Label:
    """A name of an id; an empty one: it has none any more."""

    kind: str
    id: str
    name: str


def judge_label(key: bytes | None, value: bytes | None, limits: Limits) -> Label | Reject:
    """Judge one message: its key first, then its value."""
    found = _named(key or b"", limits)
    if isinstance(found, Reject) or value is None:
        return found
    name = text_field(value, "name", limits)
    if isinstance(name, Reject):
        return Reject(name.reason, f"{found.kind}/{found.id}: {name.detail}", TOPIC)
    return Label(found.kind, found.id, name)


def _named(key: bytes, limits: Limits) -> Label | Reject:
    """What a key is of, without a name."""
    try:
        kind, slash, id_ = key.decode().partition("/")
    except UnicodeDecodeError:
        return Reject(Reason.NOT_UTF8, f"the key {key[:_DAMAGED_BYTES]!r} is not UTF-8", TOPIC)
    if not slash:
        return Reject(Reason.INVALID_ID, "the key must be kind/id, such as live/l1", TOPIC)
    if kind not in KINDS:
        return Reject(Reason.UNKNOWN_VALUE, f"kind {kind[:_DAMAGED_BYTES]!r} is not one of {', '.join(KINDS)}", TOPIC)
    if not id_.strip() or "\0" in id_ or len(id_.encode()) > limits.max_other_id_bytes:
        return Reject(Reason.INVALID_ID, f"an id has 1 to {limits.max_other_id_bytes} bytes, none of them NUL", TOPIC)
    return Label(kind, id_, "")
