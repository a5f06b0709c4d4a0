"""Reading partition by partition: who is ahead waits in the log, nothing is lost, doubled or out of order."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import partial

import pytest
from confluent_kafka import Producer, TopicPartition

from flows import kafka_feed
from flows.broker import Broker
from flows.families import part_builder, time_bounds
from flows.intake import AlignmentBoard, Intake, Standing
from flows.kafka_batch import Batch, BatchReader, Run, _library
from flows.kafka_feed import KafkaFeed, lane_name
from flows.kafka_start import log_ends, make_consumer
from flows.messages import MIN_TIME
from flows.settings import Settings
from flows.worker import now_ms

MESSAGES = 3_000
SHARE, BATCH = 1_000, 500
AHEAD, BEHIND = lane_name("view", 0), lane_name("view", 1)


def view(number: int, event_time: int) -> bytes:
    """A view as the contract has it."""
    return (
        f'{{"event_id":"e{number}","event_time":{event_time},"user_id":"u","surface":"video","video_id":"v",'
        f'"creator_id":"c","category":"c","tags":["t"],"watch_ms":1}}'
    ).encode()


def test_a_partition_that_is_ahead_is_read_up_to_its_share_and_paused_until_its_turn(
    kafka: Broker, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_feed, "_SPARSE_MESSAGES", 2 * SHARE)
    monkeypatch.setattr(kafka_feed, "_HOUSEKEEPING_SECONDS", 0.05)
    monkeypatch.setattr(kafka_feed, "_DISCOVERY_SECONDS", 0.1)
    monkeypatch.setattr("flows.intake._SPARSE_ROUND", SHARE)
    kafka.create_topics([topic_prefix + "view"], 2)
    settings = Settings(brokers=kafka.address, topic_prefix=topic_prefix, group=topic_prefix)
    bounds = time_bounds(settings)
    start, step = now_ms() - 10 * MESSAGES * bounds.alignment, bounds.alignment // SHARE
    producer = Producer({"bootstrap.servers": kafka.address, "linger.ms": 5})
    for number in range(MESSAGES):  # a tenth of the rate: a share is ten times the alignment
        producer.produce(topic_prefix + "view", view(number, start + 10 * step * number), partition=0)
    for number in range(10 * MESSAGES):
        producer.produce(topic_prefix + "view", view(MESSAGES + number, start + step * number), partition=1)
        producer.poll(0)
    producer.flush()
    intake = Intake(bounds, AlignmentBoard(None, 0, 1), 0, follow_clock=True)
    consumer = make_consumer(settings, 2)
    feed = KafkaFeed(
        consumer, intake, part_builder(settings), prefix=topic_prefix, batch_messages=BATCH, max_waiting=20_000,
        known=frozenset(), discover=frozenset, log_ends=partial(log_ends, settings), clock=now_ms,
    )  # fmt: skip
    try:
        for number in (0, 1):
            feed.add("view", number, 0, MIN_TIME)
        paused = _take_all(intake, lambda: _check(feed, intake))
        assert paused
        assert feed._paused_ends[AHEAD] == MESSAGES  # no fetch told of it meanwhile
        _until(lambda: feed.lag == 0)
        assert feed.failure is None
        assert intake.positions() == {
            AHEAD: (MESSAGES, start + 10 * step * (MESSAGES - 1)),
            BEHIND: (10 * MESSAGES, start + step * (10 * MESSAGES - 1)),
        }
    finally:
        feed.close()


def _check(feed: KafkaFeed, intake: Intake) -> bool:
    """Whether the partition that is ahead is paused; never does much more than its share wait of it."""
    if feed.failure is not None:
        raise feed.failure
    assert intake.waiting()[AHEAD] < SHARE + BATCH  # a batch may run ahead that begins in step
    if AHEAD in feed._paused:  # it stays so while nothing is taken: long enough to ask for its end
        _until(lambda: AHEAD in feed._paused_ends or AHEAD not in feed._paused)
        return True
    return False


def _take_all(intake: Intake, check: Callable[[], bool]) -> bool:
    """Take until both partitions are at their ends, in order and in step; whether one was paused meanwhile."""
    give_up, paused, at = time.monotonic() + 120, False, {AHEAD: 0, BEHIND: 0}
    while at != {AHEAD: MESSAGES, BEHIND: 10 * MESSAGES}:
        assert time.monotonic() < give_up, at
        intake.open_round()
        for name in (AHEAD, BEHIND):
            while (taken := intake.take(name, 2_000, now_ms())) is not None:
                assert taken.frame is not None
                offsets = taken.frame["offset"].to_list()
                assert offsets == list(range(at[name], at[name] + len(offsets)))
                at[name] += len(offsets)
        paused |= check()
        time.sleep(0.05)  # so that the one that is behind takes some seconds
    return paused


def test_what_was_fetched_of_a_paused_partition_is_let_go_and_read_again(kafka: Broker, topic_prefix: str) -> None:
    topic = topic_prefix + "view"
    kafka.create_topics([topic], 1)
    producer = Producer({"bootstrap.servers": kafka.address})
    for number in range(MESSAGES):
        producer.produce(topic, view(number, now_ms()), partition=0)
    producer.flush()
    consumer = make_consumer(Settings(brokers=kafka.address, topic_prefix=topic_prefix, group=topic_prefix), 1)
    reader = BatchReader(consumer, MESSAGES)
    consumer.incremental_assign([TopicPartition(topic, 0, 0)])
    reader.open(topic, TopicPartition(topic, 0))
    waiting = partial(_library.rd_kafka_queue_length, ctypes.c_void_p(reader._queues[topic]))
    read = partial(reader.read, wanted={topic: 300})
    try:
        offsets = _offsets(read, 300)
        _until(lambda: waiting() > SHARE)
        consumer.pause([TopicPartition(topic, 0)])
        reader.forget([topic])
        assert waiting() == 0
        time.sleep(0.3)
        assert waiting() == 0
        consumer.resume([TopicPartition(topic, 0)])
        offsets += _offsets(read, MESSAGES - 300)
        assert offsets == list(range(MESSAGES))
    finally:
        reader.close()
        consumer.close()


def test_what_must_wait_is_decoded_apart_and_long_runs_of_it_each_by_themselves() -> None:
    sizes = {"a": 5_000, "b": 10, "c": 10, "d": 20, "e": 2_000, "f": 3_000, "g": 1_999, "h": 10}
    runs = [Run(name, 0, 0, size, append_time=False) for name, size in sizes.items()]
    standing = [Standing(name, 0, 0, ahead=name in "cdefg") for name in sizes]
    assert [[run.topic for run in some] for some in kafka_feed._together(runs, standing)] == [
        ["a", "b"], ["c", "d"], ["e"], ["f"], ["g"], ["h"],
    ]  # fmt: skip


def test_less_than_half_a_batch_grows_while_it_may_wait(kafka: Broker, topic_prefix: str) -> None:
    topic = topic_prefix + "view"
    kafka.create_topics([topic], 1)
    consumer = make_consumer(Settings(brokers=kafka.address, topic_prefix=topic_prefix, group=topic_prefix), 1)
    reader = BatchReader(consumer, MESSAGES)
    consumer.incremental_assign([TopicPartition(topic, 0, 0)])
    reader.open(topic, TopicPartition(topic, 0))
    producer = Producer({"bootstrap.servers": kafka.address})

    def send(count: int) -> None:
        for number in range(count):
            producer.produce(topic, view(number, now_ms()), partition=0)
        producer.flush()
        _until(lambda: _library.rd_kafka_queue_length(ctypes.c_void_p(reader._queues[topic])) > 0)

    read, looks = partial(reader.read, 0.01, {topic: MESSAGES}), iter([True] * 20)
    try:
        assert read(lambda: True) is None  # nothing does not grow
        send(10)
        assert _offsets(lambda _: read(lambda: next(looks, False)), 10) == list(range(10))
        assert next(looks, None) is None  # for as long as it might
        send(MESSAGES // 2)
        half = read(lambda: True)  # and no longer than that
        assert half is not None
        assert half.offsets.tolist() == list(range(10, 10 + MESSAGES // 2))
    finally:
        reader.close()
        consumer.close()


def _offsets(read: Callable[[float], Batch | None], count: int) -> list[int]:
    found: list[int] = []
    give_up = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < give_up, found[-1:]
        batch = read(0.1)
        found += batch.offsets.tolist() if batch is not None else []
    return found


def _until(done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.01)
