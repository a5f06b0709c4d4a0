"""Frames of kernels into rows of tables: cast to the declared types, checked, encoded as an Arrow stream."""

from __future__ import annotations

import io
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from schemas.tables import TIME, WHOLE_SECONDS, Column, Table

_POLARS: Final[dict[str, pl.DataType]] = {
    "String": pl.String(), "Bool": pl.Boolean(), "Date": pl.Date(), "Float64": pl.Float64(),
    "UInt8": pl.UInt8(), "UInt16": pl.UInt16(), "UInt32": pl.UInt32(), "UInt64": pl.UInt64(),
    "Int8": pl.Int8(), "Int16": pl.Int16(), "Int32": pl.Int32(), "Int64": pl.Int64(),
}  # fmt: skip

_PIECE_ROWS: Final = 8_192  # of a stream, made at a time


class RowsError(ValueError):
    """A frame does not fit its table: a fault of the code that made it."""


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """Rows ready for `INSERT INTO table (columns) FORMAT ArrowStream`. Columns left out take their default (NULL)."""

    frame: pl.DataFrame

    @property
    def columns(self) -> list[str]:
        """Their names, in the order of the stream."""
        return self.frame.columns

    def stream(self) -> Iterator[bytes]:
        """The stream in pieces, made as they are asked for: whole it would be a second copy of the rows."""
        sink = io.BytesIO()
        schema = self.frame.head(0).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        with pa.ipc.new_stream(sink, schema) as writer:
            for piece in self.frame.iter_slices(_PIECE_ROWS):
                writer.write_table(piece.to_arrow(compat_level=pl.CompatLevel.oldest()))
                yield sink.getvalue()
                sink.seek(0)
                sink.truncate()
        yield sink.getvalue()


def typed(table: Table, frame: pl.DataFrame, *, without: Container[str] = ()) -> pl.DataFrame:
    """`frame` with the columns of `table` (but `without` some) in its order and types.

    Times may be epoch ms (Int64) or Polars datetimes.
    Errors: `RowsError` for a missing or unknown column, NULL where none may be, a value that its type cannot hold.
    """
    wanted = {column.name: column for column in table.inserted}
    missing, unknown = wanted.keys() - set(frame.columns), set(frame.columns) - wanted.keys()
    if missing or unknown:
        raise RowsError(f"rows for {table.name} lack {sorted(missing)} and bring unknown {sorted(unknown)}")
    try:
        shown = {name: column for name, column in wanted.items() if name not in without}
        cast = frame.select(_cast(column, frame.schema[name]) for name, column in shown.items())
    except pl.exceptions.PolarsError as error:
        raise RowsError(f"rows for {table.name}: {error}") from error
    for name, column in shown.items():
        if not column.nullable and cast[name].null_count():
            raise RowsError(f"rows for {table.name}: {cast[name].null_count()} of {cast.height} have no {name}")
    return cast


def frame_to_arrow(table: Table, frame: pl.DataFrame) -> ArrowRows:
    """`typed` rows as an Arrow stream that ClickHouse reads.

    Columns that are NULL throughout are left out: an archive row has 35 fields and a view fills half of them.
    """
    given = [c.name for c in table.inserted if c.nullable and c.name in frame.columns]
    empty = {name for name in given if frame[name].null_count() == frame.height}
    return ArrowRows(typed(table, frame, without=empty))


def _cast(column: Column, given: pl.DataType) -> pl.Expr:
    values = pl.col(column.name)
    if column.is_array:
        return values.cast(pl.List(pl.String)).fill_null([])
    if column.plain_type == WHOLE_SECONDS:  # ClickHouse takes a DateTime from Arrow as seconds in a UInt32
        ms = values.dt.epoch("ms") if isinstance(given, pl.Datetime) else values
        return (ms // 1000).cast(pl.UInt32)
    if column.plain_type == TIME:
        return values.cast(pl.Datetime("ms", "UTC"))
    if column.plain_type == "String" and given == pl.Binary:
        return values  # bytes as they are: a dead letter need not be UTF-8
    if given.is_float() and not column.plain_type.startswith("Float"):
        raise RowsError(f"column {column.name} is {column.type} and not {given}")
    return values.cast(_POLARS[column.plain_type])
