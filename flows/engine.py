"""The engine as a whole: prepare store and recovery, run the workers, drain them on SIGTERM; and backfill."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

import structlog
from bytewax.testing import run_main

from flows import precompile
from flows.dataflow import build
from flows.durations import format_duration
from flows.errors import CHECK_FAILED, OK, Stop, Usage
from flows.families import part_builder, step_config, time_bounds
from flows.file_feed import FileFeed
from flows.intake import AlignmentBoard, Intake
from flows.kafka_start import Lane, absent_topics, first_offsets, list_lanes
from flows.metrics import EngineMetrics
from flows.recovery import RecoveryDir
from flows.reject_guard import RejectGuard
from flows.repair import Repaired, RepairWriter, check_range, scratch, write_lines
from flows.settings import Settings
from flows.source import IntakeSource, SourceRun
from flows.standing import StandingBoard, reported
from flows.telemetry import Standing, configure_logging
from flows.worker import STOP_SIGNALS, Outcome, StoreAddress, WorkerPlan, as_ours, now_ms, process_main, work
from sinks import embedded
from sinks.rows_sink import RowsSink, Writer

log = structlog.get_logger()

_BACKFILL_ROUND_EVENTS = 200_000
_BACKFILL_EPOCH = timedelta(seconds=5)
_GOOD_ENDS = (Outcome.DRAINED.value, Outcome.TOPOLOGY_CHANGED.value)
_LATE_SHARE_ACCEPTED = 0.01
_MOST_RESTARTS, _RESTARTS_WITHIN_SECONDS = 5, 600
_VERSION_FINAL_BIT = 1 << 63
_VERSION_GENERATION_SHIFT = 48


def run(settings: Settings) -> int:
    """Run the engine until SIGTERM or Ctrl-C; the exit code.

    Raises:
        LivePulseError: it could not start, or had to stop.
    """
    drain = threading.Event()
    recovery = RecoveryDir(settings.recovery_path)
    screen = configure_logging()  # the one that the progress line is drawn on
    with ExitStack() as stack:
        listen = stack.enter_context(_signals(drain))
        stack.enter_context(recovery.lock())
        address = stack.enter_context(opened_store(settings))
        listen()
        StandingBoard.create(recovery.standing_path, settings.workers)
        standing = StandingBoard(recovery.standing_path, settings.workers)
        precompile.ready()
        stack.enter_context(reported(screen, standing.read))
        restarts = _Restarts()
        while not drain.is_set():
            lanes = _wait_for_lanes(settings, drain)
            if not lanes:
                break
            plan = _prepare(settings, recovery, address, lanes)
            outcome = work(plan, drain) if settings.workers == 1 else _supervise(plan, drain)
            if outcome is Outcome.TOPOLOGY_CHANGED:
                log.info("partitions or topics have come: the workers take them in")
            elif outcome is Outcome.KILLED:
                restarts.wait(drain)
    log.info("stopped; nothing to replay")
    return OK


def _prepare(settings: Settings, recovery: RecoveryDir, address: StoreAddress, lanes: frozenset[Lane]) -> WorkerPlan:
    """Decide where to start and what generation it is."""
    if missing := absent_topics(lanes):
        log.info("topics absent; they are read once they come", topics=missing)
    store = address.connect()
    try:
        if not recovery.started:
            if not store.is_empty():
                raise Stop(
                    f"the store {settings.store} has rows but {recovery.path} has no recovery state: "
                    f"reading from {settings.from_} would count events again. "
                    "Restore the recovery directory, or start with an empty store"
                )
            recovery.begin(settings.shards, first_offsets(settings, lanes))
        stored = (store.max_version() & ~_VERSION_FINAL_BIT) >> _VERSION_GENERATION_SHIFT
    finally:
        store.close()
    generation, offsets = recovery.raise_generation(settings.shards, stored)
    AlignmentBoard.create(recovery.alignment_path, settings.workers)
    addresses = tuple(f"127.0.0.1:{port}" for port in _free_ports(settings.workers)) if settings.workers > 1 else ()
    return WorkerPlan(settings, 0, addresses, tuple(sorted(lanes)), generation, offsets, address, recovery.path)


def _supervise(plan: WorkerPlan, drain: threading.Event) -> Outcome:
    """Run all workers; when one ends, so do the others.

    Raises:
        Stop: a worker gave up (one that was killed did not).
    """
    context = multiprocessing.get_context("spawn")
    begun = [context.Event() for _ in range(plan.settings.workers)]
    workers = [
        context.Process(target=process_main, args=(_of_worker(plan, index), each), name=f"livepulse-worker-{index}")
        for index, each in enumerate(begun)
    ]
    _start(workers)
    told, failed = False, None
    while alive := [p for p in workers if p.is_alive()]:
        if drain.is_set() and not told:
            told = True
            if not all(each.is_set() for each in begun):
                return _give_up(workers)
            for process in alive:
                process.terminate()
        failed = failed or next((p.exitcode for p in workers if p.exitcode not in (None, *_GOOD_ENDS)), None)
        if failed is not None:
            for process in alive:
                process.kill()
        time.sleep(0.05)
    codes = [p.exitcode for p in workers]
    if failed is None:
        return Outcome.TOPOLOGY_CHANGED if Outcome.TOPOLOGY_CHANGED.value in codes else Outcome.DRAINED
    if failed < 0:
        log.warning("a worker was killed", signal=-failed)
        return Outcome.KILLED
    raise Stop(
        f"a worker ended with exit code {failed}; what it said stands above. State is kept: start again to resume"
    )


def _start(workers: Sequence[BaseProcess]) -> None:
    """Start them with SIGTERM and SIGINT held back: `process_main` lets them in once it can hear them."""
    resource_tracker.ensure_running()  # it would let them in after its own start
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for process in workers:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _give_up(workers: Sequence[BaseProcess]) -> Outcome:
    """End workers that have not all begun: none reads before all do, so nothing is there to drain."""
    for process in workers:
        process.kill()
    for process in workers:
        process.join()
    return Outcome.DRAINED


class _Restarts:
    """Starts all workers again after one was killed (out of memory, by hand): with growing pauses, and not for ever."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def wait(self, drain: threading.Event) -> None:
        """Pause before the next start.

        Raises:
            Stop: too many of them.
        """
        now = time.monotonic()
        self._times = [*(t for t in self._times if now - t < _RESTARTS_WITHIN_SECONDS), now]
        if len(self._times) > _MOST_RESTARTS:
            raise Stop(
                f"workers were killed {len(self._times)} times within {_RESTARTS_WITHIN_SECONDS // 60} minutes: see "
                "who kills them (dmesg tells of memory). State is kept: start again to resume"
            )
        pause = 2 ** (len(self._times) - 1)
        log.warning("all workers start again", seconds=pause)
        drain.wait(pause)


