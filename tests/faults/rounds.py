"""Rounds of death: the engine dies at a named moment under load and starts again; what came of it, in figures."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sinks import fail_points
from sinks.embedded import Embedded
from tests.faults.reader import Reader
from tests.integration.compare import differences
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, produce
from tests.oracles.log import judge

POINTS = (fail_points.IN_FLUSH, fail_points.INSERT_COMMIT, fail_points.IN_COMMIT, fail_points.STATE_WRITTEN)
# Hits of a point within some seconds of load: an epoch has one, a flush a few, snapshots many.
_MOST_HITS = dict(zip(POINTS, (24, 10, 60, 40), strict=True))
MESSAGES = 1_500
MOST_SECONDS = float(os.environ.get("FAULT_MINUTES", "18")) * 60  # the whole suite ends within half an hour
STEP_MS = 120  # a round is three minutes of event time: windows close while engines die


@dataclass
class Outcome:
    """Figures of a run."""

    rounds: int
    events: int = 0
    lost: int = 0
    twice: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    recovered_s: list[float] = field(default_factory=list)
    wrong: dict[str, list[object]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    polls: int = 0
    finals: int = 0

    @property
    def ok(self) -> bool:
        """O1, O2, O3."""
        return not (self.lost or self.twice or self.wrong or self.violations)

    def __str__(self) -> str:
        worst, middle = max(self.recovered_s), sorted(self.recovered_s)[len(self.recovered_s) // 2]
        bars = "\n".join(f"  {name:15} {'█' * count} {count}" for name, count in sorted(self.moments.items()))
        return (
            f"rounds {self.rounds}, events {self.events:,}, lost {self.lost}, twice {self.twice}, "
            f"seconds to recover: median {middle:.1f}, worst {worst:.1f}; reader: {self.polls} polls, "
            f"{self.finals} rows seen to become final, {len(self.violations)} violations\nmoments of death:\n{bars}"
        )


def die_and_recover(
    process: EngineProcess, up: Embedded, broker: str, prefix: str, traffic: Traffic, *, rounds: int, seed: int,
    points: tuple[str, ...] = POINTS,
) -> Outcome:  # fmt: skip
    """Run `rounds` rounds and compare what is there afterwards with the oracles."""
    rnd, told = random.Random(seed), Path(str(process.store) + ".deaths")
    outcome, reader = Outcome(rounds), Reader(up)
    began = time.monotonic()
    for number in range(rounds):
        if time.monotonic() - began > MOST_SECONDS:
            outcome.rounds = number
            break
        point = points[number % len(points)]
        delay = f":{rnd.random() * 20:.1f}" if point == fail_points.IN_COMMIT else ""
        process.environment = {
            "LIVEPULSE_FAIL_AT": f"{point}:{rnd.randrange(2, _MOST_HITS[point])}{delay}", "LIVEPULSE_FAIL_LOG": str(told),
        }  # fmt: skip
        load = threading.Thread(target=_load, args=(broker, prefix, traffic))
        outcome.recovered_s.append(_start(process))
        load.start()
        if not process.dies_within(60):
            process.kill()
            outcome.moments["random"] += 1
        load.join()
    process.environment = {}
    process.flags = (*process.flags, "--idle-timeout", "2s")  # the end of the traffic closes what is open
    outcome.recovered_s.append(_start(process))
    _settle(process, traffic, outcome)
    reader.close()
    outcome.violations, outcome.polls, outcome.finals = reader.violations[:5], reader.polls, reader.finals
    outcome.moments.update(line.split(":")[0] for line in told.read_text().splitlines())
    return outcome


def _load(broker: str, prefix: str, traffic: Traffic) -> None:
    for _ in range(3):
        produce(broker, prefix, traffic, MESSAGES // 3, step_ms=STEP_MS)
        time.sleep(0.4)


def _start(process: EngineProcess) -> float:
    """Seconds until it reads."""
    began, before = time.monotonic(), process.said().count('"reading"')
    process.start()
    while process.said().count('"reading"') == before and process.running and time.monotonic() - began < 90:
        time.sleep(0.05)
    return time.monotonic() - began


def _settle(process: EngineProcess, traffic: Traffic, outcome: Outcome) -> None:
    """Wait for the end of the log (or until nothing moves) and compare."""
    verdict = judge(traffic.log)
    outcome.events = sum(map(len, traffic.log.values()))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        outcome.wrong = differences(process.rows, verdict)
        if not outcome.wrong:
            break
        time.sleep(0.5)
    found = process.rows("SELECT count() AS n, uniqExact(user_id, event_id) AS u FROM livepulse.events")[0]
    outcome.lost = len(verdict.accepted) - found["u"]
    outcome.twice = found["n"] - found["u"]
