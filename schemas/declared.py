"""What a column, a table and a view of the store are: the types of the declarations in `tables`, `views` and others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

ROWS: Final = "_rows"
"""Suffix of the table behind a view."""

_IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TYPE: Final = re.compile(
    r"(?:Nullable\((?P<nullable>\w+(?:\(.*\))?)\)|LowCardinality\((?P<low>String)\)|Array\((?P<array>String)\)"
    r"|(?P<plain>\w+(?:\(.*\))?))"
)
PLAIN_TYPES: Final = frozenset(
    {"String", "Bool", "Date", "DateTime('UTC')", "DateTime64(3, 'UTC')", "Float64"}
    | {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
)
"""Types that a column may have, bare or (but for `Array`, strings only) in `Nullable`."""

COUNTS: Final = "T64, LZ4"
"""Codec of small whole numbers: LZ4 by itself unpacks them at 0.5 GB/s, into twice the bytes."""
UNPACKED: Final = "NONE"
"""Codec of floats of which no two are alike: LZ4 saves nothing, and unpacking takes thrice as long as reading."""
CODECS: Final = frozenset({"", COUNTS, UNPACKED})

TIME: Final = "DateTime64(3, 'UTC')"
WHOLE_SECONDS: Final = "DateTime('UTC')"
DIM: Final = "LowCardinality(String)"
COUNT: Final = "UInt64"
MONEY: Final = "Int64"


def identifier(name: str) -> str:
    """`name`, if it may stand in SQL unquoted. Errors: `ValueError`."""
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a table, a column or a database: lower-case letters, digits and _ only"
        )
    return name


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its ClickHouse type and what it means. `codec`: how it is packed, where LZ4 is not best."""

    name: str
    type: str
    comment: str
    codec: str = ""

    def __post_init__(self) -> None:
        identifier(self.name)
        if self.plain_type not in PLAIN_TYPES:
            raise ValueError(f"column {self.name}: {self.type} is none of the store's types")
        if not self.comment:
            raise ValueError(f"column {self.name} has no comment")
        if self.codec not in CODECS:
            raise ValueError(f"column {self.name}: codec {self.codec!r} is none of {', '.join(sorted(CODECS))}")

    @property
    def plain_type(self) -> str:
        """The type without `Nullable`, `LowCardinality` or `Array`."""
        found = _TYPE.fullmatch(self.type)
        return next((part for part in found.groups() if part), "") if found else ""

    @property
    def nullable(self) -> bool:
        """It may be NULL."""
        return self.type.startswith("Nullable(")

    @property
    def is_array(self) -> bool:
        """It is an array of its plain type."""
        return self.type.startswith("Array(")


@dataclass(frozen=True, slots=True)
class Table:
    """A ReplacingMergeTree of `columns`; rows with equal `order_by` are one row.

    `versioned`: the row with the greatest `version` stands (column added), else the one inserted last.
    `retained_by`: the time column that retention counts from, a time of ingestion; `written_at` (the server's clock at
    the insert) is added for it where rows carry none. `indices`: columns with a min-max index.
    """

    name: str
    comment: str
    columns: tuple[Column, ...]
    order_by: tuple[str, ...]
    versioned: bool = True
    partition_by: tuple[str, ...] = ()
    retained_by: str = "written_at"
    indices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        identifier(self.name)
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name} names a column twice")
        for what, keys in (("order_by", self.order_by), ("indices", self.indices)):
            if missing := set(keys) - set(names):
                raise ValueError(f"table {self.name}: {what} has no such columns {sorted(missing)}")
        if not set(self.partition_by) <= set(self.order_by):  # else FINAL with a filter may return stale rows
            raise ValueError(f"table {self.name}: partition_by must derive from order_by")
        if self.retained_by not in ("written_at", *names):
            raise ValueError(f"table {self.name}: retained_by names no column")

    @property
    def view(self) -> str:
        """The name of the view that people ask."""
        return self.name.removesuffix(ROWS)

    @property
    def inserted(self) -> tuple[Column, ...]:
        """Columns that an insert carries."""
        return (*self.columns, VERSION) if self.versioned else self.columns

    @property
    def stored(self) -> tuple[Column, ...]:
        """All columns of the table."""
        return self.inserted if self.retained_by != WRITTEN_AT.name else (*self.inserted, WRITTEN_AT)


VERSION: Final = Column(
    "version", "UInt64", "Of rows with one key, the greatest stands: final bit, generation, sequence"
)
WRITTEN_AT: Final = Column("written_at", WHOLE_SECONDS, "When the store took the row: what retention counts from")

FINAL: Final = Column("is_final", "UInt8", "1 when the window is closed, 0 for an early result that may still grow")


@dataclass(frozen=True, slots=True)
class View:
    """A view over `source` (and, with `sql`, over more).

    `sql` may say `{database}`; without it every column is shown as it is. `computed`: expressions by column, where a
    column is not read as it stands; `where`: rows that are shown.
    """

    name: str
    comment: str
    source: Table
    columns: tuple[Column, ...]
    computed: Mapping[str, str] = field(default_factory=dict)
    where: str = ""
    sql: str = ""

    def __post_init__(self) -> None:
        identifier(self.name)
        if not self.comment:
            raise ValueError(f"view {self.name} has no comment")
        stored = {column.name for column in self.source.columns}
        if not self.sql and (unknown := {c.name for c in self.columns} - stored - self.computed.keys()):
            raise ValueError(f"view {self.name}: {sorted(unknown)} are neither in {self.source.name} nor computed")

    def select(self, database: str) -> str:
        """The query behind the view."""
        if self.sql:
            return self.sql.replace("{database}", identifier(database))
        shown = ", ".join(
            f"{self.computed[c.name]} AS {c.name}" if c.name in self.computed else c.name for c in self.columns
        )
        condition = f" WHERE {self.where}" if self.where else ""
        text = f"SELECT {shown} FROM {{database}}.{self.source.name} FINAL{condition}"  # noqa: S608  # identifiers
        return text.replace("{database}", identifier(database))


def view_of(table: Table, comment: str) -> View:
    """The view that shows every column of a table as it is."""
    return View(table.view, comment, table, table.columns)
