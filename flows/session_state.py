"""What a user shard remembers of live rooms: first events, and who was there when. Made, grown, forgotten, persisted.

Forgetting changes no figure: a first event goes when every event that may still be accepted is more than the memory
after it (`flows.session_tally._first` would call that one a first again), presence when none can reach its ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flows.funnel_pairs import Int64s, slot_of
from flows.session_tally import BLOCK, FIRSTS_LOGGED, MARKS_LOGGED, Memories, Out, State
from flows.topic_columns import pack, unpack
from schemas.decode_compile import compiled
from schemas.sessions import STEP_MS

_FORMAT: Final = 1
_SMALLEST: Final = 256
_LOAD: Final = 0.5
_LOG_ROWS: Final = 1 << 12
_BLOCK_MS: Final = BLOCK * STEP_MS
_FIRSTS, _MARKS = 0, 1
_FIRST_COLUMNS: Final = ("first_keys", "first_times", "first_loads")
_MARK_COLUMNS: Final = ("mark_keys", "mark_blocks", "present", "watching")


def new_out(width: int, rows: int) -> Out:
    """An empty one with room for `rows` rows of `width` sums; `rows` is a power of two."""
    slots, sums = np.zeros(2 * rows, dtype=np.int64), np.zeros((rows, width), dtype=np.int64)
    columns = {name: np.zeros(rows, dtype=np.int64) for name in ("key", "room", "start", "item", "event", "named")}
    return Out(slots=slots, sums=sums, used=np.zeros(1, dtype=np.int64), **columns)


class Memory:
    """The state of one shard, for `flows.session_tally.tally`."""

    def __init__(self, memories: Memories, retain_ms: int) -> None:
        self.memories, self._retain = memories, retain_ms
        self._start_empty()

    def _start_empty(self) -> None:
        columns = {name: np.zeros(_SMALLEST, dtype=np.int64) for name in (*_FIRST_COLUMNS, *_MARK_COLUMNS)}
        logs = {f"{name}_log": np.zeros((_LOG_ROWS, n), dtype=np.int64) for name, n in (("first", 3), ("mark", 4))}
        self.state = State(**columns, **logs, used=np.zeros(4, dtype=np.int64), was=np.zeros(2, dtype=np.int64))
        self._watermark = -(1 << 62)
        self._fresh: list[tuple[int, Int64s]] = []  # which table, rows of its log
        self._is_logged = False  # not before a first snapshot or delta: a backfill asks for none

    def __len__(self) -> int:
        """Entries held, both tables together."""
        return int(self.state.used[_FIRSTS] + self.state.used[_MARKS])

    def make_room(self) -> None:
        """Before a call of `tally`: room in both tables for all that fits into the logs; those are emptied."""
        s = self.state
        count = int(s.used[_FIRSTS])
        if count + _LOG_ROWS > _LOAD * len(s.first_keys):
            kept = self._living_firsts()
            self._lay_out_firsts(*(column[kept] for column in (s.first_keys, s.first_times, s.first_loads)))
        s = self.state
        if int(s.used[_MARKS]) + _LOG_ROWS > _LOAD * len(s.mark_keys):
            kept = self._living_marks()
            self._lay_out_marks(*(column[kept] for column in (s.mark_keys, s.mark_blocks, s.present, s.watching)))

    def _living_firsts(self) -> npt.NDArray[np.bool_]:
        """Which slots an event that may still come can find."""
        s = self.state
        memory = np.where(s.first_keys & 1, self.memories.orders, self.memories.audience)
        living: npt.NDArray[np.bool_] = s.first_times + memory + self._retain >= self._watermark
        living &= s.first_keys != 0
        return living

    def _living_marks(self) -> npt.NDArray[np.bool_]:
        """Which slots an event that may still come can find."""
        s = self.state
        living: npt.NDArray[np.bool_] = (s.mark_blocks + 1) * _BLOCK_MS + self._retain > self._watermark
        living &= s.mark_keys != 0
        return living

    def _lay_out_firsts(self, keys: Int64s, *columns: Int64s) -> None:
        found = _laid_out(keys, *columns)
        self.state = self.state._replace(**dict(zip(_FIRST_COLUMNS, found, strict=True)))
        self.state.used[_FIRSTS] = len(keys)

    def _lay_out_marks(self, keys: Int64s, *columns: Int64s) -> None:
        found = _laid_out(keys, *columns)
        self.state = self.state._replace(**dict(zip(_MARK_COLUMNS, found, strict=True)))
        self.state.used[_MARKS] = len(keys)

    def note(self) -> None:
        """After a call of `tally`: keep what it logged for the next delta."""
        s = self.state
        if self._is_logged:
            for number, rows, place in ((_FIRSTS, s.first_log, FIRSTS_LOGGED), (_MARKS, s.mark_log, MARKS_LOGGED)):
                if s.used[place]:
                    self._fresh.append((number, rows[: s.used[place]].copy()))
        s.used[FIRSTS_LOGGED] = s.used[MARKS_LOGGED] = 0

    def expire(self, watermark: int) -> None:
        """Every event that comes from now on is at most `retain_ms` behind `watermark`."""
        self._watermark = max(self._watermark, watermark)

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        self._fresh, self._is_logged = [], True
        s = self.state
        kept = self._living_firsts()
        firsts = np.stack([column[kept] for column in (s.first_keys, s.first_times, s.first_loads)], axis=1)
        kept = self._living_marks()
        marks = np.stack([column[kept] for column in (s.mark_keys, s.mark_blocks, s.present, s.watching)], axis=1)
        return pack({"format": _FORMAT, "watermark": self._watermark, "firsts": firsts, "marks": marks})

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        if not self._is_logged:
            return self.snapshot()
        if not self._fresh:
            return b""
        fresh, self._fresh = self._fresh, []
        values: dict[str, Any] = {"format": _FORMAT, "watermark": self._watermark}
        for name, number, width in (("firsts", _FIRSTS, 3), ("marks", _MARKS, 4)):
            parts = [rows for which, rows in fresh if which == number]
            values[name] = np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.int64)
        return pack(values)

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`.

        Raises:
            ValueError: the state is of another format.
        """
        self._start_empty()
        values = [unpack(blob) for blob in (snapshot, *deltas) if blob]
        for value in values:
            if value["format"] != _FORMAT:
                raise ValueError(f"state of live rooms of format {value['format']}; this version reads {_FORMAT}")
        if values:
            self._watermark = max(value["watermark"] for value in values)
            self._lay_out_firsts(*_last(np.concatenate([value["firsts"] for value in values])))
            self._lay_out_marks(*_last(np.concatenate([value["marks"] for value in values])))
        self._is_logged = True


def _last(rows: Int64s) -> tuple[Int64s, ...]:
    """The columns of the last row of each key (the first column)."""
    _, places = np.unique(rows[::-1, 0], return_index=True)
    return tuple(np.ascontiguousarray(column) for column in rows[::-1][places].T)


def _laid_out(keys: Int64s, *columns: Int64s) -> tuple[Int64s, ...]:
    """A table of these keys with room for as many again, and for what a log may bring."""
    size = _SMALLEST
    while 2 * len(keys) + _LOG_ROWS > _LOAD * size:
        size *= 2
    held, places = np.zeros(size, dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
    _place(keys, held, places)
    tables = [held]
    for column in columns:
        fresh = np.zeros(size, dtype=np.int64)
        fresh[places] = column
        tables.append(fresh)
    return tuple(tables)


@compiled
def _place(keys: Int64s, into: Int64s, places: Int64s) -> None:
    """Put keys into an empty table and say where they are."""
    for i in range(len(keys)):
        at = slot_of(into, keys[i])
        into[at], places[i] = keys[i], at
