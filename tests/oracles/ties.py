"""Of two events of one user and millisecond a convention of the funnel's kernel says which counts; oracles ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from flows.funnel_values import Combinations


def tie(event: Mapping[str, Any], dimensions: Sequence[str]) -> int:
    """The higher one counts."""
    return _rank(tuple(event.get(dimension) for dimension in dimensions), tuple(dimensions))


@cache
def _rank(values: tuple[str | None, ...], dimensions: tuple[str, ...]) -> int:
    combinations = Combinations(dimensions)
    frame = pl.DataFrame([values], schema=dict.fromkeys(dimensions, pl.String()), orient="row")
    labels = combinations.label(frame)
    combinations.learn(labels, frame, np.arange(1))
    return int(combinations.rank(labels)[0])
