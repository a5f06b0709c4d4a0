"""Which kernels run under given settings: the one place where families are listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from flows.active_hours import ActivityMerge, ActivityShard, ActivitySpec
from flows.admission import Admission
from flows.conversion_funnel import FunnelMerge, FunnelShard
from flows.kernel import MergeKernel, ShardKernel
from flows.ledger import LedgerMerge
from flows.settings import Settings
from flows.steps import StepConfig
from flows.topic_heat import HeatMerge, HeatShard
from flows.watermark import TimeBounds
from schemas.declarations import Declarations, load_all
from schemas.events import OPTIONAL


def time_bounds(settings: Settings) -> TimeBounds:
    """The settings of event time."""
    return TimeBounds(
        out_of_orderness=settings.out_of_orderness_ms,
        allowed_lateness=settings.allowed_lateness_ms,
        idle_timeout=settings.idle_timeout_ms,
        alignment=settings.alignment_ms,
        reopen=settings.reopen_ms,
    )


def wanted_columns(settings: Settings) -> frozenset[str]:
    """The event columns that the families and the archive read: nothing else is parsed."""
    if settings.events_archive:
        return frozenset(OPTIONAL)
    kernels = _shard_kernels(settings)()
    return frozenset().union(*(kernel.columns for kernel in kernels))


def step_config(settings: Settings, *, sources: int, generation: int, state_dir: Path | None) -> StepConfig:
    """The configuration of the stateful steps."""
    bounds = time_bounds(settings)
    return StepConfig(
        sources=sources,
        shards=settings.shards,
        generation=generation,
        state_dir=state_dir,
        fsync=settings.state_fsync,
        early_interval_ms=settings.early_interval_ms,
        archive=settings.events_archive,
        admission=lambda: Admission(bounds, settings.dedupe_horizon_ms, dedupe=settings.dedupe),
        shard_kernels=_shard_kernels(settings),
        merge_kernels=_merge_kernels(settings),
    )
