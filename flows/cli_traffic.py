"""Commands that make or resend traffic: demo, simulate, replay."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_options import KAFKA_FIELDS, plain, with_settings
from flows.durations import parse_duration, parse_instant
from flows.errors import OK, Usage
from flows.settings import Settings

if TYPE_CHECKING:
    from flows.simulate import Progress
    from flows.telemetry import Reporter

Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write NDJSON files there instead of to Kafka")]
TruthDir = Annotated[
    Path | None, typer.Option("--truth", metavar="DIR", help="Write the planted truth there at the end")
]


@plain
def demo(
    *,
    kafka: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="A broker that runs already")] = None,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End after so long, and sum up")
    ] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the store there; else it is removed")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Messages a second, the mean of a day [default: 200; with --history fewer]")
    ] = None,
    history: Annotated[
        str | None, typer.Option(metavar="DURATION", help="So much of the past first [default: 500,000 messages]")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same traffic")] = 1,
) -> int:
    """See it work: broker, simulated traffic, engine and store in one command, and a live table of what they find.

    Without --kafka the broker is a real one if Java and Maven are here, else librdkafka's mock. At the end figures are
    held against the simulator's truth; exit code 1 if a count differs. Conversions and half-lives are estimates of few
    events: what they should be stands beside.

    \b
    Examples
      livepulse demo
      livepulse demo --for 60s
      livepulse demo --history 8d   # a week of few users: all of Active hours
      livepulse demo --kafka kafka-1:9092 --store ./demo-store
    """
    from flows.demo import DemoOptions
    from flows.demo import demo as run_demo

    return run_demo(
        _built(
            DemoOptions, kafka=kafka, store=store, lasting_s=_seconds(lasting), history_s=_seconds(history), rate=rate,
            seed=seed,
        )
    )  # fmt: skip


@with_settings(*KAFKA_FIELDS, "out_of_orderness_ms", "platform_zone")
def simulate(
    settings: Settings,
    *,
    out: Out = None,
    truth: TruthDir = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same traffic")] = 1,
    rate: Annotated[float, typer.Option(help="Messages a second, the mean of a day")] = 2_000.0,
    events: Annotated[int | None, typer.Option(metavar="N", help="So many messages in all")] = None,
    lasting: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="So much event time")] = None,
    history: Annotated[str, typer.Option(metavar="DURATION", help="Kafka: so much of the past first, at once")] = "0s",
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Event time of the first event")] = None,
    paced: Annotated[
        bool, typer.Option("--paced/--fast", help="Kafka: at the clock's pace, or as fast as can be")
    ] = True,
    users: Annotated[int, typer.Option(help="Users of the platform")] = 50_000,
    late_share: Annotated[float, typer.Option(help="Share sent too late on purpose")] = 0.002,
    duplicate_share: Annotated[float, typer.Option(help="Share sent twice")] = 0.01,
    bad_share: Annotated[float, typer.Option(help="Share of messages that break the contract")] = 0.0005,
    anomalies: Annotated[
        str, typer.Option(metavar="DURATION", help="Plant an anomaly so often, from the second day on: spike, drop, …")
    ] = "0s",
    partitions: Annotated[int, typer.Option(help="Partitions of topics that are made; number of files")] = 4,
    compression: Annotated[str, typer.Option(metavar="gz|zst", help="Compress the files")] = "",
) -> int:
    """Believable traffic, seeded: evening peaks, trends with known half-lives, live rooms with known conversion.

    With it comes the truth: what was planted, and what every figure must be. It goes to Kafka (until Ctrl-C, --for or
    --events), or with --out into files for `livepulse backfill`.

    \b
    Examples
      livepulse simulate --brokers kafka-1:9092 --rate 5000 --history 2h
      livepulse simulate --out ./traffic --events 1000000 --seed 7
      livepulse simulate --fast --events 500000 --truth ./truth
      livepulse simulate --out ./traffic --for 14d --rate 5 --anomalies 6h
    """
    from flows.simulate import Options, simulate_to_files, simulate_to_kafka
    from flows.telemetry import Standing

    options = _built(
        Options, seed=seed, rate=rate, events=events, duration_s=_seconds(lasting), history_s=_seconds(history) or 0.0,
        start=None if start is None else _instant(start), paced=paced, users=users, late_share=late_share,
        duplicate_share=duplicate_share, bad_share=bad_share, partitions=partitions, compression=compression,
        plant_every_minutes=(_seconds(anomalies) or 0.0) / 60,
        topic_prefix=settings.topic_prefix, platform_zone=settings.platform_zone,
        out_of_orderness_ms=settings.out_of_orderness_ms + settings.allowed_lateness_ms,
    )  # fmt: skip
    with _stopping() as stop, _progress() as reporter:

        def report(progress: Progress) -> None:
            reporter.report(Standing(progress.messages, progress.event_time))

        if out is not None:
            if events is None and lasting is None:
                raise Usage("files need a bound: give --events N or --for DURATION")
            found = simulate_to_files(out, options, report, stop)
        else:
            found = simulate_to_kafka(settings.brokers, options, stop, report, _properties(settings))
    if truth is not None:
        found.write(truth)
    typer.echo(json.dumps(found.totals))
    return OK


@with_settings(*KAFKA_FIELDS)
def replay(
    settings: Settings,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="NDJSON of events, plain, .gz or .zst")],
    *,
    speed: Annotated[str, typer.Option(metavar="FACTOR|max", help="Event time per wall time")] = "1",
    shift_to_now: Annotated[str | None, typer.Option(metavar="start|end", help="Let it start, or end, now")] = None,
    partitions: Annotated[int, typer.Option(help="Partitions of topics that are made")] = 4,
) -> int:
    """Publish recorded events to Kafka, at the pace at which they happened or faster; Ctrl-C ends it.

    \b
    Examples
      livepulse replay events.ndjson.gz --speed 60
      livepulse replay monday.zst tuesday.zst --speed max --brokers kafka-1:9092
      livepulse replay evening.ndjson --shift-to-now start
    """
    from flows.replay import ReplayOptions
    from flows.replay import replay as replay_files
    from flows.telemetry import Standing

    options = _built(
        ReplayOptions, speed=None if speed == "max" else _factor(speed), shift_to_now=_end_of(shift_to_now),
        topic_prefix=settings.topic_prefix, partitions=partitions,
    )  # fmt: skip
    with _stopping() as stop, _progress() as reporter:
        counts = replay_files(
            files, settings.brokers, options, stop,
            lambda c: reporter.report(Standing(c.lines, c.event_time, done=c.done)), _properties(settings),
        )  # fmt: skip
    published = {topic: counts.published[topic] for topic in sorted(counts.published)}
    typer.echo(json.dumps({"lines": counts.lines, "published": published, "unroutable": counts.unroutable}))
    return OK


def _properties(settings: Settings) -> dict[str, str]:
    """What clients need beside the address."""
    return {name: text for name, text in settings.client_properties().items() if name != "bootstrap.servers"}


def _factor(speed: str) -> float:
    try:
        return float(speed)
    except ValueError:
        raise Usage(f"--speed {speed}: write a factor such as 60, or max") from None


def _end_of(shift_to_now: str | None) -> str | None:
    if shift_to_now not in (None, "start", "end"):
        raise Usage(f"--shift-to-now {shift_to_now}: write start or end")
    return shift_to_now


def _built(kind: type[Any], **values: object) -> Any:  # noqa: ANN401 - the dataclass that was given
    """`kind(**values)`; what it refuses is wrong usage."""
    try:
        return kind(**values)
    except ValueError as error:
        raise Usage(str(error)) from error


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text) / 1000
    except ValueError as error:
        raise Usage(f"{text!r}: {error}") from error


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise Usage(f"{text!r}: {error}") from error


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress() -> Iterator[Reporter]:
    """A reporter on stderr for as long as the block lasts."""
    from flows.telemetry import Reporter, Screen

    reporter = Reporter(Screen(sys.stderr))
    try:
        yield reporter
    finally:
        reporter.close()
