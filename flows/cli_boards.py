"""Commands about what people look at: boards build, check and preview, serve, bench boards, bench views."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_bench import JsonFile, Keep, Seed, checking
from flows.cli_options import STORE_FIELDS, plain, with_settings
from flows.errors import CHECK_FAILED, OK, Usage
from flows.settings import Settings
from flows.store_place import store_there

if TYPE_CHECKING:
    from grafana.asking import Store
    from grafana.check import Report
    from sinks.embedded import Embedded

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines")]
Port = Annotated[int, typer.Option(help="Port on 127.0.0.1 (0: a free one)")]
Lang = Annotated[str, typer.Option(metavar="en|zh", help="Language of titles")]
_REFRESH_MS_MAX = 1_000.0
_HISTORY_S = 26 * 3_600.0


@plain
def build() -> int:
    """Write dashboards and provisioning files from the declarations in grafana/.

    \b
    Examples
      livepulse boards build
    """
    from grafana import provisioning

    for name in provisioning.write():
        typer.echo(f"grafana/{name}")
    return OK


@with_settings(*STORE_FIELDS)
def check(
    settings: Settings,
    *,
    simulated: Annotated[bool, typer.Option(help="Over traffic simulated for the check, not over --store")] = True,
    rate: Annotated[float, typer.Option(help="Simulated messages a second of event time, over 26 h")] = 0.25,
    budget: Annotated[float, typer.Option(metavar="SECONDS", help="What a query may take")] = 2.0,
    as_json: AsJson = False,
) -> int:
    """Run every query of every board, for one, many and all values of its variables, over 5 min, 1 h, 24 h and nothing.

    Exit code 1: a query failed, gave the wrong shape or took too long, a dashboard breaks a rule, or a file differs
    from the declarations.

    \b
    Examples
      livepulse boards check
      livepulse boards check --json
      livepulse boards check --no-simulated --store ./livepulse-data
    """
    from grafana.check import check as run_check

    with _simulated(rate) if simulated else _reading(settings) as store:
        report = run_check(store, budget_ms=budget * 1000)
    if as_json:
        typer.echo(json.dumps(report.plain(), ensure_ascii=False))
    else:
        _show(report)
    return CHECK_FAILED if report.failed else OK


@plain
def bench(
    *,
    rate: Annotated[int, typer.Option(help="Events a second")] = 20_000,
    seconds: Annotated[float, typer.Option(help="Traffic before the boards are opened")] = 60.0,
    rounds: Annotated[int, typer.Option(help="Refreshes of each board")] = 10,
    seed: Seed = 7,
    json_file: JsonFile = None,
    as_json: AsJson = False,
) -> int:
    """How long a refresh of each board takes on the embedded store while the engine takes in live traffic.

    All families run and every event is kept. Exit code 1 when a refresh of a board takes over 1 s (95th percentile).

    \b
    Examples
      livepulse bench boards --rate 20000
      livepulse bench boards --rate 5000 --seconds 20 --json
    """
    from flows import bench as benchmarks
    from flows.bench_boards import BoardLoad, Refresh, measure, timed
    from grafana.asking import Store
    from grafana.boards import BOARDS
    from grafana.build import plain as plain_board
    from grafana.live import LiveBoard, View

    def opened(url: str) -> dict[str, tuple[int, Refresh]]:
        store = Store(url)
        live = {board.uid: (len(board.panels), LiveBoard(store, plain_board(board), View({}))) for board in BOARDS}
        return {uid: (panels, partial(timed, one.round)) for uid, (panels, one) in live.items()}

    found = measure(BoardLoad(rate, seconds, rounds, seed), opened, lambda line: typer.echo(line, err=True))
    benchmarks.show(found, json_file, as_json=as_json)
    return OK if found["slowest_p95_ms"] <= _REFRESH_MS_MAX else CHECK_FAILED


@plain
def bench_views(
    *,
    rate: Annotated[int, typer.Option(help="Events a second")] = 20_000,
    seconds: Annotated[int, typer.Option(help="Traffic that becomes the day, in whole minutes: 120 at least")] = 180,
    seed: Seed = 7,
    keep: Keep = None,
    check: Annotated[bool, checking("views")] = False,
    json_file: JsonFile = None,
    as_json: AsJson = False,
) -> int:
    """How long each view takes to answer over 24 h of rows, as many as an engine makes of so many events a second.

    An engine with the three flows lives through minutes of traffic and is stopped; its rows are copied until they fill
    a day. With --check the exit code is 1 when a target is missed.

    \b
    Examples
      livepulse bench views --check
      livepulse bench views --rate 5000 --seconds 120 --json --keep ./day
    """
    from flows import bench as benchmarks
    from grafana.view_times import query_of, rows_of

    found = benchmarks.views(query_of, rows_of, rate=rate, seconds=seconds, seed=seed, keep=keep)
    return benchmarks.show(found, json_file, as_json=as_json, check=check)


@with_settings(*STORE_FIELDS)
def serve(
    settings: Settings,
    *,
    port: Port = 8_080,
    read_port: Annotated[int, typer.Option(help="Port of the ClickHouse endpoint (0: a free one)")] = 8_123,
    user: Annotated[str, typer.Option(help="User that readers must give; none: nobody is asked")] = "",
    password_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with that user's password")] = None,
    language: Lang = "en",
) -> int:
    """Show the boards in a browser, and answer ClickHouse clients, read-only, until Ctrl-C.

    The store may be in use by an engine at the same time. Both ports listen on 127.0.0.1 only.

    \b
    Examples
      livepulse serve
      livepulse serve --store ./history --port 9000 --language zh
      livepulse serve --user analyst --password-file ./analyst.password
    """
    from sinks.readers import reader_of

    try:
        reader = reader_of(user, password_file) if user or password_file else None
    except (ValueError, OSError) as error:
        raise Usage(f"--user, --password-file: {error}") from error
    with _reading(settings, read_port=read_port, reader=reader) as store:
        typer.echo(f"ClickHouse clients: {store.url} (read-only, database {store.database})")
        return _preview(store, port, language)


@with_settings(*STORE_FIELDS)
def preview(settings: Settings, *, port: Port = 8_080, language: Lang = "en") -> int:
    """Show the boards in a browser over the store, until Ctrl-C (`livepulse serve` also opens the ClickHouse port).

    \b
    Examples
      livepulse boards preview
      livepulse boards preview --store ./history --port 9000
    """
    with _reading(settings) as store:
        return _preview(store, port, language)


def _preview(store: Store, port: int, language: str) -> int:
    from grafana.model import LANGUAGES
    from grafana.preview import serve as serve_boards

    if language not in LANGUAGES:
        raise Usage(f"--language {language}: write {' or '.join(LANGUAGES)}")
    try:
        serve_boards(store, port=port, language=language, told=lambda url: typer.echo(f"boards: {url}"))
    except OSError as error:
        raise Usage(f"port {port} cannot be used: {error}; name another one with --port (0: any)") from error
    return OK


@contextmanager
def _reading(settings: Settings, *, read_port: int = 0, reader: tuple[str, str] | None = None) -> Iterator[Store]:
    """A way to ask the store of the settings, embedded or served."""
    from grafana.asking import Store
    from sinks import embedded

    if settings.is_server:
        yield Store(settings.store, settings.database, settings.store_user or "default", settings.password())
        return
    with embedded.running(store_there(settings)) as up:
        if read_port or reader:
            with _front(up, read_port, reader) as url:
                yield Store(url, settings.database, *(reader or ("", "")))
        else:
            yield Store(up.read_url, settings.database)


@contextmanager
def _front(up: Embedded, port: int, reader: tuple[str, str] | None) -> Iterator[str]:
    """The readers' port; one that is taken is wrong usage."""
    from sinks.readers import Front, front

    try:
        Front(port, up.read_url, None).server_close()
    except OSError as error:
        raise Usage(f"port {port} cannot be used: {error}; name another one with --read-port (0: any)") from error
    with front(up, port, reader) as url:
        yield url


