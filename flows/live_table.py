"""What `livepulse demo` shows while it runs: heat, active users and hours, the funnel, read through the public views.

`take` asks, `render` draws; neither knows where the answers come from or where the picture goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.telemetry import short_count

Row = dict[str, Any]
Ask = Callable[[str], list[Row]]
"""Rows of a query; a ClickHouse number may come as text."""

TOPICS_SHOWN: Final = 8
TRENDS_SHOWN: Final = 6
MINUTES_SHOWN: Final = 30
HOURS_SHOWN: Final = 8
_BARS: Final = "▁▂▃▄▅▆▇█"
_STAGE_STYLES: Final = {
    "emerging": "bold bright_cyan", "growing": "bold green", "peak": "bold red", "revival": "bold magenta",
    "declining": "yellow", "tail": "dim", "unknown": "dim",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trend:
    """A planted topic, as the simulator knows it."""

    topic: str
    half_life_minutes: float


@dataclass(frozen=True, slots=True)
class Status:
    """Where simulator and engine stand."""

    broker: str
    store: str
    seconds: float
    sent: int
    live: bool  # the simulator sends at the clock's pace
    events_per_s: float  # through the engine, since the last look
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Figures read from the views at one time."""

    ledger: Row = field(default_factory=dict)
    progress: Row = field(default_factory=dict)
    topics: list[Row] = field(default_factory=list)  # hottest first, each with `recent`, its events by minute
    trends: list[Row] = field(default_factory=list)  # lifecycle of planted topics, each with `planted`
    minutes: list[Row] = field(default_factory=list)  # oldest first
    platforms: list[Row] = field(default_factory=list)
    hours: list[Row] = field(default_factory=list)  # oldest first
    funnel: list[Row] = field(default_factory=list)

    @property
    def consumed(self) -> int:
        """Messages that the engine has read and committed."""
        return int(self.ledger.get("consumed") or 0)


_LEDGER: Final = """
SELECT sum(consumed) AS consumed, sum(accepted) AS accepted, sum(duplicate) AS duplicate, sum(late) AS late,
    sum(rejected) AS rejected
FROM ingest_ledger"""
_PROGRESS: Final = "SELECT toUnixTimestamp64Milli(watermark) AS watermark FROM engine_progress"
_MINUTES: Final = """
SELECT toUnixTimestamp(window_start) AS start, events, users FROM active_users
WHERE window_seconds = 60 AND dim = 'all' ORDER BY window_start DESC LIMIT {limit}"""
_PLATFORMS: Final = """
SELECT value, users FROM active_users
WHERE window_seconds = 60 AND dim = 'platform' AND window_start = toDateTime({start}) ORDER BY users DESC LIMIT 4"""
_HOURS: Final = """
SELECT date, hour, users, events FROM active_hours
WHERE basis = 'platform' AND dim = 'all' ORDER BY date DESC, hour DESC LIMIT {limit}"""
_FUNNEL: Final = """
SELECT unit, step, step_name, sum(reached) AS reached, sum(amount_minor) AS amount_minor FROM funnel
WHERE funnel = 'video_to_live' AND dim = 'all' GROUP BY unit, step, step_name ORDER BY unit, step"""
_NEWEST_TICK: Final = "SELECT toUnixTimestamp(max(tick)) AS tick FROM topic_heat"
_HOTTEST: Final = """
SELECT topic, heat, stage, growth, events, users FROM topic_heat
WHERE tick = toDateTime({tick}) ORDER BY heat DESC, topic LIMIT {limit}"""
_RECENT: Final = """
SELECT topic, toUnixTimestamp(tick) AS at, events FROM topic_heat
WHERE tick > toDateTime({after}) AND tick <= toDateTime({tick}) AND topic IN ({topics})"""
_LIVES: Final = """
SELECT topic, stage, half_life_minutes, half_life_low, half_life_high, model, peak_rate FROM topic_lifecycle
WHERE topic IN ({topics}) ORDER BY first_seen DESC"""


