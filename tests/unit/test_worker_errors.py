"""What becomes of errors that end a worker: one of ours, found through whatever wrapped it."""

from __future__ import annotations

import errno

from flows.errors import DependencyDown, Stop
from flows.worker import ours
from sinks.clickhouse import StoreDownError


def wrapped(inner: BaseException) -> BaseException:
    outer = RuntimeError("panic")
    outer.__cause__ = inner
    return outer


def test_ours_is_found_through_wrappers() -> None:
    inner = Stop("why")
    assert ours(wrapped(inner)) is inner
    assert isinstance(ours(wrapped(StoreDownError("gone"))), DependencyDown)


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    """`raise ours(error) from error` makes one: the engine hung instead of stopping."""
    error = RuntimeError("panic")
    error.__cause__ = error
    assert ours(error) is error


def test_a_full_disk_is_said() -> None:
    found = ours(wrapped(OSError(errno.ENOSPC, "No space left on device")))
    assert isinstance(found, Stop)
    assert "No space left on device" in str(found)
