"""Clients and rows for tests of the store."""

from __future__ import annotations

import os
import signal
from urllib.parse import urlencode
from urllib.request import urlopen

import clickhouse_connect
import polars as pl
from clickhouse_connect.driver.client import Client

from sinks.embedded import Embedded

T0 = 1_700_000_000_000 // 3_600_000 * 3_600_000


def client_of(up: Embedded, compress: bool | str) -> Client:
    port = int(up.url.rpartition(":")[2])
    return clickhouse_connect.get_client(
        host="127.0.0.1", port=port, username=up.user, password=up.token, database="livepulse", compress=compress
    )


def kill_9(up: Embedded) -> None:
    assert up.process is not None
    os.kill(up.pid, signal.SIGKILL)
    up.process.wait()


def read(up: Embedded, sql: str, **parameters: object) -> str:
    with urlopen(f"{up.read_url}/?{urlencode(parameters)}", data=sql.encode()) as answer:
        return str(answer.read().decode())


def active(**changes: object) -> pl.DataFrame:
    row = {
        "window_start": T0, "window_seconds": 60, "dim": "all", "value": "", "events": 1, "users": 1, "watch_ms": 0,
        "is_final": 0, "version": 1,
    }  # fmt: skip
    return pl.DataFrame({k: [v] for k, v in (row | changes).items()}, schema_overrides={"version": pl.UInt64})
