"""Take the pictures of docs/boards from boards that are up: `python -m tests.boards.pictures URL [NAME ...]`.

A `livepulse demo` of a quarter of an hour has something to show on each of them but active-hours, topics and
funnels, which want a week: `livepulse demo --history 8d`. Chinese ones want a font that has the characters (fonts-noto-cjk).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.boards.chromium import READY, Page

PLACE = Path(__file__).resolve().parents[2] / "docs" / "boards"
SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: its file, the board, what is chosen in the address, and on what it is shown."""

    name: str
    uid: str
    choice: str = "range=1h&zone=Asia/Shanghai"
    phone: bool = False


SHOTS = (
    Shot("live-ops", "ops"),
    Shot("live-room", "room"),
    Shot("active-hours", "hours", "range=7d&zone=Asia/Shanghai"),
    Shot("topics", "topics", "range=7d&zone=Asia/Shanghai"),
    Shot("funnels", "funnels", "range=7d&zone=Asia/Shanghai&lang=zh"),
    Shot("anomalies", "anomalies"),
    Shot("engine-health", "engine", "range=15m&zone=Asia/Shanghai"),
    Shot("phone", "ops", "range=1h&zone=Asia/Shanghai&lang=zh&theme=light", phone=True),
)


def take(site: str, shot: Shot) -> None:
    """Open the board, let it draw, keep what is seen."""
    page = Page(390, 844, dark=False, mobile=True) if shot.phone else Page()
    try:
        page.open(f"{site}/d/livepulse-{shot.uid}?{shot.choice}")
        page.wait(READY, 60)
        time.sleep(SETTLE_SECONDS)
        page.picture(PLACE / f"{shot.name}.png")
    finally:
        page.close()


if __name__ == "__main__":
    for one in (shot for shot in SHOTS if shot.name in (sys.argv[2:] or [shot.name])):
        take(sys.argv[1].rstrip("/"), one)
        sys.stdout.write(f"{one.name}.png\n")
