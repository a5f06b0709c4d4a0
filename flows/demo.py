"""`livepulse demo`: broker, simulator, engine and store in one command, a live table, a summary against the truth."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.live import Live

from flows import demo_summary, precompile
from flows.broker import Broker, dying_with_us, find_broker
from flows.demo_board import BoardProcess
from flows.errors import CHECK_FAILED, OK, DependencyDown, LivePulseError, Usage
from flows.live_table import Snapshot, Status, Trend, render, take
from flows.simulate import Conversion, Options, Progress, simulate_to_kafka
from flows.simulate_truth import Truth
from flows.simulate_world import Trends
from schemas.events import TOPICS
from schemas.label_messages import TOPIC as LABELS_TOPIC
from sinks import embedded

MOCK_HISTORY_MESSAGES: Final = 200_000
MOST_HISTORY_MESSAGES: Final = 5_000_000
MOCK_AHEAD: Final = 40_000  # the mock cluster drops the oldest beyond 5 MB a partition: the engine must keep up
HISTORY_HOURS_MAX: Final = 6.0
SPIKE_AGO: Final = 11.0
"""Minutes before now from which the first spike is planted: its windows have closed when the table appears."""
ANOMALY_WARM: Final = "5min"
DEFAULT_RATE: Final = 200.0  # messages a second
TREND_HALF_LIVES: Final = (8.0, 12.0, 20.0, 35.0)  # minutes, of an hour's past
_WARM_HISTORY_S: Final = 86_400.0
ZONE: Final = "Asia/Shanghai"
_LOOK_SECONDS: Final = 1.0
_PIPE_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 60.0  # without progress
_STOP_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to show, and for how long.

    `kafka`: host:port of a broker; None: a real one of our own if Java is here, else the mock. `store`: a directory
    that is kept; None: a temporary one. `lasting_s`: end with a summary after so much time. `history_s`: so much past,
    else as much as `history_messages` are at this rate; `rate` (messages a second) follows from a past that is given.
    """

    kafka: str | None = None
    store: Path | None = None
    lasting_s: float | None = None
    rate: float | None = None
    seed: int = 1
    history_s: float | None = None
    history_messages: int = 500_000  # so much past is sent at once, so that the table is full of life from the start

    def __post_init__(self) -> None:
        if self.rate is not None and self.rate <= 0:
            raise ValueError("rate must be positive")
        if self.history_s is not None and self.history_s <= 0:
            raise ValueError("history must be positive")
        self.check_past(MOST_HISTORY_MESSAGES)

    def check_past(self, most: int) -> None:
        """Raise `ValueError` if the past that is asked for has more messages than this."""
        asked = (self.rate or 0.0) * (self.history_s or 0.0)
        if asked > most:
            fits = most / (self.history_s or 1.0)
            raise ValueError(
                f"such a past has {asked:,.0f} messages, of {most:,} at most here: a rate of {fits:.2g} fits"
            )

    @property
    def warm(self) -> str | None:
        """How long a series is watched before it may alarm: nobody waits a day for a demo's first alarm."""
        return None if (self.history_s or 0) >= _WARM_HISTORY_S else ANOMALY_WARM

    def simulation(self, broker: Broker, prefix: str) -> Options:
        """What the simulator is to send: trends that live for minutes, so that their half-lives can be watched."""
        if broker.kind == "mock":
            self.check_past(MOCK_HISTORY_MESSAGES)
        messages = min(self.history_messages, MOCK_HISTORY_MESSAGES if broker.kind == "mock" else self.history_messages)
        rate = self.rate or (DEFAULT_RATE if self.history_s is None else messages / self.history_s)
        history_s = self.history_s or min(HISTORY_HOURS_MAX * 3600, messages / rate)
        slower = max(1.0, (self.history_s or 0) / 3600)  # of a long past, in which minutes would not be seen
        return Options(
            seed=self.seed, rate=rate, history_s=history_s,
            plant_every_minutes=30.0, plant_kinds=("spike",), plant_from_minutes=max(history_s / 60 - SPIKE_AGO, 0.0),
            topic_prefix=prefix, conversion=Conversion(), trend_peak_share=0.03, trend_interval_minutes=8.0 * slower,
            trend_half_lives_minutes=tuple(minutes * slower for minutes in TREND_HALF_LIVES),
            late_share=0.003, duplicate_share=0.01, bad_share=0.001,
            detail_events_max=0,
        )  # fmt: skip


def demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run until Ctrl-C or until the time is up; everything that was started is stopped. Exit code 1: figures differ.

    Raises:
        LivePulseError: something could not be started.
    """
    console = console or Console()
    with ExitStack() as started:
        started.enter_context(_interrupts())
        try:
            return _run(options, console, started)
        except KeyboardInterrupt:
            console.print("stopped")
            return OK


def _run(options: DemoOptions, console: Console, started: ExitStack) -> int:
    store = _store_directory(options, started)
    console.print(
        f"[dim]starting {'the broker' if options.kafka is None else 'with ' + options.kafka}, store and engine …"
    )
    compiling = precompile.start()
    started.callback(precompile.finish, compiling, 0.0)
    broker = find_broker(options.kafka)
    started.callback(broker.close)
    prefix = f"demo-{uuid.uuid4().hex[:8]}." if broker.kind == "external" else ""
    topics = [prefix + name for name in TOPICS]
    broker.create_topics(topics)
    if prefix:
        started.callback(_delete_topics, broker.address, [*topics, prefix + LABELS_TOPIC])
    reader = embedded.start(store, die_with_parent=True)
    started.callback(reader.stop)
    if compiling:
        console.print("[dim]compiling the engine, the first time on this machine: half a minute …")
        precompile.finish(compiling)
    engine = EngineProcess(store, broker.address, prefix, options.warm)
    started.callback(engine.stop)
    board = BoardProcess(store)
    started.callback(board.stop)
    console.print(f"[bold]boards: {board.url}[/] [dim](in a browser; all that the table shows, and more)")
    simulator = Simulator(broker, options.simulation(broker, prefix), store)
    started.callback(simulator.stop)
    place = f"{broker.kind} Kafka {broker.address}, boards {board.url}"
    try:
        last = _watch(options, console, store, engine, simulator, place)
    except KeyboardInterrupt:
        last = None
    return _finish(console, store, engine, simulator, last)


def _watch(
    options: DemoOptions, console: Console, store: Path, engine: EngineProcess, simulator: Simulator, place: str
) -> Snapshot:
    """Show the figures until the time is up; the last ones. Raises if engine or simulator fail."""
    began = looked = time.monotonic()
    snapshot, printed = Snapshot(), 0.0
    planted = planted_shares(simulator.options.conversion)
    show = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
    with show or ExitStack():
        while options.lasting_s is None or time.monotonic() - began < options.lasting_s:
            simulator.check()
            engine.check()
            before, then = snapshot.consumed, looked
            looked = time.monotonic()
            snapshot, problem = _looked(store, simulator, snapshot)
            rate = max(0, snapshot.consumed - before) / max(looked - then, 1e-3)
            status = Status(place, f"store {store}", looked - began, simulator.sent, simulator.live, rate, problem)
            if show is not None:
                show.update(render(snapshot, status, planted, ZONE), refresh=True)
            elif looked - printed >= _PIPE_SECONDS:
                printed = looked
                console.print(render(snapshot, status, planted, ZONE))
                console.print()
            time.sleep(max(0.0, _LOOK_SECONDS - (time.monotonic() - looked)))
    return snapshot


def _looked(store: Path, simulator: Simulator, before: Snapshot) -> tuple[Snapshot, str]:
    """New figures; on trouble the ones from before and what is wrong."""
    try:
        return take(lambda sql: asked(store, sql), simulator.trends()), ""
    except (embedded.EmbeddedError, embedded.QueryError) as error:
        if "UNKNOWN_TABLE" in str(error) or "UNKNOWN_DATABASE" in str(error):
            return before, ""  # the engine has not made them yet
        return before, str(error).splitlines()[0][:200]


def _finish(console: Console, store: Path, engine: EngineProcess, simulator: Simulator, last: Snapshot | None) -> int:
    """Let the engine take in what was sent, stop it in good order, and hold its figures against the truth."""
    console.print("[dim]the simulator stops; the engine takes in the rest …")
    truth = simulator.stop()
    simulator.check()
    if truth is None:
        raise LivePulseError("the simulator did not end in time: there is no truth to compare with")
    last, moved = last or Snapshot(), time.monotonic()
    while last.consumed < truth.totals["consumed"] and time.monotonic() - moved < _SETTLE_SECONDS:
        engine.check()
        before = last.consumed
        last, _ = _looked(store, simulator, last)
        moved = time.monotonic() if last.consumed > before else moved
        time.sleep(0.3)
    engine.stop()  # what it still held is written on the way out
    last, problem = _looked(store, simulator, last)
    if problem:
        raise DependencyDown(f"the store did not answer: {problem}")
    checks = demo_summary.checks(last, truth)
    console.print(demo_summary.render(checks, last))
    return OK if all(check.holds for check in checks if check.exact) else CHECK_FAILED


def planted_shares(conversion: Conversion) -> dict[str, float]:
    """Planted conversion by the name of the funnel's step."""
    return {"engage": conversion.engage, "gift": conversion.gift, "order": conversion.order}


