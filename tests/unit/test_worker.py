"""What a worker makes of errors that Bytewax and context managers wrap."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from flows.errors import DependencyDown, Stop
from flows.intake import Intake
from flows.kafka_feed import KafkaFeed
from flows.worker import _early, _metrics_of, as_ours, ours
from sinks.clickhouse import StoreDownError

if TYPE_CHECKING:
    from flows.memory import Backlog


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


def test_a_bug_goes_on_with_its_cause_and_an_error_of_ours_with_what_wrapped_it() -> None:
    bug = RuntimeError("a step")
    bug.__cause__ = KeyError("gone")
    with pytest.raises(RuntimeError, match="a step") as told, as_ours():
        raise bug
    assert told.value is bug
    assert bug.__cause__.args == ("gone",)
    wrapped = RuntimeError("Bytewax")
    wrapped.__cause__ = Stop("offsets are gone")
    with pytest.raises(Stop, match="offsets") as stopped, as_ours():
        raise wrapped
    assert stopped.value.__cause__ is wrapped


def test_early_rows_are_for_times_without_a_backlog_and_memory_is_told_of_one() -> None:
    told, stood = [False, True, True, False, False, True, False], list[bool]()
    behind = iter(told)
    intake = cast("Intake", SimpleNamespace(lagging=lambda _: next(behind)))
    backlog = cast("Backlog", SimpleNamespace(stands=lambda *, behind: stood.append(behind)))
    early = _early(intake, 60_000, backlog)
    assert [early() for _ in told] == [not one for one in told]
    assert stood == told


def test_the_metrics_hear_what_the_feed_knows() -> None:
    feed = cast("KafkaFeed", SimpleNamespace(lag=7))
    intake = cast("Intake", SimpleNamespace(lag_ms=1_500, lagging=lambda _: True))
    metrics = _metrics_of(feed, intake)
    metrics.health.broker -= 60
    before = metrics.health.broker
    feed.heard()
    feed.mismatched(3)
    text = metrics.text().decode()
    assert metrics.health.broker > before
    for line in (
        "livepulse_lag_messages 7.0",
        "livepulse_lag_seconds 1.5",
        "livepulse_key_mismatches_total 3.0",
    ):
        assert line in text
