from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from flows import cli_check, cli_options, cli_tools, engine, telemetry
from flows.broker import Broker
from flows.cli_check import Finding, State, exit_code
from flows.cli_commands import app
from flows.configuration import load_settings
from flows.errors import DependencyDown, Stop
from flows.settings import Settings, outside_name
from schemas.events import CORE_TOPICS

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]


@pytest.fixture
def livepulse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`livepulse("run", "--workers", "2")` in an empty directory, with wide help."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments: CliRunner().invoke(app, list(arguments), prog_name="livepulse")


def _words(result: Result) -> str:
    return re.sub(r"[\s│╭╮╰╯─]+", " ", result.output)


def _commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands that do something and are shown, with their names."""
    if not isinstance(command, TyperGroup):
        yield path, command
        return
    for name, inner in command.commands.items():
        if not inner.hidden:
            yield from _commands(inner, *path, name)


SETTINGS = Settings.model_fields.keys() - {"kafka"}  # the demo's option of this name is a broker
COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_example_of_help_can_be_typed(
    path: tuple[str, ...], livepulse: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options exist, their values are taken, and the settings that they give fit together."""
    shown = livepulse(*path, "--help")
    assert shown.exit_code == 0
    examples = [
        line.strip() for line in (COMMANDS[path].help or "").partition("Examples")[2].splitlines() if line.strip()
    ]
    assert examples
    for example in examples:
        assert example.split("#")[0].strip() in _words(shown)
        before, words = (
            shlex.split(part, comments=True) for part in example.partition(" | ")[0].split("livepulse ", 1)
        )
        assert tuple(words[: len(path)]) == path
        with monkeypatch.context() as environment:
            for setting in before:
                environment.setenv(*setting.split("=", 1))
            given = COMMANDS[path].make_context(path[-1], words[len(path) :]).params
            flags = {name: given[name] for name in SETTINGS if name in given}
            load_settings({name: str(value) if isinstance(value, Path) else value for name, value in flags.items()})


def test_help_lists_the_commands(livepulse: Run) -> None:
    words = _words(livepulse("--help"))
    for command in ("demo", "run", "backfill", "simulate", "replay", "sql", "check", "config", "version", "bench"):
        assert f" {command} " in words


def test_run_has_a_flag_for_every_setting_but_passwords(livepulse: Run) -> None:
    words = _words(livepulse("run", "--help"))
    for field, info in Settings.model_fields.items():
        flag = "--" + outside_name(field).replace("_", "-")
        assert (f" {flag} " in words) == (field != "store_password")
        if field != "store_password":
            assert (info.description or "?") in words


