"""Texts made for patterns that take steps back: they must be soon over, as nothing else runs meanwhile (GIL)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from schemas.events import Limits
from schemas.reasons import Reason
from schemas.validate import Reject, judge
from sinks import endpoint
from sinks.chdb_session import ClickHouseError
from sinks.clickhouse_http import Insert, Request, insert_of
from sinks.sql_guard import MAX_QUERY_BYTES, check_calls

SECONDS = 2.0  # each takes milliseconds
FULL = MAX_QUERY_BYTES


def inserted(text: bytes) -> Insert | None:
    return insert_of(Request({}, {}, {}, "", "", text))


def within(what: Callable[[], object]) -> object:
    began = time.perf_counter()
    found = what()
    assert time.perf_counter() - began < SECONDS
    return found


@dataclass(frozen=True)
class Hostile:
    """A text in three parts, of which the middle one is repeated."""

    before: str
    again: str
    after: str = ""

    def of(self, size: int) -> str:
        return self.before + self.again * (size // len(self.again)) + self.after


@pytest.mark.parametrize(
    "text",
    [Hostile("", "/**/", "SHOW TABLES"), Hostile("", "--\n", "SHOW TABLES"), Hostile("", "/*"), Hostile("", "( ", "x")],
)
def test_looking_for_a_select_is_soon_over(text: Hostile) -> None:
    assert within(lambda: endpoint._SELECT.match(text.of(FULL))) is None


def test_a_select_behind_comments_and_parentheses_is_one() -> None:
    for before in ("", " ", "/* a */ /* b */", "-- a\n-- b\n", "((", "/* SELECT */\n(-- x\n"):
        assert endpoint._SELECT.match(before + "select 1")
    assert not endpoint._SELECT.match("/* open SELECT 1")
    assert not endpoint._SELECT.match("selected")


@pytest.mark.parametrize(
    "text",
    [
        Hostile("INSERT INTO t (", "a", ") SELECT 1"),
        Hostile("INSERT INTO t (", "window_start, ", "b) SELECT 1"),
        Hostile("INSERT INTO t (", "`a`", ") SELECT 1"),
        Hostile("INSERT INTO t (", '"a",', " SELECT 1"),
        Hostile("", "/**/", "SELECT 1"),
        Hostile("INSERT INTO ", "a", " SELECT 1"),
        Hostile("INSERT INTO `", "\\`", " SELECT 1"),
    ],
)
def test_looking_for_an_insert_with_rows_is_soon_over(text: Hostile) -> None:
    assert within(lambda: inserted(text.of(FULL).encode())) is None


def test_an_insert_with_many_columns_is_found() -> None:
    names = ", ".join(f"column_{n}" for n in range(2_000)) + ', `odd \\` one`, "other \\" one"'
    found = inserted(f"/* a */ INSERT INTO TABLE `d`.t ({names}) FORMAT TSV\n1\t2\n".encode())
    assert found == Insert(f"/* a */ INSERT INTO TABLE `d`.t ({names})", "TSV", b"1\t2\n")


@pytest.mark.parametrize(
    "text",
    [Hostile("SELECT ", "a"), Hostile("SELECT ", "a."), Hostile("SELECT ", "APPLY "),
     Hostile("SELECT '", "\\'", "'"), Hostile("SELECT ", "(")],
)  # fmt: skip
def test_names_of_calls_are_soon_found(text: Hostile) -> None:
    within(lambda: check_calls(text.of(FULL), frozenset({"remote"})))


@pytest.mark.parametrize(
    "call", ["remote(x)", "a.b.remote(x)", "`remote`(x)", "APPLY remote", "APPLY(remote)", "x+remote(1)"]
)
def test_a_call_is_found_behind_a_long_name(call: str) -> None:
    with pytest.raises(ClickHouseError, match="remote"):
        check_calls(f"SELECT {'a' * 1_000} {call}", frozenset({"remote"}))


@pytest.mark.parametrize("after", ["", "\\", '"', '"]'])
@pytest.mark.parametrize("again", ['\\"', '"', "\\\\", '["', "a"])
def test_a_message_of_quotes_is_soon_judged(again: str, after: str) -> None:
    text = Hostile("[" * 200 + '"', again, after).of(990_000).encode()
    found = within(lambda: judge(text, "view", 0, Limits()))
    assert isinstance(found, Reject)
    assert found.reason in (Reason.TOO_DEEP, Reason.TOO_COMPLEX, Reason.INVALID_JSON)
