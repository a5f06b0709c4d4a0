"""O3: a reader that polls while things break. Versions never go back; a final row never changes."""

from __future__ import annotations

import threading
from typing import Any

from sinks.clickhouse import Patience, Store, StoreError
from sinks.embedded import Embedded

QUERIES = {
    "active_users": "SELECT window_start, window_seconds, dim, value, events, users, is_final, version "
    "FROM livepulse.active_users_rows FINAL WHERE dim = 'all'",
    "topic_heat": "SELECT tick, topic, events, users, is_final, version FROM livepulse.topic_heat_rows FINAL",
    "active_hours": "SELECT basis, date, hour, dim, value, events, users, is_final, version "
    "FROM livepulse.active_hours_rows FINAL WHERE dim = 'all'",
}


class Reader:
    """Polls from a thread until it is closed; `violations` tells what no reader may see."""

    def __init__(self, up: Embedded) -> None:
        self._up = up
        self._seen: dict[tuple[Any, ...], tuple[int, int, tuple[Any, ...]]] = {}
        self._stop = threading.Event()
        self.polls = 0
        self.finals = 0
        self.violations: list[str] = []
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _poll(self) -> None:
        while not self._stop.wait(0.15):
            try:
                store = Store.connect(self._up.url, self._up.user, self._up.token, patience=Patience(seconds=1))
                for view, sql in QUERIES.items():
                    for row in store.query(sql):
                        self._look(view, row)
                store.close()
                self.polls += 1
            except StoreError:
                continue  # not migrated yet

    def _look(self, view: str, row: dict[str, Any]) -> None:
        version, final = row.pop("version"), row.pop("is_final")
        figures = (row.pop("events"), row.pop("users"))
        key = (view, *row.values())
        before = self._seen.get(key)
        self._seen[key] = (version, final, figures)
        self.finals += bool(final) and (before is None or not before[1])
        if before is None:
            return
        if version < before[0]:
            self.violations.append(f"{key}: version {before[0]} → {version}")
        if before[1] and (figures != before[2] or not final):
            self.violations.append(f"{key}: final {before[2]} → {figures}")
