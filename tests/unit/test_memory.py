"""When memory is given back: as it grows in a backlog, and once after one."""

from __future__ import annotations

import threading
import time

import pytest

from flows.memory import Backlog, resident

MB = 1 << 20


class World:
    """A backlog that stands, with a clock and a process's size set by hand.

    Giving back takes `takes` seconds of CPU and leaves `left` MB. Each event makes a row.
    """

    def __init__(self) -> None:
        self.now, self.megabytes, self.takes, self.left = 1_000.0, 500, 0.0, 500
        self.given: list[float] = []
        self.handled = 10, 10  # rows, events
        self.backlog = Backlog(lambda: self.now, lambda: self.megabytes * MB, self._give_back, lambda: self.handled)
        self.backlog.stands(behind=True)
        self.looks = self.backlog.looks()
        assert next(self.looks) == 0.05
        self.handled = 20, 20

    def _give_back(self) -> float:
        self.given.append(self.now - 1_000)
        self.megabytes = self.left
        return self.takes

    def at(self, seconds: float, megabytes: int) -> None:
        self.now, self.megabytes = 1_000 + seconds, megabytes


def test_memory_is_given_back_as_it_grows_in_a_backlog_and_once_after_a_long_one() -> None:
    world = World()
    world.at(1, 503)  # 3 MB more are not enough
    assert next(world.looks) == 0.05
    assert world.given == []
    world.at(2, 504)
    world.left = 502
    assert next(world.looks) == 0.05
    assert world.given == [2]
    world.at(3, 505)  # measured from what was left then
    next(world.looks)
    world.at(4, 490)  # and from the least since
    next(world.looks)
    assert world.given == [2]
    world.at(5, 494)
    next(world.looks)
    assert world.given == [2, 5]
    world.at(30, 400)
    world.backlog.stands(behind=False)
    assert list(world.looks) == []
    assert world.given == [2, 5, 30]


def test_what_takes_long_is_done_less_often() -> None:
    world = World()
    world.at(1, 600)
    world.takes = 0.1
    assert next(world.looks) == pytest.approx(2.0)  # 5 % of the time
    assert next(world.looks) == 0.05


def test_pages_that_the_next_fold_gets_anew_count_where_events_make_few_rows() -> None:
    world = World()
    world.takes, world.handled = 0.01, (1_000, 100_000)
    world.at(1, 580)
    assert next(world.looks) == pytest.approx(20 * (0.01 + 0.08))  # 80 MB
    world.at(2, 505)
    assert next(world.looks) == pytest.approx(20 * (0.01 + 0.005))  # 5 MB, in which it grew by and by
    world.handled = 60_000, 100_000
    world.at(3, 580)
    assert next(world.looks) == pytest.approx(0.2)
    assert world.given == [1, 2, 3]


def test_after_a_short_backlog_nothing_is_given_back() -> None:
    world = World()
    world.at(9, 500)
    world.backlog.stands(behind=False)
    assert list(world.looks) == []
    assert world.given == []


def test_a_thread_looks_in_each_backlog_whatever_the_dataflow_waits_for() -> None:
    sizes, given = iter(range(0, 1_000_000, 10)), threading.Semaphore(0)
    backlog = Backlog(size=lambda: next(sizes) * MB, give_back=lambda: given.release() or 0.0)
    before = threading.active_count()
    backlog.stands(behind=False)
    assert threading.active_count() == before
    for _ in range(2):
        backlog.stands(behind=True)
        assert given.acquire(timeout=5)
        assert threading.active_count() == before + 1
        backlog.stands(behind=False)
        time.sleep(0.2)  # several looks long
        while given.acquire(blocking=False):
            pass
        assert not given.acquire(timeout=0.3)


def test_a_process_is_larger_than_nothing() -> None:
    assert resident() > 10 * MB
