"""`livepulse` with a sink that lets an epoch commit before its rows are stored: the suite must notice."""

from __future__ import annotations

import time

from flows.cli import main
from sinks import fail_points, rows_sink

partition = rows_sink._StorePartition


def late_flush(self: rows_sink._StorePartition) -> None:
    if time.monotonic() - self._flushed > 2:
        real_flush(self)


def no_flush(_: rows_sink._StorePartition) -> bytes:
    fail_points.reach(fail_points.INSERT_COMMIT)
    return b""


real_flush = partition._flush
partition._flush = late_flush  # type: ignore[method-assign]
partition.snapshot = no_flush  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
