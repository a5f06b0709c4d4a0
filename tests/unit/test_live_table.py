"""The demo's picture and its summary, from hand-made answers."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from flows import demo_summary
from flows.live_table import Row, Snapshot, Status, Trend, bar, conversions, render, sparkline, take
from flows.simulate import Truth

STATUS = Status("real Kafka 127.0.0.1:9", "store /tmp/x", 12.0, 1_500, live=True, events_per_s=2_000.0)
FUNNEL: list[Row] = [
    {"unit": "user", "step": 1, "step_name": "video_view", "reached": "900", "amount_minor": "0"},
    {"unit": "user", "step": 2, "step_name": "live_enter", "reached": "190", "amount_minor": "0"},
    {"unit": "user_live", "step": 2, "step_name": "live_enter", "reached": "200", "amount_minor": "0"},
    {"unit": "user_live", "step": 4, "step_name": "gift", "reached": "30", "amount_minor": "12345"},
]
LEDGER: Row = {"consumed": "1000", "accepted": "980", "duplicate": "10", "late": "6", "rejected": "4"}


def drawn(snapshot: Snapshot, status: Status = STATUS) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(render(snapshot, status, {"gift": 0.12}, "Asia/Shanghai"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


TICK = 1_767_600_120
LIFE = {"topic": "trend-1", "stage": "declining", "half_life_minutes": 11.0, "half_life_low": 9.0,
        "half_life_high": 14.0, "model": "exponential", "peak_rate": 3.0}  # fmt: skip
ANSWERS: list[tuple[str, list[Row]]] = [
    ("FROM ingest_ledger", [LEDGER]),
    ("FROM engine_progress", [{"watermark": "1767600000000"}]),
    ("dim = 'platform'", [{"value": "douyin", "users": "70"}]),
    (
        "FROM active_users",
        [{"start": str(TICK - 60 * i), "events": str(100 - i), "users": str(50 - i)} for i in range(31)],
    ),
    ("FROM active_hours", [{"date": "2026-01-05", "hour": hour, "users": "10", "events": "20"} for hour in (17, 16)]),
    ("max(tick)", [{"tick": str(TICK)}]),
    (
        "ORDER BY heat",
        [{"topic": "it's", "heat": 12.5, "stage": "growing", "growth": 0.5, "events": "3", "users": "2"}],
    ),
    ("FROM topic_heat", [{"topic": "it's", "at": str(TICK - 60 * i), "events": str(9 - 2 * i)} for i in (1, 2)]),
    ("FROM topic_lifecycle", [LIFE]),
    ("FROM funnel", FUNNEL),
]
"""What a query says → its rows; the first that fits."""


class Store:
    """Answers from the table, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, sql: str) -> list[dict[str, Any]]:
        self.asked.append(sql)
        return next(rows for part, rows in ANSWERS if part in sql)


def test_everything_that_was_read_is_drawn() -> None:
    store = Store()
    snapshot = take(store, [Trend("trend-1", 12.0)])
    text = drawn(snapshot)
    expected_texts = [
        "2 k events/s", "lag 500", "watermark 16:00:00", "accepted 980", "late 6", "it's", "growing", "+0.50", "16:01",
        "douyin", "17:00", "live_enter", "15.0%", "12.0%", "123", "trend-1", "11 min", "9–14",
    ]  # fmt: skip
    for expected in expected_texts:
        assert expected in text, expected
    assert snapshot.topics[0]["recent"][-2:] == [5, 7]
    assert snapshot.minutes[-1]["users"] == "49", "the newest minute is not whole yet and is left out"
    assert [row["hour"] for row in snapshot.hours] == [16, 17]
    assert any("'it\\'s'" in sql for sql in store.asked), "a topic goes into SQL quoted"


def test_before_the_first_row_it_waits() -> None:
    assert take(lambda _: [{"consumed": "0"}]) == Snapshot()
    assert take(lambda _: []) == Snapshot()
    assert "waiting" in drawn(Snapshot())


def test_trouble_is_shown() -> None:
    assert "no answer" in drawn(
        Snapshot(ledger=LEDGER), Status("b", "s", 1.0, 1, live=False, events_per_s=0.0, problem="no answer")
    )


def test_conversion_is_of_the_visits() -> None:
    steps = {row["step_name"]: row for row in conversions(FUNNEL)}
    assert steps["gift"]["share"] == 0.15
    assert steps["video_view"]["share"] is None
    assert steps["live_enter"]["share"] is None
    assert (steps["live_enter"]["users"], steps["live_enter"]["visits"]) == (190, 200)
    assert conversions([]) == []


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0, 0], "  "), ([0, 1, 8], " ▁█"), ([5], "▇"), ([7, 7], "██"), ([1, 2, 3, 4], "▂▄▅▇")],
)
def test_sparkline(values: list[int], line: str) -> None:
    assert sparkline(values) == line


@pytest.mark.parametrize(
    ("share", "line"), [(0.0, ""), (1.0, "████"), (0.5, "██"), (0.28, "█▏"), (7.0, "████"), (-1.0, "")]
)
def test_bar(share: float, line: str) -> None:
    assert bar(share, 4) == line


TRUTH = Truth(
    {"conversion": {"enter": 0.03, "engage": 0.4, "gift": 0.12, "order": 0.06}},
    {"consumed": 1_000, "accepted": 980, "duplicate": 10, "late": 6, "rejected": 4},
)


def test_summary_tells_exact_figures_from_wrong_ones() -> None:
    found = demo_summary.checks(Snapshot(ledger=LEDGER, funnel=FUNNEL), TRUTH)
    assert {check.name for check in found if check.exact} == {"consumed", "accepted", "duplicate", "late", "rejected"}
    assert all(check.holds for check in found)
    one_off = demo_summary.checks(Snapshot(ledger={**LEDGER, "late": "7"}, funnel=FUNNEL), TRUTH)
    assert [check.name for check in one_off if not check.holds] == ["late"]


def test_summary_holds_planted_values_against_chance() -> None:
    many = [{**row, "reached": str(int(row["reached"]) * 100)} for row in FUNNEL]
    gift = next(
        c for c in demo_summary.checks(Snapshot(ledger=LEDGER, funnel=many), TRUTH) if c.name == "conversion to gift"
    )
    assert not gift.holds, "15 % of 20,000 visits is no chance draw of 12 %"
    trend = {"topic": "t", "half_life_minutes": 60.0, "planted": 12.0, "peak_rate": 50.0}
    far = demo_summary.checks(Snapshot(ledger=LEDGER, trends=[trend]), TRUTH)[-1]
    assert (far.name, far.holds, far.exact) == ("half-life of t", False, False)
    few = demo_summary.checks(Snapshot(ledger=LEDGER, trends=[{**trend, "peak_rate": 2.0}]), TRUTH)
    assert not any(check.name.startswith("half-life") for check in few)


def test_summary_is_drawn_with_its_verdict() -> None:
    snapshot = Snapshot(ledger=LEDGER, funnel=FUNNEL)
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(demo_summary.render(demo_summary.checks(snapshot, TRUTH), snapshot))
    assert isinstance(console.file, io.StringIO)
    assert "5 of 5 counts exact over 1,000 messages" in console.file.getvalue()
