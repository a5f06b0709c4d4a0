"""Which events of a frame are which step of a funnel, as arrays for compiled code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.funnel_pairs import (
    E_AMOUNT,
    E_LABEL,
    E_NEXT,
    E_OTHER,
    E_PAIR,
    E_STEP,
    E_TIME,
    E_USER,
    EXCLUSION,
    Int64s,
    mixed,
)
from schemas.decode_compile import compiled
from schemas.events import KIND
from schemas.funnels import Funnel, Match
from schemas.hashing import hash64_expr

Keys = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class FirstEvents:
    """Step 1 events in order of time. Shape (n,) each; hashes as their bit patterns."""

    user: Int64s
    pair: Int64s  # 0 where step 1 belongs to no held value
    time: Int64s
    label: Int64s


class _Fields(NamedTuple):
    """Columns of a frame that one funnel asks for. Shape (n,) each; hashes as their bit patterns."""

    bits: Bits  # bit 0: an exclusion; bit k: step k
    user: Int64s
    held: Int64s  # hash of the held value, 0 without one
    time: Int64s
    label: Int64s
    amount: Int64s
    other_currency: Int64s


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


def _bits(funnel: Funnel) -> pl.Expr:
    """Which steps and exclusions of a funnel an event is: `_Fields.bits`."""
    masks = [(number, _matches(step.events)) for number, step in enumerate(funnel.steps, start=1)]
    if funnel.exclusions:
        masks.append((EXCLUSION, _matches([match for part in funnel.exclusions for match in part.events])))
    bits = [
        pl.when(mask).then(pl.lit(1 << number, pl.UInt16)).otherwise(pl.lit(0, pl.UInt16)) for number, mask in masks
    ]
    return reduce(or_, bits).alias(funnel.name)


class StepReader:
    """Reads the steps of all funnels out of a frame, with one pass of Polars over it."""

    def __init__(self, funnels: Sequence[Funnel], currency: str) -> None:
        self._asked = [_bits(funnel) for funnel in funnels]
        self._asked += [hash64_expr(hold).fill_null(0).alias(f"held {hold}") for hold in {f.hold for f in funnels}]
        self._has_amounts = any(step.amount for funnel in funnels for step in funnel.steps)
        if self._has_amounts:
            other = pl.col("currency").fill_null(currency) != currency
            amount = pl.when(other).then(0).otherwise(pl.col("amount_minor").fill_null(0))
            self._asked += [amount.alias("amount"), other.cast(pl.Int64).alias("other currency")]

    def read(self, frame: pl.DataFrame, labels: Keys) -> StepFrame:
        """The frame's steps; `labels` of its dimension values."""
        return StepFrame(frame, frame.select(self._asked), labels.view(np.int64), has_amounts=self._has_amounts)


class StepFrame:
    """One frame and which of its events are which step."""

    def __init__(self, frame: pl.DataFrame, found: pl.DataFrame, labels: Int64s, *, has_amounts: bool) -> None:
        self._found, self._labels = found, labels
        self._users: Int64s = frame["user_hash"].to_numpy().view(np.int64)
        self._times: Int64s = frame["event_time"].to_numpy()
        nothing = np.zeros(0, dtype=np.int64)
        self._amounts = (
            (found["amount"].to_numpy(), found["other currency"].to_numpy()) if has_amounts else (nothing, nothing)
        )

    def bits(self, funnel: Funnel) -> Bits:
        """Bit k of an event: it is step k of the funnel; bit 0: an exclusion."""
        bits: Bits = self._found[funnel.name].to_numpy()
        return bits

    def steps(self, funnel: Funnel) -> tuple[FirstEvents, Int64s]:
        """The step 1 events, and the others as rows of `flows.funnel_pairs`.

        Where a held value is due only those that have one.
        """
        bits = self.bits(funnel)
        held = self._found[f"held {funnel.hold}"].to_numpy().view(np.int64)
        fields = _Fields(bits, self._users, held, self._times, self._labels, *self._amounts)
        paid = sum(1 << number for number, step in enumerate(funnel.steps, start=1) if step.amount)
        first = np.empty((4, int(np.count_nonzero(bits & 2))), dtype=np.int64)
        later = np.zeros(
            (sum(int(np.count_nonzero(bits & (1 << k))) for k in _later(funnel)), E_NEXT + 1), dtype=np.int64
        )
        firsts, laters = _split(fields, len(funnel.steps), funnel.hold_from == 1, paid, first, later)
        first = first[:, np.argsort(first[2, :firsts])]
        return FirstEvents(*first), later[:laters]


def _later(funnel: Funnel) -> list[int]:
    return [*range(2, len(funnel.steps) + 1), *([EXCLUSION] if funnel.exclusions else [])]


@compiled
def _split(f: _Fields, steps: int, by_pair: bool, paid: int, first: Int64s, later: Int64s) -> tuple[int, int]:  # noqa: FBT001
    """Write the events of step 1 into `first` (user, pair, time, label) and the others into `later`; how many each.

    `paid`: bits of the steps whose amounts count.
    """
    firsts, laters = 0, 0
    for i in range(len(f.bits)):
        bits = f.bits[i]
        if bits == 0:
            continue
        pair = mixed(f.user[i], f.held[i]) if f.held[i] != 0 else 0
        if bits & 2 and (pair != 0 or not by_pair):
            first[0, firsts], first[1, firsts] = f.user[i], pair if by_pair else 0
            first[2, firsts], first[3, firsts] = f.time[i], f.label[i]
            firsts += 1
        for step in range(steps + 1 if pair != 0 else 0):
            if step == 1 or not bits & (1 << step):
                continue
            row, laters = laters, laters + 1
            later[row, E_PAIR], later[row, E_USER], later[row, E_TIME] = pair, f.user[i], f.time[i]
            later[row, E_STEP], later[row, E_LABEL] = step, f.label[i]
            if paid & (1 << step):
                later[row, E_AMOUNT], later[row, E_OTHER] = f.amount[i], f.other_currency[i]
    return firsts, laters
