"""Which events of a frame are which step of a funnel, as arrays and rows of fixed shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.events import KIND
from schemas.funnels import Funnel, Match
from schemas.hashing import hash64, mix

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Events = npt.NDArray[Any]

EXCLUSION: Final = 0
EVENT: Final = np.dtype(
    [
        ("user", "u8"),
        ("pair", "u8"),  # hash of (user, held value)
        ("time", "i8"),
        ("step", "i8"),  # 2 and on; EXCLUSION
        ("label", "u8"),  # of the dimension values, see flows.funnel_values
        ("amount", "i8"),  # minor units; 0 in another currency
        ("other_currency", "i8"),  # 1: the amount is in another currency
    ]
)
"""One event as one step after the first; an event that matches two steps is two rows."""


@dataclass(frozen=True, slots=True)
class FirstEvents:
    """Step 1 events. Shape (n,) each."""

    user: Keys
    pair: Keys  # 0 where step 1 belongs to no held value
    time: Int64s
    label: Keys

    def take(self, rows: npt.NDArray[Any]) -> FirstEvents:
        """The events of these rows (indices or a mask)."""
        return FirstEvents(self.user[rows], self.pair[rows], self.time[rows], self.label[rows])


def _matches(events: Iterable[Match]) -> pl.Expr:
    """Whether an event is any of `events`; a further report of the same stay never is."""
    found = []
    for match in events:
        condition = pl.col("kind") == KIND[match.topic]
        for name, values in match.where.items():
            field = pl.col(name)
            condition &= field == values[0] if len(values) == 1 else field.is_in(values)
        found.append(condition)
    return reduce(or_, found).fill_null(value=False) & ~pl.col("continued").fill_null(value=False)


def step_masks(funnel: Funnel) -> list[pl.Expr]:
    """One expression per step and exclusion, for `StepReader`: which events of a frame they are."""
    masks = [_matches(step.events).alias(f"{funnel.name}/{n}") for n, step in enumerate(funnel.steps, start=1)]
    exclusions = [match for exclusion in funnel.exclusions for match in exclusion.events]
    if exclusions:
        masks.append(_matches(exclusions).alias(f"{funnel.name}/{EXCLUSION}"))
    return masks


class StepReader:
    """Reads the steps of all funnels out of a frame, with one pass of Polars over it."""

    def __init__(self, funnels: Sequence[Funnel], currency: str) -> None:
        other = pl.col("currency").fill_null(currency) != currency
        self._asked = [mask for funnel in funnels for mask in step_masks(funnel)]
        self._has_amounts = any(step.amount for funnel in funnels for step in funnel.steps)
        if self._has_amounts:
            amount = pl.when(other).then(0).otherwise(pl.col("amount_minor").fill_null(0))
            self._asked += [amount.alias("amount"), other.alias("other_currency")]

    def read(self, frame: pl.DataFrame, labels: Keys) -> StepFrame:
        """The frame with its masks; `labels` of its dimension values."""
        return StepFrame(frame, frame.select(self._asked), labels)


class StepFrame:
    """One frame and which of its events are which step."""

    def __init__(self, frame: pl.DataFrame, found: pl.DataFrame, labels: Keys) -> None:
        self.frame, self._found, self.labels = frame, found, labels
        self._users: Keys = frame["user_hash"].to_numpy()
        self._times: Int64s = frame["event_time"].to_numpy()

    def rows(self, funnel: Funnel, step: int) -> npt.NDArray[np.intp]:
        """Rows of one step (1-based, or EXCLUSION)."""
        name = f"{funnel.name}/{step}"
        return np.flatnonzero(self._found[name].to_numpy()) if name in self._found.columns else np.empty(0, np.intp)

    def first(self, funnel: Funnel) -> FirstEvents:
        """The step 1 events of a funnel; those with a held value only, where one is due."""
        rows = self.rows(funnel, 1)
        pairs = np.zeros(len(rows), dtype=np.uint64)
        if funnel.hold_from == 1:
            held, pairs = self._pairs(funnel, rows)
            rows = rows[held]
        return FirstEvents(self._users[rows], pairs, self._times[rows], self.labels[rows])

    def later(self, funnel: Funnel) -> Events:
        """The events of later steps and exclusions that have a held value."""
        numbers = [*range(2, len(funnel.steps) + 1), EXCLUSION]
        found = [self.rows(funnel, number) for number in numbers]
        rows, steps = np.concatenate(found), np.repeat(numbers, [len(places) for places in found])
        held, pairs = self._pairs(funnel, rows)
        rows, steps = rows[held], steps[held]
        events = np.zeros(len(rows), dtype=EVENT)
        events["user"], events["pair"], events["time"] = self._users[rows], pairs, self._times[rows]
        events["step"], events["label"] = steps, self.labels[rows]
        counted = np.flatnonzero(np.isin(steps, [n for n, step in enumerate(funnel.steps, start=1) if step.amount]))
        for name in ("amount", "other_currency") if len(counted) else ():
            events[name][counted] = self._found[name].to_numpy()[rows[counted]]
        return events

    def _pairs(self, funnel: Funnel, rows: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.bool_], Keys]:
        """Which of `rows` have a held value, and the hash of user and value of those."""
        values = hash64(self.frame[funnel.hold][rows])
        held = values.is_not_null().to_numpy()
        return held, mix(self._users[rows][held], values.drop_nulls().to_numpy())
