"""What a kernel is: columnar state with fold, snapshot, delta and restore, and no clock, socket or thread inside.

Two stages. A *shard kernel* sees the accepted events of one user shard and turns a frame into *increments*: additive
rows (counts, newly seen users). A *merge kernel* sums the increments of all shards per row key and emits *absolute*
rows. Because the state of both stages is snapshotted at the same epoch, increments are folded exactly once.

State is persisted as a log: one `snapshot()` (everything) followed by the `delta()` of each epoch (what changed), so
the cost of an epoch follows what changed in it and not the size of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import polars as pl


@dataclass(frozen=True, slots=True)
class Progress:
    """Where event time and wall time stand when a batch is folded. All in epoch ms."""

    watermark: int  # every event with an earlier event time that will ever be accepted has been seen, barring idleness
    now: int  # ingest clock
    early: bool  # early rows are wanted (no backlog, not a backfill)
    end: bool = False  # bounded input has ended: close everything
    last_event_time: int = 0  # greatest event time seen


class Persistent(Protocol):
    """State that is written as a snapshot and deltas. Bytes are versioned plain data, never pickles."""

    def snapshot(self) -> bytes:
        """Everything; also starts a new delta."""

    def delta(self) -> bytes:
        """What changed since the last `snapshot()` or `delta()`; `b""` when nothing did."""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Become the state that wrote them. Folding on from here gives what the original would give."""


class ShardKernel(Persistent, Protocol):
    """User-sharded state of one family. `columns`: optional event columns it reads (schemas.events.OPTIONAL)."""

    name: str
    columns: frozenset[str]

    def fold(self, frame: pl.DataFrame, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Increments per merge kernel's name for these events (any order). An empty frame expires state, too."""


class MergeKernel(Persistent, Protocol):
    """All-shards state of one family."""

    name: str

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """Add increments (never empty frames)."""

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Absolute rows per table: final ones that `progress` closes, and early ones if it wants them.

        Early rows are those of what changed since the last call. The watermark is the least over all shards. Rows have
        the columns of the table's view (times in epoch ms as Int64, `date` as Date) without `version`, which the engine
        adds.
        """
