"""What is known of each topic, as columns: one NumPy array a field, one place (slot) a topic.

Kept apart from the rules that move it (`flows.heat_ticks`, `flows.topic_lifecycle`), so that copying, growing,
resetting and packing are written once for all fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from flows.id_sets import KeyIndex
from schemas.hashing import hash64

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

NEVER: Final = -(1 << 40)
"""A minute before all minutes."""
NO_TIME: Final = 1 << 62
"""An event time after all event times."""
HOUR_WINDOWS: Final = 6
"""Ten-minute windows in an hour."""
FIT_BASES: Final = 4
"""Regressors of the decay fit (`flows.topic_lifecycle.BASES`)."""

_LAYOUT: Final[dict[str, tuple[type[np.generic], float, int]]] = {
    # field: type, value of an unknown topic, rows (0: one value a topic)
    "last": (np.int64, NEVER, 0),  # last minute with an event
    "heat": (np.float64, 0.0, 0),  # heat at the end of `heat_minute`
    "heat_minute": (np.int64, NEVER, 0),  # last minute with weight: a weightless event must not round heat once more
    "first_ms": (np.int64, NO_TIME, 0),  # time of the first event
    "peak_heat": (np.float64, 0.0, 0),
    "above_minute": (np.int64, NEVER, 0),  # last minute with an event after which heat was at least half of its peak
    "above_heat": (np.float64, 0.0, 0),  # heat there
    "weight_total": (np.float64, 0.0, 0),
    "events_total": (np.int64, 0, 0),
    "window": (np.int64, 0, 0),  # events of the ten minutes under way
    "recent": (np.int64, 0, HOUR_WINDOWS),  # events of the last six windows, by window number modulo 6
    "growth": (np.float64, np.nan, 0),  # g at the last ten-minute tick
    "stage": (np.uint8, 0, 0),
    "candidate": (np.uint8, 0, 0),  # what the last tick asked the stage to be
    "peak": (np.int64, 0, 0),  # most events of a window
    "peak_window": (np.int64, NEVER, 0),
    "trough": (np.int64, 0, 0),  # fewest events of a window since the peak, or since the last revival began
    "was_low": (np.bool_, 0, 0),  # the last window had at most half of the peak
    "half_life": (np.int64, -1, 0),  # minutes; -1: not reached
    "fitting": (np.bool_, 0, 0),  # windows still count for the decay fit
    "fit_windows": (np.int64, 0, 0),
    "fit_w": (np.float64, 0.0, 0),  # Σ c, c = events of a window, over the windows fitted
    "fit_y": (np.float64, 0.0, 0),  # Σ c·y, y = ln(c / peak)
    "fit_yy": (np.float64, 0.0, 0),
    "fit_x": (np.float64, 0.0, FIT_BASES),  # Σ c·x per regressor
    "fit_xx": (np.float64, 0.0, FIT_BASES),
    "fit_xy": (np.float64, 0.0, FIT_BASES),
    "tick_heat": (np.float64, 0.0, 0),  # heat at the last ten-minute tick
    "was_above": (np.bool_, 0, 0),  # heat was at least half of its peak there
}


@dataclass(slots=True)
class TopicColumns:
    """All fields of `size` slots: arrays of shape (capacity,) or (rows, capacity), with defaults beyond `size`."""

    size: int
    last: Int64s
    heat: Floats
    heat_minute: Int64s
    first_ms: Int64s
    peak_heat: Floats
    above_minute: Int64s
    above_heat: Floats
    weight_total: Floats
    events_total: Int64s
    window: Int64s
    recent: Int64s
    growth: Floats
    stage: Codes
    candidate: Codes
    peak: Int64s
    peak_window: Int64s
    trough: Int64s
    was_low: Mask
    half_life: Int64s
    fitting: Mask
    fit_windows: Int64s
    fit_w: Floats
    fit_y: Floats
    fit_yy: Floats
    fit_x: Floats
    fit_xx: Floats
    fit_xy: Floats
    tick_heat: Floats
    was_above: Mask

    @classmethod
    def empty(cls, capacity: int = 64) -> TopicColumns:
        """No topics."""
        return cls(size=0, **{name: _blank(name, capacity) for name in _LAYOUT})

    def copy(self) -> TopicColumns:
        """The same figures in arrays of their own."""
        return TopicColumns(size=self.size, **{name: getattr(self, name).copy() for name in _LAYOUT})

    def resize(self, size: int) -> None:
        """Hold at least `size` slots, new ones with the values of an unknown topic."""
        capacity = len(self.last)
        if size > capacity:
            extra = max(size, 2 * capacity) - capacity
            for name in _LAYOUT:
                setattr(self, name, np.concatenate((getattr(self, name), _blank(name, extra)), axis=-1))
        self.size = max(self.size, size)

    def reset(self, slots: Int64s) -> None:
        """Make topics unknown again."""
        for name, (_, default, _) in _LAYOUT.items():
            getattr(self, name)[..., slots] = default

    def pack(self) -> dict[str, Any]:
        """As arrays for `pack`."""
        return {name: np.ascontiguousarray(getattr(self, name)[..., : self.size]) for name in _LAYOUT}

    @classmethod
    def unpack(cls, size: int, arrays: Mapping[str, npt.NDArray[Any]]) -> TopicColumns:
        """What `pack` gave, for `size` slots."""
        state = cls.empty(max(64, size))
        state.size = size
        for name in _LAYOUT:
            getattr(state, name)[..., :size] = arrays[name]
        return state


def _blank(name: str, capacity: int) -> npt.NDArray[Any]:
    dtype, default, rows = _LAYOUT[name]
    return np.full((rows, capacity) if rows else capacity, default, dtype=dtype)


class TopicSlots:
    """Which topic has which slot, by the topic's hash. A slot is given up with its topic and used again."""

    def __init__(self, names: Iterable[str | None] = ()) -> None:
        self._names: list[str | None] = list(names)
        self._free = [slot for slot, name in enumerate(self._names) if name is None]
        self._series: pl.Series | None = None
        self._order: Int64s | None = None
        self._number()

    def _number(self) -> None:
        """Give ids to the topics that have slots, and to no others."""
        self._index = KeyIndex()
        self._slot_of: Int64s = np.zeros(0, dtype=np.int64)  # by id, −1 where the topic has none
        held = [slot for slot, name in enumerate(self._names) if name is not None]
        ids = self._ids(pl.Series([self._names[slot] for slot in held], dtype=pl.String))
        self._slot_of[ids] = held

    def _ids(self, topics: pl.Series) -> Int64s:
        ids = self._index.ids(hash64(topics).to_numpy())
        more = max(0, len(self._index) + 1 - len(self._slot_of))
        if more:
            more += len(self._slot_of) // 4
            self._slot_of = np.concatenate((self._slot_of, np.full(more, -1, dtype=np.int64)))
        return ids

    def __len__(self) -> int:
        """Slots ever used: one more than the greatest slot."""
        return len(self._names)

    @property
    def names(self) -> list[str | None]:
        """Topic by slot, None where the slot is free."""
        return self._names

    def of(self, topics: pl.Series) -> tuple[Int64s, list[int]]:
        """Slots of `topics`, and those that are new."""
        ids = self._ids(topics)
        fresh: list[int] = []
        for place in np.flatnonzero(self._slot_of[ids] < 0).tolist():
            if self._slot_of[ids[place]] < 0:  # it may have come twice
                fresh.append(self._take(topics[place]))
                self._slot_of[ids[place]] = fresh[-1]
        return self._slot_of[ids], fresh

    def _take(self, topic: str) -> int:
        if self._free:
            slot = self._free.pop()
            self._names[slot] = topic
        else:
            slot = len(self._names)
            self._names.append(topic)
        self._series = self._order = None
        return slot

    def release(self, slots: Iterable[int]) -> None:
        """Give up the topics of these slots."""
        for slot in slots:
            assert self._names[slot] is not None
            self._names[slot] = None
            self._free.append(slot)
        self._series = self._order = None
        self._number()

    def topics(self, slots: Int64s) -> pl.Series:
        """Names of `slots` (length n), as text."""
        if self._series is None:
            self._series = pl.Series("topic", self._names, dtype=pl.String)
        return self._series.gather(slots)

    def order(self) -> Int64s:
        """By slot: the place of its name among all names, by code points."""
        if self._order is None:
            self._order = np.empty(len(self._names), dtype=np.int64)
            names = pl.Series(self._names, dtype=pl.String).fill_null("")
            self._order[names.arg_sort().to_numpy()] = np.arange(len(self._names))
        return self._order


def pack(value: Mapping[str, Any]) -> bytes:
    """MessagePack of plain values and NumPy arrays (an extension of type, shape and bytes)."""
    return _ENCODER.encode(value)


def unpack(blob: bytes) -> dict[str, Any]:
    """What `pack` was given, tuples as lists."""
    value: dict[str, Any] = _DECODER.decode(blob)
    return value


def _encode_array(item: object) -> msgspec.msgpack.Ext:
    if not isinstance(item, np.ndarray):
        raise TypeError(f"{type(item).__name__} is no plain value")
    return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode((item.dtype.str, item.shape, item.tobytes())))


def _decode_array(code: int, payload: memoryview) -> npt.NDArray[Any]:
    if code != _ARRAY:
        raise ValueError(f"extension {code} of MessagePack; this version knows {_ARRAY}")
    dtype, shape, content = msgspec.msgpack.decode(payload)
    return np.frombuffer(content, dtype=dtype).reshape(shape).copy()


_ARRAY: Final = 1
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_DECODER: Final = msgspec.msgpack.Decoder(ext_hook=_decode_array)
