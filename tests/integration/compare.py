"""Views against oracles: every row, every figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from schemas.events import DIMENSIONS
from schemas.funnels import VIDEO_TO_LIVE
from schemas.sessions import MEASURES, PRODUCT_MEASURES
from tests.oracles import activity, funnel, heat, sessions
from tests.oracles.log import Event, Verdict
from tests.oracles.ties import tie

Rows = Callable[[str], list[dict[str, Any]]]
WEIGHTS = {"view": 1.0, "like": 3.0}


def epoch_ms(time: datetime) -> int:
    """A view's time in epoch ms."""
    return round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1000)


def differences(rows: Rows, verdict: Verdict) -> dict[str, list[object]]:
    """Per view, what is not as the oracles say (empty lists when all is well)."""
    found = {
        "ingest_ledger": _ledger(rows, verdict),
        "late_events": _late(rows, verdict),
        "active_users": _active_users(rows, verdict.accepted),
        "active_hours": _active_hours(rows, verdict.accepted),
        "topic_heat": _topic_heat(rows, verdict.accepted),
        "funnel": _funnel(rows, verdict.accepted),
        "live_session_minutes": _live_minutes(rows, verdict.accepted),
        "live_sessions": _live_rooms(rows, verdict.accepted),
        "live_session_sources": _live_sources(rows, verdict.accepted),
        "live_products": _live_products(rows, verdict.accepted),
    }
    return {view: wrong[:5] for view, wrong in found.items() if wrong}


def _different(is_: Mapping[Any, Any], should: Mapping[Any, Any]) -> list[object]:
    return [
        (key, is_.get(key), should.get(key))
        for key in sorted(is_.keys() | should.keys(), key=str)
        if is_.get(key) != should.get(key)
    ]


def _ledger(rows: Rows, verdict: Verdict) -> list[object]:
    names = ("consumed", "accepted", "duplicate", "late", "rejected", "filtered")
    sums = ", ".join(f"sum({n}) AS {n}_" for n in names)
    is_ = {
        (r["topic"], r["partition"]): tuple(int(r[f"{n}_"]) for n in names)
        for r in rows(f"SELECT topic, partition, {sums} FROM livepulse.ingest_ledger GROUP BY topic, partition")
    }
    should = {lane: tuple(tally[n] for n in names) for lane, tally in verdict.counts.items()}
    return _different(is_, should)


def _late(rows: Rows, verdict: Verdict) -> list[object]:
    is_ = Counter((r["topic"], r["partition"], r["offset"]) for r in rows("SELECT * FROM livepulse.late_events"))
    should = Counter((t, p, offset) for (t, p), offsets in verdict.late_offsets.items() for offset in offsets)
    return _different(is_, should)


def _activity_events(accepted: Sequence[Event]) -> list[activity.Event]:
    return [
        activity.Event(
            e["topic"],
            e["event_time"],
            e["user_id"],
            e.get("tz"),
            e.get("watch_ms"),
            tuple((d, e.get(d)) for d in DIMENSIONS),
        )
        for e in accepted
    ]


def _active_users(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    is_ = {
        (epoch_ms(r["window_start"]), r["window_seconds"], r["dim"], r["value"]): (
            r["events"],
            r["users"],
            r["watch_ms"],
        )
        for r in rows("SELECT * FROM livepulse.active_users")
    }
    return _different(is_, activity.active_users(_activity_events(accepted), (60, 3600)))


def _active_hours(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    is_ = {
        (r["basis"], r["date"], r["weekday"], r["hour"], r["dim"], r["value"]): (r["events"], r["users"], r["watch_ms"])
        for r in rows("SELECT * FROM livepulse.active_hours")
    }
    return _different(is_, activity.active_hours(_activity_events(accepted), "Asia/Shanghai"))


def _topic_heat(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    events = [
        heat.Event(
            e["event_time"], e["user_id"], tuple(e["tags"]), 0.0 if e.get("continued") else WEIGHTS.get(e["topic"], 0.0)
        )
        for e in accepted
        if e.get("tags")
    ]
    should: dict[tuple[int, str], tuple[int, int]] = {}
    heats: dict[tuple[int, str], float] = {}
    for tick, topics in heat.heat_rows(events, 360.0).items():
        for topic, (row, _) in topics.items():
            if row.must or row.heat >= 1:  # few topics: all with heat ≥ 1 are ranked
                should[tick, topic] = (row.events, row.users)
                heats[tick, topic] = row.heat
    found = rows("SELECT * FROM livepulse.topic_heat")
    is_ = {(epoch_ms(r["tick"]), r["topic"]): (r["events"], r["users"]) for r in found}
    wrong = _different(is_, should)
    for r in found:
        key = epoch_ms(r["tick"]), r["topic"]
        if key in heats and abs(r["heat"] - heats[key]) > 1e-6 * max(1.0, heats[key]):
            wrong.append((key, r["heat"], heats[key]))
    return wrong


def _funnel(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    is_ = {
        (r["funnel"], r["unit"], epoch_ms(r["bucket_start"]), r["dim"], r["value"], r["step"]): (
            r["reached"], r["median_seconds"], r["amount_minor"], r["other_currency_events"],
        )
        for r in rows("SELECT * FROM livepulse.funnel")
    }  # fmt: skip
    rows_of_oracle = funnel.funnel_rows(VIDEO_TO_LIVE, accepted, DIMENSIONS, lambda event: tie(event, DIMENSIONS))
    return _different(is_, rows_of_oracle)


def _figures(row: Mapping[str, Any], names: Sequence[str], measures: Sequence[str]) -> dict[str, Any]:
    """Columns of a row as an oracle of rooms writes them: sums only where they are not 0, times in epoch ms."""
    found = {name: int(row[name]) for name in measures if int(row[name])}
    for name in names:
        found[name] = epoch_ms(row[name]) if isinstance(row[name], datetime) else row[name]
    return found


def _live_minutes(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    names, measures = ("viewers", "pcu", "acu", "watching"), [measure.name for measure in MEASURES]
    is_ = {
        (r["live_id"], epoch_ms(r["window_start"])): _figures(r, names, measures)
        for r in rows("SELECT * FROM livepulse.live_session_minutes")
    }
    return _different(is_, sessions.minutes(accepted))


def _live_rooms(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    names = (
        "state", "started_at", "ended_at", "last_active_at", "live_seconds", "pcu", "watching_now", "watching_peak",
        "creator_id", "category",
    )  # fmt: skip
    found = rows("SELECT * FROM livepulse.live_sessions")
    is_ = {r["live_id"]: _figures(r, names, [measure.name for measure in MEASURES]) for r in found}
    as_of = max((epoch_ms(r["as_of"]) for r in found), default=0)
    return _different(is_, sessions.rooms(accepted, as_of))


def _live_sources(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    is_ = {
        (r["live_id"], r["source"]): (int(r["entered_users"]), int(r["entered_from_video"]))
        for r in rows("SELECT * FROM livepulse.live_session_sources")
    }
    return _different(is_, sessions.sources(accepted))


def _live_products(rows: Rows, accepted: Sequence[Event]) -> list[object]:
    measures = [measure.name for measure in PRODUCT_MEASURES]
    is_ = {
        (r["live_id"], r["product_id"]): _figures(r, (), measures)
        for r in rows("SELECT * FROM livepulse.live_products")
    }
    return _different(is_, sessions.products(accepted))