def _of_worker(plan: WorkerPlan, index: int) -> WorkerPlan:
    return WorkerPlan(
        plan.settings, index, plan.addresses, plan.lanes, plan.generation, plan.first_offsets, plan.store, plan.recovery
    )


def _wait_for_lanes(settings: Settings, drain: threading.Event) -> frozenset[Lane]:
    """The partitions there are; waits while there are none, so that the engine may be started before the topics."""
    told = False
    while not (lanes := list_lanes(settings)):
        if not told:
            told = True
            names = ", ".join(settings.topic(name) for name in absent_topics(()))
            log.warning("none of the topics exists yet; waiting", brokers=settings.brokers, topics=names)
        if drain.wait(2):
            break
    return lanes


@contextmanager
def opened_store(settings: Settings, *, replace: bool = False) -> Iterator[StoreAddress]:
    """The store, up and migrated; an embedded one is started and, if it was us who started it, stopped."""
    started: embedded.Embedded | None = None
    try:
        with as_ours():
            if settings.is_server:
                address = StoreAddress(
                    settings.store, settings.store_user or "default", settings.password(), settings.database
                )
            else:
                started = embedded.start(settings.store_dir, die_with_parent=True)
                address = StoreAddress(started.url, started.user, started.token, settings.database)
            store = address.connect()
            try:
                store.migrate(events_ttl_days=settings.events_ttl_days, replace=replace)
            finally:
                store.close()
            yield address
    finally:
        if started is not None:
            started.stop()


