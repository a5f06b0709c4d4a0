"""How far the engine is, from all worker processes to the one that a person looks at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from flows.metrics import EngineMetrics
from flows.telemetry import Reporter, Screen, Standing

log = structlog.get_logger()

_EVERY_SECONDS: Final = 0.5
_UNKNOWN: Final = -1
_COLUMNS: Final = 3  # events, watermark, lag


class StandingBoard:
    """A small file with a line a worker: events taken, watermark, lag."""

    def __init__(self, path: Path, workers: int) -> None:
        self._lines = np.asarray(np.memmap(path, dtype=np.int64, mode="r+", shape=(workers, _COLUMNS)))

    @staticmethod
    def create(path: Path, workers: int) -> None:
        """A fresh board."""
        lines = np.full((workers, _COLUMNS), _UNKNOWN, dtype=np.int64)
        lines[:, 0] = 0
        path.write_bytes(lines.tobytes())

    def write(self, worker: int, metrics: EngineMetrics) -> None:
        """Say how far this worker is."""
        watermark, lag = metrics.watermark, metrics.lag()
        self._lines[worker] = (
            metrics.consumed,
            _UNKNOWN if watermark is None else watermark,
            _UNKNOWN if lag is None else lag,
        )

    def read(self) -> Standing:
        """How far all are together; what not all know is unknown."""
        watermarks, lags = self._lines[:, 1], self._lines[:, 2]
        return Standing(
            int(self._lines[:, 0].sum()),
            None if (watermarks == _UNKNOWN).any() else int(watermarks.min()),
            None if (lags == _UNKNOWN).any() else int(lags.sum()),
        )


@contextmanager
def reported(screen: Screen, standing: Callable[[], Standing]) -> Iterator[None]:
    """Report twice a second while the block runs."""
    reporter = Reporter(screen)
    try:
        with every(_EVERY_SECONDS, _reporting(reporter, standing)):
            yield
    finally:
        reporter.close()


def _reporting(reporter: Reporter, standing: Callable[[], Standing]) -> Callable[[], None]:
    def report() -> None:
        found = standing()
        if found.events or found.lag is not None:  # before that there is nothing to say
            reporter.report(found)

    return report


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call again and again, from a thread of its own, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            try:
                call()
            except Exception:  # it must go on: an audit that has ended finds nothing
                log.exception("what is done every so often failed")

    thread = threading.Thread(target=run, name="every", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1)
