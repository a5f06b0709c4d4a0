"""DDL text from declarations: CREATE, ALTER and comments, for one server, the embedded store, or a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from schemas.tables import Column, Table, identifier
from schemas.views import View

SCHEMA_VERSION: Final = 1
"""Raised with every change of a table that is more than a column or a comment added."""

VERSIONS_TABLE: Final = "schema_version"


@dataclass(frozen=True, slots=True)
class Place:
    """Where tables are made.

    With a `cluster`, DDL runs `ON CLUSTER` and tables are replicated (one shard a cluster: names of views and tables
    stay the same, a Distributed layer can stand above).
    """

    database: str = "livepulse"
    cluster: str = ""

    def __post_init__(self) -> None:
        identifier(self.database)
        if self.cluster:
            identifier(self.cluster)

    @property
    def on_cluster(self) -> str:
        """The clause, with a blank before it, or nothing."""
        return f" ON CLUSTER {self.cluster}" if self.cluster else ""

    def engine(self, name: str, *arguments: str) -> str:
        """A table engine, replicated on a cluster."""
        if not self.cluster:
            return f"{name}({', '.join(arguments)})"
        path = ("'/clickhouse/tables/{uuid}/{shard}'", "'{replica}'")
        return f"Replicated{name}({', '.join((*path, *arguments))})"


def create_database(place: Place) -> str:
    """The database."""
    return f"CREATE DATABASE IF NOT EXISTS {place.database}{place.on_cluster}"


def create_versions(place: Place) -> str:
    """The table that remembers which schema version was set up when."""
    return (
        f"CREATE TABLE IF NOT EXISTS {place.database}.{VERSIONS_TABLE}{place.on_cluster} "
        "(version UInt32 COMMENT 'Schema version', "
        "applied_at DateTime('UTC') DEFAULT now() COMMENT 'When it was set up') "
        f"ENGINE = {place.engine('ReplacingMergeTree')} ORDER BY version COMMENT 'Schema versions of this database'"
    )


def create_table(table: Table, place: Place, retain_days: int = 0) -> str:
    """The table, when it is not there. `retain_days`: rows go that long after their ingestion; 0: never."""
    lines = [_column(column) for column in table.stored]
    lines += [f"INDEX {name}_range {name} TYPE minmax GRANULARITY 1" for name in table.indices]
    body = ",\n    ".join(lines)
    version = ("version",) if table.versioned else ()
    return (
        f"CREATE TABLE IF NOT EXISTS {place.database}.{table.name}{place.on_cluster}\n(\n    {body}\n)\n"
        f"ENGINE = {place.engine('ReplacingMergeTree', *version)}\n"
        + (f"PARTITION BY ({', '.join(table.partition_by)})\n" if table.partition_by else "")
        + f"ORDER BY ({', '.join(table.order_by)})\n"
        + (f"TTL {ttl(table, retain_days)}\n" if retain_days else "")
        + f"COMMENT {literal(table.comment)}"
    )


def ttl(table: Table, retain_days: int) -> str:
    """The TTL expression, in ClickHouse's own words. A DateTime64 has to be made a DateTime for it."""
    column = next(c for c in table.stored if c.name == table.retained_by)
    time = f"toDateTime({column.name})" if column.plain_type.startswith("DateTime64") else column.name
    return f"{time} + toIntervalDay({int(retain_days)})"


def modify_ttl(table: Table, place: Place, retain_days: int) -> str:
    """Set or remove the retention of a table that is there."""
    change = f"MODIFY TTL {ttl(table, retain_days)}" if retain_days else "REMOVE TTL"
    return f"ALTER TABLE {place.database}.{table.name}{place.on_cluster} {change}"


def add_columns(table: Table, place: Place, present: Iterable[str]) -> str | None:
    """An ALTER that adds the columns that a table made by an older version lacks; None when it lacks none."""
    there = set(present)
    added: list[str] = []
    before = ""
    for column in table.stored:
        if column.name not in there:
            added.append(f"ADD COLUMN IF NOT EXISTS {_column(column)} {f'AFTER {before}' if before else 'FIRST'}")
        before = column.name
    return f"ALTER TABLE {place.database}.{table.name}{place.on_cluster} {', '.join(added)}" if added else None


def modify_codecs(table: Table, place: Place, present: Mapping[str, str]) -> str | None:
    """An ALTER for columns that are packed in another way; None when there is none. What is stored stays as it is.

    `present`: `CODEC(…)` or nothing, by column.
    """
    wanted = {column: f"CODEC({column.codec or 'Default'})" for column in table.stored if column.name in present}
    changed = [
        f"MODIFY COLUMN {column.name} {column.type} {codec}"
        for column, codec in wanted.items()
        if codec != (present[column.name] or "CODEC(Default)")
    ]
    return f"ALTER TABLE {place.database}.{table.name}{place.on_cluster} {', '.join(changed)}" if changed else None


def create_view(view: View, place: Place) -> str:
    """The view, made anew."""
    columns = ",\n    ".join(f"{c.name} {c.type} COMMENT {literal(c.comment)}" for c in view.columns)
    return (
        f"CREATE OR REPLACE VIEW {place.database}.{view.name}{place.on_cluster}\n(\n    {columns}\n)\n"
        f"AS {view.select(place.database).strip()}\nCOMMENT {literal(view.comment)}"
    )


def drop(kind: str, name: str, place: Place) -> str:
    """Drop a TABLE or a VIEW, and wait until it is gone."""
    return f"DROP {kind} IF EXISTS {place.database}.{identifier(name)}{place.on_cluster} SYNC"


def literal(text: str) -> str:
    """`text` as a string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _column(column: Column) -> str:
    default = " DEFAULT now()" if column.name == "written_at" else ""
    codec = f" CODEC({column.codec})" if column.codec else ""
    return f"{column.name} {column.type}{default} COMMENT {literal(column.comment)}{codec}"
