"""The chains of one funnel and one user shard, right whatever the order in which events come.

Events below the *floor* (watermark − retain) will never come any more. An entry below it is fixed, and so is its
step 1; above it a still earlier entry or a later step 1 may come and take a chain's place. So whenever an event of a
pair (user, held value) comes, the pair's chains are followed anew from what is kept: the chains, and the events that
may yet count elsewhere (`flows.funnel_follow`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from flows import funnel_pairs as fp
from flows.funnel_counts import Changes
from flows.funnel_events import FirstEvents
from flows.funnel_store import laid_out, nothing, pool, rows_of, standing, table, with_steps
from flows.funnel_tally import follow, recount_users
from flows.funnel_values import Combinations, ascending
from schemas.funnels import Funnel

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Rows = tuple[Int64s, Int64s, Int64s]  # of chains, events, entries

BEFORE_ALL: Final = -(1 << 62)
_FORGET_EVERY_MS: Final = 1_800_000
_SWEEP_MS: Final = 600_000  # of event time, in which all step 1 times are looked at
_OUT: Final = 1 << 15
_BLOCK: Final = 1 << 14
_STEPS: Final = 1 << 12  # rows of chains' steps that there is room for when pairs are followed


class ChainsState(msgspec.Struct, frozen=True, array_like=True):
    """State, or what replaces it for some pairs. Matrices as bytes, which are not copied: they may be most of a GB."""

    floor: int
    pairs: memoryview  # the pairs that this replaces
    anchors: memoryview
    chains: memoryview  # `LATER` says which of the rows of `steps`
    steps: memoryview
    events: memoryview
    entries: memoryview


def _rules(funnel: Funnel) -> fp.Rules:
    later = range(3, len(funnel.steps) + 1)
    units = {unit: number for number, unit in enumerate(funnel.units)}
    return fp.Rules(
        enter_within=funnel.enter_within_ms,
        finish_within=funnel.finish_within_ms,
        remember=funnel.remember_ms,
        later=len(later),
        needed=np.array([funnel.needed(step) - 3 for step in later], dtype=np.int64),
        excludes=bool(funnel.exclusions),
        by_pair=funnel.hold_from == 1,
        user_unit=units.get("user", -1),
        pair_unit=units.get(funnel.pair_unit, -1),
        pair_by_anchor=funnel.hold_from == 1,
    )


class FunnelChains:
    """State of one funnel: step 1 times, chains, remembered entries, events that wait."""

    def __init__(self, funnel: Funnel, combinations: Combinations, retain_ms: int) -> None:
        self.funnel = funnel
        self.floor = BEFORE_ALL
        self._combinations = combinations
        self._retain = retain_ms
        self._rules = _rules(funnel)
        self._steps = _STEPS
        self._out = fp.Out(*(np.zeros(_OUT, dtype=np.int64) for _ in fp.Out._fields))
        self._forget_at = BEFORE_ALL
        self._oldest = 1 << 62  # the earliest event since it was last forgotten
        self._oldest_first = 1 << 62  # the earliest step 1 event
        self._changed: list[Int64s] | None = None  # pairs; None: nobody has asked for a snapshot yet
        self._new_anchors: list[Int64s] = []
        self._state, self._swept = nothing(self._widths()), 0
        self._load(*(np.zeros((0, width), dtype=np.int64) for width in self._widths()[1:]))
        self._load_anchors(np.zeros((0, fp.BEFORE), dtype=np.int64))

    def _widths(self) -> tuple[int, int, int, int, int]:
        steps = max(1, fp.STEP_COLUMNS * self._rules.later)
        return fp.BEFORE + 1, fp.CHAIN_COLUMNS, steps, fp.E_NEXT + 1, fp.R_NEXT + 1

    def fold(self, first: FirstEvents, later: Int64s) -> list[Changes]:
        """Take in events: what changes in the rows."""
        self._make_room(len(first.time), len(later))
        self._oldest_first = int(first.time.min(initial=self._oldest_first))
        for times in (first.time, later[:, fp.E_TIME]):
            self._oldest = int(times.min(initial=self._oldest))
        values = self._combinations.values()
        s = self._state
        fp.add_anchors(s, self._rules, values, first.user, first.pair, first.time, first.label)
        fp.add_events(s, self._rules, self.floor, later)
        if self._changed is not None and len(first.time):
            keys = first.pair if self._rules.by_pair else first.user
            self._new_anchors.append(np.stack((keys, first.time, first.label), axis=1))
        self._note_touched()
        return self._follow(values)

    def _follow(self, values: fp.Values) -> list[Changes]:
        """Follow the touched pairs."""
        done, found = 0, []
        used = self._state.used
        while done < used[fp.N_TOUCHED]:
            start = done
            self._make_room_for_firsts(len(self._out.cell))
            s = self._state
            self._state = s._replace(steps=pool(s.steps, s.used[fp.N_STEPS] + self._steps))
            done = follow(self._state, self._rules, values, self.floor, self._out, start)
            if used[fp.N_OUT]:
                found.append(Changes(*(column[: used[fp.N_OUT]].copy() for column in self._out)))
                used[fp.N_OUT] = 0
            elif done == start:  # one pair alone needs more
                self._out = fp.Out(*(np.zeros(2 * len(column), dtype=np.int64) for column in self._out))
                self._steps *= 2
        used[fp.N_TOUCHED] = 0
        return found

    def advance(self, watermark: int) -> None:
        """Nothing older than `watermark` − retain will come: now and then forget what only such events could change."""
        floor, self.floor = self.floor, max(self.floor, watermark - self._retain)
        if self._oldest_first < self.floor:
            self._sweep(self.floor - floor)
        if self.floor < self._forget_at:
            return
        # Shards take turns, so that not all of them pause at once: the first user's hash tells their turn.
        turn = int(self._state.anchors[0, fp.KEY]) % 16 * _FORGET_EVERY_MS // 16
        self._forget_at = (self.floor // _FORGET_EVERY_MS + 1) * _FORGET_EVERY_MS + turn
        if self._oldest < self.floor:
            self._forget()
            self._oldest = self.floor

    def _sweep(self, passed: int) -> None:
        """Free step 1 times that are too old: of as many keys as is their turn after so many ms of event time."""
        s = self._state
        slots = len(s.anchor_keys)
        end = min(slots, self._swept + slots * min(passed, _SWEEP_MS) // _SWEEP_MS)
        fp.sweep_anchors(s, self.floor, self.funnel.enter_within_ms, min(self._swept, end), end)
        self._swept = end if end < slots else 0
        if s.used[fp.N_EMPTY] > max(_BLOCK, s.used[fp.N_ANCHOR_KEYS] // 2):
            held = np.flatnonzero((s.anchor_keys != 0) & (s.anchor_heads >= 0))
            keys, heads = laid_out(2 * len(held), held, s.anchor_keys, s.anchor_heads)
            s.used[fp.N_ANCHOR_KEYS], s.used[fp.N_EMPTY] = len(held), 0
            self._state, self._swept = s._replace(anchor_keys=keys, anchor_heads=heads), 0

    def _forget(self) -> None:
        s, floor = self._state, self.floor
        fp.touch_overdue(s, floor)
        self._note_touched()
        self._follow(self._combinations.values())  # what counts has been counted: no rows change
        steps, (chains, events, entries) = self._state.steps, self._used()
        mature = chains[:, fp.ANCHOR] // fp.BUCKET * fp.BUCKET + fp.BUCKET + self.funnel.matures_after_ms
        until = np.where(chains[:, fp.ANCHOR] == fp.NEVER, chains[:, fp.ENTRY], mature)
        remembered = entries[:, fp.R_ENTRY] + self.funnel.remember_ms
        pools, due = (chains, events, entries), (until >= floor, events[:, fp.E_TIME] >= floor, remembered >= floor)
        kept = [(rows[:, 0] != fp.DEAD) & still for rows, still in zip(pools, due, strict=True)]
        needed = sum(np.count_nonzero(living) * rows.shape[1] for rows, living in zip(pools, kept, strict=True))
        needed += np.count_nonzero(kept[0] & (chains[:, fp.LATER] >= 0)) * steps.shape[1]
        # Laying out anew takes as long as there is state: not for little.
        if 4 * needed <= 3 * (sum(rows.size for rows in pools) + int(s.used[fp.N_STEPS]) * steps.shape[1]):
            chains, events, entries = (rows[living] for rows, living in zip(pools, kept, strict=True))
            self._load(*with_steps(chains, steps), events, entries)

    def recount(self) -> None:
        """Codes of dimension values have changed."""
        s = self._state
        small = np.zeros((2, _BLOCK), dtype=np.int64)
        s.used[fp.N_FIRSTS] = 0
        self._state = s._replace(first_keys=small[0], first_scores=small[1])
        many = 1 + self._rules.later
        values = self._combinations.values()
        for begin in range(0, int(s.used[fp.N_CHAINS]) if self._rules.user_unit >= 0 else 0, _BLOCK):
            end = min(begin + _BLOCK, int(s.used[fp.N_CHAINS]))
            self._make_room_for_firsts((end - begin) * many * values.codes.shape[1])
            recount_users(self._state, self._rules, values, begin, end)

    def labels(self) -> Keys:
        """Labels of dimension values in use, ascending."""
        chains, events, _ = self._rows()
        anchors = self._state.anchors[: self._state.used[fp.N_ANCHORS]]
        held = anchors[:, fp.LABEL][anchors[:, fp.KEY] != fp.DEAD]
        columns = held, chains[:, fp.ENTRY_LABEL], chains[:, fp.LATE_LABEL], events[:, fp.E_LABEL]
        return ascending(np.concatenate([ascending(column.view(np.uint64)) for column in columns]))

    def _used(self) -> Rows:
        """The rows of chains, events and entries, dead ones among them."""
        s = self._state
        return s.chains[: s.used[fp.N_CHAINS]], s.events[: s.used[fp.N_EVENTS]], s.entries[: s.used[fp.N_ENTRIES]]

    def _rows(self) -> Rows:
        """The living rows of chains, events and entries."""
        chains, events, entries = (rows[rows[:, 0] != fp.DEAD] for rows in self._used())
        return chains, events, entries

    def _load(self, chains: Int64s, steps: Int64s, events: Int64s, entries: Int64s) -> None:
        """Lay out the pools and tables of pairs anew with these rows; `steps` are those of `chains`."""
        old, s = self._state, nothing(self._widths())
        for place in (fp.N_ANCHORS, fp.N_ANCHOR_KEYS, fp.FREE_ANCHOR, fp.N_EMPTY):
            s.used[place] = old.used[place]
        s = s._replace(anchors=old.anchors, anchor_keys=old.anchor_keys, anchor_heads=old.anchor_heads)
        _, many = np.unique(chains[:, fp.PAIR], return_counts=True)
        s.used[fp.MOST_CHAINS], s.used[fp.N_CHAINS], s.used[fp.N_STEPS] = many.max(initial=0), len(chains), len(steps)
        s = s._replace(chains=chains) if len(chains) else s
        self._state = s._replace(steps=steps) if len(steps) else s
        self._make_room_for_keys(0, len(chains), len(chains) + len(events) + len(entries))
        fp.link_chains(self._state, len(chains))
        self._make_room(0, len(events))
        # Before the entries are known, so that none of the events is left out.
        fp.add_events(self._state, self._rules, self.floor, events[np.argsort(events[:, fp.E_TIME], kind="stable")])
        self._state = s = self._state._replace(entries=pool(self._state.entries, len(entries)))
        fp.add_entries(s, entries)
        s.heads[:, fp.TOUCHED] = 0
        s.used[fp.N_TOUCHED] = 0
        self.recount()

    def _load_anchors(self, anchors: Int64s) -> None:
        """Take in step 1 times where there are none."""
        self._oldest_first = int(anchors[:, fp.TIME].min(initial=1 << 62))
        self._make_room(len(anchors), 0)
        fp.link_anchors(self._state, self._combinations.values(), anchors, np.argsort(anchors[:, fp.TIME]))

    def _make_room(self, anchors: int, events: int) -> None:
        """Let pools and tables hold so many more step 1 times, and what so many more events may begin."""
        begun = events + int(self._state.used[fp.N_VIEWS])
        self._make_room_for_keys(anchors, begun, events)
        s, used = self._state, self._state.used
        waiting = pool(s.events, used[fp.N_EVENTS] + events)
        self._state = s._replace(
            anchors=pool(s.anchors, used[fp.N_ANCHORS] + anchors),
            chains=pool(s.chains, used[fp.N_CHAINS] + begun),
            events=waiting,
            entries=pool(s.entries, used[fp.N_ENTRIES] + begun),
            touched=pool(s.touched, len(s.pair_keys)),
            scratch=pool(s.scratch, len(waiting)),
            old=pool(s.old, used[fp.MOST_CHAINS] + 1),
            mine=pool(s.mine, used[fp.MOST_CHAINS] + begun + 1),
        )

    def _make_room_for_keys(self, anchors: int, users: int, pairs: int) -> None:
        s, used = self._state, self._state.used
        anchor_keys, anchor_heads = table(used[fp.N_ANCHOR_KEYS] + anchors, s.anchor_keys, s.anchor_heads)
        user_keys, user_heads, user_latest = table(used[fp.N_USERS] + users, s.user_keys, s.user_heads, s.user_latest)
        pair_keys, heads = table(used[fp.N_PAIRS] + pairs, s.pair_keys, s.heads)
        self._state = s._replace(
            anchor_keys=anchor_keys, anchor_heads=anchor_heads, user_keys=user_keys, user_heads=user_heads,
            user_latest=user_latest, pair_keys=pair_keys, heads=heads,
        )  # fmt: skip

    def _make_room_for_firsts(self, more: int) -> None:
        s = self._state
        keys, scores = table(s.used[fp.N_FIRSTS] + more, s.first_keys, s.first_scores)
        self._state = s._replace(first_keys=keys, first_scores=scores)

    def _note_touched(self) -> None:
        if self._changed is not None:
            self._changed.append(self._state.pair_keys[self._state.touched[: self._state.used[fp.N_TOUCHED]]])

    def snapshot(self) -> ChainsState:
        """Everything; starts a new delta."""
        self._changed, self._new_anchors = [], []
        s = self._state
        anchors = np.empty((np.count_nonzero(s.anchors[: s.used[fp.N_ANCHORS], fp.KEY]), fp.BEFORE), dtype=np.int64)
        fp.copy_anchors(s, anchors)
        chains, events, entries = self._rows()
        return self._pack(np.zeros(0, dtype=np.int64), anchors, *with_steps(chains, s.steps), events, entries)

    def delta(self) -> ChainsState | None:
        """New step 1 times, and all rows of the pairs that were followed; None when nothing changed."""
        if self._changed is None:
            return self.snapshot()
        if not self._changed:
            return None
        pairs = ascending(np.concatenate(self._changed))
        anchors = np.concatenate([*self._new_anchors, np.zeros((0, fp.BEFORE), dtype=np.int64)])
        self._changed, self._new_anchors = [], []
        if not len(pairs) and not len(anchors):
            return None
        chains, events, entries = rows_of(self._state, pairs)
        return self._pack(pairs, anchors, *with_steps(chains, self._state.steps), events, entries)

    def restore(self, states: Sequence[ChainsState]) -> None:
        """Become the chains that wrote these, a snapshot and the deltas after it."""
        states = states or [ChainsState(BEFORE_ALL, *(memoryview(b""),) * 6)]
        self.floor, self._forget_at, self._oldest, self._swept = states[-1].floor, BEFORE_ALL, BEFORE_ALL, 0
        _, of_chains, of_steps, of_events, of_entries = self._widths()
        replaced = [_numbers(state.pairs) for state in states]
        chains = [_numbers(state.chains, of_chains).copy() for state in states]
        steps = [_numbers(state.steps, of_steps) for state in states]
        for mine, before in zip(chains, np.cumsum([0, *map(len, steps[:-1])]).tolist(), strict=True):
            mine[mine[:, fp.LATER] >= 0, fp.LATER] += before
        self._state = nothing(self._widths())
        self._load(
            *with_steps(standing(chains, replaced), np.concatenate(steps)),
            standing([_numbers(state.events, of_events) for state in states], replaced),
            standing([_numbers(state.entries, of_entries) for state in states], replaced),
        )
        self._load_anchors(np.concatenate([_numbers(state.anchors, fp.BEFORE) for state in states]))
        self._changed, self._new_anchors = [], []

    def _pack(self, *matrices: Int64s) -> ChainsState:
        return ChainsState(self.floor, *(matrix.reshape(-1).view(np.uint8).data for matrix in matrices))


def _numbers(blob: memoryview, *width: int) -> Int64s:
    return np.frombuffer(blob, dtype="<i8").reshape(-1, *width)
