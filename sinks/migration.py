"""Bring a database to the declared schema: create what is missing, add columns, renew views. Safe to repeat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from schemas import ddl
from schemas.tables import TABLES, Table
from schemas.views import VIEWS


class SchemaError(Exception):
    """The database has a schema that this version can neither use nor mend."""


class _Present(NamedTuple):
    """A column that is there."""

    type: str
    codec: str  # as ClickHouse writes it; nothing where it is the default


class Asked(Protocol):
    """Where statements go (`sinks.clickhouse.Store`)."""

    def command(self, sql: str) -> None:
        """Run a statement without a result."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a query."""


def migrate(
    store: Asked,
    place: ddl.Place,
    retain_days: Mapping[str, int],
    *,
    replace: bool = False,
    tables: Iterable[Table] = TABLES,
) -> None:
    """Create or mend the database. `retain_days` by table name; `replace` drops everything of ours before.

    Errors: `SchemaError` when a newer version made the database, or a column there has another type.
    """
    store.command(ddl.create_database(place))
    tables = tuple(tables)
    if replace:
        _drop(store, place, tables)
    store.command(ddl.create_versions(place))
    made_by = _version(store, place)
    if made_by > ddl.SCHEMA_VERSION:
        raise SchemaError(
            f"database {place.database} has schema {made_by}; this version of livepulse knows "
            f"{ddl.SCHEMA_VERSION}: install a newer one"
        )
    there = _columns(store, place)
    retained = _ttl_clauses(store, place)
    for table in tables:
        days = retain_days.get(table.name, 0)
        if table.name not in there:
            store.command(ddl.create_table(table, place, days))
            continue
        _mend(store, place, table, there[table.name])
        wanted = f"TTL {ddl.ttl(table, days)}" if days else ""
        if retained[table.name] != wanted:
            store.command(ddl.modify_ttl(table, place, days))
    for view in VIEWS:
        store.command(ddl.create_view(view, place))
    if made_by < ddl.SCHEMA_VERSION:
        into = f"{place.database}.{ddl.VERSIONS_TABLE}"
        store.command(f"INSERT INTO {into} (version) VALUES ({ddl.SCHEMA_VERSION})")  # noqa: S608  # identifiers


def is_complete(store: Asked, place: ddl.Place) -> bool:
    """All that this version wants is there: a user who may not change it can work with it."""
    there = _columns(store, place)
    wanted = {table.name: {column.name for column in table.columns} for table in TABLES}
    return (
        ddl.VERSIONS_TABLE in there
        and _version(store, place) == ddl.SCHEMA_VERSION
        and all(columns <= there.get(name, {}).keys() for name, columns in wanted.items())
        and all(view.name in there for view in VIEWS)
    )


def _mend(store: Asked, place: ddl.Place, table: Table, present: Mapping[str, _Present]) -> None:
    """Add columns that an older version's table lacks, and pack new rows as declared. Unknown columns stay."""
    for column in table.stored:
        if column.name in present and present[column.name].type != column.type:
            raise SchemaError(
                f"{place.database}.{table.name}.{column.name} is {present[column.name].type} and not {column.type}: "
                "name another database, or fill this one anew with --replace"
            )
    codecs = {name: there.codec for name, there in present.items()}
    for statement in (ddl.add_columns(table, place, present), ddl.modify_codecs(table, place, codecs)):
        if statement:
            store.command(statement)


def _drop(store: Asked, place: ddl.Place, tables: Iterable[Table]) -> None:
    for view in VIEWS:
        store.command(ddl.drop("VIEW", view.name, place))
    for table in tables:
        store.command(ddl.drop("TABLE", table.name, place))
    store.command(ddl.drop("TABLE", ddl.VERSIONS_TABLE, place))


def _version(store: Asked, place: ddl.Place) -> int:
    table = f"{place.database}.{ddl.VERSIONS_TABLE}"
    return int(store.query(f"SELECT max(version) AS v FROM {table}")[0]["v"])  # noqa: S608  # identifiers


def _columns(store: Asked, place: ddl.Place) -> dict[str, dict[str, _Present]]:
    """Columns per table of the database."""
    found: dict[str, dict[str, _Present]] = {}
    sql = "SELECT table, name, type, compression_codec FROM system.columns WHERE database = {d:String}"
    for row in store.query(sql, {"d": place.database}):
        found.setdefault(row["table"], {})[row["name"]] = _Present(row["type"], row["compression_codec"])
    return found


def _ttl_clauses(store: Asked, place: ddl.Place) -> dict[str, str]:
    """The `TTL …` of each table, as ClickHouse writes it, or nothing."""
    sql = (
        "SELECT name, extract(create_table_query, ' (TTL .+?)(?: SETTINGS| COMMENT|$)') AS ttl"
        " FROM system.tables WHERE database = {d:String}"
    )
    return {row["name"]: row["ttl"] for row in store.query(sql, {"d": place.database})}
