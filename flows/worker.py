"""One engine process: a Bytewax worker with its source, run until it is drained, fails, or partitions come."""

from __future__ import annotations

import ctypes
import enum
import errno
import re
import signal
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main, run_main

from flows import memory, precompile
from flows.anomaly_history import read_history
from flows.dataflow import build
from flows.errors import CHECK_FAILED, DependencyDown, LivePulseError, Stop, causes
from flows.families import part_builder, step_config, time_bounds
from flows.intake import AlignmentBoard, Intake
from flows.kafka_feed import KafkaFeed, lane_name
from flows.kafka_start import Lane, ResumingFeed, list_lanes, log_ends, make_consumer, topic_ids, warm_consumer
from flows.label_feed import labels_read
from flows.masking import remember
from flows.metrics import EngineMetrics
from flows.monitor import monitored
from flows.recovery import RecoveryDir
from flows.reject_guard import RejectGuard
from flows.settings import Settings
from flows.source import IntakeSource, SourceRun
from flows.telemetry import configure_logging
from schemas.rows import RowsError
from sinks.clickhouse import Patience, Store, StoreDownError, StoreError
from sinks.dead_letter import DeadLetterTopic, DeadLetterWriter
from sinks.embedded import EmbeddedError
from sinks.migration import SchemaError
from sinks.rows_sink import RowsSink, Writer

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path

log = structlog.get_logger()

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_NO_ROOM = re.compile("NOT_ENOUGH_SPACE|No space left on device|DiskFull|database or disk is full")
_SINK_PATIENCE = Patience(seconds=3_600)  # Kafka keeps what waits; /readyz and alerts tell of it
_BROKER_THERE_SECONDS = 15  # it is asked every 10 s
_ROUND_EVENTS = 120_000
_MAX_WAITING = 150_000


class Outcome(enum.Enum):
    """Why a worker ended without an error."""

    DRAINED = 0
    TOPOLOGY_CHANGED = 75
    KILLED = -9  # by a signal from outside; never a process's own exit code


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where rows go."""

    url: str
    user: str
    password: str = field(repr=False)
    database: str

    def connect(self, on_retry: Callable[[], None] | None = None, patience: Patience | None = None) -> Store:
        """A connection of one's own; `on_retry` is told of calls that had to be repeated."""
        password = remember(self.password)  # in each process that has it
        remember(b64encode(f"{self.user}:{password}".encode()).decode() if password else "")  # as its header says it
        store = Store.connect(self.url, user=self.user, password=password, database=self.database, patience=patience)
        store.on_retry = on_retry or store.on_retry
        return store


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Everything that one worker process needs to know."""

    settings: Settings
    index: int
    addresses: tuple[str, ...]  # of all workers; empty when there is one
    lanes: tuple[Lane, ...]  # all workers' partitions
    generation: int
    first_offsets: dict[str, int]
    store: StoreAddress
    recovery: Path

    @property
    def own_lanes(self) -> list[Lane]:
        """This worker's partitions."""
        return list(self.lanes[self.index :: self.settings.workers])


def now_ms() -> int:
    """The ingest clock."""
    return time.time_ns() // 1_000_000


def _early(intake: Intake, backlog_after_ms: int, backlog: memory.Backlog) -> Callable[[], bool]:
    """Whether early rows are wanted: nobody waits for them in a backlog."""

    def early() -> bool:
        behind = intake.lagging(backlog_after_ms)
        backlog.stands(behind=behind)
        return not behind

    return early


def work(plan: WorkerPlan, drain: threading.Event, begun: Callable[[], None] = lambda: None) -> Outcome:
    """Run a worker until `drain` is set or partitions come; `begun` is told before anything is read.

    Raises:
        LivePulseError: the engine had to stop; its text says why.
    """
    memory.tune()
    settings = plan.settings
    bounds = time_bounds(settings)
    recovery = RecoveryDir(plan.recovery)
    board = AlignmentBoard(recovery.alignment_path, plan.index, settings.workers)
    intake = Intake(bounds, board, plan.index, follow_clock=True)
    consumer = make_consumer(settings, len(plan.own_lanes))
    builder = part_builder(settings)
    reading = KafkaFeed(
        consumer, intake, builder,
        prefix=settings.topic_prefix, batch_messages=settings.batch_messages, max_waiting=_MAX_WAITING,
        known=frozenset(plan.lanes), clock=now_ms,
        discover=lambda: list_lanes(settings), log_ends=partial(log_ends, settings),
    )  # fmt: skip
    metrics = _metrics_of(reading, intake)
    metrics.health.reads = bool(plan.own_lanes)
    backlog = memory.Backlog(handled=lambda: (metrics.rows, metrics.consumed))
    ids = topic_ids(settings, plan.own_lanes)
    feed = ResumingFeed(reading, settings, plan.own_lanes, plan.first_offsets, _loss_recorder(plan.store), ids)
    run = SourceRun(
        intake, feed, now_ms, _early(intake, settings.backlog_after_ms, backlog), _ROUND_EVENTS,
        bounded=False, drain=drain, metrics=metrics, guard=RejectGuard(settings.reject_ratio, settings.reject_window),
        topic_ids=ids, early_interval_ms=settings.early_interval_ms,
    )  # fmt: skip
    source = IntakeSource(run, [lane_name(*lane) for lane in plan.own_lanes])
    sink = RowsSink(
        lambda: _dead_lettering(plan, _waiting_store(plan, metrics, drain)),
        owner=plan.index == 0,
        observe=metrics.inserted,
    )
    warm_consumer(consumer, settings, plan.own_lanes)
    sources = min(settings.workers, len(plan.lanes))
    config = step_config(
        settings,
        sources=sources,
        generation=plan.generation,
        state_dir=recovery.state_dir,
        history=partial(read_history, plan.store.connect),
        metrics=metrics,
    )
    with closing(feed), as_ours():
        now = now_ms()
        precompile.warm_up(config, builder.example(now), now)
        log.info("reading", worker=plan.index, partitions=len(plan.own_lanes), generation=plan.generation)
        with ExitStack() as beside:
            beside.enter_context(monitored(settings, plan.index, metrics, recovery.standing_path, plan.store.connect))
            if plan.index == 0:
                beside.enter_context(labels_read(settings, plan.store.connect, partial(_dead_lettering, plan)))
            begun()
            _run(build(source, sink, config), plan, recovery.config())
        if time.monotonic() - metrics.health.broker < _BROKER_THERE_SECONDS:
            for name in source.list_parts():  # the last epoch is committed: let lag tools see it
                feed.commit(name, intake.position(name)[0])
    return Outcome.TOPOLOGY_CHANGED if feed.topology_changed and not drain.is_set() else Outcome.DRAINED


