"""Admission: the same outcomes for any cut of the input and across a snapshot, against sets in plain Python."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.admission import Admission
from flows.messages import MIN_TIME
from flows.watermark import TimeBounds

MINUTE = 60_000
BOUNDS = TimeBounds(out_of_orderness=5 * MINUTE, reopen=60 * MINUTE)
HORIZON = 10 * MINUTE
Event = tuple[int, int]  # id, event time

# Ids with one event time each, as true duplicates have: copies of one message.
events = st.lists(st.integers(0, 30).map(lambda i: (i, i * 9_700)), max_size=80)


def frame(rows: list[Event]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id_hash": pl.Series([i for i, _ in rows], dtype=pl.UInt64),
            "event_time": pl.Series([t for _, t in rows], dtype=pl.Int64),
            "place": pl.Series(range(len(rows)), dtype=pl.Int64),
        }
    )


@settings(max_examples=200, deadline=None)
@given(events, st.lists(st.integers(1, 9), max_size=30), st.integers(0, 10))
def test_each_id_counts_once_however_input_is_cut(rows: list[Event], cuts: list[int], restart_at: int) -> None:
    admission, accepted, log = Admission(BOUNDS, HORIZON), [], [Admission(BOUNDS, HORIZON).snapshot()]
    at = 0
    for step, size in enumerate([*cuts, len(rows)]):
        batch = rows[at : at + size]
        if not batch:
            break
        admitted = admission.admit(frame(batch), MIN_TIME)
        accepted += [at + place for place in admitted.accepted["place"]]
        assert admitted.accepted.height + admitted.duplicate.height == len(batch)
        log.append(admission.delta())
        if step == restart_at:
            admission = Admission(BOUNDS, HORIZON)
            admission.restore(log[0], log[1:])
        at += size
    seen: set[int] = set()
    expected = [n for n, (i, _) in enumerate(rows) if i not in seen and not seen.add(i)]  # type: ignore[func-returns-value]
    assert accepted == expected


def test_one_id_with_two_times_within_the_horizon_counts_once() -> None:
    for first, second in ((599_999, 600_001), (600_001, 599_999), (0, 600_000), (600_000, 0), (59_999, 659_999)):
        admission = Admission(BOUNDS, HORIZON)
        admitted = admission.admit(frame([(7, first), (7, second)]), MIN_TIME)
        assert admitted.accepted["place"].to_list() == [0]
        assert admitted.duplicate["place"].to_list() == [1]


def test_an_id_far_apart_is_another_event() -> None:
    admission = Admission(BOUNDS, HORIZON)
    assert admission.admit(frame([(7, 0), (7, HORIZON + 2 * MINUTE)]), MIN_TIME).duplicate.height == 0


def test_ids_are_forgotten_only_when_no_on_time_copy_can_come() -> None:
    admission = Admission(BOUNDS, HORIZON)
    admission.admit(frame([(7, 0)]), MIN_TIME)
    admission.admit(frame([(8, 0)]), HORIZON + MINUTE - 1)
    assert admission.admit(frame([(7, HORIZON)]), HORIZON + MINUTE - 1).duplicate.height == 1
    admission.admit(frame([(9, 2 * HORIZON)]), 2 * HORIZON)
    assert len(admission._ids) == 1  # 7 and 8 of time 0 are gone; what is held is not public


def test_behind_what_idleness_closed_is_late() -> None:
    admission = Admission(BOUNDS, HORIZON)
    admitted = admission.admit(frame([(1, 40 * MINUTE - 1), (2, 40 * MINUTE)]), 100 * MINUTE)
    assert admitted.late["id_hash"].to_list() == [1]
    assert admitted.accepted["id_hash"].to_list() == [2]


def test_without_dedupe_all_count() -> None:
    admission = Admission(BOUNDS, HORIZON, dedupe=False)
    assert admission.admit(frame([(1, 1), (1, 1)]), MIN_TIME).accepted.height == 2
