"""A merge kernel whose final rows are watched for anomalies: both are one step, so they commit together.

It hears the ledger's increments too (`flows.dataflow.Router`), to tell a fault of ours from a fall of the business.
Without a watch it only passes on, in the same format: anomalies can be switched off and on between starts. A watch
without state of its own learns from the rows that the store has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
import polars as pl

from flows.anomalies import AnomalyWatch
from flows.anomaly_route import HealthTracker
from flows.anomaly_spec import AnomalySpec
from flows.kernel import MergeKernel, Progress

ANOMALIES: Final = "anomalies"
_MAGIC: Final = b"watched1"
_EMPTY: Final = b""
History = Callable[[AnomalySpec], Iterable[pl.DataFrame]]
"""Final rows that are in the store already, in the order of time."""


class WatchedMerge:
    """See the module. Implements `flows.kernel.MergeKernel` under the inner kernel's name."""

    def __init__(self, inner: MergeKernel, watch: AnomalyWatch | None, history: History | None = None) -> None:
        self.name = inner.name
        self._inner, self._watch, self._history = inner, watch, history
        self._tracker, self._heard = HealthTracker(), False

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """See `flows.kernel.MergeKernel`. Frames of the ledger are told by their column `consumed`."""
        mine = [frame for frame in increments if "consumed" not in frame.columns]
        if mine:
            self._inner.fold(mine)
        for frame in increments:
            if "consumed" in frame.columns:
                self._tracker.fold(frame)
                self._heard = True

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """The inner kernel's rows, and those of anomalies in the windows that closed."""
        tables = self._inner.emit(progress)
        if self._watch is None:
            return tables
        given = tables.get(self._watch.spec.table)
        final = pl.DataFrame(schema=self._watch.schema()) if given is None else given.filter(pl.col("is_final") == 1)
        # The window in which bounded input ends is not whole: it is not judged.
        watermark = progress.last_event_time if progress.end else progress.watermark
        found = self._watch.observe(final, watermark, self._tracker.health(progress.now - progress.watermark))
        return {**tables, ANOMALIES: found} if found.height else tables

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return self._packed(self._inner.snapshot(), self._watch.snapshot() if self._watch else _EMPTY)

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        inner, watch = self._inner.delta(), self._watch.delta() if self._watch else _EMPTY
        return self._packed(inner, watch) if inner or watch or self._heard else _EMPTY

    def _packed(self, inner: bytes, watch: bytes) -> bytes:
        self._heard = False
        return _MAGIC + msgspec.msgpack.encode([inner, watch, self._tracker.plain()])

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`. State that was written before there were anomalies is the inner kernel's."""
        parts = [_unpacked(blob) for blob in (snapshot, *deltas) if blob]
        inner, watch = [part[0] for part in parts], [part[1] for part in parts]
        self._inner.restore(inner[0] if inner else _EMPTY, [blob for blob in inner[1:] if blob])
        if self._watch is not None and any(watch):
            told = [blob for blob in watch if blob]
            self._watch.restore(told[0], told[1:])
        elif self._watch is not None and self._history is not None:
            for rows in self._history(self._watch.spec):
                self._watch.warm_start(rows)
        self._tracker = HealthTracker.of(parts[-1][2]) if parts and parts[-1][2] else HealthTracker()
        self._heard = False


def _unpacked(blob: bytes) -> tuple[bytes, bytes, list[Any]]:
    if not blob.startswith(_MAGIC):
        return blob, _EMPTY, []
    inner, watch, tracker = msgspec.msgpack.decode(blob[len(_MAGIC) :])
    return inner, watch, tracker
