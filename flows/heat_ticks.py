"""Heat minute by minute: the one canonical order in which topics' figures move, whatever order events came in.

Heat follows a recurrence per topic and minute with events: heat ← heat · 2^(-gap/H) + the minute's weight, both fixed
by the set of events alone (the weight is an integer sum). So the state at the end of a minute is a function of the
events up to it, and floats are never summed in arrival order. An event for a minute already taken rewinds to a
checkpoint before it and takes the minutes again; rows that differ are given out again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.topic_columns import NEVER, NO_TIME, Codes, Floats, Int64s, Mask, TopicColumns, TopicSlots
from flows.topic_lifecycle import SETTLED_MINUTES, WINDOW_MINUTES, take_tick
from schemas.heat import HeatSpec

_CHECKPOINT_MINUTES: Final = 30
_DAY_MINUTES: Final = 1_440


class MinuteCounts(NamedTuple):
    """Sums of one minute: one place a topic, slots ascending."""

    slots: Int64s
    events: Int64s
    users: Int64s
    weight: Int64s  # fixed point, as of the minute's end
    first_ms: Int64s  # least event time


class TickRows(NamedTuple):
    """The rows of one tick: one place a topic, slots ascending."""

    minute: int
    slots: Int64s
    heat: Floats
    rank: Int64s  # 0: none
    events: Int64s
    users: Int64s
    growth: Floats
    stage: Codes


class HeatTicks:
    """State of one heat over all topics, and the minutes that may still change. Minutes are epoch minutes."""

    def __init__(self, spec: HeatSpec) -> None:
        self._spec = spec
        self._forget = spec.forget_days * _DAY_MINUTES
        self._decay = np.exp2(-np.arange(2 * self._forget + 1) / spec.half_life_minutes)  # by minutes gone
        self._decay[-1] = 0.0  # never warm
        self.slots = TopicSlots()
        self.state = TopicColumns.empty()
        self.head = NEVER  # last minute taken
        self.last_minute = NEVER  # last minute with an event
        self.records: dict[int, MinuteCounts] = {}
        self.dirty: Mask = np.zeros(0, dtype=np.bool_)  # by slot: its lifecycle row may have changed
        self.window_closed = False  # a ten-minute tick was taken since this was last set back
        self.born: list[int] = []  # slots of topics not known before, since this was last emptied
        self._history: dict[int, TickRows] = {}
        self._checkpoints = [(NEVER, TopicColumns.empty())]
        self._rewind_to: int | None = None  # least minute that changed after it was taken
        self._freed_day = 0

    def add(self, rows: pl.DataFrame) -> list[tuple[int, Int64s]]:
        """Add increments (one row a minute and topic). Returns the slots that changed, per minute.

        Raises:
            ValueError: an event of a minute that is no longer kept; admission should have called it late.
        """
        slots, born = self.slots.of(rows["topic"])
        self.born.extend(born)
        self._resize(len(self.slots))
        minutes = rows["minute"].to_numpy()
        order = np.lexsort((slots, minutes))
        minutes, slots = minutes[order], slots[order]
        columns = [rows[name].to_numpy()[order] for name in ("events", "users", "weight", "first_ms")]
        starts = np.flatnonzero(np.diff(minutes, prepend=minutes[0] - 1))
        changed = []
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(minutes)], strict=True):
            minute = int(minutes[start])
            if minute <= self._checkpoints[0][0]:
                raise ValueError(f"an event of minute {minute}; {self._checkpoints[0][0]} was closed for good")
            fresh = MinuteCounts(slots[start:stop], *(column[start:stop] for column in columns))
            known = self.records.get(minute)
            self.records[minute] = fresh if known is None else _sum(known, fresh)
            if minute <= self.head:
                self._rewind_to = min(minute, self._rewind_to if self._rewind_to is not None else minute)
                self.dirty[fresh.slots] = True
            changed.append((minute, fresh.slots))
        self.last_minute = max(self.last_minute, int(minutes[-1]))
        return changed

    def _resize(self, size: int) -> None:
        self.state.resize(size)
        if size > len(self.dirty):
            extra = max(size, 2 * len(self.dirty)) - len(self.dirty)
            self.dirty = np.concatenate((self.dirty, np.zeros(extra, dtype=np.bool_)))

    def advance(self, limit: int, horizon: int) -> list[TickRows]:
        """Take the minutes up to `limit`; forget what is only needed to change minutes up to `horizon`.

        `limit` is never beyond `last_minute` and never falls. Returns the rows of each minute taken, and those that
        differ in minutes taken again.
        """
        ticks: list[TickRows] = []
        if self._rewind_to is not None:
            ticks = self._retake(self._rewind_to)
            self._rewind_to = None
        ticks.extend(self._take_until(limit, horizon))
        self._forget_records(horizon)
        return ticks

    def _take_until(self, limit: int, horizon: int) -> Iterator[TickRows]:
        minutes = sorted(self.records)
        while self.head < limit:
            if self.head + 1 not in self.records and self._is_still():
                after = bisect_right(minutes, self.head)
                self.head = min(limit, minutes[after] - 1) if after < len(minutes) else limit
                self.state.recent[:] = 0
                continue
            yield self._take(self.head + 1)
            if self.head - self._checkpoints[-1][0] >= _CHECKPOINT_MINUTES:
                self._checkpoints.append((self.head, self.state.copy()))
                self._forget_records(horizon)

    def _is_still(self) -> bool:
        """No topic has a row until an event comes, and no tick would change a stage: the time between is skipped."""
        last = self.state.last[: self.state.size]
        if not len(last) or self.head - int(last.max()) < SETTLED_MINUTES:
            return not len(last) or int(last.max()) == NEVER
        return bool((self._heat(self.head)[0] < 1).all())

    def _retake(self, minute: int) -> list[TickRows]:
        """Take all minutes from before `minute` up to the head again; rows that differ from those given out."""
        head, dirty = self.head, self.dirty.copy()
        while self._checkpoints[-1][0] >= minute:
            self._checkpoints.pop()
        self._restart()
        changed = []
        history, self._history = self._history, {m: rows for m, rows in self._history.items() if m <= self.head}
        for rows in self._take_until(head, NEVER):
            before = history.get(rows.minute)
            if rows.minute >= minute:
                changed.append(rows if before is None else self._difference(before, rows))
        self.dirty, self.window_closed = dirty, True  # of lifecycles, only those of the late topics have changed
        return changed

    def _restart(self) -> None:
        """Go back to the newest checkpoint."""
        self.head, state = self._checkpoints[-1]
        self.state = state.copy()
        self._resize(len(self.slots))

    def _difference(self, before: TickRows, now: TickRows) -> TickRows:
        """Rows of `now` that `before` lacks or has otherwise, and those that are rows no more (without a rank)."""
        place = np.full(len(self.slots), -1, dtype=np.int64)
        place[before.slots] = np.arange(len(before.slots))
        at = place[now.slots]
        differs = at < 0
        both = np.flatnonzero(~differs)
        for old, new in zip(_columns(before)[1:], _columns(now)[1:], strict=True):
            was, is_now = old[at[both]], new[both]
            differs[both] |= (was != is_now) & ~(np.isnan(was) & np.isnan(is_now))
        gone = np.setdiff1d(before.slots, now.slots)
        none = np.zeros(len(gone), dtype=np.int64)
        heat, _ = self._heat(now.minute)
        lost = TickRows(now.minute, gone, heat[gone], none, none, none, self.state.growth[gone], self.state.stage[gone])
        return TickRows(
            now.minute, *(np.concatenate((a[differs], b)) for a, b in zip(_columns(now), _columns(lost), strict=True))
        )

    def _take(self, minute: int) -> TickRows:
        """The next minute in order: its events, its ten-minute tick if it ends one, its rows."""
        record = self.records.get(minute)
        if record is not None:
            self._absorb(self.state, record, minute)
        heat, known = self._heat(minute)
        if (minute + 1) % WINDOW_MINUTES == 0:
            changed = take_tick(self.state, minute // WINDOW_MINUTES, heat)
            self.dirty[: len(changed)] |= changed
            self.window_closed = True
        self.head = minute
        rows = self._rows(minute, record, heat, known)
        self._history[minute] = rows
        return rows

    def _absorb(self, state: TopicColumns, record: MinuteCounts, minute: int) -> None:
        """Add a minute's events to `state`, which has taken all minutes before it."""
        slots = record.slots
        forgotten = minute - state.last[slots] >= self._forget
        if forgotten.any():
            state.reset(slots[forgotten])
        weight = record.weight / self._spec.scale
        gap = np.minimum(minute - state.heat_minute[slots], 2 * self._forget)
        heat = state.heat[slots] * self._decay[gap] + weight
        peak = np.maximum(state.peak_heat[slots], heat)
        anchored = self._anchors(record.weight, gap)
        state.heat[slots[anchored]] = heat[anchored]
        state.heat_minute[slots[anchored]] = minute
        state.last[slots] = minute
        state.first_ms[slots] = np.minimum(state.first_ms[slots], record.first_ms)
        state.peak_heat[slots] = peak
        above = 2.0 * heat >= peak
        state.above_minute[slots[above]] = minute
        state.above_heat[slots[above]] = heat[above]
        state.weight_total[slots] += weight
        state.events_total[slots] += record.events
        state.window[slots] += record.events

    def _anchors(self, weight: Int64s, gap: Int64s) -> Mask:
        """Whether heat is written down at this minute: with weight, and in time for the table of decay.

        A known topic's next event comes before `forget` more minutes, so its gap stays under twice that.
        """
        return (weight > 0) | (gap >= self._forget)

    def _heat(self, minute: int) -> tuple[Floats, Mask]:
        """Heat at the end of `minute`, and whether the topic is known then; length `state.size`."""
        size = self.state.size
        known: Mask = minute - self.state.last[:size] < self._forget
        gap = np.minimum(minute - self.state.heat_minute[:size], 2 * self._forget)
        return np.where(known, self.state.heat[:size] * self._decay[gap], 0.0), known

    def _rows(self, minute: int, record: MinuteCounts | None, heat: Floats, known: Mask) -> TickRows:
        size = len(heat)
        rank = self._rank(heat, known)
        keep = heat >= 1.0
        if (minute + 1) % 60:
            keep &= rank > 0
        events, users = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        if record is not None:
            keep[record.slots] = True
            events[record.slots] = record.events
            users[record.slots] = record.users
        slots = np.flatnonzero(keep)
        growth, stage = self.state.growth[slots], self.state.stage[slots]
        return TickRows(minute, slots, heat[slots], rank[slots], events[slots], users[slots], growth, stage)

    def _rank(self, heat: Floats, known: Mask) -> Int64s:
        """1 for the hottest known topic; ties by name; 0 beyond the ranked ones."""
        ranked = self._spec.ranked
        places = np.flatnonzero(known)
        if len(places) > ranked:
            least = np.partition(heat[places], len(places) - ranked)[len(places) - ranked]
            places = places[heat[places] >= least]
        cold = -heat[places]
        order = np.argsort(cold)
        ordered = cold[order]
        if (ordered[1:] == ordered[:-1]).any():
            order = np.lexsort((self.slots.order()[places], cold))
        places = places[order[:ranked]]
        rank = np.zeros(len(heat), dtype=np.int64)
        rank[places] = np.arange(1, len(places) + 1)
        return rank

    def preview(self, changed: dict[int, Int64s]) -> list[TickRows]:
        """Rows as of now of minutes not taken yet, without ranks: topics with events there that changed then or before.

        `changed`: slots by minute.
        """
        state, ticks = self.state, []
        topics = np.unique(np.concatenate(list(changed.values())))
        heat, since = state.heat[topics], state.heat_minute[topics]
        last = state.last[topics]
        stirred = np.zeros(len(topics), dtype=np.bool_)
        for minute in sorted(minute for minute in self.records if minute > self.head):
            record = self.records[minute]
            if minute in changed:
                stirred |= np.isin(topics, changed[minute])
            places = np.minimum(np.searchsorted(record.slots, topics), len(record.slots) - 1)
            here = np.flatnonzero(record.slots[places] == topics)
            places, slots = places[here], topics[here]
            gap = np.minimum(minute - since[here], 2 * self._forget)
            before = np.where(minute - last[here] < self._forget, heat[here] * self._decay[gap], 0.0)
            now = before + record.weight[places] / self._spec.scale
            anchored = self._anchors(record.weight[places], gap)
            heat[here[anchored]], since[here[anchored]], last[here] = now[anchored], minute, minute
            out = stirred[here]
            slots, places, now = slots[out], places[out], now[out]
            known = minute - state.last[slots] < self._forget
            ticks.append(TickRows(
                minute, slots, now, np.zeros(len(slots), np.int64), record.events[places],
                record.users[places], np.where(known, state.growth[slots], np.nan),
                np.where(known, state.stage[slots], np.uint8(0)),
            ))  # fmt: skip
        return ticks

    def newborn(self) -> tuple[Int64s, Int64s]:
        """Topics of `born` that no minute taken has, and the time of their first event so far."""
        slots = np.unique(np.array(self.born, dtype=np.int64))
        slots = slots[self.state.last[slots] == NEVER]
        first = np.full(len(self.slots), NO_TIME)
        for minute, record in self.records.items():
            if minute > self.head:
                first[record.slots] = np.minimum(first[record.slots], record.first_ms)
        return slots, first[slots]

    def _forget_records(self, horizon: int) -> None:
        """Drop checkpoints but the newest that serves any change after `horizon`, and what lies before it."""
        oldest = self._checkpoints[0][0]
        while len(self._checkpoints) > 1 and self._checkpoints[1][0] <= horizon:
            del self._checkpoints[0]
        kept = self._checkpoints[0][0]
        if kept == oldest:
            return
        few = kept - oldest < len(self._history)
        for minute in range(oldest + 1, kept + 1) if few else [m for m in self._history if m <= kept]:
            self._history.pop(minute, None)
        for minute in range(oldest + 1, kept + 1) if few else [m for m in self.records if m <= kept]:
            self.records.pop(minute, None)

    def free_forgotten(self) -> None:
        """Once a day of event time: give up the slots of topics that no minute kept can bring back."""
        oldest = self._checkpoints[0][0]
        if oldest == NEVER or oldest // _DAY_MINUTES == self._freed_day:
            return
        self._freed_day = oldest // _DAY_MINUTES
        last = self.state.last[: self.state.size]
        gone = (last + self._forget <= oldest) & (last > NEVER) & ~self.dirty[: self.state.size]
        for record in self.records.values():
            gone[record.slots] = False
        slots = np.flatnonzero(gone)
        if len(slots):
            for state in (self.state, *(state for _, state in self._checkpoints)):
                state.reset(slots[slots < state.size])
            self.slots.release(slots.tolist())

    def pack(self) -> dict[str, Any]:
        """The oldest checkpoint and the minutes after it; the rest follows from them."""
        minute, state = self._checkpoints[0]
        counts = [self.records[m] for m in sorted(self.records)]
        columns = {
            name: np.concatenate([getattr(c, name) for c in counts]) if counts else np.zeros(0, np.int64)
            for name in MinuteCounts._fields
        }
        lengths = np.array([len(c.slots) for c in counts], dtype=np.int64)
        return {
            "names": self.slots.names, "head": self.head, "last_minute": self.last_minute, "checkpoint": minute,
            "size": state.size, "state": state.pack(), "minutes": np.array(sorted(self.records), dtype=np.int64),
            "lengths": lengths, "counts": columns, "dirty": self.dirty, "window_closed": self.window_closed,
            "freed_day": self._freed_day, "rewind_to": self._rewind_to, "born": self.born,
        }  # fmt: skip

    def unpack(self, value: dict[str, Any]) -> None:
        """Become what `pack` gave."""
        self.slots = TopicSlots(value["names"])
        self._checkpoints = [(value["checkpoint"], TopicColumns.unpack(value["size"], value["state"]))]
        ends = np.cumsum(value["lengths"])[:-1]
        parts = zip(*(np.split(value["counts"][name], ends) for name in MinuteCounts._fields), strict=True)
        minutes = value["minutes"].tolist()
        self.records = dict(zip(minutes, (MinuteCounts(*part) for part in parts), strict=False))
        self.last_minute = value["last_minute"]
        self._history = {}
        self.dirty = np.zeros(0, dtype=np.bool_)
        self._restart()
        self.advance(value["head"], NEVER)
        self.dirty, self.window_closed = value["dirty"], value["window_closed"]
        self._freed_day, self._rewind_to, self.born = value["freed_day"], value["rewind_to"], value["born"]
        if self._rewind_to is not None:  # what was given out is not known any more: all of it is given out again
            self._history = {m: rows for m, rows in self._history.items() if m < self._rewind_to}


def _columns(rows: TickRows) -> list[npt.NDArray[Any]]:
    return [rows.slots, rows.heat, rows.rank, rows.events, rows.users, rows.growth, rows.stage]


def _sum(known: MinuteCounts, fresh: MinuteCounts) -> MinuteCounts:
    """The sums of both; each has a slot at most once."""
    slots, place = np.unique(np.concatenate((known.slots, fresh.slots)), return_inverse=True)
    first, second = place[: len(known.slots)], place[len(known.slots) :]
    sums = []
    for old, new in zip(known[1:4], fresh[1:4], strict=True):
        total = np.zeros(len(slots), dtype=np.int64)
        total[first] = old
        total[second] += new
        sums.append(total)
    first_ms = np.full(len(slots), np.iinfo(np.int64).max)
    first_ms[first] = known.first_ms
    first_ms[second] = np.minimum(first_ms[second], fresh.first_ms)
    return MinuteCounts(slots, sums[0], sums[1], sums[2], first_ms)
