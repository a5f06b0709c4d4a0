"""The first start of an installation compiles for most of a minute: processes beside each other take half of it.

Compilation holds the GIL, so they are processes; what they compile comes to us through Numba's cache on disk.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl
import structlog

from flows.anomaly_step import step
from flows.broker import dying_with_us
from flows.errors import OK
from flows.families import part_builder, step_config
from flows.funnel_tally import follow
from flows.messages import MergeItem, ShardItem, SourceProgress
from flows.metrics import EngineMetrics
from flows.session_tally import tally
from flows.settings import FAMILIES, Settings
from flows.shards_ahead import ShardsAhead
from flows.steps import MergeLogic, ShardLogic, StepConfig
from schemas.decode_scan import scan
from schemas.events import COLUMNS, KIND

log = structlog.get_logger()

DECODE: Final = "decode"
PARTS: Final[dict[str, tuple[str, ...]]] = {"funnel": ("funnel",), "rest": tuple(sorted({*FAMILIES} - {"funnel"}))}
"""Families that one process compiles; another compiles the decoder. The longest first."""
_COMPILED_LAST: Final = {DECODE: (scan,), "funnel": (follow,), "rest": (tally, step)}
_PATIENCE_SECONDS: Final = 180.0


def start() -> list[subprocess.Popen[bytes]]:
    """Let other processes compile what is not compiled yet; none when all is, or when it cannot be kept."""
    root = Path(__file__).resolve().parent.parent
    return [
        subprocess.Popen(
            [*dying_with_us(), sys.executable, "-m", "flows.precompile", part], cwd=root, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for part in (*PARTS, DECODE)
        if any(_is_missing(function) for function in _COMPILED_LAST[part])
    ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[bytes]], patience_s: float = _PATIENCE_SECONDS) -> None:
    """Wait for them, then end them; what they did not manage is compiled where it is needed."""
    give_up = time.monotonic() + patience_s
    for process in processes:
        try:
            process.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ready() -> None:
    """Have everything compiled, beside each other where this is the first time."""
    if processes := start():
        log.info("compiling for the first start here; later ones do without")
        finish(processes)


def warm_up(config: StepConfig, frame: pl.DataFrame, now: int) -> None:
    """Load the compiled code before the first event: steps that are thrown away fold `frame` at `now` (epoch ms)."""
    config = replace(config, state_dir=None, metrics=EngineMetrics(), ahead=ShardsAhead())
    progress = SourceProgress(0, now, idle=True, now=now, early=True, end=True, last_event_time=now)
    shard = ShardLogic(replace(config, sources=1), None)
    out, _ = shard.on_batch([ShardItem(0, frame, progress)])
    for _, item in out:
        if isinstance(item, MergeItem):
            MergeLogic(replace(config, shards=1), None).on_batch([item])


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


def main(part: str) -> int:
    """Compile the decoder or some families by folding a few events."""
    now = time.time_ns() // 1_000_000
    if part == DECODE:
        part_builder(Settings()).example(now)
        return OK
    settings = Settings.model_validate({"families": PARTS[part]})
    warm_up(step_config(settings, sources=1, generation=1, state_dir=None, history=partial(dict)), invented(now), now)
    return OK


def _is_missing(function: object) -> bool:
    """Numba has a place for the function's code, and it is not there for this Python."""
    stats: Any = getattr(function, "stats", None)
    place, python = getattr(stats, "cache_path", None), f"py{sys.version_info.major}{sys.version_info.minor}"
    if place is None:
        return False
    name = f"{function.__module__.rsplit('.', 1)[-1]}.{getattr(function, '__name__', '')}"
    return not any(Path(place).glob(f"{name}-*.{python}*.nbi"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
