"""The ingest ledger: counts of every message by outcome, and the engine's own progress row.

`consumed` is counted at the source, the outcomes where each is decided; that they add up is an audit, not a definition.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.kernel import Progress
from flows.messages import MAX_TIME, MIN_TIME
from flows.parts import LEDGER_COUNTS, MINUTE_MS
from schemas.events import TOPICS

_KEY = ("topic", "partition", "minute")
_SCHEMA = {"topic": pl.String, "partition": pl.Int32, "minute": pl.Int64, **dict.fromkeys(LEDGER_COUNTS, pl.Int64)}
_EMIT_MS = 500
_FORGET_MS = 30 * 86_400_000  # behind its partition's newest minute; by a broker's own stamps no more messages come
_FORGET_EVERY_MS = 3_600_000
_LONG_AGO = 0  # the minute of messages so far behind: producers' stamps, where the topic has CreateTime


def outcome_counts(frame: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """Ledger increments: the rows of `frame` (columns kind, partition, minute) counted as `outcome`.

    By one integer a row: a grouping by columns costs ten times as much, for each shard and batch.
    """
    minutes = frame["minute"].to_numpy() // MINUTE_MS
    lanes = frame["partition"].to_numpy().astype(np.int64) * len(TOPICS) + frame["kind"].to_numpy()
    first = int(minutes.min())
    span = int(minutes.max()) - first + 1
    codes = lanes * span + (minutes - first)
    found, counts = np.unique(codes, return_counts=True) if span > 1 else _counted(codes)
    none = np.zeros(len(found), dtype=np.int64)
    return pl.DataFrame(
        {
            "topic": [TOPICS[kind] for kind in (found // span % len(TOPICS)).tolist()],
            "partition": (found // span // len(TOPICS)).astype(np.int32),
            "minute": (found % span + first) * MINUTE_MS,
            **{name: counts if name == outcome else none for name in LEDGER_COUNTS},
        }
    )


def _counted(codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct small codes and how often each is there."""
    counts = np.bincount(codes)
    found = np.flatnonzero(counts)
    return found, counts[found]


class LedgerMerge:
    """A merge kernel (flows.kernel.MergeKernel): sums increments per topic, partition and minute."""

    name = "ledger"

    def __init__(self) -> None:
        self._totals = pl.DataFrame(schema=_SCHEMA)
        self._fresh: list[pl.DataFrame] = []  # since the last snapshot or delta
        self._changed: list[pl.DataFrame] = []  # keys since the last emission
        self._emitted = 0
        self._newest = self._forgot = 0  # minutes

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """Add counts. A minute that may be forgotten is never begun anew: its row would shrink."""
        batch = _sum(increments)
        self._newest = max(self._newest, _limit(batch["minute"].max()))
        if _limit(batch["minute"].min()) < self._newest - _FORGET_MS:
            forgettable = self._kept(batch).not_()
            minute = pl.when(forgettable).then(_LONG_AGO).otherwise("minute")
            batch = _sum([batch.with_columns(minute=minute)])
        self._totals = _sum([self._totals, batch])
        self._fresh.append(batch)
        self._changed.append(batch.select(_KEY))

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Rows of `ingest_ledger` that changed and one of `engine_progress`: twice a second, or with all early rows."""
        if not (progress.end or progress.early) and progress.now - self._emitted < _EMIT_MS:
            return {}
        self._emitted = progress.now
        rows: dict[str, pl.DataFrame] = {}
        if self._changed:
            keys = pl.concat(self._changed).unique()
            self._changed = []
            rows["ingest_ledger"] = self._totals.join(keys, on=list(_KEY), how="semi")
        if progress.last_event_time > MIN_TIME:
            watermark = progress.last_event_time if progress.watermark >= MAX_TIME else max(progress.watermark, 0)
            rows["engine_progress"] = pl.DataFrame(
                {
                    "name": ["engine"],
                    "last_event_time": [progress.last_event_time],
                    "watermark": [watermark],
                    "as_of": [progress.now],
                }
            )
        if self._newest - self._forgot >= _FORGET_EVERY_MS:
            self._forgot = self._newest
            self._totals = self._totals.filter(self._kept(self._totals) | (pl.col("minute") == _LONG_AGO))
        return rows

    def _kept(self, rows: pl.DataFrame) -> pl.Series:
        """Which rows are not too far behind their partition's newest minute."""
        lane = list(_KEY[:2])
        minutes = pl.concat([self._totals.select(_KEY), rows.select(_KEY)])
        newest = minutes.group_by(lane).agg(newest=pl.col("minute").max())
        return (
            rows.join(newest, on=lane, maintain_order="left")
            .select(pl.col("minute") >= pl.col("newest") - _FORGET_MS)
            .to_series()
        )

    def snapshot(self) -> bytes:
        """All counts kept."""
        self._fresh = []
        return _to_bytes(self._totals)

    def delta(self) -> bytes:
        """Counts added since the last snapshot or delta."""
        if not self._fresh:
            return b""
        fresh, self._fresh = _sum(self._fresh), []
        return _to_bytes(fresh)

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the ledger that wrote these."""
        frames = [pl.read_ipc(io.BytesIO(blob)) for blob in (snapshot, *deltas) if blob]
        self._totals = _sum(frames) if frames else pl.DataFrame(schema=_SCHEMA)
        # What was emitted since the last commit is emitted again, so nothing of it need be known here.
        self._changed = [self._totals.select(_KEY)]
        self._newest = _limit(self._totals["minute"].max())


def _limit(minute: object) -> int:
    """A least or greatest minute; 0 of none."""
    return minute if isinstance(minute, int) else 0


def _sum(frames: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames).group_by(_KEY).agg(pl.col(LEDGER_COUNTS).sum())


def _to_bytes(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()
