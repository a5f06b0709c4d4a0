"""The store of the settings for commands that read it: a server, or the embedded one, engine up or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flows.settings import Settings
from flows.store_place import store_there
from sinks import embedded
from sinks.clickhouse import Store


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """A connection while the block runs; an embedded store that is not up is up for as long.

    Raises:
        Usage: there is no store.
    """
    if settings.is_server:
        store = Store.connect(settings.store, settings.store_user or "default", settings.password(), settings.database)
        try:
            yield store
        finally:
            store.close()
        return
    with embedded.running(store_there(settings)) as up:
        store = Store.connect(up.url, up.user, up.token, settings.database)
        try:
            yield store
        finally:
            store.close()
