"""One open board: its panels' figures, asked again and again, told when they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from grafana.asking import Answer, AskError, Store, StoreGoneError
from grafana.choices import Chosen, newest_ms, resolve
from grafana.lint import panels_of
from grafana.macros import MacroError, Range, expand
from grafana.merging import Question, merged
from grafana.model import views_of

LIVE_MS: Final = 120_000
"""Figures that end this close to the clock are live: the range ends now, not with them."""
_DEFAULT_BACK_MS: Final = 3_600_000
_ROWS_MAX: Final = 20_000
_SECONDS_BETWEEN_OPTIONS: Final = 10.0
_UNITS_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_POOL: Final = ThreadPoolExecutor(6, thread_name_prefix="board")


@dataclass(frozen=True, slots=True)
class View:
    """What a browser wants to see. `back_ms` 0: the board's own range; `fixed`: from and to, both in ms."""

    wanted: Mapping[str, Sequence[str]]
    back_ms: int = 0
    fixed: tuple[int, int] | None = None


class LiveBoard:
    """A board under one view."""

    def __init__(self, store: Store, board: dict[str, Any], view: View) -> None:
        self.store, self.board, self.view = store, board, view
        self._told: dict[Any, Any] = {}
        self._resolved: tuple[dict[str, dict[str, str]], Chosen, Chosen] | None = None
        self._resolved_at, self._views = 0.0, frozenset[str]()

    async def round(self) -> AsyncIterator[tuple[str, Any]]:
        """Ask everything once; yields what differs from the last time."""
        loop = asyncio.get_running_loop()
        try:
            time_range, values = await loop.run_in_executor(_POOL, self._prepare)
        except (AskError, MacroError) as error:
            yield "trouble", {"text": _first_line(error)}
            return
        state = self._state(time_range)
        if (
            self._changed("state", {k: v for k, v in state.items() if k not in ("from", "to")})
            or self.view.fixed is None
        ):
            yield "state", state
        ready, asked = self._asked(time_range, values)
        jobs = [
            loop.run_in_executor(_POOL, self._answered, question, asked) for question in merged([q for _, q in asked])
        ]
        for told in self._news(ready):
            yield "panel", told
        for done in asyncio.as_completed(jobs):
            for told in self._news(await done):
                yield "panel", told
        notes = await loop.run_in_executor(_POOL, self._annotations, time_range, values)
        if self._changed("notes", notes):
            yield "notes", notes
        yield "round", {"at": round(time.time() * 1000)}

    def _news(self, panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [told for told in panels if self._changed(told["id"], {k: v for k, v in told.items() if k != "ms"})]

    def _changed(self, key: Any, value: Any) -> bool:  # noqa: ANN401  # any JSON value
        if self._told.get(key, self) == value:
            return False
        self._told[key] = value
        return True

    def _asking(self) -> list[dict[str, Any]]:
        """Panels that ask the store: others have text, or ask Prometheus."""
        return [panel for panel in panels_of(self.board) if panel["type"] != "text" and "rawSql" in panel["targets"][0]]

    def _prepare(self) -> tuple[Range, Chosen]:
        """The range, and values of variables; options are asked again only every some seconds."""
        time_range = self._range()
        now = time.monotonic()
        if self._resolved is None or now - self._resolved_at > _SECONDS_BETWEEN_OPTIONS:
            self._views = self.store.views()
            self._resolved = resolve(self.store, self.board, time_range, self.view.wanted, self._views)
            self._resolved_at = now
        return time_range, self._resolved[2]

    def _range(self) -> Range:
        if self.view.fixed is not None:
            return Range(*self.view.fixed)
        now = round(time.time() * 1000)
        newest = newest_ms(self.store, self.board)
        end = now if newest is None or newest >= now - LIVE_MS else newest
        return Range(end - (self.view.back_ms or _back_ms(self.board)), end)

    def _state(self, time_range: Range) -> dict[str, Any]:
        options, chosen, _ = self._resolved or ({}, {}, {})
        is_past = self.view.fixed is None and time_range.to_ms < round(time.time() * 1000) - LIVE_MS
        return {
            "from": time_range.from_ms, "to": time_range.to_ms, "past": is_past,
            "options": {name: list(texts.items()) for name, texts in options.items()}, "chosen": chosen,
            "back": self.view.back_ms or _back_ms(self.board),
        }  # fmt: skip

    def _asked(self, time_range: Range, values: Chosen) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
        """What is known without asking, and the panels' queries."""
        ready: list[dict[str, Any]] = []
        asked: list[tuple[int, str]] = []
        for panel in self._asking():
            sql = panel["targets"][0]["rawSql"]
            missing = views_of(sql) - self._views
            if missing:
                ready.append({"id": panel["id"], "absent": ", ".join(sorted(missing))})
                continue
            try:
                asked.append((panel["id"], expand(sql, time_range, values)))
            except MacroError as error:
                ready.append({"id": panel["id"], "error": _first_line(error), "gone": False})
        return ready, asked

    def _answered(self, question: Question, asked: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
        """The answers to all panels that a question stands for; asked one by one when they cannot be asked at once."""
        try:
            answer = self.store.ask(question.sql)
        except AskError as error:
            if question.columns is None:
                gone = isinstance(error, StoreGoneError)
                return [{"id": asked[question.places[0]][0], "error": _first_line(error), "gone": gone}]
            alone = (Question(asked[place][1], None, (place,)) for place in question.places)
            return [told for one in alone for told in self._answered(one, asked)]
        return [
            {"id": asked[place][0], **_plain(answer, None if question.columns is None else question.columns[place])}
            for place in question.places
        ]

    def _annotations(self, time_range: Range, values: Chosen) -> list[list[Any]]:
        """Marks in time: [when, text]."""
        target = self.board["annotations"]["list"][0]["target"]
        if not views_of(target["rawSql"]) <= self._views:
            return []
        try:
            answer = self.store.ask(expand(target["rawSql"], time_range, values))
        except (AskError, MacroError):
            return []
        return [[row[0], row[1]] for row in answer.rows]


def _plain(answer: Answer, column: int | None) -> dict[str, Any]:
    """An answer, or one column of it."""
    some = slice(None) if column is None else slice(column, column + 1)
    rows = [list(row[some]) for row in answer.rows[:_ROWS_MAX]]
    return {
        "columns": [list(one) for one in answer.columns[some]], "rows": rows, "cut": len(answer.rows) > _ROWS_MAX,
        "ms": round(answer.took_ms),
    }  # fmt: skip


def _back_ms(board: Mapping[str, Any]) -> int:
    text = str(board["time"]["from"]).removeprefix("now-")
    return int(text[:-1]) * _UNITS_MS.get(text[-1], 0) or _DEFAULT_BACK_MS


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:400]
