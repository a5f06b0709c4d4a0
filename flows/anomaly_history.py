"""Warm start: final rows that the store has already, day by day, for a watch that is switched on beside old state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import polars as pl

from flows.anomaly_spec import AnomalySpec
from schemas.tables import identifier
from schemas.watches import Watch
from schemas.windows import DAY_MS, SECOND_MS
from sinks.clickhouse import Store

DAYS: Final = 28


def read_history(connect: Callable[[], Store], spec: AnomalySpec) -> Iterator[pl.DataFrame]:
    """Rows of the watched view of the last `DAYS` days with rows, of the greatest values; times are epoch ms."""
    store = connect()
    watch = spec.watch
    table, start = identifier(watch.table), "bucket_start" if watch.funnel else "window_start"
    closed = _closed(watch)
    try:
        bounds = store.query(
            f"SELECT toInt64(toUnixTimestamp(min({start}))) AS first, "  # noqa: S608  # checked names and numbers
            f"toInt64(toUnixTimestamp(max({start}))) AS last, count() AS rows FROM {table} WHERE {closed}"
        )[0]
        if not bounds["rows"]:
            return
        day_s = DAY_MS // SECOND_MS
        last = int(bounds["last"])
        top = _greatest(spec, f"{closed} AND toUnixTimestamp({start}) > {last - 7 * day_s}")
        for day in range(max(int(bounds["first"]), last - DAYS * day_s) // day_s, last // day_s + 1):
            yield store.frame(
                f"SELECT toInt64(toUnixTimestamp({start})) * {SECOND_MS} AS {start}, {_columns(watch)} "  # noqa: S608
                f"FROM {table} AS t WHERE {closed} AND toUnixTimestamp(t.{start}) >= {day * day_s} "
                f"AND toUnixTimestamp(t.{start}) < {(day + 1) * day_s}{top}"
            )
    finally:
        store.close()


def _closed(watch: Watch) -> str:
    """Which rows of the view are watched."""
    if not watch.funnel:
        return f"is_final = 1 AND window_seconds = {watch.window_seconds}"
    return f"is_mature = 1 AND funnel = '{identifier(watch.funnel)}' AND unit = '{identifier(watch.unit)}'"


def _columns(watch: Watch) -> str:
    """What `flows.anomaly_series.final_rows` reads."""
    if watch.funnel:
        return "funnel, unit, toString(dim) AS dim, value, step_name, toInt64(reached) AS reached, amount_minor"
    keys = identifier(watch.by) if watch.by else "toString(dim) AS dim, value"
    return ", ".join([keys, *(f"toFloat64({identifier(name)}) AS {identifier(name)}" for name in watch.columns)])


def _greatest(spec: AnomalySpec, where: str) -> str:
    """A condition on the greatest values; of rooms and funnels all rows are read, for the whole is their sum."""
    if spec.watch.funnel or spec.watch.by:
        return ""
    volume = identifier(spec.measures[0].source)
    return (
        f" AND (dim, value) IN (SELECT dim, value FROM {identifier(spec.watch.table)} WHERE {where} "  # noqa: S608
        f"GROUP BY dim, value ORDER BY sum({volume}) DESC LIMIT {spec.top})"
    )
