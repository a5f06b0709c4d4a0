"""The intake: every message is released once and in order, partitions stay aligned, and someone can always go on."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.intake import AlignmentBoard, Intake
from flows.messages import MAX_TIME, MIN_TIME, Slice
from flows.parts import ONTIME, Numbered, Part
from flows.watermark import TimeBounds, running_max

BOUNDS = TimeBounds(out_of_orderness=10, alignment=100, idle_timeout=1_000)
EMPTY = Numbered(np.zeros(0, dtype=np.int64), pl.DataFrame())


def part(times: list[int], first: int = 0, before: int = MIN_TIME) -> Part:
    """A part of on-time messages at these event times."""
    count = len(times)
    events = Numbered(np.arange(count), pl.DataFrame({"event_time": times}))
    return Part(
        partition=0,
        first=0,
        offsets=np.arange(first, first + count, dtype=np.int64),
        minutes=np.zeros(count, dtype=np.int64),
        maxima=running_max(np.array(times, dtype=np.int64), before),
        outcomes=np.full(count, ONTIME, dtype=np.uint8),
        kinds=np.zeros(count, dtype=np.uint8),
        events=events,
        late=EMPTY,
        dead=EMPTY,
    )


def intake() -> Intake:
    return Intake(BOUNDS, AlignmentBoard(None, 0, 1), 0, follow_clock=True)


def released(found: Slice | None) -> list[int]:
    """The event times of what was taken."""
    return [] if found is None or found.frame is None else found.frame["event_time"].to_list()


def drain(one: Intake, names: list[str], most: int) -> dict[str, list[int]]:
    """Take in rounds until nothing comes; the event times released by each lane."""
    gone: dict[str, list[int]] = {name: [] for name in names}
    while True:
        one.open_round()
        taken = {name: one.take(name, most, 0) for name in names}
        if not any(taken.values()):
            return gone
        for name, found in taken.items():
            gone[name] += released(found)


lanes = st.lists(st.lists(st.lists(st.integers(0, 2_000), min_size=1, max_size=8), max_size=4), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(lanes, st.integers(1, 7))
def test_every_message_goes_once_in_order(drawn: list[list[list[int]]], most: int) -> None:
    one, names = intake(), [f"lane/{i}" for i in range(len(drawn))]
    for name, parts in zip(names, drawn, strict=True):
        one.add(name, 0, MIN_TIME, 0)
        at, before = 0, MIN_TIME
        for times in parts:
            piece = part(times, at, before)
            at, before = at + len(times), int(piece.maxima[-1])
            one.put(name, piece)
        one.caught_up(name, caught_up=True)
    assert drain(one, names, most) == {
        n: [t for times in parts for t in times] for n, parts in zip(names, drawn, strict=True)
    }
    assert {n: one.position(n)[0] for n in names} == {n: sum(map(len, p)) for n, p in zip(names, drawn, strict=True)}


def test_a_lane_ahead_waits_for_one_with_a_backlog() -> None:
    one = intake()
    for name in ("fast", "slow"):
        one.add(name, 0, MIN_TIME, 0)
    one.put("fast", part([1, 90, 5_000, 5_001]))
    assert one.take("fast", 10, 0) is None  # nothing is known of `slow`, which has a backlog
    one.put("slow", part([0]))
    assert released(one.take("fast", 10, 0)) == [1, 90]
    assert released(one.take("slow", 10, 0)) == [0]
    one.open_round()
    assert one.take("fast", 10, 0) is None  # of `slow` nothing waits, and more may come
    one.caught_up("slow", caught_up=True)
    one.open_round()
    assert released(one.take("fast", 10, 0)) == [5_000, 5_001]  # a lane that is caught up holds nobody


def test_sparse_history_goes_on_in_step_beyond_the_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.intake._SPARSE_ROUND", 5)
    one = intake()
    for name, times in (("a", [0, 400, 800, 90_000]), ("b", [10, 500, 700, 80_000])):
        one.add(name, 0, MIN_TIME, 0)
        one.put(name, part(times))
    assert one.ready(99)
    one.open_round()  # the limit of 100 is moved on to 200, 400, 800: enough
    assert [released(one.take(name, 10, 0)) for name in ("a", "b")] == [[0, 400, 800], [10, 500, 700]]
    assert not one.ready(99)
    assert one.ready(1)
    one.open_round()
    # What comes of `b` may be as old as 80,000, so that no more than this goes.
    assert [released(one.take(name, 10, 0)) for name in ("a", "b")] == [[], [80_000]]
    one.put("b", part([85_000], before=80_000))
    one.open_round()
    assert [released(one.take(name, 10, 0)) for name in ("a", "b")] == [[], [85_000]]
    one.caught_up("b", caught_up=True)
    one.open_round()
    assert released(one.take("a", 10, 0)) == [90_000]


def test_a_worker_that_is_caught_up_opens_rounds_beside_one_that_is_not(tmp_path: Path) -> None:
    path = tmp_path / "board"
    AlignmentBoard.create(path, 2)
    one = Intake(BOUNDS, AlignmentBoard(path, 0, 2), 0, follow_clock=True)
    one.add("a", 0, 1_000, 0)
    one.caught_up("a", caught_up=True)
    AlignmentBoard(path, 1, 2).least(500)
    one.open_round()
    one.put("a", part([1_050], before=1_000))
    assert one.take("a", 10, 0) is None  # the other one stands at 500
    AlignmentBoard(path, 1, 2).least(1_000)
    assert released(one.take("a", 10, 0)) == [1_050]


@given(lanes, st.integers(1, 7), st.randoms(use_true_random=False))
def test_no_lane_runs_further_ahead_than_the_others_are_known(
    drawn: list[list[list[int]]], most: int, rnd: random.Random
) -> None:
    one = intake()
    to_come = {f"view/{number:04d}": list(parts) for number, parts in enumerate(drawn)}
    at, newest = dict.fromkeys(to_come, 0), dict.fromkeys(to_come, MIN_TIME)
    gone: dict[str, list[int]] = {name: [] for name in to_come}
    for name in to_come:
        one.add(name, 0, MIN_TIME, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.intake._SPARSE_ROUND", 5)
        while any(to_come.values()) or one.total_waiting():
            for name in rnd.sample(sorted(to_come), rnd.randint(1, len(to_come))):
                if to_come[name]:
                    piece = part(to_come[name].pop(0), first=at[name], before=newest[name])
                    at[name], newest[name] = piece.next_offset, int(piece.maxima[-1])
                    one.put(name, piece)
                one.caught_up(name, caught_up=not to_come[name])
            one.open_round()
            for name in to_come:
                stood = one.position(name)[1]
                gone[name] += released(one.take(name, most, 0))
                # What may still come of these is at least as young as the last that came.
                known = min((newest[n] for n in to_come if to_come[n]), default=MAX_TIME)
                assert one.position(name)[1] in (stood, min(one.position(name)[1], known + BOUNDS.alignment))
    assert gone == {n: [t for times in parts for t in times] for n, parts in zip(to_come, drawn, strict=True)}


def test_who_is_ahead_and_how_far_each_has_been_read() -> None:
    one = intake()
    for name in ("ahead", "behind", "new"):
        one.add(name, 0, 40, 0)
    one.put("ahead", part([90, 5_000], before=40))
    one.put("behind", part([50], before=40))
    found = [(s.name, s.next_offset, s.newest, s.ahead) for s in one.standing(["ahead", "behind", "new"])]
    assert found == [("ahead", 0, 5_000, True), ("behind", 0, 50, False), ("new", 0, 40, False)]


def test_ready_counts_what_alignment_lets_go() -> None:
    one = intake()
    for name in ("ahead", "behind"):
        one.add(name, 0, MIN_TIME, 0)
    assert not one.ready(1)
    one.put("ahead", part([1, 90, 5_000, 5_001]))
    assert not one.ready(1)  # nothing is known of `behind`
    one.put("behind", part([0, 20]))
    assert one.ready(4)  # 1, 90 and both of `behind`
    assert not one.ready(5)
    one.caught_up("ahead", caught_up=True)
    assert not one.ready(5)  # more may come of `behind`
    one.caught_up("behind", caught_up=True)
    assert one.ready(5)  # these are all
    drain(one, ["ahead", "behind"], 10)
    assert not one.ready(0)


def test_other_workers_hold_a_lane_too(tmp_path: Path) -> None:
    path = tmp_path / "board"
    AlignmentBoard.create(path, 2)
    here = Intake(BOUNDS, AlignmentBoard(path, 0, 2), 0, follow_clock=True)
    there = AlignmentBoard(path, 1, 2)
    here.add("a", 0, 1_000, 0)
    there.least(500)
    here.put("a", part([1_001], before=1_000))
    assert here.take("a", 10, 0) is None
    there.least(950)
    assert here.take("a", 10, 0) is not None


def test_the_watermark_is_that_of_what_was_released() -> None:
    one = intake()
    one.add("a", 0, MIN_TIME, 0)
    one.put("a", part([100, 200, 9_000]))
    one.take("a", 2, 0)
    assert one.progress(0, early=True).watermark == 190
    one.take("a", 2, 0)
    assert one.progress(0, early=True).watermark == 8_990


def test_bounded_input_ends_when_all_was_released() -> None:
    one = Intake(BOUNDS, AlignmentBoard(None, 0, 1), 0, follow_clock=False)
    one.add("a", 0, MIN_TIME, 0)
    one.put("a", part([100]))
    one.caught_up("a", caught_up=True)
    assert not one.finish("a")
    one.take("a", 10, 0)
    assert one.finish("a")
    progress = one.progress(10**9, early=False)
    assert (progress.watermark, progress.end, progress.last_event_time) == (MAX_TIME, True, 100)


def test_a_worker_that_has_read_all_holds_no_other_back(tmp_path: Path) -> None:
    AlignmentBoard.create(tmp_path / "board", 2)
    one, other = (
        Intake(BOUNDS, AlignmentBoard(tmp_path / "board", number, 2), number, follow_clock=True) for number in (0, 1)
    )
    one.add("a/0", 0, MIN_TIME, 0)
    other.add("b/0", 0, MIN_TIME, 0)
    one.put("a/0", part([1_000, 1_010]))
    other.put("b/0", part([1_000, 9_000, 9_010]))
    assert drain(one, ["a/0"], 10) == {"a/0": [1_000, 1_010]}
    one.caught_up("a/0", caught_up=True)
    one.progress(0, early=False)  # a heartbeat: `take` finds nothing that waits
    assert drain(other, ["b/0"], 1) == {"b/0": [1_000, 9_000, 9_010]}
