"""Ctrl-C and SIGTERM while the engine starts: one line, exit code 0, and nothing that stays, at whatever moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.broker import Broker
from flows.errors import OK
from tests.integration.engine_process import EngineProcess, running_with

pytestmark = pytest.mark.integration

BEFORE, AFTER = "stopped before it began", "stopped; nothing to replay"


@pytest.fixture
def engine(
    mock_kafka: Broker, topics: Callable[..., object], topic_prefix: str, store_dir: Path
) -> Iterator[EngineProcess]:
    topics(mock_kafka, names=("view",))
    process = EngineProcess(mock_kafka.address, topic_prefix, store_dir)
    yield process
    if process.running:
        process.kill()


def listens(process: EngineProcess) -> bool:
    """Whether it has begun to listen to signals: Python itself, which starts before, leaves SIGTERM alone."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (caught,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught & 1 << signal.SIGTERM - 1)


def session(process: EngineProcess) -> list[str]:
    """Processes of its session: what it started, but for the store, which has one of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has just ended
        if int(of) == process.pid and state != "Z":
            found.append(path.parent.name)
    return found


def seconds_until(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it was done in time."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)
    return done()


def stop(process: EngineProcess, number: signal.Signals) -> str:
    """Stop it and judge how it ended; the line that it ended with."""
    before = process.said()
    code = process.interrupt() if number is signal.SIGINT else process.stop()
    said = process.said().removeprefix(before)
    assert code == OK, said
    assert "Traceback" not in process.said(), process.said()
    assert "Exception ignored" not in process.said(), process.said()
    (line,) = [line for line in (BEFORE, AFTER) if line in said]
    assert said.count("stopped") == 1, said
    left = str(process.store)
    assert seconds_until(lambda: not session(process) and running_with(left) == [], 10), running_with(left)
    return line


def test_a_stop_at_any_moment_of_the_start_is_quiet(engine: EngineProcess) -> None:
    lines = []
    for moment, seconds in enumerate((0, 0.1, 0.3, 0.6, 1.0, 1.5, 4.0)):
        engine.start()
        assert seconds_until(lambda: listens(engine), 10)
        time.sleep(seconds)
        lines.append(stop(engine, (signal.SIGINT, signal.SIGTERM)[moment % 2]))
    assert lines[0] == BEFORE


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.5), (signal.SIGTERM, 0)])
def test_a_stop_while_workers_start_is_quiet(engine: EngineProcess, number: signal.Signals, seconds: float) -> None:
    engine.flags = ("--workers", "2")
    engine.start()
    assert seconds_until(lambda: len(engine.workers()) == 2, 30)
    time.sleep(seconds)
    assert stop(engine, number) == AFTER
