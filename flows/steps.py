"""The two stateful steps of the dataflow: shards fold events into increments, families merge them into rows.

Thin: Bytewax calls, kernels compute. Bytewax gives a builder no key, so a step learns its key from its first item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import polars as pl
from bytewax.operators import StatefulBatchLogic

from flows.admission import Admission, Admitted
from flows.kernel import MergeKernel, Persistent, Progress, ShardKernel
from flows.ledger import outcome_counts
from flows.messages import MIN_TIME, Frame, MergeItem, Rows, ShardItem, unpacked
from flows.metrics import EngineMetrics
from flows.parts import kind_names
from flows.shards_ahead import ShardsAhead
from flows.side_by_side import side_by_side
from flows.state_log import Manifest, StateLog, read_manifest
from flows.watermark import CombinedWatermark
from sinks import fail_points

LEDGER = "ledger"
ROUTER = -1
"""The shard number under which the router reports to the ledger."""

Out = list[tuple[str, MergeItem | Rows]]

_BACKLOG_INTERVALS = 3
_FINAL_BIT = 1 << 63
_GENERATION_SHIFT = 48


@dataclass(frozen=True, slots=True)
class StepConfig:
    """What both steps need of the run."""

    sources: int  # workers that read partitions
    shards: int
    generation: int  # raised and made durable at every start
    state_dir: Path | None
    fsync: bool
    early_interval_ms: int
    pack: Callable[[pl.DataFrame], Frame]  # what frames go through on their way to another step
    archive: bool
    admission: Callable[[], Admission]
    shard_kernels: Callable[[], list[ShardKernel]]
    merge_kernels: Mapping[str, Callable[[], MergeKernel]]
    ledger_to: tuple[str, ...] = ()  # families that hear the source's ledger counts, beside the ledger
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    ahead: ShardsAhead[Out] = field(default_factory=ShardsAhead)  # of one process: it does not know other workers'
    spare_cores: bool = False  # more of them than shards: kernels of one fold side by side, too


class ShardLogic(StatefulBatchLogic[ShardItem, tuple[str, MergeItem | Rows], bytes]):
    """One user shard: admission, then every shard kernel."""

    def __init__(self, config: StepConfig, resumed: bytes | None) -> None:
        self._config = config
        self._admission = config.admission()
        self._kernels = config.shard_kernels()
        self._parts: dict[str, Persistent] = {"admission": self._admission, **{k.name: k for k in self._kernels}}
        self._mark = CombinedWatermark(config.sources)
        self._log: StateLog | None = None
        self._shard = -1
        if resumed is not None:
            manifest = read_manifest(resumed)
            self._open(manifest.facts["shard"])
            self._mark.watermark = manifest.facts["watermark"]
            self._mark.last_event_time = manifest.facts["last_event_time"]
            self._log_of().resume(manifest, self._parts)

    def _open(self, shard: int) -> None:
        self._shard = shard
        self._log = StateLog(self._config.state_dir, f"shard-{shard:02d}", self._config.fsync)
        self._config.ahead.know(shard, self._round, self._state)

    def _log_of(self) -> StateLog:
        assert self._log is not None, "a step has no state before its first item"
        return self._log

    def on_batch(self, values: list[ShardItem]) -> tuple[Iterable[tuple[str, MergeItem | Rows]], bool]:
        if self._log is None:
            self._open(values[0].shard)
        results = self._config.ahead.results(self._shard, values)
        return [item for result in results for item in result], StatefulBatchLogic.RETAIN

    def _round(self, values: list[ShardItem]) -> Out:
        # Events are judged and folded at the watermark before them: a batch of sparse history may span months.
        before = self._mark.watermark
        for item in values:
            p = item.progress
            self._mark.report(p.worker, p.watermark, idle=p.idle, end=p.end, last_event_time=p.last_event_time)
        last = values[-1].progress
        self._config.metrics.folded(last)
        progress = Progress(
            self._mark.watermark, last.now, last.early, end=self._mark.ended, last_event_time=self._mark.last_event_time
        )
        frames = [unpacked(item.frame) for item in values if item.frame is not None]
        increments: dict[str, list[pl.DataFrame]] = {name: [] for name in self._config.merge_kernels}
        out: Out = []
        if frames:
            admitted = self._admission.admit(pl.concat(frames) if len(frames) > 1 else frames[0], before)
            self._config.metrics.admitted(admitted.accepted.height, admitted.duplicate.height, admitted.late.height)
            increments[LEDGER] = _ledger_of(admitted)
            out = self._rows_of(admitted)
            self._fold(admitted.accepted, replace(progress, watermark=before), increments)
        for family, found in increments.items():
            out.append((family, self._merge_item(family, found, progress)))
        return out

    def _fold(self, frame: pl.DataFrame, progress: Progress, into: dict[str, list[pl.DataFrame]]) -> None:
        if not frame.height:
            return
        folds = [partial(kernel.fold, frame, progress) for kernel in self._kernels]
        for found in side_by_side(folds) if self._config.spare_cores else [fold() for fold in folds]:
            for family, rows in found.items():
                if rows.height:
                    into[family].append(rows)

    def _merge_item(self, family: str, increments: list[pl.DataFrame], p: Progress) -> MergeItem:
        packed = [self._config.pack(frame) for frame in increments]
        return MergeItem(family, self._shard, packed, p.watermark, p.now, p.early, p.end, p.last_event_time)

    def _rows_of(self, admitted: Admitted) -> Out:
        found: Out = []
        if admitted.late.height:
            found.append(("rows", Rows("late_events", self._config.pack(_late_rows(admitted.late)))))
        if self._config.archive and admitted.accepted.height:
            found.append(("rows", Rows("events", self._config.pack(_event_rows(admitted.accepted)))))
        return found

    def snapshot(self) -> bytes:
        return self._config.ahead.snapshot(self._shard)

    def _state(self) -> bytes:
        facts = {
            "shard": self._shard,
            "watermark": self._mark.watermark,
            "last_event_time": self._mark.last_event_time,
        }
        return _written(self._log_of(), self._parts, facts, self._config.metrics)


class MergeLogic(StatefulBatchLogic[MergeItem, Rows, bytes]):
    """One family over all shards: sums increments and emits absolute rows with rising versions."""

    def __init__(self, config: StepConfig, resumed: bytes | None) -> None:
        self._config = config
        self._kernel: MergeKernel | None = None
        self._log: StateLog | None = None
        self._sequence = 0
        self._emitted_at = 0
        self._in_backlog = False  # at the last emission that was due
        self._emitted_watermark = MIN_TIME
        self._now = 0
        self._mark = CombinedWatermark(config.shards)
        if resumed is not None:
            manifest: Manifest = read_manifest(resumed)
            kernel, log = self._open(manifest.key.removeprefix("family-"))
            self._sequence = manifest.facts["sequence"]
            self._mark.watermark = manifest.facts["watermark"]
            self._mark.last_event_time = manifest.facts["last_event_time"]
            log.resume(manifest, {kernel.name: kernel})

    def _open(self, family: str) -> tuple[MergeKernel, StateLog]:
        self._kernel = self._config.merge_kernels[family]()
        self._log = StateLog(self._config.state_dir, f"family-{family}", self._config.fsync)
        return self._kernel, self._log

    def on_batch(self, values: list[MergeItem]) -> tuple[Iterable[Rows], bool]:
        kernel = self._kernel or self._open(values[0].family)[0]
        for item in values:
            if item.shard != ROUTER:
                self._mark.report(
                    item.shard, item.watermark, idle=False, end=item.end, last_event_time=item.last_event_time
                )
        increments = [unpacked(frame) for item in values for frame in item.increments]
        if increments:
            kernel.fold(increments)
        self._now = values[-1].now
        return self._emit(kernel, values[-1]), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Rows], bool]:
        """A drain: what has closed is told, and by the ledger all that was read: both else only at the next start."""
        is_ledger = self._kernel is not None and self._kernel.name == LEDGER
        if self._kernel is None or not (is_ledger or self._mark.watermark > self._emitted_watermark):
            return [], StatefulBatchLogic.RETAIN
        progress = Progress(
            self._mark.watermark, self._now, early=False, end=is_ledger, last_event_time=self._mark.last_event_time
        )
        self._emitted_watermark = self._mark.watermark
        return self._rows(self._kernel, progress), StatefulBatchLogic.RETAIN

    def _emit(self, kernel: MergeKernel, last: MergeItem) -> list[Rows]:
        """Ask for rows when the watermark moved or early rows are due; a kernel has nothing to say in between.

        With a backlog, where it moves all the time and nobody waits, what has closed goes a few times less often than
        early rows do: each insert costs the store some milliseconds.
        """
        moved = self._mark.watermark > self._emitted_watermark
        interval = self._config.early_interval_ms * (1 if last.early else _BACKLOG_INTERVALS)
        due = last.now - self._emitted_at >= interval or (last.early and self._in_backlog)
        if not (due or (moved and last.early) or self._mark.ended):
            return []
        early = due and last.early
        if due:
            self._emitted_at, self._in_backlog = last.now, not last.early
        self._emitted_watermark = self._mark.watermark
        progress = Progress(
            self._mark.watermark, last.now, early, end=self._mark.ended, last_event_time=self._mark.last_event_time
        )
        return self._rows(kernel, progress)

    def _rows(self, kernel: MergeKernel, progress: Progress) -> list[Rows]:
        pack = self._config.pack
        return [
            Rows(table, pack(self._versioned(rows))) for table, rows in kernel.emit(progress).items() if rows.height
        ]

    def _versioned(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `version`: later emissions win, and a restart's win over what was emitted before it.

        A final row is never beaten by an early one, so a replay after a crash cannot re-open what readers saw closed.
        """
        self._sequence += 1
        version = pl.lit((self._config.generation << _GENERATION_SHIFT) + self._sequence, dtype=pl.UInt64)
        if "is_final" in rows.columns:
            version = version + pl.col("is_final").cast(pl.UInt64) * pl.lit(_FINAL_BIT, dtype=pl.UInt64)
        return rows.with_columns(version.alias("version"))

    def snapshot(self) -> bytes:
        assert self._log is not None
        assert self._kernel is not None
        facts = {
            "sequence": self._sequence,
            "watermark": self._mark.watermark,
            "last_event_time": self._mark.last_event_time,
        }
        return _written(self._log, {self._kernel.name: self._kernel}, facts, self._config.metrics)


