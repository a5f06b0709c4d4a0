"""Ctrl-C and SIGTERM before a command has begun: one line and an exit code, instead of a traceback out of imports.

Nothing is open by then that must be closed (an embedded store ends by itself when we are gone), so the process ends on
the spot: an exception would come out of whatever runs just now, and Python prints those that come out of a callback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from flows.errors import CHECK_FAILED, OK

if TYPE_CHECKING:
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

LASTING: Final = frozenset({"run", "demo"})
"""Commands that last until a signal: it ends them well, and they take over when they can hear it themselves."""
_before: dict[signal.Signals, Handler] = {}


def watch() -> None:
    """End the process quietly by Ctrl-C or SIGTERM from now on; what is ignored (nohup, `&` in a script) stays so."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            _before[number] = signal.signal(number, _leave)


@contextmanager
def begun(command: str) -> Iterator[None]:
    """A command's time: signals do what they did before `watch`, for a lasting one only once it has ended."""
    if command not in LASTING:
        _release()
    try:
        yield
    finally:
        _release()


def _release() -> None:
    while _before:
        number, handler = _before.popitem()
        signal.signal(number, handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"stopped before it began\n")
    os._exit(OK if LASTING.intersection(sys.argv[1:2]) else CHECK_FAILED)
