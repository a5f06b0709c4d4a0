"""The embedded store: a process that owns one chDB directory and speaks ClickHouse HTTP on 127.0.0.1.

`python -m sinks.gateway --dir DIR` runs it (`sinks.embedded.start` does, for the engine). What it leaves in DIR:

    clickhouse/     chDB's own files
    token           the engine's password, mode 0600: kept from run to run
    endpoint.json   where it listens and its pid, while it is up
    store.lock      locked while it is up
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Final

from sinks.chdb_session import ClickHouseError, StoreLockedError
from sinks.endpoint import STORE_HEADER, Backend, Endpoint
from sinks.sql_guard import Caps

EXIT_LOCKED: Final = 75
"""Exit code when another process has the directory (`EX_TEMPFAIL`)."""
__all__ = ["ENDPOINT_FILE", "ENGINE_USER", "EXIT_LOCKED", "STORE_HEADER", "TOKEN_FILE", "main", "serve"]
ENGINE_USER: Final = "livepulse"
HOST: Final = "127.0.0.1"
ENDPOINT_FILE: Final = "endpoint.json"
TOKEN_FILE: Final = "token"  # noqa: S105  # the name of a file
_PARENT_POLL_SECONDS: Final = 0.25
_DRAIN_SECONDS: Final = 15.0


def lock(directory: Path) -> IO[str]:
    """Take the directory for this process; the lock lasts as long as the file is open. Errors: `StoreLockedError`."""
    file = (directory / "store.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StoreLockedError(f"another process has the store {directory}") from None
    return file


def write_token(directory: Path) -> str:
    """The directory's token, made at the first start."""
    path = directory / TOKEN_FILE
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


def publish(directory: Path, backend: Backend, engine: Endpoint, readers: Endpoint) -> Path:
    """Write `endpoint.json`, whole or not at all."""
    path = directory / ENDPOINT_FILE
    port, read_port = engine.server_address[1], readers.server_address[1]
    told = {
        "store": backend.name, "pid": os.getpid(), "host": HOST, "port": port, "read_port": read_port,
        "user": ENGINE_USER,
        "url": f"http://{HOST}:{port}", "read_url": f"http://{HOST}:{read_port}", "database": backend.database,
    }  # fmt: skip
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(told, indent=1) + "\n")
    fresh.replace(path)
    return path


def serve(directory: Path, *, port: int = 0, read_port: int = 0, database: str = "livepulse", parent: int = 0) -> int:
    """Serve DIR until SIGTERM or SIGINT, or until process `parent` (0: none) is gone. Returns the exit code."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)  # it may have been there: what chDB makes in it is open to everybody
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    locked = lock(directory)
    backend = Backend(directory, database, Caps())
    endpoints = (Endpoint((HOST, port), backend, write_token(directory)), Endpoint((HOST, read_port), backend, None))
    threads = [threading.Thread(target=endpoint.serve_forever, args=(0.05,), daemon=True) for endpoint in endpoints]
    for thread in threads:
        thread.start()
    published = publish(directory, backend, *endpoints)
    try:
        while not stop.wait(_PARENT_POLL_SECONDS if parent else None):
            if os.getppid() != parent:
                break
    finally:
        published.unlink(missing_ok=True)
        for endpoint in endpoints:
            endpoint.shutdown()
        closed = backend.engine.close(_DRAIN_SECONDS)
        locked.close()
    return 0 if closed else 1


def main(arguments: list[str] | None = None) -> int:
    """The command line of the store's process."""
    parser = argparse.ArgumentParser(prog="python -m sinks.gateway", description="Serve an embedded store.")
    parser.add_argument("--dir", type=Path, required=True, help="the store's directory (made when it is not there)")
    parser.add_argument("--port", type=int, default=0, help="the engine's port (0: a free one)")
    parser.add_argument("--read-port", type=int, default=0, help="everybody's read-only port (0: a free one)")
    parser.add_argument("--database", default="livepulse")
    parser.add_argument("--die-with", type=int, default=0, metavar="PID", help="stop when this parent process is gone")
    given = parser.parse_args(arguments)
    try:
        return serve(
            given.dir, port=given.port, read_port=given.read_port, database=given.database, parent=given.die_with
        )
    except StoreLockedError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_LOCKED
    except (ClickHouseError, OSError) as error:
        sys.stderr.write(f"the store {given.dir} cannot be opened: {error}\n")
        return 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # past the interpreter's own tear-down: chDB's threads do not survive it (SIGSEGV)
