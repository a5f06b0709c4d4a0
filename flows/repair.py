"""`livepulse repair`: recompute closed windows with their late events, by the same kernels and with higher versions.

The archive and `late_events` are written out in order of event time, so that nothing is late any more, and go through
the backfill's dataflow; of its rows those are stored that an event of the range may bear on. Late events that counted join the
archive under their own offsets, so that `reconcile` agrees afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from flows.errors import Usage
from flows.settings import Settings
from schemas.tables import EVENTS
from sinks.clickhouse import Store

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_FORGOTTEN_HALF_LIVES: Final = 40  # heat from before is 2^-40 of what it was
_FOLLOW_MS: Final = 28 * _HOUR_MS  # a funnel's chain, and an hour on the last clock of the earth, are over by then
_PARTS: Final = ("live_sessions", "live_session_sources", "live_session_products")  # a row is a room's UTC day
_FINAL_BIT: Final = 1 << 63
_GENERATION: Final = 1 << 48
_OWN: Final = tuple(c.name for c in EVENTS.columns if c.name not in {"ingest_time", "partition", "offset"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a line of the file written for the recomputation came from."""

    partition: int
    offset: int
    ingest_time: int
    late: bool


@dataclass(slots=True)
class Repaired:
    """What a repair did."""

    events: int = 0
    late: int = 0  # late events that count now
    rows: dict[str, int] = field(default_factory=dict)  # written, by view


def check_range(store: Store, settings: Settings, start: int, stop: int) -> None:
    """Refuse what cannot be repaired.

    Raises:
        Usage: the range is no whole hours, or the engine may still change windows in it.
    """
    if start % _HOUR_MS or stop % _HOUR_MS or start >= stop:
        raise Usage("--from and --to are whole hours (UTC), the first before the second")
    if not settings.events_archive:
        raise Usage("the archive `events` is off (setting events_archive): there is nothing to recompute from")
    if not settings.recovery_path.joinpath("facts.json").exists():
        return  # no engine runs here: nothing changes any more
    settled = watermark_of(store) - settings.retain_ms - _follow_ms(settings)
    if stop > settled:
        raise Usage(
            f"windows up to {stop} are not settled: the engine may still change those after {settled} (epoch ms, "
            f"the watermark less reopen and {_follow_ms(settings) // _HOUR_MS} h); choose an earlier --to"
        )


def _follow_ms(settings: Settings) -> int:
    """How long after the range events still bear on what a late one changes."""
    rooms = settings.session_memory_ms + 2 * _DAY_MS if "sessions" in settings.families else 0  # to a day's end
    return max(_FOLLOW_MS, rooms)


def watermark_of(store: Store) -> int:
    """Where the engine stands in event time, epoch ms."""
    found = store.query(f"SELECT toUnixTimestamp64Milli(max(watermark)) AS w FROM {store.database}.engine_progress")
    return int(found[0]["w"])


def write_lines(store: Store, settings: Settings, start: int, stop: int, path: Path) -> list[Origin]:
    """Events that bear on [start, stop), late ones too, in order of event time; their origins by line number."""
    memory = max(settings.room_memory_ms, _FORGOTTEN_HALF_LIVES * settings.heat_half_life_ms, 14 * _DAY_MS)
    origins: list[Origin] = []
    with path.open("wb") as file:
        hour = _first(store, start - memory)
        while hour < stop + _follow_ms(settings):
            with_late = start <= hour < stop
            found = sorted(_events(store, hour, hour + _HOUR_MS, late=with_late), key=lambda line: line[:3])
            for _, _, _, text, origin in found:
                file.write(text + b"\n")
                origins.append(origin)
            hour = _first(store, hour + _HOUR_MS)
    return origins