def _waiting_store(plan: WorkerPlan, metrics: EngineMetrics, drain: threading.Event) -> Store:
    """The store. An outage is waited out, unless the engine is told to stop."""

    def again() -> None:
        metrics.retried()
        if drain.is_set():
            raise StoreDownError(
                f"stopped while the store {plan.store.url} does not answer: what it has not taken is read again"
            )

    return plan.store.connect(again, _SINK_PATIENCE)


def _dead_lettering(plan: WorkerPlan, store: Store) -> Writer:
    """The store, and Kafka before it for dead letters."""
    topic = plan.settings.dead_letters_topic
    if not topic:
        return store
    return DeadLetterWriter(store, DeadLetterTopic(plan.settings.client_properties(), plan.settings.topic(topic)))


def _metrics_of(feed: KafkaFeed, intake: Intake) -> EngineMetrics:
    """Figures that know how far the feed is."""
    metrics = EngineMetrics()
    metrics.lag = lambda: feed.lag
    metrics.lag_ms = lambda: intake.lag_ms if intake.lagging(0) else 0

    def heard() -> None:
        metrics.health.broker = time.monotonic()

    feed.heard = heard
    feed.mismatched = metrics.mismatched
    return metrics


def _run(flow: object, plan: WorkerPlan, recovery: RecoveryConfig) -> None:
    interval = timedelta(milliseconds=plan.settings.epoch_ms)
    if plan.addresses:
        cluster_main(flow, list(plan.addresses), plan.index, epoch_interval=interval, recovery_config=recovery)
    else:
        run_main(flow, epoch_interval=interval, recovery_config=recovery)


@contextmanager
def as_ours() -> Iterator[None]:
    """Raise an error as the one of ours that it is; another goes on as it came, with the cause that --debug shows."""
    try:
        yield
    except BaseException as error:
        if (found := ours(error)) is error:
            raise
        raise found from error


def ours(error: BaseException) -> BaseException:
    """The error of ours that Bytewax wrapped or the store's as one of ours; else `error` itself."""
    met = causes(error)
    for seen in met:
        if isinstance(seen, LivePulseError):
            return seen
        if isinstance(seen, StoreDownError | EmbeddedError):
            return DependencyDown(str(seen))
        if isinstance(seen, StoreError | RowsError | SchemaError):
            full = _NO_ROOM.search(str(seen))
            return Stop(f"{seen} Make room for the store, then start again: state is kept" if full else str(seen))
    disk = next((e for e in met if isinstance(e, OSError) and e.errno in _DISK_ERRORS), None)
    if disk is not None:
        return Stop(f"recovery state could not be written: {disk.strerror}. Make room, then start again: state is kept")
    if any(_NO_ROOM.search(str(e)) for e in met):  # Bytewax panics with SQLite's words
        return Stop("recovery state could not be written: the disk is full. Make room, then start again: state is kept")
    return error


def _loss_recorder(address: StoreAddress) -> Callable[[str, int, int, int], None]:
    def record(topic: str, partition: int, wanted: int, found: int) -> None:
        store = address.connect()
        try:
            store.record_loss(topic, partition, wanted, found)
        finally:
            store.close()

    return record


def process_main(plan: WorkerPlan, begun: Event) -> None:
    """The main function of a worker process: ends with the outcome's value, or with an error's exit code.

    `begun` is set before it reads anything.
    """
    # A worker must not outlive the supervisor, which holds the lock.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    configure_logging()
    drain = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: drain.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # held back while all this was imported
    try:
        sys.exit(work(plan, drain, begun.set).value)
    except LivePulseError as error:
        log.error("worker stopped", worker=plan.index, error=str(error))
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:  # a panic of Rust is no Exception
        log.exception("worker stopped by a bug", worker=plan.index)  # multiprocessing would print it unmasked
        sys.exit(CHECK_FAILED)
