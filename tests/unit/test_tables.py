"""The declared tables and views against the contract's text, DDL text, and rows cast for insertion."""

from __future__ import annotations

import datetime as dt
import io
import re
from pathlib import Path

import polars as pl
import pytest

from schemas import ddl
from schemas.events import OPTIONAL
from schemas.rows import RowsError, frame_to_arrow, typed
from schemas.session_views import SESSION_VIEWS
from schemas.tables import ACTIVE_USERS, DEAD_LETTERS, EVENTS, TABLES, TOPIC_HEAT, Column, Table, table_of
from schemas.views import VIEWS, View

CONTRACT = {  # TABLES.md, name by name in its order
    "active_users": "window_start window_seconds dim value events users watch_ms is_final",
    "active_hours": "basis date weekday hour dim value events users watch_ms is_final",
    "active_hour_profile": "basis weekday hour dim value users_per_day events_per_day share days lift",
    "topic_heat": "tick topic heat rank events users growth stage is_final",
    "topic_lifecycle": "topic first_seen peak_time peak_heat peak_rate half_life_minutes half_life_low half_life_high"
    " model fit_r2 stage time_to_peak_minutes response_deadline",
    "funnel": "funnel unit bucket_start dim value step step_name reached median_seconds amount_minor is_mature",
    "dead_letters": "topic partition offset reason detail raw",
    "ingest_ledger": "topic partition consumed accepted duplicate late rejected filtered",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_a_view_has_the_columns_of_the_contract_in_its_order(name: str) -> None:
    wanted = CONTRACT[name].split()
    (view,) = [view for view in VIEWS if view.name == name]
    shown = [column.name for column in view.columns]
    assert [column for column in shown if column in wanted] == wanted
    assert shown[: len(wanted)] == wanted or name == "ingest_ledger"  # the contract gives no order for its minute


def test_the_archive_has_a_column_for_every_field_of_an_event() -> None:
    (view,) = [view for view in VIEWS if view.name == "events"]
    shown = {column.name for column in view.columns}
    assert shown == {*OPTIONAL, "event_time", "topic", "ingest_time", "partition", "offset"}


def test_versions_are_hidden() -> None:
    for view in VIEWS:
        assert not {"version", "written_at"} & {column.name for column in view.columns}, view.name
        assert not re.search(r"\bversion\b", view.select("livepulse")), view.name


def test_every_view_reads_the_standing_row_of_a_key() -> None:
    for view in VIEWS:
        assert " FINAL" in view.select("livepulse"), view.name


def test_every_table_view_and_column_has_a_comment_in_its_ddl() -> None:
    place = ddl.Place()
    for table in TABLES:
        text = ddl.create_table(table, place)
        assert text.count("COMMENT ") == len(table.stored) + 1, table.name
    for view in VIEWS:
        text = ddl.create_view(view, place)
        assert text.count("COMMENT ") == len(view.columns) + 1, view.name


def test_a_table_s_ddl() -> None:
    table = Table("a_rows", "It's a", (Column("k", "UInt8", "key"), Column("v", "Nullable(Float64)", "v")), ("k",))
    assert ddl.create_table(table, ddl.Place("x"), retain_days=7) == (
        "CREATE TABLE IF NOT EXISTS x.a_rows\n(\n"
        "    k UInt8 COMMENT 'key',\n"
        "    v Nullable(Float64) COMMENT 'v',\n"
        "    version UInt64 COMMENT 'Of rows with one key, the greatest stands: final bit, generation, sequence',\n"
        "    written_at DateTime('UTC') DEFAULT now()"
        " COMMENT 'When the store took the row: what retention counts from'\n)\n"
        "ENGINE = ReplacingMergeTree(version)\nORDER BY (k)\nTTL written_at + toIntervalDay(7)\nCOMMENT 'It\\'s a'"
    )


def test_ddl_on_a_cluster() -> None:
    place = ddl.Place("lp", "main")
    text = ddl.create_table(ACTIVE_USERS, place)
    assert text.startswith("CREATE TABLE IF NOT EXISTS lp.active_users_rows ON CLUSTER main\n")
    assert "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', version)" in text
    for statement in (
        ddl.create_database(place), ddl.create_view(VIEWS[0], place), ddl.modify_ttl(EVENTS, place, 3),
        ddl.drop("VIEW", "funnel", place), ddl.create_versions(place),
    ):  # fmt: skip
        assert " ON CLUSTER main" in statement


def test_a_missing_column_is_added_after_the_one_before_it() -> None:
    statement = ddl.add_columns(TOPIC_HEAT, ddl.Place(), [c.name for c in TOPIC_HEAT.stored if c.name != "rank"])
    assert statement is not None
    assert re.search(r"ADD COLUMN IF NOT EXISTS rank Nullable\(UInt32\) COMMENT '.*' AFTER heat$", statement)
    assert ddl.add_columns(TOPIC_HEAT, ddl.Place(), [c.name for c in TOPIC_HEAT.stored]) is None


@pytest.mark.parametrize("name", ["a b", "A", "a;drop", "", "1a", "a`", "a" * 65])
def test_names_that_could_be_sql_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Column(name, "UInt8", "c")
    with pytest.raises(ValueError, match="name"):
        ddl.Place(name)


@pytest.mark.parametrize("type_", ["Int7", "Nullable(Array(String))", "LowCardinality(UInt8)", "String)", "DateTime"])
def test_types_outside_of_the_list_are_refused(type_: str) -> None:
    with pytest.raises(ValueError, match="none of the store's types"):
        Column("a", type_, "c")


def test_a_table_that_cannot_work_is_refused() -> None:
    k, v = Column("k", "UInt8", "k"), Column("v", "UInt8", "v")
    with pytest.raises(ValueError, match="partition_by must derive from order_by"):
        Table("t", "t", (k, v), ("k",), partition_by=("v",))
    with pytest.raises(ValueError, match="order_by has no such columns"):
        Table("t", "t", (k,), ("v",))
    with pytest.raises(ValueError, match="names a column twice"):
        Table("t", "t", (k, k), ("k",))
    with pytest.raises(ValueError, match="neither in t nor computed"):
        View("w", "w", Table("t", "t", (k,), ("k",)), (v,))


def test_a_table_is_found_by_its_own_name_and_its_view_s() -> None:
    assert table_of("active_users") is table_of("active_users_rows") is ACTIVE_USERS
    with pytest.raises(KeyError, match="no table 'active_user'; there are active_users"):
        table_of("active_user")


def activity(**changes: object) -> pl.DataFrame:
    row = {
        "window_start": 1_700_000_040_000, "window_seconds": 60, "dim": "all", "value": "", "events": 3, "users": 2,
        "watch_ms": 10, "is_final": 1, "version": (1 << 63) + 5,
    }  # fmt: skip
    return pl.DataFrame({name: [value] for name, value in (row | changes).items()})


def test_epoch_ms_become_the_declared_times() -> None:
    cast = typed(ACTIVE_USERS, activity())
    assert cast["window_start"].to_list() == [1_700_000_040]
    assert cast.schema["window_start"] == pl.UInt32  # what ClickHouse reads as a DateTime
    assert cast["version"].to_list() == [(1 << 63) + 5]
    letter = pl.DataFrame(
        {"topic": ["view"], "partition": [0], "offset": [7], "reason": ["x"], "detail": [""], "raw": [b"\xff\x00"],
         "ingest_time": [1_700_000_000_123]}
    )  # fmt: skip
    cast = typed(DEAD_LETTERS, letter)
    assert cast["ingest_time"].to_list() == [dt.datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=dt.UTC)]
    assert cast["raw"].to_list() == [b"\xff\x00"]


