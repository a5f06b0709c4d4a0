"""The setting `filter_platforms`: what it leaves out is ledgered as filtered and counts nowhere else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.broker import Broker
from sinks import embedded
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess, livepulse
from tests.integration.traffic import Traffic, hours_ago, produce, total
from tests.oracles.log import judge

pytestmark = pytest.mark.integration

CORE = ("view", "like", "gift", "order")
KEPT = ("douyin", "kuaishou")
T0 = 1_770_000_000_000 // 3_600_000 * 3_600_000
MINUTE = 60_000


@pytest.fixture
def engine(any_kafka: Broker, store_dir: Path, topic_prefix: str) -> Iterator[EngineProcess]:
    flags = ("--filter-platforms", ",".join(KEPT), "--idle-timeout", "2s")
    process = EngineProcess(any_kafka.address, topic_prefix, store_dir, *flags)
    yield process
    if process.running:
        process.kill()


def test_other_platforms_are_in_the_ledger_and_in_no_figure(
    any_kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, engine: EngineProcess
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=41, start_ms=hours_ago(2), platforms=(*KEPT, "xigua"))
    produce(any_kafka.address, topic_prefix, traffic, 6_000, step_ms=500)
    engine.start()
    engine.until(lambda: engine.consumed() == total(traffic))
    agree(engine, traffic, seconds=30, platforms=KEPT)
    verdict = judge(traffic.log, platforms=KEPT)
    counts = sum(verdict.counts.values(), Counter[str]())
    assert min(counts[outcome] for outcome in ("accepted", "duplicate", "late", "rejected", "filtered")) > 0
    assert engine.metric("livepulse_filtered_total") == counts["filtered"]
    found = engine.rows("SELECT platform, count() AS n FROM livepulse.events GROUP BY platform")
    assert {row["platform"]: row["n"] for row in found} == Counter(event["platform"] for event in verdict.accepted)
    assert engine.stop() == 0


KEEP, LEAVE = {"platform": "douyin"}, {"platform": "xigua"}
LINES: tuple[tuple[str, dict[str, object]], ...] = (
    ("accepted", {"event_id": "a", "event_time": T0, **KEEP}),
    ("duplicate", {"event_id": "a", "event_time": T0, **KEEP}),
    ("filtered", {"event_id": "b", "event_time": T0, **LEAVE}),
    ("filtered", {"event_id": "b", "event_time": T0, **LEAVE}),  # a duplicate too
    ("filtered", {"event_id": "c", "event_time": T0}),  # of no platform
    ("filtered", {"event_id": "d", "event_time": T0 + 20 * MINUTE, **LEAVE}),  # valid: what follows may be late by it
    ("late", {"event_id": "e", "event_time": T0, **KEEP}),
    ("late", {"event_id": "a", "event_time": T0, **KEEP}),  # a duplicate too
    ("filtered", {"event_id": "f", "event_time": T0, **LEAVE}),  # late too
    ("rejected", {"event_id": "", "event_time": T0, **LEAVE}),  # late too, and of another platform
    ("rejected", {"event_id": "g", "event_time": T0 + 19 * MINUTE, "platform": 7}),
    ("accepted", {"event_id": "h", "event_time": T0 + 19 * MINUTE, "platform": "kuaishou"}),
)


def test_a_message_has_the_first_outcome_that_fits(tmp_path: Path, store_dir: Path) -> None:
    """Rejected, filtered, late, duplicate, in this order."""
    common = {"topic": "like", "user_id": "u", "creator_id": "c", "live_id": "l"}
    events = tmp_path / "events.ndjson"
    events.write_text("".join(json.dumps({**common, **line}) + "\n" for _, line in LINES))
    flags = ("--filter-platforms", ",".join(KEPT), "--allow-late", "--reject-ratio", "1")
    done = livepulse("backfill", str(events), "--store", str(store_dir), *flags)
    assert done.returncode == 0, done.stderr
    should = Counter(outcome for outcome, _ in LINES)
    sums = ", ".join(f"toInt32(sum({name})) AS {name}" for name in ("consumed", *should))
    assert asked(store_dir, f"SELECT {sums} FROM ingest_ledger") == [{"consumed": len(LINES), **should}]
    for view, outcome in (("events", "accepted"), ("late_events", "late"), ("dead_letters", "rejected")):
        found = asked(store_dir, f"SELECT toInt32(offset) AS line FROM {view} ORDER BY line")
        assert [row["line"] for row in found] == [n for n, (named, _) in enumerate(LINES) if named == outcome], view
    (figures,) = asked(
        store_dir,
        "SELECT toInt32(sum(events)) AS n FROM active_users WHERE dim = 'all' AND window_seconds = 60",
    )
    assert figures == {"n": should["accepted"]}


def asked(store: Path, sql: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in embedded.ask(store, f"{sql} FORMAT JSONEachRow").splitlines()]
