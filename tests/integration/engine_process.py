"""`livepulse run` as a process that tests may kill, and the store's views as plain rows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from flows.broker import free_port
from sinks import embedded
from sinks.clickhouse import Patience, Store, StoreDownError, StoreError

ROOT = Path(__file__).resolve().parents[2]


def livepulse(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


def running_with(text: str) -> list[str]:
    """Command lines of processes that mention the text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if text in line:
            found.append(line)
    return found


class EngineProcess:
    """One engine on its own store directory; `flags` are command-line flags."""

    def __init__(self, brokers: str, prefix: str, store: Path, *flags: str) -> None:
        self.store = store
        self.metrics_port = free_port()
        self._log = store.with_suffix(".log")
        self.flags = flags
        self.environment: dict[str, str] = {}
        self.program = [sys.executable, "-m", "flows.cli"]
        self._command = [
            "run", "--brokers", brokers, "--topic-prefix", prefix,
            "--store", str(store), "--group", prefix, "--metrics-port", str(self.metrics_port),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; does not wait."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.program, *self._command, *self.flags], cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **self.environment},
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9 of the engine and its workers (the store, which is its child, is told to end by its death)."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def dies_within(self, seconds: float) -> bool:
        """Whether it ends by itself."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def workers(self) -> list[int]:
        """Ids of its worker processes (with one worker there are none: the engine itself works)."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(seconds)

    def interrupt(self, seconds: float = 30) -> int:
        """Ctrl-C as a terminal sends it, to the workers too; the exit code."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)
        return self._process.wait(seconds)

    def wait(self, seconds: float) -> int:
        """The exit code of an engine that ends by itself."""
        assert self._process is not None
        return self._process.wait(seconds)

    def said(self) -> str:
        """What it printed."""
        return self._log.read_text() if self._log.exists() else ""

    def asked(self, path: str) -> tuple[int, str]:
        """Status and body of the operators' endpoint; (0, "") while there is none."""
        try:
            with urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.asked("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}(\{{| )", line))

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query; none while the store is not up or not migrated yet."""
        found = embedded.attach(self.store)
        if found is None:
            return []
        try:
            store = Store.connect(found.url, found.user, found.token, patience=Patience(seconds=1))
        except StoreError:
            return []
        try:
            return store.query(sql)
        except StoreError as error:
            if isinstance(error, StoreDownError) or "UNKNOWN_TABLE" in str(error) or "UNKNOWN_DATABASE" in str(error):
                return []
            raise
        finally:
            store.close()

    def until(self, done: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for `done`; fails with what the engine said."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.running, f"the engine ended:\n{self.said()[-4000:]}"
            if done():
                return
            time.sleep(0.2)
        raise AssertionError(f"not done after {seconds} s; the engine said:\n{self.said()[-4000:]}")

    def consumed(self) -> int:
        """Messages in the ledger whose outcome is known."""
        found = self.rows(
            "SELECT sum(consumed) AS c, sum(accepted + duplicate + late + rejected + filtered) AS o "
            "FROM livepulse.ingest_ledger"
        )
        return min(int(found[0]["c"] or 0), int(found[0]["o"] or 0)) if found else 0
