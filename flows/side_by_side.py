"""Calls that share nothing, on two threads: kernels are mostly compiled code that runs without the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_T = TypeVar("_T")

_BESIDE: Final = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="kernel")  # shards call at once, too


def side_by_side(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """The results of `calls`, in their order. This thread and another one take the next call in turn.

    All calls have ended on return. An error of one of them is raised; the calls that had not begun are left out.
    """
    if len(calls) < 2:
        return [call() for call in calls]
    left = iter(range(len(calls)))  # shared: taking a number is one step under the GIL
    results: dict[int, _T] = {}

    def work() -> None:
        for number in left:
            try:
                results[number] = calls[number]()
            except BaseException:
                for _ in left:  # nothing more is begun
                    pass
                raise

    other = _BESIDE.submit(work)
    try:
        work()
    finally:
        begun = not other.cancel()  # all is done: who has not begun yet need not
        if begun:
            other.exception()  # wait: the caller may go on only when nobody works on its state
    if begun:
        other.result()
    return [results[number] for number in range(len(calls))]