def asked(store: Path, sql: str) -> list[dict[str, Any]]:
    """Rows of a query to the store of the directory."""
    answer = embedded.ask(store, sql, default_format="JSONEachRow")
    return [json.loads(line) for line in answer.splitlines()]


class EngineProcess:
    """`livepulse run` as a process of its own, its words in `engine.log` of the store's directory."""

    def __init__(self, store: Path, brokers: str, prefix: str, warm: str | None = None) -> None:
        self._log = store / "engine.log"
        root = Path(__file__).resolve().parent.parent
        command = [
            *dying_with_us("TERM"),
            sys.executable,
            "-m",
            "flows.cli",
            "run",
            "--brokers",
            brokers,
            "--store",
            str(store),
        ]
        if warm:
            command += ["--anomaly-warm", warm]
        if prefix:
            command += ["--topic-prefix", prefix]
        environment = {name: text for name, text in os.environ.items() if not name.startswith("LIVEPULSE_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=store,
                start_new_session=True,
            )  # fmt: skip
        self._stopping = False

    def check(self) -> None:
        """Raise `LivePulseError` if it ended by itself."""
        if not self._stopping and self._process.poll() is not None:
            end = self._log.read_text(errors="replace")[-1_500:].strip()
            raise LivePulseError(f"the engine ended with exit code {self._process.returncode}; its last words:\n{end}")

    def stop(self) -> None:
        """Stop it in good order (SIGTERM: nothing to replay); by force if that takes too long."""
        self._stopping = True
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers too
            self._process.wait()


class Simulator:
    """The simulation in a thread. With the mock cluster it never runs far ahead of the engine."""

    def __init__(self, broker: Broker, options: Options, store: Path) -> None:
        start = round((time.time() - options.history_s) * 1000)
        self.options = replace(options, start=start)
        self.sent, self.live = 0, False
        self._store, self._ahead = store, MOCK_AHEAD if broker.kind == "mock" else None
        self._trends, self._event_time = Trends(self.options, start), start
        self._stop = threading.Event()
        self._truth: Truth | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(broker.address,), name="simulator", daemon=True)
        self._thread.start()

    def trends(self) -> list[Trend]:
        """Planted topics that have begun."""
        return [Trend(t.topic, t.half_life_ms / 60_000) for t in self._trends.until(self._event_time)]

    def check(self) -> None:
        """Raise what ended the simulation early, if something did."""
        if self._error is not None:
            raise self._error

    def stop(self) -> Truth | None:
        """End it; its truth (None if it failed)."""
        self._stop.set()
        self._thread.join(60)
        return self._truth

    def _run(self, address: str) -> None:
        try:
            self._truth = simulate_to_kafka(address, self.options, self._stop, self._progress)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it again
            self._error = error

    def _progress(self, progress: Progress) -> None:
        self.sent, self.live, self._event_time = progress.messages, progress.live, progress.event_time
        while self._ahead is not None and self.sent - self._consumed() > self._ahead and not self._stop.wait(0.1):
            pass

    def _consumed(self) -> int:
        try:
            return int(asked(self._store, "SELECT sum(consumed) AS n FROM ingest_ledger")[0]["n"] or 0)
        except (embedded.EmbeddedError, embedded.QueryError):
            return 0


def _store_directory(options: DemoOptions, started: ExitStack) -> Path:
    """An empty directory: the one named, which stays, or a temporary one."""
    if options.store is None:
        directory = Path(tempfile.mkdtemp(prefix="livepulse-demo-"))
        started.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory
    directory = options.store.absolute()
    if directory.exists() and any(directory.iterdir()):
        raise Usage(f"{directory} is not empty: the demo begins with an empty store; name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _delete_topics(address: str, topics: list[str]) -> None:
    """Take our topics away again from somebody else's broker."""
    for done in AdminClient({"bootstrap.servers": address, "log_level": 0}).delete_topics(topics).values():
        done.exception(15)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the demo by KeyboardInterrupt; while it ends, further ones are not heard."""

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
