"""The truth about live rooms against the files that were written: recounted by the oracle, one event at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.simulate import Truth, simulate_to_files
from schemas.sessions import MEASURES
from tests.oracles import sessions
from tests.simulation.test_simulated_files import OPTIONS, Recount

NAMES = [measure.name for measure in MEASURES]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, list[sessions.Event]]:
    directory = tmp_path_factory.mktemp("rooms")
    truth = simulate_to_files(directory, OPTIONS)
    events: list[sessions.Event] = [dict(event) for event in Recount(directory, OPTIONS).accepted]
    assert (Path(directory) / "truth-rooms.parquet").exists()
    return truth, events


def test_rooms_are_exact(written: tuple[Truth, list[sessions.Event]]) -> None:
    truth, events = written
    assert truth.rooms is not None
    facts = ("pcu", "watching_peak", "creator_id", "category")
    found = {row["live_id"]: {name: row[name] for name in (*facts, *NAMES) if row[name] or name in facts}
             for row in truth.rooms.iter_rows(named=True)}  # fmt: skip
    rooms = sessions.rooms(events, 0)
    assert found == {room: {name: row[name] for name in (*facts, *NAMES) if name in row} for room, row in rooms.items()}
    assert {"gifters", "buyers", "orders_refunded", "followers", "exposed_users", "clickers"} <= found["l0"].keys()


def test_minutes_of_rooms_are_exact(written: tuple[Truth, list[sessions.Event]]) -> None:
    truth, events = written
    assert truth.room_minutes is not None
    facts = ("viewers", "pcu", "watching")
    found = {
        (row["live_id"], row["window_start"]): {
            name: row[name] for name in (*facts, *NAMES) if row[name] or name in facts
        }
        for row in truth.room_minutes.iter_rows(named=True)
    }
    minutes = sessions.minutes(events)
    assert found == {key: {name: n for name, n in row.items() if name != "acu"} for key, row in minutes.items()}


def test_sources_and_products_are_exact(written: tuple[Truth, list[sessions.Event]]) -> None:
    truth, events = written
    assert truth.room_sources is not None
    assert truth.room_products is not None
    entered = {
        (row["live_id"], row["source"]): row["entered_users"] for row in truth.room_sources.iter_rows(named=True)
    }
    assert entered == {key: users for key, (users, _) in sessions.sources(events).items()}
    names = ("product_clicks", "clickers", "orders", "buyers", "gmv_minor")
    sold = {(row["live_id"], row["product_id"]): {name: row[name] for name in names if row[name]}
            for row in truth.room_products.iter_rows(named=True)}  # fmt: skip
    asked = {key: {name: row[name] for name in names if name in row} for key, row in sessions.products(events).items()}
    assert sold == {key: row for key, row in asked.items() if row}