def _first(store: Store, since: int) -> int:
    """The hour of the first event, late or not, from `since` on; far away when there is none."""
    after = f"event_time >= fromUnixTimestamp64Milli({since})"
    hours = [
        store.query(
            f"SELECT toUnixTimestamp64Milli(min(event_time)) AS t, count() AS n FROM {store.database}.{view} WHERE {after}"
        )[0]
        for view in ("events", "late_events")
    ]
    return min((max(since, int(row["t"]) // _HOUR_MS * _HOUR_MS) for row in hours if row["n"]), default=1 << 62)


Line = tuple[int, bool, int, bytes, Origin]
"""Event time, late, offset: what lines are ordered by (of two with one id, the accepted one is first)."""


def _events(store: Store, start: int, stop: int, *, late: bool) -> Iterator[Line]:
    span = f"event_time >= fromUnixTimestamp64Milli({start}) AND event_time < fromUnixTimestamp64Milli({stop})"
    place = (
        "partition, offset, toUnixTimestamp64Milli(ingest_time) AS read_at, toUnixTimestamp64Milli(event_time) AS at"
    )
    fields = ", ".join(name for name in _OWN if name != "event_time")
    for row in store.query(f"SELECT {place}, {fields} FROM {store.database}.events WHERE {span}"):
        yield (
            row["at"],
            False,
            row["offset"],
            _text_of(row),
            Origin(row["partition"], row["offset"], row["read_at"], late=False),
        )
    if not late:
        return
    sql = f"SELECT {place}, toString(topic) AS topic, raw FROM {store.database}.late_events WHERE {span} AND raw != ''"
    for row in store.query(sql):
        event = orjson.loads(row["raw"]) | {"topic": row["topic"]}
        yield (
            row["at"],
            True,
            row["offset"],
            orjson.dumps(event),
            Origin(row["partition"], row["offset"], row["read_at"], late=True),
        )


def _text_of(row: dict[str, Any]) -> bytes:
    event = {name: row[name] for name in _OWN if name != "event_time" and row[name] not in (None, [])}
    if "experiments" in event:
        event["experiments"] = orjson.Fragment(event["experiments"])
    return orjson.dumps(event | {"event_time": row["at"]})


class RepairWriter:
    """A writer (sinks.rows_sink) that keeps rows of windows in [start, stop), under a generation above all others."""

    def __init__(
        self, store: Store, settings: Settings, origins: list[Origin], start: int, stop: int, done: Repaired
    ) -> None:
        self._store, self._origins, self._done = store, origins, done
        self._known_for = settings.session_memory_ms  # a user's first time in a room moves with a late event
        self._start, self._stop = start, stop
        self._raise_by = ((store.max_version() >> 48) + 1) * _GENERATION - _GENERATION  # the backfill's generation is 1

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        """Insert what belongs into the range."""
        if table == "events":
            frame = self._late_ones(frame)
            self._done.late += frame.height
        elif (whole := self._whole(table)) is not None:
            frame = frame.filter(whole).with_columns(pl.col("version") + pl.lit(self._raise_by, dtype=pl.UInt64))
        else:
            return
        self._done.rows[table] = self._done.rows.get(table, 0) + frame.height
        self._store.insert(table, frame)

    def _whole(self, table: str) -> pl.Expr | None:
        """Which rows of a table an event of the range may bear on; None: none of this table are repaired."""
        start, stop = self._start, self._stop
        window, part, tick = pl.col("window_start"), pl.col("part_start"), pl.col("tick")
        bucket = pl.col("bucket_start")  # of the chain, which a late event may be the end of
        date, hour = pl.col("date").cast(pl.Datetime("ms")).cast(pl.Int64), pl.col("hour").cast(pl.Int64)
        local = date + hour * _HOUR_MS
        of_room = (part > start - _DAY_MS) & (part < stop + self._known_for)
        return {
            "active_users": (window >= start) & (window + pl.col("window_seconds").cast(pl.Int64) * 1000 <= stop),
            "active_hours": (local + 13 * _HOUR_MS > start) & (local - 14 * _HOUR_MS < stop),  # on some clock
            "topic_heat": (tick > start) & (tick <= stop + _DAY_MS),
            "funnel": (bucket >= start - 25 * _HOUR_MS) & (bucket < stop),
            "live_session_minutes": (window >= start) & (window < stop + self._known_for),
            **dict.fromkeys(_PARTS, of_room),
        }.get(table)

    def _late_ones(self, frame: pl.DataFrame) -> pl.DataFrame:
        origins = [self._origins[line] for line in frame["offset"].to_list()]
        placed = frame.with_columns(
            pl.Series("partition", [o.partition for o in origins], dtype=pl.Int32),
            pl.Series("offset", [o.offset for o in origins], dtype=pl.Int64),
            pl.Series("ingest_time", [o.ingest_time for o in origins], dtype=pl.Int64),
        )
        times = frame["event_time"]
        inside = (times >= self._start) & (times < self._stop)
        return placed.filter(pl.Series([o.late for o in origins], dtype=pl.Boolean) & inside)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for the lines, readable by nobody else."""
    return tempfile.TemporaryDirectory(prefix="livepulse-repair-")
