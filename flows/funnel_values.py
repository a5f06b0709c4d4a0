"""Dimension values of funnel events: every combination of values once, so that state holds a 64-bit label instead.

A label is `DataFrame.hash_rows` of the values. It need not be stable between versions of Polars: state carries the
values of each label, so another version's label of the same values only makes a second entry. What counts rows and
breaks ties is the stable hash of `schemas.hashing`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.funnel_pairs import ABSENT, Values
from flows.id_sets import RecentKeys
from schemas.events import ALL
from schemas.hashing import hash64, mix

Keys = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int32]

Number = TypeVar("Number", np.uint64, np.int64)

_LABEL = "label"


class Combinations:
    """Labels of combinations of dimension values, and the codes of their values.

    A code numbers a (dimension, value) pair; code 0 is the whole (`all`).
    """

    def __init__(self, dimensions: Sequence[str]) -> None:
        self.dimensions = tuple(dimensions)
        self._dimension_hashes = hash64(pl.Series([ALL, *self.dimensions])).to_numpy()
        self._fresh: list[pl.DataFrame] | None = None
        self._clear()

    def _clear(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self._labels = np.empty(0, dtype=np.uint64)  # ascending
        self._ranks = np.empty(0, dtype=np.uint64)
        self._codes = np.empty((0, 1 + len(self.dimensions)), dtype=np.int32)
        self._met = RecentKeys(14)  # labels that are known: most events repeat one
        self._code_of: dict[tuple[int, str], int] = {(0, ""): 0}
        self.names: list[tuple[str, str]] = [(ALL, "")]  # dimension and value per code
        self.hashes = mix(self._dimension_hashes[:1], hash64(pl.Series([""])).to_numpy())  # per code, stable

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, frame: pl.DataFrame) -> Keys:
        """The label of each event (n,)."""
        if not self.dimensions:
            return np.zeros(frame.height, dtype=np.uint64)
        return frame[list(self.dimensions)].hash_rows(seed=0).to_numpy()

    def learn(self, labels: Keys, frame: pl.DataFrame, rows: npt.NDArray[np.intp]) -> None:
        """Take in the combinations of `frame[rows]`, whose labels are `labels[rows]`."""
        rows = rows[self._met.unmet(labels[rows])]
        rows = rows[~among(labels[rows], self._labels)]
        if len(rows):
            new, first = np.unique(labels[rows], return_index=True)
            values = frame[list(self.dimensions)][rows[first]]
            self._add(values.with_columns(pl.Series(_LABEL, new)))

    def _add(self, frame: pl.DataFrame) -> None:
        """Take in combinations with labels that are new and ascending."""
        self._frames.append(frame)
        if self._fresh is not None:
            self._fresh.append(frame)
        labels = frame[_LABEL].to_numpy()
        codes = np.zeros((len(labels), 1 + len(self.dimensions)), dtype=np.int32)
        known = len(self.names)
        for column, dimension in enumerate(self.dimensions, start=1):
            codes[:, column] = [self._code(column, value) for value in frame[dimension].to_list()]
        if len(self.names) > known:
            self._hash_names(known)
        ranks = np.zeros(len(labels), dtype=np.uint64)
        for column in range(1, 1 + len(self.dimensions)):
            hashes = np.where(codes[:, column] == ABSENT, np.uint64(0), self.hashes[codes[:, column]])
            ranks = mix(ranks, hashes)
        at = np.searchsorted(self._labels, labels)
        self._labels = np.insert(self._labels, at, labels)
        self._ranks = np.insert(self._ranks, at, ranks)
        self._codes = np.insert(self._codes, at, codes, axis=0)

    def _code(self, column: int, value: str | None) -> int:
        if value is None:
            return ABSENT
        code = self._code_of.setdefault((column, value), len(self.names))
        if code == len(self.names):
            self.names.append((self.dimensions[column - 1], value))
        return code

    def _hash_names(self, known: int) -> None:
        columns = [column for column, _ in list(self._code_of)[known:]]
        values = hash64(pl.Series([value for _, value in self.names[known:]], dtype=pl.String)).to_numpy()
        self.hashes = np.concatenate((self.hashes, mix(self._dimension_hashes[columns], values)))

    def values(self) -> Values:
        """What compiled code asks of the combinations."""
        return Values(self._labels, self._ranks, self._codes)

    def rank(self, labels: Keys) -> Keys:
        """A stable number per combination: of two events of one user and millisecond the one with the higher counts."""
        return self._ranks[np.searchsorted(self._labels, labels)]

    def codes(self, labels: Keys) -> Codes:
        """Codes of each combination, `all` first: shape (n, 1 + dimensions); ABSENT where the event had no value."""
        return self._codes[np.searchsorted(self._labels, labels)]

    def forget(self, used: Keys) -> None:
        """Keep only the labels in `used` (ascending)."""
        frames = [frame.filter(pl.Series(among(frame[_LABEL].to_numpy(), used))) for frame in self._frames]
        fresh, self._fresh = self._fresh, None
        self._clear()
        for frame in frames:
            if frame.height:
                self._add(frame)
        self._fresh = fresh

    def snapshot(self) -> bytes:
        """All combinations; starts a new delta."""
        self._fresh = []
        return _pack(self._frames)

    def delta(self) -> bytes:
        """Combinations since the last `snapshot` or `delta`; all where there was none."""
        fresh = self._frames if self._fresh is None else self._fresh
        self._fresh = []
        return _pack(fresh)

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the combinations that wrote these."""
        self._fresh = None
        self._clear()
        for blob in (snapshot, *deltas):
            if blob:
                frame = pl.read_ipc(io.BytesIO(blob))
                new = (
                    frame.filter(pl.Series(~among(frame[_LABEL].to_numpy(), self._labels))).unique(_LABEL).sort(_LABEL)
                )
                if new.height:
                    self._add(new)
        self._fresh = []


def ascending(keys: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Distinct keys in order. `np.unique` has a hash table for integers that costs ten times what sorting does."""
    keys = np.sort(keys)
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def among(keys: Keys, held: Keys) -> npt.NDArray[np.bool_]:
    """Which of `keys` are in `held` (ascending)."""
    if not len(held):
        return np.zeros(len(keys), dtype=np.bool_)
    at = np.searchsorted(held, keys)
    at[at == len(held)] = 0
    mask: npt.NDArray[np.bool_] = held[at] == keys
    return mask


def _pack(frames: list[pl.DataFrame]) -> bytes:
    if not frames:
        return b""
    buffer = io.BytesIO()
    pl.concat(frames).write_ipc(buffer)
    return buffer.getvalue()
