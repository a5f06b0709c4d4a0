"""Shards begun ahead: what a call gives is what calls in turn would give, errors too; snapshots of who was called."""

from __future__ import annotations

import threading

import polars as pl
import pytest

from flows.messages import MIN_TIME, ShardItem, SourceProgress
from flows.shards_ahead import ShardsAhead

EVENTS = pl.DataFrame({"n": [1]})
PROGRESS = SourceProgress(0, MIN_TIME, idle=False, now=0, early=True, end=False, last_event_time=MIN_TIME)


def items(frame: pl.DataFrame | None = EVENTS) -> list[ShardItem]:
    """What the router makes of one round, for two shards."""
    return [ShardItem(shard, frame, PROGRESS) for shard in (0, 1)]


class Shards:
    """Two shards whose state is the items that they were given; `threads`: who folded for shard 1."""

    def __init__(self, *, alone: bool = True) -> None:
        self.ahead: ShardsAhead[list[int]] = ShardsAhead(alone=alone)
        self.given: dict[int, list[int]] = {0: [], 1: []}
        self.threads: list[str] = []
        for shard in self.given:
            self.ahead.know(
                shard, lambda found, shard=shard: self.fold(shard, found), lambda shard=shard: self.state(shard)
            )

    def fold(self, shard: int, found: list[ShardItem]) -> list[int]:
        if any(item.frame is not None and item.frame["n"][0] < 0 for item in found):
            raise ValueError("no such event")
        if shard == 1:
            self.threads.append(threading.current_thread().name)
        self.given[shard] += [id(item) for item in found]
        return [id(item) for item in found]

    def state(self, shard: int) -> bytes:
        return f"{threading.current_thread().name}: {len(self.given[shard])}".encode()

    def call(self, shard: int, found: list[ShardItem]) -> list[int]:
        return [one for result in self.ahead.results(shard, found) for one in result]


def test_the_second_shard_folds_on_another_thread_and_answers_when_called() -> None:
    shards, here = Shards(), threading.current_thread().name
    for _ in range(3):
        first, second = items()
        shards.ahead.begin([first, second])
        assert shards.call(0, [first]) == [id(first)]
        assert shards.call(1, [second]) == [id(second)]
    assert len(shards.threads) == 3
    assert here not in shards.threads


def test_items_of_rounds_that_were_not_asked_for_yet_keep_their_order() -> None:
    shards = Shards()
    rounds = [items(), items(None), items(), items()]
    for one in rounds:
        shards.ahead.begin(one)
    seconds = [one[1] for one in rounds]
    assert shards.call(1, seconds) == [id(item) for item in seconds] == shards.given[1]
    quiet, loud = items(None), items()
    shards.ahead.begin(quiet)  # nothing to fold: not begun, so nothing behind it may be
    shards.ahead.begin(loud)
    assert not shards.given[1][4:]
    assert shards.call(1, [quiet[1], loud[1]]) == [id(quiet[1]), id(loud[1])]


def test_an_error_is_raised_where_the_shard_is_called() -> None:
    shards = Shards()
    wrong = items(pl.DataFrame({"n": [-1]}))
    shards.ahead.begin(wrong)
    with pytest.raises(ValueError, match="no such event"):
        shards.call(1, [wrong[1]])


def test_an_error_waits_for_what_the_other_shard_does() -> None:
    shards, ended = Shards(), threading.Event()

    def slow(_: list[ShardItem]) -> list[int]:
        ended.wait(0.05)
        ended.set()
        return []

    shards.ahead.know(1, slow, bytes)
    wrong = ShardItem(0, pl.DataFrame({"n": [-1]}), PROGRESS)
    shards.ahead.begin([wrong, items()[1]])
    with pytest.raises(ValueError, match="no such event"):
        shards.call(0, [wrong])
    assert ended.is_set()


def test_a_snapshot_begins_those_of_the_shards_that_were_called() -> None:
    shards, here = Shards(), threading.current_thread().name.encode()
    first, second = items()
    shards.ahead.begin([first, second])
    shards.call(0, [first])
    shards.call(1, [second])
    assert shards.ahead.snapshot(0) == here + b": 1"
    beside = shards.ahead.snapshot(1)
    assert beside.endswith(b": 1")
    assert here not in beside
    shards.call(0, [items()[0]])  # an epoch in which only one was called, and one in which the end calls all
    assert [shards.ahead.snapshot(0), shards.ahead.snapshot(1)] == [here + b": 2", here + b": 1"]


def test_a_snapshot_before_its_events_were_asked_for_is_refused() -> None:
    shards = Shards()
    shards.ahead.begin(items())
    with pytest.raises(AssertionError, match="an epoch ends"):
        shards.ahead.snapshot(1)


def test_with_other_workers_nothing_is_begun() -> None:
    shards, here = Shards(alone=False), threading.current_thread().name
    _, second = items()
    shards.ahead.begin(items())
    assert shards.call(1, [second]) == [id(second)]
    assert shards.threads == [here]
    assert shards.ahead.snapshot(0).decode().startswith(here)
    assert shards.ahead.snapshot(1).decode().startswith(here)
