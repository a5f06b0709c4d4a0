"""Live rooms over all shards: increments become absolute rows of rooms (by minute and day), sources and products.

A room's figures are kept by day and added up by the view `live_sessions`, so that nothing of a room need be kept until
its last order is refunded: a refund weeks later is a row of its own day.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from flows.funnel_pairs import Int64s
from flows.kernel import Progress
from flows.live_sessions import BETWEEN, NEWS, PRODUCTS, ROOMS, SOURCES
from flows.session_cells import Cells, Due
from flows.topic_columns import pack, unpack
from schemas import sessions as m
from schemas.hashing import mix

__all__ = ["ProductMerge", "RoomMerge", "SourceMerge"]

_FORMAT: Final = 1
_FOREVER: Final = 1 << 62
_PEAKS: Final = ((m.ROOM_WIDTH, m.PRESENT), (m.ROOM_WIDTH + 1, m.WATCHING))
"""Columns of a day's sums that hold the greatest of a minute's columns: PCU, and most users watching."""
_LIVE_ID, _CREATOR, _CATEGORY = range(3)
_ITEM: Final = 1
_TIMES: Final = {
    "first_event_at": m.FIRST_EVENT, "first_start_at": m.FIRST_START, "last_start_at": m.LAST_START,
    "last_end_at": m.LAST_END, "last_active_at": m.LAST_ACTIVE,
}  # fmt: skip


class _Merge(ABC):
    """What the kernels share: cells by name, their expiry and recovery. See `flows.kernel.MergeKernel`."""

    name: str

    def __init__(self, cells: Mapping[str, Cells], retain_ms: int) -> None:
        self._cells = cells
        self._retain = retain_ms

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Rows that are due, per table. Cells go once no event that counts can reach them."""
        watermark = _FOREVER if progress.end else progress.watermark
        found = {}
        for table, cells in self._cells.items():
            due = cells.due(watermark, early=progress.early)
            if due is not None:
                found[table] = self._rows(table, due)
            if not progress.end:
                cells.forget(watermark - self._retain)
        return found

    @abstractmethod
    def _rows(self, table: str, due: Due) -> pl.DataFrame:
        """The rows of a table for its cells that are due."""

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return pack({"format": _FORMAT, **{name: cells.pack(full=True) for name, cells in self._cells.items()}})

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`. The cells that changed, as they are now."""
        if not any(cells.is_unsaved for cells in self._cells.values()):
            return b""
        return pack({"format": _FORMAT, **{name: cells.pack(full=False) for name, cells in self._cells.items()}})

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`.

        Raises:
            ValueError: the state is of another format.
        """
        values: list[dict[str, Any]] = [unpack(blob) for blob in (snapshot, *deltas) if blob]
        for value in values:
            if value["format"] != _FORMAT:
                raise ValueError(f"state of {self.name} of format {value['format']}; this version reads {_FORMAT}")
        for name, cells in self._cells.items():
            cells.unpack([value[name] for value in values])


class RoomMerge(_Merge):
    """Rows of rooms by minute and by day."""

    name = ROOMS

    def __init__(self, *, retain_ms: int = 3_600_000) -> None:
        self._minutes = Cells(m.MINUTE_MS, m.ROOM_WIDTH, sums=m.FIRST_EVENT, least=2, texts=1)
        self._days = Cells(m.PART_MS, m.ROOM_WIDTH + len(_PEAKS), sums=m.FIRST_EVENT, least=2, texts=3)
        super().__init__({"live_session_minutes": self._minutes, "live_sessions": self._days}, retain_ms)

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """Add increments (frames of `flows.live_sessions.INCREMENTS` and `sums`)."""
        frame = pl.concat(increments) if len(increments) > 1 else increments[0]
        sums: Int64s = frame["sums"].to_numpy()
        starts = frame["start"].to_numpy()
        days = starts // m.PART_MS * m.PART_MS
        keys = mix(frame["room"].to_numpy().view(np.uint64), days.view(np.uint64)).view(np.int64)
        empty = pl.Series([None], dtype=pl.String).new_from_index(0, frame.height)
        of_days = self._days.places(keys, days, (frame["live_id"], empty, empty))
        self._days.add(of_days, sums)
        is_news = frame["key"].to_numpy() == NEWS
        self._learn(frame, of_days, np.flatnonzero(is_news))
        counted = np.flatnonzero(~is_news)
        if len(counted):
            named = frame["live_id"].gather(counted)
            places = self._minutes.places(frame["key"].to_numpy()[counted], starts[counted], (named,))
            self._minutes.add(places, sums[counted])
            for peak, steps in _PEAKS:
                most = self._minutes.sums[places, steps : steps + m.STEPS].max(axis=1)
                np.maximum.at(self._days.sums[:, peak], of_days[counted], most)

    def _learn(self, frame: pl.DataFrame, places: Int64s, news: Int64s) -> None:
        """Keep a room's creator and category: of several the least, whatever came first."""
        for place, item in zip(places[news].tolist(), frame["item"].gather(news).to_list(), strict=True):
            for number, text in zip((_CREATOR, _CATEGORY), item.split(BETWEEN), strict=True):
                held = self._days.texts[number]
                if text and (not held[place] or text < held[place]):
                    held[place] = text

    def _rows(self, table: str, due: Due) -> pl.DataFrame:
        cells = self._cells[table]
        named = cells.text(_LIVE_ID, due.places, "live_id")
        figures = [pl.Series(measure.name, due.sums[:, at]) for at, measure in enumerate(m.MEASURES)]
        final = pl.Series("is_final", due.is_final)
        if table == "live_sessions":
            times = [
                pl.Series(name, due.sums[:, at], dtype=pl.Int64).replace([m.NEVER, -m.NEVER], None)
                for name, at in _TIMES.items()
            ]
            peaks = [
                pl.Series(name, np.maximum(due.sums[:, at], 0))
                for name, (at, _) in zip(("pcu", "watching_peak"), _PEAKS, strict=True)
            ]
            return pl.DataFrame([
                named, pl.Series("part_start", due.starts),
                cells.text(_CREATOR, due.places, "creator_id"), cells.text(_CATEGORY, due.places, "category"),
                *figures, *peaks, *times, final,
            ])  # fmt: skip
        present = due.sums[:, m.PRESENT : m.PRESENT + m.STEPS]
        watching = [
            pl.Series(f"watching_{m.STEP_MS // 1000 * (step + 1)}", due.sums[:, m.WATCHING + step])
            for step in range(m.STEPS)
        ]
        return pl.DataFrame([
            named, pl.Series("window_start", due.starts), pl.Series("window_seconds", np.full(len(named), 60)),
            *figures, pl.Series("viewers", due.sums[:, m.VIEWERS]), pl.Series("pcu", present.max(axis=1)),
            pl.Series("acu", present.sum(axis=1) / m.STEPS), *watching, final,
        ])  # fmt: skip