def take(ask: Ask, trends: Sequence[Trend] = ()) -> Snapshot:
    """Read everything that is shown. The newest minute but one is the newest that is (nearly) whole."""
    ledger = ask(_LEDGER)
    if not ledger or not int(ledger[0]["consumed"] or 0):
        return Snapshot()
    progress = ask(_PROGRESS)
    minutes = ask(_MINUTES.format(limit=MINUTES_SHOWN + 1))
    whole = int(minutes[1]["start"]) if len(minutes) > 1 else 0
    return Snapshot(
        ledger=ledger[0],
        progress=progress[0] if progress else {},
        topics=_topics(ask),
        trends=_lives(ask, trends),
        minutes=minutes[:0:-1],
        platforms=ask(_PLATFORMS.format(start=whole)),
        hours=ask(_HOURS.format(limit=HOURS_SHOWN))[::-1],
        funnel=ask(_FUNNEL),
    )


def _topics(ask: Ask) -> list[Row]:
    """The hottest topics at the newest tick but one, with their events of the last minutes."""
    newest = ask(_NEWEST_TICK)
    tick = int(newest[0]["tick"]) - 60 if newest else 0
    found = ask(_HOTTEST.format(tick=tick, limit=TOPICS_SHOWN))
    recent = _recent(ask, [row["topic"] for row in found], tick)
    return [{**row, "recent": recent[row["topic"]]} for row in found]


