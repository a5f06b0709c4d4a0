"""Commands that verify and mend what is stored: reconcile, repair."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

from flows.cli_options import ALL_FIELDS, instant, with_settings
from flows.errors import CHECK_FAILED, OK
from flows.settings import Settings

_FIELDS: Final = [name for name in ALL_FIELDS if name not in {"store_password", "from_"}]  # `--from` is the range here
_SHOWN: Final = 50
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Windows from this time on")]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Windows up to this time")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines")]


@with_settings(*_FIELDS)
def reconcile(settings: Settings, *, since: From = None, until: To = None, as_json: AsJson = False) -> int:
    """Recompute the views from the archive `events` in SQL, and the ledger from Kafka's offsets: does all agree?

    Differences are shown by view, window and dimension. Exit code 1: there is one. The engine may run meanwhile; then
    only closed windows are compared, and of the funnel mature hours.

    \b
    Examples
      livepulse reconcile
      livepulse reconcile --from 2026-02-01T00:00:00Z --to 2026-02-02T00:00:00Z --json
    """
    from flows.audit import reconcile as compare
    from flows.store_access import opened

    start, stop = instant(since), instant(until)
    with opened(settings) as store:
        found = compare(store, settings, start, stop)
    if as_json:
        typer.echo(json.dumps({"differences": [d.plain() for d in found]}, ensure_ascii=False))
    else:
        for difference in found[:_SHOWN]:
            where = " ".join(f"{name}={value}" for name, value in difference.key)
            typer.echo(f"{difference.view} {where}: {difference.figure} is {difference.is_}, not {difference.should}")
        if len(found) > _SHOWN:
            typer.echo(f"… and {len(found) - _SHOWN} more")
        typer.echo("all agrees" if not found else f"{len(found)} figures differ")
    return CHECK_FAILED if found else OK


@with_settings(*_FIELDS)
def repair(
    settings: Settings,
    *,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="First hour, such as 2026-02-01T08:00:00Z")],
    stop: Annotated[str, typer.Option("--to", metavar="TIME", help="The hour after the last")],
    as_json: AsJson = False,
) -> int:
    """Recompute closed windows with the late events that belong to them (dead letters that were replayed, too).

    The archive and late_events go through the engine's own kernels; rows of the range are written with a version above
    all others: those of the range, hours of the day that some clock shows in it, funnels of the day before (a late
    event may end their chains), heat of the day after. Windows that the engine may still change are refused.

    \b
    Examples
      livepulse repair --from 2026-02-01T08:00:00Z --to 2026-02-01T12:00:00Z
    """
    from flows.engine import repair as recompute

    first, last = instant(start), instant(stop)
    assert first is not None
    assert last is not None
    done = recompute(settings, first, last)
    if as_json:
        typer.echo(json.dumps({"events": done.events, "late": done.late, "rows": done.rows}))
    else:
        rows = ", ".join(f"{view} {count:,}" for view, count in sorted(done.rows.items()) if view != "events")
        typer.echo(
            f"{done.events:,} events recomputed, {done.late:,} late ones count now; rows written: {rows or 'none'}"
        )
    return OK
