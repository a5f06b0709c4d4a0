"""Seconds from `make demo` in a fresh clone to the first board with figures, as a newcomer meets it.

`python benchmarks/first_board.py [--ready]`: with --ready the clone's .venv is made first and not counted. What pip and
uv have in their caches they take from there; the rest is fetched, and counted.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
GIVE_UP_SECONDS = 600.0
VENV = ".venv/.ready"


def main() -> int:
    """Clone, measure, print."""
    ready = "--ready" in sys.argv
    with tempfile.TemporaryDirectory(prefix="livepulse-newcomer-") as folder:
        clone = Path(folder, "livepulse")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        if ready:
            subprocess.run(["make", "--quiet", VENV], cwd=clone, check=True)
        found = measure(clone) | {"venv_was_there": ready}
    print(json.dumps(found))
    return 0 if found["first_figures_s"] < 60 else 1


def measure(clone: Path) -> dict[str, object]:
    """Seconds to the boards' address and to the first figures."""
    began = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        ["make", "--quiet", "demo"], cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert demo.stdout is not None
        url = address(demo.stdout)
        told = time.monotonic() - began
        figures(url)
        return {"address_s": round(told, 1), "first_figures_s": round(time.monotonic() - began, 1)}
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        try:
            demo.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(demo.pid, signal.SIGKILL)


def address(output: IO[bytes]) -> str:
    """What the demo prints: read to the line that names the boards."""
    said = b""
    while line := output.readline():
        said += line
        if found := re.search(rb"boards: (http://[\d.:]+)", line):
            return found[1].decode()
    raise SystemExit(f"the demo ended without a board:\n{said.decode(errors='replace')}")


def figures(url: str) -> None:
    """Return when the first board tells of active users, as a browser would see."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        try:
            with urlopen(f"{url}/api/stream/livepulse-ops?every=1000", timeout=30) as stream:  # noqa: S310  # our own
                for line in stream:
                    if line.startswith(b"data: ") and is_chart(json.loads(line[6:])):
                        return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("no figures")


def is_chart(told: object) -> bool:
    """A curve of at least three minutes."""
    return isinstance(told, dict) and len(told.get("rows", ())) >= 3 and told["columns"][0][0] == "time"


if __name__ == "__main__":
    raise SystemExit(main())
