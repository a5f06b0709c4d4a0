"""The anomalies that stand: one row each, opened, merged into another or resolved, with severity and a sentence.

The row of an anomaly keeps its key (series, dim, value, window_start) for life; a later row replaces an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from flows.anomaly_explain import amount
from flows.anomaly_route import Health, route
from schemas.events import ALL
from schemas.windows import utc_offset_ms

OPEN, MERGED, RESOLVED_STATE = "open", "merged", "resolved"
MIX: Final = "mix"
_MONEY: Final = "_minor"
_ABSORB: Final = 15
"""The whole takes in what opened on its parts so many windows before it."""

_SEVERITIES: Final = ("info", "warning", "critical")
_TOLD: Final = ("actual", "expected", "low", "high", "score", "kind", "severity", "explanation", "route")
"""What an alarm says of itself, but for when it began."""

Key = tuple[str, str, str]  # series, dim, value
ROWS: Final[dict[str, pl.DataType]] = {
    "window_start": pl.Int64(), "series": pl.String(), "dim": pl.String(), "value": pl.String(),
    "actual": pl.Float64(), "expected": pl.Float64(), "low": pl.Float64(), "high": pl.Float64(),
    "score": pl.Float64(), "kind": pl.String(), "severity": pl.String(), "state": pl.String(),
    "explanation": pl.String(), "window_seconds": pl.Int64(), "direction": pl.String(), "route": pl.String(),
    "detected_at": pl.Int64(), "resolved_at": pl.Int64(), "is_provisional": pl.Int64(),
}  # fmt: skip


@dataclass(slots=True)
class Anomaly:
    """A row of `anomalies`; times are epoch ms."""

    window_start: int
    series: str
    dim: str
    value: str
    actual: float
    expected: float
    low: float
    high: float
    score: float
    kind: str  # spike, drop, zero, missing, shift, mix
    severity: str
    state: str
    explanation: str
    window_seconds: int
    direction: str  # up, down; mix: mix
    route: str
    detected_at: int
    resolved_at: int | None = None
    is_provisional: int = 0

    @property
    def key(self) -> Key:
        """What it is about: one anomaly at a time stands for it."""
        return (self.series, self.dim, self.value)


class Book:
    """Open anomalies, and rows that changed since `take`."""

    def __init__(self) -> None:
        self.standing: dict[Key, Anomaly] = {}
        self.ties: dict[Key, Key] = {}
        """Of the whole: the part for which it was told before its own alarm, or (merged) whose change is its own.

        Of itself: those parts are over, and it goes on.
        """
        self._changed: list[Anomaly] = []

    def open(self, found: Anomaly, health: Health, part: Anomaly | None = None) -> None:
        """A new anomaly: merged when the same is told elsewhere already, and routed.

        `part` was told and accounts for what is found of the whole: it says enough to those whom it was told.
        """
        sent = route(found.kind, fell=found.direction != "up", health=health)
        found.route = sent.to
        parent = self.parent(found)
        if parent is None and part is not None and part.route == found.route:
            parent = part
            self.ties[found.key] = part.key
        if parent is not None:
            found.state = MERGED
            found.explanation += f" Part of: {_label(parent)}."
        if sent.reasons:
            found.explanation = f"{sent.sentence()} {found.explanation}"
        self.standing[found.key] = found
        self._changed.append(found)
        if found.dim == ALL and found.state == OPEN:
            self._absorb(found)

    def open_for(self, part: Anomaly, whole: Anomaly, health: Health) -> None:
        """A part alarms first, of what happens to the whole: that is told, until its own alarm or the part's end."""
        self.ties[whole.key] = part.key
        self.open(whole, health)

    def confirms(self, found: Anomaly, health: Health) -> bool:
        """Whether this alarm of the whole was told for one of its parts; from now on it ends by itself.

        Where it is worse than what was told then, that is told in the row that stands.
        """
        standing = self.standing.get(found.key)
        if standing is None or found.key not in self.ties:
            return False
        if standing.direction != found.direction:  # that is over, and this another one
            self.close(found.key, found.window_start, accepted=False)
            return False
        del self.ties[found.key]
        if _SEVERITIES.index(found.severity) > _SEVERITIES.index(standing.severity):
            sent = route(found.kind, fell=found.direction != "up", health=health)
            found.route, found.explanation = sent.to, f"{sent.sentence()} {found.explanation}".lstrip()
            for field in _TOLD:
                setattr(standing, field, getattr(found, field))
            self._changed.append(standing)
        return True

    def parent(self, found: Anomaly) -> Anomaly | None:
        """What stands already and says the same: the whole, another measure of it, or a part of another dimension."""
        same = [a for a in self.standing.values() if a.state == OPEN and _alike(a, found)]
        for relation in (
            [a for a in same if a.dim == ALL],
            [a for a in same if (a.dim, a.value) == (found.dim, found.value)],
            [a for a in same if found.kind == MIX and a.dim == found.dim],
            [a for a in same if found.dim not in (a.dim, ALL)],
        ):
            if relation:
                return relation[0]
        return None

    def _absorb(self, whole: Anomaly) -> None:
        since = whole.window_start - _ABSORB * whole.window_seconds * 1000
        for part in self.standing.values():
            if part is not whole and part.state == OPEN and part.window_start >= since and _alike(part, whole):
                part.state = MERGED
                part.explanation += f" Part of: {_label(whole)}."
                self._changed.append(part)

    def shift(self, key: Key) -> None:
        """It lasts: no longer a spike or a drop."""
        if (anomaly := self.standing.get(key)) is not None:
            anomaly.kind = "shift"
            self._changed.append(anomaly)

    def close(self, key: Key, at: int, *, accepted: bool) -> None:
        """It is over, or its level is the new normal."""
        self.ties.pop(key, None)
        if (anomaly := self.standing.pop(key, None)) is None:
            return
        anomaly.resolved_at = at
        if anomaly.state == OPEN:
            anomaly.state = RESOLVED_STATE
        if accepted:
            anomaly.explanation += " It lasted: taken for the new level."
        self._changed.append(anomaly)

    def release(self, part: Key, at: int, is_out: Callable[[Anomaly], bool]) -> None:
        """A part is over: what was told of the whole for it ends too, unless it goes on; what was not, is told then.

        What goes on is told for another of its parts, or where none is left for itself: see `loose`.
        """
        for key in [whole for whole, of in self.ties.items() if of == part]:
            whole, goes_on = self.standing[key], is_out(self.standing[key])
            if whole.state == OPEN:
                if goes_on:
                    self.ties[key] = self._part(whole)
                else:
                    self.close(key, at, accepted=False)
                continue
            del self.ties[key]
            if goes_on:
                whole.state = OPEN
                whole.explanation += " That is over, this goes on."
                self._changed.append(whole)

    def _part(self, whole: Anomaly) -> Key:
        """A part that was told by the whole and stands, of the same measure first; the whole itself: there is none."""
        parts = [
            a for a in self.standing.values()
            if a.state == MERGED and a.dim != ALL and a.direction == whole.direction
        ]  # fmt: skip
        return min(parts, key=lambda a: a.series != whole.series, default=whole).key

    def loose(self) -> list[Key]:
        """What was told of the whole for parts that are all over: to be released when it is in its range."""
        return [whole for whole, of in self.ties.items() if of == whole]

    def opened(self, like: Anomaly) -> bool:
        """Whether one of this key and window was told since the last `take`, or stands."""
        standing = self.standing.get(like.key)
        known = [*self._changed, *([standing] if standing else [])]
        return any((a.key, a.window_start) == (like.key, like.window_start) for a in known)

    def tell(self, changed: Anomaly) -> None:
        """Give out this row."""
        self._changed.append(changed)

    def take(self) -> pl.DataFrame:
        """Rows that changed since the last call, each key once, as it stands now."""
        latest = {(*a.key, a.window_start): a for a in self._changed}
        self._changed = []
        return pl.DataFrame([asdict(a) for a in latest.values()], schema=ROWS, orient="row")

    def plain(self) -> list[dict[str, Any]]:
        """State as plain values: what stands. Ties apart: `plain_ties`."""
        return [asdict(a) for a in self.standing.values()]

    def plain_ties(self) -> list[list[str]]:
        """Ties as plain values."""
        return [[*whole, *part] for whole, part in self.ties.items()]

    def become(self, plain: list[dict[str, Any]], ties: Sequence[Sequence[str]] = ()) -> None:
        """Take the state that `plain` and `plain_ties` gave."""
        found = [Anomaly(**fields) for fields in plain]
        self.standing, self._changed = {a.key: a for a in found}, []
        self.ties = {(a, b, c): (d, e, f) for a, b, c, d, e, f in ties}


