"""What becomes of errors that end a worker: one of ours, found through whatever wrapped it."""

from __future__ import annotations

import errno

from flows.errors import DependencyDown, Stop
from flows.worker import ours
from sinks.clickhouse import StoreDownError, StoreError


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


def test_a_full_disk_is_said_whoever_finds_it() -> None:
    bytewax = RuntimeError('SqliteFailure(Error { code: DiskFull, … }, Some("database or disk is full"))')
    store = StoreError("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)")
    for error in (wrapped(bytewax), wrapped(store)):
        found = ours(error)
        assert isinstance(found, Stop)
        assert "ake room" in str(found)
