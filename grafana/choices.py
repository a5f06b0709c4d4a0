"""Variables of a dashboard: their options, asked from the store, and what is chosen among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from grafana.asking import AskError, Store
from grafana.macros import Range, expand
from grafana.model import views_of

ALL: Final = "$__all"
Chosen = dict[str, list[str]]
CLOCKS: Final = {
    "clock:event": "SELECT toUnixTimestamp64Milli(max(last_event_time)) FROM engine_progress",
    "clock:ingest": "SELECT toInt64(toUnixTimestamp(max(minute) + 60)) * 1000 FROM ingest_ledger",
}
"""The newest time of a board's figures, by its tag."""


def variables_of(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Variables that people choose, without data sources."""
    return [variable for variable in board["templating"]["list"] if variable["type"] in ("query", "custom")]


def newest_ms(store: Store, board: Mapping[str, Any]) -> int | None:
    """The end of what the board shows; None in an empty store."""
    asked = next(CLOCKS[tag] for tag in board["tags"] if tag in CLOCKS)
    try:
        found = store.ask(asked).rows
    except AskError:
        return None
    return int(found[0][0]) if found and found[0][0] and int(found[0][0]) > 0 else None


def options_of(
    store: Store, variable: Mapping[str, Any], time: Range, values: Mapping[str, Sequence[str]], views: frozenset[str]
) -> dict[str, str]:
    """What can be chosen, and the text of each; nothing while a view that it reads is not there. Errors: `AskError`."""
    if variable["type"] == "custom":
        return {option["value"]: option["text"] for option in variable["options"]}
    if not views_of(variable["query"]) <= views:
        return {}
    answer = store.ask(expand(variable["query"], time, values))
    return {str(row[0]): str(row[-1]) for row in answer.rows}


def resolve(
    store: Store, board: Mapping[str, Any], time: Range, wanted: Mapping[str, Sequence[str]], views: frozenset[str]
) -> tuple[dict[str, dict[str, str]], Chosen, Chosen]:
    """Options with their texts, what is chosen (`$__all` as it is), and the values that go into queries, by variable.

    A choice that is no longer among the options stays: the room of a link may be beyond the list's end.
    """
    options: dict[str, dict[str, str]] = {}
    chosen: Chosen = {}
    values: Chosen = {}
    for variable in variables_of(board):
        name = variable["name"]
        options[name] = options_of(store, variable, time, values, views)
        starts_with_all = variable.get("current", {}).get("value") == ALL
        picked = list(wanted.get(name, ()))
        if variable["type"] == "custom":
            picked = [value for value in picked if value in options[name]]
        if not picked:
            picked = [ALL] if starts_with_all else list(options[name])[:1]
        if not variable.get("multi"):
            picked = picked[:1]
        chosen[name] = picked
        values[name] = list(options[name]) if ALL in picked else picked
    return options, chosen, values
