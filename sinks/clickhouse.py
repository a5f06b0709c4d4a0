"""The store as the engine sees it: ClickHouse over HTTP, a server or the embedded one (`sinks.gateway`) alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import polars as pl

from schemas import ddl
from schemas.rows import frame_to_arrow
from schemas.session_tables import LABELS
from schemas.tables import EVENTS, LOSSES, TABLES, identifier, table_of
from sinks.migration import is_complete, migrate

_T = TypeVar("_T")

_FINAL_BIT: Final = 1 << 63
_RETRIED_CODES: Final = frozenset({159, 202, 209, 210, 236, 242, 252, 319, 425, 439, 999})
"""Errors that pass: timeout, too many queries, sockets, shutting down, read-only replica, too many parts, …"""
_INSERT_SETTINGS: Final[Mapping[str, str]] = {"async_insert": "0", "optimize_on_insert": "0"}
"""A row is acknowledged when it is in a part; duplicates within an insert are left to the merge, as all others are."""


class StoreError(Exception):
    """The store refused something; its text says what and where."""


class StoreDownError(StoreError):
    """The store did not answer for as long as we were willing to wait. The call may be repeated later."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call is repeated while the store is down, overloaded or restarting."""

    seconds: float = 60.0
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0


class Store:
    """A connection. Not for use by several threads at a time; open one each.

    Every call is repeated on network trouble (`Patience`), inserts too: rows are upserts by key, so a repeated insert
    changes nothing. Errors: `StoreDownError` when patience ends, `StoreError` for what a repetition would not cure.
    """

    def __init__(self, url: str, database: str, open_client: Callable[[], Any], patience: Patience) -> None:
        self.url, self.database = url, database
        self._open, self._patience = open_client, patience
        self._client: Any = None
        self.on_retry: Callable[[], None] = lambda: None  # told of each failed try

    @classmethod
    def connect(
        cls,
        url: str,
        user: str = "default",
        password: str = "",
        database: str = "livepulse",
        *,
        patience: Patience | None = None,
    ) -> Store:
        """A store at `http(s)://host:port`. The connection is made and tried at once."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreError(f"{url!r} is no address of a ClickHouse: http://host:8123 is one")
        secure = parts.scheme == "https"

        def open_client() -> Any:  # noqa: ANN401  # clickhouse-connect ships no types
            for name in ("clickhouse_connect", "urllib3.connectionpool"):
                logging.getLogger(name).setLevel(logging.ERROR)  # they warn at each try; `StoreDownError` says it once
            import clickhouse_connect  # noqa: PLC0415  # 0.3 s that only those who connect should pay

            client: Any = clickhouse_connect.get_client(
                host=parts.hostname, port=parts.port or (8443 if secure else 8123), secure=secure, username=user,
                password=password, autogenerate_session_id=False, query_retries=0, connect_timeout=5, compress=secure,
                client_name="livepulse",
            )  # fmt: skip
            client.http_retries = 0  # `_retry` does it, for longer and saying so
            client.database = identifier(database)  # set after connecting: the first call of all may have to create it
            return client

        store = cls(url, database, open_client, patience or Patience())
        store._retry(lambda client: client.ping())
        return store

    def migrate(
        self,
        *,
        events_ttl_days: int = 0,
        replace: bool = False,
        cluster: str = "",
        retain_days: Mapping[str, int] | None = None,
    ) -> None:
        """Create what is missing and bring up to date what is there; safe to repeat. `replace` drops our tables first.

        `retain_days`: days that rows of a table (by its view's name) are kept from ingestion on; absent: for ever.
        """
        days = {**(retain_days or {}), EVENTS.view: events_ttl_days}
        place = ddl.Place(self.database, cluster)
        try:
            migrate(self, place, {table_of(name).name: n for name, n in days.items()}, replace=replace)
        except StoreError as error:  # `livepulse_writer` of users.sql may not make what is there already
            if replace or "ACCESS_DENIED" not in str(error) or not self._has_all(place):
                raise

    def _has_all(self, place: ddl.Place) -> bool:
        try:
            return is_complete(self, place)
        except StoreError:  # there is no such database
            return False

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        """Insert rows into the table behind view `table`, in one insert. On return they are stored.

        Errors: `RowsError` when the frame does not fit the table.
        """
        if not frame.height:
            return
        into = table_of(table)
        rows = frame_to_arrow(into, frame)
        self._retry(
            lambda client: client.raw_insert(
                f"{self.database}.{into.name}",
                rows.columns,
                rows.stream(),  # bytes would be copied: the client puts the statement before them
                settings=dict(_INSERT_SETTINGS),
                fmt="ArrowStream",
            )
        )

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a query, as ClickHouse types map to Python's. `parameters` fill `{name:Type}`."""
        result = self._retry(lambda client: client.query(sql, parameters=dict(parameters or {}), tz_mode="aware"))
        return [dict(row) for row in result.named_results()]

    def frame(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The same as a frame. `DateTime` arrives as Datetime("ms", "UTC"), like `DateTime64`."""
        bound = dict(parameters or {})
        raw = self._retry(lambda client: client.raw_query(sql, parameters=bound, fmt="ArrowStream"))
        if not raw:
            return pl.DataFrame()
        types = self._retry(lambda client: client.query(f"DESCRIBE ({sql})", parameters=bound))
        seconds = [row[0] for row in types.result_rows if row[1].removeprefix("Nullable(").startswith("DateTime(")]
        found = pl.read_ipc_stream(raw)
        return found.with_columns((pl.col(n).cast(pl.Int64) * 1000).cast(pl.Datetime("ms", "UTC")) for n in seconds)

    def command(self, sql: str) -> None:
        """A statement without a result. Names in it must be qualified by their database."""
        self._retry(lambda client: client.command(sql, use_database=False))

    def is_empty(self) -> bool:
        """No row of the engine is stored (nor is the database there, perhaps); labels may be."""
        found = self.query(
            "SELECT sum(rows) AS n FROM system.parts"
            " WHERE active AND database = {d:String} AND table IN {tables:Array(String)}",
            {"d": self.database, "tables": [table.name for table in TABLES if table not in (LOSSES, LABELS)]},
        )
        return int(found[0]["n"]) == 0

    def max_version(self) -> int:
        """The greatest version stored, without its final bit: a new generation must be above it. 0: there is none."""
        there = {
            row["name"]
            for row in self.query("SELECT name FROM system.tables WHERE database = {d:String}", {"d": self.database})
        }
        asked = [
            f"SELECT max(bitAnd(version, {_FINAL_BIT - 1})) AS v FROM {self.database}.{table.name}"  # noqa: S608  # identifiers
            for table in TABLES
            if table.versioned and table.name in there
        ]
        union = " UNION ALL ".join(asked)
        return int(self.query(f"SELECT max(v) AS v FROM ({union})")[0]["v"]) if asked else 0  # noqa: S608  # as above

    def active_parts(self) -> dict[str, int]:
        """Active parts per table: inserts slow down at 1,000 and fail at 3,000."""
        rows = self.query(
            "SELECT table, count() AS parts FROM system.parts WHERE active AND database = {d:String} GROUP BY table",
            {"d": self.database},
        )
        return {row["table"]: int(row["parts"]) for row in rows}

    def record_loss(self, topic: str, partition: int, wanted: int, found: int) -> None:
        """Note that messages `[wanted, found)` of a partition were gone before they were read, and accepted as lost."""
        self.insert(
            LOSSES.view,
            pl.DataFrame(
                {"topic": [topic], "partition": [partition], "wanted_offset": [wanted], "found_offset": [found],
                 "recorded_at": [datetime.now(UTC)]}
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _retry(self, call: Callable[[Any], _T]) -> _T:
        """Call until it works, patience ends, or the error is one that repeating does not cure."""
        from clickhouse_connect.driver.exceptions import ClickHouseError  # noqa: PLC0415  # as in `connect`

        began, pause = time.monotonic(), self._patience.first_pause_seconds
        while True:
            try:
                if self._client is None:
                    self._client = self._open()
                return call(self._client)
            except (ClickHouseError, OSError) as error:
                if not _passes(error):
                    raise StoreError(f"ClickHouse at {self.url}: {error}") from error
                waited = time.monotonic() - began
                if waited + pause > self._patience.seconds:
                    raise StoreDownError(
                        f"ClickHouse at {self.url} does not answer, for {waited:.0f} s now: {error}"
                    ) from error
            self.on_retry()
            time.sleep(pause)
            pause = min(2 * pause, self._patience.longest_pause_seconds)


def _passes(error: Exception) -> bool:
    """Whether the same call may work later."""
    from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError  # noqa: PLC0415  # as in `connect`

    if isinstance(error, OSError | OperationalError):  # no connection; or 429, 503, 504
        return True
    return isinstance(error, DatabaseError) and error.code in _RETRIED_CODES
