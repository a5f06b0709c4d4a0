"""`livepulse demo` from end to end on the mock cluster: it counts exactly, tells so, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from flows import demo as module
from flows.broker import MockBroker
from flows.demo import DemoOptions, demo
from flows.errors import OK, Usage
from tests.integration.engine_process import ROOT, running_with

pytestmark = pytest.mark.integration


ON_THE_MOCK = """
from flows import demo
from flows.broker import MockBroker
demo.find_broker = lambda _: MockBroker()
from flows.cli import main
main()
"""
"""A program: `livepulse` whose demo takes no Java broker."""


def test_the_demo_ends_with_exact_counts_and_no_process_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_broker", lambda _: MockBroker())
    shown = io.StringIO()
    store = tmp_path / "store"
    options = DemoOptions(store=store, lasting_s=12.0, rate=60.0, history_messages=15_000)
    assert demo(options, Console(file=shown, width=160)) == OK, shown.getvalue()
    text = shown.getvalue()
    assert "5 of 5 counts exact" in text
    assert "mock Kafka" in text
    assert running_with(str(store)) == []


def wait(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it was done in time."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    return done()


@pytest.mark.parametrize(("seen", "told"), [("starting", "stopped"), ("Topic heat", "5 of 5 counts exact")])
def test_ctrl_c_ends_it_well_at_any_time(tmp_path: Path, seen: str, told: str) -> None:
    """While it starts, and with the table there."""
    store, screen = tmp_path / "store", tmp_path / "screen"
    flags = ("demo", "--store", str(store), "--rate", "60", "--history", "2min")
    with screen.open("wb") as shown:
        process = subprocess.Popen(
            [sys.executable, "-c", ON_THE_MOCK, *flags], cwd=ROOT, stdout=shown, stderr=shown, start_new_session=True,
        )  # fmt: skip
    try:
        assert wait(lambda: seen in screen.read_text() or process.poll() is not None, 120), screen.read_text()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(90) == OK, screen.read_text()
    finally:
        process.kill()
    assert told in screen.read_text()
    assert "Traceback" not in screen.read_text()
    assert wait(lambda: running_with(str(store)) == [], 10), running_with(str(store))


def test_a_store_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("do not touch")
    with pytest.raises(Usage, match="not empty"):
        demo(DemoOptions(store=tmp_path), Console(file=io.StringIO()))
    assert (tmp_path / "mine").read_text() == "do not touch"


def test_impossible_options_fail_when_they_are_built() -> None:
    with pytest.raises(ValueError, match="rate"):
        DemoOptions(rate=0.0)
