"""Files of the Numenta Anomaly Benchmark: reading its layout and writing its result files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from flows.errors import Usage
from flows.nab_score import Floats, Ints

DETECTOR: Final = "livepulse"
_TIME_FORMATS: Final = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M")


@dataclass(frozen=True, slots=True, eq=False)
class NabFile:
    """One series.

    Attributes:
        name: `category/file.csv`.
        stamps: timestamps as the file has them.
        times: the same as epoch ms, shape (rows,).
        values: shape (rows,).
    """

    name: str
    stamps: pl.Series
    times: Ints
    values: Floats


def read_corpus(root: Path) -> list[NabFile]:
    """All of `root/data/*/*.csv`, by name. Errors: `Usage` when there is none, or one is no series."""
    base = root / "data"
    paths = sorted(base.glob("*/*.csv"))
    if not paths:
        raise Usage(f"{root} has no data/*/*.csv: give the directory that holds NAB's data/ and labels/")
    return [_read_file(path, str(path.relative_to(base))) for path in paths]


def _read_file(path: Path, name: str) -> NabFile:
    try:
        frame = pl.read_csv(path, schema_overrides={"timestamp": pl.String, "value": pl.Float64})
        stamps, values = frame["timestamp"], frame["value"].fill_null(strategy="forward").to_numpy()
        return NabFile(name, stamps, parse_times(stamps), np.ascontiguousarray(values, np.float64))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Usage(f"{name} is no series of the columns timestamp and value: {error}") from error


def parse_times(stamps: pl.Series) -> Ints:
    """Timestamps as epoch ms."""
    tried = [stamps.str.to_datetime(form, strict=False, time_unit="ms") for form in _TIME_FORMATS]
    found = pl.select(pl.coalesce(*tried)).to_series()
    if found.null_count():
        raise pl.exceptions.ComputeError(f"{found.null_count()} timestamps are no times")
    return found.dt.epoch("ms").to_numpy()


def read_windows(root: Path, files: Sequence[NabFile]) -> Mapping[str, list[tuple[int, int]]] | None:
    """Labelled windows of each file as (first row, last row), inclusive; None where `root` has no labels."""
    path = root / "labels" / "combined_windows.json"
    if not path.exists():
        return None
    labels = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        if file.name not in labels:
            continue
        rows = []
        for edges in labels[file.name]:
            first, last = (int(t) for t in parse_times(pl.Series(edges, dtype=pl.String)))
            inside = np.flatnonzero((file.times >= first) & (file.times <= last))
            if len(inside):
                rows.append((int(inside[0]), int(inside[-1])))
        found[file.name] = sorted(rows)
    return found


def write_result(out: Path, file: NabFile, scores: Floats, windows: Sequence[tuple[int, int]]) -> Path:
    """NAB's result file: `out/livepulse/category/livepulse_file.csv` with a label of 1 inside labelled windows."""
    label = np.zeros(len(scores), np.int64)
    for first, last in windows:
        label[first : last + 1] = 1
    category, _, base = file.name.partition("/")
    path = out / DETECTOR / category / f"{DETECTOR}_{base}"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"timestamp": file.stamps, "value": file.values, "anomaly_score": scores, "label": label}
    pl.DataFrame(rows).write_csv(path)
    return path
