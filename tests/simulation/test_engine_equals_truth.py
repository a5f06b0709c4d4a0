"""The whole engine over simulated files: every count and every row that has a truth equals it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from flows.simulate import Options, Truth, file_names, simulate_to_files
from sinks import embedded

pytestmark = pytest.mark.integration

OPTIONS = Options(
    seed=5, rate=15.0, events=40_000, start=1_767_603_600_000, partitions=3, users=3_000, videos=800, creators=100,
    topics=150, rooms=8, late_share=0.006, duplicate_share=0.02, bad_share=0.003, compression="zst",
)  # fmt: skip
QUERIES = {
    "partitions": """
        SELECT topic, partition, sum(consumed) AS consumed, sum(accepted) AS accepted, sum(duplicate) AS duplicate,
            sum(late) AS late, sum(rejected) AS rejected
        FROM ingest_ledger GROUP BY topic, partition""",
    "active_users": """
        SELECT toUnixTimestamp(window_start) * 1000 AS window_start, window_seconds, dim, value, events, users, watch_ms
        FROM active_users WHERE is_final = 1""",
    "active_hours": """
        SELECT basis, date, hour, dim, value, events, users, watch_ms FROM active_hours WHERE is_final = 1""",
    "topic_minutes": """
        SELECT toUnixTimestamp(tick) * 1000 AS tick, topic, events, users FROM topic_heat
        WHERE events > 0 AND is_final = 1""",
    "funnel": """
        SELECT unit, toUnixTimestamp(bucket_start) * 1000 AS bucket_start, dim, value, step, reached, amount_minor
        FROM funnel WHERE funnel = 'video_to_live'""",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Truth]]:
    directory = tmp_path_factory.mktemp("engine")
    truth = simulate_to_files(directory / "files", OPTIONS)
    store = directory / "store"
    files = [str(directory / "files" / name) for name in file_names(OPTIONS)]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "backfill", *files, "--store", str(store)],
        capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    up = embedded.start(store, die_with_parent=True)
    yield store, truth
    up.stop()


def asked(store: Path, sql: str) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(embedded.ask(store, sql + " FORMAT Parquet")))


@pytest.mark.parametrize("name", list(QUERIES))
def test_rows_equal_the_truth(run: tuple[Path, Truth], name: str) -> None:
    store, truth = run
    expected = getattr(truth, name)
    assert expected.height > 10
    found = asked(store, QUERIES[name])
    columns = found.columns
    found = found.with_columns(pl.col(c).cast(expected.schema[c]) for c in columns).sort(columns)
    expected = expected.select(columns).sort(columns)
    missing = expected.join(found, on=columns, how="anti")
    surplus = found.join(expected, on=columns, how="anti")
    assert missing.rows() == []
    assert surplus.rows() == []
    assert found.height == expected.height


def test_every_bad_message_is_a_dead_letter(run: tuple[Path, Truth]) -> None:
    store, truth = run
    reasons = dict(asked(store, "SELECT reason, count() AS n FROM dead_letters GROUP BY reason").iter_rows())
    assert sum(reasons.values()) == sum(truth.bad.values()) == truth.totals["rejected"]
    assert len(reasons) > 8


def test_late_events_are_kept(run: tuple[Path, Truth]) -> None:
    store, truth = run
    assert asked(store, "SELECT count() AS n FROM late_events")["n"].item() == truth.totals["late"] > 50


def test_the_archive_holds_every_accepted_event_once(run: tuple[Path, Truth]) -> None:
    store, truth = run
    found = asked(store, "SELECT count() AS n, uniqExact(user_id, event_id) AS ids FROM events")
    assert found.rows() == [(truth.totals["accepted"], truth.totals["accepted"])]
