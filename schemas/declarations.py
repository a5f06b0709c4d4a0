"""A user's own declarations, read from TOML: funnels, heats, dimensions, watched series (see examples/).

Every error names the file, the field, its value and what would do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeGuard

import polars as pl

from schemas.events import OPTIONAL
from schemas.funnels import DAY_MS, HOUR_MS, MINUTE_MS, VIDEO_TO_LIVE, Exclusion, Funnel, Match, Step
from schemas.heat import TOPIC_HEAT, HeatSpec
from schemas.watches import WATCHES, Measure, Watch

_UNITS_MS: Final = {"minutes": MINUTE_MS, "hours": HOUR_MS, "days": DAY_MS}
_TOP: Final = ("dimensions", "funnel", "heat", "watch")
_WATCH: Final = ("view", "name", "column", "over", "counted")
_FUNNEL: Final = ("name", "hold", "hold_from", "units", "step", "exclusion")
_DURATIONS: Final = ("enter_within", "finish_within", "remember")
_STEP: Final = ("name", "events", "optional", "amount")
_HEAT: Final = tuple(item.name for item in fields(HeatSpec))


class DeclarationError(ValueError):
    """A declaration file that cannot be used; the message says where and what would do."""


@dataclass(frozen=True, slots=True)
class Declarations:
    """What runs: the built-in funnel and heat beside the user's own; a heat named like the built-in one replaces it.

    `dimensions`: None where no file lists any.
    """

    funnels: tuple[Funnel, ...] = (VIDEO_TO_LIVE,)
    heats: tuple[HeatSpec, ...] = (TOPIC_HEAT,)
    dimensions: tuple[str, ...] | None = None
    watches: tuple[Watch, ...] = WATCHES


def load(path: Path | str) -> Declarations:
    """The built-in declarations with those of one file.

    Raises:
        DeclarationError: the file is no TOML, or says something that cannot be.
    """
    return load_all((path,))


def load_all(paths: Iterable[Path | str]) -> Declarations:
    """The built-in declarations with those of several files; a later list of dimensions replaces an earlier one.

    Raises:
        DeclarationError: as `load`, or two of the files give one name to two things.
    """
    declared = Declarations()
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                document = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DeclarationError(f"{path}: cannot be read as TOML: {error}") from error
        try:
            declared = _add(declared, document)
        except ValueError as error:  # of the declarations' own checks
            raise DeclarationError(f"{path}: {error}") from error
    return declared


def _add(declared: Declarations, document: Mapping[str, Any]) -> Declarations:
    _known("the file", document, _TOP)
    funnels = {funnel.name: funnel for funnel in declared.funnels}
    for index, table in enumerate(_tables("funnel", document)):
        funnel = _funnel(f"funnel[{index}]", table)
        if funnel.name in funnels:
            raise DeclarationError(f"funnel[{index}].name {funnel.name!r} is taken; choose another")
        funnels[funnel.name] = funnel
    heats = {heat.name: heat for heat in declared.heats}
    own: set[str] = set()
    for index, table in enumerate(_tables("heat", document)):
        heat = _heat(f"heat[{index}]", table)
        if heat.name in own:
            raise DeclarationError(f"heat[{index}].name {heat.name!r} is taken; choose another")
        own.add(heat.name)
        heats[heat.name] = heat
    dimensions = _dimensions(document["dimensions"]) if "dimensions" in document else declared.dimensions
    watches = declared.watches
    for index, table in enumerate(_tables("watch", document)):
        watches = _watched(f"watch[{index}]", table, watches)
    return Declarations(tuple(funnels.values()), tuple(heats.values()), dimensions, watches)


def _watched(where: str, table: Mapping[str, Any], watches: tuple[Watch, ...]) -> tuple[Watch, ...]:
    """The watches with one more measure of one of them."""
    _known(where, table, _WATCH)
    view, name = _text(f"{where}.view", table.get("view")), _text(f"{where}.name", table.get("name"))
    views = [watch.table for watch in watches]
    if view not in views:
        raise DeclarationError(f"{where}.view {view!r}: one of {', '.join(views)} (funnels are watched as declared)")
    column, over = (_text(f"{where}.{key}", table.get(key, name)) for key in ("column", "over"))
    is_rate = "over" in table
    counted = _flag(f"{where}.counted", table.get("counted", not is_rate and not column.endswith(("_minor", "_ms"))))
    try:
        measure = Measure(name, counted=counted, column=column, over=over if is_rate else "")
        return tuple(watch.with_measures((measure,)) if watch.table == view else watch for watch in watches)
    except ValueError as error:
        raise DeclarationError(f"{where}: {error}") from error


def _dimensions(value: object) -> tuple[str, ...]:
    names = _texts("dimensions", value)
    allowed = [name for name, dtype in OPTIONAL.items() if dtype == pl.String() and name != "experiments"]
    for name in names:
        if name not in allowed:
            raise DeclarationError(f"dimensions: {name!r} is no text field of an event; one of {', '.join(allowed)}")
    if len(set(names)) != len(names):
        raise DeclarationError(f"dimensions {list(names)}: each name once")
    return names


def _funnel(where: str, table: Mapping[str, Any]) -> Funnel:
    names = {f"{duration}_{unit}" for duration in _DURATIONS for unit in _UNITS_MS}
    _known(where, table, (*_FUNNEL, *sorted(names)))
    steps = tuple(_step(f"{where}.step[{i}]", step) for i, step in enumerate(_tables("step", table, where)))
    exclusions = tuple(
        Exclusion(*_events(f"{where}.exclusion[{i}]", part, ("name", "events")))
        for i, part in enumerate(_tables("exclusion", table, where))
    )
    return Funnel(
        name=_text(f"{where}.name", table.get("name")),
        steps=steps,
        hold=_text(f"{where}.hold", table.get("hold")),
        enter_within_ms=_duration_ms(where, table, "enter_within"),
        finish_within_ms=_duration_ms(where, table, "finish_within", 0 if len(steps) == 2 else None),
        remember_ms=_duration_ms(where, table, "remember", 10 * DAY_MS),
        hold_from=_integer(f"{where}.hold_from", table.get("hold_from", 2)),
        units=_texts(f"{where}.units", table.get("units", [])),
        exclusions=exclusions,
    )


def _step(where: str, table: Mapping[str, Any]) -> Step:
    name, events = _events(where, table, _STEP)
    optional, amount = (_flag(f"{where}.{flag}", table.get(flag, False)) for flag in ("optional", "amount"))
    return Step(name, events, optional, amount)


def _events(where: str, table: Mapping[str, Any], known: Sequence[str]) -> tuple[str, tuple[Match, ...]]:
    _known(where, table, known)
    events = []
    for index, match in enumerate(_tables("events", table, where)):
        place = f"{where}.events[{index}]"
        _known(place, match, ("topic", "where"))
        conditions = match.get("where", {})
        if not isinstance(conditions, Mapping):
            raise DeclarationError(f'{place}.where {conditions!r}: a table such as {{surface = "video"}}')
        fields_of = {
            name: _texts(f"{place}.where.{name}", [value] if isinstance(value, str) else value)
            for name, value in conditions.items()
        }
        try:
            events.append(Match(_text(f"{place}.topic", match.get("topic")), fields_of))
        except ValueError as error:
            raise DeclarationError(f"{place}: {error}") from error
    return _text(f"{where}.name", table.get("name")), tuple(events)


def _heat(where: str, table: Mapping[str, Any]) -> HeatSpec:
    _known(where, table, _HEAT)
    known = dict(table)
    if "weights" in known:
        weights = known["weights"]
        if not isinstance(weights, Mapping) or not all(_is_number(weight) for weight in weights.values()):
            raise DeclarationError(
                f'{where}.weights {weights!r}: a table of numbers such as {{view = 1, "engage.share" = 8}}'
            )
        known["weights"] = {name: float(weight) for name, weight in weights.items()}
    for item in fields(HeatSpec):
        if item.name not in known or item.name == "weights":
            continue
        value = known[item.name]
        wanted = str(item.type)
        fits = isinstance(value, str) if wanted == "str" else _is_number(value)
        if not fits or (wanted == "int" and not isinstance(value, int)):
            raise DeclarationError(
                f"{where}.{item.name} {value!r}: {'a text' if wanted == 'str' else f'a number ({wanted})'}"
            )
    return HeatSpec(**known)


def _duration_ms(where: str, table: Mapping[str, Any], name: str, default: int | None = None) -> int:
    given = [(unit, table[f"{name}_{unit}"]) for unit in _UNITS_MS if f"{name}_{unit}" in table]
    if not given and default is not None:
        return default
    if len(given) != 1:
        raise DeclarationError(f"{where}: give {name} once, as {name}_minutes, {name}_hours or {name}_days")
    unit, value = given[0]
    if not _is_number(value) or not 0 <= value <= 1e6:
        raise DeclarationError(f"{where}.{name}_{unit} {value!r}: a number, not negative")
    return round(value * _UNITS_MS[unit])


def _known(where: str, table: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in table:
        if name not in names:
            raise DeclarationError(f"{where}: no field {name!r}; one of {', '.join(names)}")


def _tables(name: str, table: Mapping[str, Any], where: str = "") -> list[Mapping[str, Any]]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise DeclarationError(f"{where + '.' if where else ''}{name} {value!r}: a list of tables")
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DeclarationError(f"{where} {value!r}: a list of texts")
    return tuple(_text(where, item) for item in value)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise DeclarationError(f"{where} {value!r}: a text, not empty")
    return value


def _integer(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DeclarationError(f"{where} {value!r}: a whole number")
    return value


def _flag(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise DeclarationError(f"{where} {value!r}: true or false")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
