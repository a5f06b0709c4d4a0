"""The Bytewax sink: buffers an epoch's rows and writes them before the epoch may commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import polars as pl
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from sinks import fail_points

_MAX_BUFFERED_ROWS = 100_000
_LEAST_APART_SECONDS = 0.25  # of two writes: rows come twice a second and do not wait for the epoch
_CLOSE_SECONDS = 10.0  # it may be waiting for a store that is down
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


class _Flusher:
    """Writes in a thread of its own, so that the dataflow goes on while the store works.

    What comes within `_LEAST_APART_SECONDS` is written together: parts are what ClickHouse suffers from.
    """

    def __init__(self, writer: Writer, observe: Observe) -> None:
        self._writer, self._observe = writer, observe
        self._changed = threading.Condition()
        self._buffers: dict[str, list[pl.DataFrame]] = {}
        self._rows = 0  # in buffers
        self._writing = self._hurry = self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def add(self, items: list[TableRows]) -> None:
        """Buffer rows. Waits while there are too many; raises what went wrong with earlier ones."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows <= _MAX_BUFFERED_ROWS or self._error is not None)
            self._raise()
            for item in items:
                frame = item.frame if isinstance(item.frame, pl.DataFrame) else pl.read_ipc(item.frame)
                self._buffers.setdefault(item.table, []).append(frame)
                self._rows += frame.height
            self._changed.notify_all()

    def flush(self) -> None:
        """Return when all rows are stored, or raise."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._error is not None or not (self._buffers or self._writing))
            self._hurry = False
            self._raise()

    def close(self) -> None:
        """End the thread; rows that are not stored belong to an epoch that will not commit."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_SECONDS)
        self._writer.close()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        begun = 0.0
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or self._buffers)
                due = begun + _LEAST_APART_SECONDS - time.monotonic()
                self._changed.wait_for(self._is_urgent, timeout=max(0.0, due))
                if self._closed:
                    return
                buffers, self._buffers, self._rows, self._writing = self._buffers, {}, 0, True
                self._changed.notify_all()
            begun = time.monotonic()
            try:
                self._write(buffers)
            except BaseException as error:  # noqa: BLE001  # the dataflow's thread raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _is_urgent(self) -> bool:
        return self._closed or self._hurry or self._rows > _MAX_BUFFERED_ROWS

    def _write(self, buffers: dict[str, list[pl.DataFrame]]) -> None:
        for table in list(buffers):  # each is let go when it is written
            began, frames = time.monotonic(), buffers.pop(table)
            rows = sum(frame.height for frame in frames)
            self._writer.insert(table, pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0])
            self._observe(table, rows, time.monotonic() - began)
            fail_points.reach(fail_points.IN_FLUSH)


class _StorePartition(StatefulSinkPartition[TableRows, bytes]):
    def __init__(self, flusher: _Flusher) -> None:
        self._flusher = flusher

    def write_batch(self, values: list[TableRows]) -> None:
        self._flusher.add(values)

    def snapshot(self) -> bytes:
        # Bytewax calls this at the end of an epoch and commits afterwards; a failed insert fails the epoch.
        self._flusher.flush()
        fail_points.reach(fail_points.INSERT_COMMIT)
        return b""

    def close(self) -> None:
        self._flusher.close()


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
        return _StorePartition(_Flusher(self._writer, self._observe))