def _written(log: StateLog, parts: Mapping[str, Persistent], facts: dict[str, int], metrics: EngineMetrics) -> bytes:
    before = log.bytes_written
    manifest = log.write(parts, facts)
    fail_points.reach(fail_points.STATE_WRITTEN)
    metrics.state(log.key, log.bytes_written - before, log.size)
    return manifest


def _ledger_of(admitted: Admitted) -> list[pl.DataFrame]:
    split = (("accepted", admitted.accepted), ("duplicate", admitted.duplicate), ("late", admitted.late))
    return [outcome_counts(frame, name) for name, frame in split if frame.height]


def _event_rows(frame: pl.DataFrame) -> pl.DataFrame:
    names = kind_names(frame["kind"]).alias("topic")
    return frame.with_columns(names).drop("kind", "user_hash", "id_hash", "minute")


def _late_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """On-time events behind what idleness had closed for longer than `reopen`."""
    absent = [pl.lit("").alias(name) for name in ("event_id", "user_id") if name not in frame.columns]
    return frame.with_columns(absent).select(
        kind_names(frame["kind"]).alias("topic"),
        "partition",
        "offset",
        "event_id",
        "user_id",
        "event_time",
        "ingest_time",
        pl.col("event_time").alias("max_event_time"),
        pl.lit("idle").alias("cause"),
        pl.lit(b"").alias("raw"),
    )
