"""Figures over the same rows are asked in one query: most of a small query's time is its planning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_FIGURE: Final = re.compile(r"SELECT (?P<figure>.+?) AS (?P<name>\w+) (?P<rows>FROM \w+(?: WHERE .+)?)", re.DOTALL)
_MORE: Final = re.compile(r"\b(?:SELECT|GROUP|ORDER|LIMIT|HAVING|UNION|JOIN|FROM)\b", re.IGNORECASE)
_TEXT: Final = re.compile(r"'(?:[^'\\]|\\.)*'")
_AGGREGATE: Final = re.compile(r"\b(?:sum|count|countIf|sumIf|min|max|avg|uniqExact)\(")


@dataclass(frozen=True, slots=True)
class Question:
    """A query, and for each that it stands for which of its columns is the answer (None: the whole)."""

    sql: str
    columns: dict[int, int] | None
    places: tuple[int, ...]


def merged(queries: Sequence[str]) -> list[Question]:
    """The questions that answer `queries` (by their places); those with one figure over the same rows are one."""
    groups: dict[str, list[tuple[int, str]]] = {}
    alone: list[Question] = []
    for place, sql in enumerate(queries):
        found = _FIGURE.fullmatch(sql)
        if found and _AGGREGATE.search(found["figure"]) and not _is_more(found["figure"], found["rows"]):
            groups.setdefault(found["rows"], []).append((place, found["figure"]))
        else:
            alone.append(Question(sql, None, (place,)))
    for rows, figures in groups.items():
        if len(figures) == 1:
            alone.append(Question(queries[figures[0][0]], None, (figures[0][0],)))
            continue
        asked = ", ".join(f"{figure} AS figure_{at}" for at, (_, figure) in enumerate(figures))
        columns = {place: at for at, (place, _) in enumerate(figures)}
        alone.append(Question(f"SELECT {asked} {rows}", columns, tuple(columns)))
    return alone


def _is_more(figure: str, rows: str) -> bool:
    """Something that holds for one of the figures alone, or several columns (texts do not count)."""
    bare = _TEXT.sub("''", f"{figure} {rows.removeprefix('FROM')}")
    return _MORE.search(bare) is not None or " AS " in bare
