"""The chains of one funnel and one user shard, right whatever the order in which events come.

Events below the *floor* (watermark − retain) will never come any more. An entry below it is fixed, and so is its
step 1; above it a still earlier entry or a later step 1 may come and take a chain's place. So whenever an event of a
user comes, that user's chains are followed anew from what is kept: the chains, and the events that may yet count
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from flows.funnel_events import EVENT, Events
from flows.funnel_steps import Chains, Keys, carry, chain_dtype, entering, follow, latest_at, unanchored
from flows.funnel_values import Combinations
from flows.keyed_rows import KeyedRows
from flows.time_index import NEVER, TimeIndex
from flows.kernel import Persistent
from schemas.funnels import BUCKET_MS, Funnel

BEFORE_ALL: Final = -(1 << 62)
_PRUNE_EVERY_MS: Final = 300_000
_ENTRY: Final = np.dtype([("pair", "u8"), ("entry", "i8")])
_RECENT: Final = np.dtype([("user", "u8"), ("entry", "i8")])


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
        self._chains = KeyedRows(chain_dtype(funnel), "user")
        self._waiting = KeyedRows(EVENT, "user")  # events that no chain has, or that may yet belong to another
        self._entries = KeyedRows(_ENTRY, "pair")  # every entry that is remembered, with a chain or without
        self._recent = KeyedRows(_RECENT, "user")  # entries at or above the floor: what a late step 1 may reach
        self._latest_entry = BEFORE_ALL

    def fold(self, events: Events) -> tuple[Chains, Chains]:
        """Take in events (any order): the chains of the users concerned before and after, sorted by pair and entry."""
        is_first = events["step"] == 1
        first = events[is_first]
        keys, times, labels = (np.ascontiguousarray(first[name]) for name in (self._anchor_key, "time", "label"))
        self._anchors.add(keys, times, labels)
        new = self._without_known_entries(events[~is_first])
        users = np.unique(np.concatenate((new["user"], self._reached_by_late(first))))
        return self._follow_users(users, new)

    def advance(self, watermark: int) -> None:
        """Nothing older than `watermark` − retain will come: forget what only such events could change."""
        self.floor = max(self.floor, watermark - self._retain)
        if self.floor - self._pruned < _PRUNE_EVERY_MS:
            return
        self._pruned = floor = self.floor
        overdue = self._waiting.all()
        self._follow_users(np.unique(overdue["user"][overdue["time"] < floor]), overdue[:0])
        self._anchors.prune(floor)
        mature = self.funnel.matures_after_ms + BUCKET_MS
        self._chains.prune(
            lambda c: np.where(c["anchor"] == NEVER, c["entry"], c["anchor"] // BUCKET_MS * BUCKET_MS + mature) >= floor
        )
        self._entries.prune(lambda e: e["entry"] + self.funnel.remember_ms >= floor)
        self._recent.prune(lambda e: e["entry"] >= floor)

    def labels(self) -> Keys:
        """Labels of dimension values in use."""
        chains, waiting = self._chains.all(), self._waiting.all()
        parts = (self._anchors.labels(), chains["label"], chains["anchor_label"], waiting["label"])
        return np.unique(np.concatenate(parts))

    def _without_known_entries(self, events: Events) -> Events:
        """Leave out step 2 events that cannot begin a chain, whatever comes: the pair has an earlier entry."""
        is_entry = events["step"] == 2
        views = events[is_entry]
        if not len(views):
            return events
        known = np.sort(self._entries.find(np.unique(views["pair"])), order=("pair", "entry"))
        times, settled = views["time"], self.floor + self.funnel.remember_ms
        owner = latest_at(known["pair"], known["entry"], views["pair"], times - 1)  # at equal times the rank decides
        covered = np.zeros(len(views), dtype=np.bool_)
        if len(known):
            covered = (owner >= 0) & (times <= np.minimum(known["entry"][owner] + self.funnel.remember_ms, settled))
        views = views[~covered]
        views = views[np.lexsort((views["time"], views["pair"]))]
        begins = np.append(True, views["pair"][1:] != views["pair"][:-1])[: len(views)]
        earliest = views["time"][begins][np.cumsum(begins) - 1]
        views = views[(views["time"] == earliest) | (views["time"] > settled)]
        return np.concatenate((views, events[~is_entry]))

    def _reached_by_late(self, first: Events) -> Keys:
        """Users with an entry at or after one of these step 1 events: it may be a later step 1 for that entry."""
        first = first[first["time"] <= self._latest_entry]
        entries = self._recent.find(np.unique(first["user"])) if len(first) else self._recent.all()[:0]
        if not len(entries):
            return np.empty(0, dtype=np.uint64)
        first = first[np.isin(first["user"], entries["user"])]
        first = first[np.lexsort((first["time"], first["user"]))]
        return entries["user"][latest_at(first["user"], first["time"], entries["user"], entries["entry"]) >= 0]

    def _follow_users(self, users: Keys, new: Events) -> tuple[Chains, Chains]:
        """Follow the chains of `users` (sorted, distinct) anew, with events `new` of theirs."""
        if not len(users):
            nothing = np.empty(0, dtype=self._chains.dtype)
            return nothing, nothing
        old = self._chains.take(users)
        old = old[np.lexsort((old["entry"], old["pair"]))]
        waited = self._waiting.take(users)
        before, _ = follow(self.funnel, old, waited)
        views = waited[waited["step"] == 2], new[new["step"] == 2]
        chains, idle = self._enter(old, *views)
        open_ = np.flatnonzero(chains["entry"] >= self.floor)
        anchor, label = self._anchors.latest(chains[self._anchor_key][open_], chains["entry"][open_])
        chains["anchor"][open_], chains["anchor_label"][open_] = anchor, label
        events = np.concatenate((waited[waited["step"] != 2], new[new["step"] != 2]))
        after, counted = follow(self.funnel, chains, events)
        # A counted event is safe once no chain that could still take this one's place would leave it out.
        until = self.floor if self.funnel.exclusions else self.floor + self.funnel.finish_within_ms + 1
        safe = counted & (events["time"] < max(until, self.floor))
        stored = after if safe.sum() == counted.sum() else follow(self.funnel, chains, events[safe])[0]
        self._chains.put(stored[(stored["anchor"] != NEVER) | (stored["entry"] >= self.floor)])
        self._waiting.put(np.concatenate((idle, events[~safe & (events["time"] >= self.floor)])))
        return before, after

    def _enter(self, old: Chains, waited: Events, new: Events) -> tuple[Chains, Events]:
        """Chains after the step 2 events `new`, sorted by pair and entry, and the step 2 events to keep waiting."""
        settled = self.floor + self.funnel.remember_ms
        pairs = np.unique(new["pair"])
        if not len(pairs):
            return old.copy(), waited[waited["time"] > settled]
        asked = np.isin(waited["pair"], pairs)
        views = np.concatenate((waited[asked], new))
        mine = np.isin(old["pair"], pairs)
        known = self._entries.take(pairs)
        held = latest_at(old["pair"], old["entry"], known["pair"], known["entry"])
        is_held = (held >= 0) & (old["entry"][held] == known["entry"]) if len(old) else np.zeros(len(known), np.bool_)
        known = known[~is_held]
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
        chains = np.concatenate((old[~mine], chains[source[begins] < of_view]))
        idle = views[source[~begins & (source >= of_old) & (source < of_view)] - of_old]
        idle = np.concatenate((waited[~asked], idle))
        return chains[np.lexsort((chains["entry"], chains["pair"]))], idle[idle["time"] > settled]

    def _remember(self, chains: Chains, begun: Chains) -> None:
        """Keep the entries of `chains`; those of `begun` have just come."""
        entries = np.empty(len(chains), dtype=_ENTRY)
        entries["pair"], entries["entry"] = chains["pair"], chains["entry"]
        self._entries.put(entries)
        self._note_recent(begun)

    def _note_recent(self, chains: Chains) -> None:
        if len(chains):
            recent = np.empty(len(chains), dtype=_RECENT)
            recent["user"], recent["entry"] = chains["user"], chains["entry"]
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
