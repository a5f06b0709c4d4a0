"""Shards of one process side by side: all but the first work on other threads while Bytewax calls one after the other.

Who splits the events begins their folds, and the first snapshot of an epoch begins the others. Where Bytewax calls a
shard, what was begun is waited for: results, their order and their epochs are those of calls in turn. It stands on what
Bytewax promises: a source gives no event of an epoch before the one before it is over, so that a snapshot finds no fold
begun; and an epoch ends with a snapshot of every key that was called in it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from flows.messages import ShardItem

T = TypeVar("T")

_THREADS: Final = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="shard")


class ShardsAhead(Generic[T]):
    """What was begun, by shard. For the dataflow's thread."""

    def __init__(self, *, alone: bool = True) -> None:
        """`alone`: all shards are here; with several workers nothing is begun, they are side by side themselves."""
        self._alone = alone
        self._folds: dict[int, Callable[[list[ShardItem]], T]] = {}
        self._routed: defaultdict[int, int] = defaultdict(int)  # items that the shard has not been called with
        self._begun: dict[int, tuple[ShardItem, Future[T]]] = {}
        self._states: dict[int, Callable[[], bytes]] = {}
        self._called = set[int]()  # in this epoch
        self._snapshots: dict[int, Future[bytes]] = {}

    def know(self, shard: int, fold: Callable[[list[ShardItem]], T], state: Callable[[], bytes]) -> None:
        """A shard lives here: this is how it folds, and how it writes its state."""
        self._folds[shard], self._states[shard] = fold, state

    def begin(self, items: Sequence[ShardItem]) -> None:
        """Begin what may be begun of the items of one round: the first is left to who comes next, this thread."""
        for place, item in enumerate(items if self._alone else ()):
            fold = self._folds.get(item.shard)
            if place and fold and item.frame is not None and not self._routed[item.shard]:
                self._begun[item.shard] = item, _THREADS.submit(fold, [item])
            self._routed[item.shard] += 1

    def results(self, shard: int, items: list[ShardItem]) -> list[T]:
        """What folding these items gives, which Bytewax calls the shard with."""
        self._routed[shard] -= len(items)
        self._called.add(shard)
        found = []
        with self._whole():
            if shard in self._begun:
                item, result = self._begun[shard]
                assert item is items[0], "a shard gets its items in the order in which they were routed"
                found, items = [result.result()], items[1:]
                del self._begun[shard]
            return [*found, self._folds[shard](items)] if items else found

    def snapshot(self, shard: int) -> bytes:
        """The shard's state, now that an epoch ends; the other shards that were called in it write theirs beside."""
        assert not self._begun, "an epoch ends before events of the next one are split"
        assert not (self._called and self._snapshots), "an epoch ends with all that was begun for its end"
        for other in sorted(self._called - {shard}) if self._alone else ():
            self._snapshots[other] = _THREADS.submit(self._states[other])
        self._called.clear()
        with self._whole():
            state = self._snapshots[shard].result() if shard in self._snapshots else self._states[shard]()
        self._snapshots.pop(shard, None)
        return state

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """An error goes on only when nobody works any more: who comes next may have the files to itself."""
        try:
            yield
        except BaseException:
            wait([result for _, result in self._begun.values()])
            wait(self._snapshots.values())
            raise
