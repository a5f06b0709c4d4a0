"""Queries as the ClickHouse plugin sends them: variables filled in, then the plugin's time macros expanded.

Source: grafana-clickhouse-datasource 4.x, `pkg/macros/macros.go`, and Grafana's variable formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_MACRO: Final = re.compile(r"\$__(\w+)")
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::(\w+))?\}|\$(?!__)([a-z]\w*)")
_POINTS: Final = 1_000


class MacroError(ValueError):
    """A query uses a macro or a variable that is not there."""


@dataclass(frozen=True, slots=True)
class Range:
    """A time range in epoch ms, and the interval that Grafana would choose for it."""

    from_ms: int
    to_ms: int

    @property
    def interval_seconds(self) -> int:
        """A point a pixel, not under a second."""
        return max(1, (self.to_ms - self.from_ms) // 1000 // _POINTS)


def expand(sql: str, time: Range, values: Mapping[str, Sequence[str]]) -> str:
    """`sql` ready for ClickHouse. Errors: `MacroError`."""
    return expand_macros(interpolate(sql, values), time)


def interpolate(sql: str, values: Mapping[str, Sequence[str]]) -> str:
    """Fill in variables; of their formats only `singlequote` is safe with text of events, so only it is taken."""

    def one(found: re.Match[str]) -> str:
        name, form = found.group(1) or found.group(3), found.group(2)
        if name not in values:
            raise MacroError(f"there is no variable {name}")
        if form != "singlequote":
            raise MacroError(f"${{{name}}} must be written ${{{name}:singlequote}}: event text may hold quotes")
        return ",".join(_quoted(value) for value in values[name]) or "''"

    return _VARIABLE.sub(one, sql)


def expand_macros(sql: str, time: Range) -> str:
    """Expand `$__name` and `$__name(arguments)`."""
    parts: list[str] = []
    at = 0
    for found in _MACRO.finditer(sql):
        if found.start() < at:
            continue
        parts.append(sql[at : found.start()])
        arguments, at = _arguments(sql, found.end())
        macro = _MACROS.get(found.group(1))
        if macro is None:
            raise MacroError(f"the plugin has no macro $__{found.group(1)}")
        parts.append(macro(time, arguments))
    return "".join((*parts, sql[at:]))


def _arguments(sql: str, start: int) -> tuple[list[str], int]:
    """What stands in parentheses right after a macro, and where it ends."""
    if start >= len(sql) or sql[start] != "(":
        return [], start
    depth, begin = 0, start + 1
    found: list[str] = []
    for at in range(start, len(sql)):
        if sql[at] == "(":
            depth += 1
        elif sql[at] == ")":
            depth -= 1
            if depth == 0:
                return [*found, sql[begin:at].strip()], at + 1
        elif sql[at] == "," and depth == 1:
            found.append(sql[begin:at].strip())
            begin = at + 1
    raise MacroError("a macro's parenthesis is not closed")


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _one(arguments: list[str]) -> str:
    if len(arguments) != 1:
        raise MacroError(f"expected 1 argument, received {len(arguments)}")
    return arguments[0]


def _seconds(ms: int) -> str:
    return f"toDateTime({ms // 1000})"


def _millis(ms: int) -> str:
    return f"fromUnixTimestamp64Milli({ms})"


def _date(ms: int) -> str:
    return f"toDate('{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}')"


def _between(shape: Callable[[int], str]) -> Callable[[Range, list[str]], str]:
    def expanded(time: Range, arguments: list[str]) -> str:
        column = _one(arguments)
        return f"{column} >= {shape(time.from_ms)} AND {column} <= {shape(time.to_ms)}"

    return expanded


_MACROS: Final[Mapping[str, Callable[[Range, list[str]], str]]] = {
    "fromTime": lambda time, _: _seconds(time.from_ms),
    "toTime": lambda time, _: _seconds(time.to_ms),
    "fromTime_ms": lambda time, _: _millis(time.from_ms),
    "toTime_ms": lambda time, _: _millis(time.to_ms),
    "timeFilter": _between(_seconds),
    "timeFilter_ms": _between(_millis),
    "dateFilter": _between(_date),
    "timeInterval": lambda time, a: (
        f"toStartOfInterval(toDateTime({_one(a)}), INTERVAL {time.interval_seconds} second)"
    ),
    "interval_s": lambda time, _: str(time.interval_seconds),
}
