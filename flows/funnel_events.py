"""Which events of a frame are which step of a funnel, as rows of fixed shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.events import KIND
from schemas.funnels import Funnel, Match
from schemas.hashing import hash64, mix

Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]
Events = npt.NDArray[Any]

EXCLUSION: Final = 0
EVENT: Final = np.dtype(
    [
        ("user", "u8"),
        ("pair", "u8"),  # hash of (user, held value)
        ("time", "i8"),
        ("step", "i8"),  # 1-based; EXCLUSION
        ("label", "u8"),  # of the dimension values, see flows.funnel_values
        ("amount", "i8"),  # minor units; 0 in another currency
        ("other_currency", "i8"),  # 1: the amount is in another currency
    ]
)
"""One event as one step; an event that matches two steps is two rows."""


class EventFrame:
    """A frame with what all funnels ask of it, computed once."""

    def __init__(self, frame: pl.DataFrame, labels: Keys, currency: str) -> None:
        self.frame = frame
        self.users: Keys = frame["user_hash"].to_numpy()
        self.times = frame["event_time"].to_numpy()
        self.labels = labels
        self._currency = currency
        self._kinds = frame["kind"].to_numpy()
        self._first_reports: Mask = ~frame["continued"].fill_null(value=False).to_numpy()
        self._masks: dict[tuple[str, tuple[str, ...]], Mask] = {}

    def places(self, events: Sequence[Match]) -> Places:
        """Rows that match any of `events`."""
        chosen = np.zeros(len(self.users), dtype=np.bool_)
        for match in events:
            mask = self._kinds == KIND[match.topic]
            if not mask.any():
                continue
            for name, values in match.where.items():
                mask &= self._having(name, values)
            chosen |= mask
        return np.flatnonzero(chosen & self._first_reports)

    def _having(self, name: str, values: tuple[str, ...]) -> Mask:
        """Rows whose field has one of `values`."""
        mask = self._masks.get((name, values))
        if mask is None:
            column = self.frame[name]
            found = column == values[0] if len(values) == 1 else column.is_in(values)
            mask = self._masks[name, values] = found.fill_null(value=False).to_numpy()
        return mask

    def amounts(self, rows: Places) -> tuple[npt.NDArray[np.int64], Mask]:
        """Amounts in minor units, 0 in another currency than the platform's; and which are in another."""
        other = (self.frame["currency"][rows].fill_null(self._currency) != self._currency).to_numpy()
        amount = self.frame["amount_minor"][rows].fill_null(0).to_numpy()
        return np.where(other, 0, amount), other


def read_steps(funnel: Funnel, frame: EventFrame) -> tuple[Events, Places]:
    """The events of `frame` that are a step or an exclusion, and their rows; where a held value is due, those with one."""
    first = frame.places(funnel.steps[0].events)
    held = [(number, frame.places(step.events)) for number, step in enumerate(funnel.steps[1:], start=2)]
    held += [(EXCLUSION, frame.places(exclusion.events)) for exclusion in funnel.exclusions]
    if funnel.hold_from == 1:
        held.insert(0, (1, first))
    rows = np.concatenate([places for _, places in held])
    steps = np.repeat([number for number, _ in held], [len(places) for _, places in held])
    values = hash64(frame.frame[funnel.hold][rows])
    known = values.is_not_null().to_numpy()
    rows, steps, hashes = rows[known], steps[known], values.drop_nulls().to_numpy()
    pairs = mix(frame.users[rows], hashes)
    if funnel.hold_from == 2:  # step 1 belongs to no value
        rows, steps = np.concatenate((first, rows)), np.concatenate((np.ones(len(first), steps.dtype), steps))
        pairs = np.concatenate((np.zeros(len(first), np.uint64), pairs))
    events = np.zeros(len(rows), dtype=EVENT)
    events["user"], events["pair"], events["time"] = frame.users[rows], pairs, frame.times[rows]
    events["step"], events["label"] = steps, frame.labels[rows]
    counted = np.flatnonzero(np.isin(steps, [n for n, step in enumerate(funnel.steps, start=1) if step.amount]))
    if len(counted):
        amounts, other = frame.amounts(rows[counted])
        events["amount"][counted], events["other_currency"][counted] = amounts, other
    return events, rows
