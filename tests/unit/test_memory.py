"""When memory is given back: as it grows in a backlog, and once after one."""

from __future__ import annotations

import queue

from flows.memory import Backlog, resident

MB = 1 << 20


def test_memory_is_given_back_as_it_grows_in_a_backlog_and_once_after_a_long_one() -> None:
    given: queue.SimpleQueue[float] = queue.SimpleQueue()
    now, size = [1_000.0], [500 * MB]
    backlog = Backlog(lambda: now[0], lambda: size[0], lambda: given.put(now[0]))

    def at(seconds: float, megabytes: int, *, behind: bool) -> None:
        now[0], size[0] = 1_000 + seconds, megabytes * MB
        backlog.stands(behind=behind)

    at(0, 900, behind=False)
    at(1, 500, behind=True)  # a backlog begins
    at(1.4, 900, behind=True)  # no half a second has passed
    at(3, 507, behind=True)  # 7 MB more are not enough
    assert given.empty()
    at(5, 508, behind=True)
    assert given.get(timeout=5) == 1_005
    at(20, 515, behind=True)  # measured from what was left then
    at(30, 600, behind=False)
    assert given.get(timeout=5) == 1_030
    at(31, 900, behind=False)
    at(40, 500, behind=True)
    at(41, 500, behind=False)  # a backlog of a second
    assert given.empty()


def test_a_process_is_larger_than_nothing() -> None:
    assert resident() > 10 * MB
