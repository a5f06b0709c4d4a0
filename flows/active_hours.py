"""Activity of all shards: rows of `active_users` and `active_hours` from the increments of `ActivityShard`.

One frame holds a row per (cut, start, dim, value). It closes by its `end` alone, so what a call emits follows from the
watermarks of this call and of the one before it, and from which rows changed between them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import polars as pl

from flows.active_users import INCREMENTS, ActivityShard
from flows.kernel import Progress
from schemas.events import OTHER
from schemas.windows import ActivitySpec, PlatformHour, UserHour

__all__ = ["ActivityMerge", "ActivityShard", "ActivitySpec"]

_FORMAT: Final = 1
_FOREVER: Final = 1 << 62
_KEYS: Final = ("cut", "start", "dim", "value")
_MEASURES: Final = ("events", "users", "watch_ms")
_STATE: Final[dict[str, pl.DataType]] = {**INCREMENTS, "end": pl.Int64(), "changed": pl.Boolean()}
_WAITING_MAX: Final = 1 << 16  # rows of increments that may wait to be summed
_UNTOLD_MIN: Final = 1 << 18  # logged rows below which nobody minds that no delta is ever asked for


@dataclass(frozen=True, slots=True)
class _Step:
    """Increments that were folded, and the emission that followed them (its watermark; None: none did)."""

    increments: pl.DataFrame
    watermark: int | None
    early: bool


class _Blob(msgspec.Struct, array_like=True):
    """State (rows) and what came on top of it, or only the latter, as plain data."""

    format: int
    full: bool
    watermark: int
    rows: bytes  # Arrow IPC
    steps: list[tuple[bytes, int | None, bool]]  # see _Step; increments as Arrow IPC


class ActivityMerge:
    """See the module. Implements `flows.kernel.MergeKernel`."""

    name = "activity"

    def __init__(self, spec: ActivitySpec) -> None:
        self.spec = spec
        self._cuts = {cut.code: cut for cut in spec.cuts()}
        self._start_empty()

    def _start_empty(self) -> None:
        self._rows = pl.DataFrame(schema=_STATE)
        self._watermark = -_FOREVER  # of the last emission
        self._pending: list[pl.DataFrame] = []
        self._next_end = _FOREVER  # nothing closes, and nothing that is closed changes, before the watermark is there
        self._start_delta(full=False)

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """See `flows.kernel.MergeKernel`. Sums wait for the next `emit`."""
        self._pending.extend(increments)
        for frame in increments:
            self._next_end = min(self._next_end, self._first_end(frame))

    def _first_end(self, increments: pl.DataFrame) -> int:
        """When the first window in there closes."""
        codes, starts = increments["cut"].to_numpy(), increments["start"].to_numpy()
        return min(
            (cut.closes_at(int(mine.min())) for code, cut in self._cuts.items() if len(mine := starts[codes == code])),
            default=_FOREVER,
        )

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """See `flows.kernel.MergeKernel`."""
        watermark = _FOREVER if progress.end else progress.watermark
        waiting = sum(frame.height for frame in self._pending)
        if not progress.early and watermark < self._next_end and waiting < _WAITING_MAX:
            return {}
        untold = _sum(self._pending[self._told :])
        increments = _sum(self._pending) if self._told else untold
        self._log(_Step(untold, watermark, progress.early))
        due = self._advance(increments, watermark, early=progress.early)
        rows = due.with_columns(is_final=(pl.col("end") <= watermark).cast(pl.UInt8))
        return {name: table for name, table in self._tables(rows).items() if table.height}

    def _advance(self, increments: pl.DataFrame, watermark: int, *, early: bool) -> pl.DataFrame:
        """Fold all that is pending, take the rows that are due, forget what has passed. Replayed on restore."""
        self._pending, self._told = [], 0
        if increments.height:
            self._add(increments)
        before, self._watermark = self._watermark, watermark
        end, changed = pl.col("end"), pl.col("changed")
        due = (end <= watermark) & ((end > before) | changed)
        if early:
            due = due | changed
        emitted = self._rows.filter(due)
        if emitted.height:
            self._rows = self._rows.with_columns(changed=changed & ~due)
        oldest = self._rows["end"].min()
        forget = watermark - self.spec.retain_ms
        if watermark < _FOREVER and isinstance(oldest, int) and oldest <= forget:
            self._rows = self._rows.filter(end > forget)
        self._next_end = self._open_end()
        return emitted

    def _open_end(self) -> int:
        first = self._rows.select(pl.col("end").filter(pl.col("end") > self._watermark).min()).item()
        return first if isinstance(first, int) else _FOREVER

    def _add(self, increments: pl.DataFrame) -> None:
        windows = increments.select("cut", "start").unique()
        touched = self._rows.join(windows, on=("cut", "start"), how="semi")
        untouched = self._rows.join(windows, on=("cut", "start"), how="anti")
        ends = windows.with_columns(
            end=pl.Series([self._cuts[cut].closes_at(start) for cut, start in windows.iter_rows()], dtype=pl.Int64)
        )
        added = self._fold_tail(touched, increments).join(ends, on=("cut", "start")).with_columns(changed=True)
        summed = (
            pl.concat((touched, added.select(*_STATE)))
            .group_by(_KEYS)
            .agg(pl.col(_MEASURES).sum(), pl.col("end").first(), pl.col("changed").any())
        )
        self._rows = pl.concat((untouched, summed.select(*_STATE)), rechunk=True)

    def _fold_tail(self, held: pl.DataFrame, increments: pl.DataFrame) -> pl.DataFrame:
        """Increments with values beyond the cap of a window and dimension renamed to `OTHER`.

        Values that a window has stay; of new ones the first in order fill what room there is. Users of a folded value
        are added to those of `OTHER`, who may be the same.
        """
        if held.height + increments.height <= self.spec.value_cap:
            return increments
        window_dim = ("cut", "start", "dim")
        values = pl.col("value") != OTHER
        sizes = held.filter(values).group_by(window_dim).agg(size=pl.len().cast(pl.Int64))
        new = increments.filter(values).join(held, on=_KEYS, how="anti").join(sizes, on=window_dim, how="left")
        place = pl.col("value").rank("ordinal").over(window_dim).cast(pl.Int64)
        beyond = new.filter(place + pl.col("size").fill_null(0) > self.spec.value_cap).select(_KEYS)
        if not beyond.height:
            return increments
        tail = increments.join(beyond, on=_KEYS, how="semi").with_columns(value=pl.lit(OTHER))
        return pl.concat((increments.join(beyond, on=_KEYS, how="anti"), tail)).select(*INCREMENTS)

    def _tables(self, rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
        users = rows.filter(pl.col("cut") > 0).select(
            window_start="start",
            window_seconds=pl.col("cut").cast(pl.Int64),
            **_plain("dim", "value", *_MEASURES, "is_final"),
        )
        wall = pl.from_epoch("start", time_unit="ms")
        bases = {PlatformHour(self.spec.platform_zone).code: "platform", UserHour().code: "user"}
        hours = rows.filter(pl.col("cut") <= 0).select(
            basis=pl.col("cut").replace_strict(bases, return_dtype=pl.String),
            date=wall.dt.date(),
            weekday=wall.dt.weekday().cast(pl.Int64),
            hour=wall.dt.hour().cast(pl.Int64),
            **_plain("dim", "value", *_MEASURES, "is_final"),
        )
        return {"active_users": users, "active_hours": hours}

    # ---- recovery

    def _start_delta(self, *, full: bool) -> None:
        """Note changes from here on; `full`: they can only be told as a whole."""
        self._full = full
        self._steps: list[_Step] = []
        self._logged_rows = 0
        self._told = len(self._pending)  # how many of the pending frames are in a snapshot or delta

    def _log(self, step: _Step) -> None:
        if self._full:
            return
        last = self._steps[-1] if self._steps else None
        if last and not step.increments.height and last.watermark is not None and step.watermark is not None:
            # Two emissions with nothing between them leave what one of them would.
            self._steps[-1] = _Step(last.increments, step.watermark, last.early or step.early)
            return
        self._steps.append(step)
        self._logged_rows += step.increments.height
        if self._logged_rows > _UNTOLD_MIN + 4 * self._rows.height:
            self._start_delta(full=True)  # nobody asks for deltas: do not hoard them

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        self._start_delta(full=False)
        pending = _sum(self._pending)
        steps: list[tuple[bytes, int | None, bool]] = [(_ipc(pending), None, False)] if pending.height else []
        blob = _Blob(_FORMAT, full=True, watermark=self._watermark, rows=_ipc(self._rows), steps=steps)
        return msgspec.msgpack.encode(blob)

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        untold = _sum(self._pending[self._told :])
        if untold.height:
            self._log(_Step(untold, None, early=False))
        if self._full:
            return self.snapshot()
        if not self._steps:
            return b""
        steps = [(_ipc(step.increments), step.watermark, step.early) for step in self._steps]
        self._start_delta(full=False)
        return msgspec.msgpack.encode(_Blob(_FORMAT, full=False, watermark=self._watermark, rows=b"", steps=steps))

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        self._start_empty()
        for packed in (snapshot, *deltas):
            if packed:
                self._apply(msgspec.msgpack.decode(packed, type=_Blob))
        self._start_delta(full=False)

    def _apply(self, blob: _Blob) -> None:
        if blob.format != _FORMAT:
            raise ValueError(f"activity rows of format {blob.format}; this version reads {_FORMAT}")
        if blob.full:
            self._start_empty()
            self._rows, self._watermark = _from_ipc(blob.rows, _STATE), blob.watermark
            self._next_end = self._open_end()
        for increments, watermark, early in blob.steps:
            if increments:
                self.fold([_from_ipc(increments, INCREMENTS)])
            if watermark is not None:
                self._advance(_sum(self._pending), watermark, early=early)


def _sum(increments: list[pl.DataFrame]) -> pl.DataFrame:
    if not increments:
        return pl.DataFrame(schema=INCREMENTS)
    return pl.concat(increments).group_by(_KEYS).agg(pl.col(_MEASURES).sum()).select(*INCREMENTS)


def _plain(*names: str) -> dict[str, pl.Expr]:
    return {name: pl.col(name) for name in names}


def _ipc(frame: pl.DataFrame) -> bytes:
    if not frame.height:
        return b""
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def _from_ipc(blob: bytes, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(blob)).select(*schema) if blob else pl.DataFrame(schema=schema)
