"""The boards of `livepulse demo`: `livepulse boards preview` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from flows.broker import dying_with_us, free_port

PORT: Final = 8_080
_STOP_SECONDS: Final = 5.0


class BoardProcess:
    """The board's server, at `url`; its words go to `board.log` of the store's directory."""

    def __init__(self, store: Path) -> None:
        port = free_port(PORT)
        self.url = f"http://127.0.0.1:{port}"
        root = Path(__file__).resolve().parent.parent
        command = [
            *dying_with_us("TERM"), sys.executable, "-m", "flows.cli", "boards", "preview", "--store", str(store),
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
