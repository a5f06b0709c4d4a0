"""Provisional alarms: a window that is still open has more already than the bound of a spike, and counts only grow.

A fall can always be made up for until the window closes, so none is told early. Alarms of closed windows never depend
on these: what early rows there were is no function of the log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl

from flows.anomaly_book import MERGED, OPEN, RESOLVED_STATE, Anomaly, Book, sentence, severity
from flows.anomaly_route import Health
from flows.anomaly_series import WatchedSeries
from flows.anomaly_spec import AnomalySpec, calendar

SO_FAR: Final = "The window is still open, and a count only grows."
UNCONFIRMED: Final = "Not confirmed when the window closed."


class EarlyAlarms:
    """Provisional alarms that stand until their window closes: at most one a series."""

    def __init__(self, spec: AnomalySpec) -> None:
        self._spec = spec
        self._book = Book()
        self.is_unsaved = False

    def look(self, rows: pl.DataFrame, series: WatchedSeries) -> pl.DataFrame:
        """`rows` (as `final_rows` gives them) of open windows so far; rows of `anomalies` that are new."""
        measures = len(self._spec.measures)
        found = rows.join(series.frame(), on=["dim", "value"], how="inner").sort("window_start", "place")
        starts, places = found["window_start"].to_numpy(), found["place"].to_numpy()
        times = calendar(self._spec, starts)
        for i, measure in enumerate(self._spec.measures):
            if measure.is_rate or measure.per:  # money and time have long tails, and may be sums over few
                continue
            actual = found[measure.source].to_numpy()
            counted = np.full(len(places), measure.counted)
            limits = series.baseline.limits(places * measures + i, times, counted)
            for n in np.flatnonzero(actual > limits.bound).tolist():
                expected, low, high, far = (float(a[n]) for a in (limits.expected, limits.low, limits.high, limits.far))
                dim, value = series.keys[int(places[n])]
                strength = max(float(actual[n]) / max(float(limits.bound[n]), 1e-9), 1.0) * far
                anomaly = Anomaly(
                    int(starts[n]), self._spec.series(i), dim, value, float(actual[n]), expected, low, high,
                    strength / (1.0 + strength), "spike", severity("spike", dim, float(actual[n]), expected), OPEN, "",
                    self._spec.window_seconds, "up", "", int(starts[n]), None, 1,
                )  # fmt: skip
                if anomaly.key not in self._book.standing:
                    anomaly.explanation = sentence(anomaly, self._spec.zone, SO_FAR)
                    self._book.open(anomaly, Health())  # a rise is never ours
                    self.is_unsaved = True
        return self._book.take()

    def settle(self, end: int, book: Book) -> None:
        """Windows before `end` are closed: `book` says what came of them, and tells what it did not confirm."""
        for key, early in list(self._book.standing.items()):
            if early.window_start >= end:
                continue
            del self._book.standing[key]
            self.is_unsaved = True
            standing = book.standing.get(key)
            if book.opened(early):
                continue  # its row takes the place of the provisional one
            closed = replace(early, is_provisional=0, resolved_at=early.window_start + self._spec.window_ms)
            closed.state = RESOLVED_STATE if standing is None else MERGED
            closed.explanation += f" {UNCONFIRMED}" if standing is None else " Part of: the one that stands already."
            book.tell(closed)

    def plain(self) -> list[dict[str, Any]]:
        """State as plain values."""
        self.is_unsaved = False
        return self._book.plain()

    def become(self, plain: list[dict[str, Any]]) -> None:
        """Take the state that `plain` gave."""
        self._book.become(plain)
        self.is_unsaved = False
