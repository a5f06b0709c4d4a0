"""Which dimension values are watched: the greatest by volume, above a floor, and no more than fit."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from flows.anomaly_baseline import Baseline
from flows.anomaly_spec import AnomalySpec
from flows.anomaly_step import Floats, Ints
from schemas.events import ALL, OTHER
from schemas.watches import Watch

Key = tuple[str, str]  # dim, value
WHOLE: Final[Key] = (ALL, "")
RATE_UNITS: Final = 1e6
"""A rate is kept in millionths: baselines are made for numbers of things."""
_REPLACES: Final = 2.0
"""A newcomer takes a place when it has this many times the volume of the one that leaves."""


def final_rows(watch: Watch, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of the watched view (times: epoch ms) as `window_start`, `dim`, `value` and the columns that are watched."""
    columns = {name: pl.col(name).cast(pl.Float64) for name in watch.columns if not watch.funnel}
    keys = [pl.col("window_start").cast(pl.Int64), pl.col("dim").cast(pl.String), pl.col("value").cast(pl.String)]
    if watch.funnel:
        return _steps(watch, rows)
    if "window_seconds" in rows.columns:
        rows = rows.filter(pl.col("window_seconds") == watch.window_seconds)
    if watch.by:
        rows = rows.with_columns(dim=pl.lit(watch.by), value=pl.col(watch.by))
    found = rows.select(*keys, **columns)
    if not watch.by:
        return found
    whole = found.group_by("window_start", maintain_order=True).agg(pl.col(name).sum() for name in columns)
    return pl.concat([whole.select(pl.col("window_start"), dim=pl.lit(ALL), value=pl.lit(""), **columns), found])


def _steps(watch: Watch, rows: pl.DataFrame) -> pl.DataFrame:
    """A row for each bucket and value, a column for each step and amount."""
    mine = rows.filter((pl.col("funnel") == watch.funnel) & (pl.col("unit") == watch.unit))
    step = pl.col("step_name")
    columns = {}
    for name in watch.columns:
        of = name.removesuffix("_amount_minor")
        read = "reached" if name == of else "amount_minor"
        columns[name] = pl.col(read).filter(step == of).sum().cast(pl.Float64)
    keys: dict[str, pl.Expr] = {
        "window_start": pl.col("bucket_start").cast(pl.Int64),
        "dim": pl.col("dim").cast(pl.String),
        "value": pl.col("value"),
    }
    return mine.group_by(**keys, maintain_order=True).agg(**columns)


