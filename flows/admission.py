"""Which on-time events of a shard count: not behind what idleness closed, and not a second one with the same id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from flows.keyed_set import KeyedSet, Mask
from flows.watermark import TimeBounds


@dataclass(frozen=True, slots=True)
class Admitted:
    """One batch split by outcome; the frames keep their columns."""

    accepted: pl.DataFrame
    duplicate: pl.DataFrame
    late: pl.DataFrame


class Admission:
    """Dedupe by `id_hash`, and lateness caused by idleness.

    Ids are held in buckets of one horizon of event time, and looked for in their own bucket and both neighbours: two
    events with one id and times at most a horizon apart always meet, and ones more than two horizons apart never do.
    So the outcome is a function of the events, not of when they arrive. A bucket goes once no on-time event can reach
    its neighbour.
    """

    def __init__(self, bounds: TimeBounds, horizon_ms: int, *, dedupe: bool = True) -> None:
        if horizon_ms < max(1, bounds.out_of_orderness + bounds.allowed_lateness):
            raise ValueError("the dedupe horizon is under out-of-orderness + allowed lateness")
        self._bounds = bounds
        self._horizon = horizon_ms
        self._dedupe = dedupe
        self._ids = KeyedSet()

    def admit(self, frame: pl.DataFrame, watermark: int) -> Admitted:
        """Split `frame` (any order) at the given watermark."""
        late = frame.clear()
        oldest = watermark - self._bounds.retain
        if frame.height and int(frame["event_time"].min()) < oldest:  # type: ignore[arg-type]  # an Int64 column
            behind = frame["event_time"] < oldest
            late, frame = frame.filter(behind), frame.filter(~behind)
        if not self._dedupe:
            return Admitted(frame, frame.clear(), late)
        first = self._first(frame)
        self._ids.expire((watermark - self._bounds.allowed_lateness) // self._horizon - 1)
        if first.all():
            return Admitted(frame, frame.clear(), late)
        mask = pl.Series(first)
        return Admitted(frame.filter(mask), frame.filter(~mask), late)

    def _first(self, frame: pl.DataFrame) -> Mask:
        buckets = frame["event_time"].to_numpy() // self._horizon
        ids = frame["id_hash"].to_numpy()
        first = np.zeros(len(ids), dtype=np.bool_)
        for bucket in np.unique(buckets):
            rows = np.flatnonzero(buckets == bucket)
            for neighbour in (int(bucket) - 1, int(bucket) + 1):
                rows = rows[~self._ids.contains(neighbour, ids[rows])]
            first[rows] = self._ids.first_seen(buckets[rows], ids[rows])
        return first

    def snapshot(self) -> bytes:
        """All ids within the horizon; see `flows.kernel.Persistent`."""
        return self._ids.snapshot()

    def delta(self) -> bytes:
        """Ids since the last snapshot or delta."""
        return self._ids.delta()

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the admission that wrote these."""
        self._ids.restore(snapshot, deltas)
