"""Reconcile finds nothing in what the engine wrote and everything that was falsified; repair takes late events in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from sinks import embedded
from sinks.clickhouse import Store
from tests.integration.compare import differences
from tests.integration.engine_process import livepulse
from tests.integration.traffic import Traffic
from tests.oracles.log import Logged, judge

pytestmark = pytest.mark.integration

T0 = 1_770_000_000_000 // 3_600_000 * 3_600_000
LANES = 4


def files_of(directory: Path, traffic: Traffic, count: int, step_ms: int) -> list[Path]:
    """A file a partition number; the traffic's log is then that of the files."""
    lines: list[list[bytes]] = [[] for _ in range(LANES)]
    log: list[list[Logged]] = [[] for _ in range(LANES)]
    for topic, partition, _, value in traffic.messages(count, step_ms):
        event = traffic.log[topic, partition][-1].event
        if event is not None:
            value = orjson.dumps(event | {"topic": topic})  # noqa: PLW2901
        lines[partition].append(value)
        log[partition].append(Logged(len(log[partition]), None if event is None else event | {"topic": topic}))
    paths = []
    for number, own in enumerate(lines):
        paths.append(directory / f"{number}.ndjson")
        paths[-1].write_bytes(b"".join(line + b"\n" for line in own))
    traffic.log = {("", number): own for number, own in enumerate(log)}
    return paths


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Traffic]:
    directory = tmp_path_factory.mktemp("audit")
    traffic = Traffic(seed=11, start_ms=T0, partitions=LANES)
    paths = files_of(directory, traffic, 8_000, 1_200)
    done = livepulse("backfill", *map(str, paths), "--store", str(directory / "store"), "--allow-late")
    assert done.returncode == 0, done.stderr
    return directory / "store", traffic


def reconciled(store: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    done = livepulse("reconcile", "--store", str(store), "--json", *more)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["differences"]


def on(directory: Path, *statements: str) -> list[dict[str, Any]]:
    up = embedded.start(directory, die_with_parent=True)
    try:
        store = Store.connect(up.url, up.user, up.token)
        for statement in statements[:-1]:
            store.command(statement)
        found = store.query(statements[-1])
        store.close()
    finally:
        up.stop()
    return found


def test_what_the_engine_wrote_agrees(filled: tuple[Path, Traffic]) -> None:
    assert reconciled(filled[0]) == (0, [])


def test_repair_gives_what_events_in_order_had_given(filled: tuple[Path, Traffic]) -> None:
    directory, traffic = filled
    late = sum(len(found) for found in judge(traffic.log).late_offsets.values())
    assert late > 20
    times = ("--from", "2026-02-02T01:00:00Z", "--to", "2026-02-02T06:00:00Z")
    done = livepulse("repair", "--store", str(directory), "--json", *times)
    assert done.returncode == 0, done.stderr
    assert 20 < json.loads(done.stdout)["late"] <= late
    assert reconciled(directory) == (0, [])
    # An oracle that waits for all: nothing is late, so every late event counts (once: some were copies).
    verdict = judge(traffic.log, out_of_orderness=1 << 40)
    named = {m.event["event_id"]: m.event["topic"] for own in traffic.log.values() for m in own if m.event}
    for event in verdict.accepted:
        event["topic"] = named[event["event_id"]]  # a file is a lane of many topics
    up = embedded.start(directory, die_with_parent=True)
    try:
        store = Store.connect(up.url, up.user, up.token)
        wrong = differences(store.query, verdict)
        store.close()
    finally:
        up.stop()
    assert {view: found for view, found in wrong.items() if view not in ("ingest_ledger", "late_events")} == {}


FALSIFIED = {
    "active_users": "value = '' AND window_seconds = 60",
    "active_hours": "basis = 'platform' AND dim = 'all'",
    "topic_heat": "events > 0",
    "funnel": "unit = 'user' AND dim = 'all' AND step = 3",
    "ingest_ledger": "accepted > 0",
}


@pytest.mark.parametrize("view", FALSIFIED)
def test_one_false_figure_is_found(filled: tuple[Path, Traffic], view: str) -> None:
    figure = {"funnel": "reached", "ingest_ledger": "accepted"}.get(view, "events")
    row = f"SELECT * REPLACE ({figure} + 1 AS {figure}, version + 1 AS version) FROM livepulse.{view}_rows FINAL"
    undo = f"SELECT * REPLACE ({figure} - 1 AS {figure}, version + 1 AS version) FROM livepulse.{view}_rows FINAL"
    one = f"WHERE {FALSIFIED[view]} ORDER BY version DESC, {figure} DESC LIMIT 1"
    on(filled[0], f"INSERT INTO livepulse.{view}_rows {row} {one}", "SELECT 1")
    code, found = reconciled(filled[0])
    on(filled[0], f"INSERT INTO livepulse.{view}_rows {undo} {one}", "SELECT 1")
    assert code == 1
    assert {(d["view"], d["figure"]) for d in found} >= {(view, figure)}
    assert all(int(str(d["is"])) != int(str(d["should"])) for d in found)
