"""Commands about dead letters: list, show, replay."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from flows.cli_options import KAFKA_FIELDS, STORE_FIELDS, instant, with_settings
from flows.errors import OK
from flows.settings import Settings

Reason = Annotated[str | None, typer.Option("--reason", help="Only those with this code")]
Topic = Annotated[str | None, typer.Option("--topic", help="Only those of this topic")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only those read at or after it")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only those read before it")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines")]


@with_settings(*STORE_FIELDS)
def list_(
    settings: Settings,
    *,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> int:
    """How many dead letters there are, by reason and topic, each with an example for `show`.

    \b
    Examples
      livepulse deadletters list
      livepulse deadletters list --topic order --since 2026-02-01T00:00:00Z --json
    """
    from flows.dead_letters import Wanted, summary
    from flows.store_access import opened

    wanted = Wanted(reason, topic, instant(since), instant(until))
    with opened(settings) as store:
        rows = summary(store, wanted)
    if as_json:
        typer.echo(json.dumps(rows, default=str))
        return OK
    if not rows:
        typer.echo("no dead letters")
    for row in rows:
        typer.echo(f"{row['messages']:>9,}  {row['reason']:20} {row['topic']:8} e.g. {row['example']}")
    return OK


@with_settings(*STORE_FIELDS)
def show(
    settings: Settings,
    origin: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="Where the message was")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Only the message, byte by byte")] = False,
) -> int:
    """One dead letter: what is wrong, and the message (control characters made visible, unless --raw).

    \b
    Examples
      livepulse deadletters show view/3/1042
      livepulse deadletters show view/3/1042 --raw | hexdump -C
    """
    from flows.dead_letters import letter
    from flows.store_access import opened
    from schemas.reasons import MEANING, Reason

    with opened(settings) as store:
        found = letter(store, origin)
    if raw:
        sys.stdout.buffer.write(found.raw)
        sys.stdout.buffer.flush()
        return OK
    typer.echo(f"{found.origin}, read {found.ingest_time}\n{found.reason}: {MEANING[Reason(found.reason)]}")
    typer.echo(f"{found.detail}\n")
    typer.echo(_visible(found.raw))
    return OK


@with_settings(*KAFKA_FIELDS, *STORE_FIELDS, "min_event_time", "max_future_ms")
def replay(
    settings: Settings,
    *,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Those too that would be rejected again by this version and settings")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count")] = False,
    as_json: AsJson = False,
) -> int:
    """Send dead letters to their topics again, after a fix: those that this version and these settings accept.

    They arrive as new messages. An event that was accepted meanwhile is a duplicate and counts once (within
    dedupe_horizon); one whose time has passed is late, and `livepulse repair` takes it in.

    \b
    Examples
      livepulse deadletters replay --reason time_in_future --dry-run
      livepulse deadletters replay --topic order --since 2026-02-01T00:00:00Z
    """
    from flows.dead_letters import Wanted
    from flows.dead_letters import replay as send
    from flows.store_access import opened

    wanted = Wanted(reason, topic, instant(since), instant(until))
    with opened(settings) as store:
        done = send(store, settings, wanted, everything=everything, dry=dry_run)
    if as_json:
        typer.echo(json.dumps({"sent": done.sent, "still_bad": done.still_bad, "dry_run": dry_run}))
    else:
        verb = "would be sent" if dry_run else "sent"
        typer.echo(f"{done.sent:,} {verb}; {done.still_bad:,} would be rejected again and stay")
    return OK


def _visible(raw: bytes) -> str:
    """Text that cannot move a terminal's cursor or change its title."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