def _recent(ask: Ask, topics: Sequence[str], tick: int) -> dict[str, list[int]]:
    """Events of each topic in the minutes up to `tick` (epoch s), oldest first."""
    if not topics:
        return {}
    recent = {topic: [0] * MINUTES_SHOWN for topic in topics}
    for row in ask(_RECENT.format(after=tick - 60 * MINUTES_SHOWN, tick=tick, topics=_quoted(topics))):
        recent[row["topic"]][-1 - (tick - int(row["at"])) // 60] = int(row["events"])
    return recent


def _lives(ask: Ask, trends: Sequence[Trend]) -> list[Row]:
    """Lives of the planted topics, the newest first, each with its planted half-life."""
    if not trends:
        return []
    planted = {trend.topic: trend.half_life_minutes for trend in trends}
    return [{**row, "planted": planted[row["topic"]]} for row in ask(_LIVES.format(topics=_quoted(list(planted))))]


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join("'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" for text in texts)


def render(snapshot: Snapshot, status: Status, planted: Mapping[str, float], zone: str) -> RenderableType:
    """The whole picture. `planted`: conversion by step name; `zone`: of the clock times shown."""
    if not snapshot.minutes:
        return Group(_status_line(snapshot, status, zone), Text("waiting for the engine's first rows …", style="dim"))
    body = Table.grid(padding=(0, 3))
    body.add_row(_heat_table(snapshot), Group(_users_table(snapshot, zone), Text(), _hours_table(snapshot)))
    lower = Table.grid(padding=(0, 3))
    lower.add_row(_funnel_table(snapshot, planted), _trend_table(snapshot))
    return Group(_status_line(snapshot, status, zone), Text(), body, Text(), lower)


def _status_line(snapshot: Snapshot, status: Status, zone: str) -> Text:
    """One line on the engine; a second one if something is wrong."""
    ledger = snapshot.ledger
    pace = "live" if status.live else "history"
    parts = [
        f"{short_count(status.events_per_s)} events/s",
        f"lag {short_count(max(0, status.sent - snapshot.consumed))}",
        f"watermark {_clock(snapshot.progress.get('watermark'), zone)}",
        *(f"{name} {int(ledger.get(name) or 0):,}" for name in ("accepted", "duplicate", "late", "rejected")),
    ]
    line = Text.assemble(("LivePulse ", "bold"), (f"{status.seconds:.0f} s ", "dim"))
    line.append(f"{pace} ", "bold green" if status.live else "yellow").append("  ".join(parts))
    line.append(f"\n{status.broker} · {status.store}", "dim")
    return line.append(f"\n{status.problem}", "bold red") if status.problem else line


def _heat_table(snapshot: Snapshot) -> Table:
    table = _table("Topic heat", ("#", "right"), ("topic", "left"), ("heat", "right"), ("events, last 30 min", "left"),
                   ("stage", "left"), ("growth", "right"))  # fmt: skip
    for rank, row in enumerate(snapshot.topics, 1):
        growth = "" if row["growth"] is None else f"{float(row['growth']):+.2f}"
        table.add_row(str(rank), row["topic"], short_count(float(row["heat"])), sparkline(row["recent"]),
                      _stage(row["stage"]), growth)  # fmt: skip
    return table


def _users_table(snapshot: Snapshot, zone: str) -> Table:
    table = _table("Active users", ("minute", "left"), ("users", "right"), ("events", "right"), ("last 30 min", "left"))
    if snapshot.minutes:
        now = snapshot.minutes[-1]
        table.add_row(_clock(int(now["start"]) * 1000, zone)[:5], f"{int(now['users']):,}", f"{int(now['events']):,}",
                      sparkline([int(row["users"]) for row in snapshot.minutes]))  # fmt: skip
    for row in snapshot.platforms:
        table.add_row(Text(f"  {row['value']}", style="dim"), f"{int(row['users']):,}")
    return table


def _hours_table(snapshot: Snapshot) -> Table:
    table = _table("Active hours", ("hour", "left"), ("users", "right"), ("", "left"))
    greatest = max((int(row["users"]) for row in snapshot.hours), default=1)
    for row in snapshot.hours:
        table.add_row(f"{int(row['hour']):02}:00", f"{int(row['users']):,}", bar(int(row["users"]) / greatest, 16))
    return table


def _funnel_table(snapshot: Snapshot, planted: Mapping[str, float]) -> Table:
    table = _table("Funnel video_to_live", ("step", "left"), ("users", "right"), ("visits", "right"),
                   ("of visits", "right"), ("planted", "right"), ("¥", "right"))  # fmt: skip
    for row in conversions(snapshot.funnel):
        share = "" if row["share"] is None else f"{row['share']:.1%}"
        expected = planted.get(row["step_name"])
        table.add_row(row["step_name"], f"{row['users']:,}", f"{row['visits']:,}" if row["visits"] else "", share,
                      "" if expected is None else f"{expected:.1%}",
                      f"{row['amount_minor'] / 100:,.0f}" if row["amount_minor"] else "")  # fmt: skip
    return table


def conversions(funnel: Sequence[Row]) -> list[Row]:
    """Per step: users, visits (unit user_live), the visits' share of those that entered (None up to there), amount."""
    steps: dict[int, Row] = {}
    for row in funnel:
        step = steps.setdefault(
            int(row["step"]), {"step_name": row["step_name"], "users": 0, "visits": 0, "amount_minor": 0}
        )
        step["users" if row["unit"] == "user" else "visits"] = int(row["reached"])
        step["amount_minor"] = max(step["amount_minor"], int(row["amount_minor"]))
    entered = steps[2]["visits"] if 2 in steps else 0
    return [
        {**row, "share": row["visits"] / entered if entered and number > 2 else None}
        for number, row in sorted(steps.items())
    ]


def _trend_table(snapshot: Snapshot) -> Table:
    table = _table("Planted trends", ("topic", "left"), ("stage", "left"), ("half-life", "right"), ("95 %", "left"),
                   ("planted", "right"))  # fmt: skip
    for row in snapshot.trends[:TRENDS_SHOWN]:
        measured = row["half_life_minutes"]
        low, high = row["half_life_low"], row["half_life_high"]
        table.add_row(
            row["topic"], _stage(row["stage"]), "–" if measured is None else f"{float(measured):.0f} min",
            "" if low is None or high is None else f"{float(low):.0f}–{float(high):.0f}", f"{row['planted']:.0f} min",
        )  # fmt: skip
    return table


def _table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # one of rich's words
    return table


def _stage(stage: str) -> Text:
    return Text(stage, style=_STAGE_STYLES.get(stage, ""))


def sparkline(values: Sequence[int]) -> str:
    """One character for each value, the greatest the highest; zero is a space."""
    greatest = max(values, default=0)
    return "".join(" " if value <= 0 else _BARS[min(7, value * 8 // (greatest + 1))] for value in values)


def bar(share: float, width: int) -> str:
    """A bar of at most `width` characters for a share of 0–1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def _clock(epoch_ms: object, zone: str) -> str:
    """`20:15:03` in the zone; a dash for no sensible time."""
    milliseconds = int(str(epoch_ms)) if epoch_ms is not None else 0
    if not 0 < milliseconds < 253_402_300_800_000:
        return "–"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(ZoneInfo(zone)).strftime("%H:%M:%S")
