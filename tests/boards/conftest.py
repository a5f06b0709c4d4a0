"""A store with a day of simulated traffic, its truth, and the boards served over it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.simulate import Options, simulate_to_files
from grafana.asking import Store
from grafana.preview import server
from sinks import embedded
from sinks.embedded import Embedded

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Filled:
    up: Embedded
    store: Store
    traffic: Path


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("boards")
    options = Options(seed=7, rate=0.2, duration_s=26 * 3600, users=1_500, partitions=2)
    simulate_to_files(folder / "traffic", options, lambda _: None, threading.Event())
    files = [str(path) for path in sorted((folder / "traffic").glob("*.ndjson"))]
    command = [sys.executable, "-m", "flows.cli", "backfill", *files, "--store", str(folder / "store")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=200, env=os.environ)
    assert done.returncode == 0, done.stderr[-1_000:]
    up = embedded.start(folder / "store", die_with_parent=True)
    yield Filled(up, Store(up.read_url), folder / "traffic")
    up.stop()


@pytest.fixture(scope="session")
def site(filled: Filled) -> Iterator[str]:
    """The embedded board's address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    serving = server(filled.store)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    serving.should_exit = True
    thread.join(20)
    listening.close()
