"""Boards under load: how long a refresh of each takes on the embedded store while the engine takes in live traffic."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flows.bench_latency import percentile, under_traffic
from flows.bench_throughput import Say, home_of, machine
from flows.broker import RealBroker
from flows.errors import Usage
from sinks import embedded

_PAUSE_SECONDS: Final = 1.0  # between refreshes, as a browser at its quickest

Refresh = Callable[[], float]
"""Asks a board for everything once; the milliseconds that it took."""
Opened = Callable[[str], dict[str, tuple[int, Refresh]]]
"""From the store's address to each board's number of panels and its refresh."""


@dataclass(frozen=True, slots=True)
class BoardLoad:
    """What is to be measured. `seconds` of traffic before the boards open, then `rounds` refreshes of each."""

    rate: int = 20_000
    seconds: float = 60.0
    rounds: int = 10
    seed: int = 7
    keep: Path | None = None

    def __post_init__(self) -> None:
        if self.rate < 1 or self.seconds < 1 or self.rounds < 2:
            raise Usage("a benchmark of boards needs a rate, a second and two rounds at least")


def measure(wanted: BoardLoad, opened: Opened, say: Say) -> dict[str, Any]:
    """Run it; the JSON object.

    Raises:
        DependencyDown: no Java for the broker, or broker or engine failed.
    """
    with (
        RealBroker() as broker,
        home_of(wanted.keep) as home,
        under_traffic(broker, "boards.", home, {"workers": 1}, wanted.rate, wanted.seed) as (engine, reader, traffic),
    ):
        time.sleep(wanted.seconds)
        up = embedded.attach(engine.store)
        boards = opened(up.read_url if up else "")
        began, before = time.monotonic(), traffic.sent
        found = {uid: _refreshed(uid, board, wanted.rounds, say) for uid, board in boards.items()}
        achieved = (traffic.sent - before) / (time.monotonic() - began)
        behind = traffic.sent - reader.numbers("SELECT sum(consumed) FROM ingest_ledger")[0]
    return {
        "benchmark": "boards", "rate": wanted.rate, "achieved_rate": round(achieved), "machine": machine(),
        "engine_behind_s": round(behind / wanted.rate, 1), "boards": found,
        "slowest_p95_ms": max(one["p95_ms"] for one in found.values()), "runs": [found],
    }  # fmt: skip


def _refreshed(uid: str, board: tuple[int, Refresh], rounds: int, say: Say) -> dict[str, Any]:
    """The first refresh, when nothing is known yet, and those that follow."""
    panels, refresh = board
    first, times = refresh(), []
    for _ in range(rounds):
        time.sleep(_PAUSE_SECONDS)
        times.append(refresh())
    told = {
        "panels": panels, "first_ms": round(first, 1), "p50_ms": round(statistics.median(times), 1),
        "p95_ms": percentile(times, 0.95),
    }  # fmt: skip
    say(f"{uid}: {told}")
    return told


def timed(round_of: Callable[[], Any]) -> float:
    """Milliseconds until an asynchronous round has told everything."""

    async def all_of() -> None:
        async for _ in round_of():
            pass

    began = time.perf_counter()
    asyncio.run(all_of())
    return (time.perf_counter() - began) * 1000
