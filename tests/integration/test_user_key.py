"""With a user key no user id is in anything that LivePulse writes: store, recovery, log, Kafka's dead letters."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from flows.broker import Broker
from tests.integration.engine_process import EngineProcess
from tests.integration.test_dead_letters import letters_in

pytestmark = pytest.mark.integration
MARK = b"private-person"


def messages() -> list[bytes]:
    now = int(time.time() * 1000)
    view = {"surface": "video", "video_id": "v", "creator_id": "c", "watch_ms": 1}
    good = [
        view | {"event_id": f"e{n}", "event_time": now - n, "user_id": f"private-person-{n % 7}"} for n in range(300)
    ]
    late = good[0] | {"event_id": "late", "event_time": now - 3_600_000}
    bad = good[1] | {"event_id": "bad", "watch_ms": -1}
    other = {name.replace("user_id", "User_Id"): value for name, value in good[2].items()}
    deep = json.dumps(good[3])[:-1] + ',"x":' + "[" * 300 + "]" * 300 + "}"
    return [*(json.dumps(e).encode() for e in (*good, late, bad, other)), deep.encode(), MARK + b" no json"]


def test_no_user_id_is_anywhere(
    any_kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, store_dir: Path, tmp_path: Path
) -> None:
    topics(any_kafka, names=("view", "like", "gift", "order"))
    key = tmp_path / "user.key"
    key.write_bytes(b"0123456789abcdef-key")
    producer = Producer({"bootstrap.servers": any_kafka.address})
    sent = messages()
    for value in sent:
        producer.produce(topic_prefix + "view", value, partition=0)
    assert producer.flush(15) == 0
    process = EngineProcess(
        any_kafka.address, topic_prefix, store_dir, "--idle-timeout", "2s", "--user-key-file", str(key)
    )
    process.start()
    try:
        process.until(lambda: process.consumed() == len(sent))
        process.until(lambda: bool(process.rows("SELECT 1 FROM livepulse.dead_letters")))
        users = process.rows(
            "SELECT uniqExact(user_id) AS n, countIf(startsWith(user_id, 'h1:')) AS h, count() AS c "
            "FROM livepulse.events"
        )
        assert (users[0]["n"], users[0]["h"]) == (7, users[0]["c"])
        for view in ("events", "late_events", "dead_letters"):
            rows = process.rows(f"SELECT * FROM livepulse.{view}")
            assert rows
            assert MARK.decode() not in str(rows)
        found = letters_in(any_kafka, topic_prefix + "livepulse.dead_letters")
        assert {headers["reason"] for headers, _ in found} == {
            "out_of_range", "missing_field", "too_deep", "invalid_json"
        }  # fmt: skip
        assert MARK.decode() not in str(found)
        assert process.stop() == 0
    finally:
        if process.running:
            process.kill()
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != key]
    assert len(written) > 50
    assert [path for path in written if MARK in path.read_bytes()] == []
