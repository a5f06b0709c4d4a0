"""Hashes, keys, spans and speed of the decoder, beyond the outcomes that test_bad_inputs shows."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import polars as pl
import pytest

from schemas import decode, decode_columns, decode_scan, hashing
from schemas.decode import Decoder
from schemas.decode_compile import _can_keep_code
from schemas.decode_fields import ALLOWED, CODE, REQUIRED, zone_names
from schemas.events import OPTIONAL, TOPICS, Limits
from tests.unit.bad_inputs import GOOD, NOW_MS, compact, with_fields

ALL = frozenset(OPTIONAL)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(ALL, Limits())


def test_hash_is_xxh3_64() -> None:
    # Values of the reference implementation: `printf abc | xxh3sum` (xxHash 0.8)
    golden = {"": 0x2D06800538D394C2, "a": 0xE6C632B61E964E1F, "abc": 0x78AF5F94892F3950}
    hashes = hashing.hash64(pl.Series("id", [*golden, None]))
    assert hashes.to_list() == [*golden.values(), None]
    assert hashes.name == "id"
    assert hashes.dtype == pl.UInt64()
    assert pl.DataFrame({"id": [b"abc"]}).select(hashing.hash64_expr("id")).item() == golden["abc"]


def test_id_hash_is_stable_and_ordered() -> None:
    user, event = hashing.hash64(pl.Series(["u-1", "e-1"])).to_list()

    def expected(first: int, second: int) -> int:
        mask = 2**64 - 1
        mixed = (first * 0x9E3779B97F4A7C15 & mask) ^ second
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            mixed = (mixed ^ mixed >> 33) * factor & mask
        return mixed ^ mixed >> 33

    both = pl.Series([user, event], dtype=pl.UInt64).to_numpy()
    assert hashing.id_hash(both, both[::-1]).tolist() == [expected(user, event), expected(event, user)]
    assert expected(user, event) != expected(event, user)


def test_id_hash_tells_users_with_one_event_id_apart(decoder: Decoder) -> None:
    frame = decoder.decode("view", [with_fields(user_id=user) for user in ("a", "b", "a")], NOW_MS).frame
    first, second, third = frame["id_hash"].to_list()
    assert first != second
    assert first == third


def test_keys_are_compared_with_users_of_valid_events(decoder: Decoder) -> None:
    values = [compact(GOOD["view"])] * 5 + [b"broken"]
    keys = [b"u-1", None, b"u-2", b"\xff\x00", b"", b"u-3"]
    assert decoder.decode("view", values, NOW_MS, keys).key_mismatches == 3
    assert decoder.decode("view", values, NOW_MS).key_mismatches == 0


def test_empty_batch(decoder: Decoder) -> None:
    decoded = decoder.decode("view", [], NOW_MS, [])
    assert (decoded.frame.height, decoded.rejects.height, decoded.key_mismatches) == (0, 0, 0)


def test_all_bad(decoder: Decoder) -> None:
    assert decoder.decode("view", [None, b"x"], NOW_MS).frame.height == 0


def test_frame_outlives_the_batch_and_pickles(decoder: Decoder) -> None:
    values = [with_fields(event_id=f"event-{number:032}", tags=["短" * 20, "t"]) for number in range(1_000)]
    values[7] = with_fields(event_id=f"event-{7:032}", tags=["短" * 20, "t"]).replace(b"food", b"f\\u006fod")
    frame = decoder.decode("view", values, NOW_MS).frame
    del values
    copy = pickle.loads(pickle.dumps(frame))
    assert copy.equals(frame)
    assert copy["event_id"].to_list() == [f"event-{number:032}" for number in range(1_000)]
    assert copy["tags"].explode().unique().sort().to_list() == ["t", "短" * 20]
    assert copy["category"].unique().to_list() == ["food"]


@pytest.mark.parametrize(
    "raw",
    [
        compact(GOOD["view"]),
        compact(dict(reversed(GOOD["view"].items()))),
        json.dumps(GOOD["view"], indent=2).encode(),
        with_fields(event_time="2026-05-01T08:00:00.123+08:00", tz="Asia/Shanghai", category="美食😀", v=1),
        with_fields(new={"a": [1, 2.5, {"b": '\\"'}]}, other="\t", region=None, tags=[], channel="", continued=False),
        with_fields(experiments={"a": "x", "b": "y"}, topic="view", amount_minor=[], user_id="用户"),
    ],
)
def test_good_messages_need_no_judge(decoder: Decoder, monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(decode, "judge", None)
    assert decoder.decode("view", [raw] * 3, NOW_MS).frame.height == 3


def test_limits_are_honoured_by_both_ways() -> None:
    limits = Limits(
        max_id_bytes=3, max_other_id_bytes=9, max_text_bytes=4, max_tags=1, max_watch_ms=10, min_event_time=NOW_MS - 5
    )
    decoder = Decoder(ALL, limits)
    event = GOOD["view"] | {
        "event_time": NOW_MS,
        "watch_ms": 10,
        "tags": ["tagg"],
        "user_id": "uuu",
        "video_id": "v" * 9,
    }
    bad: list[dict[str, object]] = [
        {"watch_ms": 11},
        {"tags": ["a", "b"]},
        {"tags": ["taggg"]},
        {"user_id": "uuuu"},
        {"video_id": "v" * 10},
        {"event_time": NOW_MS - 6},
    ]
    values = [compact(event), *(compact(event | changed) for changed in bad)]
    reasons = ["out_of_range", "too_many_tags", "invalid_text", "invalid_id", "invalid_id", "time_too_old"]
    decoded = decoder.decode("view", values, NOW_MS)
    assert decoded.frame["row"].to_list() == [0]
    assert decoded.rejects["reason"].to_list() == reasons


def test_contract_is_whole() -> None:
    assert set(CODE) == set(OPTIONAL) | {"topic", "event_time"}
    for topic in TOPICS:
        assert REQUIRED[topic] <= ALLOWED[topic] <= set(CODE)


def test_polars_knows_every_zone() -> None:
    instant = pl.Series([0]).cast(pl.Datetime("ms", "UTC"))
    for name in zone_names():
        assert instant.dt.convert_time_zone(name).dtype == pl.Datetime("ms", name)


def test_a_home_that_cannot_be_written_only_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert not _can_keep_code()


def test_first_line_is_good(decoder: Decoder) -> None:
    start_ms = Limits().min_event_time
    frame = decoder.decode_lines([decode._FIRST_LINE % start_ms], start_ms).frame
    assert frame["tags"].to_list() == [["-"]]  # every column's code is run, so it is compiled


def test_no_batch_compiles_anew(decoder: Decoder) -> None:
    for values in ([compact(GOOD["view"])] * 2, [None, compact(GOOD["view"]), with_fields(user_id='"')]):
        decoder.decode("view", values, NOW_MS)
        decoder.decode_lines([value or b"" for value in values], NOW_MS)
    entries: list[Any] = [
        decode_scan.scan,
        decode_scan.scan_topics,
        decode_columns._measure,
        decode_columns._write_views,
        decode_columns._write_texts,
        decode_columns._gather_lists,
    ]
    assert [len(entry.signatures) for entry in entries] == [1] * len(entries)


def test_compiled_code_is_kept_between_processes(decoder: Decoder) -> None:
    program = (
        "from schemas.decode import Decoder; from schemas.events import Limits; from schemas.decode_scan import scan\n"
        "Decoder(frozenset(), Limits()); assert sum(scan.stats.cache_hits.values()) == 1, scan.stats"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
