"""The store as a ClickHouse server (an address, a user, a password): the same rows as the embedded one has.

The server is an embedded store's own endpoint, of which the commands know the address alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.broker import Broker
from schemas.views import VIEWS
from sinks import embedded
from sinks.embedded import Embedded
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess, livepulse
from tests.integration.traffic import Traffic, hours_ago, produce, total

pytestmark = pytest.mark.integration

CORE = ("view", "like", "gift", "order")
OF_THE_CLOCK = {"ingest_time", "minute", "as_of", "recorded_at"}
"""Columns that tell when the engine ran."""


@dataclass
class Server:
    """A ClickHouse that is up, and how to get in."""

    up: Embedded
    password: Path

    @property
    def flags(self) -> tuple[str, ...]:
        login = ("--store-user", self.up.user, "--store-password-file", str(self.password))
        return ("--store", self.up.url, *login)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    up = embedded.start(tmp_path / "server", die_with_parent=True)
    password = tmp_path / "password"
    password.write_text(up.token)
    yield Server(up, password)
    up.stop()


def plainly(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that may fail, but not with a traceback."""
    done = livepulse(*arguments)
    assert "Traceback" not in done.stderr
    return done


def rows(*store: str) -> list[str]:
    """All rows of all views, as `livepulse sql` tells them."""
    selects = []
    for view in VIEWS:
        left_out = ", ".join(column.name for column in view.columns if column.name in OF_THE_CLOCK)
        columns = f"* EXCEPT ({left_out})" if left_out else "*"
        selects.append(f"SELECT '{view.name}' AS view, toString(tuple({columns})) AS row FROM {view.name}")
    done = plainly("sql", *store, f"SELECT * FROM ({' UNION ALL '.join(selects)}) ORDER BY ALL")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_backfill_into_a_server_gives_the_rows_of_an_embedded_one(
    tmp_path: Path, store_dir: Path, server: Server
) -> None:
    traffic, events = Traffic(seed=51, start_ms=hours_ago(30)), tmp_path / "events.ndjson"
    with events.open("w") as file:
        for topic, _, _, value in traffic.messages(3_000, step_ms=2_000):
            event = json.loads(value) if value.startswith(b'{"event_id":"e') else {}
            file.write(json.dumps({**event, "topic": topic}) + "\n")
    for store in (("--store", str(store_dir)), server.flags):
        done = plainly("backfill", str(events), "--allow-late", *store)
        assert done.returncode == 0, done.stderr
    should, found = rows("--store", str(store_dir)), rows(*server.flags)
    some = {line.partition("\t")[0] for line in should}
    assert {"active_users", "active_hours", "topic_heat", "funnel", "events", "late_events", "dead_letters"} <= some
    assert found == should
    again = plainly("backfill", str(events), *server.flags)
    assert (again.returncode, "--replace" in again.stderr) == (2, True)


def test_an_engine_on_a_server_gives_exact_rows_and_resumes(
    any_kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, server: Server, tmp_path: Path
) -> None:
    topics(any_kafka, names=CORE)
    traffic = Traffic(seed=52, start_ms=hours_ago(0.6))
    flags = (*server.flags, "--recovery-dir", str(tmp_path / "recovery"), "--idle-timeout", "2s")
    process = EngineProcess(any_kafka.address, topic_prefix, server.up.directory, *flags)
    try:
        for _ in range(2):
            produce(any_kafka.address, topic_prefix, traffic, 3_000)
            process.start()
            process.until(lambda: process.consumed() == total(traffic))
            agree(process, traffic, seconds=30)
            assert process.stop() == 0
    finally:
        if process.running:
            process.kill()
    assert server.up.token not in process.said()
    assert embedded.attach(server.up.directory) is not None  # it was not ours to stop


def test_what_is_missing_or_wrong_is_said_in_words(server: Server, tmp_path: Path) -> None:
    placeless = plainly("run", *server.flags)
    assert (placeless.returncode, "recovery_dir" in placeless.stderr) == (2, True), placeless.stderr
    assert plainly("sql", "DROP DATABASE livepulse", *server.flags).returncode == 2  # it only reads
    server.password.write_text("of yesterday")
    events = tmp_path / "events.ndjson"
    events.touch()
    for command in (("sql", "SELECT 1"), ("backfill", str(events)), ("run", "--recovery-dir", str(tmp_path / "r"))):
        refused = plainly(*command, *server.flags)
        assert refused.returncode in (1, 2), command
        assert "Authentication failed" in refused.stderr, command
        assert "of yesterday" not in refused.stdout + refused.stderr, command
