"""What a worker makes of errors that Bytewax and context managers wrap."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import pytest

from flows import worker
from flows.errors import DependencyDown, Stop
from flows.intake import Intake
from flows.worker import ours
from sinks.clickhouse import StoreDownError


def test_our_error_is_found_below_others() -> None:
    wrapped = RuntimeError("Bytewax")
    wrapped.__cause__ = Stop("offsets are gone")
    assert ours(wrapped) is wrapped.__cause__
    wrapped.__cause__ = StoreDownError("no answer")
    assert isinstance(ours(wrapped), DependencyDown)


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    error = AssertionError("a bug")
    error.__cause__ = error
    assert ours(error) is error


def test_memory_is_given_back_once_when_a_backlog_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    given = threading.Semaphore(0)
    monkeypatch.setattr(worker, "_give_back", given.release)
    clock = iter([1_000.0, 1_030.0, 1_100.0, 1_102.0])  # a backlog of 30 s, one of 2 s
    told = [False, True, True, False, False, True, False]
    behind = iter(told)
    intake = cast("Intake", SimpleNamespace(lagging=lambda _: next(behind)))
    early = worker._early(intake, 60_000, lambda: next(clock))
    assert [early() for _ in told] == [not one for one in told]
    assert given.acquire(timeout=5)
    assert not given.acquire(timeout=0.1)
