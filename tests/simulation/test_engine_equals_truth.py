"""The whole engine over simulated files: every count and every row that has a truth equals it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from flows.simulate import Options, Truth
from schemas.sessions import MEASURES
from sinks import embedded
from tests.simulation.backfilled import asked, backfilled

pytestmark = pytest.mark.integration

OPTIONS = Options(
    seed=5, rate=15.0, events=40_000, start=1_767_603_600_000, partitions=3, users=3_000, videos=800, creators=100,
    topics=150, rooms=8, late_share=0.006, duplicate_share=0.02, bad_share=0.003, compression="zst",
)  # fmt: skip
MEASURED = ", ".join(measure.name for measure in MEASURES)
QUERIES = {
    "partitions": """
        SELECT topic, partition, sum(consumed) AS consumed, sum(accepted) AS accepted, sum(duplicate) AS duplicate,
            sum(late) AS late, sum(rejected) AS rejected
        FROM ingest_ledger GROUP BY topic, partition""",
    "active_users": """
        SELECT toUnixTimestamp(window_start) * 1000 AS window_start, window_seconds, dim, value, events, users, watch_ms
        FROM active_users WHERE is_final = 1""",
    "active_hours": """
        SELECT basis, date, hour, dim, value, events, users, watch_ms FROM active_hours WHERE is_final = 1""",
    "topic_minutes": """
        SELECT toUnixTimestamp(tick) * 1000 AS tick, topic, events, users FROM topic_heat
        WHERE events > 0 AND is_final = 1""",
    "funnel": """
        SELECT unit, toUnixTimestamp(bucket_start) * 1000 AS bucket_start, dim, value, step, reached, amount_minor
        FROM funnel WHERE funnel = 'video_to_live'""",
    "rooms": f"""
        SELECT live_id, creator_id, category, pcu, watching_peak, {MEASURED} FROM live_sessions""",
    "room_minutes": f"""
        SELECT live_id, toUnixTimestamp(window_start) * 1000 AS window_start, viewers, pcu, watching, {MEASURED}
        FROM live_session_minutes WHERE is_final = 1""",
    "room_sources": "SELECT live_id, source, entered_users FROM live_session_sources",
    "room_products": """
        SELECT live_id, product_id, product_clicks, clickers, orders, buyers, gmv_minor FROM live_products
        WHERE product_clicks > 0 OR orders > 0""",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Truth]]:
    store, truth = backfilled(tmp_path_factory.mktemp("engine"), OPTIONS)
    up = embedded.start(store, die_with_parent=True)
    yield store, truth
    up.stop()


@pytest.mark.parametrize("name", list(QUERIES))
def test_rows_equal_the_truth(run: tuple[Path, Truth], name: str) -> None:
    store, truth = run
    expected = getattr(truth, name)
    assert expected.height >= 10
    found = asked(store, QUERIES[name])
    columns = found.columns
    found = found.with_columns(pl.col(c).cast(expected.schema[c]) for c in columns).sort(columns)
    expected = expected.select(columns).sort(columns)
    missing = expected.join(found, on=columns, how="anti")
    surplus = found.join(expected, on=columns, how="anti")
    assert missing.rows() == []
    assert surplus.rows() == []
    assert found.height == expected.height


def test_rooms_begin_and_end_with_their_hosts_word_or_in_silence(run: tuple[Path, Truth]) -> None:
    store, truth = run
    assert truth.rooms is not None
    times = ", ".join(f"toUnixTimestamp64Milli({name}) AS {name}" for name in ("started_at", "ended_at", "as_of"))
    found = asked(store, f"SELECT live_id, state, {times}, last_active_at > ended_at AS lively FROM live_sessions")
    both = found.join(truth.rooms.select("live_id", planted="started_at", ended="ended_at"), on="live_id")
    assert both.height == truth.rooms.height
    told = both.filter(pl.col("planted").is_not_null())
    assert (told["started_at"] == told["planted"]).all()
    closed = both.filter(pl.col("ended").is_not_null())
    assert closed.height > 0
    assert (closed["state"] == "ended").all()
    assert (closed["ended_at"] == closed["ended"]).all()
    open_ = both.filter(pl.col("ended").is_null() & (pl.col("state") == "live"))
    assert open_["ended_at"].null_count() == open_.height > 0


def test_money_of_rooms_is_that_of_the_orders(run: tuple[Path, Truth]) -> None:
    store, _ = run
    rooms = asked(
        store,
        "SELECT toInt64(sum(gmv_created_minor)), toInt64(sum(gmv_minor)), toInt64(sum(gmv_refunded_minor)),"
        " toInt64(sum(gmv_net_minor)), toInt64(sum(orders)), toInt64(sum(buyers)) FROM live_sessions",
    )
    events = asked(
        store,
        "SELECT sumIf(amount_minor, status = 'created'), sumIf(amount_minor, status = 'paid') AS paid,"
        " sumIf(amount_minor, status = 'refunded') AS refunded, paid - refunded,"
        " toInt64(uniqExactIf(live_id, order_id, status = 'paid')),"
        " toInt64(uniqExactIf(live_id, user_id, status = 'paid'))"
        " FROM events WHERE topic = 'order' AND live_id IS NOT NULL",
    )
    assert rooms.rows() == events.rows()


def test_every_bad_message_is_a_dead_letter(run: tuple[Path, Truth]) -> None:
    store, truth = run
    reasons = dict(asked(store, "SELECT reason, count() AS n FROM dead_letters GROUP BY reason").iter_rows())
    assert sum(reasons.values()) == sum(truth.bad.values()) == truth.totals["rejected"]
    assert len(reasons) > 8


def test_late_events_are_kept(run: tuple[Path, Truth]) -> None:
    store, truth = run
    assert asked(store, "SELECT count() AS n FROM late_events")["n"].item() == truth.totals["late"] > 50


def test_the_archive_holds_every_accepted_event_once(run: tuple[Path, Truth]) -> None:
    store, truth = run
    found = asked(store, "SELECT count() AS n, uniqExact(user_id, event_id) AS ids FROM events")
    assert found.rows() == [(truth.totals["accepted"], truth.totals["accepted"])]
