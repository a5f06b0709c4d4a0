"""A full disk under recovery, store or temporary directory: a clear stop within seconds, and with room all is right."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.broker import Broker
from sinks import embedded
from sinks.clickhouse import Store, StoreError
from tests.faults.conftest import SEED, long
from tests.faults.disk import Disk
from tests.faults.test_store_faults import CORE
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(300)]
Topics = Callable[..., object]
ROOM = re.compile(r"[Mm]ake room")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk; what runs on it ends before it goes."""
    made = Disk(tmp_path / "disk", 96)
    yield made
    made.close()


@pytest.fixture
def engine(disk: Disk, tmp_path: Path, topic_prefix: str, kafka: Broker) -> Iterator[Callable[..., EngineProcess]]:
    """`engine(store, *flags)`: one with a store of its own."""
    made: list[EngineProcess] = []

    def make(store: Path, *flags: str) -> EngineProcess:
        made.append(EngineProcess(kafka.address, topic_prefix, store, "--idle-timeout", "2s", *flags))
        return made[-1]

    yield make
    for process in made:
        if process.running:
            process.kill()


def test_an_insert_without_room_is_refused(disk: Disk) -> None:
    """chDB's own insert calls said that all was well, and the rows were nowhere."""
    up = embedded.start(disk.path, die_with_parent=True)
    try:
        store = Store.connect(up.url, up.user, up.token)
        store.migrate()
        store.record_loss("view", 0, 1, 2)
        disk.fill()
        with pytest.raises(StoreError, match="NOT_ENOUGH_SPACE"):
            store.record_loss("view", 0, 3, 4)
        disk.make_room()
        store.record_loss("view", 0, 5, 6)
        found = store.query("SELECT wanted_offset FROM livepulse.accepted_losses ORDER BY wanted_offset")
        assert [row["wanted_offset"] for row in found] == [1, 5]
    finally:
        up.stop()


@long
@pytest.mark.parametrize("under", ["recovery", "store"])
def test_full_under(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Callable[..., EngineProcess], disk: Disk,
    tmp_path: Path, under: str,
) -> None:  # fmt: skip
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.5))
    produce(kafka.address, topic_prefix, traffic, 2_000)
    recovery, store = tmp_path / "recovery", tmp_path / "store"
    if under == "recovery":
        recovery = disk.path / "recovery"
    else:
        store.symlink_to(disk.path)  # its log stays on the other disk
    process = engine(store, "--recovery-dir", str(recovery))
    process.start()
    process.until(lambda: process.consumed() == 2_000)
    began = time.monotonic()
    for _ in range(6):
        disk.fill()  # merges of parts would make room
        produce(kafka.address, topic_prefix, traffic, 1_000)
    while not process.dies_within(0.2) and time.monotonic() < began + 60:
        disk.fill()
    assert not process.running, process.said()[-3000:]
    took = time.monotonic() - began
    said = process.said()
    assert process.wait(1) == 1
    assert took < 30
    assert ROOM.search(said), said[-3000:]
    disk.fill()
    process.start()
    assert process.dies_within(60), process.said()[-3000:]
    assert ROOM.search(process.said()[len(said) :]), process.said()[len(said) :]
    disk.make_room()
    process.start()
    began = time.monotonic()
    process.until(lambda: process.consumed() == 8_000)
    agree(process, traffic)
    print(
        f"\nfull under {under}: stopped {took:.1f} s after; with room: right {time.monotonic() - began:.1f} s after the start"
    )
    assert process.stop() == 0


@long
def test_full_under_the_temporary_directory(
    kafka: Broker, topics: Topics, topic_prefix: str, engine: Callable[..., EngineProcess], disk: Disk, tmp_path: Path
) -> None:
    """Nothing that runs needs it."""
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.5))
    produce(kafka.address, topic_prefix, traffic, 2_000)
    disk.fill()
    process = engine(tmp_path / "store")
    process.environment = {"TMPDIR": str(disk.path)}
    process.start()
    process.until(lambda: process.consumed() == 2_000)
    produce(kafka.address, topic_prefix, traffic, 6_000)
    process.until(lambda: process.consumed() == 8_000)
    agree(process, traffic)
    assert process.stop() == 0
    process.start()
    agree(process, traffic)
    assert process.stop() == 0
