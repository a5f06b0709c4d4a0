"""Options of commands that take settings: derived from `Settings`, so that a setting is stated once."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final

import typer

from flows import early_stop
from flows.configuration import load_settings
from flows.durations import parse_instant
from flows.errors import CHECK_FAILED, DEPENDENCY_DOWN, USAGE, LivePulseError, Usage, causes
from flows.masking import masked
from flows.settings import Settings, outside_name

SECTIONS: Final = {
    "brokers": "Kafka",
    "store": "Store and recovery",
    "workers": "Scale",
    "platform_zone": "Meaning of events",
    "out_of_orderness_ms": "Time",
    "families": "Families",
    "dead_letters_topic": "Bad input",
    "user_key_file": "Privacy",
    "metrics_port": "Operations",
}
"""First field of a section → its title, in the order of `Settings`."""

ALL_FIELDS: Final = tuple(Settings.model_fields)
STORE_FIELDS: Final = ("store", "store_user", "store_password_file", "database")
KAFKA_FIELDS: Final = ("brokers", "kafka", "topic_prefix")
LIVE_ONLY: Final = frozenset(
    {"brokers", "group", "kafka", "topic_prefix", "from_", "accept_loss", "labels_topic", "recovery_dir", "state_fsync",
     "workers", "epoch_ms", "idle_timeout_ms", "reopen_ms", "early_interval_ms", "backlog_after_ms",
     "metrics_port", "metrics_host", "dead_letters_topic", "audit_interval_ms"}
)  # fmt: skip
"""Fields that mean nothing to a backfill."""

EPILOG: Final = (
    "Every setting may also be given as LIVEPULSE_<NAME> in the environment or in livepulse.toml; "
    "`livepulse config show` says what holds and why."
)
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file instead of livepulse.toml")
]
Debug = Annotated[bool, typer.Option("--debug", help="Say more, and show tracebacks")]


def instant(text: str | None) -> int | None:
    """The time that an option names, in epoch ms; None without one.

    Raises:
        Usage: it is no time.
    """
    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise Usage(f"{text!r}: {error}") from error


def section_of(field: str) -> str:
    """The title of the section that a field belongs to."""
    title = ""
    for name in ALL_FIELDS:
        title = SECTIONS.get(name, title)
        if name == field:
            return title
    raise KeyError(field)


def with_settings(*fields: str) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Replace a command's parameter `settings` by options for these fields; what it returns is the exit code."""

    def decorate(function: Callable[..., int]) -> Callable[..., None]:
        def command(**given: Any) -> None:  # noqa: ANN401 - values of all options
            config, debug = given.pop("config"), given.pop("debug")
            flags = {name: given.pop(name) for name in fields}
            with early_stop.begun(function.__name__), reported(debug=debug):
                code = function(settings=load_settings(flags, config), **given)
            raise typer.Exit(code)

        own = [p for name, p in inspect.signature(function, eval_str=True).parameters.items() if name != "settings"]
        options = [_option(name) for name in fields]
        return _signed(command, function, [*own, *options])

    return decorate


def plain(function: Callable[..., int]) -> Callable[..., None]:
    """A command without settings; what it returns is the exit code."""

    def command(**given: Any) -> None:  # noqa: ANN401 - values of all options
        given.pop("config")
        with early_stop.begun(function.__name__), reported(debug=given.pop("debug")):
            code = function(**given)
        raise typer.Exit(code)

    return _signed(command, function, list(inspect.signature(function, eval_str=True).parameters.values()))


def _signed(
    command: Callable[..., None], function: Callable[..., int], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """Give `command` the name and help of `function` and the signature that typer reads."""
    common = [
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config),
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug),
    ]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    signature = inspect.Signature([*keyword, *common])
    command.__name__, command.__doc__, command.__module__ = function.__name__, function.__doc__, function.__module__
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    command.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature looks for
    return command


def _option(field: str) -> inspect.Parameter:
    info = Settings.model_fields[field]
    flag = "--" + outside_name(field).replace("_", "-")
    kind: Any = bool | None if info.annotation is bool else str | None
    names = [f"{flag}/--no-{flag[2:]}"] if info.annotation is bool else [flag]
    metavar = _metavar(field)
    if field in {"kafka", "declare"}:
        kind = list[str] | None
    option = typer.Option(
        *names,
        metavar=metavar,
        help=f"{info.description}{_default_note(field)}",
        rich_help_panel=section_of(field),
        show_default=False,
    )
    return inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _default_note(field: str) -> str:
    """A setting's default as help shows it; nothing where that would say nothing."""
    default = Settings().shown()[outside_name(field)]
    if isinstance(default, bool):
        return f" Default: {'on' if default else 'off'}."
    if isinstance(default, list):
        default = ",".join(str(item) for item in default)
    return "" if default in (None, "", {}) else f" Default: {default}."


def _metavar(field: str) -> str | None:
    annotation = Settings.model_fields[field].annotation
    if annotation is bool:
        return None
    if field.endswith("_ms"):
        return "DURATION"
    if annotation is int:
        return "N"
    return {
        "kafka": "NAME=VALUE", "declare": "FILE", "store": "DIR|URL", "brokers": "HOST:PORT", "from_": "WHEN",
        "store_password_file": "FILE", "user_key_file": "FILE",
        "recovery_dir": "DIR", "min_event_time": "TIME", "platform_zone": "ZONE",
    }.get(field, "LIST" if annotation not in (str, int) else "TEXT")  # fmt: skip


@contextmanager
def reported(*, debug: bool) -> Iterator[None]:
    """Errors as one line for the user and an exit code; a traceback only with --debug."""
    from flows.telemetry import configure_logging

    configure_logging(debug=debug)
    sys.excepthook = _show_uncaught
    os.environ["RUST_BACKTRACE"] = "1" if debug else "0"  # Bytewax panics when a step raises; our message tells why
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        if debug:
            raise
        code = code_of(error)
        if code is not None:
            typer.secho(masked(f"error: {error}"), fg=typer.colors.RED, err=True)
            raise typer.Exit(code) from error
        typer.secho(masked(f"unexpected error: {_with_cause(error)}"), fg=typer.colors.RED, err=True)
        typer.secho("this is a bug; run the same with --debug and report what it prints", err=True)
        raise typer.Exit(CHECK_FAILED) from error


def _with_cause(error: BaseException) -> str:
    """What it is, and what it began with: of an error in a step Bytewax says no more than in which."""
    first = causes(error)[-1]
    return " by ".join(f"{type(e).__name__}: {e}" for e in dict.fromkeys((error, first)))


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


_CODES: Final = {
    "DeclarationError": USAGE,
    "QueryError": USAGE,
    "EmbeddedError": DEPENDENCY_DOWN,
    "StoreDownError": DEPENDENCY_DOWN,
    "StoreError": CHECK_FAILED,
}
"""Errors of the layers below, which know no exit codes; by name, because importing them all would slow every start."""


def code_of(error: Exception) -> int | None:
    """The exit code that an error asks for; None for one that nobody meant to raise."""
    if isinstance(error, LivePulseError):
        return error.exit_code
    return next((_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _CODES), None)
