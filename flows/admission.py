"""Which on-time events of a shard count: not behind what idleness closed, and not a second one with the same id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from flows.keyed_set import KeyedSet
from flows.messages import MIN_TIME
from flows.watermark import TimeBounds

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Admitted:
    """One batch split by outcome; the frames keep their columns."""

    accepted: pl.DataFrame
    duplicate: pl.DataFrame
    late: pl.DataFrame


class Admission:
    """Dedupe by `id_hash`, and lateness caused by idleness.

    An event is a duplicate if its id was accepted with an event time at most a horizon away (in whole minutes, rounded
    up): a function of the events, not of when they arrive. Ids go once no on-time copy can come any more.
    """

    def __init__(self, bounds: TimeBounds, horizon_ms: int, *, dedupe: bool = True) -> None:
        if horizon_ms < max(1, bounds.out_of_orderness + bounds.allowed_lateness):
            raise ValueError("the dedupe horizon is under out-of-orderness + allowed lateness")
        self._bounds = bounds
        self._horizon = -(-horizon_ms // MINUTE_MS)
        self._dedupe = dedupe
        self._ids = KeyedSet(reach=self._horizon)
        self._newest = MIN_TIME  # greatest event time; not kept: after a restart ids only stay for longer

    def admit(self, frame: pl.DataFrame, watermark: int) -> Admitted:
        """Split `frame` (any order) at the given watermark."""
        late = frame.clear()
        oldest = watermark - self._bounds.retain
        if frame.height and int(frame["event_time"].min()) < oldest:  # type: ignore[arg-type]  # an Int64 column
            behind = frame["event_time"] < oldest
            late, frame = frame.filter(behind), frame.filter(~behind)
        if not self._dedupe:
            return Admitted(frame, frame.clear(), late)
        times = frame["event_time"].to_numpy()
        first = self._ids.first_seen(times // MINUTE_MS, frame["id_hash"].to_numpy())
        # With all partitions idle the watermark follows the clock: ids go by the events' own time, or copies of what
        # re-opens a window would count.
        self._newest = max(self._newest, int(times.max(initial=MIN_TIME)))
        passed = min(watermark, self._newest - self._bounds.out_of_orderness)
        self._ids.expire((passed - self._bounds.allowed_lateness) // MINUTE_MS - self._horizon)
        if first.all():
            return Admitted(frame, frame.clear(), late)
        mask = pl.Series(first)
        return Admitted(frame.filter(mask), frame.filter(~mask), late)

    def snapshot(self) -> bytes:
        """All ids within the horizon; see `flows.kernel.Persistent`."""
        return self._ids.snapshot()

    def delta(self) -> bytes:
        """Ids since the last snapshot or delta."""
        return self._ids.delta()

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the admission that wrote these."""
        self._ids.restore(snapshot, deltas)
