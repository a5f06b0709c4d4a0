"""What travels between the steps of the dataflow. Plain picklable values: with several workers they cross processes."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

Frame = pl.DataFrame | bytes
"""A frame, or its Arrow IPC bytes where it may cross processes (`packed`)."""

MIN_TIME = -(1 << 62)
"""Before every event time: the watermark of a source that has seen nothing."""
MAX_TIME = 1 << 62
"""After every event time: the watermark of a source that has ended."""


def packed(frame: pl.DataFrame) -> bytes:
    """A frame as bytes.

    Bytewax pickles what crosses processes while it holds locks of its own, and Polars lets go of the GIL when it is
    pickled: threads then wait for each other. Bytes are pickled without letting go.
    """
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def unpacked(frame: Frame) -> pl.DataFrame:
    """The frame that was perhaps packed."""
    return frame if isinstance(frame, pl.DataFrame) else pl.read_ipc(io.BytesIO(frame))


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """Where one worker's partitions stand once the item that carries this has been folded. Times in epoch ms."""

    worker: int
    watermark: int  # least over the worker's active partitions
    idle: bool  # all its partitions are idle and caught up, so the watermark follows the clock
    now: int
    early: bool
    end: bool
    last_event_time: int


LEDGER_LINE = ("kind", "partition", "minute", "consumed", "late", "rejected", "filtered")
"""Columns of `Slice.ledger`: counts of one kind in one minute."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive messages of one partition, decoded and judged. Frames are None when empty.

    `frame`: valid, on-time events; `late`, `dead`: rows for `late_events` and `dead_letters`; `ledger`: a
    `LEDGER_LINE` for each kind and minute. `by_log`: the same by the log's own time, of bounded input: all of it is
    read within minutes, so that its ledger does not tell when it was sent.
    """

    frame: pl.DataFrame | None
    late: pl.DataFrame | None
    dead: pl.DataFrame | None
    ledger: npt.NDArray[np.int64]
    by_log: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class SourceItem:
    """What a source partition emits: a slice (or None: a heartbeat) and the worker's progress after it."""

    slice: Slice | None
    progress: SourceProgress


@dataclass(frozen=True, slots=True)
class ShardItem:
    """Events of one user shard, and the progress of the worker that routed them."""

    shard: int
    frame: Frame | None
    progress: SourceProgress


@dataclass(frozen=True, slots=True)
class MergeItem:
    """Increments of one shard (or of the router, shard −1) for one family, and that shard's progress."""

    family: str
    shard: int
    increments: list[Frame] = field(default_factory=list)
    watermark: int = MIN_TIME
    now: int = 0
    early: bool = False
    end: bool = False
    last_event_time: int = MIN_TIME


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows for a table of the store, with all of the table's columns."""

    table: str
    frame: Frame