class WatchedSeries:
    """Places of dimension values in a `Baseline`: value i has the rows i·measures … i·measures + measures − 1."""

    def __init__(self, spec: AnomalySpec) -> None:
        self.spec = spec
        self.keys: list[Key] = []
        windows = spec.window_ms
        self.baseline = Baseline(0, warm=spec.warm_ms // windows, accept=spec.accept_ms // windows)
        self._candidates: dict[Key, float] = {}
        self.places: dict[Key, int] = {}

    def frame(self) -> pl.DataFrame:
        """`dim`, `value`, `place`."""
        return pl.DataFrame(
            {"dim": [k[0] for k in self.keys], "value": [k[1] for k in self.keys], "place": range(len(self.keys))},
            schema={"dim": pl.String, "value": pl.String, "place": pl.Int64},
        )

    def counted(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Per row of the baseline: is it a number of things."""
        return np.tile(np.array([m.counted for m in self.spec.measures]), len(self.keys))

    def dense(self, rows: pl.DataFrame, starts: Ints) -> Floats:
        """Measures of all watched values, 0 where there is no row; shape (windows, values · measures).

        A rate is in millionths, and no number where it is over less than the floor.
        """
        measures = self.spec.measures
        dense = np.zeros((len(starts), len(self.keys), len(measures)))
        found = rows.join(self.frame(), on=["dim", "value"], how="inner")
        at = ((found["window_start"].to_numpy() - starts[0]) // self.spec.window_ms).astype(np.int64)
        place = found["place"].to_numpy()
        for i, measure in enumerate(measures):
            if not measure.is_rate:
                dense[at, place, i] = found[measure.source].to_numpy()
                continue
            dense[:, :, i] = np.nan
            over = found[measure.over].to_numpy()
            enough = over >= max(self.spec.floor, 1.0)
            share = found[measure.source].to_numpy()[enough] / over[enough]
            dense[at[enough], place[enough], i] = share * RATE_UNITS
        return dense.reshape(len(starts), -1)

    def whole(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Per row of the baseline: is it of the whole."""
        return np.repeat(np.array([key == WHOLE for key in self.keys], np.bool_), len(self.spec.measures))

    def per(self) -> Ints:
        """Per row of the baseline: the row of the count that it is a sum over, or −1."""
        names = [m.name for m in self.spec.measures]
        steps = np.array([names.index(m.per) - i if m.per else 0 for i, m in enumerate(self.spec.measures)], np.int64)
        of_all = np.tile(steps, len(self.keys))
        return np.where(of_all != 0, np.arange(len(of_all)) + of_all, -1)

    def offer(self, rows: pl.DataFrame) -> None:
        """Hear of the volume of values that are not watched; the whole is watched at once."""
        if WHOLE not in self.places and rows.filter(pl.col("dim") == ALL).height:
            self._place(WHOLE)
        new = rows.filter((pl.col("dim") != ALL) & (pl.col("value") != OTHER)).join(
            self.frame(), on=["dim", "value"], how="anti"
        )
        volume = pl.col(self.spec.measures[0].source).sum()
        for dim, value, total in new.group_by("dim", "value").agg(volume).sort("dim", "value").iter_rows():
            self._candidates[dim, value] = self._candidates.get((dim, value), 0.0) + total

    def admit(self, windows: int) -> bool:
        """At the end of so many windows: the greatest candidates take free places, or those of small ones.

        Returns whether one did.
        """
        known = set(self.places)
        volume = self.baseline.volume().reshape(-1, len(self.spec.measures))[:, 0]
        fixed = np.atleast_1d(self.baseline.is_open().reshape(-1, len(self.spec.measures)).any(axis=1))
        leaving = [i for i in np.argsort(volume, kind="stable").tolist() if not fixed[i] and self.keys[i] != WHOLE]
        for key, total in sorted(self._candidates.items(), key=lambda item: (-item[1], item[0])):
            mean = total / windows
            if mean < self.spec.floor:
                break
            if len(self.keys) < self.spec.top:
                self._place(key)
            elif leaving and mean >= _REPLACES * volume[leaving[0]]:
                self._place(key, leaving.pop(0))
            else:
                break
        self._candidates.clear()
        return self.places.keys() != known

    def _place(self, key: Key, place: int | None = None) -> None:
        if place is None:
            place = len(self.keys)
            self.keys.append(key)
            self.baseline.grow(len(self.spec.measures))
        else:
            del self.places[self.keys[place]]
            self.keys[place] = key
            first = place * len(self.spec.measures)
            self.baseline.reset(np.arange(first, first + len(self.spec.measures)))
        self.places[key] = place

    def plain(self) -> dict[str, object]:
        """State as plain values; arrays as bytes."""
        return {
            "keys": [list(key) for key in self.keys],
            "candidates": [[*key, total] for key, total in self._candidates.items()],
            "arrays": {name: array.tobytes() for name, array in self.baseline.arrays().items()},
        }

    def become(self, state: dict[str, object]) -> None:
        """Take the state that `plain` gave."""
        keys, candidates, arrays = state["keys"], state["candidates"], state["arrays"]
        assert isinstance(keys, list)
        assert isinstance(candidates, list)
        assert isinstance(arrays, dict)
        self.keys = [(dim, value) for dim, value in keys]
        self.places = {key: place for place, key in enumerate(self.keys)}
        self._candidates = {(dim, value): total for dim, value, total in candidates}
        self.baseline.become(arrays, len(self.keys) * len(self.spec.measures))
