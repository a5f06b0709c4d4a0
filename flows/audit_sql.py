"""The views recomputed from the archive `events`, in ClickHouse's SQL: nothing here is shared with the kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.decode_fields import zone_names
from schemas.events import DIMENSIONS
from schemas.label_messages import TOPIC as LABELS_TOPIC
from schemas.tables import identifier

_HOUR_MS: Final = 3_600_000
_ENTER_MS, _FINISH_MS = 30 * 60_000, 24 * _HOUR_MS


@dataclass(frozen=True, slots=True)
class Range:
    """Event time that is audited, epoch ms; windows count that lie in it whole and ended by `closed`."""

    start: int
    stop: int
    closed: int

    def whole(self, begin: str, end: str) -> str:
        """Whether a window lies in it, as SQL over expressions of epoch ms."""
        return f"{begin} >= {self.start} AND {end} <= {self.stop}"

    def events(self) -> str:
        """Whether an event does."""
        return f"event_time >= fromUnixTimestamp64Milli({self.start}) AND event_time < fromUnixTimestamp64Milli({self.stop})"


@dataclass(frozen=True, slots=True)
class Check:
    """One view against its recomputation: a query of the rows that differ, key first, then (is, should) pairs."""

    view: str
    keys: tuple[str, ...]
    figures: tuple[str, ...]
    sql: str


def _pairs(dimensions: Sequence[str]) -> str:
    for name in dimensions:
        if name not in DIMENSIONS:
            raise ValueError(f"{name!r} is no dimension")
    fields = ", ".join(f"('{name}', CAST({name} AS Nullable(String)))" for name in dimensions)
    return f"arrayFilter(x -> isNotNull(x.2), [('all', CAST('' AS Nullable(String))){', ' + fields if fields else ''}])"


_FIGURES: Final = ("events", "users", "watch_ms")
_COUNTED: Final = "count() AS events, uniqExact(user_id) AS users, toUInt64(sum(ifNull(watch_ms, 0))) AS watch_ms"


def _compared(view: str, keys: Sequence[str], figures: Sequence[str], is_: str, should: str, where: str) -> Check:
    """Rows of both sides by key; a row that is absent on one side has zeros there."""
    shown = ", ".join([*keys, *(f"a.{f} AS is_{f}, e.{f} AS should_{f}" for f in figures)])
    differ = " OR ".join(f"a.{f} != e.{f}" for f in figures)
    sql = (
        f"SELECT {shown} FROM ({is_}) AS a FULL OUTER JOIN ({should}) AS e USING ({', '.join(keys)})"
        f" WHERE ({differ}) AND ({where}) ORDER BY {', '.join(keys)} LIMIT 1000"
    )
    return Check(view, tuple(keys), tuple(figures), sql)


def active_users(database: str, over: Range, windows: Iterable[int], dimensions: Sequence[str]) -> Check:
    """Windows of minutes and hours. Values beyond the cap (and dimensions that have such) are left out."""
    lengths = ", ".join(f"toUInt32({int(w)})" for w in windows)
    keys = ("window_start", "window_seconds", "dim", "value")
    db = identifier(database)
    should = (
        "SELECT toDateTime(intDiv(toUnixTimestamp(event_time), w) * w, 'UTC') AS window_start, w AS window_seconds,"
        f" dv.1 AS dim, assumeNotNull(dv.2) AS value, {_COUNTED} FROM {db}.events"
        f" ARRAY JOIN {_pairs(dimensions)} AS dv ARRAY JOIN [{lengths}] AS w"
        f" WHERE topic != 'ad' AND {over.events()} GROUP BY window_start, window_seconds, dim, value"
    )
    is_ = f"SELECT window_start, window_seconds, toString(dim) AS dim, value, {', '.join(_FIGURES)}, is_final FROM {db}.active_users"
    begin, end = "toUnixTimestamp(window_start) * 1000", "(toUnixTimestamp(window_start) + window_seconds) * 1000"
    capped = (
        f"(dim, window_seconds) NOT IN (SELECT dim, window_seconds FROM {db}.active_users WHERE value = '__other__')"
    )
    where = f"(a.is_final = 1 OR {end} <= {over.closed}) AND {over.whole(begin, end)} AND {capped}"
    return _compared("active_users", keys, _FIGURES, is_, should, where)


def active_hours(
    database: str, over: Range, dimensions: Sequence[str], platform_zone: str, zones: Iterable[str]
) -> Check:
    """Local hours; those are compared that no zone's clock carries over the range's ends."""
    db, keys = identifier(database), ("basis", "date", "hour", "dim", "value")
    known = zone_names()
    used = sorted({zone for zone in zones if zone in known})  # they are written into the query

    def local(what: str) -> str:
        branches = ", ".join(f"tz = '{zone}', {what}(toTimeZone(event_time, '{zone}'))" for zone in used)
        own = f"{what}(toTimeZone(event_time, '{platform_zone}'))"
        return f"if(basis = 'user', multiIf({branches}, {own}), {own})" if used else own

    should = (
        f"SELECT basis, {local('toDate')} AS date, toUInt8({local('toHour')}) AS hour, dv.1 AS dim,"
        f" assumeNotNull(dv.2) AS value, {_COUNTED} FROM {db}.events ARRAY JOIN {_pairs(dimensions)} AS dv"
        f" ARRAY JOIN ['platform', 'user'] AS basis WHERE topic != 'ad' AND {over.events()}"
        " GROUP BY basis, date, hour, dim, value"
    )
    is_ = f"SELECT toString(basis) AS basis, date, hour, toString(dim) AS dim, value, {', '.join(_FIGURES)}, is_final FROM {db}.active_hours"
    at = "(toInt64(toUnixTimestamp(toDateTime(date, 'UTC'))) + hour * 3600) * 1000"
    begin, end = f"{at} - {14 * _HOUR_MS}", f"{at} + {13 * _HOUR_MS}"
    capped = f"dim NOT IN (SELECT dim FROM {db}.active_hours WHERE value = '__other__')"
    where = f"(a.is_final = 1 OR {end} <= {over.closed}) AND {over.whole(begin, end)} AND {capped}"
    return _compared("active_hours", keys, _FIGURES, is_, should, where)


def topic_heat(database: str, over: Range) -> Check:
    """Events and users of each topic and minute; heat itself has a memory without end and is left to the tests."""
    db, figures = identifier(database), ("events", "users")
    should = (
        "SELECT toDateTime(intDiv(toUnixTimestamp(event_time), 60) * 60 + 60, 'UTC') AS tick, t AS topic,"
        f" count() AS events, uniqExact(user_id) AS users FROM {db}.events ARRAY JOIN arrayDistinct(tags) AS t"
        f" WHERE {over.events()} GROUP BY tick, topic"
    )
    is_ = f"SELECT tick, topic, events, users, is_final FROM {db}.topic_heat"
    end = "toUnixTimestamp(tick) * 1000"
    where = f"(a.is_final = 1 OR {end} <= {over.closed}) AND {over.whole(f'{end} - 60000', end)}"
    return _compared("topic_heat", ("tick", "topic"), figures, is_, should, where)


def funnel(database: str, over: Range, currency: str, *, mature_only: bool) -> Check:
    """`video_to_live` by user, the whole of it (dim all): reached and money of each step."""
    db, keys, figures = identifier(database), ("bucket_start", "step"), ("reached", "amount_minor")
    view = f"SELECT user_id, live_id, event_time FROM {db}.events WHERE topic = 'view' AND ifNull(continued, false) = false AND "
    hour = "toStartOfHour(toDateTime(begun, 'UTC'))"
    chains = (
        "SELECT f.user_id AS user_id, f.live_id AS live_id, f.entered AS entered, v.event_time AS begun FROM"
        f" (SELECT user_id, live_id, min(event_time) AS entered FROM ({view} surface = 'live') GROUP BY user_id, live_id) AS f"
        f" ASOF INNER JOIN ({view} surface = 'video') AS v ON f.user_id = v.user_id AND v.event_time <= f.entered"
        f" WHERE f.entered <= v.event_time + toIntervalMillisecond({_ENTER_MS})"
    )
    later = (
        "SELECT user_id, assumeNotNull(live_id) AS live_id, event_time, multiIf(topic = 'gift', 4, topic = 'order', 5, 3) AS step,"
        f" if(step > 3 AND ifNull(currency, '{currency}') = '{currency}', ifNull(amount_minor, 0), 0) AS amount"
        f" FROM {db}.events WHERE isNotNull(live_id) AND ifNull(continued, false) = false AND (topic IN ('like', 'gift')"
        " OR (topic = 'engage' AND action = 'comment') OR (topic = 'order' AND status = 'paid'))"
    )
    should = (
        "SELECT bucket_start, toUInt8(s) AS step, uniqExact(user_id) AS reached, toInt64(sum(amount)) AS amount_minor FROM ("
        f" SELECT toStartOfHour(toDateTime(event_time, 'UTC')) AS bucket_start, 1 AS s, user_id, toInt64(0) AS amount FROM ({view} surface = 'video')"
        f" UNION ALL SELECT {hour} AS bucket_start, 2 AS s, user_id, toInt64(0) AS amount FROM ({chains})"
        f" UNION ALL SELECT {hour} AS bucket_start, l.step AS s, c.user_id AS user_id, toInt64(l.amount) AS amount"
        f" FROM ({chains}) AS c INNER JOIN ({later}) AS l ON c.user_id = l.user_id AND c.live_id = l.live_id"
        f" WHERE l.event_time >= c.entered AND l.event_time <= c.entered + toIntervalMillisecond({_FINISH_MS})"
        ") GROUP BY bucket_start, step"
    )
    is_ = (
        f"SELECT bucket_start, step, reached, amount_minor FROM {db}.funnel"
        " WHERE funnel = 'video_to_live' AND unit = 'user' AND dim = 'all'"
    )
    begin = "toUnixTimestamp(bucket_start) * 1000"
    end = f"{begin} + {_HOUR_MS + (_ENTER_MS + _FINISH_MS if mature_only else 0)}"
    where = f"{over.whole(begin, f'{begin} + {_HOUR_MS}')} AND {end} <= {over.closed if mature_only else 1 << 62}"
    return _compared("funnel", keys, figures, is_, should, where)


def ledger(database: str) -> Check:
    """Each lane's outcomes against consumed, the archive, late_events and dead_letters."""
    db, keys = identifier(database), ("topic", "partition")
    figures = ("consumed", "accepted", "late", "rejected")
    sums = "sum(c) AS consumed, sum(a) AS accepted, sum(l) AS late, sum(r) AS rejected"
    lane, none = "toString(topic) AS topic, partition", "toUInt64(0)"
    is_ = (
        f"SELECT topic, partition, {sums} FROM (SELECT {lane}, consumed AS c, accepted AS a, late AS l, rejected AS r"
        f" FROM {db}.ingest_ledger) GROUP BY topic, partition"
    )
    # Labels are no events and have no ledger (a file's line may name any topic, and then that one has).
    rejected = f"dead_letters WHERE topic != '{LABELS_TOPIC}' OR topic IN (SELECT topic FROM {db}.ingest_ledger)"
    repaired = f"(topic, partition, offset) IN (SELECT topic, partition, offset FROM {db}.late_events)"
    sources = " UNION ALL ".join(
        f"SELECT {lane}, {counts} FROM {db}.{view}"
        for counts, view in (
            (f"duplicate + filtered AS c, {none} AS a, {none} AS l, {none} AS r", "ingest_ledger"),
            (f"toUInt64(NOT {repaired}), toUInt64(NOT {repaired}), {none}, {none}", "events"),
            (f"toUInt64(1), {none}, toUInt64(1), {none}", "late_events"),
            (f"toUInt64(1), {none}, {none}, toUInt64(1)", rejected),
        )
    )
    should = f"SELECT topic, partition, {sums} FROM ({sources}) GROUP BY topic, partition"
    return _compared("ingest_ledger", keys, figures, is_, should, "1")