def test_flags_reach_the_engine_before_and_after_arguments(livepulse: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def backfill(files: list[Path], settings: Settings, *, replace: bool, allow_late: bool) -> int:
        calls.append((files, settings.store, settings.out_of_orderness_ms, settings.declare, replace, allow_late))
        return 1

    monkeypatch.setattr(engine, "backfill", backfill)
    result = livepulse(
        "backfill", "a.ndjson", "--store", "d", "b.ndjson", "--replace", "--allow-late", "--out-of-orderness", "1h",
        "--declare", "x.toml", "--declare", "y.toml",
    )  # fmt: skip
    assert result.exit_code == 1
    files = [Path("a.ndjson"), Path("b.ndjson")]
    assert calls == [(files, "d", 3_600_000, (Path("x.toml"), Path("y.toml")), True, True)]


@pytest.mark.parametrize(
    ("error", "code"),
    [(Stop("state was begun with 8 shards"), 1), (DependencyDown("no broker"), 3), (RuntimeError("a bug"), 1)],
)
def test_an_error_is_a_line_and_an_exit_code(
    livepulse: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(_: Settings) -> int:
        raise error

    monkeypatch.setattr(engine, "run", fail)
    result = livepulse("run")
    assert result.exit_code == code
    assert str(error) in result.stderr
    assert "Traceback" not in result.stderr
    assert ("--debug" in result.stderr) == isinstance(error, RuntimeError)
    assert livepulse("run", "--debug").exception is error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--wrkers", "2"], "--workers"),
        (["run", "--workers", "two"], "setting workers = 'two' (from --workers): write a whole number"),
        (["backfill"], "FILE"),
        (["sql", "SELECT 1"], "there is no store"),
        (["sql", " "], "there is no query"),
        (["replay", "absent.ndjson"], "no such file"),
        (["replay", "x", "--speed", "fast"], "write a factor"),
        (["simulate", "--out", "d"], "--events"),
        (["demo", "--rate", "0"], "rate must be positive"),
        (["simulate", "--out", "d", "--for", "long"], "not a duration"),
        (["run", "--config", "absent.toml"], "absent.toml: cannot be read"),
        (["run", "--store", "http://clickhouse:8123"], "recovery_dir"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_how(livepulse: Run, arguments: list[str], message: str) -> None:
    result = livepulse(*arguments)
    assert result.exit_code == 2
    assert message in re.sub(r"[\s│]+", " ", result.stderr)


def test_errors_of_the_layers_below_have_codes() -> None:
    from schemas.declarations import DeclarationError  # noqa: PLC0415
    from sinks.clickhouse import StoreDownError, StoreError  # noqa: PLC0415
    from sinks.embedded import EmbeddedError, QueryError  # noqa: PLC0415

    raised = (
        DeclarationError("x"),
        QueryError("x"),
        EmbeddedError("x"),
        StoreDownError("x"),
        StoreError("x"),
        OSError(),
    )
    assert [cli_options.code_of(error) for error in raised] == [2, 2, 3, 3, 1, None]
    assert set(cli_options._CODES) == {type(error).__name__ for error in raised[:-1]}


def test_config_show_says_where_values_come_from(livepulse: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEPULSE_WORKERS", "2")
    monkeypatch.setenv("LIVEPULSE_STORE_PASSWORD", "hunter2")
    Path("livepulse.toml").write_text('shards = 8\n[kafka]\n"sasl.password" = "hunter2"\n')
    result = livepulse("config", "show", "--epoch", "2s", "--json")
    told = json.loads(result.stdout)
    assert told["workers"] == {"value": 2, "source": "LIVEPULSE_WORKERS"}
    assert told["shards"] == {"value": 8, "source": "livepulse.toml"}
    assert told["epoch"] == {"value": "2s", "source": "--epoch"}
    assert told["currency"] == {"value": "CNY", "source": "default"}
    table = livepulse("config", "show")
    assert re.search(r"^shards +8 +livepulse\.toml", table.output, re.MULTILINE)
    assert "hunter2" not in table.output + result.output


def test_versions(livepulse: Run) -> None:
    told = json.loads(livepulse("version", "--json").stdout)
    assert told["bytewax"] == "0.21.1"
    assert told.keys() >= {"livepulse", "python", "polars", "chdb", "librdkafka"}
    assert "bytewax" in livepulse("version").stdout


def test_the_settings_page_is_what_the_settings_say(livepulse: Run) -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert livepulse("config", "docs").stdout == page, "write it anew: make docs"
    assert cli_tools.settings_page() == page


def test_check_without_a_broker(livepulse: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_check, "_TIMEOUT_SECONDS", 0.5)
    result = livepulse("check", "--brokers", "127.0.0.1:1", "--json")
    told = {found["what"]: found for found in json.loads(result.stdout)}
    assert result.exit_code == 3
    assert told["kafka"]["state"] == "down"
    assert "make kafka" in told["kafka"]["advice"]
    assert told["store"]["state"] == "good"
    assert "none yet" in told["recovery"]["detail"]
    assert not Path("livepulse-data").exists(), "check changes nothing"


def test_check_of_topics(
    livepulse: Run,
    mock_kafka: Broker,
    topics: Callable[..., dict[str, str]],
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli_check, "_TIMEOUT_SECONDS", 1.0)  # the mock never answers what topics are configured as
    arguments = ("check", "--brokers", mock_kafka.address, "--topic-prefix", topic_prefix)
    absent = livepulse(*arguments)
    assert absent.exit_code == 1
    assert f"missing: {topic_prefix}view" in absent.output
    topics(mock_kafka, names=CORE_TOPICS)
    there = livepulse(*arguments)
    assert there.exit_code == 0
    assert f"{topic_prefix}view (4)" in there.output
    assert f"optional and absent: {topic_prefix}engage" in there.output
    assert "group livepulse is 0 messages behind" in there.output


def test_check_of_the_recovery_directory(tmp_path: Path) -> None:
    settings = Settings(store=str(tmp_path), recovery_dir=tmp_path / "r")
    (tmp_path / "r").mkdir()
    states = []
    for facts in ('{"shards": 8}', "{", f'{{"shards": {settings.shards}}}'):
        (tmp_path / "r" / "facts.json").write_text(facts)
        found = list(cli_check._recovery(settings))
        states += [finding.state for finding in found]
        assert ("set shards = 8" in found[0].advice) == (facts == '{"shards": 8}')
    assert states == [State.WRONG, State.WRONG, State.GOOD]


def test_the_worst_finding_decides() -> None:
    def code(*states: State) -> int:
        return exit_code([Finding("x", state, "") for state in states])

    assert [code(State.GOOD, State.NOTE), code(State.WRONG, State.GOOD), code(State.WRONG, State.DOWN)] == [0, 1, 3]


def test_help_is_quick() -> None:
    """Nothing that only one command needs is imported for all."""
    heavy = ("bytewax", "chdb", "numba", "pyarrow")
    code = f"import sys, flows.cli_commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_logs_are_json_into_a_pipe_and_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, terminal = io.StringIO(), _Terminal()
    telemetry.configure_logging(screen=telemetry.Screen(pipe))
    structlog.get_logger().info("resumed", offset=7, path=Path("/x"))
    structlog.get_logger().debug("unheard")
    line = json.loads(pipe.getvalue())
    assert (line["event"], line["level"], line["offset"], line["path"]) == ("resumed", "info", 7, "/x")
    assert line["timestamp"].endswith("Z")
    monkeypatch.setenv("LIVEPULSE_DEBUG", "1")
    telemetry.configure_logging(screen=telemetry.Screen(terminal))
    structlog.get_logger().debug("heard", offset=7)
    assert "heard" in terminal.getvalue()
    assert "{" not in terminal.getvalue()
    structlog.reset_defaults()


def test_progress_on_a_terminal_stays_below_the_log() -> None:
    terminal, now = _Terminal(), [0.0]
    screen = telemetry.Screen(terminal)
    reporter = telemetry.Reporter(screen, clock=lambda: now[0])
    reporter.report(telemetry.Standing(0))
    assert terminal.getvalue() == "", "not before there is a rate"
    now[0] = 2.0
    reporter.report(telemetry.Standing(3_000_000, watermark=1_769_904_000_000, lag=1_500, done=0.25))
    line = terminal.getvalue()
    for part in ("█████ ", "25%", "3 M events", "1.5 M/s", "lag 1.5 k", "watermark 2026-02-01 00:00:00Z", "6 s left"):
        assert part in line
    screen.write("a log line\n")
    assert terminal.getvalue().endswith(f"a log line\n{line.removeprefix(telemetry._CLEAR_LINE)}")
    reporter.close()
    assert terminal.getvalue().endswith(telemetry._CLEAR_LINE)


def test_progress_into_a_pipe_is_a_log_line_now_and_then() -> None:
    pipe, now = io.StringIO(), [0.0]
    screen = telemetry.configure_logging(screen=telemetry.Screen(pipe))
    reporter = telemetry.Reporter(screen, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        reporter.report(telemetry.Standing(second * 100))
    lines = [json.loads(line) for line in pipe.getvalue().splitlines()]
    assert [(line["events"], line["events_per_s"]) for line in lines] == [(1_000, 100), (2_000, 100)]
    structlog.reset_defaults()


def test_a_bug_is_told_with_what_it_began_with(livepulse: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fold(*_: object, **__: object) -> int:
        step = ValueError("a kernel")
        step.__cause__ = KeyError("topic")
        raise RuntimeError("error calling `on_batch`") from step

    monkeypatch.setattr(engine, "backfill", fold)
    result = livepulse("backfill", "--store", str(tmp_path), "x.ndjson")
    assert result.exit_code == 1
    assert "unexpected error: RuntimeError: error calling `on_batch` by KeyError: 'topic'" in _words(result)
    assert "--debug" in _words(result)
