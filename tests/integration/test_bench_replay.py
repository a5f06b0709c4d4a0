"""`livepulse bench replay` on a small day: both engines see all of it, and count the same."""

from __future__ import annotations

from flows import bench_replay
from flows.bench_replay import Replay
from flows.broker import Broker


def test_a_day_is_lived_through_and_replayed_to_the_same_ledger(kafka: Broker) -> None:
    said: list[str] = []
    found = bench_replay.both(kafka, Replay(events=4_000, rate=4_000), said.append)
    assert found["events"] > 3_500
    assert found["exact"], found["differences"]
    assert 0 < found["live_peak_rss_mb"] < 2_048
    assert 0.5 < found["memory_ratio"] < 1.5
    assert found["live_seconds"] > 0.8  # held back to the rate
    assert "50 %" in said