class _ItemMerge(_Merge):
    """Rows of items (of one sort) of rooms by day."""

    item: str
    measures: tuple[m.Measure, ...]

    def __init__(self, *, retain_ms: int = 3_600_000) -> None:
        self._days = Cells(m.PART_MS, len(self.measures))
        super().__init__({self.name.replace("session_", "live_session_"): self._days}, retain_ms)

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """Add increments (frames of `flows.live_sessions.INCREMENTS` and `sums`)."""
        frame = pl.concat(increments) if len(increments) > 1 else increments[0]
        texts = (frame["live_id"], frame["item"])
        places = self._days.places(frame["key"].to_numpy(), frame["start"].to_numpy(), texts)
        self._days.add(places, frame["sums"].to_numpy())

    def _rows(self, table: str, due: Due) -> pl.DataFrame:
        cells = self._cells[table]
        return pl.DataFrame([
            cells.text(_LIVE_ID, due.places, "live_id"), pl.Series("part_start", due.starts),
            cells.text(_ITEM, due.places, self.item),
            *(pl.Series(measure.name, due.sums[:, at]) for at, measure in enumerate(self.measures)),
            pl.Series("is_final", due.is_final),
        ])  # fmt: skip


class SourceMerge(_ItemMerge):
    """Where the users of rooms came from."""

    name, item, measures = SOURCES, "source", m.SOURCE_MEASURES


class ProductMerge(_ItemMerge):
    """Products of rooms."""

    name, item, measures = PRODUCTS, "product_id", m.PRODUCT_MEASURES
