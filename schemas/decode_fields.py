"""The event contract field by field: kinds, bounds, and which topic has which. Shared by both ways of decoding."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import IntEnum
from importlib import resources
from typing import Final

from schemas import events
from schemas.events import Limits

MAX_DEPTH: Final = 32
"""Nesting of a message."""
MAX_ITEMS: Final = 1_000
"""Commas and colons of a message outside its strings: what bounds its keys and array elements."""
MAX_EXPERIMENTS: Final = 16


class Kind(IntEnum):
    """What the value of a field must be."""

    ID = 0  # 1 to `most_id_bytes` bytes, not blank
    TEXT = 1  # up to max_text_bytes bytes
    ZONE = 2  # an IANA zone name
    CURRENCY = 3  # [A-Z]{3}
    CHOICE = 4  # one of a topic's list
    INT = 5  # within the field's bounds
    VERSION = 6  # 1
    BOOL = 7
    TIME = 8  # event_time
    TAGS = 9  # array of texts
    EXPERIMENTS = 10  # object of texts
    TOPIC = 11  # in files only


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the contract; `bound` names the limit that an integer must not pass, `low` is its least value."""

    name: str
    kind: Kind
    bound: str = ""
    low: int = 0


FIELDS: Final = (
    Field("topic", Kind.TOPIC),
    Field("v", Kind.VERSION),
    Field("event_id", Kind.ID),
    Field("event_time", Kind.TIME),
    Field("user_id", Kind.ID),
    Field("region", Kind.TEXT),
    Field("tz", Kind.ZONE),
    Field("platform", Kind.TEXT),
    Field("channel", Kind.TEXT),
    Field("experiments", Kind.EXPERIMENTS),
    Field("surface", Kind.CHOICE),
    Field("status", Kind.CHOICE),
    Field("action", Kind.CHOICE),
    Field("video_id", Kind.ID),
    Field("live_id", Kind.ID),
    Field("creator_id", Kind.ID),
    Field("category", Kind.TEXT),
    Field("tags", Kind.TAGS),
    Field("duration_ms", Kind.INT, "max_count"),
    Field("watch_ms", Kind.INT, "max_watch_ms"),
    Field("continued", Kind.BOOL),
    Field("from_video_id", Kind.ID),
    Field("gift_id", Kind.ID),
    Field("order_id", Kind.ID),
    Field("product_id", Kind.ID),
    Field("ad_id", Kind.ID),
    Field("campaign_id", Kind.ID),
    Field("quantity", Kind.INT, "max_count", low=1),
    Field("amount_minor", Kind.INT, "max_amount_minor"),
    Field("cost_minor", Kind.INT, "max_amount_minor"),
    Field("value_minor", Kind.INT, "max_amount_minor"),
    Field("currency", Kind.CURRENCY),
)
"""All fields, in the order in which faults are looked for. A field's code is its index."""

CODE: Final[dict[str, int]] = {field.name: code for code, field in enumerate(FIELDS)}

_COMMON_REQUIRED = ("event_id", "event_time", "user_id")
_COMMON_OPTIONAL = ("v", "region", "tz", "platform", "channel", "experiments")

_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "view": ("surface", "creator_id", "watch_ms"),
    "like": ("creator_id",),
    "gift": ("live_id", "creator_id", "gift_id", "quantity", "amount_minor"),
    "order": ("order_id", "status", "product_id", "quantity", "amount_minor"),
    "engage": ("action",),
    "ad": ("action", "ad_id", "campaign_id", "channel"),
}
_OPTIONAL: Final[dict[str, tuple[str, ...]]] = {
    "view": ("video_id", "live_id", "category", "tags", "duration_ms", "continued", "from_video_id"),
    "like": ("video_id", "live_id", "category", "tags"),
    "gift": ("currency",),
    "order": ("creator_id", "live_id", "video_id", "category", "currency"),
    "engage": ("video_id", "live_id", "creator_id", "product_id", "category", "tags"),
    "ad": ("cost_minor", "value_minor", "currency"),
}
REQUIRED: Final = {topic: frozenset(_COMMON_REQUIRED + names) for topic, names in _REQUIRED.items()}
ALLOWED: Final = {
    topic: REQUIRED[topic] | frozenset(_COMMON_OPTIONAL + names) | {"topic"} for topic, names in _OPTIONAL.items()
}
"""Fields that a topic has; any other is an unknown field of it, and ignored."""

CHOICES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "view": {"surface": ("video", "live")},
    "like": {},
    "gift": {},
    "order": {"status": events.ORDER_STATUSES},
    "engage": {"action": events.ENGAGE_ACTIONS},
    "ad": {"action": events.AD_ACTIONS},
}


def high(field: Field, limits: Limits) -> int:
    """The greatest value of an integer field."""
    return 1 if field.kind is Kind.VERSION else int(getattr(limits, field.bound))


def most_id_bytes(name: str, limits: Limits) -> int:
    """The most bytes of an id. EVENTS.md bounds two of them; the others only have to be no flood."""
    return limits.max_id_bytes if name in ("event_id", "user_id") else limits.max_other_id_bytes


@functools.cache
def zone_names() -> frozenset[str]:
    """Names of the IANA database, from the `tzdata` package and not from the machine, so that all machines agree."""
    text = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8")
    return frozenset(text.split()) - {"Factory"}  # a placeholder, unknown to Polars