def _alike(one: Anomaly, other: Anomaly) -> bool:
    return one.direction == other.direction or MIX in (one.direction, other.direction)


def _label(anomaly: Anomaly) -> str:
    return anomaly.series if anomaly.dim == ALL else f"{anomaly.series} of {anomaly.dim} {anomaly.value}".rstrip()


def severity(kind: str, dim: str, actual: float, expected: float) -> str:
    """`critical`: the whole is off by half or gone; `info`: a part that is less than a quarter off."""
    off = abs(actual - expected) / max(expected, 1e-9)
    if dim == ALL and (kind in ("zero", "missing") or off >= 0.5):
        return "critical"
    return "warning" if dim == ALL or off >= 0.25 or kind == "mix" else "info"


def sentence(found: Anomaly, zone: str, drivers: str, *, is_rate: bool = False) -> str:
    """What happened, in words: figure, place, time, by how much, the usual range, and what moved it."""
    moment = datetime.fromtimestamp((found.window_start + utc_offset_ms(zone, found.window_start)) / 1000, UTC)
    what, figure = _words(found.series.rpartition(".")[2], is_rate=is_rate)
    where = "" if found.dim == ALL else f" of {found.dim} {found.value or '(no value)'}"
    when = f"{moment:%a %H:%M}"
    if found.kind == "missing":
        return f"Nothing arrived at {when}, where {figure(found.expected)} {what} are usual."
    if found.kind == "zero":
        return f"{what}{where} fell to 0 at {when}; {figure(found.expected)} are usual then. {drivers}".rstrip()
    off = abs(found.actual / max(found.expected, 1e-9) - 1)
    way = "over" if found.actual > found.expected else "under"
    told = (
        f"{what}{where} at {figure(found.actual)} at {when}, {off:.0%} {way} the {figure(found.expected)} of that hour "
        f"(usually {figure(found.low)} to {figure(found.high)})."
    )
    return f"{told} {drivers}" if drivers else told


def _words(measure: str, *, is_rate: bool) -> tuple[str, Callable[[float], str]]:
    """The name of a measure and how its figures are written: money in whole units, rates in per cent."""
    if is_rate:
        return measure.replace("_", " "), lambda x: f"{amount(100 * x)} %"
    if measure.endswith(_MONEY):
        name = measure.removesuffix(_MONEY).replace("_", " ")
        return name.upper() if name == "gmv" else name, lambda x: amount(x / 100)
    return measure, amount
