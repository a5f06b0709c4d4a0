"""Funnels over all shards: increments become absolute rows of the table `funnel`, with exact medians."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from flows.funnel_counts import INCREMENTS
from flows.kernel import Progress
from flows.multisets import Multisets
from schemas.events import ALL, OTHER
from schemas.funnels import BUCKET_MS, VIDEO_TO_LIVE, Funnel

NAME: Final = "funnel"
_FORMAT: Final = 1
_NAMES: Final = ("funnel", "unit", "bucket_start", "dim", "value", "step")
_SUMS: Final = ("reached", "amount_minor", "other_currency_events")

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Cell = tuple[str, str, int, str, int]  # funnel, unit, bucket_start, dim, step


class _State(msgspec.Struct, frozen=True, array_like=True):
    format: int
    names: bytes
    sums: bytes
    hashes: bytes
    numbers: bytes
    time_rows: bytes
    times: bytes


class FunnelMerge:
    """The rows of all funnels (a `flows.kernel.MergeKernel`). Each row has a number, in the order of first arrival.

    Rows come out when they changed: at once while `progress.early`, else when their bucket matures, when `early` comes
    back, and at the end. Beyond `dimension_cap` values of a dimension in a bucket, further ones count as `__other__`.
    After a restore every row kept comes out once more.
    """

    name = NAME

    def __init__(
        self, funnels: Sequence[Funnel] = (VIDEO_TO_LIVE,), *, dimension_cap: int = 10_000, retain_ms: int = 3_600_000
    ) -> None:
        self._funnels = {funnel.name: funnel for funnel in funnels}
        self._cap = dimension_cap
        self._retain = retain_ms
        self._clear()

    def _clear(self) -> None:
        self._names = pl.DataFrame(schema={name: INCREMENTS[name] for name in _NAMES})
        self._sums: Int64s = np.zeros((0, len(_SUMS)), dtype=np.int64)
        self._mature_at: Int64s = np.zeros(0, dtype=np.int64)
        self._changed = np.zeros(0, dtype=np.bool_)
        self._hashes: Keys = np.zeros(0, dtype=np.uint64)  # ascending
        self._numbers: Int64s = np.zeros(0, dtype=np.int64)  # row of each hash
        self._times = Multisets()
        self._values: dict[tuple[str, int, str], set[str]] = {}  # admitted ones, per funnel, bucket, dimension
        self._others: dict[Cell, int] = {}  # rows of `__other__`
        self._fresh: list[pl.DataFrame] | None = None

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """Add increments (frames of `INCREMENTS`)."""
        frame = pl.concat(increments) if len(increments) > 1 else increments[0]
        # A funnel that is declared no more may still be in a state that is restored.
        frame = frame.filter(pl.col("funnel").is_in(list(self._funnels)))
        if not frame.height:
            return
        if self._fresh is not None:
            self._fresh.append(frame)
        hashes = frame["row"].to_numpy()
        self._admit(frame, hashes)
        number = self._numbers[np.searchsorted(self._hashes, hashes)]
        np.add.at(self._sums, number, frame.select(_SUMS).to_numpy())
        self._changed[number] = True
        times = frame["times"]
        row = np.repeat(number, times.list.len().to_numpy())
        time = times.explode().drop_nulls().to_numpy()
        gained = time >= 0
        self._times.add(row[gained], time[gained])
        self._times.remove(row[~gained], -1 - time[~gained])

    def _admit(self, frame: pl.DataFrame, hashes: Keys) -> None:
        """Give numbers to rows that are new."""
        distinct, first = np.unique(hashes, return_index=True)
        at = np.searchsorted(self._hashes, distinct)
        new = np.ones(len(distinct), dtype=np.bool_)
        inside = at < len(self._hashes)
        new[inside] = self._hashes[at[inside]] != distinct[inside]
        if not new.any():
            return
        names = frame.select(_NAMES)[first[new]]
        number, admitted = self._number(names)
        self._append(admitted)
        self._hashes = np.insert(self._hashes, at[new], distinct[new])
        self._numbers = np.insert(self._numbers, at[new], number)

    def _number(self, names: pl.DataFrame) -> tuple[list[int], pl.DataFrame]:
        """The row number of each of `names`, and the names of the rows that begin with them."""
        numbers, begun = [], []
        number = self._names.height
        for row in names.iter_rows():
            funnel, unit, bucket, dim, value, step = row
            known = self._values.setdefault((funnel, bucket, dim), set())
            if value != OTHER and (dim == ALL or value in known or len(known) < self._cap):
                known.add(value)
            else:
                cell = funnel, unit, bucket, dim, step
                if cell in self._others:
                    numbers.append(self._others[cell])
                    continue
                self._others[cell], row = number, (funnel, unit, bucket, dim, OTHER, step)  # noqa: PLW2901
            numbers.append(number)
            begun.append(row)
            number += 1
        return numbers, pl.DataFrame(begun, schema=self._names.schema, orient="row")

    def _append(self, names: pl.DataFrame) -> None:
        self._names = self._names.vstack(names)
        if self._names.n_chunks() > 64:
            self._names = self._names.rechunk()
        self._sums = np.concatenate((self._sums, np.zeros((names.height, len(_SUMS)), np.int64)))
        after = [BUCKET_MS + self._funnels[funnel].matures_after_ms for funnel in names["funnel"].to_list()]
        mature_at = names["bucket_start"].to_numpy() + np.array(after, dtype=np.int64)
        self._mature_at = np.concatenate((self._mature_at, mature_at))
        self._changed = np.concatenate((self._changed, np.ones(names.height, dtype=np.bool_)))

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Rows of the table `funnel` that are due; see the class."""
        due = (
            self._changed if progress.early or progress.end else self._changed & (self._mature_at <= progress.watermark)
        )
        numbers = np.flatnonzero(due)
        rows = self._rows(numbers) if len(numbers) else None
        self._changed[numbers] = False
        self._expire(progress.watermark)
        return {} if rows is None else {NAME: rows}

    def closed(self, name: str, since: int, watermark: int) -> pl.DataFrame:
        """Rows of a funnel's mature buckets from `since` on, as long as they are kept."""
        mine = (self._names["funnel"] == name) & (self._names["bucket_start"] >= since)
        return self._rows(np.flatnonzero(mine.to_numpy() & (self._mature_at <= watermark)))

    def _rows(self, numbers: Int64s) -> pl.DataFrame:
        names, sums = self._names[numbers], self._sums[numbers]
        reached = sums[:, 0]
        timed = np.flatnonzero((names["step"].to_numpy() > 1) & (reached > 0))
        medians = np.zeros(len(numbers))
        medians[timed] = self._times.medians(numbers[timed], reached[timed]) / 1000
        steps = [
            self._funnels[funnel].steps[step - 1].name
            for funnel, step in zip(names["funnel"].to_list(), names["step"].to_list(), strict=True)
        ]
        return names.with_columns(
            pl.Series("step_name", steps, dtype=pl.String),
            pl.Series("reached", reached),
            pl.Series("median_seconds", medians),
            pl.Series("amount_minor", sums[:, 1]),
            pl.Series("other_currency_events", sums[:, 2]),
            pl.Series("mature_at", self._mature_at[numbers]),
        )

    def _expire(self, watermark: int) -> None:
        """Forget rows of buckets that nothing can change any more."""
        kept = self._mature_at + self._retain > watermark
        if kept.all():
            return
        numbers = np.where(kept, np.cumsum(kept) - 1, -1)
        self._names = self._names.filter(pl.Series(kept))
        self._sums, self._mature_at, self._changed = self._sums[kept], self._mature_at[kept], self._changed[kept]
        self._times.renumber(numbers)
        number = numbers[self._numbers]
        self._hashes, self._numbers = self._hashes[number >= 0], number[number >= 0]
        self._note_values()

    def _note_values(self) -> None:
        self._values, self._others = {}, {}
        for number, (funnel, unit, bucket, dim, value, step) in enumerate(self._names.iter_rows()):
            known = self._values.setdefault((funnel, bucket, dim), set())
            if value == OTHER:
                self._others[funnel, unit, bucket, dim, step] = number
            else:
                known.add(value)

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        self._fresh = []
        rows, times = self._times.members()
        arrays = (self._sums, self._hashes, self._numbers, rows, times)
        return msgspec.msgpack.encode(_State(_FORMAT, _ipc(self._names), *(array.tobytes() for array in arrays)))

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`. The increments since the last one, as they came."""
        if self._fresh is None:
            return self.snapshot() if self._names.height else b""
        fresh, self._fresh = self._fresh, []
        return _ipc(pl.concat(fresh)) if fresh else b""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`.

        Raises:
            ValueError: the state is of another format.
        """
        self._clear()
        for blob in (snapshot, *deltas):
            if blob.startswith(_IPC_MAGIC):
                self.fold([_read_ipc(blob)])
            elif blob:
                self._load(msgspec.msgpack.decode(blob, type=_State))
        self._fresh = []

    def _load(self, state: _State) -> None:
        if state.format != _FORMAT:
            raise ValueError(f"funnel state of format {state.format}; this version reads {_FORMAT}")
        names = _read_ipc(state.names)
        kept = names["funnel"].is_in(list(self._funnels)).to_numpy()
        numbers = np.where(kept, np.cumsum(kept) - 1, -1)
        self._append(names.filter(pl.Series(kept)))
        self._sums = np.frombuffer(state.sums, dtype=np.int64).reshape(-1, len(_SUMS))[kept]
        number = numbers[np.frombuffer(state.numbers, dtype=np.int64)]
        self._hashes = np.frombuffer(state.hashes, dtype=np.uint64)[number >= 0]
        self._numbers = number[number >= 0]
        rows, times = (np.frombuffer(blob, dtype=np.int64) for blob in (state.time_rows, state.times))
        mine = numbers[rows] >= 0
        self._times.add(numbers[rows][mine], times[mine])
        self._note_values()


_IPC_MAGIC: Final = b"ARROW1"


def _ipc(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def _read_ipc(blob: bytes) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(blob))
