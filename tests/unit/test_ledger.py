"""The ledger's rows are absolute counts: none may shrink, whatever stamps the messages carry."""

from __future__ import annotations

import random

import polars as pl
import pytest

from flows.kernel import Progress
from flows.ledger import LedgerMerge, outcome_counts
from schemas.events import KIND

DAY_MS = 86_400_000
NOW = 1_795_720_020_000


def counted(kind: str, stamps: list[int], partition: int = 0) -> pl.DataFrame:
    """Messages consumed, by their stamps' minutes."""
    frame = pl.DataFrame({"minute": [stamp // 60_000 * 60_000 for stamp in stamps]}, schema={"minute": pl.Int64})
    kinds = pl.lit(KIND[kind], dtype=pl.UInt8).alias("kind")
    return outcome_counts(frame.with_columns(kinds, pl.lit(partition, dtype=pl.Int32).alias("partition")), "consumed")


class Table:
    """What the store has: the last row written of each key."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int, int], int] = {}
        self._emissions = 0

    def take(self, ledger: LedgerMerge) -> None:
        self._emissions += 1
        progress = Progress(NOW, self._emissions * 1_000, early=False, end=False, last_event_time=NOW)
        for row in ledger.emit(progress).get("ingest_ledger", pl.DataFrame()).to_dicts():
            key = row["topic"], row["partition"], row["minute"]
            assert row["consumed"] >= self.rows.get(key, 0), f"{key} shrank"
            self.rows[key] = row["consumed"]

    def total(self) -> int:
        return sum(self.rows.values())


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(("order", [NOW - 45 * DAY_MS]), id="a topic that was filled weeks before the others"),
        pytest.param(("view", [NOW - 45 * DAY_MS]), id="producers' stamps, of history sent again"),
        pytest.param(("view", [0]), id="producers that stamp nothing (-1)"),
    ],
)
def test_no_message_is_forgotten(old: tuple[str, list[int]]) -> None:
    ledger, table, sent = LedgerMerge(), Table(), 0
    for number in range(5):
        for kind, stamps in (("view", [NOW + number * 2 * 3_600_000]), old):
            ledger.fold([counted(kind, stamps)])
            sent += len(stamps)
            table.take(ledger)
    assert table.total() == sent


def test_months_of_one_topic_are_forgotten_and_restored_alike() -> None:
    """What is old goes, so that state stays flat; what is counted does not, in whichever order stamps come."""
    random.seed(7)
    ledger, table, sent = LedgerMerge(), Table(), 0
    for day in range(90):
        stamps = [NOW + day * DAY_MS - random.choice([0, 60_000, 40 * DAY_MS]) for _ in range(20)]
        ledger.fold([counted("view", stamps), counted("like", stamps, partition=3)])
        sent += 2 * len(stamps)
        table.take(ledger)
        if day % 10 == 9:
            again = LedgerMerge()
            again.restore(ledger.snapshot(), [])
            ledger = again
            table.take(ledger)
    assert table.total() == sent
    kept = LedgerMerge()
    kept.restore(ledger.snapshot(), [])
    table.take(kept)
    assert len(table.rows) > 3 * 60
    assert pl.read_ipc(ledger.snapshot()).height < 2 * 70
