"""The Bytewax sink: buffers an epoch's rows and writes them before the epoch may commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import polars as pl
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from sinks import fail_points

_MAX_BUFFERED_ROWS = 100_000
_LEAST_APART_SECONDS = 0.25  # of two writes: rows come twice a second and do not wait for the epoch
_AT_ONCE = 3  # inserts: mostly of fixed costs and waiting, on both sides
_LAST = frozenset({"ingest_ledger", "engine_progress"})  # they say that rows are there
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

    def __init__(self, writer: Writer, connect: Callable[[], Writer], observe: Observe) -> None:
        """`connect`: gives a further writer, for a thread that writes beside."""
        self._writers, self._connect, self._observe = [writer], connect, observe
        self._changed, self._opening = threading.Condition(), threading.Lock()
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
        for writer in self._writers:
            writer.close()

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

    def _write(self, buffers: Mapping[str, list[pl.DataFrame]]) -> None:
        for tables in (buffers.keys() - _LAST, buffers.keys() & _LAST):
            self._write_at_once({table: buffers[table] for table in buffers if table in tables})

    def _write_at_once(self, buffers: Mapping[str, list[pl.DataFrame]]) -> None:
        """All tables, several at a time. Nothing is being written on return; an error of one of them is raised."""
        left = iter(list(buffers.items()))  # shared: taking a table is one step under the GIL
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for table, frames in left:
                    self._insert(number, table, frames)
            except BaseException as error:  # noqa: BLE001  # raised below
                errors.append(error)
                for _ in left:  # nothing more is begun
                    pass

        beside = [
            threading.Thread(target=work, args=(number,), name=f"store-{number}", daemon=True)
            for number in range(1, min(_AT_ONCE, len(buffers)))
        ]
        for thread in beside:
            thread.start()
        work(0)
        for thread in beside:
            thread.join()
        if errors:
            raise errors[0]

    def _insert(self, number: int, table: str, frames: list[pl.DataFrame]) -> None:
        began = time.monotonic()
        frame = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
        self._writer(number).insert(table, frame)
        self._observe(table, frame.height, time.monotonic() - began)
        fail_points.reach(fail_points.IN_FLUSH)

    def _writer(self, number: int) -> Writer:
        """The writer of a thread: connections are not for use by several at a time."""
        with self._opening:
            while len(self._writers) <= number:
                self._writers.append(self._connect())
            return self._writers[number]


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
        self._owner, self._connect, self._observe = owner, connect, observe
        self._writer = connect() if owner else None

    def list_parts(self) -> list[str]:
        return [_PART] if self._owner else []

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _StorePartition:
        assert self._writer is not None, "only the owner has a partition"
        return _StorePartition(_Flusher(self._writer, self._connect, self._observe))
