"""A merge kernel whose final rows are watched for anomalies: all are one step, so they commit together.

It hears the ledger's increments too (`flows.dataflow.Router`), to tell a fault of ours from a fall of the business.
Without a watch it only passes on, in the same format: anomalies can be switched off and on between starts. A watch
without state of its own, or with that of other measures, learns from the rows that the store has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, cast

import msgspec
import polars as pl

from flows.anomalies import AnomalyWatch
from flows.anomaly_route import Evidence, Health, HealthTracker
from flows.anomaly_spec import AnomalySpec
from flows.kernel import MergeKernel, Progress
from schemas.watches import Watch

ANOMALIES: Final = "anomalies"
_MAGIC, _MAGIC_OF_ONE = b"watched2", b"watched1"
_EMPTY: Final = b""
History = Callable[[AnomalySpec], Iterable[pl.DataFrame]]
"""Final rows that are in the store already, in the order of time."""
Trouble = Callable[[], tuple[int, int]]
"""Messages of lag, where it is minutes, and failed calls of a store that is down: of this process, at this moment."""


class Closing(Protocol):
    """A merge kernel whose rows are final without being given out again: funnels."""

    def closed(self, name: str, since: int, watermark: int) -> pl.DataFrame:
        """Rows of a funnel's mature buckets from `since` on."""


class WatchedMerge:
    """See the module. Implements `flows.kernel.MergeKernel` under the inner kernel's name."""

    def __init__(
        self,
        inner: MergeKernel,
        watches: Sequence[AnomalyWatch] = (),
        history: History | None = None,
        log_ahead_ms: int | None = None,
        trouble: Trouble = lambda: (0, 0),
    ) -> None:
        """`log_ahead_ms`: of bounded input, how far beyond the watermark it was read: faults are told by its time."""
        self.name = inner.name
        self._inner, self._history, self._ahead, self._trouble = inner, history, log_ahead_ms, trouble
        self._watches = {_name(watch.spec.watch): watch for watch in watches}
        self._tracker, self._heard = HealthTracker(by_log=log_ahead_ms is not None), False

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
        # The window in which bounded input ends is not whole: it is not judged.
        watermark = progress.last_event_time if progress.end else progress.watermark
        ripe = {name: self._ripe(watch, watermark) for name, watch in self._watches.items()}
        tables = self._inner.emit(progress)
        if not self._watches:
            return tables
        if self._ahead is not None:
            self._tracker.advance(watermark + self._ahead)
        found = []
        for name, watch in self._watches.items():
            of = watch.spec.watch
            final = ripe[name] if of.funnel else _final(tables.get(of.table))
            found.append(watch.observe(final, watermark - of.closes_after_ms, self._evidence(watch, progress)))
            if progress.early and not of.funnel and of.table in tables:
                found.append(watch.foresee(tables[of.table].filter(pl.col("is_final") == 0)))
        told = pl.concat(found)
        return {**tables, ANOMALIES: told} if told.height else tables

    def _evidence(self, watch: AnomalyWatch, progress: Progress) -> Evidence:
        """Of a window that closes at once, how things stand now; of one that was long ago, how they stood then."""
        if self._ahead is None and not watch.spec.watch.closes_after_ms:
            lag, refused = self._trouble()
            health = self._tracker.health(progress.now - progress.watermark)
            return Evidence(replace(health, lag_messages=lag, sink_errors=refused))
        return Evidence(Health(), dict(self._tracker.faults))

    def _ripe(self, watch: AnomalyWatch, watermark: int) -> pl.DataFrame | None:
        """Rows of a funnel that can no longer change; the kernel forgets them when it gives out rows."""
        of = watch.spec.watch
        if not of.funnel or watch.next + watch.spec.window_ms > watermark - of.closes_after_ms:
            return None
        return cast("Closing", self._inner).closed(of.funnel, watch.next, watermark)

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return self._packed(self._inner.snapshot(), {name: watch.snapshot() for name, watch in self._watches.items()})

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        inner = self._inner.delta()
        watches = {name: told for name, watch in self._watches.items() if (told := watch.delta())}
        return self._packed(inner, watches) if inner or watches or self._heard else _EMPTY

    def _packed(self, inner: bytes, watches: Mapping[str, bytes]) -> bytes:
        self._heard = False
        return _MAGIC + msgspec.msgpack.encode([inner, watches, self._tracker.plain()])

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`. State that was written before there were anomalies is the inner kernel's."""
        parts = [_unpacked(blob) for blob in (snapshot, *deltas) if blob]
        inner = [part[0] for part in parts]
        self._inner.restore(inner[0] if inner else _EMPTY, [blob for blob in inner[1:] if blob])
        for name, watch in self._watches.items():
            told = [part[1][name] for part in parts if name in part[1]]
            if told and watch.fits(told[0]):
                watch.restore(told[0], told[1:])
            elif self._history is not None:
                for rows in self._history(watch.spec):
                    watch.warm_start(rows)
        self._tracker = HealthTracker.of(parts[-1][2]) if parts and parts[-1][2] else HealthTracker()
        self._heard = False


def _name(watch: Watch) -> str:
    return f"{watch.table}.{watch.funnel}" if watch.funnel else watch.table


def _final(rows: pl.DataFrame | None) -> pl.DataFrame | None:
    return None if rows is None else rows.filter(pl.col("is_final") == 1)


def _unpacked(blob: bytes) -> tuple[bytes, dict[str, bytes], list[Any]]:
    if blob.startswith(_MAGIC):
        inner, watches, tracker = msgspec.msgpack.decode(blob[len(_MAGIC) :])
        return inner, watches, tracker
    if blob.startswith(_MAGIC_OF_ONE):  # of a version that watched activity alone
        inner, watch, tracker = msgspec.msgpack.decode(blob[len(_MAGIC_OF_ONE) :])
        return inner, {"active_users": watch} if watch else {}, tracker
    return blob, {}, []
