"""How long each public view takes to answer over 24 h: the first time it is asked, and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grafana.asking import Store
from schemas.declared import View
from schemas.views import VIEWS

_TIMES: Final = ("window_start", "tick", "minute", "bucket_start", "event_time", "ingest_time", "started_at", "date")
_NUMBERS: Final = ("UInt", "Int", "Float", "Decimal")


@dataclass(frozen=True, slots=True)
class ViewTime:
    """Of one view: milliseconds of the first answer, and of the median of later ones."""

    view: str
    rows: int
    first_ms: float
    again_ms: float


def query_of(view: View) -> str:
    """By the hour of the last 24 h every figure is added up; a view without a time is asked for all of its figures."""
    figures = [column.name for column in view.columns if _plain(column.type).startswith(_NUMBERS)]
    sums = ", ".join(["count() AS n", *(f"sum(toFloat64(`{name}`))" for name in figures)])
    time = _time_of(view)
    if time is None:
        return f"SELECT {sums} FROM {view.name}"  # noqa: S608  # words of ours
    last = f"(SELECT max({time}) FROM {view.name})"  # noqa: S608  # words of ours
    span = "1" if time == "date" else "86400"
    return (
        f"SELECT toStartOfHour(toDateTime({time})) AS hour, {sums} FROM {view.name} "  # noqa: S608  # words of ours
        f"WHERE {time} >= {last} - {span} GROUP BY hour ORDER BY hour"
    )


def rows_of(view: View, since: int) -> str:
    """Every row and column since a time (epoch s), from that date on where a view has dates; of one without, of all."""
    time = _time_of(view)
    if time is None:
        return f"SELECT * FROM {view.name}"  # noqa: S608  # words of ours
    moment = f"toDateTime({since}, 'UTC')"
    return f"SELECT * FROM {view.name} WHERE {time} >= {f'toDate({moment})' if time == 'date' else moment}"  # noqa: S608  # as above


def measure(store: Store, again: int = 5) -> list[ViewTime]:
    """Ask every view that is in the store; a store that was just opened answers cold. Errors: `AskError`."""
    there = store.views()
    found = []
    for view in (view for view in VIEWS if view.name in there):
        first, *later = (store.ask(query_of(view)) for _ in range(1 + again))
        at = [name for name, _ in first.columns].index("n")
        rows = sum(int(row[at]) for row in first.rows)
        times = sorted(answer.took_ms for answer in later)
        found.append(ViewTime(view.name, rows, round(first.took_ms, 1), round(times[len(times) // 2], 1)))
    return found


def _time_of(view: View) -> str | None:
    return next((name for name in _TIMES if any(column.name == name for column in view.columns)), None)


def _plain(kind: str) -> str:
    return kind.removeprefix("LowCardinality(").removeprefix("Nullable(").rstrip(")")
