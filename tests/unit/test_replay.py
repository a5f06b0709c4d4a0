"""Replay: what is published, in which order, at which pace. The broker is librdkafka's mock."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from flows.broker import MockBroker
from flows.errors import Usage
from flows.replay import ReplayOptions, parsed, replay, surveyed
from flows.simulate import Options, Progress, simulate_to_kafka
from schemas.events import TOPICS

Message = tuple[str, int, bytes | None, bytes]
START = 1_767_600_000_000


def view(user: str, at_ms: int, **more: object) -> dict[str, object]:
    return {"topic": "view", "event_id": f"{user}-{at_ms}", "event_time": START + at_ms, "user_id": user, **more}


@contextmanager
def mock(prefix: str = "") -> Iterator[MockBroker]:
    """A broker that has the topics (the mock cannot be asked to make them by the way of a real one)."""
    with MockBroker() as broker:
        broker.create_topics(prefix + topic for topic in TOPICS)
        yield broker


def write(path: Path, events: Sequence[dict[str, object] | str]) -> Path:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    text = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def consumed(address: str, prefix: str = "") -> list[Message]:
    """Topic, partition, key, value of everything in the contract's topics."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "t", "enable.auto.commit": False, "log_level": 0})
    everywhere = [TopicPartition(prefix + topic, partition, 0) for topic in TOPICS for partition in range(4)]
    left = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in everywhere)
    consumer.assign(everywhere)
    found: list[Message] = []
    while len(found) < left:
        message = consumer.poll(10)
        assert message is not None
        assert message.error() is None
        topic, partition = str(message.topic()).removeprefix(prefix), message.partition()
        assert partition is not None
        found.append((topic, partition, message.key(), message.value() or b""))
    consumer.close()
    return sorted(found, key=lambda m: m[0])


def test_events_arrive_whole_without_topic_keyed_and_in_order_of_user(tmp_path: Path) -> None:
    recorded = [view(f"u{i % 5}", i * 10, watch_ms=i, category="食物") for i in range(200)]
    recorded[7]["topic"] = "like"
    half = [write(tmp_path / "a.ndjson", recorded[::2]), write(tmp_path / "b.ndjson.gz", recorded[1::2])]
    with mock("x.") as broker:
        counts = replay(half, broker.address, ReplayOptions(speed=None, topic_prefix="x."), threading.Event())
        found = consumed(broker.address, "x.")
    assert counts.published == {"view": 199, "like": 1}
    assert (counts.lines, counts.unroutable, counts.done) == (200, 0, 1.0)
    for user in {str(event["user_id"]) for event in recorded}:
        mine = [(t, json.loads(v)) for t, _, k, v in found if k == user.encode() and t == "view"]
        wanted = [
            {k: v for k, v in e.items() if k != "topic"}
            for e in recorded
            if e["user_id"] == user and e["topic"] == "view"
        ]
        assert [event for _, event in mine] == wanted
        assert len({p for t, p, k, _ in found if k == user.encode() and t == "view"}) == 1


def test_pace_follows_event_time_and_speed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.ndjson", [view("u1", at) for at in (0, 30_000, 20_000, 60_000)])
    with mock() as broker:
        began = time.monotonic()
        replay([file], broker.address, ReplayOptions(speed=120.0), threading.Event())
        took = time.monotonic() - began
    assert 0.5 <= took < 3.0


def test_stop_ends_it_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.ndjson", [view("u1", at) for at in (0, 3_600_000)])
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with mock() as broker:
        began = time.monotonic()
        counts = replay([file], broker.address, ReplayOptions(speed=1.0), stop)
    assert time.monotonic() - began < 5
    assert counts.published.total() == 1


