"""A store that is up, for all tests of one module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sinks import embedded
from sinks.clickhouse import Store
from sinks.embedded import Embedded


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    store = embedded.start(tmp_path_factory.mktemp("store"), die_with_parent=True)
    yield store
    store.stop()
    assert store.process is not None
    assert store.process.returncode == 0


@pytest.fixture(scope="module")
def connected(up: Embedded) -> Iterator[Store]:
    store = Store.connect(up.url, user=up.user, password=up.token, database="livepulse")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def store(connected: Store) -> Store:
    """The migrated store, empty."""
    for table in connected.active_parts():
        if table != "schema_version":
            connected.command(f"TRUNCATE TABLE livepulse.{table}")
    return connected
