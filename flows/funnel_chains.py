"""The chains of one funnel and one user shard, right whatever the order in which events come.

Events below the *floor* (watermark − retain) will never come any more. An entry below it is fixed, and so is its
step 1; above it a still earlier entry or a later step 1 may come and take a chain's place. So whenever an event of a
pair (user, held value) comes, the pair's chains are followed anew from what is kept: the chains, and the events that
may yet count elsewhere (`flows.funnel_follow`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from flows import funnel_pairs as fp
from flows.funnel_counts import Changes
from flows.funnel_events import FirstEvents
from flows.funnel_store import nothing, pool, rows_of, standing, table
from flows.funnel_tally import follow, recount_users
from flows.funnel_values import Combinations
from schemas.funnels import Funnel

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Rows = tuple[Int64s, Int64s, Int64s, Int64s]  # of anchors, chains, events, entries

BEFORE_ALL: Final = -(1 << 62)
_FORGET_EVERY_MS: Final = 1_800_000
_OUT: Final = 1 << 15


class _Blob(msgspec.Struct, frozen=True, array_like=True):
    """State, or what replaces it for some pairs. Matrices as bytes."""

    floor: int
    pairs: bytes  # the pairs that this replaces
    anchors: bytes
    chains: bytes
    events: bytes
    entries: bytes


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
        self._width = fp.STEPS + 6 * self._rules.later
        self._out = fp.Out(*(np.zeros(_OUT, dtype=np.int64) for _ in fp.Out._fields))
        self._forget_at = BEFORE_ALL
        self._oldest = 1 << 62  # the earliest event since it was last forgotten
        self._changed: list[Int64s] | None = None  # pairs; None: nobody has asked for a snapshot yet
        self._new_anchors: list[Int64s] = []
        self._load(*(np.zeros((0, w), dtype=np.int64) for w in self._widths()))

    def _widths(self) -> tuple[int, int, int, int]:
        return fp.BEFORE + 1, self._width, fp.E_NEXT + 1, fp.R_NEXT + 1

    def fold(self, first: FirstEvents, later: Int64s) -> list[Changes]:
        """Take in events: what changes in the rows."""
        self._make_room(len(first.time), len(later))
        for times in (first.time, later[:, fp.E_TIME]):
            self._oldest = min(self._oldest, int(times.min(initial=self._oldest)))
        values = self._combinations.values()
        s = self._state
        fp.add_anchors(s, self._rules, values, first.user, first.pair, first.time, first.label)
        fp.add_events(s, self._rules, self.floor, later)
        if self._changed is not None and len(first.time):
            keys = first.pair if self._rules.by_pair else first.user
            self._new_anchors.append(np.stack((keys, first.time, first.label, np.zeros_like(keys)), axis=1))
        self._note_touched()
        return self._follow(values)

    def _follow(self, values: fp.Values) -> list[Changes]:
        """Follow the touched pairs."""
        done, found = 0, []
        used = self._state.used
        while done < used[fp.N_TOUCHED]:
            start = done
            self._make_room_for_firsts(len(self._out.cell))
            done = follow(self._state, self._rules, values, self.floor, self._out, start)
            if used[fp.N_OUT]:
                found.append(Changes(*(column[: used[fp.N_OUT]].copy() for column in self._out)))
                used[fp.N_OUT] = 0
            elif done == start:  # one pair alone needs more
                self._out = fp.Out(*(np.zeros(2 * len(column), dtype=np.int64) for column in self._out))
        used[fp.N_TOUCHED] = 0
        return found

    def advance(self, watermark: int) -> None:
        """Nothing older than `watermark` − retain will come: now and then forget what only such events could change."""
        self.floor = max(self.floor, watermark - self._retain)
        if self.floor < self._forget_at:
            return
        # Shards take turns, so that not all of them pause at once: the first user's hash tells their turn.
        turn = int(self._state.anchors[0, fp.KEY]) % 16 * _FORGET_EVERY_MS // 16
        self._forget_at = (self.floor // _FORGET_EVERY_MS + 1) * _FORGET_EVERY_MS + turn
        if self._oldest < self.floor:
            self._forget()
            self._oldest = self.floor

    def _forget(self) -> None:
        s, floor = self._state, self.floor
        fp.touch_overdue(s, floor)
        self._note_touched()
        self._follow(self._combinations.values())  # what counts has been counted: no rows change
        fp.mark_old_anchors(s, floor, self.funnel.enter_within_ms)
        anchors, chains, events, entries = self._rows()
        mature = chains[:, fp.ANCHOR] // fp.BUCKET * fp.BUCKET + fp.BUCKET + self.funnel.matures_after_ms
        until = np.where(chains[:, fp.ANCHOR] == fp.NEVER, chains[:, fp.ENTRY], mature)
        remembered = entries[:, fp.R_ENTRY] + self.funnel.remember_ms
        self._load(anchors, chains[until >= floor], events[events[:, fp.E_TIME] >= floor], entries[remembered >= floor])

    def recount(self) -> None:
        """Codes of dimension values have changed."""
        self._load(*self._rows())

    def labels(self) -> Keys:
        """Labels of dimension values in use."""
        anchors, chains, events, _ = self._rows()
        columns = anchors[:, fp.LABEL], chains[:, fp.ENTRY_LABEL], chains[:, fp.LATE_LABEL], events[:, fp.E_LABEL]
        return np.unique(np.concatenate(columns).view(np.uint64))

    def _rows(self) -> Rows:
        """The living rows of the four pools."""
        s = self._state
        used = (
            s.anchors[: s.used[fp.N_ANCHORS]],
            s.chains[: s.used[fp.N_CHAINS]],
            s.events[: s.used[fp.N_EVENTS]],
            s.entries[: s.used[fp.N_ENTRIES]],
        )
        anchors, chains, events, entries = (rows[rows[:, 0] != fp.DEAD] for rows in used)
        return anchors, chains, events, entries

    def _load(self, anchors: Int64s, chains: Int64s, events: Int64s, entries: Int64s) -> None:
        """Lay out pools and tables anew with these rows."""
        s = self._state = nothing(self._widths())
        _, many = np.unique(chains[:, fp.PAIR], return_counts=True)
        s.used[fp.MOST_CHAINS] = many.max(initial=0)
        self._make_room(len(anchors), len(chains) + len(events) + len(entries))
        s, values = self._state, self._combinations.values()
        fp.link_anchors(s, values, anchors[np.argsort(anchors[:, fp.TIME], kind="stable")])
        s.chains[: len(chains)] = chains
        s.used[fp.N_CHAINS] = len(chains)
        fp.link_chains(s, len(chains))
        # Before the entries are known, so that none of the events is left out.
        fp.add_events(s, self._rules, self.floor, events[np.argsort(events[:, fp.E_TIME], kind="stable")])
        fp.add_entries(s, entries)
        s.heads[:, fp.TOUCHED] = 0
        s.used[fp.N_TOUCHED] = 0
        if self._rules.user_unit >= 0:
            self._make_room_for_firsts(len(chains) * (1 + self._rules.later) * values.codes.shape[1])
            recount_users(self._state, self._rules, values, len(chains))

    def _make_room(self, anchors: int, events: int) -> None:
        """Let pools and tables hold so many more step 1 times, and what so many more events may begin."""
        s, used = self._state, self._state.used
        begun = events + int(used[fp.N_VIEWS])
        anchor_keys, anchor_heads = table(used[fp.N_ANCHOR_KEYS] + anchors, s.anchor_keys, s.anchor_heads)
        user_keys, user_heads, user_latest = table(used[fp.N_USERS] + begun, s.user_keys, s.user_heads, s.user_latest)
        pair_keys, heads = table(used[fp.N_PAIRS] + events, s.pair_keys, s.heads)
        waiting = pool(s.events, used[fp.N_EVENTS] + events)
        self._state = s._replace(
            anchors=pool(s.anchors, used[fp.N_ANCHORS] + anchors),
            anchor_keys=anchor_keys,
            anchor_heads=anchor_heads,
            chains=pool(s.chains, used[fp.N_CHAINS] + begun),
            user_keys=user_keys,
            user_heads=user_heads,
            user_latest=user_latest,
            events=waiting,
            entries=pool(s.entries, used[fp.N_ENTRIES] + begun),
            pair_keys=pair_keys,
            heads=heads,
            touched=pool(s.touched, len(pair_keys)),
            scratch=pool(s.scratch, len(waiting)),
            old=pool(s.old, used[fp.MOST_CHAINS] + 1),
            mine=pool(s.mine, used[fp.MOST_CHAINS] + begun + 1),
        )

    def _make_room_for_firsts(self, more: int) -> None:
        s = self._state
        keys, scores = table(s.used[fp.N_FIRSTS] + more, s.first_keys, s.first_scores)
        self._state = s._replace(first_keys=keys, first_scores=scores)

    def _note_touched(self) -> None:
        if self._changed is not None:
            self._changed.append(self._state.pair_keys[self._state.touched[: self._state.used[fp.N_TOUCHED]]])

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        self._changed, self._new_anchors = [], []
        return self._pack(np.zeros(0, dtype=np.int64), *self._rows())

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`: new step 1 times, and all rows of the pairs that were followed."""
        if self._changed is None:
            return self.snapshot()
        if not self._changed:
            return b""
        pairs = np.unique(np.concatenate(self._changed))
        anchors = np.concatenate([*self._new_anchors, np.zeros((0, fp.BEFORE + 1), dtype=np.int64)])
        self._changed, self._new_anchors = [], []
        if not len(pairs) and not len(anchors):
            return b""
        chains, events, entries = (rows_of(self._state, pairs, head) for head in (fp.CHAINS, fp.EVENTS, fp.ENTRIES))
        return self._pack(pairs, anchors, chains, events, entries)

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        blobs = [msgspec.msgpack.decode(blob, type=_Blob) for blob in (snapshot, *deltas) if blob]
        blobs = blobs or [_Blob(BEFORE_ALL, b"", b"", b"", b"", b"")]
        self.floor, self._forget_at, self._oldest = blobs[-1].floor, BEFORE_ALL, BEFORE_ALL
        of_anchors, of_chains, of_events, of_entries = self._widths()
        replaced = [np.frombuffer(blob.pairs, dtype="<i8") for blob in blobs]
        self._load(
            np.concatenate([_matrix(blob.anchors, of_anchors) for blob in blobs]),
            standing([_matrix(blob.chains, of_chains) for blob in blobs], replaced),
            standing([_matrix(blob.events, of_events) for blob in blobs], replaced),
            standing([_matrix(blob.entries, of_entries) for blob in blobs], replaced),
        )
        self._changed, self._new_anchors = [], []

    def _pack(self, pairs: Int64s, anchors: Int64s, chains: Int64s, events: Int64s, entries: Int64s) -> bytes:
        matrices = (pairs, anchors, chains, events, entries)
        return msgspec.msgpack.encode(_Blob(self.floor, *(matrix.tobytes() for matrix in matrices)))


def _matrix(blob: bytes, width: int) -> Int64s:
    return np.frombuffer(blob, dtype="<i8").reshape(-1, width).astype(np.int64)
