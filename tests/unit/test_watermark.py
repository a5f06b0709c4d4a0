"""Event time: lateness as a function of the log, idleness, least watermarks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.messages import MAX_TIME, MIN_TIME
from flows.watermark import CombinedWatermark, PartitionTime, SourceClock, TimeBounds, late_mask, running_max

BOUNDS = TimeBounds(out_of_orderness=300, allowed_lateness=50, idle_timeout=1_000, alignment=100, reopen=500)


def late_by_definition(times: list[int], bounds: TimeBounds) -> list[bool]:
    """EVENTS.md, a message at a time."""
    greatest: int | None = None
    late = []
    for time in times:
        late.append(greatest is not None and time < greatest - bounds.out_of_orderness - bounds.allowed_lateness)
        greatest = time if greatest is None else max(greatest, time)
    return late


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=60), st.lists(st.integers(1, 10), max_size=20))
def test_late_is_the_same_however_the_log_is_cut(times: list[int], cuts: list[int]) -> None:
    found: list[bool] = []
    before, at = MIN_TIME, 0
    for size in [*cuts, len(times)]:
        piece = np.array(times[at : at + size], dtype=np.int64)
        if not len(piece):
            break
        maxima = running_max(piece, before)
        found += late_mask(piece, maxima, BOUNDS).tolist()
        before, at = int(maxima[-1]), at + size
    assert found == late_by_definition(times, BOUNDS)


def test_a_time_exactly_at_the_bound_is_on_time() -> None:
    times = np.array([1_000, 650, 649], dtype=np.int64)
    assert late_mask(times, running_max(times, MIN_TIME), BOUNDS).tolist() == [False, False, True]


def test_a_negative_bound_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="idle_timeout must not be negative"):
        TimeBounds(idle_timeout=-1)


def test_the_watermark_is_the_least_of_active_partitions() -> None:
    clock = SourceClock(BOUNDS, {"a": PartitionTime(5_000), "b": PartitionTime(4_000)})
    assert clock.advance(0) == (3_700, False)


def test_a_partition_without_events_holds_the_watermark_until_it_is_idle() -> None:
    clock = SourceClock(BOUNDS, {"a": PartitionTime(5_000), "b": PartitionTime(caught_up=True, last_message=0)})
    assert clock.advance(999) == (MIN_TIME, False)
    assert clock.advance(1_000) == (4_700, False)


def test_a_partition_with_a_backlog_is_never_idle() -> None:
    clock = SourceClock(BOUNDS, {"a": PartitionTime(5_000), "b": PartitionTime(4_000, last_message=0, caught_up=False)})
    assert clock.advance(10**9) == (3_700, False)


def test_the_watermark_follows_the_clock_when_all_are_idle_and_never_goes_back() -> None:
    clock = SourceClock(BOUNDS, {"a": PartitionTime(5_000, last_message=0, caught_up=True)})
    assert clock.advance(20_000) == (19_700, True)
    clock.partitions["a"].last_message = 20_001
    assert clock.advance(20_001) == (19_700, False)


def test_ended_partitions_close_everything() -> None:
    clock = SourceClock(BOUNDS, {"a": PartitionTime(5_000, ended=True)})
    assert clock.advance(0) == (MAX_TIME, True)


def test_combined_waits_for_every_source() -> None:
    mark = CombinedWatermark(expected=2)
    mark.report(0, 100, idle=False, end=False, last_event_time=400)
    assert mark.watermark == MIN_TIME
    mark.report(1, 50, idle=False, end=False, last_event_time=350)
    assert (mark.watermark, mark.last_event_time) == (50, 400)


def test_combined_leaves_idle_sources_out_and_is_monotone() -> None:
    mark = CombinedWatermark(expected=2)
    mark.report(0, 100, idle=False, end=False, last_event_time=0)
    mark.report(1, 50, idle=True, end=False, last_event_time=0)
    assert mark.watermark == 100
    mark.report(1, 60, idle=False, end=False, last_event_time=0)
    assert mark.watermark == 100
    assert not mark.ended
    for source in (0, 1):
        mark.report(source, MAX_TIME, idle=True, end=True, last_event_time=0)
    assert mark.ended
    assert mark.watermark == MAX_TIME
