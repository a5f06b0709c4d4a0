"""From changed chains and step 1 events to increments: what to add to which row of the table `funnel`.

A unit counts once at each step that its chains of one bucket and dimension value reach; its time is the one of its
first arrival at the step, taken from step 1 of the chain that arrived (of two at once the quicker).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.funnel_events import Events
from flows.funnel_steps import UNREACHED, Chains
from flows.funnel_values import ABSENT, Combinations
from flows.keyed_set import KeyedSet
from flows.time_index import NEVER
from schemas.funnels import BUCKET_MS, Funnel
from schemas.hashing import hash64, mix

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_CODE_BITS: Final = 28
_HOUR_BITS: Final = 24
_STEP_BITS: Final = 4
_TIME_BITS: Final = np.uint64(32)

INCREMENTS: Final[dict[str, pl.DataType]] = {
    "row": pl.UInt64(),  # stable hash of the six that follow
    "funnel": pl.String(),
    "unit": pl.String(),
    "bucket_start": pl.Int64(),
    "dim": pl.String(),
    "value": pl.String(),
    "step": pl.UInt8(),
    "reached": pl.Int64(),
    "amount_minor": pl.Int64(),
    "other_currency_events": pl.Int64(),
    "times": pl.List(pl.Int64()),  # ms from step 1 that units gained; −1 − t where one lost the time t
}
"""One row per row of the table that changed."""


@dataclass(slots=True)
class Changes:
    """Changes of rows, several for one row perhaps. `cell` packs unit, step, value code and hour. Shape (n,) each."""

    cell: Int64s
    reached: Int64s
    amount: Int64s
    other_currency: Int64s
    time: Int64s  # as in `times`; UNREACHED where none changed


@dataclass(slots=True)
class _Reached:
    """One row per chain and step that it reached. Shape (n,) each."""

    chains: Chains
    side: Int64s  # 0: before, 1: after
    step: Int64s
    time: Int64s  # of the first arrival
    amount: Int64s
    other_currency: Int64s


def cells(unit: int, step: Int64s | int, code: npt.NDArray[Any], bucket: Int64s) -> Int64s:
    """Pack what names a row of one funnel into one number."""
    high = (np.int64(unit) << _STEP_BITS) | step
    return (((high << _CODE_BITS) | code.astype(np.int64)) << _HOUR_BITS) | bucket // BUCKET_MS


class FirstSteps:
    """Which units had a step 1 in which hour, by dimension value: exact distinct counts."""

    def __init__(self, funnel: Funnel, combinations: Combinations) -> None:
        self._combinations = combinations
        # A unit that begins at step 2 has no rows of step 1.
        self._units = [
            (number, "user" if unit == "user" else "pair")
            for number, unit in enumerate(funnel.units)
            if unit == "user" or funnel.hold_from == 1
        ]
        self._counted = [KeyedSet() for _ in self._units]
        # Most step 1 events repeat one of their user, hour and values: told at once, and only from memory.
        self._repeats = [KeyedSet() for _ in self._units]

    def fold(self, events: Events) -> list[Changes]:
        """Count the step 1 events among `events`; their dimension values are known."""
        first = np.flatnonzero(events["step"] == 1)
        found = []
        hours = events["time"][first] // BUCKET_MS
        for (unit, key), counted, repeats in zip(self._units, self._counted, self._repeats, strict=True):
            keys, labels = events[key][first], events["label"][first]
            new = np.flatnonzero(repeats.first_seen(hours, mix(keys, labels)))
            if not len(new):
                continue
            codes = self._combinations.codes(labels[new])
            place, column = np.nonzero(codes != ABSENT)
            code, hour = codes[place, column], hours[new][place]
            is_new = counted.first_seen(hour, mix(keys[new][place], self._combinations.hashes[code]))
            cell, many = np.unique(cells(unit, 1, code[is_new], hour[is_new] * BUCKET_MS), return_counts=True)
            nothing = np.zeros(len(cell), dtype=np.int64)
            found.append(Changes(cell, many, nothing, nothing, np.full(len(cell), UNREACHED)))
        return found

    def expire(self, floor: int) -> None:
        """No event before `floor` will come."""
        for keys in (*self._counted, *self._repeats):
            keys.expire(floor // BUCKET_MS)

    def parts(self) -> list[KeyedSet]:
        """What has to be persisted."""
        return self._counted

    def forget_repeats(self) -> None:
        """Start without the memory of repeats, which is not persisted."""
        self._repeats = [KeyedSet() for _ in self._units]


def chain_changes(funnel: Funnel, combinations: Combinations, before: Chains, after: Chains) -> Changes | None:
    """What the rows of steps 2 and on gain and lose when chains of some users become others."""
    before, after = before[before["anchor"] != NEVER], after[after["anchor"] != NEVER]
    before, after = _changed_units(before, after)
    if not len(before) and not len(after):
        return None
    chains = np.concatenate((before, after))
    side = np.repeat([0, 1], [len(before), len(after)])
    steps = [np.flatnonzero(chains["first"][:, k] < UNREACHED) for k in range(len(funnel.steps) - 2)]
    row = np.concatenate([np.arange(len(chains)), *steps])
    step = np.repeat(np.arange(2, 2 + 1 + len(steps)), [len(chains), *map(len, steps)])
    nothing = np.zeros(len(row), dtype=np.int64)
    reached = _Reached(chains[row], side[row], step, chains["entry"][row], nothing, nothing.copy())
    later = np.flatnonzero(step > 2)
    at = row[later], step[later] - 3
    reached.time[later], reached.amount[later] = chains["first"][at], chains["amount"][at]
    reached.other_currency[later] = chains["other_currency"][at]
    found = [_unit_changes(funnel, unit, combinations, reached) for unit in range(len(funnel.units))]
    return Changes(*(np.concatenate([getattr(c, name) for c in found]) for name in Changes.__slots__))


def _changed_units(before: Chains, after: Chains) -> tuple[Chains, Chains]:
    """Leave out the users and buckets none of whose chains changed."""
    old, new = _fingerprints(before), _fingerprints(after)
    moved = np.concatenate((before[~np.isin(old, new)], after[~np.isin(new, old)]))
    groups = np.unique(_groups(moved))
    return before[np.isin(_groups(before), groups)], after[np.isin(_groups(after), groups)]


def _groups(chains: Chains) -> Keys:
    return mix(chains["user"], (chains["anchor"] // BUCKET_MS).astype(np.uint64))


def _fingerprints(chains: Chains) -> Keys:
    """A hash of all fields of each chain: a sum of odd multiples, modulo 2**64."""
    words = np.ascontiguousarray(chains).view(np.uint64).reshape(len(chains), chains.dtype.itemsize // 8)
    odd = mix(np.arange(words.shape[1], dtype=np.uint64), np.zeros(words.shape[1], np.uint64)) | np.uint64(1)
    prints: Keys = (words * odd).sum(axis=1, dtype=np.uint64)
    return prints


def _unit_changes(funnel: Funnel, unit: int, combinations: Combinations, reached: _Reached) -> Changes:
    """Changes of one unit's rows."""
    chains, side, time = reached.chains, reached.side, reached.time
    of_user = funnel.units[unit] == "user"
    label = chains["anchor_label"] if of_user or funnel.hold_from == 1 else chains["label"]
    codes = combinations.codes(label)
    row, column = np.nonzero(codes != ABSENT)
    bucket = chains["anchor"] // BUCKET_MS * BUCKET_MS
    cell = cells(unit, reached.step[row], codes[row, column], bucket[row])
    keys = chains["user" if of_user else "pair"]
    group = (mix(keys[row], cell.astype(np.uint64)) << np.uint64(1)) | side[row].astype(np.uint64)
    score = ((time - bucket).astype(np.uint64) << _TIME_BITS) | (time - chains["anchor"]).astype(np.uint64)
    order = np.argsort(group)
    row, group = row[order], group[order]
    begins = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    group, cell = group[begins], cell[order[begins]]
    sign = np.where(group & np.uint64(1), 1, -1)
    took = (np.minimum.reduceat(score[row], begins) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    # A unit's before and after lie side by side; where its time is the same nothing moves in the multiset.
    same = np.flatnonzero((group[1:] >> np.uint64(1) == group[:-1] >> np.uint64(1)) & (took[1:] == took[:-1]))
    moved = np.where(sign > 0, took, -1 - took)
    moved[same], moved[same + 1] = UNREACHED, UNREACHED
    amounts, others = (np.add.reduceat(a[row], begins) for a in (reached.amount, reached.other_currency))
    return Changes(cell, sign, sign * amounts, sign * others, moved)


def increments(funnel: Funnel, combinations: Combinations, changes: Sequence[Changes]) -> pl.DataFrame:
    """Changes summed per row of the table, with the row's names: a frame of INCREMENTS."""
    columns = {name: np.concatenate([getattr(c, name) for c in changes]) for name in Changes.__slots__}
    summed = (
        pl.DataFrame(columns)
        .group_by("cell")
        .agg(
            pl.col("reached", "amount", "other_currency").sum(),
            pl.col("time").filter(pl.col("time") < UNREACHED).alias("times"),
        )
        .filter(
            (pl.col("reached") != 0)
            | (pl.col("amount") != 0)
            | (pl.col("other_currency") != 0)
            | (pl.col("times").list.len() > 0)
        )
    )
    cell = summed["cell"].to_numpy()
    hour = cell & ((1 << _HOUR_BITS) - 1)
    code = (cell >> _HOUR_BITS) & ((1 << _CODE_BITS) - 1)
    step = (cell >> (_HOUR_BITS + _CODE_BITS)) & ((1 << _STEP_BITS) - 1)
    unit = cell >> (_HOUR_BITS + _CODE_BITS + _STEP_BITS)
    name = hash64(pl.Series([f"{funnel.name}\0{unit}" for unit in funnel.units])).to_numpy()
    place = mix(name[unit], ((hour << _STEP_BITS) | step).astype(np.uint64))
    dims, values = zip(*(combinations.names[c] for c in code), strict=True) if len(code) else ((), ())
    return pl.DataFrame(
        {
            "row": mix(place, combinations.hashes[code]),
            "funnel": pl.repeat(funnel.name, len(cell), eager=True, dtype=pl.String),
            "unit": [funnel.units[u] for u in unit],
            "bucket_start": hour * BUCKET_MS,
            "dim": dims,
            "value": values,
            "step": step,
            "reached": summed["reached"],
            "amount_minor": summed["amount"],
            "other_currency_events": summed["other_currency"],
            "times": summed["times"],
        },
        schema=INCREMENTS,
    )