@pytest.mark.parametrize("anchor", ["start", "end"])
def test_shift_moves_every_time_alike_and_keeps_its_form(tmp_path: Path, anchor: str) -> None:
    texts = [START, "2026-01-05T16:00:00.250+08:00", START + 500]
    events = [{**view("u1", 0), "event_id": str(i), "event_time": text} for i, text in enumerate(texts)]
    file = write(tmp_path / "a.ndjson", events)
    options = ReplayOptions(speed=1.0, shift_to_now=anchor)  # type: ignore[arg-type]
    with mock() as broker:
        before = time.time() * 1000
        replay([file], broker.address, options, threading.Event())
        found = [json.loads(value)["event_time"] for _, _, _, value in consumed(broker.address)]
    assert isinstance(found[0], int)
    assert isinstance(found[1], str)
    assert found[1].endswith("+08:00")
    assert found[2] - found[0] == 500
    first = found[0] if anchor == "start" else found[0] + 500
    assert before - 1 <= first < before + 10_000


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b'{"topic":"view","n":18446744073709551616}', b'{"n": 18446744073709551616}'),
        (b'{"topic":"view","n":NaN}', b'{"n": NaN}'),
        (b'{"topic":"view","t":"\\ud800"}', b'{"t": "\\ud800"}'),
        ('{"topic":"view","t":"\u98df"}'.encode(), '{"t":"\u98df"}'.encode()),
    ],
)
def test_bad_values_are_published_as_bad_as_they_are(tmp_path: Path, line: bytes, kept: bytes) -> None:
    (tmp_path / "a.ndjson").write_bytes(line + b"\n")
    with mock() as broker:
        replay([tmp_path / "a.ndjson"], broker.address, ReplayOptions(speed=None), threading.Event())
        assert [value for _, _, _, value in consumed(broker.address)] == [kept]


@pytest.mark.parametrize(
    "line", [b"", b"null", b"[1]", b'{"event_id":"a"}', b'{"topic":"views"}', b'{"topic":["view"]}', b"\xff"]
)
def test_lines_without_a_topic_are_counted_and_left_out(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a.ndjson").write_bytes(line + b"\n" + json.dumps(view("u1", 0)).encode() + b"\n")
    with mock() as broker:
        counts = replay([tmp_path / "a.ndjson"], broker.address, ReplayOptions(speed=None), threading.Event())
    assert (counts.unroutable, counts.published.total()) == (1, 1)


def test_survey_finds_the_span(tmp_path: Path) -> None:
    file = write(tmp_path / "a.ndjson", [view("u1", 5), "rubbish", view("u1", 1), view("u1", 9)])
    survey = surveyed([file], times=True)
    assert (survey.lines, survey.first, survey.last) == (4, START + 1, START + 9)


def test_due_never_goes_back() -> None:
    line = json.dumps(view("u1", 0)).encode()
    recorded = parsed(line, START + 100)
    assert recorded is not None
    assert recorded.due == START + 100


@pytest.mark.parametrize("wrong", [{"speed": 0.0}, {"speed": -1.0}, {"speed": 60.0, "shift_to_now": "start"}])
def test_impossible_options_fail_when_they_are_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"speed|future"):
        ReplayOptions(**wrong)  # type: ignore[arg-type]


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="no such file"):
        replay([tmp_path / "none"], "127.0.0.1:1", ReplayOptions(), threading.Event())


def test_simulation_reaches_kafka_as_its_truth_says() -> None:
    options = Options(rate=500.0, events=4_000, paced=False, drain=False, users=300, videos=100, creators=20, topics=50)
    with mock() as broker:
        truth = simulate_to_kafka(broker.address, options, threading.Event())
        found = consumed(broker.address)
    assert len(found) == truth.totals["consumed"] == 4_000
    sent: dict[tuple[str, int], int] = {}
    for topic, partition, _, _ in found:
        sent[topic, partition] = sent.get((topic, partition), 0) + 1
    assert sent == {(row["topic"], row["partition"]): row["consumed"] for row in truth.partitions.to_dicts()}


def test_live_simulation_keeps_the_clocks_pace_and_never_sends_the_future() -> None:
    options = Options(
        rate=400.0,
        duration_s=1.0,
        history_s=20.0,
        daily_curve=False,
        bad_share=0.0,
        users=300,
        videos=100,
        creators=20,
        topics=50,
    )
    with mock() as broker:
        seen: list[Progress] = []
        began = time.time()
        truth = simulate_to_kafka(broker.address, options, threading.Event(), seen.append)
        took = time.time() - began
        times = [json.loads(v)["event_time"] for _, _, _, v in consumed(broker.address)]
    assert 0.9 < took < 5
    assert truth.totals["consumed"] > 300
    assert max(t for t in times if t < 4_000_000_000_000) <= time.time() * 1000
    assert seen[-1].live
    assert not seen[0].live
