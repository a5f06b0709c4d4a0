"""What a board is, as typed declarations: boards, rows, panels, variables. `grafana.build` makes JSON of them.

A board answers one question a row. Texts are given in English and Chinese; a setting chooses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")
Kind = Literal[
    "stat", "timeseries", "barchart", "piechart", "table", "heatmap", "state-timeline", "bargauge", "text"
]  # fmt: skip
KINDS: Final = frozenset(
    {"stat", "timeseries", "barchart", "piechart", "table", "heatmap", "state-timeline", "bargauge", "text"}
)
"""Panel types that the embedded board draws too (a bar gauge of steps as a funnel); a check fails on any other."""

_VIEW: Final = re.compile(r"\b(?:FROM|JOIN)\s+([a-z][a-z0-9_]*)\b(?!\()", re.IGNORECASE)
_WITH: Final = re.compile(r"(?:\bWITH|,)\s+([a-z_]+)\s+AS\s*\(", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Text:
    """One text in both languages."""

    en: str
    zh: str

    def of(self, language: Language) -> str:
        """The text in `language`."""
        return self.zh if language == "zh" else self.en


NO_DATA: Final = Text("No data in this range", "此时间段内没有数据")


@dataclass(frozen=True, slots=True)
class Threshold:
    """From `value` on (None: from the lowest), in this colour."""

    value: float | None
    colour: str


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows one column.

    `link`: board that its cells lead to; they set `as_variable` there, and the variables that `and_columns` name take
    those columns of the row.
    """

    title: Text
    unit: str = ""
    decimals: int | None = None
    link: str = ""
    as_variable: str = ""
    and_columns: tuple[str, ...] = ()
    heat: bool = False  # coloured by its value


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `sql` is ClickHouse with the plugin's macros; with `expr` it asks Prometheus instead.

    The first column of a time series is its time; a column of text after it splits the figures into series.
    """

    kind: Kind
    title: Text
    description: Text
    sql: str = ""
    expr: str = ""
    legend: Text = Text("", "")
    width: int = 12
    height: int = 8
    unit: str = "short"
    decimals: int | None = None
    low: float | None = 0.0
    thresholds: tuple[Threshold, ...] = ()
    colours: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    stacked: bool = False
    bars: bool = False  # of a time series: figures of whole spans, which no line should join
    entity: str = "topic"  # of a state timeline: the column that makes its lines
    rows_max: int = 5_000
    content: Text | None = None
    no_value: Text = NO_DATA

    @property
    def views(self) -> frozenset[str]:
        """Views that the query reads."""
        return views_of(self.sql)

    @property
    def is_series(self) -> bool:
        """Its frame must be a time series."""
        return self.kind in ("timeseries", "heatmap")


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    title: Text
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice above the board: from a query, or from `options`. `many`: several values, and all, can be chosen.

    A query's first column is the value, a second one the text that people see.
    A board opens with all of `many`, unless it `starts_with_all` not: then, as with a single choice, with the first.
    """

    name: str
    label: Text
    sql: str = ""
    options: tuple[str, ...] = ()
    many: bool = False
    starts_with_all: bool = True

    def __post_init__(self) -> None:
        if bool(self.sql) == bool(self.options):
            raise ValueError(f"variable {self.name} needs a query or options, one of them")


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. `clock`: what its times are of: events, or the messages' ingestion."""

    uid: str
    title: Text
    description: Text
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    refresh: str = "30s"
    range_from: str = "now-1h"
    clock: Literal["event", "ingest"] = "event"

    def __post_init__(self) -> None:
        titles = [panel.title.en for row in self.rows for panel in row.panels]
        if len(set(titles)) != len(titles):
            raise ValueError(f"board {self.uid} has two panels of one title")

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of its panels."""
        return tuple(panel for row in self.rows for panel in row.panels)


def views_of(sql: str) -> frozenset[str]:
    """Names that `sql` reads from, without those that it defines itself."""
    return frozenset(_VIEW.findall(sql)) - frozenset(_WITH.findall(sql))
