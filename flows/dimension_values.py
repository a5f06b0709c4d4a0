"""Codes for the values of a dimension, so that a batch is counted by small integers and not by strings.

Codes live as long as the process and are never stored: what is stored are stable hashes and, in rows, the strings.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.id_sets import KeyIndex
from schemas.events import OTHER

Codes = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

NONE: Final = 0
"""The code of an absent value."""
_TAIL: Final = 1  # the code of OTHER
_FORGET_AT: Final = 4  # times the cap


def stable_hash(dimension: str, value: str) -> int:
    """A 64-bit hash of a dimension's value that is the same in every process and version."""
    blob = f"{dimension}\0{value}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(blob, digest_size=8).digest(), "little")


class DimensionValues:
    """The values met in one dimension. Beyond `cap` of them in one hour, further ones count as `__other__`.

    Which ones are beyond depends on the order of arrival and on restarts: it bounds memory and promises no figures.
    """

    def __init__(self, dimension: str, cap: int) -> None:
        self.name = dimension
        self._cap = cap
        self._admitted: dict[int, set[int]] = {}  # hour → codes, kept only once there are more than `cap` values
        self._forget()

    def _forget(self) -> None:
        self.names: list[str] = ["", OTHER]
        self._hashes: list[int] = [0, stable_hash(self.name, OTHER)]
        self.hashes: Keys = np.array(self._hashes, dtype=np.uint64)  # stable hash by code; 0 for an absent value
        none = pl.Series([None], dtype=pl.String).hash().to_numpy()
        self._met = KeyIndex(none)  # Polars' hashes of values met; the first is that of an absent value
        self._met_codes = np.array([NONE, NONE], dtype=np.int64)  # by id
        self._admitted.clear()

    def codes(self, column: pl.Series, hashes: Keys, hours: Int64s) -> Codes:
        """The code of each value of a String column.

        `hashes` are what Polars hashes the column to; `hours` are the numbers of the events' UTC hours. Shapes:
        n, n, n → n. Codes given before may be void: use only what this and later calls answer.
        """
        if len(self.names) > _FORGET_AT * self._cap + 2:
            self._forget()
        if column.null_count() == len(column):
            return np.zeros(len(column), dtype=np.int64)
        ids = self._met.ids(hashes)
        if len(self._met) >= len(self._met_codes):
            self._learn(ids, column)
        codes: Codes = self._met_codes.take(ids)
        if len(self.names) > self._cap + 2:
            self._fold_tail(codes, hours)
        return codes

    def _learn(self, ids: Codes, column: pl.Series) -> None:
        """Give codes to values whose hashes were met for the first time."""
        new = np.arange(len(self._met_codes), len(self._met) + 1)
        places = np.zeros(len(self._met) + 1, dtype=np.int64)
        places[ids[::-1]] = np.arange(len(ids))[::-1]
        codes = []
        for value in column.gather(places[new]).to_list():
            if value == OTHER:
                codes.append(_TAIL)
                continue
            codes.append(len(self.names))
            self.names.append(value)
            self._hashes.append(stable_hash(self.name, value))
        self._met_codes = np.concatenate((self._met_codes, np.array(codes, dtype=np.int64)))
        self.hashes = np.array(self._hashes, dtype=np.uint64)

    def _fold_tail(self, codes: Codes, hours: Int64s) -> None:
        """Replace, in place, the codes of values that come after the first `cap` of their hour."""
        for hour in np.unique(hours):
            rows = np.flatnonzero(hours == hour)
            admitted = self._admitted.setdefault(int(hour), set())
            present = [int(c) for c in np.unique(codes[rows]) if c > _TAIL]
            new = [c for c in present if c not in admitted]
            admitted.update(new[: self._cap - len(admitted)])
            keep = np.zeros(len(self.names), dtype=np.bool_)
            keep[[NONE, _TAIL, *admitted]] = True
            codes[rows] = np.where(keep[codes[rows]], codes[rows], _TAIL)

    def expire(self, before_hour: int) -> None:
        """Forget which values of hours before this one were admitted."""
        for hour in [h for h in self._admitted if h < before_hour]:
            del self._admitted[hour]
