"""Codes for the values of a dimension, so that a batch is counted by small integers and not by strings.

Codes live as long as the process and are never stored: what is stored are stable hashes and, in rows, the strings.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

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
        none = pl.Series([None], dtype=pl.String).hash().to_numpy()
        self._met: Keys = none  # Polars' hashes of values met, ascending
        self._met_codes = np.zeros(1, dtype=np.int64)
        self._admitted.clear()

    @property
    def hashes(self) -> Keys:
        """Stable hash by code; 0 for an absent value."""
        return np.array(self._hashes, dtype=np.uint64)

    def codes(self, column: pl.Series, hashes: Keys, hours: Int64s) -> Codes:
        """The code of each value of a String column.

        `hashes` are what Polars hashes the column to; `hours` are the numbers of the events' UTC hours. Shapes:
        n, n, n → n. Codes given before may be void: use only what this and later calls answer.
        """
        if len(self.names) > _FORGET_AT * self._cap + 2:
            self._forget()
        if column.null_count() == len(column):
            return np.zeros(len(column), dtype=np.int64)
        at = np.searchsorted(self._met, hashes)
        at[at == len(self._met)] = 0
        unmet = np.flatnonzero(self._met[at] != hashes)
        if len(unmet):
            self._learn(hashes[unmet], column.gather(unmet))
            at = np.searchsorted(self._met, hashes)
        codes = self._met_codes[at]
        if len(self.names) > self._cap + 2:
            self._fold_tail(codes, hours)
        return codes

    def _learn(self, hashes: Keys, values: pl.Series) -> None:
        new, places = np.unique(hashes, return_index=True)
        codes = []
        for value in values.gather(places).to_list():
            if value == OTHER:
                codes.append(_TAIL)
                continue
            codes.append(len(self.names))
            self.names.append(value)
            self._hashes.append(stable_hash(self.name, value))
        met = np.concatenate((self._met, new))
        order = np.argsort(met)
        self._met, self._met_codes = met[order], np.concatenate((self._met_codes, codes))[order]

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
