"""Named moments at which a test lets the process die, as kill -9 does: LIVEPULSE_FAIL_AT=name:hit[:delay_ms].

Without the variable a point costs a look at a global. `LIVEPULSE_FAIL_LOG` names a file that tells of the death.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Final

IN_FLUSH: Final = "in_flush"
"""Between two inserts of one flush."""
INSERT_COMMIT: Final = "insert_commit"
"""Rows are in the store, the epoch is not committed."""
IN_COMMIT: Final = "in_commit"
"""While Bytewax writes offsets and manifests: `delay_ms` after a source partition's snapshot."""
STATE_WRITTEN: Final = "state_written"
"""A state file has grown, its manifest is not committed."""

_armed: list[str] = os.environ.get("LIVEPULSE_FAIL_AT", "").split(":") if "LIVEPULSE_FAIL_AT" in os.environ else []
_hits = 0


def reach(name: str) -> None:
    """The process has come to this point."""
    if _armed and _armed[0] == name:
        _die_when_due()


def _die_when_due() -> None:
    global _hits  # noqa: PLW0603  # a count of this process, for tests only
    _hits += 1
    if _hits != int(_armed[1]):
        return
    if len(_armed) < 3:
        _die()
    threading.Thread(target=_die_later, args=(float(_armed[2]) / 1000,), daemon=True).start()


def _die_later(seconds: float) -> None:
    time.sleep(seconds)
    _die()


def _die() -> None:
    told = os.environ.get("LIVEPULSE_FAIL_LOG")
    if told:
        with Path(told).open("a") as file:
            file.write(":".join(_armed) + "\n")
    os.kill(os.getpid(), signal.SIGKILL)
