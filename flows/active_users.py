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
from schemas.decode_compile import compiled
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
    """Grouping sets of one fold. Group 0 is `all`; `of_rows[d, i]` is event i's group in dimension d, or `_ABSENT`."""

    dims: list[str]
    values: list[str]
    hashes: Keys
    of_rows: Int64s

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
        self._texts = sorted(self.columns - {"watch_ms"})
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
        # One select: a call into Polars costs as much as a thousand rows. Columns that no event carries are left out.
        texts = [name for name in self._texts if frame[name].null_count() < frame.height]
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
        of_rows = np.full((len(self._dimensions), frame.height), _ABSENT, dtype=np.int64)
        for place, dimension in enumerate(self._dimensions):
            if dimension.name not in hashes.columns:
                continue
            codes = dimension.codes(frame[dimension.name], hashes[dimension.name].to_numpy(), hours)
            _to_groups(codes, len(values) - 1, of_rows[place])
            dims += [dimension.name] * (len(dimension.names) - 1)
            values += dimension.names[1:]
            stable.append(dimension.hashes[1:])
        return _Groups(dims, values, np.concatenate(stable), of_rows)

    def _cells(self, frame: pl.DataFrame, hashes: pl.DataFrame, times: Int64s) -> _Cells:
        zone = np.zeros(len(times), dtype=np.int64)
        if "tz" in hashes.columns:
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
        of_cells = (cells.times + cells.step_ms).astype(np.uint64) * _MIX
        keys = of_cells[cells.of_rows] + cells.zone_hashes
        _add_hashes(users, groups.of_rows, groups.hashes, keys)
        rows = self._recent.unmet(keys)
        most = len(rows) * (1 + len(groups.of_rows))
        cell, group = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
        pairs = np.empty(most, dtype=np.uint64)
        count = _spread(rows, users, cells.of_rows, groups.of_rows, groups.hashes, cell, group, pairs)
        return _Pairs(cell[:count], group[:count], self._seen.ids(pairs[:count]))

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
    most = len(watch_ms) * (1 + len(groups.of_rows))
    keys, weights = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    count = _cell_groups(cells.of_rows, groups.of_rows, len(groups), watch_ms, keys, weights)
    values, events, sums = totals(keys[:count], weights[:count])
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


@compiled
def _to_groups(codes: Int64s, first: int, groups: Int64s) -> None:
    """Fill in the groups of an event's values: code 0 is no value and has no group."""
    for i in range(len(codes)):
        if codes[i] != NONE:
            groups[i] = codes[i] + first


@compiled
def _add_hashes(users: Keys, of_rows: Int64s, hashes: Keys, keys: Keys) -> None:
    """Add to each event's key its user and its values."""
    for i in range(len(keys)):
        key = keys[i] + users[i]
        for d in range(of_rows.shape[0]):
            if of_rows[d, i] != _ABSENT:
                key += hashes[of_rows[d, i]]
        keys[i] = key


@compiled
def _spread(
    rows: Int64s, users: Keys, cells: Int64s, of_rows: Int64s, hashes: Keys, cell: Int64s, group: Int64s, pairs: Keys
) -> int:
    """Fill `cell`, `group` and `pairs` with one entry a group of each of these events; how many."""
    count = 0
    for i in rows:
        for d in range(-1, of_rows.shape[0]):
            g = 0 if d < 0 else of_rows[d, i]
            if g != _ABSENT:
                cell[count] = cells[i]
                group[count] = g
                pairs[count] = users[i] + hashes[g]
                count += 1
    return count


@compiled
def _cell_groups(cells: Int64s, of_rows: Int64s, groups: int, watch_ms: Int64s, keys: Int64s, weights: Int64s) -> int:
    """Fill `keys` (cell × groups + group) and `weights` (watch time) with one entry a group of each event; how many."""
    count = 0
    for i in range(len(cells)):
        for d in range(-1, of_rows.shape[0]):
            g = 0 if d < 0 else of_rows[d, i]
            if g != _ABSENT:
                keys[count] = cells[i] * groups + g
                weights[count] = watch_ms[i]
                count += 1
    return count
