"""Activity of one user shard: events, watch time and newly seen users per window and value of each dimension.

The work of a fold, from left to right:
    events → groups (`all`, and the value of each dimension) and cells (time step, zone)
           → events and watch time summed once per cell and group, then rolled up to every window
           → pairs (user, group), less what `RecentKeys` has just seen → ids → an `IdSet` per window says which are new
           → increments
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import Final

import numpy as np
import polars as pl

from flows.activity_state import SeenPairs
from flows.dimension_values import NONE, DimensionValues, stable_hash
from flows.grouping import distinct, totals
from flows.id_sets import Ids, Keys, Places, RecentKeys
from flows.kernel import Progress
from flows.local_time import ZoneOffsets
from schemas.events import AD, ALL
from schemas.windows import HOUR_MS, MINUTE_MS, SECOND_MS, ActivitySpec, Int64s, PlatformHour, TumblingWindow, Window

INCREMENTS: Final[dict[str, pl.DataType]] = {
    "cut": pl.Int32(),  # schemas.windows.Window.code
    "start": pl.Int64(),  # of the window, ms
    "dim": pl.String(),
    "value": pl.String(),
    "events": pl.Int64(),
    "users": pl.Int64(),
    "watch_ms": pl.Int64(),
}
"""Columns of the increments that an `ActivityShard` hands to the `ActivityMerge`."""

_MIX: Final = np.uint64(0xD1B54A32D192ED03)
_ABSENT: Final = -1  # the group of an event in a dimension whose field it does not carry


@dataclass(frozen=True, slots=True)
class _Groups:
    """Grouping sets of one fold. Group 0 is `all`; `of_rows` has the group of each event for each dimension."""

    dims: list[str]
    values: list[str]
    hashes: Keys
    of_rows: list[Int64s]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Distinct (time step, zone) of one fold. Times are epoch ms, offsets ms east of UTC."""

    of_rows: Int64s
    times: Int64s
    platform_offsets: Int64s
    user_offsets: Int64s
    step_ms: int
    zone_hashes: Keys  # by event
    whole_minutes: bool = True  # all offsets hold for whole minutes


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs (user, group) that may be new: their cell, group and id, all of one length."""

    cell: Int64s
    group: Int64s
    ids: Ids

    def at(self, places: Places) -> _Pairs:
        return _Pairs(self.cell[places], self.group[places], self.ids[places])


@dataclass(frozen=True, slots=True)
class _Sums:
    """Events and watch time per (cell, group)."""

    cell: Int64s
    group: Int64s
    events: Int64s
    watch_ms: Int64s


class ActivityShard:
    """See the module. Implements `flows.kernel.ShardKernel`."""

    name = "activity"

    def __init__(self, spec: ActivitySpec) -> None:
        self.spec = spec
        self.columns = frozenset((*spec.dimensions, "watch_ms", *(("tz",) if spec.hours else ())))
        self._texts = self.columns - {"watch_ms"}
        self._cuts = spec.cuts()
        sizes = [seconds * SECOND_MS for seconds in spec.windows] + ([MINUTE_MS] if spec.hours else [])
        self._step_ms = reduce(gcd, sizes)  # every window is made of whole steps
        self._dimensions = [DimensionValues(name, spec.value_cap) for name in spec.dimensions]
        self._zones = DimensionValues("tz", cap=1 << 40)  # bounded by the zone database
        self._offsets = ZoneOffsets()
        self._recent = RecentKeys()
        self._seen = SeenPairs(self._cuts, spec.retain_ms)

    def fold(self, frame: pl.DataFrame, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """See `flows.kernel.ShardKernel`."""
        if frame.height and frame["kind"].to_numpy().max() == AD:
            frame = frame.filter(pl.col("kind") != AD)
        increments = {self.name: self._count(frame)} if frame.height else {}
        self._seen.expire(progress.watermark)
        for dimension in self._dimensions:
            dimension.expire((progress.watermark - self.spec.retain_ms) // HOUR_MS - 1)
        return increments

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`. Caches (recent keys, codes, offsets) are not state."""
        return self._seen.snapshot()

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return self._seen.delta()

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        self._recent = RecentKeys()
        self._seen.restore(snapshot, deltas)

    def _count(self, frame: pl.DataFrame) -> pl.DataFrame:
        times = frame["event_time"].to_numpy()
        # One select: each call into Polars costs as much as a thousand rows.
        texts = [name for name in frame.columns if name in self._texts]
        read = frame.select(pl.col("watch_ms").fill_null(0), pl.col(texts).hash())
        groups = self._groups(frame, read, times // HOUR_MS)
        cells = self._cells(frame, read, times)
        sums = _sum(cells, groups, read["watch_ms"].to_numpy())
        pairs = self._pairs(frame["user_hash"].to_numpy(), cells, groups)
        fresh: list[tuple[Window, _Pairs]] = []
        parts = []
        for cut in self._cuts:
            source = next((p for inner, p in reversed(fresh) if self._nests(inner, cut, cells)), pairs)
            starts = cut.starts(cells.times, cells.platform_offsets, cells.user_offsets)
            windows, of_cells = distinct(starts)
            new = source.at(self._seen.first(cut, windows, of_cells[source.cell], source.ids))
            fresh.append((cut, new))
            parts.append(_roll_up(cut, windows, of_cells, sums, new, len(groups)))
        return _increments(parts, groups)

    def _groups(self, frame: pl.DataFrame, hashes: pl.DataFrame, hours: Int64s) -> _Groups:
        dims, values = [ALL], [""]
        stable = [np.array([stable_hash(ALL, "")], dtype=np.uint64)]
        of_rows = []
        for dimension in self._dimensions:
            codes = dimension.codes(frame[dimension.name], hashes[dimension.name].to_numpy(), hours)
            groups = codes + (len(values) - 1)  # code 0 is no value and has no group
            of_rows.append(np.where(codes == NONE, _ABSENT, groups))
            dims += [dimension.name] * (len(dimension.names) - 1)
            values += dimension.names[1:]
            stable.append(dimension.hashes[1:])
        return _Groups(dims, values, np.concatenate(stable), of_rows)

    def _cells(self, frame: pl.DataFrame, hashes: pl.DataFrame, times: Int64s) -> _Cells:
        zone = np.zeros(len(times), dtype=np.int64)
        if self.spec.hours:
            zone = self._zones.codes(frame["tz"], hashes["tz"].to_numpy(), zone)
        names = [self.spec.platform_zone, *self._zones.names[1:]]
        zone_hashes = self._zones.hashes[zone]
        step = self._step_ms
        while True:
            steps, of_rows = distinct(times // step * len(names) + zone)
            starts = steps // len(names) * step
            if not self.spec.hours:
                return _Cells(of_rows, starts, starts, starts, step, zone_hashes)
            user, whole = self._offsets.of(starts, names, steps % len(names))
            platform, whole_too = self._offsets.of(starts, names[:1], np.zeros(len(starts), dtype=np.int64))
            whole = whole and whole_too
            if whole or step == SECOND_MS:
                return _Cells(of_rows, starts, platform, user, step, zone_hashes, whole_minutes=whole)
            step = SECOND_MS  # an offset with seconds: a local hour may begin within a minute

    def _pairs(self, users: Keys, cells: _Cells, groups: _Groups) -> _Pairs:
        """Pairs of each event that differs from those just seen in user, step, zone or a value."""
        steps = (cells.times + cells.step_ms).astype(np.uint64) * _MIX
        key = users + steps[cells.of_rows] + cells.zone_hashes
        for of_rows in groups.of_rows:
            key += groups.hashes[of_rows] * (of_rows != _ABSENT)
        rows = self._recent.unmet(key)
        of_dims = [np.zeros(len(rows), dtype=np.int64), *(of_rows[rows] for of_rows in groups.of_rows)]
        cell, group = np.tile(cells.of_rows[rows], len(of_dims)), np.concatenate(of_dims)
        hashes = np.tile(users[rows], len(of_dims)) + groups.hashes[group]
        carried = np.flatnonzero(group != _ABSENT)
        return _Pairs(cell[carried], group[carried], self._seen.ids(hashes[carried]))

    def _nests(self, inner: Window, outer: Window, cells: _Cells) -> bool:
        """Whether each `inner` window lies within one `outer`: then what is not new in it is not new in the other."""
        if not isinstance(inner, TumblingWindow):
            return False
        if isinstance(outer, TumblingWindow):
            return outer.seconds % inner.seconds == 0
        if isinstance(outer, PlatformHour):
            size = inner.size_ms
            if MINUTE_MS % size == 0:
                return cells.whole_minutes or size == SECOND_MS
            hours = distinct(cells.times // HOUR_MS)[0].tolist()
            return size == HOUR_MS and all(self._offsets.whole_hour(self.spec.platform_zone, h) for h in hours)
        return False


def _sum(cells: _Cells, groups: _Groups, watch_ms: Int64s) -> _Sums:
    keys, watch = [cells.of_rows * len(groups)], [watch_ms]
    for of_rows in groups.of_rows:
        carried = np.flatnonzero(of_rows != _ABSENT)
        if len(carried) == len(of_rows):
            keys.append(keys[0] + of_rows)
            watch.append(watch_ms)
        elif len(carried):
            keys.append(keys[0][carried] + of_rows[carried])
            watch.append(watch_ms[carried])
    values, events, sums = totals(np.concatenate(keys), np.concatenate(watch))
    return _Sums(values // len(groups), values % len(groups), events, sums)


def _roll_up(
    cut: Window, windows: Int64s, of_cells: Int64s, sums: _Sums, new: _Pairs, groups: int
) -> dict[str, Int64s]:
    """Increments of one way of cutting time, as columns. `of_cells` is the place of each cell's window in `windows`."""
    keys, place = distinct(of_cells[sums.cell] * groups + sums.group)
    events, watch, users = (np.zeros(len(keys), dtype=np.int64) for _ in range(3))
    np.add.at(events, place, sums.events)
    np.add.at(watch, place, sums.watch_ms)
    if len(new.ids):
        new_keys, of_pairs = distinct(of_cells[new.cell] * groups + new.group)
        users[np.searchsorted(keys, new_keys)] = np.bincount(of_pairs)
    return {
        "cut": np.full(len(keys), cut.code),
        "start": windows[keys // groups],
        "group": keys % groups,
        "events": events,
        "users": users,
        "watch_ms": watch,
    }


def _increments(parts: list[dict[str, Int64s]], groups: _Groups) -> pl.DataFrame:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    group = columns["group"].tolist()
    # A list of series: a third faster than a dict of arrays, and there are many small frames.
    return pl.DataFrame([
        pl.Series("cut", columns["cut"].astype(np.int32)),
        pl.Series("start", columns["start"]),
        pl.Series("dim", [groups.dims[g] for g in group], dtype=pl.String),
        pl.Series("value", [groups.values[g] for g in group], dtype=pl.String),
        *(pl.Series(name, columns[name]) for name in ("events", "users", "watch_ms")),
    ])  # fmt: skip
