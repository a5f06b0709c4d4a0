"""Commands that measure: bench throughput, bench latency, bench replay, bench nab, bench anomalies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.bench_targets import listed
from flows.cli_options import plain

Seed = Annotated[int, typer.Option(help="The same seed gives the same events")]
Runs = Annotated[int, typer.Option(help="Runs, no-op and engine in turn; medians are told")]
Keep = Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Leave the store of the last run there")]
JsonFile = Annotated[Path | None, typer.Option("--json-file", metavar="FILE", help="Write the figures there too")]
Workers = Annotated[int, typer.Option(help="Engine processes")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines")]


def checking(benchmark: str) -> Any:  # noqa: ANN401 - what typer.Option gives
    """The option `--check` of a benchmark."""
    return typer.Option("--check", help=f"Exit code 1 when a target is missed, and say which: {listed(benchmark)}")


@plain
def throughput(
    *,
    events: Annotated[int, typer.Option(help="Events of a run")] = 2_000_000,
    runs: Runs = 3,
    workers: Workers = 1,
    seed: Seed = 7,
    archive: Annotated[bool, typer.Option(help="Measure with every event kept, too")] = True,
    keep: Keep = None,
    check: Annotated[bool, checking("throughput")] = False,
    json_file: JsonFile = None,
    as_json: AsJson = False,
) -> int:
    """Events a second through the whole engine, beside what a consumer that does nothing reaches in the same run.

    Exit code 1: a view is not equal to its recomputation; with --check also when a target is missed.

    \b
    Examples
      livepulse bench throughput
      livepulse bench throughput --check
      livepulse bench throughput --json --seed 7 --keep ./bench-store
    """
    from flows import bench

    found = bench.throughput(events=events, runs=runs, seed=seed, keep=keep, archive_figure=archive, workers=workers)
    return bench.show(found, json_file, as_json=as_json, check=check)


@plain
def latency(
    *,
    rate: Annotated[int, typer.Option(help="Events a second")] = 20_000,
    seconds: Annotated[float, typer.Option(help="Length of a run")] = 60.0,
    runs: Runs = 3,
    workers: Workers = 1,
    seed: Seed = 7,
    keep: Keep = None,
    check: Annotated[bool, checking("latency")] = False,
    json_file: JsonFile = None,
    as_json: AsJson = False,
) -> int:
    """Time from producing an event until rows of all families that include it can be queried.

    Exit code 1: a probe was lost; with --check also when a target is missed.

    \b
    Examples
      livepulse bench latency --rate 20000 --check
      livepulse bench latency --rate 5000 --seconds 20 --json
    """
    from flows import bench

    found = bench.latency(rate=rate, seconds=seconds, runs=runs, seed=seed, keep=keep, workers=workers)
    return bench.show(found, json_file, as_json=as_json, check=check)


@plain
def replay(
    *,
    events: Annotated[int, typer.Option(help="Events of the day")] = 1_000_000,
    rate: Annotated[int, typer.Option(help="Events a second of the engine that lives through it")] = 5_000,
    seed: Seed = 7,
    json_file: JsonFile = None,
    as_json: AsJson = False,
    check: Annotated[bool, checking("replay")] = False,
) -> int:
    """Memory that a replay of 24 h of events takes, beside that of living through them: at most 1.2 times as much.

    The same simulated day, slowly to one engine and at once to another; then both ledgers are compared.
    Exit code 1: the ledgers differ; with --check also when a target is missed.

    \b
    Examples
      livepulse bench replay
      livepulse bench replay --events 200000 --json
      livepulse bench replay --check
    """
    from flows import bench

    found = bench.replay(events=events, rate=rate, seed=seed)
    return bench.show(found, json_file, as_json=as_json, check=check)


@plain
def nab(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Holds data/*/*.csv and, for a score, labels/")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where result files go")] = Path("bench-out/nab"),
    json_file: JsonFile = None,
    as_json: AsJson = False,
) -> int:
    """The anomaly detector on the Numenta Anomaly Benchmark: result files in its format, and its score.

    One detector with one setting runs over each file from its first row on. With labels the score is told for the
    three application profiles (0: finds nothing, 100: perfect), at one threshold for all files.

    \b
    Examples
      livepulse bench nab ./NAB --out ./results
      livepulse bench nab ./NAB --out ./results --json
    """
    import json

    from flows import bench_nab

    told = bench_nab.measure(directory, out)
    if json_file is not None:
        json_file.write_text(json.dumps(told, indent=2), encoding="utf-8")
    return bench_nab.show(told, as_json=as_json)


@plain
def anomalies(
    *,
    seed: Seed = 7,
    days: Annotated[int, typer.Option(min=2, help="Days with something planted every six hours")] = 14,
    clean_days: Annotated[int, typer.Option(min=1, help="Days of a second run without any, for false alerts")] = 28,
    rate: Annotated[float, typer.Option(min=1, help="Mean events a minute of the whole")] = 3_000.0,
    json_file: JsonFile = None,
    as_json: AsJson = False,
) -> int:
    """Planted anomalies through the kernel: recall, delay, routing, false alerts, and the detectors' speed.

    Simulated final rows of `active_users` per minute: spikes, drops, shifts, slow leaks, one region, pipeline faults.
    Exit code 1 when a goal is missed: recall ≥ 0.95, median delay ≤ 2 windows, all routed right, at most one false
    alert in 1,000 series-days.

    \b
    Examples
      livepulse bench anomalies
      livepulse bench anomalies --seed 3 --days 7 --json
    """
    import json

    from flows import bench_anomalies

    told = bench_anomalies.measure(seed=seed, days=days, clean_days=clean_days, rate=rate)
    if json_file is not None:
        json_file.write_text(json.dumps(told, indent=2), encoding="utf-8")
    return bench_anomalies.show(told, as_json=as_json)
