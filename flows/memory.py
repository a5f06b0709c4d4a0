"""What the allocators keep: enough for the next batch, and nothing that only a backlog needed.

Measured on the replay of a day of a million events: of 960 MB at its end, 280 were free pages that glibc kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_GROWN_BYTES: Final = 8 << 20
_BACKLOG_SECONDS: Final = 10.0
_REST_SECONDS: Final = 0.5


def tune() -> None:
    """Let glibc keep what a batch allocates for the next one, and give back what is large.

    Fresh pages for every array took a quarter of the dataflow's CPU; arrays kept by each thread, 300 MB of a replay.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        libc.mallopt(_M_ARENA_MAX, 2)


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _give_back() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Backlog:
    """Gives memory back in a backlog whenever 8 MB have come since, and once after one that took its time.

    It takes another thread up to 100 ms, so nothing is done while memory does not grow.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[], int] = resident,
        give_back: Callable[[], None] = _give_back,
    ) -> None:
        self._clock, self._size, self._trim = clock, size, give_back
        self._since: float | None = None
        self._looked, self._least = 0.0, 0

    def stands(self, *, behind: bool) -> None:
        """Told often whether a backlog is being worked off."""
        if self._since is None and not behind:
            return
        now = self._clock()
        if self._since is None:
            self._since, self._looked, self._least = now, now, self._size()
        elif not behind:
            if now - self._since >= _BACKLOG_SECONDS:
                self._begin()
            self._since = None
        elif now - self._looked >= _REST_SECONDS:
            self._looked, size = now, self._size()
            if size - self._least >= _GROWN_BYTES:
                self._least = size  # until it is known what is left
                self._begin()
            self._least = min(self._least, size)

    def _begin(self) -> None:
        threading.Thread(target=self._run, name="give back memory", daemon=True).start()

    def _run(self) -> None:
        self._trim()
        self._least = self._size()
