"""What a heat is: whose it is, what each event weighs, how fast it fades. A declaration; kernels derive the rest.

A user declares another heat (rooms, creators, products) by building another `HeatSpec`; no kernel changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from schemas.events import ENGAGE_ACTIONS, OPTIONAL, ORDER_STATUSES, TOPICS

MINUTE_MS: Final = 60_000
_WEIGHT_BITS: Final = 36
_MAX_SPREAD: Final = 1 << 16

_ACTIONS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "engage": ("action", ENGAGE_ACTIONS),
    "order": ("status", ORDER_STATUSES),
}
"""Kinds whose weight may depend on a column: the column and its values."""

TOPIC_WEIGHTS: Final[Mapping[str, float]] = {"view": 1.0, "like": 3.0, "engage.comment": 5.0, "engage.share": 8.0}


@dataclass(frozen=True, slots=True)
class HeatSpec:
    """One heat: `heat(t) = Σ w · 2^(-(t - event time) / half-life)` per subject (TABLES.md, Definitions).

    `weights`: per kind (`"view"`) or per kind and action or status (`"engage.share"`, `"order.paid"`); the more exact
    name wins, what is not named weighs 0, and so do continued reports. Events of weight 0 still count as events.
    `ad` is no activity and has no weight.

    Raises:
        ValueError: when built with something that cannot be computed.
    """

    name: str = "heat"  # of the kernels
    weights: Mapping[str, float] = field(default_factory=lambda: dict(TOPIC_WEIGHTS))
    half_life_minutes: float = 360.0
    subject: str = "tags"  # the event column that names the subject: text, or a list of texts (each counts once)
    label: str = "topic"  # the column of the rows that holds the subject
    heat_table: str = "topic_heat"
    lifecycle_table: str = "topic_lifecycle"
    user_cap: float | None = None  # most weight that one user can add to one subject in one minute
    ranked: int = 1_000  # subjects that get a rank, and a row each minute
    retain_minutes: int = 60  # how far behind the watermark a minute may still change
    forget_days: int = 30  # a subject idle for so long is forgotten

    def __post_init__(self) -> None:
        if self.subject not in OPTIONAL or OPTIONAL[self.subject] not in (pl.String(), pl.List(pl.String())):
            raise ValueError(f"heat {self.name!r}: no text column {self.subject!r} in events")
        for name, weight in self.weights.items():
            if name not in _weighable():
                raise ValueError(f"heat {self.name!r}: nothing is called {name!r}; one of {sorted(_weighable())}")
            if not (math.isfinite(weight) and 0 <= weight <= 1e9):
                raise ValueError(f"heat {self.name!r}: weight {weight} of {name!r} is not between 0 and 1e9")
        positive = [weight for weight in self.weights.values() if weight > 0]
        if not positive or max(positive) > _MAX_SPREAD * min(positive):
            raise ValueError(f"heat {self.name!r}: needs a positive weight, and none over {_MAX_SPREAD} times another")
        if not (math.isfinite(self.half_life_minutes) and self.half_life_minutes >= 1):
            raise ValueError(f"heat {self.name!r}: a half-life of at least a minute, not {self.half_life_minutes}")
        if self.user_cap is not None and not (math.isfinite(self.user_cap) and self.user_cap > 0):
            raise ValueError(f"heat {self.name!r}: a cap above 0, not {self.user_cap}")
        if self.ranked < 1 or self.retain_minutes < 0 or self.forget_days < 1:
            raise ValueError(f"heat {self.name!r}: ranked, forget_days >= 1 and retain_minutes >= 0")

    @property
    def half_life_ms(self) -> float:
        """The half-life in milliseconds."""
        return self.half_life_minutes * MINUTE_MS

    @property
    def scale(self) -> float:
        """Fixed-point units per unit of weight, a power of two.

        The heaviest event takes at most 2^36 units, so that 2^26 such events of one subject and minute fit into an
        Int64, and the lightest is exact to about 2^-20.
        """
        return 2.0 ** (_WEIGHT_BITS - math.ceil(math.log2(max(self.weights.values()))))

    @property
    def columns(self) -> frozenset[str]:
        """Optional event columns that the shard kernel reads."""
        wanted = {column for kind, (column, _) in _ACTIONS.items() if self.action_weights(kind)}
        return frozenset({self.subject, "continued"} | wanted)

    def kind_weights(self) -> list[float]:
        """Weight by kind (the index of `schemas.events.TOPICS`), before actions are looked at."""
        return [self.weights.get(kind, 0.0) for kind in TOPICS]

    def action_weights(self, kind: str) -> dict[str, float]:
        """Weight by action or status where `kind` has such weights of its own."""
        return {
            name.partition(".")[2]: weight
            for name, weight in self.weights.items()
            if name.partition(".")[0] == kind and "." in name
        }

    def action_columns(self) -> dict[str, str]:
        """Kinds with weights by action: the column that holds the action."""
        return {kind: column for kind, (column, _) in _ACTIONS.items() if self.action_weights(kind)}


def _weighable() -> set[str]:
    kinds = {kind for kind in TOPICS if kind != "ad"}
    return kinds | {f"{kind}.{action}" for kind, (_, actions) in _ACTIONS.items() for action in actions}


TOPIC_HEAT: Final = HeatSpec()
"""The built-in heat of topics."""

ROOM_HEAT: Final = HeatSpec(
    name="room_heat",
    weights={**TOPIC_WEIGHTS, "gift": 10.0, "order.paid": 20.0},
    half_life_minutes=30.0,
    subject="live_id",
    label="live_id",
    heat_table="room_heat",
    lifecycle_table="room_lifecycle",
)
"""The heat of live rooms, with the weights of TABLES.md; an order counts when it is paid."""
