"""A day of rows out of minutes that an engine lived through: what its tables hold after 24 h of such traffic.

The rows are the engine's own, final ones, copied: whole minutes are shifted back by their own span, again and again,
until they fill 24 h; an hour's rows by an hour. So a day has as many rows as one of that traffic, with the values of
minutes. What only hours tell is not in them: `growth` and `stage` of topics are those of a young engine (NULL, mostly),
figures of an hour are those of minutes, and there are no hourly rows of topics that nothing happens to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flows.bench_engine import StoreReader
from flows.errors import DependencyDown
from schemas import tables
from schemas.declared import Table
from sinks.clickhouse import Store

MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400

_SETTLED_SECONDS: Final = 5  # from the watermark's passing until all final rows are there: epochs of half a second
_POLL_SECONDS: Final = 0.5
_LIVED: Final = (
    "SELECT (SELECT toUnixTimestamp(min(minute)) FROM ingest_ledger), "
    "(SELECT toUnixTimestamp(max(watermark)) FROM engine_progress)"
)
_AT_WORK: Final = (
    "SELECT (SELECT count() FROM system.merges) AS merges, "
    "(SELECT count() FROM system.parts WHERE active AND database = {d:String}) AS parts"
)


@dataclass(frozen=True, slots=True)
class Lived:
    """Whole minutes `[first, last)` (epoch s) of which an engine saw all, and whose windows are closed."""

    first: int
    last: int

    @property
    def seconds(self) -> int:
        """How long they last."""
        return max(0, self.last - self.first)

    @property
    def since(self) -> int:
        """When the day that ends with them begins, down to the hour: nothing of what is grown is before it."""
        return (self.last - DAY_S) // HOUR_S * HOUR_S


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a table that are of a minute each, or of an hour. `where`: which; `begins`: SQL of when that begins."""

    table: Table
    seconds: int
    where: str = "1"
    begins_sql: str = ""

    @property
    def begins(self) -> str:
        """As given, else the time that the table is ordered by."""
        return self.begins_sql or next(
            column.name for column in self.table.columns if _is_time(column.plain_type) and self._orders(column.name)
        )

    def moved(self, back: str) -> str:
        """SQL of all that an insert carries, `back` seconds earlier: times and, of local hours, what tells them."""
        earlier = f"{self.begins} - toIntervalSecond({back})"
        local = {"date": f"toDate({earlier})", "weekday": f"toDayOfWeek({earlier})", "hour": f"toHour({earlier})"}
        moved = local if self.table is tables.ACTIVE_HOURS else {}
        return ", ".join(
            f"{column.name} - toIntervalSecond({back})"
            if _is_time(column.plain_type)
            else moved.get(column.name, column.name)
            for column in self.table.inserted
        )

    def between(self, begin: int, end: int) -> str:
        """SQL of whether a row's time is in `[begin, end)`, in epoch s."""
        return f"{self.begins} >= toDateTime({begin}, 'UTC') AND {self.begins} < toDateTime({end}, 'UTC')"

    def _orders(self, name: str) -> bool:
        return name in self.table.order_by


def _is_time(plain_type: str) -> bool:
    return plain_type.startswith("DateTime")


KINDS: Final = (
    Rows(tables.ACTIVE_USERS, MINUTE_S, "window_seconds = 60"),
    Rows(tables.TOPIC_HEAT, MINUTE_S, begins_sql="tick - 60"),  # a tick is the end of its minute
    Rows(tables.LEDGER, MINUTE_S),
    Rows(tables.ACTIVE_USERS, HOUR_S, "window_seconds = 3600"),
    Rows(tables.ACTIVE_HOURS, HOUR_S, begins_sql="toDateTime(date, 'UTC') + toIntervalHour(hour)"),
    Rows(tables.FUNNEL, HOUR_S),
)
"""What grows with time. What does not: a row a topic (`topic_lifecycle`), a row an engine (`engine_progress`)."""


