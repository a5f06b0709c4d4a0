"""A running engine finds by itself what is falsified under it, and reconcile holds the ledger against Kafka."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.broker import Broker
from sinks import embedded
from sinks.clickhouse import Store
from tests.integration.engine_process import ROOT, EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce

pytestmark = pytest.mark.integration
CORE = ("view", "like", "gift", "order")
MISMATCH = "livepulse_audit_mismatch_total"


@pytest.fixture
def engine(any_kafka: Broker, store_dir: Path, topic_prefix: str) -> Iterator[EngineProcess]:
    flags = ("--idle-timeout", "2s", "--audit-interval", "1s")
    process = EngineProcess(any_kafka.address, topic_prefix, store_dir, *flags)
    yield process
    if process.running:
        process.kill()


def add(store_dir: Path, view: str, figures: tuple[str, ...], by: int, where: str) -> None:
    """Change the figures of one row behind the engine's back."""
    up = embedded.attach(store_dir)
    assert up is not None
    store = Store.connect(up.url, up.user, up.token)
    changed = ", ".join(f"{figure} + {by} AS {figure}" for figure in figures)
    row = f"SELECT * REPLACE ({changed}, version + 1 AS version) FROM livepulse.{view}_rows FINAL"
    store.command(f"INSERT INTO livepulse.{view}_rows {row} WHERE {where} ORDER BY ALL LIMIT 1")
    store.close()


def reconciled(engine: EngineProcess, brokers: str, prefix: str) -> tuple[int, list[dict[str, str | int]], str]:
    command = [
        sys.executable, "-m", "flows.cli", "reconcile", "--json", "--store", str(engine.store), "--brokers", brokers,
        "--topic-prefix", prefix, "--group", prefix,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["differences"], done.stderr


def test_what_is_falsified_is_counted_while_it_runs_and_offsets_are_compared(
    any_kafka: Broker, topics: Callable[..., object], topic_prefix: str, engine: EngineProcess, store_dir: Path
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=3, start_ms=hours_ago(0.3))  # closed, and within the last quarter of an hour that is
    produce(any_kafka.address, topic_prefix, traffic, 2_000, step_ms=200)
    engine.start()
    engine.until(lambda: engine.consumed() == 2_000)
    minute = "value = '' AND window_seconds = 60 AND is_final = 1 AND events > 0"
    engine.until(lambda: len(engine.rows(f"SELECT 1 FROM livepulse.active_users WHERE {minute}")) > 5)
    settled = engine.metric("livepulse_audit_runs_total") + 2
    engine.until(lambda: engine.metric("livepulse_audit_runs_total") >= settled)
    assert engine.metric(MISMATCH) == 0, engine.said()[-3000:]
    late = f"{minute} AND window_start = (SELECT max(window_start) FROM livepulse.active_users WHERE {minute})"
    add(store_dir, "active_users", ("users",), 1, late)
    engine.until(lambda: engine.metric(MISMATCH) > 0, 60)
    assert f'{MISMATCH}{{view="active_users"}}' in engine.asked("/metrics")[1]
    assert "see livepulse reconcile" in engine.said()
    add(store_dir, "active_users", ("users",), -1, late)
    code, found, _ = reconciled(engine, any_kafka.address, topic_prefix)
    assert (code, found) == (0, [])
    for by in (5, -10):
        add(
            store_dir,
            "ingest_ledger",
            ("consumed", "accepted"),
            by,
            "topic = 'view' AND partition = 0 AND accepted > 20",
        )
        code, found, _ = reconciled(engine, any_kafka.address, topic_prefix)
        assert code == 1
        (offsets,) = (one for one in found if one["view"] == "kafka_offsets")
        assert (offsets["topic"], offsets["partition"], offsets["figure"]) == ("view", "0", "consumed")
        assert int(offsets["is"]) - int(offsets["should"]) == (5 if by > 0 else -5)
    add(store_dir, "ingest_ledger", ("consumed", "accepted"), 5, "topic = 'view' AND partition = 0 AND accepted > 10")
    assert reconciled(engine, any_kafka.address, topic_prefix)[0] == 0
    code, found, said = reconciled(engine, "127.0.0.1:1", topic_prefix)
    assert "offsets were NOT compared" in said
    assert engine.stop() == 0
