"""Where the embedded store of the settings is. Light, so that commands need not load the store to find none."""

from __future__ import annotations

from pathlib import Path

from flows.errors import Usage
from flows.settings import Settings


def store_there(settings: Settings) -> Path:
    """The directory of the embedded store.

    Raises:
        Usage: there is no store in it.
    """
    if not (settings.store_dir / "clickhouse").is_dir():
        raise Usage(
            f"there is no store in {settings.store_dir}; name one with --store, or make one with `livepulse run`"
        )
    return settings.store_dir
