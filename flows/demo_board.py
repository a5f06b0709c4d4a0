"""The boards of `livepulse demo`: `livepulse boards preview` as a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

PORT: Final = 8_080
_STOP_SECONDS: Final = 5.0


class BoardProcess:
    """The board's server, at `url`; its words go to `board.log` of the store's directory."""

    def __init__(self, store: Path) -> None:
        port = free_port(PORT)
        self.url = f"http://127.0.0.1:{port}"
        root = Path(__file__).resolve().parent.parent
        command = [
            *dying_with_us(), sys.executable, "-m", "flows.cli", "boards", "preview", "--store", str(store),
            "--port", str(port),
        ]  # fmt: skip
        environment = {name: text for name, text in os.environ.items() if not name.startswith("LIVEPULSE_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (store / "board.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=store,
                start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        """Stop it; by force if that takes too long."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port(wanted: int) -> int:
    """`wanted` if nothing listens there, else another one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port of 127.0.0.1 is free")


def dying_with_us() -> list[str]:
    """So that a killed demo leaves no process behind, where the system can do it."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
