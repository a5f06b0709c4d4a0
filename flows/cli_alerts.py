"""Commands on alert rules: alerts check, alerts test, alerts backtest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import STORE_FIELDS, plain, with_settings
from flows.errors import CHECK_FAILED, OK, Usage
from flows.settings import Settings

Rules = Annotated[Path, typer.Argument(metavar="RULES", help="TOML file of rules, see examples/alerts.toml")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines")]


@plain
def check(rules: Rules) -> int:
    """Read a rules file and say what each rule asks: names, columns and limits are checked.

    \b
    Examples
      livepulse alerts check examples/alerts.toml
    """
    from flows.alert_rules import load_rules

    for rule in load_rules(rules):
        typer.echo(f"{rule.name}: {rule.sql()}")
    return OK


@plain
def test(rules: Rules) -> int:
    """Run the examples inside a rules file through the same evaluation as the alerts: pending, keep firing, no data.

    Exit code 1 when one does not hold.

    \b
    Examples
      livepulse alerts test examples/alerts.toml
    """
    from flows.alert_rules import failed_tests, load_rules

    loaded = load_rules(rules)
    failures = [failure for rule in loaded for failure in failed_tests(rule)]
    for failure in failures:
        typer.echo(failure)
    typer.echo(f"{sum(len(rule.tests) for rule in loaded)} tests of {len(loaded)} rules, {len(failures)} failed")
    return CHECK_FAILED if failures else OK


@with_settings(*STORE_FIELDS)
def backtest(
    settings: Settings,
    rules: Annotated[
        str,
        typer.Argument(metavar="RULES", help="TOML file of rules, or the name of a rule that is shipped for Grafana"),
    ],
    *,
    truth: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Incidents (start, end): tells recall, precision, delay")
    ] = None,
    last: Annotated[
        str, typer.Option(metavar="DURATION", help="Of a shipped rule: only so much of the history; 0: all")
    ] = "0s",
    as_json: AsJson = False,
) -> int:
    """Run rules over the store's history before anybody is woken by them: fires a day, time firing, delay, precision.

    \b
    Examples
      livepulse alerts backtest examples/alerts.toml --store ./history
      livepulse alerts backtest my-rules.toml --store ./history --truth incidents.csv --json
      livepulse alerts backtest livepulse-anomaly --store ./history
      livepulse alerts backtest livepulse-nobody-active --store ./history --last 2d
    """
    from flows.alert_asof import history
    from flows.alert_asof import judge as judge_shipped
    from flows.alert_backtest import judge, read_truth, windows
    from flows.alert_rules import load_rules
    from flows.durations import parse_duration
    from grafana.alerting import RULES, shipped

    incidents = read_truth(truth) if truth is not None else None
    rule = shipped(rules)
    if rule is not None:
        told = [judge_shipped(rule, history(settings, rule, parse_duration(last) or None), incidents)]
    elif not Path(rules).exists():
        raise Usage(
            f"{rules} is neither a file nor a rule that is shipped; those are {', '.join(one.uid for one in RULES)}"
        )
    else:
        told = [judge(own, *windows(settings, own), incidents) for own in load_rules(Path(rules))]
    if as_json:
        typer.echo(json.dumps({"rules": told}))
        return OK
    for one in told:
        extra = "" if incidents is None else f"; recall {one['recall']}, precision {one['precision']}"
        extra += "" if incidents is None else f", median delay {one['median_delay_windows']} windows"
        typer.echo(
            f"{one['rule']}: fired {one['fires']} times in {one['days']} days ({one['fires_per_day']} a day), "
            f"{one['share_firing']:.2%} of the time{extra}"
        )
    return OK
