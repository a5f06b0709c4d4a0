"""Two threads at work: results in order, nothing lost to an error, rows stored before an epoch ends."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import polars as pl
import pytest

from flows.families import step_config
from flows.kernel import Progress
from flows.messages import Rows, ShardItem, SourceProgress
from flows.precompile import invented
from flows.settings import Settings
from flows.side_by_side import side_by_side
from flows.steps import ShardLogic
from sinks.rows_sink import RowsSink


def test_results_come_in_the_order_of_the_calls() -> None:
    def call(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    assert side_by_side([lambda n=n: call(n) for n in range(20)]) == list(range(20))
    assert side_by_side([]) == []


def test_both_threads_work() -> None:
    met = threading.Barrier(2, timeout=10)
    names = side_by_side([lambda: (met.wait(), threading.current_thread().name)[1]] * 2)
    assert len(set(names)) == 2


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_error_is_raised_once_the_others_have_ended(wrong: int) -> None:
    met, ended = threading.Barrier(2, timeout=10), threading.Event()

    def fails() -> None:
        met.wait()
        raise ValueError("this one")

    def works() -> None:
        met.wait()
        time.sleep(0.05)
        ended.set()

    calls = [works, works]
    calls[wrong] = fails
    with pytest.raises(ValueError, match="this one"):
        side_by_side(calls)
    assert ended.is_set()


class Where:
    """A kernel that notes which thread folds it."""

    name, columns = "where", frozenset[str]()

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    def fold(self, frame: pl.DataFrame, progress: Progress) -> dict[str, pl.DataFrame]:
        time.sleep(0.05)  # the other thread has the time to take the next one
        self._seen.append(threading.current_thread().name)
        return {}


@pytest.mark.parametrize("spare", [True, False])
def test_kernels_of_a_shard_share_two_threads_where_cores_are_to_spare(*, spare: bool) -> None:
    seen: list[str] = []
    config = step_config(Settings(families=("activity",)), sources=1, generation=1, state_dir=None)
    config = replace(config, shard_kernels=lambda: [Where(seen) for _ in range(4)], spare_cores=spare)
    progress = SourceProgress(0, 0, idle=False, now=0, early=True, end=False, last_event_time=0)
    ShardLogic(config, None).on_batch([ShardItem(0, invented(0), progress)])
    assert len(seen) == 4
    assert len(set(seen)) == (2 if spare else 1)


class SlowStore:
    """A store that takes its time, and refuses a table."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.closed = False

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        if table == "refused":
            raise OSError("the disk is full")
        time.sleep(0.02)
        self.stored += frame["n"].to_list()

    def close(self) -> None:
        self.closed = True


def test_rows_are_stored_in_order_before_the_epoch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.rows_sink._LEAST_APART_SECONDS", 0.01)
    store = SlowStore()
    part = RowsSink(lambda: store, owner=True).build_part("", "", None)
    for n in range(30):
        part.write_batch([Rows("events", pl.DataFrame({"n": [n]}))])
        time.sleep(0.003)
    part.snapshot()
    assert store.stored == list(range(30))
    part.close()
    assert store.closed


def test_an_insert_that_fails_fails_the_epoch() -> None:
    part = RowsSink(SlowStore, owner=True).build_part("", "", None)
    part.write_batch([Rows("refused", pl.DataFrame({"n": [1]}))])
    with pytest.raises(OSError, match="disk is full"):
        part.snapshot()
