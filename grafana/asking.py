"""Ask the store over ClickHouse's HTTP interface: columns and rows of one query."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

_TIMEOUT_SECONDS: Final = 30


class AskError(Exception):
    """The store refused or failed; the text is its own."""


class StoreGoneError(AskError):
    """The store does not answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Columns (name, ClickHouse type) and rows."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]
    took_ms: float


@dataclass(frozen=True, slots=True)
class Store:
    """Where to ask: `url` of a read-only endpoint."""

    url: str
    database: str = "livepulse"
    user: str = ""
    password: str = ""
    max_seconds: int = 10

    def ask(self, sql: str, settings: Mapping[str, str] | None = None) -> Answer:
        """Run one query. Errors: `AskError`."""
        began = time.perf_counter()
        target = "/?" + urlencode(
            {
                "database": self.database, "default_format": "JSONCompact", "max_execution_time": self.max_seconds,
                "output_format_json_quote_64bit_integers": "0", "date_time_output_format": "iso", **(settings or {}),
            }
        )  # fmt: skip
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)
        login = {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password} if self.user else {}
        try:
            connection.request("POST", target, sql.encode(), login)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise StoreGoneError(f"the store at {self.url} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise AskError(body.decode(errors="replace").strip())
        told = json.loads(body)
        columns = tuple((column["name"], column["type"]) for column in told["meta"])
        return Answer(columns, tuple(map(tuple, told["data"])), (time.perf_counter() - began) * 1000)

    def views(self) -> frozenset[str]:
        """Names of tables and views that are there."""
        answer = self.ask(f"SELECT name FROM system.tables WHERE database = '{self.database}'")  # noqa: S608  # a setting
        return frozenset(row[0] for row in answer.rows)
