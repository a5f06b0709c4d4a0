"""From changed chains and step 1 events to increments: what to add to which row of the table `funnel`.

A unit counts once at each step that its chains of one bucket and dimension value reach; its time is the one of its
first arrival at the step, taken from step 1 of the chain that arrived (of two at once the quicker).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from flows.funnel_arrivals import Arrivals, UserArrivals, arrivals, reached_steps, took_ms
from flows.funnel_events import FirstEvents
from flows.funnel_steps import UNREACHED, Chains
from flows.funnel_values import ABSENT, Combinations
from flows.kernel import Persistent
from flows.keyed_set import KeyedSet
from flows.time_index import NEVER
from schemas.funnels import BUCKET_MS, Funnel
from schemas.hashing import hash64, mix

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_CODE_BITS: Final = 28
_HOUR_BITS: Final = 24
_STEP_BITS: Final = 4

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


def cells(unit: int, step: Int64s | int, code: npt.NDArray[Any], bucket: Int64s) -> Int64s:
    """Pack what names a row of one funnel into one number."""
    high = (np.int64(unit) << _STEP_BITS) | step
    return (((high << _CODE_BITS) | code.astype(np.int64)) << _HOUR_BITS) | bucket // BUCKET_MS


class FunnelCounts:
    """What units of one funnel and shard have been counted for, so that each counts once."""

    def __init__(self, funnel: Funnel, combinations: Combinations) -> None:
        self._funnel = funnel
        self._combinations = combinations
        # A unit that begins at step 2 has no rows of step 1.
        self._beginning = [n for n, unit in enumerate(funnel.units) if unit == "user" or funnel.hold_from == 1]
        self._counted = [KeyedSet() for _ in self._beginning]
        self._user_arrivals = UserArrivals()
        self._hour = 0
        self.forget_repeats()

    def forget_repeats(self) -> None:
        """Start without the memory of repeats, which is not persisted."""
        # Most step 1 events repeat one of their user, hour and values, and are told by one look-up.
        self._repeats = [KeyedSet() for _ in self._beginning]

    def _field(self, unit: int) -> str:
        return "user" if self._funnel.units[unit] == "user" else "pair"

    def first_steps(self, first: FirstEvents) -> list[Changes]:
        """Count step 1 events whose dimension values are known: exact distinct units per hour and value."""
        found = []
        hours = first.time // BUCKET_MS
        for unit, counted, repeats in zip(self._beginning, self._counted, self._repeats, strict=True):
            keys = getattr(first, self._field(unit))
            new = np.flatnonzero(repeats.first_seen(hours, mix(keys, first.label)))
            if not len(new):
                continue
            codes = self._combinations.codes(first.label[new])
            place, column = np.nonzero(codes != ABSENT)
            code, hour = codes[place, column], hours[new][place]
            is_new = counted.first_seen(hour, mix(keys[new][place], self._combinations.hashes[code]))
            cell, many = np.unique(cells(unit, 1, code[is_new], hour[is_new] * BUCKET_MS), return_counts=True)
            found.append(_changes(cell, reached=many))
        return found

    def chains(self, before: Chains, after: Chains, of_users: Callable[[Keys], Chains]) -> list[Changes]:
        """What the rows of steps 2 and on gain and lose when chains become others (all chains of some pairs).

        `of_users`: all chains of users as they are now.
        """
        before, after = before[before["anchor"] != NEVER], after[after["anchor"] != NEVER]
        if not len(before) and not len(after):
            return []
        found = []
        for unit in range(len(self._funnel.units)):
            field = self._field(unit)
            label = "anchor_label" if field == "user" or self._funnel.hold_from == 1 else "label"
            sides = arrivals(before, field, label), arrivals(after, field, label)
            if field == "user":
                sides = self._user_arrivals.change(*sides, lambda users: arrivals(of_users(users), "user", "anchor_label"))
            found += [self._reached(unit, *sides), self._amounts(unit, before, after, label)]
        return found

    def _reached(self, unit: int, before: Arrivals, after: Arrivals) -> Changes:
        """Who is counted at steps, and with which time."""
        rows = np.concatenate((before, after))
        side = np.repeat(np.array([0, 1], dtype=np.uint64), [len(before), len(after)])
        codes = self._combinations.codes(rows["label"])
        row, column = np.nonzero(codes != ABSENT)
        cell = cells(unit, rows["step"][row], codes[row, column], rows["bucket"][row])
        counted = (mix(rows["unit"][row], cell.astype(np.uint64)) << np.uint64(1)) | side[row]
        order = np.argsort(counted)
        counted = counted[order]
        begins = np.flatnonzero(np.append(True, counted[1:] != counted[:-1])[: len(counted)])
        counted, cell = counted[begins], cell[order[begins]]
        sign = np.where(counted & np.uint64(1), 1, -1)
        took = took_ms(np.minimum.reduceat(rows["score"][row[order]], begins)) if len(begins) else np.empty(0, np.int64)
        # A unit's before and after lie side by side; where its time is the same, nothing changes.
        same = (counted[1:] >> np.uint64(1) == counted[:-1] >> np.uint64(1)) & (took[1:] == took[:-1])
        kept = ~(np.append(same, False) | np.append(False, same))[: len(counted)]
        cell, sign, took = cell[kept], sign[kept], took[kept]
        return _changes(cell, reached=sign, time=np.where(sign > 0, took, -1 - took))

    def _amounts(self, unit: int, before: Chains, after: Chains, label: str) -> Changes:
        """What the amounts of chains add to their buckets."""
        chains = np.concatenate((before, after))
        sign = np.repeat([-1, 1], [len(before), len(after)])
        row, step = reached_steps(chains)
        later = step > 2
        row, step = row[later], step[later]
        amount, other = (chains[name][row, step - 3] * sign[row] for name in ("amount", "other_currency"))
        paid = np.flatnonzero((amount != 0) | (other != 0))
        codes = self._combinations.codes(chains[label][row[paid]])
        place, column = np.nonzero(codes != ABSENT)
        at = paid[place]
        cell = cells(unit, step[at], codes[place, column], chains["anchor"][row[at]])
        return _changes(cell, amount=amount[at], other_currency=other[at])

    def advance(self, floor: int) -> None:
        """No event before `floor` will come: forget its hours, and the arrivals of mature buckets."""
        hour = max(floor // BUCKET_MS, 0)
        if hour == self._hour:
            return
        self._hour = hour
        for keys in (*self._counted, *self._repeats):
            keys.expire(hour)
        self._user_arrivals.prune(floor - self._funnel.matures_after_ms - BUCKET_MS)

    def parts(self) -> list[Persistent]:
        """What has to be persisted."""
        return [self._user_arrivals, *self._counted]


def _changes(
    cell: Int64s,
    reached: Int64s | None = None,
    amount: Int64s | None = None,
    other_currency: Int64s | None = None,
    time: Int64s | None = None,
) -> Changes:
    nothing = np.zeros(len(cell), dtype=np.int64)
    return Changes(
        cell,
        nothing if reached is None else reached,
        nothing if amount is None else amount,
        nothing if other_currency is None else other_currency,
        np.full(len(cell), UNREACHED) if time is None else time,
    )


def increments(funnel: Funnel, combinations: Combinations, changes: Sequence[Changes]) -> pl.DataFrame:
    """Changes summed per row of the table, with the row's names: a frame of INCREMENTS."""
    cell, *sums, time = (np.concatenate([getattr(c, name) for c in changes]) for name in Changes.__slots__)
    if not len(cell):
        return pl.DataFrame(schema=INCREMENTS)
    order = np.argsort(cell)
    cell, time = cell[order], time[order]
    begins = np.flatnonzero(np.append(True, cell[1:] != cell[:-1]))
    reached, amount, other = (np.add.reduceat(column[order], begins) for column in sums)
    timed = time < UNREACHED
    offsets = np.append(0, np.cumsum(timed))[np.append(begins, len(cell))]
    times = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(time[timed]))
    cell = cell[begins]
    hour = cell & ((1 << _HOUR_BITS) - 1)
    code = (cell >> _HOUR_BITS) & ((1 << _CODE_BITS) - 1)
    step = (cell >> (_HOUR_BITS + _CODE_BITS)) & ((1 << _STEP_BITS) - 1)
    unit = cell >> (_HOUR_BITS + _CODE_BITS + _STEP_BITS)
    name = hash64(pl.Series([f"{funnel.name}\0{unit}" for unit in funnel.units])).to_numpy()
    place = mix(name[unit], ((hour << _STEP_BITS) | step).astype(np.uint64))
    names = [combinations.names[c] for c in code.tolist()]
    return pl.DataFrame(
        {
            "row": mix(place, combinations.hashes[code]),
            "funnel": [funnel.name] * len(cell),
            "unit": [funnel.units[u] for u in unit.tolist()],
            "bucket_start": hour * BUCKET_MS,
            "dim": [dim for dim, _ in names],
            "value": [value for _, value in names],
            "step": step.astype(np.uint8),
            "reached": reached,
            "amount_minor": amount,
            "other_currency_events": other,
            "times": pl.Series(times),
        },
        schema=INCREMENTS,
    )
