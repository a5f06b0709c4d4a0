"""The dataflow, left to right. The only place where steps are wired.

    source ─► route ─► shard (key: user shard) ─► merge (key: family) ─► store
                │                └► events, late events ─────────────────►
                └► ledger counts, dead letters, late events ─────────────►

One item is one batch of columns, never one event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import bytewax.operators as op
import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow

from flows.messages import Frame, MergeItem, Rows, ShardItem, SourceItem, SourceProgress
from flows.parts import ledger_frame
from flows.source import IntakeSource
from flows.steps import LEDGER, ROUTER, MergeLogic, ShardLogic, StepConfig
from sinks.rows_sink import RowsSink

T = TypeVar("T")
Routed = tuple[str, ShardItem | MergeItem | Rows]


def build(source: IntakeSource, sink: RowsSink, config: StepConfig) -> Dataflow:
    """Wire the steps."""
    flow = Dataflow("livepulse")
    batches = op.input("source", flow, source)
    router = Router(config.shards, config.pack, config.ledger_to, config.ahead.begin)
    routed = op.flat_map_batch("route", batches, router)
    shard_items = op.filter_map("to_shards", routed, _only(ShardItem))
    sharded = op.stateful_batch("shard", shard_items, lambda resumed: ShardLogic(config, resumed))
    increments = op.filter_map("increments", op.map("of_shards", sharded, _value), _only(MergeItem))
    counts = op.filter_map("counts", routed, _only(MergeItem))
    merged = op.stateful_batch("merge", op.merge("families", counts, increments), lambda r: MergeLogic(config, r))
    events = op.filter_map("events", op.map("of_shards_too", sharded, _value), _only(Rows))
    judged = op.filter_map("judged", routed, _only(Rows))
    op.output("store", op.merge("rows", merged, events, judged), sink)
    return flow


def _value(item: tuple[str, tuple[str, T]]) -> tuple[str, T]:
    """What a stateful step emitted, without the step's own key."""
    return item[1]


def _only(kind: type[T]) -> Callable[[tuple[str, object]], tuple[str, T] | None]:
    def pick(item: tuple[str, object]) -> tuple[str, T] | None:
        key, value = item
        return (key, value) if isinstance(value, kind) else None

    return pick


def _as_it_is(frame: pl.DataFrame) -> Frame:
    return frame


class Router:
    """Splits what the worker's partitions gave in this round by user shard. Small partitions are joined first."""

    def __init__(
        self,
        shards: int,
        pack: Callable[[pl.DataFrame], Frame] = _as_it_is,
        ledger_to: tuple[str, ...] = (),
        begin: Callable[[list[ShardItem]], None] | None = None,
    ) -> None:
        """`begin`: told of the items of each round, which it may begin to fold."""
        self._keys = shard_keys(shards)
        self._ledger_to = ledger_to
        self._pack, self._begin = pack, begin

    def __call__(self, items: list[SourceItem]) -> Iterable[Routed]:
        """Every shard gets an item, if only to hear of the watermark."""
        progress = items[-1].progress
        slices = [item.slice for item in items if item.slice is not None]
        by_shard = self._split([s.frame for s in slices if s.frame is not None])
        shard_items = [ShardItem(shard, by_shard.get(shard), progress) for shard in range(len(self._keys))]
        if self._begin is not None:
            self._begin(shard_items)
        out: list[Routed] = list(zip(self._keys, shard_items, strict=True))
        if slices:
            counts = [self._pack(ledger_frame(np.concatenate([s.ledger for s in slices])))]
            out.append((LEDGER, _counts_to(LEDGER, counts, progress)))
            by_log = [s.by_log for s in slices if s.by_log is not None]
            heard = [self._pack(ledger_frame(np.concatenate(by_log)))] if by_log else counts
            out += [(family, _counts_to(family, heard, progress)) for family in self._ledger_to]
        for table, frames in (
            ("late_events", [s.late for s in slices if s.late is not None]),
            ("dead_letters", [s.dead for s in slices if s.dead is not None]),
        ):
            if frames:
                out.append(("rows", Rows(table, self._pack(pl.concat(frames)))))
        return out

    def _split(self, frames: list[pl.DataFrame]) -> dict[int, Frame]:
        if not frames:
            return {}
        frame = pl.concat(frames, rechunk=True) if len(frames) > 1 else frames[0]  # taking rows of many chunks is slow
        shards = (frame["user_hash"].to_numpy() >> np.uint64(40)) % np.uint64(len(self._keys))
        order = np.argsort(shards.astype(np.uint8), kind="stable")  # a radix sort
        ordered = frame[order]
        ends = np.cumsum(np.bincount(shards.astype(np.intp), minlength=len(self._keys)))
        starts = np.concatenate(([0], ends[:-1]))
        return {
            i: self._pack(ordered[int(a) : int(b)]) for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if b > a
        }


def _counts_to(family: str, increments: list[Frame], p: SourceProgress) -> MergeItem:
    return MergeItem(family, ROUTER, increments, p.watermark, p.now, p.early, p.end, p.last_event_time)


def shard_keys(shards: int) -> list[str]:
    """Key names of the shards, chosen so that any number of workers gets an even share.

    Bytewax sends a key to worker SipHash-1-3(key) mod workers. The salts make the hash of shard i's name ≡ i
    (mod 64), so 1, 2, 4, … workers get equal shares.
    """
    return [f"shard-{shard:02d}-{_SALTS[shard]}" for shard in range(shards)]


_SALTS = (
    226, 52, 82, 3, 4, 49, 86, 46, 32, 19, 76, 18, 53, 31, 152, 38, 24, 34, 12, 434, 20, 8, 112, 19, 79, 72, 0, 59, 339,
    0, 46, 25, 107, 127, 123, 60, 148, 24, 19, 181, 114, 66, 20, 2, 24, 138, 42, 23, 58, 25, 7, 74, 16, 97, 75, 162, 22,
    197, 8, 21, 105, 59, 0, 111,
)  # fmt: skip
