"""Which kernels run under given settings: the one place where families are listed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from flows.active_hours import ActivityMerge
from flows.active_users import ActivityShard
from flows.admission import Admission
from flows.anomalies import AnomalyWatch
from flows.anomaly_merge import History, Trouble, WatchedMerge
from flows.anomaly_spec import AnomalySpec
from flows.conversion_funnel import FunnelMerge, FunnelShard
from flows.errors import BadSetting
from flows.kernel import MergeKernel, ShardKernel
from flows.ledger import LedgerMerge
from flows.live_sessions import SessionShard
from flows.messages import packed
from flows.metrics import EngineMetrics
from flows.parts import PartBuilder
from flows.pseudonyms import Pseudonyms
from flows.session_merge import ProductMerge, RoomMerge, SourceMerge
from flows.settings import Settings
from flows.shards_ahead import ShardsAhead
from flows.steps import StepConfig
from flows.topic_heat import HeatMerge, HeatShard
from flows.watermark import TimeBounds
from schemas.declarations import DeclarationError, Declarations, load_all
from schemas.events import OPTIONAL
from schemas.funnels import VIDEO_TO_LIVE, Funnel
from schemas.heat import MINUTE_MS, TOPIC_HEAT, HeatSpec
from schemas.watches import ACTIVITY, Watch, of_funnel
from schemas.windows import DAY_MS, ActivitySpec


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


def part_builder(settings: Settings) -> PartBuilder:
    """What judges messages."""
    key = settings.user_key_file
    pseudonyms = Pseudonyms.from_file(key) if key is not None else None
    platforms = frozenset(settings.filter_platforms)
    return PartBuilder(wanted_columns(settings), settings.limits, time_bounds(settings), platforms, pseudonyms)


def step_config(
    settings: Settings,
    *,
    sources: int,
    generation: int,
    state_dir: Path | None,
    history: History | None = None,
    metrics: EngineMetrics | None = None,
    bounded: bool = False,
) -> StepConfig:
    """The configuration of the stateful steps. `history`: what a watch for anomalies without state learns from.

    `bounded`: the input is files, read at once: when things went wrong is told by their own time.
    """
    bounds, metrics = time_bounds(settings), metrics or EngineMetrics()
    return StepConfig(
        sources=sources,
        shards=settings.shards,
        generation=generation,
        state_dir=state_dir,
        fsync=settings.state_fsync,
        early_interval_ms=settings.early_interval_ms,
        pack=packed if settings.workers > 1 else lambda frame: frame,
        archive=settings.events_archive,
        admission=lambda: Admission(bounds, settings.dedupe_horizon_ms, dedupe=settings.dedupe),
        shard_kernels=_shard_kernels(settings),
        merge_kernels=_merge_kernels(settings, history, metrics.trouble, bounded=bounded),
        ledger_to=tuple(_watches(settings, declarations(settings))),
        metrics=metrics,
        ahead=ShardsAhead(alone=settings.workers == 1),
        spare_cores=len(os.sched_getaffinity(0)) > settings.shards,
    )


def declarations(settings: Settings) -> Declarations:
    """The built-in declarations with the user's.

    Raises:
        BadSetting: a file cannot be used.
    """
    try:
        return load_all(settings.declare)
    except DeclarationError as error:
        raise BadSetting("declare", [str(path) for path in settings.declare], str(error)) from None


def _activity_spec(settings: Settings, declared: Declarations) -> ActivitySpec:
    return ActivitySpec(
        windows=settings.windows_s,
        hours=settings.active_hours,
        dimensions=declared.dimensions or settings.dimensions,
        platform_zone=settings.platform_zone,
        retain_ms=settings.retain_ms,
        value_cap=settings.dimension_cap,
    )


def _watches(settings: Settings, declared: Declarations) -> Mapping[str, list[AnomalySpec]]:
    """What is watched for anomalies, by the family whose final rows are judged."""
    if "anomalies" not in settings.families:
        return {}
    activity, *others = declared.watches
    # Of activity, the shortest windows of a minute or more.
    lengths = [seconds for seconds in settings.windows_s if seconds >= 60 and 3600 % seconds == 0]
    watched = {
        "activity": [replace(activity, window_seconds=lengths[0])] if lengths else [],
        "sessions": others,
        "funnel": [of_funnel(funnel) for funnel in declared.funnels],
    }
    return {
        family: [_anomaly_spec(settings, watch) for watch in watches]
        for family, watches in watched.items()
        if family in settings.families and watches
    }


def _anomaly_spec(settings: Settings, watch: Watch) -> AnomalySpec:
    return AnomalySpec(
        watch,
        zone=settings.platform_zone,
        holidays=frozenset(date.fromisoformat(day) for day in settings.anomaly_holidays),
        top=min(settings.anomaly_top, watch.top) if watch.top < ACTIVITY.top else settings.anomaly_top,
        floor=float(settings.anomaly_floor),
        warm_ms=watch.warm_ms * settings.anomaly_warm_ms // DAY_MS,
    )


def _watched(
    inner: Callable[[], MergeKernel],
    specs: Sequence[AnomalySpec],
    history: History | None,
    log_ahead_ms: int | None,
    trouble: Trouble,
) -> MergeKernel:
    """The kernel with its watches; without one it keeps its state in the same format."""
    watches = [AnomalyWatch(spec) for spec in specs]
    for watch in watches:
        watch.series.baseline.prepare()
    return WatchedMerge(inner(), watches, history, log_ahead_ms, trouble)


def _heats(settings: Settings, declared: Declarations) -> list[HeatSpec]:
    """The built-in heat follows the settings; one that the user declared is as declared."""
    retain = -(-settings.retain_ms // MINUTE_MS)
    own = replace(
        TOPIC_HEAT,
        half_life_minutes=settings.heat_half_life_ms / MINUTE_MS,
        user_cap=float(settings.heat_user_cap) if settings.heat_user_cap else None,
    )
    heats = [own if heat == TOPIC_HEAT else heat for heat in declared.heats]
    for heat in heats:
        if (heat.heat_table, heat.lifecycle_table) != (TOPIC_HEAT.heat_table, TOPIC_HEAT.lifecycle_table):
            raise BadSetting(
                "declare",
                heat.name,
                f"the store has no tables {heat.heat_table}, {heat.lifecycle_table}; leave them out",
            )
        if heat.name != TOPIC_HEAT.name and len(heats) > 1:
            raise BadSetting(
                "declare",
                heat.name,
                f"one heat fills topic_heat: name it {TOPIC_HEAT.name!r}, so that it replaces the built-in one",
            )
    return [replace(heat, retain_minutes=retain) for heat in heats]


def _funnels(settings: Settings, declared: Declarations) -> tuple[Funnel, ...]:
    return tuple(
        replace(f, remember_ms=max(settings.room_memory_ms, f.finish_within_ms)) if f == VIDEO_TO_LIVE else f
        for f in declared.funnels
    )


def _shard_kernels(settings: Settings) -> Callable[[], list[ShardKernel]]:
    declared = declarations(settings)
    spec = _activity_spec(settings, declared)
    heats = _heats(settings, declared)
    funnels = _funnels(settings, declared)

    def make() -> list[ShardKernel]:
        kernels: list[ShardKernel] = []  # the costliest first: two threads take them in turn
        if "funnel" in settings.families:
            dimensions = spec.dimensions
            kernels.append(FunnelShard(funnels, dimensions, currency=settings.currency, retain_ms=settings.retain_ms))
        if "sessions" in settings.families:
            kernels.append(
                SessionShard(
                    currency=settings.currency,
                    memory_ms=settings.session_memory_ms,
                    order_memory_ms=settings.room_memory_ms,
                    retain_ms=settings.retain_ms,
                )
            )
        if "heat" in settings.families:
            kernels += [HeatShard(heat) for heat in heats]
        if "activity" in settings.families:
            kernels.append(ActivityShard(spec))
        return kernels

    return make


def _merge_kernels(
    settings: Settings, history: History | None, trouble: Trouble, *, bounded: bool
) -> Mapping[str, Callable[[], MergeKernel]]:
    declared = declarations(settings)
    specs = _watches(settings, declared)
    ahead = settings.out_of_orderness_ms if bounded else None

    def watched(family: str, inner: Callable[[], MergeKernel]) -> Callable[[], MergeKernel]:
        return partial(_watched, inner, specs.get(family, ()), history, ahead, trouble)

    makers: dict[str, Callable[[], MergeKernel]] = {LedgerMerge.name: LedgerMerge}
    if "activity" in settings.families:
        makers["activity"] = watched("activity", partial(ActivityMerge, _activity_spec(settings, declared)))
    if "heat" in settings.families:
        for heat in _heats(settings, declared):
            makers[heat.name] = partial(HeatMerge, heat)
    if "funnel" in settings.families:
        funnels, cap = _funnels(settings, declared), settings.dimension_cap
        inner = partial(FunnelMerge, funnels, dimension_cap=cap, retain_ms=settings.retain_ms)
        makers["funnel"] = watched("funnel", inner)
    if "sessions" in settings.families:
        for kernel in (RoomMerge, SourceMerge, ProductMerge):
            makers[kernel.name] = partial(kernel, retain_ms=settings.retain_ms)
        makers["sessions"] = watched("sessions", makers["sessions"])
    return makers
