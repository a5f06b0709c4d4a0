"""The first start of an installation compiles for a minute: a second process takes half of it.

Compilation holds the GIL, so it is a process; what it compiles comes to us through Numba's cache on disk.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from flows.broker import dying_with_us
from flows.errors import OK
from flows.families import step_config
from flows.funnel_tally import follow
from flows.messages import ShardItem, SourceProgress
from flows.metrics import EngineMetrics
from flows.settings import Settings
from flows.steps import ShardLogic
from schemas.events import COLUMNS, KIND

APART: Final = "funnel"  # the family that compiles longest
_PATIENCE_SECONDS: Final = 120.0


def start() -> subprocess.Popen[bytes] | None:
    """Let another process compile the funnels; None when they are compiled, or cannot be kept."""
    stats: Any = getattr(follow, "stats", None)
    place = getattr(stats, "cache_path", None)
    if place is None or any(Path(place).glob(f"{follow.__module__.rsplit('.', 1)[-1]}.{follow.__name__}-*.nbi")):
        return None
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        [*dying_with_us(), sys.executable, "-m", "flows.precompile"], cwd=root, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes] | None) -> None:
    """Wait for it; what it did not manage is compiled here."""
    if process is None:
        return
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def invented(now: int) -> pl.DataFrame:
    """`PartBuilder.example` without a decoder, which would have to be compiled first."""
    common = {"event_time": now, "ingest_time": now, "offset": now, "minute": now, "partition": 0, "user_id": "warm",
              "user_hash": 1, "creator_id": "c", "category": "c", "tags": ["t"]}  # fmt: skip
    room = {"live_id": "l", "surface": None}
    events: list[dict[str, Any]] = [
        {"kind": KIND["view"], "surface": "video", "video_id": "v", "watch_ms": 1},
        {"kind": KIND["view"], **room, "surface": "live", "from_video_id": "v", "watch_ms": 1},
        {"kind": KIND["like"], **room},
        {"kind": KIND["gift"], **room, "category": None, "tags": None, "gift_id": "g", "quantity": 1,
         "amount_minor": 1},
        {"kind": KIND["order"], **room, "tags": None, "order_id": "o", "product_id": "p", "status": "paid",
         "quantity": 1, "amount_minor": 1},
    ]  # fmt: skip
    rows = [{**common, "event_id": str(n), "id_hash": n, **event} for n, event in enumerate(events)]
    return pl.DataFrame(rows, schema={**COLUMNS, "minute": pl.Int64})


def main() -> int:
    """Compile the funnels by folding a few events."""
    now = time.time_ns() // 1_000_000
    settings = Settings.model_validate({"families": [APART]})
    config = step_config(
        settings, sources=1, generation=1, state_dir=None, history=partial(dict), metrics=EngineMetrics()
    )  # fmt: skip
    progress = SourceProgress(0, now, idle=True, now=now, early=True, end=True, last_event_time=now)
    ShardLogic(config, None).on_batch([ShardItem(0, invented(now), progress)])
    return OK


if __name__ == "__main__":
    sys.exit(main())
