"""`livepulse` on a host whose clock is off by LIVEPULSE_TEST_CLOCK_S seconds (one worker: others start by themselves)."""

from __future__ import annotations

import os
import time

OFF_S = int(os.environ["LIVEPULSE_TEST_CLOCK_S"])
_now, _now_ns = time.time, time.time_ns
time.time = lambda: _now() + OFF_S
time.time_ns = lambda: _now_ns() + OFF_S * 1_000_000_000

from flows.cli import main  # noqa: E402  # with the clock that is off

if __name__ == "__main__":
    main()
