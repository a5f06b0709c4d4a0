"""Warm start: final rows that the store has already, day by day, for a watch that is switched on beside old state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import polars as pl

from flows.anomaly_spec import AnomalySpec
from schemas.tables import identifier
from schemas.windows import DAY_MS, SECOND_MS
from sinks.clickhouse import Store

DAYS: Final = 28


def read_history(connect: Callable[[], Store], spec: AnomalySpec) -> Iterator[pl.DataFrame]:
    """Frames of the last `DAYS` days with rows, of the whole and the greatest values; times are epoch ms."""
    store = connect()
    try:
        names = ", ".join(f"toFloat64({identifier(m.name)}) AS {identifier(m.name)}" for m in spec.measures)
        table = identifier(spec.table)
        closed = f"is_final = 1 AND window_seconds = {spec.window_seconds}"
        bounds = store.query(
            f"SELECT toInt64(toUnixTimestamp(min(window_start))) AS first, "  # noqa: S608  # checked names and numbers
            f"toInt64(toUnixTimestamp(max(window_start))) AS last, count() AS rows FROM {table} WHERE {closed}"
        )[0]
        if not bounds["rows"]:
            return
        day_s = DAY_MS // SECOND_MS
        last = int(bounds["last"])
        volume = identifier(spec.measures[0].name)
        top = (
            f"SELECT dim, value FROM {table} WHERE {closed} AND toUnixTimestamp(window_start) > {last - 7 * day_s} "  # noqa: S608
            f"GROUP BY dim, value ORDER BY sum({volume}) DESC LIMIT {spec.top}"
        )
        for day in range(max(int(bounds["first"]), last - DAYS * day_s) // day_s, last // day_s + 1):
            yield store.frame(
                f"SELECT toInt64(toUnixTimestamp(window_start)) * {SECOND_MS} AS window_start, "  # noqa: S608
                f"toString(dim) AS dim, value, {names} FROM {table} AS t WHERE {closed} "
                f"AND toUnixTimestamp(t.window_start) >= {day * day_s} "
                f"AND toUnixTimestamp(t.window_start) < {(day + 1) * day_s} AND (dim, value) IN ({top})"
            )
    finally:
        store.close()
