"""Where settings come from (flag over environment over `livepulse.toml` over default), and errors that say so."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flows.durations import format_duration
from flows.errors import BadSetting, Usage
from flows.masking import MASK, is_secret
from flows.settings import Settings, outside_name, shown_value

FILE: Final = Path("livepulse.toml")
PREFIX: Final = "LIVEPULSE_"
NOT_SETTINGS: Final = frozenset({"CONFIG", "DEBUG", "TEST_KAFKA"})
"""Names after the prefix that mean something else than a setting."""

FIELDS: Final[dict[str, str]] = {outside_name(name): name for name in Settings.model_fields}
"""Outside name → field."""


def load_settings(
    flags: Mapping[str, object] | None = None, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from all sources. `flags`: field or outside name → value, None = not given. Raises `Usage`."""
    environ = os.environ if environ is None else environ
    file = file or (Path(environ[PREFIX + "CONFIG"]) if environ.get(PREFIX + "CONFIG") else None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers = (_from_file(file), _from_environment(environ), _from_flags(flags or {}))
    for layer in layers:
        for field, (value, origin) in layer.items():
            if field == "kafka" and field in values:
                values[field] = _table(values[field], origins[field]) | _table(value, origin)
                origins[field] = f"{origins[field]} + {origin}"
            else:
                values[field], origins[field] = value, origin
    return _build(values, origins)


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables with our prefix that name no setting (not an error: orchestrators inject such names)."""
    names = os.environ if environ is None else environ
    known = {name.upper() for name in FIELDS} | {name.upper() for name in FIELDS.values()} | NOT_SETTINGS
    return sorted(name for name in names if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known)


def _table(value: object, origin: str) -> dict[str, str]:
    """The kafka properties of one source as a mapping."""
    return _build({"kafka": value}, {"kafka": origin}).kafka


def _field(key: str, origin: str) -> str:
    """The field that a key in a file or flag names; the message of the error names the nearest one."""
    field = FIELDS.get(key) or (key if key in FIELDS.values() else None)
    if field is None:
        near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "`livepulse config show` lists them all"
        raise Usage(f"{origin}: there is no setting {key!r}; {hint}")
    return field


def _from_file(file: Path | None) -> dict[str, tuple[object, str]]:
    if file is None and not FILE.exists():
        return {}
    path = file or FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Usage(f"{path}: cannot be read ({error.strerror or error}); name an existing TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Usage(f"{path}: not valid TOML: {error}") from error
    return _named(content, str(path))


def _named(content: Mapping[str, object], origin: str) -> dict[str, tuple[object, str]]:
    """Keys as fields, each once (`epoch` and `epoch_ms` are the same setting)."""
    named: dict[str, tuple[object, str]] = {}
    for key, value in content.items():
        field = _field(key, origin)
        if field in named:
            raise Usage(f"{origin}: {outside_name(field)} is set twice; keep one")
        named[field] = (value, origin)
    return named


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    found: dict[str, tuple[object, str]] = {}
    for outside, field in FIELDS.items():
        for name in (PREFIX + field.upper(), PREFIX + outside.upper()):
            if environ.get(name):  # an empty variable counts as not set
                found[field] = (environ[name], name)
    return found


def _from_flags(flags: Mapping[str, object]) -> dict[str, tuple[object, str]]:
    given = {key: value for key, value in flags.items() if value is not None}
    told = given.get("kafka", ())
    for name in (str(part).partition("=")[0].strip() for part in (told if isinstance(told, list | tuple) else ())):
        if is_secret(name):
            fix = f"every user of this machine sees flags; use {name}_file, LIVEPULSE_KAFKA or {FILE}"
            raise BadSetting("kafka", f"{name}={MASK}", fix, "--kafka")
    return {
        field: (value, "--" + outside_name(field).replace("_", "-"))
        for field, (value, _) in _named(given, "command line").items()
    }


def _build(values: Mapping[str, object], origins: Mapping[str, str]) -> Settings:
    try:
        settings = Settings.model_validate(dict(values))
    except ValidationError as error:
        raise _explained(error.errors(include_url=False)[0], values, origins) from None
    settings._origins.update(origins)  # noqa: SLF001 - the one place that knows the origins
    return settings


def _explained(detail: ErrorDetails, values: Mapping[str, object], origins: Mapping[str, str]) -> Usage:
    """The first thing wrong, for the user: setting, value (masked if secret), origin, fix."""
    if not detail["loc"]:
        return Usage(detail["msg"].removeprefix("Value error, "))
    field = str(detail["loc"][0])
    value = shown_value(field, values.get(field, detail.get("input")))
    if field == "kafka" and isinstance(value, str):
        value = MASK
    return BadSetting(outside_name(field), value, _problem(detail, field), origins.get(field, ""))


def _problem(detail: ErrorDetails, field: str) -> str:
    """What would be right, in our words where pydantic's speak of types and lengths."""
    context = detail.get("ctx", {})
    bound = context.get("ge", context.get("le"))
    if bound is not None:
        shown = format_duration(bound) if field.endswith("_ms") else bound
        return f"must be {shown} or {'more' if 'ge' in context else 'less'}"
    match detail["type"]:
        case "bool_parsing" | "bool_type":
            return "write true or false"
        case "int_parsing" | "int_type" | "int_from_float":
            return "write a whole number"
        case "string_too_short":
            return "must not be empty"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case _:
            return detail["msg"].removeprefix("Value error, ")
