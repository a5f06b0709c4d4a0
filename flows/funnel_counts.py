"""From step 1 events and what changed in chains to increments: what to add to which row of the table `funnel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from flows.funnel_events import FirstEvents
from flows.funnel_pairs import ABSENT, CODE_BITS, HOUR_BITS, STEP_BITS, UNREACHED
from flows.funnel_values import Combinations
from flows.grouping import distinct
from flows.keyed_set import KeyedSet
from schemas.decode_columns import number_array
from schemas.funnels import BUCKET_MS, Funnel
from schemas.hashing import hash64, mix

Int64s = npt.NDArray[np.int64]

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
        self.forget_repeats()

    def forget_repeats(self) -> None:
        """Start without the memory of repeats, which is not persisted."""
        # Most step 1 events repeat one of their user, hour and values, and are told by one look-up.
        self._repeats = [KeyedSet() for _ in self._units]

    def fold(self, first: FirstEvents) -> list[Changes]:
        """Count step 1 events whose dimension values are known."""
        found = []
        hours = first.time // BUCKET_MS
        labels = first.label.view(np.uint64)
        for (unit, field), counted, repeats in zip(self._units, self._counted, self._repeats, strict=True):
            keys = getattr(first, field).view(np.uint64)
            new = np.flatnonzero(repeats.first_seen(hours, mix(keys, labels)))
            if not len(new):
                continue
            codes = self._combinations.codes(labels[new])
            place, column = np.nonzero(codes != ABSENT)
            code, hour = codes[place, column].astype(np.int64), hours[new][place]
            is_new = counted.first_seen(hour, mix(keys[new][place], self._combinations.hashes[code]))
            cell = (((((unit << STEP_BITS) | 1) << CODE_BITS) | code[is_new]) << HOUR_BITS) | hour[is_new]
            nothing = np.zeros(len(cell), dtype=np.int64)
            found.append(Changes(cell, np.ones_like(cell), nothing, nothing, np.full(len(cell), UNREACHED)))
        return found

    def advance(self, floor: int) -> None:
        """No event before `floor` will come: forget its hours."""
        for keys in (*self._counted, *self._repeats):
            keys.expire(max(floor // BUCKET_MS, 0))

    def parts(self) -> list[KeyedSet]:
        """What has to be persisted."""
        return self._counted


def _uncancelled(cell: Int64s, time: Int64s) -> tuple[Int64s, Int64s]:
    """Times gained and lost (sorted by cell), without those that a cell both gained and lost.

    A pair with several chains is uncounted and counted again as a whole, in rows of mature buckets too, which the merge
    has forgotten: of those nothing may be left.
    """
    lost = time < 0
    if not lost.any():
        return cell, time
    mixed = np.isin(cell, cell[lost])
    cells, times = cell[mixed], time[mixed]
    took = np.where(times < 0, -1 - times, times)
    order = np.lexsort((took, cells))
    cells, took, sign = cells[order], took[order], np.where(times[order] < 0, -1, 1)
    begins = np.flatnonzero(np.append(True, (cells[1:] != cells[:-1]) | (took[1:] != took[:-1])))
    net = np.add.reduceat(sign, begins)
    cells, times = cells[begins], np.where(net < 0, -1 - took[begins], took[begins])
    every = np.append(cell[~mixed], np.repeat(cells, np.abs(net)))
    order = np.argsort(every, kind="stable")
    return every[order], np.append(time[~mixed], np.repeat(times, np.abs(net)))[order]


class RowNames:
    """The columns of INCREMENTS that name the rows of cells."""

    def __init__(self, funnel: Funnel, combinations: Combinations) -> None:
        self._combinations = combinations
        self._hashes = hash64(pl.Series([f"{funnel.name}\0{unit}" for unit in funnel.units])).to_numpy()
        self._funnel, self._units = funnel.name, pl.Series(funnel.units, dtype=pl.String)

    def columns(self, cell: Int64s) -> list[pl.Series]:
        """Row, funnel, unit, bucket_start, dim, value and step of each cell."""
        hour = cell & ((1 << HOUR_BITS) - 1)
        code = (cell >> HOUR_BITS) & ((1 << CODE_BITS) - 1)
        step = (cell >> (HOUR_BITS + CODE_BITS)) & ((1 << STEP_BITS) - 1)
        unit = cell >> (HOUR_BITS + CODE_BITS + STEP_BITS)
        place = mix(self._hashes[unit], ((hour << STEP_BITS) | step).astype(np.uint64))
        names = [self._combinations.names[c] for c in code.tolist()]
        return [
            pl.Series(mix(place, self._combinations.hashes[code])),
            pl.Series([self._funnel]).new_from_index(0, len(cell)),
            self._units.gather(unit),
            pl.Series(hour * BUCKET_MS),
            pl.Series([dim for dim, _ in names], dtype=pl.String),
            pl.Series([value for _, value in names], dtype=pl.String),
            pl.Series(step.astype(np.uint8)),
        ]


def increments(names: RowNames, changes: Sequence[Changes]) -> pl.DataFrame:
    """Changes summed per row of the table, with the row's names: a frame of INCREMENTS."""
    if not any(len(change.cell) for change in changes):
        return pl.DataFrame(schema=INCREMENTS)
    every, *sums, time = (np.concatenate([getattr(c, name) for c in changes]) for name in Changes.__slots__)
    cell, place = distinct(every)
    figures = [np.zeros(len(cell), dtype=np.int64) for _ in sums]
    for total, column in zip(figures, sums, strict=True):
        np.add.at(total, place, column)
    timed = np.flatnonzero(time < UNREACHED)
    timed = timed[np.argsort(place[timed], kind="stable")]
    of_time, times = _uncancelled(every[timed], time[timed])
    offsets = np.append(np.searchsorted(of_time, cell), len(of_time))
    kept = np.flatnonzero(np.any(figures, axis=0) | (np.diff(offsets) > 0))
    lists = pl.Series(pa.LargeListArray.from_arrays(number_array(offsets), number_array(times)))
    columns = [*names.columns(cell[kept]), *(pl.Series(f[kept]) for f in figures), lists.gather(kept)]
    return pl.DataFrame(dict(zip(INCREMENTS, columns, strict=True)), schema=INCREMENTS)
