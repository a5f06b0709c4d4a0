"""`livepulse` with a sink that lets an epoch commit before its rows are stored: the suite must notice."""

from __future__ import annotations

from flows.cli import main
from sinks import fail_points, rows_sink


def no_flush(_: rows_sink._StorePartition) -> bytes:
    fail_points.reach(fail_points.INSERT_COMMIT)
    return b""


rows_sink._LEAST_APART_SECONDS = 2.0  # the thread writes when it likes, which is later
rows_sink._StorePartition.snapshot = no_flush  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
