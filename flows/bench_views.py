"""Views over a day: how long each takes to answer over 24 h of rows, as an engine makes them at some rate of events.

An engine lives through minutes of traffic on a real broker and is stopped; its store is grown into a day
(`flows.bench_day`), left to its merges and opened anew. Then each view with rows is asked over the read-only port, with
nothing beside. What a question takes is until its answer has been read whole; where it is every row of a view, all are
computed and none is sent (`FORMAT Null`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from flows.bench_day import MINUTE_S, Lived, counts, grow, lived, rest
from flows.bench_engine import EngineProcess, StoreReader
from flows.bench_latency import under_traffic
from flows.bench_throughput import FLOWS, Say, home_of, machine, refuse_kept
from flows.broker import RealBroker
from flows.errors import Usage
from schemas.declared import View
from schemas.views import VIEWS
from sinks import embedded
from sinks.clickhouse import Store
from sinks.embedded import Embedded

_SETTINGS: Final = {
    "workers": 1, "families": FLOWS, "events_archive": False,
    "out_of_orderness": "10s",  # the traffic's is 5 s; by default minutes close after five, and their rows rank nothing
}  # fmt: skip
_LATE_SECONDS: Final = 300.0  # an engine that has not closed its minutes by then does not keep up
_AGAIN: Final = 7

Sums = Callable[[View], str]
"""SQL of a view's figures, added up by the hour over 24 h."""
Whole = Callable[[View, int], str]
"""SQL of every row and column of a view since a time (epoch s)."""

_HOTTEST: Final = "SELECT topic FROM topic_heat WHERE tick = (SELECT max(tick) FROM topic_heat) ORDER BY heat DESC"
_ASKED: Final = {
    "active_users: a line a category": (
        "SELECT window_start, value, events, users FROM active_users "
        "WHERE window_start >= {since} AND window_seconds = 60 AND dim = 'category' ORDER BY window_start, value"
    ),
    "active_users: events by minute": (
        "SELECT window_start, sum(events) FROM active_users "
        "WHERE window_start >= {since} AND window_seconds = 60 AND dim = 'all' "
        "GROUP BY window_start ORDER BY window_start"
    ),
    "topic_heat: ten hottest now": (
        "SELECT topic, heat FROM topic_heat WHERE tick = (SELECT max(tick) FROM topic_heat) ORDER BY heat DESC LIMIT 10"
    ),
    "topic_heat: lines of the ten hottest": (
        f"SELECT tick, topic, heat FROM topic_heat WHERE tick >= {{since}} AND topic IN ({_HOTTEST} LIMIT 10) "  # noqa: S608  # words of ours
        "ORDER BY tick, topic"
    ),
    "topic_heat: ten hottest of the day": (
        "SELECT topic, max(heat) AS hottest FROM topic_heat WHERE tick >= {since} "
        "GROUP BY topic ORDER BY hottest DESC LIMIT 10"
    ),
    "funnel: steps of the day": (
        "SELECT funnel, unit, step, step_name, sum(reached) FROM funnel WHERE bucket_start >= {since} AND dim = 'all' "
        "GROUP BY funnel, unit, step, step_name ORDER BY funnel, unit, step"
    ),
    "ingest_ledger: messages by topic": (
        "SELECT topic, sum(consumed), sum(accepted) FROM ingest_ledger WHERE minute >= {since} "
        "GROUP BY topic ORDER BY topic"
    ),
}
"""What people ask of a day, as boards do: from a moment on that the text states."""


@dataclass(frozen=True, slots=True)
class Views:
    """What is to be measured. `seconds` of traffic become the day: whole minutes."""

    rate: int = 20_000
    seconds: int = 180
    seed: int = 7
    keep: Path | None = None  # leave the day's store there

    def __post_init__(self) -> None:
        if self.rate < 1 or self.seconds < 2 * MINUTE_S:  # copies of one minute alone compress better than a day does
            raise Usage("a benchmark of views needs an event a second and two minutes of them at least")
        refuse_kept(self.keep)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and whether the answer's rows are sent."""

    name: str
    sql: str
    sent: bool = True


