"""`livepulse bench`: measure, print a table or one JSON object, and leave the JSON beside.

python -m flows.bench throughput --events 200000 --runs 1
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from flows import bench_latency, bench_replay, bench_throughput, bench_views
from flows.bench_latency import Latency
from flows.bench_replay import Replay
from flows.bench_targets import TARGETS, missed
from flows.bench_throughput import Throughput
from flows.bench_views import Sums, Views, Whole
from flows.errors import CHECK_FAILED, OK

OUT: Final = Path("bench-out")

_THROUGHPUT_ROWS: Final = (
    ("noop_events_per_s", "a loop that reads and does nothing, events/s"),
    ("engine_events_per_s", "engine, three flows, until all is in the views, events/s"),
    ("engine_ratio", "engine / no-op"),
    ("engine_head_start_ratio", "engine / no-op whose clock starts once it fetches"),
    ("w1_noop_events_per_s", "no-op over the views, events/s"),
    ("w1_events_per_s", "W1 (1-min windows per category), events/s"),
    ("w1_ratio", "W1 / no-op"),
    ("archive_events_per_s", "engine with every event kept, events/s"),
    ("archive_ratio", "with every event kept / no-op"),
    ("exact", "views equal an independent recomputation"),
    ("peak_rss_mb", "peak memory of the engine, MB"),
    ("store_peak_rss_mb", "peak memory of the embedded store, MB"),
)
_LATENCY_ROWS: Final = (
    ("achieved_rate", "background traffic, events/s"),
    ("p50_ms", "produce() until all three views show it, p50 ms"),
    ("p99_ms", "p99 ms"),
    ("p999_ms", "p99.9 ms"),
    ("max_ms", "slowest, ms"),
    ("lost", "probes never seen"),
    ("rows_per_event", "rows written per event"),
    ("active_parts", "active parts of the fullest table"),
    ("peak_rss_mb", "peak memory of the engine, MB"),
    ("store_peak_rss_mb", "peak memory of the embedded store, MB"),
)


_BOARDS_ROWS: Final = (
    ("achieved_rate", "background traffic, events/s"),
    ("engine_behind_s", "events not counted yet at the end, in seconds of traffic"),
    ("slowest_p95_ms", "refresh of the slowest board, p95 ms"),
)
_VIEWS_ROWS: Final = (
    ("achieved_rate", "traffic of the minutes lived through, events/s"),
    ("day_rows", "rows of a day of it"),
    ("active_parts", "active parts of the fullest table"),
    ("slowest", "the slowest question over 24 h"),
    ("slowest_p50_ms", "its answer, p50 ms"),
)
_REPLAY_ROWS: Final = (
    ("events", "events of the day"),
    ("live_seconds", "lived through in, s"),
    ("replay_seconds", "replayed in, s"),
    ("live_peak_rss_mb", "peak memory of the engine that lived through it, MB"),
    ("replay_peak_rss_mb", "peak memory of the one that replayed it, MB"),
    ("memory_ratio", "replayed / lived through"),
    ("exact", "both count the same"),
)
_ROWS: Final = {
    "throughput": _THROUGHPUT_ROWS, "latency": _LATENCY_ROWS, "views": _VIEWS_ROWS, "boards": _BOARDS_ROWS,
    "replay": _REPLAY_ROWS,
}  # fmt: skip


def throughput(
    *,
    events: int = 2_000_000,
    runs: int = 3,
    seed: int = 7,
    keep: Path | None = None,
    archive_figure: bool = True,
    workers: int = 1,
) -> dict[str, Any]:
    """Measure throughput.

    Raises:
        LivePulseError: it could not be measured.
    """
    return bench_throughput.measure(Throughput(events, runs, seed, keep, archive_figure, workers), _say)


def latency(
    *,
    rate: int = 20_000,
    seconds: float = 60.0,
    runs: int = 3,
    seed: int = 7,
    keep: Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Measure latency.

    Raises:
        LivePulseError: it could not be measured.
    """
    return bench_latency.measure(Latency(rate, seconds, runs, seed, keep, workers), _say)


def views(
    sums: Sums, whole: Whole, *, rate: int = 20_000, seconds: int = 180, seed: int = 7, keep: Path | None = None
) -> dict[str, Any]:
    """Measure how soon views answer over a day; `sums` and `whole` say what each is asked.

    Raises:
        LivePulseError: it could not be measured.
    """
    return bench_views.measure(Views(rate, seconds, seed, keep), sums, whole, _say)


def replay(*, events: int = 1_000_000, rate: int = 5_000, seed: int = 7) -> dict[str, Any]:
    """Measure the memory of a day that is replayed.

    Raises:
        LivePulseError: it could not be measured.
    """
    return bench_replay.measure(Replay(events, rate, seed), _say)


def _say(line: str) -> None:
    """Progress goes to standard error, so that standard output is the result alone."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def show(
    result: Mapping[str, Any], json_file: Path | None = None, *, as_json: bool = False, check: bool = False
) -> int:
    """To standard output: one JSON object, or a table with the JSON in a file (default: bench-out/<benchmark>.json).

    The exit code is 1 if a view was not exact or a probe was lost; with `check` if any target was missed, and a line on
    standard error says which.
    """
    text = json.dumps(result, indent=None if as_json else 1)
    file = json_file or (None if as_json else OUT / f"{result['benchmark']}.json")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    if as_json:
        sys.stdout.write(text + "\n")
    else:
        Console().print(
            _table(result, f"medians of {len(result['runs'])} runs; {file}" if "runs" in result else str(file))
        )
        for difference in result.get("differences", ()):
            _say(difference)
    short = list(missed(result)) if check else []
    for line in short:
        _say(line)
    return OK if result.get("exact", True) and not result.get("lost") and not short else CHECK_FAILED


def _table(result: Mapping[str, Any], caption: str) -> Table:
    table = Table(title=f"livepulse bench {result['benchmark']}", caption=caption)
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("wanted", justify="right")
    targets = TARGETS[result["benchmark"]]
    for name, meaning in _ROWS[result["benchmark"]]:
        if name in result:
            table.add_row(meaning, _readable(result[name]), str(targets.get(name, "")))
    return table


def _readable(value: object) -> str:
    match value:
        case bool():
            return str(value)
        case float() if abs(value) < 100:
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case int() | float():
            return f"{value:,.0f}"
        case _:
            return str(value)
