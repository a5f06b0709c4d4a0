"""The run-away stop: by partition, over a window, not before it is full."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from flows.errors import Stop
from flows.messages import Slice
from flows.reject_guard import RejectGuard


def taken(consumed: int, rejected: int, reason: str = "invalid_json") -> Slice:
    dead = pl.DataFrame({"reason": [reason] * rejected}) if rejected else None
    return Slice(None, None, dead, np.array([[0, 0, 0, consumed, 0, rejected, 0]]))


def test_stops_over_the_ratio_and_says_where_and_why() -> None:
    guard = RejectGuard(0.5, 100)
    guard.count("view/0001", taken(60, 50))
    with pytest.raises(Stop, match=r"partition view/0001: 80 of its last 110 .*\(80 of them: invalid_json\)"):
        guard.count("view/0001", taken(50, 30))


def test_a_window_that_is_not_full_is_no_ground() -> None:
    guard = RejectGuard(0.5, 100)
    guard.count("view/0001", taken(99, 99))
    with pytest.raises(Stop, match="100 of its last 100"):
        guard.count("view/0001", taken(1, 1))


def test_half_is_allowed_and_each_window_begins_anew() -> None:
    guard = RejectGuard(0.5, 100)
    for _ in range(5):
        guard.count("view/0001", taken(100, 50))
    with pytest.raises(Stop, match="51 of its last 100"):
        guard.count("view/0001", taken(100, 51))


def test_partitions_are_judged_by_themselves() -> None:
    guard = RejectGuard(0.5, 100)
    for partition in ("a", "b"):
        guard.count(partition, taken(60, 60))
    with pytest.raises(Stop, match="partition b: 100 of its last 100"):
        guard.count("b", taken(40, 40))


def test_one_allows_everything() -> None:
    guard = RejectGuard(1.0, 10)
    guard.count("a", taken(100, 100))
    guard.ratio = 0.99
    with pytest.raises(Stop, match="100 of its last 100"):
        guard.count("a", taken(100, 100))