def measure(wanted: Views, sums: Sums, whole: Whole, say: Say) -> dict[str, Any]:
    """Run it; the JSON object.

    Raises:
        DependencyDown: no Java for the broker, or broker, engine or store failed.
    """
    with home_of(wanted.keep) as home:
        with (
            RealBroker() as broker,
            under_traffic(broker, "views.", home, _SETTINGS, wanted.rate, wanted.seed) as (engine, reader, _),
        ):
            say(f"living through {wanted.seconds // MINUTE_S} minutes at {wanted.rate:,} events/s")
            _live_through(engine, reader, wanted.seconds // MINUTE_S * MINUTE_S)
        return {"benchmark": "views", "rate": wanted.rate, **over_a_day(home / "store", sums, whole, say)}


def _live_through(engine: EngineProcess, reader: StoreReader, seconds: int) -> None:
    give_up = time.monotonic() + seconds + _LATE_SECONDS
    while lived(reader).seconds < seconds:
        engine.check(give_up, f"close {seconds} s of whole minutes")
        time.sleep(1)


def over_a_day(directory: Path, sums: Sums, whole: Whole, say: Say) -> dict[str, Any]:
    """Of the store that a stopped engine left: grow it into a day, then ask its views."""
    with embedded.running(directory) as up:
        grown, span = _grown(up, say)
    with embedded.running(directory) as up, closing(StoreReader(up.read_url)) as reader:
        filled = [view for view in VIEWS if reader.numbers(f"SELECT count() FROM {view.name}")[0]]  # noqa: S608  # identifiers
        asked = questions(filled, span.since, sums, whole)
        found = {question.name: _timed(reader, question, say) for question in asked}
    slowest = max(found, key=lambda name: found[name]["p50_ms"])
    return {
        **grown, "machine": machine(),
        "empty_views": [view.name for view in VIEWS if view not in filled],
        "views": found, "slowest_p50_ms": found[slowest]["p50_ms"], "slowest": slowest, "runs": [found],
    }  # fmt: skip


def _grown(up: Embedded, say: Say) -> tuple[dict[str, Any], Lived]:
    """What the day came from and what it holds."""
    with closing(StoreReader(up.read_url)) as reader:
        span = lived(reader)
        consumed = reader.numbers(
            "SELECT sum(consumed) FROM ingest_ledger "  # noqa: S608  # numbers
            f"WHERE minute >= toDateTime({span.first}, 'UTC') AND minute < toDateTime({span.last}, 'UTC')"
        )[0]
    say(f"growing {span.seconds // MINUTE_S} minutes with {consumed:,.0f} events into a day")
    with closing(Store.connect(up.url, user=up.user, password=up.token)) as store:
        grow(store, span)
        rested = rest(store)
        rows, parts = counts(store), store.active_parts()
    for name, count in rows.items():
        say(f"{name}: {count:,} rows in {parts[name]} parts")
    if not rested:
        say("merges went on for a minute: the figures are taken beside them")
    told = {
        "achieved_rate": round(consumed / span.seconds), "minutes": span.seconds // MINUTE_S, "rows": rows,
        "day_rows": sum(rows.values()), "active_parts": max(parts.values()), "merged": rested,
    }  # fmt: skip
    return told, span


def questions(views: list[View], since: int, sums: Sums, whole: Whole) -> list[Question]:
    """Each view's figures by the hour and all of its rows, then what people ask of some."""
    names = {view.name for view in views}
    asked = []
    for view in views:
        asked.append(Question(f"{view.name}: sums by hour", sums(view)))
        asked.append(Question(f"{view.name}: every row", whole(view, since), sent=False))
    asked += [
        Question(name, sql.format(since=f"toDateTime({since}, 'UTC')"))
        for name, sql in _ASKED.items()
        if name.partition(":")[0] in names
    ]
    return asked


def _timed(reader: StoreReader, question: Question, say: Say) -> dict[str, Any]:
    """The first answer, of a view or a question that nobody asked before, and the seven after it."""
    sql = f"{question.sql} FORMAT {'JSONCompact' if question.sent else 'Null'}"
    answer, first = _asked(reader, sql)
    later = [_asked(reader, sql)[1] for _ in range(_AGAIN)]
    if question.sent:
        rows = orjson.loads(answer)["rows"]
    else:
        rows = int(reader.numbers(f"SELECT count() FROM ({question.sql})")[0])  # noqa: S608  # SQL of ours
    told = {
        "rows": rows, "first_ms": round(first, 1), "p50_ms": round(statistics.median(later), 1),
        "max_ms": round(max(later), 1),
    }  # fmt: skip
    say(f"{question.name}: {told}")
    return told


def _asked(reader: StoreReader, sql: str) -> tuple[bytes, float]:
    began = time.perf_counter()
    answer = reader.ask(sql)
    return answer, (time.perf_counter() - began) * 1000