def test_columns_come_in_the_table_s_order_and_survive_the_stream() -> None:
    rows = frame_to_arrow(ACTIVE_USERS, activity().select(reversed(activity().columns)))
    assert rows.columns == [column.name for column in ACTIVE_USERS.inserted]
    assert pl.read_ipc_stream(io.BytesIO(b"".join(rows.stream()))).row(0) == (
        1_700_000_040, 60, "all", "", 3, 2, 10, 1, (1 << 63) + 5
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 8_192, 20_000])
def test_a_stream_in_pieces_is_one_stream_and_can_be_made_again(count: int) -> None:
    frame = activity().head(0) if not count else pl.concat([activity()] * count)
    rows = frame_to_arrow(ACTIVE_USERS, frame.with_columns(users=pl.int_range(count, dtype=pl.Int64)))
    pieces = list(rows.stream())
    assert pl.read_ipc_stream(io.BytesIO(b"".join(pieces)))["users"].to_list() == list(range(count))
    assert len(pieces) == -(-count // 8_192) + 1
    assert pieces == list(rows.stream())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"users": -1}, "conversion"),
        ({"users": None}, "1 of 1 have no users"),
        ({"users": 1.5}, "is UInt64 and not Float64"),
        ({"window_seconds": 1 << 40}, "conversion"),
        ({"window_start": -1_000}, "conversion"),
        ({"more": 1}, r"bring unknown \['more'\]"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(RowsError, match=words):
        frame_to_arrow(ACTIVE_USERS, activity(**change))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(RowsError, match=r"lack \['users'\]"):
        frame_to_arrow(ACTIVE_USERS, activity().drop("users"))


def test_fields_that_no_event_of_the_frame_has_are_left_to_their_default() -> None:
    frame = pl.DataFrame(
        {name: pl.Series([None], dtype=dtype) for name, dtype in OPTIONAL.items()}
        | {"topic": ["view"], "partition": [0], "offset": [1], "event_time": [1_000], "ingest_time": [2_000]}
        | {"event_id": ["e"], "user_id": ["u"], "watch_ms": [5]}
    )
    rows = frame_to_arrow(EVENTS, frame)
    assert set(rows.columns) == {
        "event_id", "event_time", "user_id", "tags", "watch_ms", "topic", "ingest_time", "partition", "offset"
    }  # fmt: skip
    assert pl.read_ipc_stream(io.BytesIO(b"".join(rows.stream())))["tags"].to_list() == [[]]


def test_the_contract_has_not_gained_a_view_that_is_not_there() -> None:
    contract = Path(__file__).parents[2].parent / "shared" / "TABLES.md"
    if not contract.exists():
        pytest.skip("the contract lies beside the repository in its workplace only")
    named = set(re.findall(r"\*\*`(\w+)`\*\*", contract.read_text()))
    assert named <= {view.name for view in VIEWS}


def test_the_page_about_live_rooms_names_every_column() -> None:
    page = (Path(__file__).parents[2] / "docs" / "live-rooms.md").read_text(encoding="utf-8")
    for view in SESSION_VIEWS:
        _, _, rest = page.partition(f"## `{view.name}`\n")
        shown = re.findall(r"^\| `(\w+)` \| (.*) \|$", rest.partition("\n## ")[0], re.MULTILINE)
        assert shown == [(column.name, column.comment) for column in view.columns], view.name