def lived(reader: StoreReader) -> Lived:
    """What an engine has lived through: from the first minute that messages came in all along, to the watermark."""
    came, watermark = (int(number) for number in reader.numbers(_LIVED))
    if came <= 0 or watermark <= 0:
        return Lived(0, 0)
    return Lived(came + MINUTE_S, (watermark - _SETTLED_SECONDS) // MINUTE_S * MINUTE_S)


def grow(store: Store, whole: Lived) -> None:
    """Let the tables hold the 24 h that end with `whole`, and nothing of the minutes that were not.

    Raises:
        DependencyDown: a table lacks rows of a minute that was lived through.
    """
    for kind in KINDS:
        begin, end = (whole.first, whole.last) if kind.seconds == MINUTE_S else _fullest_hour(store, kind)
        _fill(store, kind, begin, end)
        there = f"SELECT uniqExact({kind.begins}) AS n FROM {_of(store, kind)} FINAL WHERE {kind.where}"  # noqa: S608  # words of ours
        if (found := store.query(there)[0]["n"]) != DAY_S // kind.seconds:
            raise DependencyDown(
                f"{kind.table.name} has rows of {found} of the day's {DAY_S // kind.seconds} times {kind.seconds} s: "
                "it lacks some of those that were lived through"
            )


def _fill(store: Store, kind: Rows, begin: int, end: int) -> None:
    """An hour of copies at a time: of all at once ClickHouse would make other parts than an engine does."""
    table, whole = _of(store, kind), kind.between(begin, end)
    store.command(f"ALTER TABLE {table} DELETE WHERE {kind.where} AND NOT ({whole}) SETTINGS mutations_sync = 1")
    names = ", ".join(column.name for column in kind.table.inserted)
    for backs in _hours(range(end - begin, DAY_S, end - begin)):
        store.command(
            f"INSERT INTO {table} ({names}) SELECT {kind.moved('back')} "  # noqa: S608  # words of ours
            f"FROM (SELECT * FROM {table} FINAL WHERE {kind.where} AND {whole}) ARRAY JOIN {list(backs)} AS back "
            f"WHERE {kind.begins} - toIntervalSecond(back) >= toDateTime({end - DAY_S}, 'UTC')"
        )


def _hours(backs: range) -> Iterator[range]:
    """Steps back in time, an hour's at once, or one if that is longer."""
    size = max(1, HOUR_S // backs.step)
    return (backs[at : at + size] for at in range(0, len(backs), size))


def _fullest_hour(store: Store, kind: Rows) -> tuple[int, int]:
    """The hour with most rows: what was lived through may lie in two."""
    found = store.query(
        f"SELECT toUnixTimestamp({kind.begins}) AS began FROM {_of(store, kind)} FINAL "  # noqa: S608  # words of ours
        f"WHERE {kind.where} GROUP BY began ORDER BY count() DESC, began DESC LIMIT 1"
    )
    if not found:
        raise DependencyDown(f"{kind.table.name} has no rows with {kind.where}")
    began = int(found[0]["began"])
    return began, began + HOUR_S


def counts(store: Store) -> dict[str, int]:
    """Rows that stand, of each table that has some."""
    found = {}
    for table in tables.TABLES:
        told = store.query(f"SELECT count() AS n FROM {store.database}.{table.name} FINAL")  # noqa: S608  # identifiers
        found[table.name] = int(told[0]["n"])
    return {name: rows for name, rows in found.items() if rows}


def rest(store: Store, most_seconds: float = 60.0, still_seconds: float = 5.0) -> bool:
    """Wait until ClickHouse has merged what it wants to, as it would have over a day; whether it came to rest."""
    give_up, since, before = time.monotonic() + most_seconds, time.monotonic(), -1
    while (now := time.monotonic()) < give_up:
        (told,) = store.query(_AT_WORK, {"d": store.database})
        if told["merges"] or told["parts"] != before:
            since, before = now, told["parts"]
        elif now - since >= still_seconds:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _of(store: Store, kind: Rows) -> str:
    return f"{store.database}.{kind.table.name}"
