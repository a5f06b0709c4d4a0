"""Kafka deletes messages before the engine has read them: refused, and gone on only where a person accepts the loss."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from flows.broker import Broker
from tests.faults.conftest import Begin, long
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, produce, total

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(300)]
Engine = Callable[..., EngineProcess]
Topics = Callable[..., object]
LANE = ("view", 1)
FLAGS = ("--idle-timeout", "2s")


def expire(kafka: Broker, prefix: str, traffic: Traffic, below: int) -> None:
    """Let Kafka delete what is below an offset of one partition, as its retention does."""
    place = TopicPartition(prefix + LANE[0], LANE[1], below)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    assert admin.delete_records([place])[place].result(30).low_watermark == below


def accept(process: EngineProcess, traffic: Traffic, wanted: int, found: int) -> None:
    """Start with the flag: what is left counts as the oracle says, and the gap is on record, once."""
    lost = found - wanted
    log = traffic.log[LANE]
    traffic.log[LANE] = [message for message in log if not wanted <= message.offset < found]
    began = time.monotonic()
    process.flags = (*FLAGS, "--accept-loss")
    process.start()
    process.until(lambda: process.consumed() == total(traffic))
    agree(process, traffic)
    took = time.monotonic() - began
    recorded = process.rows("SELECT topic, partition, wanted_offset, found_offset FROM livepulse.accepted_losses")
    assert [tuple(row.values()) for row in recorded] == [(*LANE, wanted, found)]
    print(f"\n{lost} messages expired, accepted and recorded; the other {total(traffic):,} right {took:.1f} s later")
    assert process.stop() == 0
    process.flags = FLAGS  # what was accepted is past: the next start needs no flag
    said = process.said().count('"reading"')
    process.start()
    process.until(lambda: process.said().count('"reading"') > said)
    assert process.stop() == 0


@long
def test_expired_while_it_was_down(kafka: Broker, begin: Begin, topic_prefix: str, engine: Engine) -> None:
    process = engine(*FLAGS)
    traffic = begin(process, 2_000)
    assert process.stop() == 0
    wanted = len(traffic.log[LANE])
    produce(kafka.address, topic_prefix, traffic, 2_000)
    found = len(traffic.log[LANE]) - 10
    expire(kafka, topic_prefix, traffic, found)
    began = time.monotonic()
    process.start()
    assert process.wait(60) == 1
    took = time.monotonic() - began
    said = process.said()
    assert f"the next offset to read is {wanted}, but Kafka's log starts at {found}" in said, said[-3000:]
    assert "--accept-loss" in said
    print(f"\nrefused {took:.1f} s after its start")
    assert process.rows("SELECT * FROM livepulse.accepted_losses") == []
    accept(process, traffic, wanted, found)


@long
def test_expired_while_it_runs(kafka: Broker, begin: Begin, topic_prefix: str, engine: Engine) -> None:
    """The engine stands still (SIGSTOP) while retention overtakes it, and stops by itself when it goes on."""
    process = engine(*FLAGS)
    traffic = begin(process, 2_000)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        wanted = len(traffic.log[LANE])
        produce(kafka.address, topic_prefix, traffic, 2_000)
        found = len(traffic.log[LANE]) - 10
        expire(kafka, topic_prefix, traffic, found)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    began = time.monotonic()
    assert process.wait(60) == 1, process.said()[-3000:]
    took = time.monotonic() - began
    said = process.said()
    print(f"\nstopped {took:.1f} s after retention overtook it")
    assert "retention overtook the engine" in said, said[-3000:]
    assert "--accept-loss" in said
    assert "this is a bug" not in said
    process.start()
    assert process.wait(60) == 1
    assert f"the next offset to read is {wanted}, but Kafka's log starts at {found}" in process.said()
    accept(process, traffic, wanted, found)
