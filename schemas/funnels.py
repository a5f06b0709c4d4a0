"""What a funnel is: steps, windows, a held field, units, exclusions. A declaration; the kernel derives the rest.

A chain of a funnel: the latest step 1 of a user before a step 2, that step 2 (the first one of the user with its value
of the held field), and what follows with the same value. A user declares another by building another `Funnel`
(or in TOML, `schemas.declarations`); no kernel changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from schemas.events import AD_ACTIONS, ENGAGE_ACTIONS, KIND, OPTIONAL, ORDER_STATUSES, TOPICS

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
BUCKET_MS: Final = HOUR_MS
"""A unit counts in the UTC hour of its chain's step 1."""

MAX_STEPS: Final = 8
_MAX_WINDOWS_MS: Final = 20 * DAY_MS  # time from the bucket's start to a step has to fit into 31 bits
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ALLOWED: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("view", "surface"): ("video", "live"),
    ("order", "status"): ORDER_STATUSES,
    ("engage", "action"): ENGAGE_ACTIONS,
    ("ad", "action"): AD_ACTIONS,
}
"""Fields whose values the contract lists: anything else could never match."""


def _text_columns() -> list[str]:
    return [name for name, dtype in OPTIONAL.items() if dtype == pl.String() and name != "experiments"]


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r}: a name has lower-case letters, digits and _, 64 at most, a letter first")


@dataclass(frozen=True, slots=True)
class Match:
    """Events of one topic whose fields have one of the given values. Continued reports never match."""

    topic: str
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.topic not in KIND:
            raise ValueError(f"topic {self.topic!r}: one of {', '.join(TOPICS)}")
        for name, values in self.where.items():
            if name not in _text_columns():
                raise ValueError(f"field {name!r} of topic {self.topic!r}: one of {', '.join(_text_columns())}")
            if not values:
                raise ValueError(f"field {name!r} of topic {self.topic!r}: name at least one value")
            allowed = _ALLOWED.get((self.topic, name), values)
            if wrong := [value for value in values if value not in allowed]:
                raise ValueError(
                    f"field {name!r} of topic {self.topic!r}: {wrong[0]!r} is none of {', '.join(allowed)}"
                )


@dataclass(frozen=True, slots=True)
class Step:
    """One step: any of `events`. `optional`: later steps do not need it. `amount`: its `amount_minor` is summed."""

    name: str
    events: tuple[Match, ...]
    optional: bool = False
    amount: bool = False

    def __post_init__(self) -> None:
        _check_name("step", self.name)
        if not self.events:
            raise ValueError(f"step {self.name!r}: name at least one kind of event")


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Events that end a chain: what happens with the same held value after one of them is no step of it any more.

    At equal times a step comes before an exclusion.
    """

    name: str
    events: tuple[Match, ...]

    def __post_init__(self) -> None:
        _check_name("exclusion", self.name)
        if not self.events:
            raise ValueError(f"exclusion {self.name!r}: name at least one kind of event")


@dataclass(frozen=True, slots=True)
class Funnel:
    """A funnel of 2 to 8 steps. Windows are inclusive, in ms.

    Step 2 comes within `enter_within_ms` of step 1, the rest within `finish_within_ms` of step 2. Step 2 is the user's
    first with its value of `hold`, remembered for `remember_ms`: a step 2 later than that begins a chain again. Later
    steps carry the same value; with `hold_from=1` step 1 does too.

    Raises:
        ValueError: when built with something that cannot be computed; it names field, value and what would do.
    """

    name: str
    steps: tuple[Step, ...]
    hold: str
    enter_within_ms: int
    finish_within_ms: int
    remember_ms: int = 10 * DAY_MS
    hold_from: int = 2
    units: tuple[str, ...] = ()  # none named: both, `user` and `pair_unit`
    exclusions: tuple[Exclusion, ...] = ()

    def __post_init__(self) -> None:
        _check_name("funnel", self.name)
        self._check_steps()
        if self.hold not in _text_columns():
            raise ValueError(f"funnel {self.name!r}: hold {self.hold!r}: one of {', '.join(_text_columns())}")
        if self.hold_from not in (1, 2):
            raise ValueError(f"funnel {self.name!r}: hold_from {self.hold_from}: 1 or 2")
        if self.enter_within_ms < 0 or self.finish_within_ms < 0 or self.matures_after_ms > _MAX_WINDOWS_MS:
            raise ValueError(f"funnel {self.name!r}: the windows are not negative and sum to 20 days at most")
        if self.remember_ms < self.finish_within_ms:
            raise ValueError(
                f"funnel {self.name!r}: remember ({self.remember_ms} ms) is under finish_within "
                f"({self.finish_within_ms} ms), so two chains would claim one event; remember for longer"
            )
        if not self.units:
            object.__setattr__(self, "units", ("user", self.pair_unit))
        if len(set(self.units)) != len(self.units) or not set(self.units) <= {"user", self.pair_unit}:
            raise ValueError(f"funnel {self.name!r}: units {list(self.units)}: of user and {self.pair_unit}, each once")

    def _check_steps(self) -> None:
        names = [step.name for step in self.steps]
        if not 2 <= len(names) <= MAX_STEPS:
            raise ValueError(f"funnel {self.name!r}: {len(names)} steps; it takes 2 to {MAX_STEPS}")
        if len(set(names)) != len(names):
            raise ValueError(f"funnel {self.name!r}: steps {names}: each name once")
        if any(step.optional or step.amount for step in self.steps[:2]):
            raise ValueError(
                f"funnel {self.name!r}: steps 1 and 2 make the chain: neither is optional or has an amount"
            )

    @property
    def pair_unit(self) -> str:
        """The name of the unit (user, held value): `user_live` where `live_id` is held."""
        return f"user_{self.hold.removesuffix('_id')}"

    @property
    def matures_after_ms(self) -> int:
        """How long after its bucket's end a chain can still move."""
        return self.enter_within_ms + self.finish_within_ms

    @property
    def columns(self) -> frozenset[str]:
        """Optional event columns that the declaration reads."""
        matches = [match for step in self.steps for match in step.events]
        matches += [match for exclusion in self.exclusions for match in exclusion.events]
        amounts = {"amount_minor", "currency"} if any(step.amount for step in self.steps) else set()
        return frozenset({self.hold, "continued"} | amounts | {name for match in matches for name in match.where})

    def needed(self, step: int) -> int:
        """The step (1-based) that `step` > 2 must not precede: the nearest earlier one that is not optional."""
        return next(k for k in range(step - 1, 1, -1) if not self.steps[k - 1].optional)


VIDEO_TO_LIVE: Final = Funnel(
    name="video_to_live",
    steps=(
        Step("video_view", (Match("view", {"surface": ("video",)}),)),
        Step("live_enter", (Match("view", {"surface": ("live",)}),)),
        Step("engage", (Match("like"), Match("engage", {"action": ("comment",)})), optional=True),
        Step("gift", (Match("gift"),), optional=True, amount=True),
        Step("order", (Match("order", {"status": ("paid",)}),), amount=True),
    ),
    hold="live_id",
    enter_within_ms=30 * MINUTE_MS,
    finish_within_ms=24 * HOUR_MS,
)
"""From watching a video to paying in a live room (TABLES.md, Definitions)."""
