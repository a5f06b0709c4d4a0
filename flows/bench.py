"""`livepulse bench`: measure, print a table or one JSON object, and leave the JSON beside.

python -m flows.bench throughput --events 200000 --runs 1
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from flows import bench_latency, bench_throughput
from flows.bench_latency import Latency
from flows.bench_throughput import Throughput
from flows.errors import CHECK_FAILED, OK, LivePulseError

OUT: Final = Path("bench-out")

_TARGETS: Final = {
    "engine_ratio": "≥ 0.35", "w1_ratio": "≥ 0.6", "exact": "True", "peak_rss_mb": "< 2048",
    "p99_ms": "≤ 2000", "rows_per_event": "≤ 1", "active_parts": "≤ 100",
}  # fmt: skip
_THROUGHPUT_ROWS: Final = (
    ("noop_events_per_s", "a loop that reads and does nothing, events/s"),
    ("engine_events_per_s", "engine, three flows, until all is in the views, events/s"),
    ("engine_ratio", "engine / no-op"),
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


def throughput(wanted: Throughput, *, as_json: bool = False, json_file: Path | None = None) -> int:
    """Measure throughput; exit code 1 if a view was not exact.

    Raises:
        LivePulseError: it could not be measured.
    """
    result = bench_throughput.measure(wanted, _say)
    _show(result, _THROUGHPUT_ROWS, as_json=as_json, json_file=json_file)
    for difference in result["differences"]:
        _say(difference)
    return OK if result["exact"] else CHECK_FAILED


def latency(wanted: Latency, *, as_json: bool = False, json_file: Path | None = None) -> int:
    """Measure latency; exit code 1 if a probe never showed.

    Raises:
        LivePulseError: it could not be measured.
    """
    result = bench_latency.measure(wanted, _say)
    _show(result, _LATENCY_ROWS, as_json=as_json, json_file=json_file)
    return OK if not result["lost"] else CHECK_FAILED


def _say(line: str) -> None:
    """Progress goes to standard error, so that standard output is the result alone."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _show(result: dict[str, Any], rows: Sequence[tuple[str, str]], *, as_json: bool, json_file: Path | None) -> None:
    """To standard output: the JSON object, or a table with the JSON in a file (default: bench-out/<benchmark>.json)."""
    text = json.dumps(result, indent=None if as_json else 1)
    file = json_file or (None if as_json else OUT / f"{result['benchmark']}.json")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    if as_json:
        sys.stdout.write(text + "\n")
        return
    table = Table(
        title=f"livepulse bench {result['benchmark']}", caption=f"medians of {len(result['runs'])} runs; {file}"
    )
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("wanted", justify="right")
    for name, meaning in rows:
        if name in result:
            table.add_row(meaning, _readable(result[name]), _TARGETS.get(name, ""))
    Console().print(table)


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


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.bench", argument_default=argparse.SUPPRESS)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one, two = (kinds.add_parser(name, argument_default=argparse.SUPPRESS) for name in ("throughput", "latency"))
    one.add_argument("--events", type=int)
    one.add_argument("--keep", type=Path)
    one.add_argument("--no-archive-figure", dest="archive_figure", action="store_false")
    two.add_argument("--rate", type=int)
    two.add_argument("--seconds", type=float)
    for kind in (one, two):
        kind.add_argument("--runs", type=int)
        kind.add_argument("--seed", type=int)
        kind.add_argument("--workers", type=int)
        kind.add_argument("--json", dest="as_json", action="store_true")
        kind.add_argument("--json-file", type=Path)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The same as `livepulse bench`, without the rest of the command line."""
    given = vars(_arguments().parse_args(arguments))
    kind, as_json, json_file = given.pop("kind"), given.pop("as_json", False), given.pop("json_file", None)
    try:
        if kind == "throughput":
            return throughput(Throughput(**given), as_json=as_json, json_file=json_file)
        return latency(Latency(**given), as_json=as_json, json_file=json_file)
    except LivePulseError as error:
        _say(f"error: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
