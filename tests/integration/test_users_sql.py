"""sinks/users.sql: ClickHouse's own parser takes each statement, settings exist, and the writer can start the engine.

chDB has no users (ACCESS_DENIED), so the statements are parsed and not run.
"""

from __future__ import annotations

import re

import pytest

from sinks.clickhouse import Store, StoreError
from sinks.embedded import Embedded
from tests.integration.engine_process import ROOT

pytestmark = pytest.mark.integration

LINES = (ROOT / "sinks" / "users.sql").read_text().splitlines()
STATEMENTS = [s.strip() for s in "\n".join(x for x in LINES if not x.startswith("--")).split(";") if s.strip()]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_each_statement_parses(connected: Store, statement: str) -> None:
    assert connected.query("SELECT formatQuery({s:String}) AS f", {"s": statement})[0]["f"]


def test_the_caps_are_settings_that_exist(connected: Store) -> None:
    profile = next(s for s in STATEMENTS if s.startswith("CREATE SETTINGS PROFILE"))
    named = re.findall(r"^\s+(\w+) = ", profile, re.MULTILINE)
    known = {row["name"] for row in connected.query("SELECT name FROM system.settings")}
    assert len(named) == 8
    assert set(named) <= known


class Writer(Store):
    """A user who may change no table."""

    def command(self, sql: str) -> None:
        raise StoreError("Code: 497. DB::Exception: livepulse_writer: Not enough privileges. (ACCESS_DENIED)")


def test_a_user_who_may_make_nothing_can_work_with_what_is_there(up: Embedded, connected: Store) -> None:
    """`livepulse run` as livepulse_writer ended at once: CREATE DATABASE IF NOT EXISTS wants the right to it."""
    writer = Writer.connect(up.url, user=up.user, password=up.token)
    writer.migrate()
    with pytest.raises(StoreError, match="ACCESS_DENIED"):
        writer.migrate(replace=True)
    elsewhere = Writer.connect(up.url, user=up.user, password=up.token, database="nowhere")
    with pytest.raises(StoreError, match="ACCESS_DENIED"):
        elsewhere.migrate()
