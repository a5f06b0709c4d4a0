"""Workers that are killed start again with growing pauses, and not for ever."""

from __future__ import annotations

import threading
import time

import pytest

from flows import engine
from flows.errors import Stop


class Clock:
    """Stands for time and for the event that pauses wait on."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(engine, "time", made)
    return made


def test_pauses_grow_and_the_sixth_death_within_ten_minutes_is_the_last(clock: Clock) -> None:
    restarts = engine._Restarts()
    for _ in range(5):
        restarts.wait(clock)  # type: ignore[arg-type]
    assert clock.pauses == [1, 2, 4, 8, 16]
    with pytest.raises(Stop, match=r"killed 6 times within 10 minutes.*State is kept"):
        restarts.wait(clock)  # type: ignore[arg-type]


def test_deaths_long_ago_are_forgotten(clock: Clock) -> None:
    restarts = engine._Restarts()
    for _ in range(20):
        restarts.wait(clock)  # type: ignore[arg-type]
        clock.now += 300
    assert max(clock.pauses) <= 4


def test_a_drain_ends_the_pause() -> None:
    drain = threading.Event()
    drain.set()
    restarts = engine._Restarts()
    began = time.monotonic()
    for _ in range(5):
        restarts.wait(drain)
    assert time.monotonic() - began < 1  # the pauses are 31 s
