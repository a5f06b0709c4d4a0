"""Do the views say what the archive and Kafka say? `livepulse reconcile`, and its light version that runs all the time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from flows import audit_sql
from flows.audit_sql import Check, Range
from flows.errors import LivePulseError, Usage
from flows.families import declarations
from flows.kafka_feed import lane_name
from flows.kafka_start import list_lanes, log_ends
from flows.settings import Settings
from sinks.clickhouse import Store

log = structlog.get_logger()

_LOOKS: Final = 3  # a running engine writes one table after the other: what does not stay is no difference
_PAUSE_SECONDS: Final = 2.0
_ALL: Final = (-(1 << 52), 1 << 52)
_LIGHT_MS: Final = 15 * 60_000
_SETTLED_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not what it should be."""

    view: str
    key: tuple[tuple[str, str], ...]  # window and dimension
    figure: str
    is_: int
    should: int

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {"view": self.view, **dict(self.key), "figure": self.figure, "is": self.is_, "should": self.should}


def reconcile(store: Store, settings: Settings, start: int | None = None, stop: int | None = None) -> list[Difference]:
    """Everything that SQL can recompute, over windows within [start, stop) of event time.

    Raises:
        Usage: there is no archive to recompute from.
    """
    if not settings.events_archive:
        raise Usage("the archive `events` is off (setting events_archive): there is nothing to recompute from")

    def look() -> Iterator[Difference]:
        before = _consumed(store)
        closed = _watermark(store)
        quiet = _quiet(store, before)
        over = Range(_ALL[0] if start is None else start, _ALL[1] if stop is None else stop, closed)
        for check in _checks(store, settings, over, quiet=quiet):
            yield from _found(store, check)

    return [*_lasting(look), *_of_kafka(store, settings)]


def light(store: Store, settings: Settings) -> list[Difference]:
    """The last quarter of an hour that is closed: minutes of activity and heat."""
    if not settings.events_archive:
        return []

    def look() -> Iterator[Difference]:
        closed = _watermark(store) - _SETTLED_MS
        over = Range(closed - _LIGHT_MS, closed, closed)
        if "activity" in settings.families and 60 in settings.windows_s:
            dimensions = declarations(settings).dimensions or settings.dimensions
            yield from _found(store, audit_sql.active_users(store.database, over, (60,), dimensions))
        if "heat" in settings.families:
            yield from _found(store, audit_sql.topic_heat(store.database, over))

    return _lasting(look)


def _lasting(look: Callable[[], Iterable[Difference]]) -> list[Difference]:
    """What every look finds."""
    found = list(look())
    for _ in range(_LOOKS - 1):
        if not found:
            break
        time.sleep(_PAUSE_SECONDS)
        again = {(d.view, d.key, d.figure) for d in look()}
        found = [d for d in found if (d.view, d.key, d.figure) in again]
    return found


def _checks(store: Store, settings: Settings, over: Range, *, quiet: bool) -> Iterator[Check]:
    database = store.database
    dimensions = declarations(settings).dimensions or settings.dimensions
    if "activity" in settings.families:
        yield audit_sql.active_users(database, over, settings.windows_s, dimensions)
        if settings.active_hours:
            zones = [row["tz"] for row in store.query(f"SELECT DISTINCT tz FROM {database}.events WHERE isNotNull(tz)")]
            yield audit_sql.active_hours(database, over, dimensions, settings.platform_zone, zones)
    if "heat" in settings.families:
        yield audit_sql.topic_heat(database, over)
    if "funnel" in settings.families and _remembered(store, settings):
        yield audit_sql.funnel(database, over, settings.currency, mature_only=not quiet)
    if quiet:
        yield audit_sql.ledger(database)


def _remembered(store: Store, settings: Settings) -> bool:
    """Whether the history is so short that a first view of a room is one for good: else SQL cannot tell."""
    row = store.query(
        f"SELECT toUnixTimestamp64Milli(max(event_time)) - toUnixTimestamp64Milli(min(event_time)) AS span FROM {store.database}.events"
    )[0]
    return int(row["span"]) <= settings.room_memory_ms


def _found(store: Store, check: Check) -> Iterator[Difference]:
    for row in store.query(check.sql):
        key = tuple((name, str(row[name])) for name in check.keys)
        for figure in check.figures:
            is_, should = int(row[f"is_{figure}"]), int(row[f"should_{figure}"])
            if is_ != should:
                yield Difference(check.view, key, figure, is_, should)


def _consumed(store: Store) -> int:
    return int(store.query(f"SELECT sum(consumed) AS n FROM {store.database}.ingest_ledger")[0]["n"])


def _quiet(store: Store, before: int) -> bool:
    """Nothing is being read: figures of open windows and of the whole ledger stand still."""
    time.sleep(1.5)
    return _consumed(store) == before


def _watermark(store: Store) -> int:
    found: list[dict[str, Any]] = store.query(
        f"SELECT toUnixTimestamp64Milli(max(watermark)) AS w FROM {store.database}.engine_progress"
    )
    return int(found[0]["w"]) if found else 0


def _of_kafka(store: Store, settings: Settings) -> list[Difference]:
    """Messages consumed against the offsets: between what the group has committed and the end of the log."""
    facts = settings.recovery_path / "facts.json" if not settings.is_server or settings.recovery_dir else None
    if facts is None or not facts.exists():
        log.info("no recovery directory of an engine is here: Kafka's offsets are not compared")
        return []  # a backfill, or another machine's engine
    first: dict[str, int] = json.loads(facts.read_bytes())["first_offsets"]
    try:
        lanes = list_lanes(settings)
        ends = log_ends(settings, lanes)
        committed = _committed(settings, lanes)
    except (LivePulseError, KafkaException) as error:
        log.warning("Kafka's offsets were NOT compared, only what is stored", error=str(error))
        return []
    lost = {
        (row["topic"], row["partition"]): int(row["n"])
        for row in store.query(
            "SELECT topic, partition, sum(found_offset - wanted_offset) AS n"
            f" FROM {store.database}.accepted_losses GROUP BY topic, partition"
        )
    }
    consumed = {
        (row["topic"], row["partition"]): int(row["n"])
        for row in store.query(
            f"SELECT topic, partition, sum(consumed) AS n FROM {store.database}.ingest_ledger GROUP BY topic, partition"
        )
    }
    found = []
    for lane in sorted(lanes):
        name = lane_name(*lane)
        base = first.get(name, 0) + lost.get(lane, 0)
        is_, most = consumed.get(lane, 0), ends[name][1] - base
        least = max(0, committed.get(name, 0) - base)
        if not least <= is_ <= most:
            key = (("topic", lane[0]), ("partition", str(lane[1])))
            found.append(Difference("kafka_offsets", key, "consumed", is_, least if is_ < least else most))
    return found


def _committed(settings: Settings, lanes: Iterable[tuple[str, int]]) -> dict[str, int]:
    consumer = Consumer({**settings.client_properties(), "group.id": settings.group, "log_level": 0})
    try:
        places = {lane_name(*lane): TopicPartition(settings.topic(lane[0]), lane[1]) for lane in lanes}
        answers = consumer.committed(list(places.values()), timeout=10)
        return {name: max(0, place.offset) for name, place in zip(places, answers, strict=True)}
    finally:
        consumer.close()
