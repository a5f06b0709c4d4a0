"""Sums of the largest valid values: they fit by the declared limits, and the whole engine adds them up exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.decode_fields import FIELDS, Kind, high
from schemas.events import Limits
from schemas.heat import ROOM_HEAT, TOPIC_HEAT, HeatSpec
from tests.integration.engine_process import livepulse
from tests.simulation.backfilled import asked

pytestmark = pytest.mark.integration

MINUTE = 60_000
T0 = 1_770_000_000_000 // 3_600_000 * 3_600_000
MANY = 20_000
"""Events of a kind: 1,000 times their money is over 2^63, as is that of 10,000."""
MOST, PIECES, DAY = Limits().max_amount_minor, Limits().max_count, Limits().max_watch_ms
BIGINT = 2**63


@pytest.mark.parametrize("name", [field.name for field in FIELDS if field.kind is Kind.INT])
def test_a_million_events_of_any_field_s_limit_fit_into_a_sum(name: str) -> None:
    """Nine million, as docs/guarantees.md says; what is multiplied on top (GPM) is no Int64."""
    (field,) = (field for field in FIELDS if field.name == name)
    assert high(field, Limits()) * 9_000_000 < BIGINT


@pytest.mark.parametrize("spec", [TOPIC_HEAT, ROOM_HEAT, HeatSpec(weights={"view": 1e9, "like": 1e9 / (1 << 16)})])
def test_tens_of_millions_of_the_heaviest_events_of_a_minute_fit(spec: HeatSpec) -> None:
    assert round(max(spec.weights.values()) * spec.scale) * 60_000_000 < BIGINT


def lines() -> list[dict[str, object]]:
    """One user comes from a video into a room, and there, in one minute, watches, gives and pays all that is valid."""
    common = {"user_id": "u", "creator_id": "c"}
    room = {**common, "live_id": "l"}
    money = {"quantity": PIECES, "amount_minor": MOST}
    video = {"topic": "view", "surface": "video", "video_id": "v", "watch_ms": 0, "event_time": T0, **common}
    view = {"topic": "view", "surface": "live", "watch_ms": DAY, "event_time": T0 + 1, **room}
    gift = {"topic": "gift", "gift_id": "g", "event_time": T0 + 2, **room, **money}
    order = {"topic": "order", "status": "paid", "product_id": "p", "event_time": T0 + 3, **room, **money}
    events = [video]
    for number in range(MANY):
        events += [view, gift, {**order, "order_id": f"o{number}"}]
    return [{"event_id": f"e{number}", **event} for number, event in enumerate(events)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("largest")
    (directory / "events.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines()))
    done = livepulse("backfill", str(directory / "events.ndjson"), "--store", str(directory / "store"))
    assert done.returncode == 0, done.stderr
    return directory / "store"


def test_a_room_adds_up(store: Path) -> None:
    sql = (
        "SELECT toInt64(views), toInt64(watch_ms), toInt64(gifts), gift_amount_minor, gmv_minor, gmv_net_minor, "
        "toInt64(orders), gpm_minor, aov_minor FROM livepulse.live_sessions"
    )
    assert asked(store, sql).rows() == [
        (MANY, MANY * DAY, MANY * PIECES, MANY * MOST, MANY * MOST, MANY * MOST, MANY, MOST * 1_000.0, float(MOST))
    ]
    products = "SELECT toInt64(quantity), gmv_minor FROM livepulse.live_products"
    assert asked(store, products).rows() == [(MANY * PIECES, MANY * MOST)]


def test_activity_and_funnel_add_up(store: Path) -> None:
    watched = "SELECT DISTINCT toInt64(watch_ms) FROM livepulse.active_users WHERE dim = 'all'"
    assert asked(store, watched).rows() == [(MANY * DAY,)]
    money = (
        "SELECT step_name, toInt64(reached), amount_minor FROM livepulse.funnel "
        "WHERE dim = 'all' AND unit = 'user' ORDER BY step"
    )
    assert asked(store, money).rows() == [
        ("video_view", 1, 0), ("live_enter", 1, 0), ("gift", 1, MANY * MOST), ("order", 1, MANY * MOST),
    ]  # fmt: skip


def test_the_recomputation_adds_up_alike(store: Path) -> None:
    """`reconcile` sums in SQL what kernels sum in arrays."""
    done = livepulse("reconcile", "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
