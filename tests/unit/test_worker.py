"""What a worker makes of errors that Bytewax and context managers wrap."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

from flows.errors import DependencyDown, Stop
from flows.intake import Intake
from flows.kafka_feed import KafkaFeed
from flows.memory import Backlog
from flows.worker import _early, _metrics_of, ours
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


def test_early_rows_are_for_times_without_a_backlog_and_memory_is_given_back_once_after_one() -> None:
    given = threading.Semaphore(0)
    clock = iter([1_000.0, 1_030.0, 1_060.0, 1_100.0, 1_102.0])  # a backlog of 60 s, one of 2 s
    told = [False, True, True, False, False, True, False]
    behind = iter(told)
    intake = cast("Intake", SimpleNamespace(lagging=lambda _: next(behind)))
    early = _early(intake, 60_000, Backlog(lambda: next(clock), lambda: 0, given.release))
    assert [early() for _ in told] == [not one for one in told]
    assert given.acquire(timeout=5)
    assert not given.acquire(timeout=0.1)


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
