"""What the allocators keep: enough for the next batch, and nothing that only a backlog needed.

Measured on the replay of a day of a million events: of 960 MB at its end, 280 were free pages that glibc kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_GROWN_BYTES: Final = 4 << 20
_BACKLOG_SECONDS: Final = 10.0
_REST_SECONDS: Final = 0.05
_RESTS: Final = 20  # times the CPU that giving back took: 5 % of a core at most
_GET_SECONDS: Final = 1e-3 / (1 << 20)  # to get a byte anew: 256 pages a MB, each 4 µs in a virtual machine
_ROWS_AN_EVENT: Final = 0.5  # and more: what grows are rows (with the archive on each event is one)


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


def _give_back() -> float:
    """Let glibc return its free pages; the CPU seconds that this took."""
    before = time.thread_time()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return time.thread_time() - before


class Backlog:
    """Gives memory back in a backlog whenever 4 MB have come since, and once after one that took its time.

    A thread of its own looks: memory grows most while the dataflow's waits for the store. Giving back takes 5 ms of CPU
    in the replay of a day, where 80 MB come in a second: rows, of sizes that no other ones fill again. With few rows an
    event it is folds that grow, each into the same 100 MB: a sixth of the engine's CPU went into getting their pages
    anew, so there that counts as what giving back takes, too.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[], int] = resident,
        give_back: Callable[[], float] = _give_back,
        handled: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """`handled`: how many rows the store has taken, of how many events."""
        self._clock, self._size, self._give_back, self._handled = clock, size, give_back, handled
        self._standing = threading.Event()
        self._thread: threading.Thread | None = None

    def stands(self, *, behind: bool) -> None:
        """Told often whether a backlog is being worked off."""
        if not behind:
            self._standing.clear()
        elif not self._standing.is_set():
            self._standing.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="give back memory", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        while self._standing.wait():
            for seconds in self.looks():
                time.sleep(seconds)

    def looks(self) -> Iterator[float]:
        """Look and give back while the backlog stands; the seconds until the next look."""
        began, least, rest = self._clock(), self._size(), _REST_SECONDS
        before = self._handled()
        while self._standing.is_set():
            yield rest
            least, rest = min(least, size := self._size()), _REST_SECONDS
            if size - least >= _GROWN_BYTES:
                rows, events = (now - then for now, then in zip(self._handled(), before, strict=True))
                anew = 0.0 if rows >= _ROWS_AN_EVENT * events else (size - least) * _GET_SECONDS
                rest = max(rest, _RESTS * (self._give_back() + anew))
                least = self._size()
        if self._clock() - began >= _BACKLOG_SECONDS:
            self._give_back()
