"""Which events of a frame are which step of a funnel, as arrays for compiled code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.funnel_pairs import E_AMOUNT, E_LABEL, E_NEXT, E_OTHER, E_PAIR, E_STEP, E_TIME, E_USER, EXCLUSION
from schemas.events import KIND
from schemas.funnels import Funnel, Match
from schemas.hashing import hash64_expr, mix

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class FirstEvents:
    """Step 1 events in order of time. Shape (n,) each; hashes as their bit patterns."""

    user: Int64s
    pair: Int64s  # 0 where step 1 belongs to no held value
    time: Int64s
    label: Int64s


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


def _masks(funnel: Funnel) -> list[pl.Expr]:
    """One expression per step and exclusion: which events of a frame they are."""
    masks = [_matches(step.events).alias(f"{funnel.name}/{n}") for n, step in enumerate(funnel.steps, start=1)]
    exclusions = [match for exclusion in funnel.exclusions for match in exclusion.events]
    if exclusions:
        masks.append(_matches(exclusions).alias(f"{funnel.name}/{EXCLUSION}"))
    return masks


class StepReader:
    """Reads the steps of all funnels out of a frame, with one pass of Polars over it."""

    def __init__(self, funnels: Sequence[Funnel], currency: str) -> None:
        self._asked = [mask for funnel in funnels for mask in _masks(funnel)]
        self._asked += [hash64_expr(hold).alias(hold) for hold in {funnel.hold for funnel in funnels}]
        if any(step.amount for funnel in funnels for step in funnel.steps):
            other = pl.col("currency").fill_null(currency) != currency
            amount = pl.when(other).then(0).otherwise(pl.col("amount_minor").fill_null(0))
            self._asked += [amount.alias("amount"), other.cast(pl.Int64).alias("other_currency")]

    def read(self, frame: pl.DataFrame, labels: Keys) -> StepFrame:
        """The frame with its masks; `labels` of its dimension values."""
        return StepFrame(frame, frame.select(self._asked), labels)


class StepFrame:
    """One frame and which of its events are which step."""

    def __init__(self, frame: pl.DataFrame, found: pl.DataFrame, labels: Keys) -> None:
        self._found, self.labels = found, labels
        self._users: Keys = frame["user_hash"].to_numpy()
        self._times: Int64s = frame["event_time"].to_numpy()
        self._rows: dict[str, Places] = {}

    def rows(self, funnel: Funnel, step: int) -> Places:
        """Rows of one step (1-based, or EXCLUSION)."""
        name = f"{funnel.name}/{step}"
        if name not in self._rows:
            self._rows[name] = self._found[name].to_numpy().nonzero()[0]
        return self._rows[name]

    def first(self, funnel: Funnel) -> FirstEvents:
        """The step 1 events of a funnel; those with a held value only, where one is due."""
        rows = self.rows(funnel, 1)
        if funnel.hold_from == 1:
            rows, pairs = self._pairs(funnel, rows)
        else:
            pairs = np.zeros(len(rows), dtype=np.uint64)
        order = np.argsort(self._times[rows], kind="stable")
        rows, pairs = rows[order], pairs[order]
        arrays = self._users[rows], pairs, self.labels[rows]
        user, pair, label = (array.view(np.int64) for array in arrays)
        return FirstEvents(user, pair, self._times[rows], label)

    def later(self, funnel: Funnel) -> Int64s:
        """The events of later steps and exclusions that have a held value, as rows of `flows.funnel_pairs`."""
        numbers = [*range(2, len(funnel.steps) + 1), *([EXCLUSION] if funnel.exclusions else [])]
        parts = []
        for number in numbers:
            rows, pairs = self._pairs(funnel, self.rows(funnel, number))
            part = np.zeros((len(rows), E_NEXT + 1), dtype=np.int64)
            part[:, E_PAIR], part[:, E_USER] = pairs.view(np.int64), self._users[rows].view(np.int64)
            part[:, E_TIME], part[:, E_STEP], part[:, E_LABEL] = (
                self._times[rows],
                number,
                self.labels[rows].view(np.int64),
            )
            if number != EXCLUSION and funnel.steps[number - 1].amount:
                part[:, E_AMOUNT] = self._found["amount"].to_numpy()[rows]
                part[:, E_OTHER] = self._found["other_currency"].to_numpy()[rows]
            parts.append(part)
        return np.concatenate(parts)

    def _pairs(self, funnel: Funnel, rows: Places) -> tuple[Places, Keys]:
        """Those of `rows` that have a held value, and the hash of user and value of each."""
        values = self._found[funnel.hold][rows]
        if values.null_count():
            rows = rows[values.is_not_null().to_numpy()]
            values = values.drop_nulls()
        pairs = mix(self._users[rows], values.to_numpy())
        pairs[pairs == 0] = 1  # 0 marks a free slot
        return rows, pairs


def as_bits(keys: npt.NDArray[Any]) -> Int64s:
    """Hashes as Int64 of the same bits."""
    return keys.view(np.int64)
