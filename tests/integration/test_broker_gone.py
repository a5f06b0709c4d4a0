"""A broker that is not there is no reason to die: the reader waits, and the process lives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flows.broker import free_port
from tests.integration.engine_process import ROOT

pytestmark = pytest.mark.integration

READ = """
import sys
from confluent_kafka import TopicPartition
from flows.kafka_batch import BatchReader
from flows.kafka_start import make_consumer
from flows.settings import Settings
consumer = make_consumer(Settings(brokers=sys.argv[1]))
reader = BatchReader(consumer, 1000)
consumer.incremental_assign([TopicPartition("view", 0, 0)])
reader.open("view", TopicPartition("view", 0))
for _ in range(30):
    reader.read(0.1, {"view": 1000})
print("alive")
"""


def test_reading_outlives_a_broker_that_is_gone() -> None:
    """In a process of its own: the fault was an abort, in the library's error callback."""
    done = subprocess.run(
        [sys.executable, "-c", READ, f"127.0.0.1:{free_port()}"],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert "alive" in done.stdout, done.stderr[-2000:]
