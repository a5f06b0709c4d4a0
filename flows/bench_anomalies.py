"""`livepulse bench anomalies`: planted anomalies in simulated final rows, and what the detectors made of them.

Rows are those of `active_users` per minute: a whole with a daily and a weekly shape, correlated noise and Poisson
counts, split over regions, platforms, channels and categories. Into the weeks after the history are planted, apart from
each other: spikes, drops, level shifts, slow leaks, one region falling, and pipeline faults (a partition falls silent,
or messages are rejected). A second run without any counts false alerts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from flows.anomalies import AnomalyWatch
from flows.anomaly_baseline import Baseline, Times
from flows.anomaly_book import MERGED
from flows.anomaly_route import BUSINESS, PIPELINE, HealthTracker
from flows.anomaly_spec import AnomalySpec
from flows.anomaly_step import Floats, Ints
from flows.errors import CHECK_FAILED, OK
from flows.settings import Settings

KINDS: Final = ("spike", "drop", "shift", "leak", "region", "stall")
_DAY: Final = 1_440
_MINUTE_MS: Final = 60_000
_START_MS: Final = 1_767_571_200_000  # Monday 2026-01-05 00:00 UTC
_SHARES: Final[Mapping[str, tuple[float, ...]]] = {
    "region": (0.22, 0.16, 0.13, 0.11, 0.09, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01),
    "platform": (0.55, 0.38, 0.07),
    "channel": (0.5, 0.22, 0.15, 0.09, 0.04),
    "category": (0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.05),
}
_NOISE: Final = 0.03
_PARTITIONS: Final = 4
_AFTER: Final = 45
"""Minutes after a planted anomaly in which an alert is still its echo, not false."""


@dataclass(frozen=True, slots=True)
class Planted:
    """One planted anomaly: minutes [first, last) from the start, and what it multiplies."""

    kind: str
    first: int
    last: int
    factor: Floats  # of each minute
    region: int = -1  # -1: the whole
    silent: int = -1  # partition
    rejected: float = 0.0

    @property
    def route(self) -> str:
        """Where its alert must go."""
        return PIPELINE if self.kind == "stall" else BUSINESS


def plant(seed: int, first_day: int, days: int) -> list[Planted]:
    """Anomalies of each kind in turn, one in about six hours."""
    r = np.random.default_rng(seed)
    found = []
    for i in range(days * 4):
        kind = KINDS[i % len(KINDS)]
        first = first_day * _DAY + i * 360 + int(r.integers(10, 60))
        found.append(_planted(r, kind, first))
    return found


def _planted(r: np.random.Generator, kind: str, first: int) -> Planted:
    low, high = {
        "spike": (3, 10), "drop": (10, 30), "shift": (120, 180), "leak": (180, 180), "region": (20, 40),
        "stall": (10, 25),
    }[kind]  # fmt: skip
    length = int(r.integers(low, high + 1))
    level = {
        "spike": r.uniform(1.8, 4.0), "drop": r.uniform(0.2, 0.6), "leak": 0.55, "region": r.uniform(0.0, 0.3),
        "shift": r.choice((r.uniform(0.55, 0.75), r.uniform(1.35, 1.7))), "stall": 1 - 1 / _PARTITIONS,
    }[kind]  # fmt: skip
    factor = np.linspace(1.0, level, length) if kind == "leak" else np.full(length, level)
    rejected = 0.0
    silent = -1
    if kind == "stall" and r.random() < 0.5:
        rejected = float(r.uniform(0.3, 0.9))
        factor = np.full(length, 1 - rejected)
    elif kind == "stall":
        silent = int(r.integers(_PARTITIONS))
    region = int(r.integers(4)) if kind == "region" else -1
    return Planted(kind, first, first + length, factor, region, silent, rejected)


def usual(minutes: Ints, rate: float) -> Floats:
    """Mean events of these minutes from the start: a daily and a weekly shape. `rate`: the mean of a day."""
    day = 1 + 0.6 * np.sin(2 * np.pi * (minutes / _DAY - 0.4)) + 0.2 * np.sin(4 * np.pi * (minutes / _DAY - 0.1))
    weekend = 0.2 * np.clip(4 * np.minimum((minutes / _DAY) % 7 - 4.9, 7.1 - (minutes / _DAY) % 7), 0, 1)
    shape: Floats = rate * day * (1 + weekend)
    return shape


def visible(planted: Planted, rate: float) -> int:
    """The first minute in which a planted change exceeds the noise of a window (three standard deviations).

    Most do at once; a leak begins with nothing, which no detector can see. The noise is that of the simulation:
    Poisson's and the correlated one.
    """
    minutes = np.arange(planted.first, planted.last)
    share = 1.0 if planted.region < 0 else _SHARES["region"][planted.region]
    mean = usual(minutes, rate) * share
    band = 3.0 * np.sqrt(mean + (_NOISE * mean) ** 2)
    beyond = np.flatnonzero(mean * np.abs(1.0 - planted.factor) >= band)
    return planted.first + (int(beyond[0]) if len(beyond) else len(minutes) - 1)


def rows_of(seed: int, days: int, planted: Sequence[Planted], rate: float = 3_000.0) -> pl.DataFrame:
    """Final rows of `active_users` for `days` days of minutes; `rate`: mean events a minute."""
    r = np.random.default_rng(seed)
    minutes = np.arange(days * _DAY)
    shocks, noise = r.normal(0, _NOISE, len(minutes)), np.zeros(len(minutes))
    for i in range(1, len(minutes)):
        noise[i] = 0.8 * noise[i - 1] + 0.6 * shocks[i]
    whole = usual(minutes, rate) * np.exp(noise)
    frames = []
    total = np.zeros((0, 3))
    for dim, shares in _SHARES.items():
        rates = whole[:, None] * np.array(shares)[None, :]
        for p in planted:
            columns = slice(None) if p.region < 0 else slice(p.region, p.region + 1)
            if p.region < 0 or dim == "region":
                rates[p.first : p.last, columns] *= p.factor[:, None]
            else:
                rates[p.first : p.last] *= 1 + (p.factor - 1)[:, None] * _SHARES["region"][p.region]
        events = r.poisson(rates)
        users = r.binomial(events, 0.4)
        watch = np.round(events * 9_000 * np.exp(r.normal(0, 0.05, events.shape))).astype(np.int64)
        if not len(total):
            total = np.stack([m.sum(axis=1) for m in (events, users, watch)], axis=1)
        frames += [
            _frame(minutes, dim, f"{dim}-{i}", (events[:, i], users[:, i], watch[:, i])) for i in range(len(shares))
        ]
    frames.append(_frame(minutes, "all", "", (total[:, 0], total[:, 1], total[:, 2])))
    return pl.concat(frames).filter(pl.col("events") > 0).sort("window_start", maintain_order=True)


def _frame(minutes: Any, dim: str, value: str, measures: tuple[Any, Any, Any]) -> pl.DataFrame:  # noqa: ANN401
    columns = dict(zip(("events", "users", "watch_ms"), measures, strict=True))
    return pl.DataFrame({"window_start": _START_MS + minutes * _MINUTE_MS, **columns}).with_columns(
        dim=pl.lit(dim), value=pl.lit(value), window_seconds=60
    )


def ledger_of(minute: int, planted: Sequence[Planted], r: np.random.Generator) -> pl.DataFrame:
    """Ledger increments of one minute of ingestion."""
    now = [p for p in planted if p.first <= minute < p.last]
    silent = {p.silent for p in now}
    rejected = max((p.rejected for p in now), default=0.001)
    counts = [0 if i in silent else int(r.poisson(700)) for i in range(_PARTITIONS)]
    return pl.DataFrame(
        {
            "topic": ["view"] * _PARTITIONS, "partition": list(range(_PARTITIONS)),
            "minute": [_START_MS + minute * _MINUTE_MS] * _PARTITIONS, "consumed": counts,
            "rejected": [int(c * rejected) for c in counts], "late": [0] * _PARTITIONS,
        }
    ).filter(pl.col("consumed") > 0)  # fmt: skip


def watch(rows: pl.DataFrame, planted: Sequence[Planted], first_day: int, days: int, wait: int = 5) -> pl.DataFrame:
    """First state of each anomaly. History at once, then hour by hour; a window closes `wait` minutes after its end.

    While something is planted its windows come one by one, as live, with the health of that moment.
    """
    kernel, tracker, r = AnomalyWatch(AnomalySpec()), HealthTracker(), np.random.default_rng(1)
    start = _START_MS + first_day * _DAY * _MINUTE_MS
    kernel.warm_start(rows.filter(pl.col("window_start") < start))
    near = {m for p in planted for m in range(p.first - 2, p.last + 20)}
    later = rows.filter(pl.col("window_start") >= start)
    by_hour = {
        h: part
        for (h,), part in later.with_columns(h=pl.col("window_start") // 3_600_000)
        .partition_by("h", as_dict=True)
        .items()
    }
    told = []
    for hour in range(first_day * 24, days * 24):
        part = by_hour[_START_MS // 3_600_000 + hour].drop("h")
        minutes = range(hour * 60, hour * 60 + 60)
        live = any(m in near for m in minutes)
        for minute in minutes if live else minutes[-1:]:
            for ingested in (minute + wait,) if live else [m + wait for m in minutes]:
                tracker.fold(ledger_of(ingested, planted, r))
            at = _START_MS + minute * _MINUTE_MS
            mine = part.filter(pl.col("window_start") == at) if live else part
            told.append(kernel.observe(mine, at + _MINUTE_MS, tracker.health()))
    return pl.concat(told).unique(["series", "dim", "value", "window_start"], keep="first", maintain_order=True)


def judge(alerts: pl.DataFrame, planted: Sequence[Planted], rate: float = 3_000.0) -> dict[str, Any]:
    """Recall, delays, routing and how often each was told (to whom it was told most), by kind; and false alerts.

    A delay is in windows after the first one that was changed; of a leak, after the first in which it is `visible`.
    """
    # What opened and was over within the hour that was taken at once is `resolved` already: it was told all the same.
    opened = alerts.filter(pl.col("state") != MERGED).with_columns(
        minute=(pl.col("window_start") - _START_MS) // _MINUTE_MS
    )
    kinds: dict[str, dict[str, Any]] = {
        kind: {"planted": 0, "found": 0, "delays": [], "routed": 0, "told": []} for kind in KINDS
    }
    explained = opened["minute"] < 0
    for p in planted:
        mine = opened["minute"].is_between(p.first, p.last + _AFTER)
        explained |= mine
        during = opened.filter(opened["minute"].is_between(p.first, p.last - 1))
        if p.region >= 0:
            during = during.filter(pl.col("value").is_in([f"region-{p.region}", ""]))
        told = kinds[p.kind]
        told["planted"] += 1
        if during.height:
            told["found"] += 1
            told["told"].append(int(opened.filter(mine)["route"].value_counts()["count"].max()))  # type: ignore[arg-type]
            begun = visible(p, rate) if p.kind == "leak" else p.first
            told["delays"].append(max(int(during["minute"].min()) - begun, 0))  # type: ignore[arg-type]
            told["routed"] += int((during["route"] == p.route).all())
    false = opened.filter(~explained)
    return {"kinds": kinds, "false": false.height, "examples": false.head(20).to_dicts()}


def measure(
    *, seed: int = 7, history_days: int = 14, days: int = 14, clean_days: int = 28, rate: float = 3_000.0
) -> dict[str, Any]:
    """Plant, watch, judge. `rate`: mean events a minute of the whole."""
    planted = plant(seed, history_days, days)
    found = judge(
        watch(rows_of(seed, history_days + days, planted, rate), planted, history_days, history_days + days),
        planted,
        rate,
    )
    clean = judge(
        watch(rows_of(seed + 1, history_days + clean_days, [], rate), [], history_days, history_days + clean_days), []
    )
    series = (sum(len(shares) for shares in _SHARES.values()) + 1) * len(AnomalySpec().measures)
    delays = sorted(d for told in found["kinds"].values() for d in told["delays"])
    total = sum(told["planted"] for told in found["kinds"].values())
    times = [n for told in found["kinds"].values() for n in told["told"]]
    return {
        "planted": total,
        "recall": round(sum(told["found"] for told in found["kinds"].values()) / total, 4),
        "median_delay_windows": float(np.median(delays)) if delays else None,
        "wall_delay_s": _wall_delay_s(delays),
        "routed_right": round(sum(t["routed"] for t in found["kinds"].values()) / max(len(delays), 1), 4),
        "told_per_planted": round(float(np.mean(times)), 3) if times else None,
        "told_more_than_once": sum(n > 1 for n in times),
        "kinds": {kind: _plain(told) for kind, told in found["kinds"].items()},
        "false_alerts_beside_planted": found["false"],
        "clean_series_days": series * clean_days,
        "false_alerts": clean["false"],
        "false_per_1000_series_days": round(1000 * clean["false"] / (series * clean_days), 3),
        "series_windows_per_s": speed(),
        "examples": [e["explanation"] for e in (found["examples"] + clean["examples"])[:5]],
    }  # fmt: skip


def _wall_delay_s(delays: Sequence[int]) -> dict[str, float]:
    """Median and most of nine in ten: from the end of the first window that was changed to the alert.

    It comes when the window that tells it closes, at the out-of-orderness after its end, and the engine emits it.
    """
    if not delays:
        return {}
    wall = np.array(delays) * 60.0 + Settings().out_of_orderness_ms / 1000 + Settings().epoch_ms / 1000
    return {"median": float(np.median(wall)), "p90": float(np.quantile(wall, 0.9))}


def _plain(told: Mapping[str, Any]) -> dict[str, Any]:
    delays = told["delays"]
    return {
        "planted": told["planted"],
        "found": told["found"],
        "routed": told["routed"],
        "told_per_planted": round(float(np.mean(told["told"])), 3) if told["told"] else None,
        "median_delay_windows": float(np.median(delays)) if delays else None,
    }


def speed(series: int = 5_000, windows: int = 200) -> int:
    """Series-windows a second of the baselines, windows one by one as live."""
    r = np.random.default_rng(0)
    actual = r.poisson(300, (windows, series)).astype(np.float64)
    baseline = Baseline(series, warm=100, accept=720)
    counted = np.ones(series, np.bool_)
    start = 0.0
    for w in range(windows):
        slot = np.array([w // 60])
        baseline.step(actual[w : w + 1], Times(slot, slot + 1, np.array([0.1])), counted)
        if w == 0:
            start = time.perf_counter()  # the first one compiles
    return round(series * (windows - 1) / (time.perf_counter() - start))


def show(told: Mapping[str, Any], *, as_json: bool) -> int:
    """Print the figures; 1 when a goal is missed."""
    good = (
        told["recall"] >= 0.95
        and told["false_per_1000_series_days"] <= 1
        and told["median_delay_windows"] is not None
        and told["median_delay_windows"] <= 2
        and told["routed_right"] == 1
    )
    if as_json:
        print(json.dumps(told))  # noqa: T201  # the result is the output
        return OK if good else CHECK_FAILED
    console = Console()
    table = Table("planted", "number", "found", "median delay, windows", "routed right", "told, times")
    shown = ("planted", "found", "median_delay_windows", "routed", "told_per_planted")
    for kind, part in told["kinds"].items():
        table.add_row(kind, *(str(part[name]) for name in shown))
    console.print(table)
    for name in (
        "recall", "median_delay_windows", "wall_delay_s", "routed_right", "told_per_planted", "told_more_than_once",
        "false_alerts_beside_planted",
        "clean_series_days", "false_alerts", "false_per_1000_series_days", "series_windows_per_s",
    ):  # fmt: skip
        console.print(f"{name}: {told[name]}")
    return OK if good else CHECK_FAILED
