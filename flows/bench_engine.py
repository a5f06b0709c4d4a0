"""`livepulse run` as a benchmark's subprocess: started with settings, watched by /proc, asked through its store."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from flows.broker import dying_with_us
from flows.errors import DependencyDown
from flows.settings import Settings

_ROOT: Final = Path(__file__).resolve().parents[1]
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 60.0
_LAST_WORDS_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.005


def scaled(workers: int) -> dict[str, object]:
    """Settings of so many engine processes: each needs a shard."""
    return {"workers": workers, "shards": max(workers, Settings().shards)}


@dataclass(frozen=True, slots=True)
class Cost:
    """What processes have used so far: CPU seconds, and the most resident memory."""

    cpu_s: float = 0.0
    peak_rss_mb: float = 0.0


class StoreReader:
    """Asks the store's read-only endpoint over one kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=60)

    def ask(self, sql: str) -> bytes:
        """The raw answer.

        Raises:
            DependencyDown: the store refuses the query or does not answer.
        """
        for last in (False, True):
            try:
                self._connection.request("POST", "/", sql.encode())
                response = self._connection.getresponse()
                body = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if last:
                    raise DependencyDown(f"the store does not answer: {error!r}") from error
        if response.status != http.HTTPStatus.OK:
            raise DependencyDown(f"the store refused a query: {body.decode(errors='replace')[:500]}\n{sql}")
        return body

    def numbers(self, sql: str) -> list[float]:
        """The one row of an answer, NULL as 0."""
        fields = self.ask(sql + " FORMAT TSV").decode().rstrip("\n").split("\t")
        return [0.0 if field == "\\N" else float(field) for field in fields]

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


class EngineProcess(AbstractContextManager["EngineProcess"]):
    """An engine over `home`/store. `settings`: field name → value, given as environment variables.

    It must be started from the main thread: it ends when the thread that started it does, where `setpriv` is there.
    """

    def __init__(self, home: Path, settings: Mapping[str, object]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.store = home / "store"
        self._log = home / "engine.log"
        given = {"store": self.store, **settings}
        environment = {name: text for name, text in os.environ.items() if not name.startswith("LIVEPULSE_")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), environment.get("PYTHONPATH"))))
        environment["RUST_BACKTRACE"] = "0"  # Bytewax would fill the log with frames of its own
        environment |= {f"LIVEPULSE_{name.upper()}": _text(value) for name, value in given.items()}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*dying_with_us(), sys.executable, "-m", "flows.cli", "run"],
                cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._usage = _Usage(self._process.pid, self.store / "endpoint.json")
        self._usage.start()

    def wait_until_prepared(self, seconds: float) -> float:
        """The moment (epoch s) when store, tables and offsets were ready: `recovery/alignment` is made last."""
        begun = self.store / "recovery" / "alignment"
        give_up = time.monotonic() + seconds
        while not begun.exists():
            self.check(give_up, "prepare")
            time.sleep(_POLL_SECONDS)
        return time.time()

    def reading_since(self, prepared: float) -> float:
        """The moment (epoch s) when reading began: the log's first line `reading`; without one, `prepared`."""
        for line in self._log.read_bytes().splitlines():
            if b'"reading"' in line:
                with suppress(ValueError, KeyError):
                    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
        return prepared

    def reader(self) -> StoreReader:
        """A connection to the store's read-only endpoint, once it is up."""
        endpoint = self.store / "endpoint.json"
        give_up = time.monotonic() + _STOP_SECONDS
        while not endpoint.exists():
            self.check(give_up, "open its store")
            time.sleep(_POLL_SECONDS)
        return StoreReader(json.loads(endpoint.read_text())["read_url"])

    def check(self, give_up: float, what: str) -> None:
        """Raises `DependencyDown` if the engine has ended or the time (monotonic) is over."""
        if self._process.poll() is not None:
            raise DependencyDown(f"the engine ended with exit code {self._process.returncode}")
        if time.monotonic() > give_up:
            raise DependencyDown(f"the engine did not {what} in time")

    def costs(self) -> tuple[Cost, Cost]:
        """Of the engine's processes and of its store's."""
        return self._usage.costs

    def largest_peak_mb(self) -> float:
        """The peak of the engine's largest process: without helpers that only a start has."""
        return self._usage.largest_peak_mb

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if it does not end."""
        self._usage.stop()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DependencyDown):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_WORDS_SECONDS)  # it may be about to say why
        self.stop()
        if isinstance(error, DependencyDown):
            raise DependencyDown(f"{error}; the end of the engine's log:\n{self._log_end()}") from error

    def __enter__(self) -> Self:
        return self

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


def _text(value: object) -> str:
    """A setting's value as an environment variable."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Usage(threading.Thread):
    """Keeps an account of a process tree, its store's process apart.

    Peaks are the kernel's own (VmHWM), so none is missed; of several processes their sum,
    which is never under the truth.
    """

    def __init__(self, root: int, endpoint: Path) -> None:
        super().__init__(daemon=True)
        self._root, self._endpoint = root, endpoint
        self._store_pid = 0
        self._over = threading.Event()
        self._engine: dict[int, Cost] = {}
        self._store: dict[int, Cost] = {}

    @property
    def costs(self) -> tuple[Cost, Cost]:
        """Of the engine and of its store, as of now."""
        if not self._store_pid and self._endpoint.exists():
            self._store_pid = int(json.loads(self._endpoint.read_text())["pid"])
        children = _children()
        stores = _tree(self._store_pid, children) if self._store_pid else set()
        for account, pids in ((self._store, stores), (self._engine, _tree(self._root, children) - stores)):
            account.update((pid, usage) for pid in pids if (usage := _usage_of(pid)) is not None)
        return _sum(self._engine.values()), _sum(self._store.values())

    @property
    def largest_peak_mb(self) -> float:
        """Of the engine's processes, as of now."""
        _ = self.costs
        return max(cost.peak_rss_mb for cost in self._engine.values())

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            _ = self.costs

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()


def _sum(costs: Iterable[Cost]) -> Cost:
    found = list(costs)
    return Cost(sum(cost.cpu_s for cost in found), sum(cost.peak_rss_mb for cost in found))


def _usage_of(pid: int) -> Cost | None:
    """CPU time and peak resident memory of one process; None if it is gone. Field numbers: proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    peak_kb = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return Cost((int(fields[11]) + int(fields[12])) / _CLOCK_TICKS, peak_kb / 1024)


def _children() -> dict[int, list[int]]:
    """Parent → children, of all processes."""
    found: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        found.setdefault(parent, []).append(int(directory.name))
    return found


def _tree(pid: int, children: Mapping[int, list[int]]) -> set[int]:
    """A process and all below it."""
    found, left = set(), [pid]
    while left:
        parent = left.pop()
        found.add(parent)
        left.extend(children.get(parent, ()))
    return found
