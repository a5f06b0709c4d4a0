"""The chains of one funnel and one user shard, right whatever the order in which events come.

Events below the *floor* (watermark − retain) will never come any more. An entry below it is fixed, and so is its
step 1; above it a still earlier entry or a later step 1 may come and take a chain's place. So whenever an event of a
pair (user, held value) comes, the pair's chains are followed anew from what is kept: the chains, and the events that
may yet count elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from flows.funnel_events import EVENT, Events, FirstEvents
from flows.funnel_steps import (
    Chains,
    Keys,
    Mask,
    carry,
    chain_dtype,
    entering,
    follow,
    latest_at,
    slots,
    slots_of_users,
    unanchored,
)
from flows.funnel_values import Combinations
from flows.kernel import Persistent
from flows.keyed_rows import KeyedRows, among, distinct
from flows.time_index import NEVER, TimeIndex
from schemas.funnels import BUCKET_MS, Funnel

BEFORE_ALL: Final = -(1 << 62)
_PRUNE_EVERY_MS: Final = 300_000
_ENTRY: Final = np.dtype([("pair", "u8"), ("entry", "i8")])
_RECENT: Final = np.dtype([("user", "u8"), ("pair", "u8"), ("entry", "i8")])


class FunnelChains:
    """State of one funnel: step 1 times, chains, remembered entries, events that wait."""

    def __init__(self, funnel: Funnel, combinations: Combinations, retain_ms: int) -> None:
        self.funnel = funnel
        self.floor = BEFORE_ALL
        self._combinations = combinations
        self._retain = retain_ms
        self._pruned = BEFORE_ALL
        self._anchor_key = "user" if funnel.hold_from == 2 else "pair"
        self._anchors = TimeIndex(funnel.enter_within_ms, combinations.rank)
        self._chains = KeyedRows(chain_dtype(funnel), "slot")
        self._waiting = KeyedRows(EVENT, "pair")  # events that no chain has, or that may yet belong to another
        self._entries = KeyedRows(_ENTRY, "pair")  # every entry that is remembered, with a chain or without
        self._recent = KeyedRows(_RECENT, "user")  # entries at or above the floor: what a late step 1 may reach
        self._latest_entry = BEFORE_ALL

    def fold(self, first: FirstEvents, later: Events) -> tuple[Chains, Chains]:
        """Take in events (any order): the chains of the pairs concerned before and after, sorted by pair and entry."""
        self._anchors.add(getattr(first, self._anchor_key), first.time, first.label)
        later = self._without_known_entries(later)
        reached = self._reached_by_late(first)
        users = np.concatenate((later["user"], reached["user"]))
        pairs = np.concatenate((later["pair"], reached["pair"]))
        return self._follow_pairs(users, pairs, later)

    def advance(self, watermark: int) -> None:
        """Nothing older than `watermark` − retain will come: forget what only such events could change."""
        self.floor = max(self.floor, watermark - self._retain)
        if self.floor - self._pruned < _PRUNE_EVERY_MS:
            return
        self._pruned = floor = self.floor
        waiting = self._waiting.all()
        overdue = waiting[waiting["time"] < floor]
        self._follow_pairs(overdue["user"], overdue["pair"], overdue[:0])
        self._anchors.prune(floor)
        mature = self.funnel.matures_after_ms + BUCKET_MS
        self._chains.prune(
            lambda c: np.where(c["anchor"] == NEVER, c["entry"], c["anchor"] // BUCKET_MS * BUCKET_MS + mature) >= floor
        )
        self._entries.prune(lambda e: e["entry"] + self.funnel.remember_ms >= floor)
        self._recent.prune(lambda e: e["entry"] >= floor)

    def of_users(self, users: Keys) -> Chains:
        """All chains of these users that have a step 1, in no order."""
        chains = self._chains.find_between(*slots_of_users(users))
        return chains[(chains["anchor"] != NEVER) & among(chains["user"], distinct(users))]

    def labels(self) -> Keys:
        """Labels of dimension values in use."""
        chains, waiting = self._chains.all(), self._waiting.all()
        parts = (self._anchors.labels(), chains["label"], chains["anchor_label"], waiting["label"])
        return distinct(np.concatenate(parts))

    def _without_known_entries(self, events: Events) -> Events:
        """Leave out step 2 events that cannot begin a chain, whatever comes: the pair has an earlier entry."""
        is_entry = events["step"] == 2
        views = events[is_entry]
        if not len(views):
            return events
        known = _by_pair(self._entries.find(distinct(views["pair"])))
        times, settled = views["time"], self.floor + self.funnel.remember_ms
        if len(known):
            owner = latest_at(known["pair"], known["entry"], views["pair"], times - 1)  # at equal times the rank decides
            until = np.minimum(known["entry"][owner] + self.funnel.remember_ms, settled)
            views = views[(owner < 0) | (times > until)]
        views = views[np.lexsort((views["time"], views["pair"]))]
        begins = np.append(True, views["pair"][1:] != views["pair"][:-1])[: len(views)]
        earliest = views["time"][begins][np.cumsum(begins) - 1]
        views = views[(views["time"] == earliest) | (views["time"] > settled)]
        return np.concatenate((views, events[~is_entry]))

    def _reached_by_late(self, first: FirstEvents) -> npt.NDArray[np.void]:
        """Recent entries at or after one of these step 1 events of their user: it may be a later step 1 for them."""
        first = first.take(first.time <= self._latest_entry)
        entries = self._recent.find(distinct(first.user)) if len(first.user) else self._recent.all()[:0]
        if not len(entries):
            return entries
        first = first.take(among(first.user, distinct(entries["user"])))
        first = first.take(np.lexsort((first.time, first.user)))
        return entries[latest_at(first.user, first.time, entries["user"], entries["entry"]) >= 0]

    def _follow_pairs(self, users: Keys, pairs: Keys, new: Events) -> tuple[Chains, Chains]:
        """Follow the chains of `pairs` (of `users`, several times perhaps) anew, with events `new` of theirs."""
        if not len(pairs):
            nothing = np.empty(0, dtype=self._chains.dtype)
            return nothing, nothing
        old = _by_pair(self._chains.take(distinct(slots(users, pairs))))
        waited = self._waiting.take(distinct(pairs))
        entering, waits_to_enter = new["step"] == 2, waited["step"] == 2
        chains, idle = self._enter(old, waited[waits_to_enter], new[entering])
        open_ = np.flatnonzero(chains["entry"] >= self.floor)
        anchor, label = self._anchors.latest(chains[self._anchor_key][open_], chains["entry"][open_])
        chains["anchor"][open_], chains["anchor_label"][open_] = anchor, label
        waited = waited[~waits_to_enter]
        before, _ = follow(self.funnel, old, waited)
        events = np.concatenate((waited, new[~entering]))
        after, counted = follow(self.funnel, chains, events)
        safe = counted & self._is_safe(events)
        stored = after if safe.sum() == counted.sum() else follow(self.funnel, chains, events[safe])[0]
        self._chains.put(stored[(stored["anchor"] != NEVER) | (stored["entry"] >= self.floor)])
        self._waiting.put(np.concatenate((idle, events[~safe & (events["time"] >= self.floor)])))
        return before, after

    def _is_safe(self, events: Events) -> Mask:
        """Which events, if they count for a chain, count for any chain that could still take that one's place."""
        if self.funnel.exclusions:  # one may still come before them
            safe: Mask = events["time"] < self.floor
        else:
            safe = events["time"] <= self.floor + self.funnel.finish_within_ms
        return safe

    def _enter(self, old: Chains, waited: Events, new: Events) -> tuple[Chains, Events]:
        """Chains after the step 2 events `new`, sorted by pair and entry, and the step 2 events to keep waiting."""
        settled = self.floor + self.funnel.remember_ms
        pairs = distinct(new["pair"])
        if not len(pairs):
            return old.copy(), waited[waited["time"] > settled]
        asked = among(waited["pair"], pairs)
        views = np.concatenate((waited[asked], new))
        mine = among(old["pair"], pairs)
        known = self._entries.take(pairs)
        if len(old):
            held = latest_at(old["pair"], old["entry"], known["pair"], known["entry"])
            known = known[(held < 0) | (old["entry"][held] != known["entry"])]
        candidates = np.concatenate(
            (
                old[mine],
                unanchored(self.funnel, views["user"], views["pair"], views["time"], views["label"]),
                unanchored(self.funnel, known["pair"], known["pair"], known["entry"], known["pair"]),
            )
        )
        of_old, of_view = int(mine.sum()), int(mine.sum()) + len(views)
        source = np.arange(len(candidates))
        rank = np.zeros(len(candidates), dtype=np.uint64)
        rank[:of_view] = self._combinations.rank(candidates["label"][:of_view])
        order = np.lexsort((rank, candidates["entry"], candidates["pair"]))
        candidates, source = candidates[order], source[order]
        begins = entering(candidates["pair"], candidates["entry"], self.funnel.remember_ms)
        chains = candidates[begins]
        carry(chains, candidates[~begins & (source < of_old)])
        self._remember(chains, candidates[begins & (source >= of_old) & (source < of_view)])
        idle = views[source[~begins & (source >= of_old) & (source < of_view)] - of_old]
        idle = np.concatenate((waited[~asked], idle))
        chains = chains[source[begins] < of_view]
        if not mine.all():
            chains = _by_pair(np.concatenate((old[~mine], chains)))
        return chains, idle[idle["time"] > settled]

    def _remember(self, chains: Chains, begun: Chains) -> None:
        """Keep the entries of `chains`; those of `begun` have just come."""
        entries = np.empty(len(chains), dtype=_ENTRY)
        entries["pair"], entries["entry"] = chains["pair"], chains["entry"]
        self._entries.put(entries)
        self._note_recent(begun)

    def _note_recent(self, chains: Chains) -> None:
        if len(chains):
            recent = np.empty(len(chains), dtype=_RECENT)
            recent["user"], recent["pair"], recent["entry"] = chains["user"], chains["pair"], chains["entry"]
            self._recent.put(recent)
            self._latest_entry = max(self._latest_entry, int(chains["entry"].max()))

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        return self._pack([part.snapshot() for part in self._parts()])

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        blobs = [part.delta() for part in self._parts()]
        return self._pack(blobs) if any(blobs) else b""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        blobs = [msgspec.msgpack.decode(b, type=tuple[int, list[bytes]]) for b in (snapshot, *deltas) if b]
        self.floor = blobs[-1][0] if blobs else BEFORE_ALL
        self._pruned = BEFORE_ALL
        for index, part in enumerate(self._parts()):
            part.restore(b"", [parts[index] for _, parts in blobs])
        self._recent, self._latest_entry = KeyedRows(_RECENT, "user"), BEFORE_ALL
        chains = self._chains.all()
        self._note_recent(chains[chains["entry"] >= self.floor])

    def _pack(self, blobs: list[bytes]) -> bytes:
        return msgspec.msgpack.encode((self.floor, blobs))

    def _parts(self) -> tuple[Persistent, ...]:
        return self._anchors, self._chains, self._waiting, self._entries


def _by_pair(rows: Chains) -> Chains:
    """Chains or entries sorted by pair and entry."""
    return rows[np.lexsort((rows["entry"], rows["pair"]))]
