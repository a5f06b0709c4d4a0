"""Rules that a dashboard has to keep: those of Grafana's dashboard-linter that fit ClickHouse, and our own.

Over the JSON, not over the declarations: what is checked is what Grafana reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from grafana.model import KINDS

UNITS: Final = frozenset(
    {"short", "none", "string", "percent", "percentunit", "s", "ms", "m", "h", "bytes", "eps", "cps", "cpm", "ops",
     "currency:¥", "dateTimeAsIso", "dateTimeFromNow"}
)  # fmt: skip
"""Unit ids in use, each looked up in `getValueFormats()` of @grafana/data; `prefix:` and `suffix:` take any text."""

FAST_REFRESH_MS: Final = 5_000
FAST_RANGE_MS: Final = 15 * 60_000
_DURATION_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_RAW_VARIABLE: Final = re.compile(r"\$\{(\w+)(?!\w|:singlequote)[^}]*\}|\$(?!__|\{)[a-z]\w*")
_EACH_MINUTE: Final = re.compile(
    r"\b(?:window_start|tick|minute) AS time\b.*\bFROM (?:active_users|live_session_minutes|topic_heat|ingest_ledger)\b"
)


def lint(board: dict[str, Any]) -> list[str]:
    """What is wrong with a dashboard, a line each."""
    name = board.get("uid", "?")
    return [f"{name}: {fault}" for fault in (*_board(board), *_variables(board), *_panels(board), *_layout(board))]


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Panels without rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def _board(board: dict[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9-]{1,40}", str(board.get("uid", ""))):
        yield "uid must be 1 to 40 of a-z, 0-9 and -"
    for field in ("title", "description", "refresh"):
        if not board.get(field):
            yield f"no {field}"
    if board.get("editable") is not False:
        yield "editable must be false: the file is the source"
    if "livepulse" not in board.get("tags", ()):
        yield "no tag livepulse: links between boards go by it"
    refresh, back = _milliseconds(board["refresh"]), _milliseconds(board["time"]["from"].removeprefix("now-"))
    if refresh < FAST_REFRESH_MS:
        yield "refreshes more often than every 5 s"
    if refresh == FAST_REFRESH_MS and back > FAST_RANGE_MS:
        yield "refreshes every 5 s over more than 15 min"
    numbers = [panel["id"] for panel in board["panels"]]
    if len(set(numbers)) != len(numbers):
        yield "two panels have one id"


def _variables(board: dict[str, Any]) -> Iterator[str]:
    listed = board["templating"]["list"]
    names = [variable["name"] for variable in listed]
    if not listed or listed[0]["type"] != "datasource" or listed[0]["name"] != "datasource":
        yield "the first variable must be the data source, named datasource"
    for at, variable in enumerate(listed):
        if not variable.get("label"):
            yield f"variable {variable['name']} has no label"
        if variable["type"] == "query":
            if variable.get("refresh") != 2:
                yield f"variable {variable['name']} must refresh with the time range (2)"
            for used in re.findall(r"\$\{(\w+)", variable["query"]):
                if used not in names[:at]:
                    yield f"variable {variable['name']} uses {used}, which does not stand before it"


def _panels(board: dict[str, Any]) -> Iterator[str]:
    names = {variable["name"] for variable in board["templating"]["list"]}
    titles: set[str] = set()
    for panel in panels_of(board):
        title = panel.get("title", "")
        told = f"panel {title or panel['id']}"
        if not title or not panel.get("description"):
            yield f"{told} needs a title and a description"
        if title in titles:
            yield f"{told}: the title is there twice"
        titles.add(title)
        if panel["type"] not in KINDS:
            yield f"{told}: the embedded board does not draw {panel['type']}"
        if panel["type"] == "text":
            continue
        if not str(panel.get("datasource", {}).get("uid", "")).startswith("${"):
            yield f"{told} must take its data source from a variable"
        if len(panel.get("targets", ())) != 1:
            yield f"{told} needs exactly one query"
        yield from (f"{told} {fault}" for fault in (*_units(panel), *_steps(panel), *_targets(panel, names)))


def _units(panel: dict[str, Any]) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    units = [defaults.get("unit")]
    for override in panel["fieldConfig"]["overrides"]:
        units += [p["value"] for p in override["properties"] if p["id"] == "unit"]
    for unit in units:
        if unit not in UNITS and not str(unit).startswith(("suffix:", "prefix:")):
            yield f"has the unit {unit}, which is not known"
    if not defaults.get("noValue"):
        yield "says nothing when there is no data (noValue)"
    if panel["type"] == "stat" and not defaults["thresholds"]["steps"]:
        yield "has no thresholds"


def _steps(panel: dict[str, Any]) -> Iterator[str]:
    sql = panel["targets"][0].get("rawSql") or ""
    if panel["type"] in ("timeseries", "state-timeline") and _EACH_MINUTE.search(sql):
        yield "has a row for each minute, of which a range of weeks has too many: group by parts.by_step"


def _targets(panel: dict[str, Any], names: set[str]) -> Iterator[str]:
    for target in panel["targets"]:
        sql = target.get("rawSql")
        if sql is None:
            if not target.get("expr"):
                yield "has an empty query"
            continue
        if target.get("format") != (0 if panel["type"] in ("timeseries", "heatmap") else 1):
            yield "asks for the wrong frame format"
        if "pluginVersion" not in target:
            yield "lacks pluginVersion: the plugin would migrate the query as one of version 3"
        if "SELECT *" in sql:
            yield "selects *: name the columns"
        if _RAW_VARIABLE.search(sql):
            yield "puts a variable into SQL without :singlequote"
        for used in re.findall(r"\$\{(\w+)", sql):
            if used not in names:
                yield f"uses the variable {used}, which the board lacks"


def _layout(board: dict[str, Any]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            yield f"{panel['title']} goes beyond the right edge"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in taken:
                    yield f"{panel['title']} lies over {taken[x, y]}"
                    return
                taken[x, y] = panel["title"]
    rows = [panel for panel in board["panels"] if panel["type"] == "row"]
    if not rows or board["panels"][0]["type"] != "row":
        yield "begins without a row"
    first = board["panels"][1 : board["panels"].index(rows[1])] if len(rows) > 1 else []
    if any(panel["type"] != "stat" for panel in first):
        yield "the first row must be stats"


def _milliseconds(text: str) -> int:
    return int(text[:-1]) * _DURATION_MS[text[-1]]
