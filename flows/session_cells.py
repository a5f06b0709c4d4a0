"""Sums by key and window, as one matrix: what the merge kernels of live rooms keep, give out, persist and forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.funnel_pairs import Int64s
from flows.id_sets import KeyIndex
from schemas.decode_compile import compiled

_SMALLEST: Final = 64
_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Due:
    """Cells that are to be given out. Shape (n,), and (n, width) of `sums`."""

    places: Int64s
    starts: Int64s
    sums: Int64s
    is_final: npt.NDArray[np.uint8]


class Cells:
    """A cell is a window (`start`, `size_ms`) of a room or of an item in it, with texts that name it.

    Columns of the sums before `sums` are added up, the next `least` keep their least value, the others the greatest.
    """

    def __init__(self, size_ms: int, width: int, *, sums: int | None = None, least: int = 0, texts: int = 2) -> None:
        self._size, self._width, self._texts = size_ms, width, texts
        self._sum_columns = width if sums is None else sums
        self._least_columns = self._sum_columns + least
        self._clear()

    def _clear(self) -> None:
        self._index = KeyIndex()
        self.sums: Int64s = np.zeros((_SMALLEST, self._width), dtype=np.int64)
        self._starts: Int64s = np.zeros(_SMALLEST, dtype=np.int64)
        self._flags = np.zeros((3, _SMALLEST), dtype=np.bool_)  # changed, unsaved, given out as final
        self.texts: list[list[str]] = [[] for _ in range(self._texts)]
        self._next_end = _NEVER
        self._forgotten = -_NEVER
        self.is_unsaved = False  # something changed or was forgotten since the last `pack`

    def __len__(self) -> int:
        return len(self._index)

    def places(self, keys: Int64s, starts: Int64s, texts: Sequence[pl.Series]) -> Int64s:
        """Where the cells of these keys are (arrays of length n); new ones are made. They count as changed."""
        known = len(self._index)
        places = self._index.ids(keys.view(np.uint64)) - 1
        count = len(self._index)
        if count > known:
            fresh, first = np.unique(places, return_index=True)
            first = first[fresh >= known]
            self._grow(count)
            self._starts[known:count] = starts[first]
            self.sums[known:count, : self._sum_columns] = 0
            self.sums[known:count, self._sum_columns : self._least_columns] = _NEVER
            self.sums[known:count, self._least_columns :] = -_NEVER
            self._flags[2, known:count] = False
            for held, given in zip(self.texts, texts, strict=True):
                held.extend(given.gather(first).fill_null("").to_list())
        self._flags[:2, places] = self.is_unsaved = True
        self._next_end = min(self._next_end, int(starts.min(initial=_NEVER)) + self._size)
        return places

    def _grow(self, count: int) -> None:
        size = len(self._starts)
        if count <= size:
            return
        more = max(count, 2 * size) - size
        self.sums = np.concatenate((self.sums, np.zeros((more, self._width), dtype=np.int64)))
        self._starts = np.concatenate((self._starts, np.zeros(more, dtype=np.int64)))
        self._flags = np.concatenate((self._flags, np.zeros((3, more), dtype=np.bool_)), axis=1)

    def add(self, places: Int64s, sums: Int64s) -> None:
        """Add increments: places of shape (n,), sums of shape (n, width or less)."""
        _add(places, np.ascontiguousarray(sums), self.sums, self._sum_columns, self._least_columns)

    def due(self, watermark: int, *, early: bool) -> Due | None:
        """Cells that changed or became final since they were given out; without `early` final ones only."""
        if not early and watermark < self._next_end:
            return None
        count = len(self._index)
        changed, _, told = self._flags[:, :count]
        starts = self._starts[:count]
        final = starts + self._size <= watermark
        places = np.flatnonzero((final & (changed | ~told)) | (changed & early))
        self._flags[0, places] = False
        self._flags[2, places] = final[places]
        open_ends = starts[~final] + self._size
        self._next_end = int(open_ends.min()) if len(open_ends) else _NEVER
        if not len(places):
            return None
        return Due(places, starts[places], self.sums[places], final[places].astype(np.uint8))

    def forget(self, before: int) -> None:
        """Forget cells whose window ended at or before `before`."""
        self._forgotten = max(self._forgotten, before)
        count = len(self._index)
        kept = self._starts[:count] + self._size > before
        if kept.all():
            return
        self.is_unsaved = True
        places = np.flatnonzero(kept)
        keys = self._index.keys[places].copy()
        self._index = KeyIndex(keys)
        self.sums[: len(places)] = self.sums[places]
        self._starts[: len(places)] = self._starts[places]
        self._flags[:, : len(places)] = self._flags[:, places]
        self.texts = [[held[place] for place in places.tolist()] for held in self.texts]

    def text(self, number: int, places: Int64s, name: str) -> pl.Series:
        """A text of these cells."""
        held = self.texts[number]
        return pl.Series(name, [held[place] for place in places.tolist()], dtype=pl.String)

    def pack(self, *, full: bool) -> dict[str, Any]:
        """All cells, or those that changed since the last call, as plain values."""
        count = len(self._index)
        places = np.arange(count) if full else np.flatnonzero(self._flags[1, :count])
        self._flags[1] = self.is_unsaved = False
        return {
            "keys": self._index.keys[places].view(np.int64), "starts": self._starts[places],
            "sums": self.sums[places], "texts": [[held[p] for p in places.tolist()] for held in self.texts],
            "forgotten": self._forgotten,
        }  # fmt: skip

    def unpack(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Become what wrote these, one after the other. Every cell comes out once more."""
        self._clear()
        for value in values:
            texts = [pl.Series(given, dtype=pl.String) for given in value["texts"]]
            places = self.places(value["keys"], value["starts"], texts)
            self.sums[places] = value["sums"]
            for held, given in zip(self.texts, value["texts"], strict=True):
                for place, text in zip(places.tolist(), given, strict=True):
                    held[place] = text
            # A cell that was forgotten may have changed after it was last written: what is known of it is old.
            self.forget(value["forgotten"])
        self._flags[1] = self.is_unsaved = False


@compiled
def _add(places: Int64s, sums: Int64s, into: Int64s, summed: int, least: int) -> None:
    for i in range(len(places)):
        at = places[i]
        for column in range(sums.shape[1]):
            if column < summed:
                into[at, column] += sums[i, column]
            elif column < least:
                into[at, column] = min(into[at, column], sums[i, column])
            else:
                into[at, column] = max(into[at, column], sums[i, column])