@contextmanager
def _signals(drain: threading.Event) -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGINT drain from the call of what this gives until the end, where a second one does nothing worse.

    Before it they end the process on the spot (`flows.early_stop`): a store that is down may keep us waiting for long.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def listen() -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: drain.set())

    try:
        yield listen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def backfill(files: Sequence[Path], settings: Settings, *, replace: bool = False, allow_late: bool = False) -> int:
    """Run the engine over bounded files in event time to the end; the exit code.

    Raises:
        LivePulseError: a file cannot be read, or the store is not empty.
    """
    if not files:
        raise Usage("name at least one file of events: livepulse backfill events.ndjson")
    for path in files:
        if not path.is_file():
            raise Usage(f"{path}: no such file")
    with opened_store(settings, replace=replace) as address:
        store = address.connect()
        empty = store.is_empty()
        store.close()
        if not empty:
            raise Usage(
                f"the store {settings.store} is not empty: --replace empties it first, or name another with --store"
            )
        feed = _backfill_into(files, settings, address.connect)
    return _judge_lateness(feed, settings, allow_late=allow_late)


def _backfill_into(files: Sequence[Path], settings: Settings, connect: Callable[[], Writer]) -> FileFeed:
    precompile.ready()
    bounds = time_bounds(settings)
    intake = Intake(bounds, AlignmentBoard(None, 0, 1), 0, follow_clock=False)
    builder = part_builder(settings)
    metrics = EngineMetrics()
    feed = FileFeed(files, intake, builder, batch_lines=settings.batch_messages, max_waiting=400_000, clock=now_ms)
    run = SourceRun(intake, feed, now_ms, lambda: False, _BACKFILL_ROUND_EVENTS, bounded=True, metrics=metrics)
    run.guard = RejectGuard(settings.reject_ratio, settings.reject_window)
    config = step_config(settings, sources=1, generation=1, state_dir=None, bounded=True)
    flow = build(IntakeSource(run, feed.names), RowsSink(connect, owner=True), config)
    began = time.monotonic()
    with (
        closing(feed),
        as_ours(),
        reported(configure_logging(), lambda: Standing(metrics.consumed, metrics.watermark, done=feed.done)),
    ):
        run_main(flow, epoch_interval=_BACKFILL_EPOCH)
    seconds = time.monotonic() - began
    log.info(
        "backfill done", lines=feed.lines, seconds=round(seconds, 2), lines_per_s=round(feed.lines / max(seconds, 1e-9))
    )
    return feed


def repair(settings: Settings, start: int, stop: int) -> Repaired:
    """Recompute the closed windows of [start, stop) with the late events that belong to them.

    Raises:
        LivePulseError: the range cannot be repaired.
    """
    done = Repaired()
    with opened_store(settings) as address, scratch() as directory:
        store = address.connect()
        check_range(store, settings, start, stop)
        path = Path(directory) / "events.ndjson"
        origins = write_lines(store, settings, start, stop, path)
        done.events = len(origins)
        if origins:
            quiet = settings.model_copy(update={"reject_ratio": 1.0})
            _backfill_into([path], quiet, lambda: RepairWriter(store, settings, origins, start, stop, done))
    return done


def _judge_lateness(feed: FileFeed, settings: Settings, *, allow_late: bool) -> int:
    if feed.late <= feed.lines * _LATE_SHARE_ACCEPTED or allow_late:
        return OK
    would_do = format_duration(feed.worst_lateness_ms)
    wait = format_duration(settings.out_of_orderness_ms)
    log.error(
        "too many events are late: they are in late_events and count nowhere. "
        "Wait longer for them (fix), or accept the loss with --allow-late",
        late=feed.late,
        lines=feed.lines,
        out_of_orderness=wait,
        fix=f"--out-of-orderness {would_do}",
    )
    return CHECK_FAILED
