"""The command `livepulse`: every command with its help; the work is done elsewhere and imported when it is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows import cli_alerts, cli_audit, cli_bench, cli_boards, cli_deadletters, cli_traffic
from flows.cli_options import (
    ALL_FIELDS,
    EPILOG,
    KAFKA_FIELDS,
    LIVE_ONLY,
    STORE_FIELDS,
    plain,
    with_settings,
)
from flows.errors import OK
from flows.settings import Settings

app = typer.Typer(
    name="livepulse",
    help="Live metrics of short video and live commerce: Kafka events in, ClickHouse views out.",
    epilog="Begin with `livepulse demo`; it needs nothing but this install.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Settings: what holds, and where it came from.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure the engine (on a broker of its own) and the detectors.", no_args_is_help=True)
alerts_app = typer.Typer(help="Alert rules: check, test and backtest them.", no_args_is_help=True)
boards_app = typer.Typer(help="Boards: for Grafana and in the browser, without it.", no_args_is_help=True)
TRY, RUN, LOOK = "Try it", "Run it", "Look at it"
app.command("demo", rich_help_panel=TRY)(cli_traffic.demo)
app.command("simulate", rich_help_panel=TRY)(cli_traffic.simulate)
app.command("replay", rich_help_panel=TRY)(cli_traffic.replay)
bench_app.command("throughput")(cli_bench.throughput)
bench_app.command("latency")(cli_bench.latency)
bench_app.command("replay")(cli_bench.replay)
bench_app.command("views")(cli_boards.bench_views)
bench_app.command("boards")(cli_boards.bench)
bench_app.command("nab")(cli_bench.nab)
bench_app.command("anomalies")(cli_bench.anomalies)
alerts_app.command("check")(cli_alerts.check)
alerts_app.command("test")(cli_alerts.test)
alerts_app.command("backtest")(cli_alerts.backtest)
app.add_typer(alerts_app, name="alerts", rich_help_panel=LOOK)
app.command("serve", rich_help_panel=LOOK)(cli_boards.serve)
boards_app.command("build")(cli_boards.build)
boards_app.command("check")(cli_boards.check)
boards_app.command("preview")(cli_boards.preview)
app.add_typer(boards_app, name="boards", rich_help_panel=LOOK)
app.command("reconcile", epilog=EPILOG, rich_help_panel=LOOK)(cli_audit.reconcile)
app.command("repair", epilog=EPILOG, rich_help_panel=RUN)(cli_audit.repair)
letters_app = typer.Typer(help="Rejected messages: list them, look at one, send them again.", no_args_is_help=True)
letters_app.command("list")(cli_deadletters.list_)
letters_app.command("show")(cli_deadletters.show)
letters_app.command("replay")(cli_deadletters.replay)
app.add_typer(letters_app, name="deadletters", rich_help_panel=LOOK)
app.add_typer(config_app, name="config", rich_help_panel=LOOK)
app.add_typer(bench_app, name="bench", rich_help_panel=LOOK)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines")]
_NOT_AS_FLAG = {"store_password"}  # a flag is seen by every user of the machine: environment or file
_RUN_FIELDS = [name for name in ALL_FIELDS if name not in _NOT_AS_FLAG]
_BACKFILL_FIELDS = [name for name in _RUN_FIELDS if name not in LIVE_ONLY]


@app.command(epilog=EPILOG, rich_help_panel=RUN)
@with_settings(*_RUN_FIELDS)
def run(settings: Settings) -> int:
    """Run the engine: read Kafka, keep the views live, until Ctrl-C (or SIGTERM), then stop with nothing to replay.

    Started again it goes on where it stopped; after a crash too, and every figure is exact.

    \b
    Examples
      livepulse run --brokers kafka-1:9092 --store ./livepulse-data
      livepulse run --store http://clickhouse:8123 --recovery-dir /var/lib/livepulse
      livepulse run --from 2026-02-01T00:00:00+08:00 --workers 4 --shards 8
    """
    from flows.engine import run as run_engine

    return run_engine(settings)


@app.command(epilog=EPILOG, rich_help_panel=RUN)
@with_settings(*_BACKFILL_FIELDS)
def backfill(
    settings: Settings,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="NDJSON of events, plain, .gz or .zst")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Empty the store first")] = False,
    allow_late: Annotated[bool, typer.Option("--allow-late", help="Accept more than 1 % late events")] = False,
) -> int:
    """Run the whole engine over files of events, in event time and to the end; every window is final afterwards.

    A line is an event of the contract with one more field, `topic`. Each file is one partition; several files are one
    stream. Exit code 1: more than 1 % of the events came late; the message names the --out-of-orderness that would do.

    \b
    Examples
      livepulse backfill events.ndjson.gz --store ./history
      livepulse backfill 2026-02-*.zst --store ./history --replace --out-of-orderness 1h
      livepulse backfill events.ndjson --store ./history --declare my-funnel.toml
    """
    from flows.engine import backfill as run_backfill

    return run_backfill(files, settings, replace=replace, allow_late=allow_late)


@app.command(rich_help_panel=LOOK)
@with_settings(*STORE_FIELDS)
def sql(
    settings: Settings,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT; `-` reads it from standard input")],
) -> int:
    """Ask the store, whether the engine runs or not. A FORMAT clause is honoured; default: a table.

    \b
    Examples
      livepulse sql "SELECT topic, heat, stage FROM topic_heat ORDER BY tick DESC, rank LIMIT 9"
      livepulse sql --store ./history "SELECT * FROM funnel FORMAT JSONEachRow"
      livepulse sql "SHOW TABLES"
    """
    from flows.cli_tools import ask

    return ask(settings, query)


@app.command(rich_help_panel=RUN)
@with_settings(*STORE_FIELDS)
def labels(
    settings: Settings,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV with the columns kind, id, name")],
) -> int:
    """Give names to rooms, creators and products, for people to read; the engine may run meanwhile.

    A line is a kind (live, creator, product, video, category, campaign, ad, gift), an id and its name. Loaded again, an
    id takes its new name. The views show an id where it has none.

    \b
    Examples
      livepulse labels names.csv
      livepulse labels rooms.csv products.csv --store http://clickhouse:8123
    """
    from flows.labels import load_labels

    typer.echo(f"{load_labels(files, settings):,} labels")
    return OK


@app.command(rich_help_panel=LOOK)
@with_settings(
    *(name for name in _RUN_FIELDS if name in {*KAFKA_FIELDS, *STORE_FIELDS, "recovery_dir", "shards", "declare"})
)
def check(settings: Settings, *, as_json: AsJson = False) -> int:
    """Is everything reachable and consistent? Settings, broker, topics, store, recovery: a line each, and what to do.

    Exit code 0: all is well; 1: something is inconsistent; 3: something is down.

    \b
    Examples
      livepulse check
      livepulse check --brokers kafka-1:9092 --store http://clickhouse:8123 --json
    """
    from flows.cli_check import exit_code, findings, show

    found = findings(settings)
    if as_json:
        typer.echo(json.dumps([finding.plain() for finding in found], ensure_ascii=False))
    else:
        show(found)
    return exit_code(found)


@config_app.command("show", epilog=EPILOG)
@with_settings(*_RUN_FIELDS)
def config_show(settings: Settings, *, as_json: AsJson = False) -> int:
    """Every setting with its value and where it came from; secrets are masked.

    \b
    Examples
      livepulse config show
      LIVEPULSE_WORKERS=2 livepulse config show --json
    """
    from flows.cli_tools import show_settings

    show_settings(settings, as_json=as_json)
    return OK


@config_app.command("docs", hidden=True)
@plain
def config_docs() -> int:
    """Print docs/settings.md."""
    from flows.cli_tools import settings_page

    typer.echo(settings_page(), nl=False)
    return OK


@app.command(rich_help_panel=LOOK)
@plain
def version(*, as_json: AsJson = False) -> int:
    """Versions of LivePulse and of what it stands on.

    \b
    Examples
      livepulse version
      livepulse version --json
    """
    from flows.cli_tools import show_versions

    show_versions(as_json=as_json)
    return OK
