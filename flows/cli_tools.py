"""What small commands do: ask the store, show settings and versions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlencode, urlsplit

import typer

from flows.cli_options import section_of
from flows.configuration import PREFIX, unknown_variables
from flows.errors import OK, DependencyDown, Usage
from flows.settings import Settings, outside_name
from flows.store_place import store_there

PARTS: Final = ("bytewax", "polars", "numpy", "pyarrow", "chdb", "clickhouse-connect", "confluent-kafka")


def answer(settings: Settings, query: str, default_format: str) -> Iterator[bytes]:
    """What the store says to one query, block by block, embedded or served, engine up or not."""
    if settings.is_server:
        return _ask_server(settings, query, default_format)
    directory = store_there(settings)
    from sinks import embedded

    return embedded.ask_blocks(directory, query, default_format=default_format, database=settings.database)


def _ask_server(settings: Settings, query: str, default_format: str) -> Iterator[bytes]:
    parts = urlsplit(settings.store)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=3_600)
    parameters = {"database": settings.database, "default_format": default_format, "readonly": "1"}
    login = {"X-ClickHouse-User": settings.store_user or "default", "X-ClickHouse-Key": settings.password()}
    try:
        connection.request("POST", "/?" + urlencode(parameters), query.encode(), login)
        response = connection.getresponse()
        if response.status != HTTPStatus.OK:
            raise Usage(response.read().decode(errors="replace").strip())
        while block := response.read(1 << 20):
            yield block
    except (OSError, HTTPException) as error:
        raise DependencyDown(f"the ClickHouse server at {settings.store} does not answer: {error}") from error
    finally:
        connection.close()


def ask(settings: Settings, query: str) -> int:
    """Print what the store says: as a table for a person, tab-separated into a pipe, unless the query has a FORMAT."""
    if query == "-":
        query = sys.stdin.read()
    if not query.strip():
        raise Usage('there is no query; write livepulse sql "SELECT …"')
    default_format = "PrettyCompactMonoBlock" if sys.stdout.isatty() else "TabSeparated"
    for block in answer(settings, query, default_format):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    return OK


def show_settings(settings: Settings, *, as_json: bool) -> None:
    """Every setting with its value and its origin."""
    shown, sources = settings.shown(), settings.sources()
    if as_json:
        told = {
            outside_name(field): {"value": shown[outside_name(field)], "source": source}
            for field, source in sources.items()
        }
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("setting", "value", "from"):
        table.add_column(title, overflow="fold")
    for field, source in sources.items():
        style = "" if source == "default" else "bold"
        table.add_row(outside_name(field), _text(shown[outside_name(field)]), source, style=style)
    Console().print(table)
    for name in unknown_variables():
        typer.echo(f"note: {name} is set, but there is no such setting", err=True)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return "" if value is None else str(value)


def settings_page() -> str:
    """docs/settings.md, derived from `Settings`."""
    lines = [
        "# Settings",
        "",
        "<!-- Written by `make docs` from flows/settings.py; a test holds the two together. -->",
        "",
        "A flag wins over the environment, the environment over `livepulse.toml`, the file over the default:",
        '`--out-of-orderness 5min`, `LIVEPULSE_OUT_OF_ORDERNESS=5min`, `out_of_orderness = "5min"`.',
        "Durations are milliseconds or text such as `500ms`, `30s`, `5min`, `1h30min`, `10d`.",
        "Lists are TOML arrays, elsewhere text with commas. An unknown name in the file is an error that names the",
        "nearest one. `livepulse config show` says what holds and where it came from.",
    ]
    shown, section = Settings().shown(), ""
    for field, info in Settings.model_fields.items():
        if section_of(field) != section:
            section = section_of(field)
            lines += ["", f"## {section}", "", "| setting | default | meaning |", "| --- | --- | --- |"]
        default = _text(shown[outside_name(field)])
        lines.append(f"| `{outside_name(field)}` | {f'`{default}`' if default else '–'} | {info.description} |")
    lines += [
        "",
        "## Not settings",
        "",
        "| variable | meaning |",
        "| --- | --- |",
        f"| `{PREFIX}CONFIG` | Settings file instead of `livepulse.toml` (also `--config`) |",
        f"| `{PREFIX}LOG` | `auto` (JSON into a pipe, text on a terminal), `json` or `text` |",
        f"| `{PREFIX}DEBUG` | Say more (also `--debug`) |",
        f"| `{PREFIX}TEST_KAFKA` | host:port of a broker that tests use instead of their own |",
    ]
    return "\n".join(lines) + "\n"


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout


def versions() -> dict[str, str]:
    """Name → version of LivePulse and of what it stands on."""
    import confluent_kafka

    return {
        "livepulse": _version_of("livepulse"),
        "python": platform.python_version(),
        **{name: _version_of(name) for name in PARTS},
        "librdkafka": confluent_kafka.libversion()[0],
    }


def show_versions(*, as_json: bool) -> None:
    """Print versions."""
    found = versions()
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo("\n".join(f"{name:19}{version}" for name, version in found.items()))
