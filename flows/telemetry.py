"""What the engine says while it runs: log lines (JSON for a pipe, coloured for a terminal) and a live progress line.

Everything goes to stderr; stdout belongs to results. `configure_logging()` reads LIVEPULSE_LOG (auto, json, text) and
LIVEPULSE_DEBUG, so that worker processes that we start say things the same way.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson
import structlog

from flows.masking import masked

LOG_VARIABLE: Final = "LIVEPULSE_LOG"
DEBUG_VARIABLE: Final = "LIVEPULSE_DEBUG"
_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals hold passwords
)
_PLAIN: Final = structlog.dev.plain_traceback  # likewise
_CLEAR_LINE: Final = "\r\x1b[2K"


class Screen:
    """stderr with one live line at its end: text that is written scrolls above it. Safe for threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line, self._lock = stream, "", threading.Lock()

    @property
    def is_terminal(self) -> bool:
        """Somebody looks at it."""
        return self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def write(self, text: str) -> int:
        """Write above the live line."""
        text = masked(text)
        with self._lock:
            if self._line:
                self._stream.write(_CLEAR_LINE)
            self._stream.write(text)
            if self._line and text.endswith("\n"):
                self._stream.write(self._line)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def show(self, line: str) -> None:
        """Replace the live line; an empty one removes it."""
        with self._lock:
            self._stream.write(_CLEAR_LINE + line)
            self._stream.flush()
            self._line = line


def configure_logging(*, debug: bool | None = None, screen: Screen | None = None) -> Screen:
    """Set structlog up for this process; returns the screen that a `Reporter` draws on."""
    screen = screen or Screen(sys.stderr)
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"  # so that processes that we start know
    level = logging.DEBUG if os.environ.get(DEBUG_VARIABLE) else logging.INFO
    kind = os.environ.get(LOG_VARIABLE, "auto")
    as_json = kind == "json" or (kind != "text" and not screen.is_terminal)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
            *(
                (_TRACEBACKS, structlog.processors.JSONRenderer(serializer=_to_json))
                if as_json
                else (
                    structlog.dev.ConsoleRenderer(
                        colors=screen.is_terminal, pad_event_to=0, exception_formatter=_PLAIN
                    ),
                )
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(screen),  # type: ignore[arg-type]  # it only writes and flushes
        cache_logger_on_first_use=False,  # modules make theirs before this runs
    )
    threading.excepthook = _say_uncaught
    return screen


def _say_uncaught(failed: threading.ExceptHookArgs) -> None:
    """A thread that ends with an error: Python's own words would not be masked."""
    if failed.exc_value is not None:
        name = failed.thread.name if failed.thread is not None else ""
        structlog.get_logger().error("a thread ended with an error", thread=name, exc_info=failed.exc_value)


def _to_json(event: object, **_: Any) -> str:  # noqa: ANN401 - structlog's renderer passes json.dumps' options
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the engine is. Times in epoch ms."""

    events: int  # consumed since the start
    watermark: int | None = None
    lag: int | None = None  # messages behind the ends of the partitions
    done: float | None = None  # 0–1, of bounded input


class Reporter:
    """Says how far the engine is: on a terminal twice a second in place, into a pipe a log line every 10 s."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._clock = screen, clock
        self._every_s = 0.5 if screen.is_terminal else 10.0
        self._began = self._last_time = clock()
        self._last_events = 0

    def report(self, standing: Standing) -> None:
        """Call it as often as you like."""
        now = self._clock()
        if now - self._last_time < self._every_s:
            return
        rate = (standing.events - self._last_events) / (now - self._last_time)
        self._last_time, self._last_events = now, standing.events
        if self._screen.is_terminal:
            self._screen.show(progress_line(standing, rate, now - self._began))
        else:
            structlog.get_logger().info(
                "progress", events=standing.events, events_per_s=round(rate), lag=standing.lag,
                watermark=_time_of(standing.watermark), done=standing.done and round(standing.done, 4),
            )  # fmt: skip

    def close(self) -> None:
        """Take the live line away."""
        if self._screen.is_terminal:
            self._screen.show("")


def progress_line(standing: Standing, rate: float, seconds: float) -> str:
    """`▕██████    ▏ 61 %  1.2 M events  412 k/s  lag 310 k  watermark 2026-02-01 12:00:05Z  3 s left`."""
    parts = []
    if standing.done is not None:
        filled = round(20 * min(standing.done, 1.0))
        parts.append(f"▕{'█' * filled}{' ' * (20 - filled)}▏ {standing.done:.0%}")
    parts += [f"{short_count(standing.events)} events", f"{short_count(rate)}/s"]
    if standing.lag is not None:
        parts.append(f"lag {short_count(standing.lag)}")
    if standing.watermark is not None:
        parts.append(f"watermark {_time_of(standing.watermark)}")
    if standing.done and standing.done < 1:
        parts.append(f"{seconds * (1 - standing.done) / standing.done:.0f} s left")
    return "  ".join(parts)


def short_count(number: float) -> str:
    """`950`, `12.3 k`, `4.57 M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f}"


def _time_of(epoch_ms: int | None) -> str | None:
    if epoch_ms is None or not 0 < epoch_ms < 253_402_300_800_000:
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
