"""kill -9 at named moments: nothing lost, nothing twice, no reader sees anything go back. SEED repeats a run."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from flows.broker import Broker
from sinks import fail_points
from sinks.embedded import Embedded
from tests.faults.conftest import ROUNDS, SEED
from tests.faults.rounds import POINTS, die_and_recover
from tests.integration.engine_process import EngineProcess
from tests.integration.test_dead_letters import letters_in
from tests.integration.traffic import Traffic, hours_ago

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(1_500)]

CORE = ("view", "like", "gift", "order")
# Windows close by the watermark alone: what idleness closes may be opened again, and a reader would see it.
FLAGS = ("--idle-timeout", "10min", "--epoch", "200ms", "--early-interval", "100ms", "--audit-interval", "0")
Engine = Callable[..., EngineProcess]


def test_deaths_leave_no_trace(
    kafka: Broker, topics: Callable[..., object], topic_prefix: str, engine: Engine, up: Embedded,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.5 + ROUNDS * 0.055))
    process = engine(*FLAGS)
    outcome = die_and_recover(process, up, kafka.address, topic_prefix, traffic, rounds=ROUNDS, seed=SEED)
    with capsys.disabled():
        print(f"\nSEED={SEED} {outcome}")
    assert outcome.ok, (SEED, outcome.wrong, outcome.violations)
    assert outcome.polls > 0
    bad = {(*lane, m.offset) for lane, messages in traffic.log.items() for m in messages if m.event is None}
    found = letters_in(kafka, topic_prefix + "livepulse.dead_letters")
    told = {(headers["topic"], int(headers["partition"]), int(headers["offset"])) for headers, _ in found}
    with capsys.disabled():
        print(f"dead letters: {len(bad)} in the log, {len(found)} in the topic (copies are allowed, gaps are not)")
    assert bad == told != set()
    assert len(process.rows("SELECT 1 FROM livepulse.dead_letters")) == len(bad)
    if outcome.rounds >= 48:
        assert all(outcome.moments[point] >= 10 for point in POINTS)


def test_a_sink_that_commits_before_it_stores_is_noticed(
    kafka: Broker, topics: Callable[..., object], topic_prefix: str, engine: Engine, up: Embedded
) -> None:
    """A test of the test: with the order broken the same rounds must not pass."""
    topics(kafka, names=CORE)
    process = engine(*FLAGS)
    process.program = [sys.executable, "-m", "tests.faults.broken_engine"]
    traffic = Traffic(seed=SEED, start_ms=hours_ago(1))
    outcome = die_and_recover(
        process, up, kafka.address, topic_prefix, traffic, rounds=2, seed=SEED, points=(fail_points.INSERT_COMMIT,)
    )
    print(outcome, outcome.wrong.keys())
    assert outcome.moments[fail_points.INSERT_COMMIT] == 2  # it ran, and died where it should
    assert outcome.lost > 0  # that is what the wrong order does, and nothing else may stand for it
