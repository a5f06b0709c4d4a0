"""What a worker does beside its work: answer operators, say how far it is, look after the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import structlog

from flows.audit import light
from flows.metrics import EngineMetrics
from flows.operations import served
from flows.settings import Settings
from flows.standing import StandingBoard, every
from sinks.clickhouse import Store, StoreError

log = structlog.get_logger()

_STANDING_SECONDS: Final = 0.5
_PARTS_SECONDS: Final = 15.0
_SHOWN: Final = 5


@contextmanager
def monitored(
    settings: Settings, worker: int, metrics: EngineMetrics, board: Path, connect: Callable[[], Store]
) -> Iterator[None]:
    """Do it while the block runs. Only the first worker looks after the store."""
    standing = StandingBoard(board, settings.workers)
    oldest_s = (settings.out_of_orderness_ms + settings.idle_timeout_ms) / 1000
    with ExitStack() as stack:
        ports = [settings.metrics_port + n if settings.metrics_port else 0 for n in range(settings.workers)]
        stack.enter_context(served(ports[worker], metrics, oldest_s, settings.metrics_host, ports))
        stack.enter_context(every(_STANDING_SECONDS, lambda: standing.write(worker, metrics)))
        if worker == 0:
            stack.enter_context(
                every(_PARTS_SECONDS, _quietly(connect, lambda store: metrics.parts(store.active_parts())))
            )
            if settings.audit_interval_ms:
                audit = _quietly(connect, lambda store: _audit(store, settings, metrics))
                stack.enter_context(every(settings.audit_interval_ms / 1000, audit))
        yield


def _audit(store: Store, settings: Settings, metrics: EngineMetrics) -> None:
    """Compare, count and say what differs."""
    found = light(store, settings)
    metrics.audited(Counter(difference.view for difference in found))
    for difference in found[:_SHOWN]:
        log.error("a figure is not what its events say; see livepulse reconcile", **difference.plain())


def _quietly(connect: Callable[[], Store], ask: Callable[[Store], None]) -> Callable[[], None]:
    """Ask the store on a connection of its own; that it does not answer is the sink's to say."""

    def call() -> None:
        try:
            store = connect()
            try:
                ask(store)
            finally:
                store.close()
        except (StoreError, OSError) as error:
            log.debug("the store did not answer a question of the monitor", error=str(error))

    return call
