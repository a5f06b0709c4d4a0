"""Live rooms on hand-made files: how they begin and end, who is watching, refunds weeks later, names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SECOND, MINUTE, DAY = 1_000, 60_000, 86_400_000
T0 = 1_770_000_000_000 // DAY * DAY + DAY // 2


def livepulse(*arguments: str) -> str:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(store: Path, sql: str) -> list[dict[str, object]]:
    said = livepulse("sql", "--store", str(store), f"{sql} FORMAT JSONEachRow")
    return [json.loads(line) for line in said.splitlines()]


def numbers(row: dict[str, object]) -> dict[str, object]:
    return {name: float(str(value)) if value is not None else None for name, value in row.items()}


def view(time: int, user: str, room: str, watch_ms: int = 0, **more: object) -> dict[str, object]:
    return {
        "topic": "view", "event_time": time, "user_id": user, "surface": "live", "live_id": room, "creator_id": "c1",
        "watch_ms": watch_ms, **more,
    }  # fmt: skip


def order(time: int, status: str, amount: int, order_id: str = "o1") -> dict[str, object]:
    return {
        "topic": "order", "event_time": time, "user_id": "u1", "live_id": "told", "order_id": order_id,
        "status": status, "product_id": "p1", "quantity": 1, "amount_minor": amount,
    }  # fmt: skip


def host(time: int, action: str, room: str = "told") -> dict[str, object]:
    return {
        "topic": "engage",
        "event_time": time,
        "user_id": "h",
        "live_id": room,
        "action": action,
        "creator_id": "c1",
    }


EVENTS = [
    host(T0, "live_start"),
    view(T0 + 5 * SECOND, "u1", "told", channel="feed", from_video_id="v1"),
    view(T0 + 5 * SECOND, "u1", "told", 60_000, continued=True),
    view(T0 + 20 * SECOND, "u2", "told", channel="search"),
    {"topic": "engage", "event_time": T0 + 30 * SECOND, "user_id": "u1", "live_id": "told", "action": "product_click",
     "product_id": "p1"},
    order(T0 + 40 * SECOND, "created", 900),
    order(T0 + 50 * SECOND, "paid", 900),
    host(T0 + 4 * MINUTE, "live_end"),
    view(T0 + 10 * MINUTE, "u1", "untold", 30_000),
    view(T0 + 10 * MINUTE, "u2", "untold"),
    order(T0 + 20 * DAY, "refunded", 300),
    view(T0 + 20 * DAY, "u1", "on air"),
    view(T0 + 20 * DAY, "u2", "on air", 20_000),
    view(T0 + 20 * DAY + 95 * SECOND, "u3", "on air"),
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rooms")
    labels, events, store = directory / "names.csv", directory / "events.ndjson", directory / "store"
    labels.write_text("kind,id,name\nlive,told,夜市\ncreator,c1,Li\nproduct,p1,Lamp\n")
    events.write_text("".join(json.dumps({"event_id": f"e{n}", **event}) + "\n" for n, event in enumerate(EVENTS)))
    livepulse("labels", str(labels), "--store", str(store))
    livepulse(
        "backfill", str(events), "--store", str(store), "--room-memory", "1d", "--session-memory", "1h"
    )  # the room is long forgotten
    return store


def test_a_room_ends_with_its_host_s_word_or_in_silence(store: Path) -> None:
    rows = ask(
        store,
        "SELECT live_id, state, toUnixTimestamp64Milli(started_at) AS begun, toUnixTimestamp64Milli(ended_at) AS over,"
        " live_seconds, is_final FROM live_sessions ORDER BY started_at",
    )
    found = [
        (r["live_id"], r["state"], int(str(r["begun"])), None if r["over"] is None else int(str(r["over"])))
        for r in rows
    ]
    assert found == [
        ("told", "ended", T0, T0 + 4 * MINUTE),
        ("untold", "ended", T0 + 10 * MINUTE, T0 + 10 * MINUTE + 30 * SECOND),
        ("on air", "live", T0 + 20 * DAY, None),
    ]
    assert [float(str(r["live_seconds"])) for r in rows] == [240, 30, 95]


def test_watching_now_is_of_the_last_90_s(store: Path) -> None:
    (row,) = ask(store, "SELECT watching_now, watching_peak, pcu FROM live_sessions WHERE state = 'live'")
    # As of 90 s: u1 entered at 0 s, u2 reported at 20 s; u3 enters at 95 s, after the last full 10 s.
    assert numbers(row) == {"watching_now": 2, "watching_peak": 2, "pcu": 2}


def test_a_refund_weeks_later_takes_off_what_was_paid_and_nothing_else(store: Path) -> None:
    (row,) = ask(
        store,
        "SELECT gmv_created_minor, gmv_minor, gmv_refunded_minor, gmv_net_minor, orders, buyers, orders_refunded,"
        " aov_minor, gmv_per_buyer_minor, gpm_minor, uv_value_minor, entered_users, clickers, click_rate, order_rate,"
        " from_video_share, avg_stay_seconds, acu FROM live_sessions WHERE live_id = 'told'",
    )
    assert numbers(row) == {
        "gmv_created_minor": 900, "gmv_minor": 900, "gmv_refunded_minor": 300, "gmv_net_minor": 600, "orders": 1,
        "buyers": 1, "orders_refunded": 1, "aov_minor": 900, "gmv_per_buyer_minor": 900, "gpm_minor": 450_000,
        "uv_value_minor": 450, "entered_users": 2, "clickers": 1, "click_rate": 0.5, "order_rate": 1,
        "from_video_share": 0.5, "avg_stay_seconds": 30, "acu": 0.25,
    }  # fmt: skip


def test_sources_and_products_add_up_to_the_room(store: Path) -> None:
    sources = ask(store, "SELECT source, share FROM live_session_sources WHERE live_id = 'told' ORDER BY source")
    assert [(r["source"], float(str(r["share"]))) for r in sources] == [("feed", 0.5), ("search", 0.5)]
    (product,) = ask(store, "SELECT product_name, gmv_net_minor, order_rate FROM live_products WHERE live_id = 'told'")
    assert product.pop("product_name") == "Lamp"
    assert numbers(product) == {"gmv_net_minor": 600, "order_rate": 1}


def test_names_are_shown_where_there_are_some(store: Path) -> None:
    rows = ask(store, "SELECT live_id, live_name, creator_name FROM live_sessions ORDER BY started_at LIMIT 2")
    assert [tuple(r.values()) for r in rows] == [("told", "夜市", "Li"), ("untold", "untold", "Li")]
