"""The Bytewax sink: buffers an epoch's rows and writes them before the epoch may commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import polars as pl
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from sinks import fail_points

_MAX_BUFFERED_ROWS = 500_000
_MAX_AGE_SECONDS = 0.4  # rows come twice a second and replace older ones, so that they need not wait for the epoch
_PART = "store"


class TableRows(Protocol):
    """Rows for a table."""

    @property
    def table(self) -> str: ...
    @property
    def frame(self) -> pl.DataFrame | bytes: ...


class Writer(Protocol):
    """Where rows go."""

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        """Insert rows, durably, or raise."""

    def close(self) -> None:
        """Let go of the connection."""


Observe = Callable[[str, int, float], None]
"""Told of each insert: table, rows, seconds."""


def _unobserved(table: str, rows: int, seconds: float) -> None:
    pass


class _StorePartition(StatefulSinkPartition[TableRows, bytes]):
    """Writes in a thread of its own, one flush at a time: the dataflow goes on while the store works."""

    def __init__(self, writer: Writer, observe: Observe) -> None:
        self._writer, self._observe = writer, observe
        self._buffers: dict[str, list[pl.DataFrame]] = {}
        self._rows = 0
        self._flushed = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writing: Future[None] | None = None

    def write_batch(self, values: list[TableRows]) -> None:
        for item in values:
            frame = item.frame if isinstance(item.frame, pl.DataFrame) else pl.read_ipc(item.frame)
            self._buffers.setdefault(item.table, []).append(frame)
            self._rows += frame.height
        if self._rows > _MAX_BUFFERED_ROWS or time.monotonic() - self._flushed > _MAX_AGE_SECONDS:
            self._flush()
        elif self._writing is not None and self._writing.done():
            self._wait()

    def _flush(self) -> None:
        """Begin to write what is buffered. A store that is slow holds the dataflow back here, before the next flush."""
        self._wait()
        buffers, self._buffers, self._rows = self._buffers, {}, 0
        self._writing = self._thread.submit(self._write, buffers)
        self._flushed = time.monotonic()

    def _write(self, buffers: Mapping[str, list[pl.DataFrame]]) -> None:
        """One insert a table: parts are what ClickHouse suffers from."""
        for table, frames in buffers.items():
            began = time.monotonic()
            frame = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
            self._writer.insert(table, frame)
            self._observe(table, frame.height, time.monotonic() - began)
            fail_points.reach(fail_points.IN_FLUSH)

    def _wait(self) -> None:
        """Wait for the flush under way; its error is raised here."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def snapshot(self) -> bytes:
        # Bytewax calls this at the end of an epoch and commits afterwards; a failed insert fails the epoch.
        self._flush()
        self._wait()
        fail_points.reach(fail_points.INSERT_COMMIT)
        return b""

    def close(self) -> None:
        self._thread.shutdown()
        self._writer.close()


class RowsSink(FixedPartitionedSink[TableRows, bytes]):
    """A sink of one partition, owned by one worker, which connects at once."""

    def __init__(self, connect: Callable[[], Writer], *, owner: bool, observe: Observe = _unobserved) -> None:
        self._owner, self._observe = owner, observe
        self._writer = connect() if owner else None

    def list_parts(self) -> list[str]:
        return [_PART] if self._owner else []

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _StorePartition:
        assert self._writer is not None, "only the owner has a partition"
        return _StorePartition(self._writer, self._observe)