@contextmanager
def _simulated(rate: float) -> Iterator[Store]:
    """A store with a day of simulated traffic in it, made for the occasion."""
    import os
    import subprocess
    import threading

    from flows.simulate import Options, simulate_to_files
    from grafana.asking import Store
    from sinks import embedded

    typer.echo("simulating 26 hours of traffic …", err=True)
    with tempfile.TemporaryDirectory(prefix="livepulse-boards-") as folder:
        traffic, store = Path(folder, "traffic"), Path(folder, "store")
        options = Options(seed=7, rate=rate, duration_s=_HISTORY_S, users=2_000, partitions=2)
        simulate_to_files(traffic, options, lambda _: None, threading.Event())
        files = [str(path) for path in sorted(traffic.glob("*.ndjson"))]
        root = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        command = [sys.executable, "-m", "flows.cli", "backfill", *files, "--store", str(store)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=folder)
        if done.returncode != OK:
            raise RuntimeError(f"the simulated traffic could not be loaded: {done.stderr[-1_000:]}")
        with embedded.running(store) as up:
            typer.echo("running all queries …", err=True)
            yield Store(up.read_url)


def _show(report: Report) -> None:
    """A summary for people."""
    for failure in report.failed[:30]:
        typer.echo(f"✗ {failure}")
    for name, reason in report.skipped.items():
        typer.echo(f"– {name}: {reason}")
    for name in report.empty:
        typer.echo(f"– {name}: nothing to show in any range")
    slowest = max(report.views, key=lambda one: max(one.first_ms, one.again_ms))
    typer.echo(
        f"{len(report.views)} views over 24 h: the slowest, {slowest.view}, answers in {slowest.first_ms:.0f} ms at "
        f"first, then in {slowest.again_ms:.0f} ms"
    )
    typer.echo(
        f"{report.boards} boards, {report.panels} panels, {report.queries} queries: {len(report.failed)} failed, "
        f"{len(report.empty)} panels empty, slowest {report.slowest_ms:.0f} ms"
    )
