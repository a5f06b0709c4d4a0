"""A rule over history before anybody is woken by it: how often it fires, how late, how right."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from flows.alert_rules import FIRING, Rule, evaluate, fires
from flows.cli_tools import answer
from flows.errors import Usage
from flows.settings import Settings

_DAY_S: Final = 86_400
_WINDOWS_MAX: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that did happen, epoch s."""

    start: int
    end: int


def read_truth(path: Path) -> list[Incident]:
    """Incidents from a CSV with `start` and `end` (ISO times, UTC unless they say otherwise). Errors: `Usage`."""
    try:
        rows = pl.read_csv(path, schema_overrides={"start": pl.String, "end": pl.String})
        return [Incident(_seconds(start), _seconds(end)) for start, end in rows.select("start", "end").iter_rows()]
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise Usage(f"{path} must be a CSV with the columns start and end: {error}") from error


def _seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def windows(settings: Settings, rule: Rule) -> tuple[int, list[float | None]]:
    """Figures of the store's history: epoch s of the first window, then one a window, None without a row."""
    blocks = b"".join(answer(settings, f"{rule.sql()} FORMAT CSVWithNames", "CSVWithNames"))
    rows = pl.read_csv(io.BytesIO(blocks), schema_overrides={"at": pl.Int64, "figure": pl.Float64})
    first, last = _span(settings, rule, rows)
    count = (last - first) // rule.window_seconds + 1
    if count > _WINDOWS_MAX:
        raise Usage(f"rule {rule.name}: {count:,} windows of history; choose longer windows")
    values: list[float | None] = [0.0 if rule.measure == "count" else None] * count
    for at, figure in rows.iter_rows():
        values[(at - first) // rule.window_seconds] = figure
    return first, values


def _span(settings: Settings, rule: Rule, rows: pl.DataFrame) -> tuple[int, int]:
    """What history there is: of the engine, where a view (anomalies) has rows now and then only."""
    if rule.measure != "count":
        if not rows.height:
            raise Usage(f"rule {rule.name}: the store has no rows for it; its query is {rule.sql()}")
        return int(rows["at"][0]), int(rows["at"][-1])
    query = "SELECT toUnixTimestamp(min(window_start)), toUnixTimestamp(max(window_start)) FROM active_users FORMAT CSV"
    text = b"".join(answer(settings, query, "CSV")).decode().strip()
    first, last = (int(part) for part in text.split(","))
    size = rule.window_seconds
    seen = [int(at) for at in rows["at"]]
    return min([first // size * size, *seen]), max([last // size * size, *seen])


def judge(rule: Rule, first: int, values: Sequence[float | None], truth: Sequence[Incident] | None) -> dict[str, Any]:
    """Fires, fires a day, time spent firing; with a truth recall, precision and the median delay in windows."""
    states = evaluate(rule.evaluation, values)
    begun = [first + i * rule.window_seconds for i in fires(states)]
    return summary(rule.name, first, rule.window_seconds, begun, [state == FIRING for state in states], truth)


def summary(
    name: str, first: int, size: int, begun: Sequence[int], firing: Sequence[bool], truth: Sequence[Incident] | None
) -> dict[str, Any]:
    """What is told of a rule: `begun` at these times (epoch s), `firing` in each window of `size` s from `first`."""
    days = len(firing) * size / _DAY_S
    told: dict[str, Any] = {
        "rule": name,
        "from": datetime.fromtimestamp(first, UTC).isoformat(),
        "windows": len(firing),
        "window_seconds": size,
        "days": round(days, 2),
        "fires": len(begun),
        "fires_per_day": round(len(begun) / days, 3) if days else 0.0,
        "share_firing": round(sum(firing) / max(len(firing), 1), 5),
        "fired_at": [datetime.fromtimestamp(at, UTC).isoformat() for at in begun[:20]],
    }
    if truth is not None:
        told |= _against(size, begun, truth)
    return told


def _against(size: int, begun: Sequence[int], truth: Sequence[Incident]) -> dict[str, Any]:
    hits = [[at for at in begun if incident.start - size < at < incident.end] for incident in truth]
    right = {at for found in hits for at in found}
    delays = sorted(
        max(min(found) - incident.start, 0) // size for found, incident in zip(hits, truth, strict=True) if found
    )
    return {
        "incidents": len(truth),
        "recall": round(sum(bool(found) for found in hits) / len(truth), 4) if truth else None,
        "precision": round(len(right) / len(begun), 4) if begun else None,
        "median_delay_windows": delays[len(delays) // 2] if delays else None,
    }
