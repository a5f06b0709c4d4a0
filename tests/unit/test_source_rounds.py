"""Rounds of the source: each partition has one turn in each, whenever it asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from flows.source import PartitionState, SourceRun, _Partition
from tests.unit.test_intake import intake, part, released


@dataclass
class Still:
    """A feed of which nothing comes but what a test puts."""

    failure: BaseException | None = None
    topology_changed: bool = False
    opened: list[str] = field(default_factory=list)

    def open(self, name: str, state: PartitionState | None) -> None:
        self.opened.append(name)

    def commit(self, name: str, offset: int) -> None:
        """Nothing follows it."""


@dataclass
class Live:
    """A source over three partitions that the engine keeps up with, at a time that a test sets."""

    now: int = 1_000_000
    early_interval_ms: int = 500
    batch_events: int = 100

    def __post_init__(self) -> None:
        self.intake = intake()
        self.run = SourceRun(
            self.intake, Still(), lambda: self.now, lambda: True, self.batch_events,
            bounded=False, early_interval_ms=self.early_interval_ms,
        )  # fmt: skip
        for name in "abc":
            self.intake.add(name, 0, self.now, self.now)

    def put(self, *names: str) -> None:
        """An event of now for each of these partitions."""
        for name in names:
            self.intake.put(name, part([self.now], before=self.now))
            self.intake.caught_up(name, caught_up=True)

    def ask(self, name: str) -> int:
        """How many events a partition gives when it is asked now."""
        return sum(len(released(item.slice)) for item in self.run.take(name) if item.slice is not None)


def test_who_asks_after_another_began_anew_still_has_its_turn() -> None:
    live = Live()
    live.put("a", "b", "c")
    assert live.ask("a") == 1
    assert live.ask("a") == 0  # it gave something and so is asked again at once, while the others sleep
    assert [live.ask("b"), live.ask("c")] == [1, 1]


def test_a_partition_has_one_turn_in_a_round_and_the_next_when_it_is_due() -> None:
    live = Live()
    live.put("a", "b", "c")
    assert [live.ask(name) for name in "abc"] == [1, 1, 1]
    live.put("a", "b", "c")
    live.now += 249
    assert [live.ask(name) for name in "abc"] == [0, 0, 0]
    live.now += 1
    assert [live.ask(name) for name in "abc"] == [1, 1, 1]


@pytest.mark.parametrize(("early_interval_ms", "apart"), [(50, 25), (200, 100), (500, 250), (5_000, 250)])
def test_rounds_are_half_as_far_apart_as_early_rows(early_interval_ms: int, apart: int) -> None:
    live = Live(early_interval_ms=early_interval_ms)
    live.put("a")
    assert live.ask("a") == 1
    live.put("a")
    live.now += apart - 1
    assert live.ask("a") == 0
    live.now += 1
    assert live.ask("a") == 1


def test_a_whole_round_of_events_does_not_wait() -> None:
    live = Live(batch_events=3)
    live.put("a")
    assert live.ask("a") == 1
    live.put("a", "b", "c")
    assert [live.ask(name) for name in "abc"] == [1, 1, 1]


def test_a_round_takes_no_more_than_its_events_over_all_partitions() -> None:
    live = Live(batch_events=2)
    live.put("a", "b", "c")
    assert [live.ask(name) for name in "abc"] == [1, 1, 0]
    live.now += 250
    assert [live.ask(name) for name in "abc"] == [0, 0, 1]


def test_partitions_without_messages_all_ask_again_at_the_same_instant() -> None:
    live = Live()
    partitions = [_Partition(live.run, name) for name in "abc"]
    instants = []
    for partition in partitions:
        partition.next_batch()  # the first gives a heartbeat
        partition.next_batch()
        instants.append(partition.next_awake())
    awake = {instant for instant in instants if instant is not None}
    assert len(awake) <= 2  # an instant of the clock may pass between two of them
    for instant in awake:
        assert instant.microsecond % 20_000 == 0
        assert timedelta(0) < instant - datetime.now(UTC) + timedelta(milliseconds=20) <= timedelta(milliseconds=40)
