"""The commands as a user types them, one after the other: simulate, backfill, sql, check."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def _livepulse(*arguments: str, expect: int = 0) -> str:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=200)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of simulated events and their truth."""
    directory = tmp_path_factory.mktemp("traffic")
    _livepulse("simulate", "--out", str(directory), "--events", "6000", "--rate", "50", "--partitions", "2")
    return directory


@pytest.fixture(scope="module")
def store(traffic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that these files were backfilled into."""
    directory = tmp_path_factory.mktemp("stores") / "store"
    files = sorted(str(path) for path in traffic.glob("*.ndjson"))
    _livepulse("backfill", files[0], "--store", str(directory), *files[1:])
    return directory


def _rows(store: Path, query: str) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for line in _livepulse("sql", f"{query} FORMAT JSONEachRow", "--store", str(store)).splitlines()
    ]


def test_the_ledger_is_what_was_planted(traffic: Path, store: Path) -> None:
    truth = json.loads((traffic / "truth.json").read_text())["totals"]
    sums = ", ".join(f"sum({name}) AS {name}" for name in truth)
    assert [
        {name: int(str(n)) for name, n in row.items()} for row in _rows(store, f"SELECT {sums} FROM ingest_ledger")
    ] == [truth]


def test_everything_is_final_after_a_backfill(store: Path) -> None:
    views = ("active_users", "active_hours", "topic_heat")
    counted = " UNION ALL ".join(
        f"SELECT countIf(is_final = 0) AS open, count() > 0 AS some FROM {view}" for view in views
    )
    assert [(int(str(row["open"])), int(str(row["some"]))) for row in _rows(store, counted)] == [(0, 1)] * len(views)


def test_an_answer_into_a_pipe_is_plain_text(store: Path) -> None:
    assert _livepulse("sql", "SELECT 1, 'a'", "--store", str(store)) == "1\ta\n"


def test_a_wrong_question_is_usage(store: Path) -> None:
    assert "no_such_view" in _livepulse("sql", "SELECT * FROM no_such_view", "--store", str(store), expect=2)
    assert "error: " in _livepulse("sql", "DROP TABLE events_rows", "--store", str(store), expect=2)


def test_a_store_that_is_not_empty_is_kept(traffic: Path, store: Path) -> None:
    file = str(next(traffic.glob("*.ndjson")))
    assert "--replace" in _livepulse("backfill", file, "--store", str(store), expect=2)


def test_check_sees_the_store(store: Path) -> None:
    told = _livepulse("check", "--store", str(store), "--brokers", "127.0.0.1:1", "--json", expect=3)
    found = {(finding["what"], finding["state"]): finding["detail"] for finding in json.loads(told)}
    assert "tables and views in livepulse" in found["store", "good"]
    assert "the store has rows" in found["recovery", "note"]
