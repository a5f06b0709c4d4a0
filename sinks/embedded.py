"""Start the embedded store of a directory, or attach to the one that is up; ask it a question."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from sinks.gateway import ENDPOINT_FILE, ENGINE_USER, EXIT_LOCKED, STORE_HEADER, TOKEN_FILE

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02
_LEAST_FREE_BYTES: Final = 1 << 20  # of less ClickHouse reserves nothing
LOG_FILE: Final = "store.log"


class EmbeddedError(Exception):
    """The store of a directory cannot be started or reached; the text says why."""


class QueryError(Exception):
    """A question was refused or failed; the text is ClickHouse's."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedded store that is up. `url` reads and writes, with `user` and `token`; `read_url` is for everybody."""

    directory: Path
    url: str
    read_url: str
    token: str = field(repr=False)
    pid: int
    name: str
    process: subprocess.Popen[bytes] | None = None
    user: str = ENGINE_USER

    @property
    def write_token(self) -> str:
        """The engine's password."""
        return self.token

    def stop(self) -> None:
        """Stop the store if it was started here: what is in flight is finished and all rows are on disk."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def attach(directory: Path) -> Embedded | None:
    """The store of `directory` if it is up."""
    try:
        told = json.loads((directory / ENDPOINT_FILE).read_text())
        token = (directory / TOKEN_FILE).read_text().strip()
        found = Embedded(directory, told["url"], told["read_url"], token, int(told["pid"]), told["store"])
    except (OSError, ValueError, KeyError):
        return None
    return found if _answers(found) else None


def start(directory: Path | str, *, die_with_parent: bool = False) -> Embedded:
    """The store of `directory`: attached to when it is up, else started (about 0.5 s) and waited for.

    `die_with_parent`: it stops, cleanly, when this process is gone for whatever reason.
    Errors: `EmbeddedError` with what the store said.
    """
    directory = Path(directory).absolute()
    deadline = time.monotonic() + _START_SECONDS
    while True:
        found = attach(directory)
        if found is not None:
            return found
        process = _spawn(directory, die_with_parent=die_with_parent)
        while time.monotonic() < deadline:
            found = attach(directory)
            if found is not None:
                return Embedded(
                    directory, found.url, found.read_url, found.token, found.pid, found.name, _own(process, found.pid)
                )
            if process.poll() is not None:
                break
            time.sleep(_POLL_SECONDS)
        if process.poll() == EXIT_LOCKED and time.monotonic() < deadline:
            time.sleep(5 * _POLL_SECONDS)  # another process is starting or stopping it: attach, or take over
            continue
        said = (directory / LOG_FILE).read_text(errors="replace")[-2000:].strip()
        if process.poll() is None:
            process.kill()
            process.wait()
        raise EmbeddedError(f"the embedded store in {directory} did not start: {said or _silence(directory)}")


@contextmanager
def running(directory: Path | str) -> Iterator[Embedded]:
    """The store of `directory` while the block runs; one that was not up stops then. Errors: as `start`."""
    store = start(directory, die_with_parent=True)
    try:
        yield store
    finally:
        store.stop()


def ask(store_dir: Path | str, sql: str, *, default_format: str | None = None, database: str = "livepulse") -> bytes:
    """The answer to `sql`: what `livepulse sql --store DIR "…"` prints. See `ask_blocks`."""
    return b"".join(ask_blocks(store_dir, sql, default_format=default_format, database=database))


def ask_blocks(
    store_dir: Path | str, sql: str, *, default_format: str | None = None, database: str = "livepulse"
) -> Iterator[bytes]:
    """The answer to `sql`, block by block: an export need not fit into memory.

    In the format of its FORMAT clause, else `default_format`, else PrettyCompact on a terminal and TabSeparated in a
    pipe, as clickhouse-client does. Asks the read-only endpoint that the directory names when its store is up, else
    starts the store for the question.
    Errors: `EmbeddedError`, `QueryError`; both before the first block, but for trouble in the middle of a long answer.
    """
    directory = Path(store_dir).absolute()
    if not (directory / "clickhouse").is_dir():
        raise EmbeddedError(f"there is no store in {directory}")
    fmt = default_format or ("PrettyCompact" if sys.stdout.isatty() else "TabSeparated")
    with running(directory) as store:
        yield from _asked(store, sql, fmt, database)


def _asked(store: Embedded, sql: str, default_format: str, database: str) -> Iterator[bytes]:
    connection = _connection(store.read_url, timeout_seconds=3600)
    try:
        target = "/?" + urlencode({"database": database, "default_format": default_format})
        connection.request("POST", target, body=sql.encode(errors="surrogateescape"))
        response = connection.getresponse()
        if response.status != 200:
            raise QueryError(response.read().decode(errors="replace").strip())
        while block := response.read(1 << 20):
            yield block
    except IncompleteRead as error:  # the answer broke off: its last words say why
        raise QueryError(error.partial.decode(errors="replace").strip().rpartition("\n")[2]) from error
    except OSError as error:
        raise EmbeddedError(f"the embedded store at {store.read_url} does not answer: {error}") from error
    finally:
        connection.close()


def _silence(directory: Path) -> str:
    """Why a store may have said nothing: its log is on its own disk."""
    full = shutil.disk_usage(directory).free < _LEAST_FREE_BYTES
    return "its disk is full. Make room, then start again" if full else "it said nothing"


def _spawn(directory: Path, *, die_with_parent: bool) -> subprocess.Popen[bytes]:
    """Start the gateway, with its words going to `store.log`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        directory.chmod(0o700)  # it may have been there: what chDB makes in it is open to everybody
    except PermissionError:
        raise EmbeddedError(f"the store's directory {directory} is somebody else's: it must be ours alone") from None
    command = [sys.executable, "-m", "sinks.gateway", "--dir", str(directory)]
    if die_with_parent:
        command += ["--die-with", str(os.getpid())]
    root = str(Path(__file__).resolve().parent.parent)  # sinks must be importable there, installed or not
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    with (directory / LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _own(process: subprocess.Popen[bytes], pid: int) -> subprocess.Popen[bytes] | None:
    """`process`, if it is the one that is up; another that was quicker belongs to whoever started it."""
    if process.pid == pid:
        return process
    process.wait(_STOP_SECONDS)
    return None


def _answers(store: Embedded) -> bool:
    """Whether the store that `endpoint.json` tells of is there: after a crash its port may be another program's."""
    try:
        connection = _connection(store.read_url, timeout_seconds=5)
        try:
            connection.request("GET", "/ping")
            response = connection.getresponse()
            response.read()
            return response.status == 200 and response.getheader(STORE_HEADER) == store.name
        finally:
            connection.close()
    except (OSError, ValueError):
        return False


def _connection(url: str, *, timeout_seconds: float) -> HTTPConnection:
    parts = urlsplit(url)
    return HTTPConnection(str(parts.hostname), parts.port, timeout=timeout_seconds)
