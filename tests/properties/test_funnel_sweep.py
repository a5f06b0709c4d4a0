"""Step 1 times that are freed are those that no entry to come can have, and their rows are used again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flows import funnel_pairs as fp
from flows.funnel_store import nothing, pool, table

WINDOW = 10
VALUES = fp.Values(np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.zeros((1, 1), np.int32))


def with_room(s: fp.State, more: int) -> fp.State:
    keys, heads = table(s.used[fp.N_ANCHOR_KEYS] + more, s.anchor_keys, s.anchor_heads)
    return s._replace(anchors=pool(s.anchors, s.used[fp.N_ANCHORS] + more), anchor_keys=keys, anchor_heads=heads)


def add(s: fp.State, times: Sequence[tuple[int, int]]) -> fp.State:
    s = with_room(s, len(times))
    rows = np.array([(key, time, 0) for key, time in times], dtype=np.int64).reshape(-1, 3)
    fp.link_anchors(s, VALUES, rows, np.argsort(rows[:, 1]))
    return s


def held(s: fp.State) -> dict[int, list[int]]:
    """The times of each key by its list, latest first."""
    found = {}
    for slot in np.flatnonzero(s.anchor_keys):
        row, times = s.anchor_heads[slot], []
        while row >= 0:
            assert s.anchors[row, fp.KEY] == s.anchor_keys[slot]
            times.append(int(s.anchors[row, fp.TIME]))
            row = s.anchors[row, fp.BEFORE]
        found[int(s.anchor_keys[slot])] = times
    return found


def wanted(times: set[int], floor: int) -> list[int]:
    """Those that are step 1 of an entry at some time from `floor` on, by looking at each such time."""
    entries = range(floor, max(times, default=floor) + WINDOW + 1)
    firsts = {max((time for time in times if entry - WINDOW <= time <= entry), default=None) for entry in entries}
    return sorted(firsts - {None}, reverse=True)  # type: ignore[type-var]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60)), max_size=40), st.lists(st.integers(0, 70)))
def test_what_stays_is_what_an_entry_may_still_have(times: list[tuple[int, int]], floors: list[int]) -> None:
    """Between two floors come the times from the first to the second."""
    edges = [0, *sorted(floors), 71]
    state, ever = nothing((4, 12, 18, 8, 3)), {key: set[int]() for key in (1, 2, 3)}
    most = 0
    for floor, after in pairwise(edges):
        fresh = [(key, time) for key, time in times if floor <= time < after]
        for key, time in fresh:
            ever[key].add(time)
        state = add(state, fresh)
        most = max(most, sum(map(len, held(state).values())))
        fp.sweep_anchors(state, after, WINDOW, 0, len(state.anchor_keys))
        now = held(state)
        assert {key: now.get(key, []) for key in ever} == {key: wanted(of, after) for key, of in ever.items()}
        empty = sum(not found for found in now.values())
        assert (state.used[fp.N_EMPTY], state.used[fp.N_ANCHOR_KEYS]) == (empty, len(now))
        rows = np.empty((sum(map(len, now.values())), 3), dtype=np.int64)
        fp.copy_anchors(state, rows)
        assert sorted(map(tuple, rows[:, :2].tolist())) == sorted((k, t) for k, found in now.items() for t in found)
    assert state.used[fp.N_ANCHORS] == most, "freed rows are used again"


def test_part_of_the_slots_leaves_the_others_alone() -> None:
    state = add(nothing((4, 12, 18, 8, 3)), [(key, 5) for key in range(1, 100)])
    half = len(state.anchor_keys) // 2
    fp.sweep_anchors(state, 50, WINDOW, 0, half)
    left = sum(map(len, held(state).values()))
    assert 0 < left < 99
    assert left == np.count_nonzero(state.anchor_keys[half:])
    fp.sweep_anchors(state, 50, WINDOW, half, 2 * half)
    assert not any(held(state).values())
