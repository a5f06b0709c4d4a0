"""What a worker makes of errors that Bytewax and context managers wrap."""

from __future__ import annotations

from flows.errors import DependencyDown, Stop
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
