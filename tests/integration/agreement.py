"""An engine's views against the oracles, once it has had time to write them."""

from __future__ import annotations

import time
from collections.abc import Collection

from tests.integration.compare import differences
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic
from tests.oracles.log import judge


def agree(process: EngineProcess, traffic: Traffic, seconds: float = 60, *, platforms: Collection[str] = ()) -> None:
    """Wait until all views are as the oracles say: they follow the ledger by up to an epoch."""
    verdict, deadline = judge(traffic.log, platforms=platforms), time.monotonic() + seconds
    while (found := differences(process.rows, verdict)) and time.monotonic() < deadline:
        assert process.running, process.said()[-4000:]
        time.sleep(0.3)
    assert found == {}, f"{str(found)[:4000]}\n{process.said()[-4000:]}"
