"""Topics through simulator, engine and store: each row of `topic_lifecycle` equals a recount of the events kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.simulate import Options
from tests.oracles import heat
from tests.simulation.backfilled import asked, backfilled

OPTIONS = Options(
    seed=11, rate=0.8, events=25_000, start=1_767_603_600_000, partitions=2, users=2_000, videos=300, creators=50,
    topics=60, rooms=4, late_share=0.006, duplicate_share=0.02, bad_share=0.003,
)  # fmt: skip
WEIGHTS = {"view": 1.0, "like": 3.0, "comment": 5.0, "share": 8.0}
HALF_LIFE_MINUTES, FORGET_DAYS = 360.0, 30
PEAKS_CHECKED = 12

EVENTS = """
    SELECT toUnixTimestamp64Milli(event_time) AS time, user_id, tags,
        multiIf(continued = 1, 'continued', topic = 'engage', action, topic) AS what
    FROM events"""
LIVES = """
    SELECT topic, toUnixTimestamp64Milli(first_seen) AS first_seen, toUnixTimestamp(peak_time) * 1000 AS peak_time,
        peak_rate, peak_heat, half_life_minutes, stage
    FROM topic_lifecycle"""


@pytest.mark.integration
def test_lives_of_topics_equal_a_recount(tmp_path: Path) -> None:
    store, _ = backfilled(tmp_path, OPTIONS)
    kept = asked(store, EVENTS).iter_rows(named=True)
    events = [
        heat.Event(e["time"], e["user_id"], tuple(e["tags"]), WEIGHTS.get(e["what"], 0.0)) for e in kept if e["tags"]
    ]
    until = (max(e.time for e in events) // heat.MINUTE + 1) * heat.MINUTE
    topics = heat.by_topic(events)
    found = {row["topic"]: row for row in asked(store, LIVES).to_dicts()}
    assert found.keys() == topics.keys()
    lives = {topic: heat.lives(own, FORGET_DAYS)[-1] for topic, own in topics.items()}
    for topic, part in lives.items():
        life, row = heat.live(part, until)[-1][1], found[topic]
        should = part[0].time, life.stage, life.peak_time, life.half_life, life.peak / 10 if life.peak else None
        names = ("first_seen", "stage", "peak_time", "half_life_minutes", "peak_rate")
        assert tuple(row[name] for name in names) == should, topic
    assert len({row["stage"] for row in found.values()}) >= 3
    assert sum(row["half_life_minutes"] is not None for row in found.values()) >= 3
    for topic in sorted(lives, key=lambda topic: len(lives[topic]))[-PEAKS_CHECKED:]:
        ticks = {e.time // heat.MINUTE * heat.MINUTE + heat.MINUTE for e in lives[topic]}
        peak = max(heat.heat_at(lives[topic], tick, HALF_LIFE_MINUTES) for tick in ticks)
        assert found[topic]["peak_heat"] == pytest.approx(peak, rel=1e-6)
