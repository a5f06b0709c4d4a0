"""BAD_INPUTS.md through real Kafka and through `backfill`: alone and among good messages, with the same outcome."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from flows.broker import Broker
from schemas.reasons import Reason
from sinks import embedded
from sinks.clickhouse import Store
from tests.integration.engine_process import ROOT, EngineProcess
from tests.unit.bad_inputs import CASES, GOOD, NOW_MS, Case, compact

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(300)]
GOOD_MESSAGES = 10_000
# These cases are about times relative to the record's, which the broker stamps now: unit tests hold the exact bounds.
SHIFTED = tuple(
    case
    for case in CASES
    if case.reason is Reason.TIME_IN_FUTURE or str(NOW_MS + 600_000).encode() in (case.raw or b"")
)
TABLE = [case for case in CASES if case not in SHIFTED and len(case.raw or b"") < 1_900_000]


def _unique(case: Case, number: int) -> bytes | None:
    """Good cases share their ids, which would make them duplicates: each gets its own where it can."""
    raw = case.raw
    if raw is None or case.reason is not None:
        return raw
    try:
        event = json.loads(raw.decode("utf-8-sig"))
    except ValueError:
        return raw
    if raw != compact(event):  # its bytes are the point of it
        return raw.replace(b'"e-1"', f'"odd-{number}"'.encode())
    return compact(event | {"event_id": f"case-{number}"}) if event.get("event_id", "").startswith("e-") else raw


def _expected(cases: list[Case]) -> Counter[str]:
    return Counter(case.reason.value for case in cases if case.reason is not None)


def _good(topic: str, number: int) -> bytes:
    return compact(GOOD[topic] | {"event_id": f"good-{topic}-{number}"})


def test_through_kafka_alone_and_among_good_ones(
    kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, store_dir: Path
) -> None:
    made = topics(kafka, 2)
    producer = Producer({"bootstrap.servers": kafka.address, "message.max.bytes": 2_000_000})
    cases_by_topic = {topic: [case for case in TABLE if case.topic == topic] for topic in GOOD}
    sent: Counter[str] = Counter()
    for topic, cases in cases_by_topic.items():
        alone = [(_unique(case, n), 0) for n, case in enumerate(cases)]
        among = [(_good(topic, n), 1) for n in range(GOOD_MESSAGES if topic == "view" else 200)]
        for n, case in enumerate(cases):
            among.insert((n * 37 + 5) % len(among), (_unique(case, 10_000 + n), 1))
        for number, (raw, partition) in enumerate(itertools.chain(alone, among)):
            key = (None, b"\xff\x00binary", b"u-1")[number % 3]
            producer.produce(made[topic], raw, key=key, partition=partition)
            sent[topic] += 1
            producer.poll(0)
    assert producer.flush(30) == 0
    process = EngineProcess(kafka.address, topic_prefix, store_dir, "--idle-timeout", "2s", "--reject-ratio", "1")
    process.start()
    try:
        process.until(lambda: process.consumed() == sent.total(), 120)
        time.sleep(1)
        found = process.rows(
            "SELECT partition, reason, count() AS n FROM livepulse.dead_letters GROUP BY partition, reason"
        )
        for partition in (0, 1):
            is_ = {row["reason"]: row["n"] for row in found if row["partition"] == partition}
            assert is_ == _expected(TABLE)
        good = process.rows("SELECT count() AS n FROM livepulse.events WHERE startsWith(event_id, 'good-')")
        assert good[0]["n"] == GOOD_MESSAGES + 200 * (len(GOOD) - 1)
        _sums(process.rows)
        assert process.stop() == 0
    finally:
        if process.running:
            process.kill()


def _sums(rows: Callable[[str], list[dict[str, Any]]]) -> None:
    (row,) = rows(
        "SELECT sum(consumed) AS c, sum(accepted + duplicate + late + rejected + filtered) AS o FROM livepulse.ingest_ledger"
    )
    assert row["c"] == row["o"] > 0


def test_through_backfill(tmp_path: Path, store_dir: Path) -> None:
    # A line cannot hold an end of line, and names its topic: cases that are JSON objects, and those that are none at all.
    lines, cases = [], []
    for number, case in enumerate(CASES):
        raw = _unique(case, number)
        if (
            raw is None
            or b"\n" in raw
            or b"\r" in raw
            or len(raw) > 900_000
            or case.name in ("empty object", "single quotes")
        ):
            continue
        if case.reason is Reason.TIME_IN_FUTURE or str(NOW_MS + 600_000).encode() in raw:
            continue
        if raw.startswith(b"{"):
            lines.append(b'{"topic":"' + case.topic.encode() + b'",' + raw[1:])
            cases.append(case)
        elif case.reason in (Reason.INVALID_JSON, Reason.NOT_UTF8, Reason.NOT_AN_OBJECT, Reason.EMPTY):
            lines.append(raw)
            cases.append(case)
    good = [b'{"topic":"view",' + _good("view", n)[1:] for n in range(GOOD_MESSAGES)]
    for n, line in enumerate(lines):
        good.insert((n * 37 + 5) % len(good), line)
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(good) + b"\n")
    command = [sys.executable, "-m", "flows.cli", "backfill", str(path), "--store", str(store_dir), "--allow-late"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    up = embedded.start(store_dir, die_with_parent=True)
    try:
        store = Store.connect(up.url, up.user, up.token)
        found = {
            r["reason"]: r["n"]
            for r in store.query("SELECT reason, count() AS n FROM livepulse.dead_letters GROUP BY reason")
        }
        assert found == _expected(cases)
        counted = store.query("SELECT count() AS n FROM livepulse.events WHERE startsWith(event_id, 'good-')")
        assert counted[0]["n"] == GOOD_MESSAGES
        _sums(store.query)
        store.close()
    finally:
        up.stop()
