"""The store refuses, stalls, loses replies; a disk is full: nothing is lost or counted twice."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.broker import Broker
from sinks.embedded import Embedded
from tests.faults.conftest import SEED, Begin, long
from tests.faults.proxy import Proxy
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce, total
from tests.oracles.log import judge

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(900 if os.environ.get("SOAK") else 300)]
OUTAGE_SECONDS = 600 if os.environ.get("SOAK") else 30
CORE = ("view", "like", "gift", "order")


@pytest.fixture
def proxy(up: Embedded) -> Iterator[Proxy]:
    between = Proxy(up.url)
    yield between
    between.close()


@pytest.fixture
def served(engine: Callable[..., EngineProcess], proxy: Proxy, up: Embedded, tmp_path: Path) -> EngineProcess:
    """An engine that knows the store as a server behind the proxy."""
    secret = tmp_path / "token"
    secret.write_text(up.token)
    flags = ("--store", proxy.url, "--store-user", up.user, "--store-password-file", str(secret))
    return engine(*flags, "--recovery-dir", str(tmp_path / "recovery"), "--idle-timeout", "2s")


@pytest.mark.parametrize("mode", ["lose", *(pytest.param(mode, marks=long) for mode in ("down", "refuse", "stall"))])
def test_a_store_that_fails_for_a_while(
    kafka: Broker, begin: Begin, topic_prefix: str, served: EngineProcess, proxy: Proxy, mode: str
) -> None:
    traffic = begin(served, 2_000)
    proxy.mode = mode
    produce(kafka.address, topic_prefix, traffic, 4_000)
    time.sleep(4 if mode == "lose" else 12)
    if mode != "lose":
        assert served.asked("/livez")[0] == 200
        assert served.asked("/readyz")[0] == 503
    proxy.mode = "pass"
    began = time.monotonic()
    served.until(lambda: served.consumed() == 6_000)
    agree(served, traffic)
    took = time.monotonic() - began
    print(f"\n{mode}: {proxy.lost} replies lost, {proxy.refused} calls refused; all there {took:.1f} s later")
    assert proxy.lost or mode != "lose"
    assert served.metric("livepulse_sink_retries_total") > 0 or mode == "stall"  # it waits for the answer
    assert served.stop() == 0


@long
@pytest.mark.parametrize("mode", ["refuse", "stall"])
def test_an_outage_of_ten_minutes(
    kafka: Broker, topics: Callable[..., object], topic_prefix: str, served: EngineProcess, proxy: Proxy, mode: str
) -> None:
    """The backlog of ten minutes; the outage itself lasts 30 s, or with SOAK=1 the ten minutes. A bounded memory."""
    topics(kafka, names=CORE)
    served.flags = (*served.flags, "--idle-timeout", "15min")
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.5))
    produce(kafka.address, topic_prefix, traffic, 5_000, step_ms=4)
    served.start()
    served.until(lambda: served.consumed() >= 5_000)
    before = resident_mb(served.pid, "VmRSS")
    proxy.mode = mode
    began = time.monotonic()
    for minute in range(10):
        produce(kafka.address, topic_prefix, traffic, 15_000, step_ms=4)
        time.sleep(max(0.0, began + (minute + 1) * OUTAGE_SECONDS / 10 - time.monotonic()))
        assert served.running, served.said()[-3000:]
        assert served.asked("/livez")[0] == 200
    assert served.asked("/readyz")[0] == 503, mode
    during = resident_mb(served.pid, "VmHWM")
    down, proxy.mode, began = time.monotonic() - began, "pass", time.monotonic()
    served.until(lambda: served.consumed() == total(traffic))
    took, peak = time.monotonic() - began, resident_mb(served.pid, "VmHWM")
    assert served.stop() == 0
    served.flags = (*served.flags, "--idle-timeout", "2s")  # the end of the traffic closes what is open
    served.start()
    agree(served, traffic)
    late = served.rows("SELECT count() AS n FROM livepulse.late_events")[0]["n"]
    should = sum(tally["late"] for tally in judge(traffic.log).counts.values())
    print(
        f"\n{mode} for {down:.0f} s, 150,000 messages: caught up {took:.1f} s later; resident before {before:.0f} MB, "
        f"peak while down {during:.0f} MB, at catch-up {peak:.0f} MB; late events {late}, of the log {should}"
    )
    assert late == should
    assert during - before < 400
    assert peak - before < 800


def resident_mb(pid: int, figure: str) -> float:
    """VmRSS or VmHWM of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(figure))
    return int(line.split()[1]) / 1024


@long
def test_sigterm_while_the_store_is_down(
    kafka: Broker, begin: Begin, topic_prefix: str, served: EngineProcess, proxy: Proxy
) -> None:
    traffic = begin(served, 1_000)
    proxy.mode = "refuse"
    produce(kafka.address, topic_prefix, traffic, 1_000)
    served.until(lambda: served.metric("livepulse_sink_retries_total") > 2)
    began = time.monotonic()
    code = served.stop()
    took = time.monotonic() - began
    assert "stopped while the store" in served.said(), served.said()[-2000:]
    proxy.mode = "pass"
    served.start()
    served.until(lambda: served.consumed() == 2_000)
    agree(served, traffic)
    print(f"\nSIGTERM while the store was down: {took:.1f} s, exit code {code}; then all was read again")
    assert (code, took < 10) == (3, True)


@long
def test_disk_full_under_the_recovery_directory(
    kafka: Broker, topics: Callable[..., object], topic_prefix: str, engine: Callable[..., EngineProcess]
) -> None:
    topics(kafka, names=CORE)
    traffic = Traffic(seed=SEED, start_ms=hours_ago(0.5))
    produce(kafka.address, topic_prefix, traffic, 6_000)
    process = engine("--idle-timeout", "2s")
    plain = process.program
    process.program = ["bash", "-c", 'ulimit -f 100; exec "$@"', "--", *plain]  # KiB: state grows beyond it
    process.start()
    assert process.dies_within(90), process.said()[-2000:]
    assert process.wait(1) != 0
    assert re.search(r"disk|space|File too large|EFBIG|full", process.said()), process.said()[-2000:]
    process.program = plain
    process.start()
    process.until(lambda: process.consumed() == 6_000)
    agree(process, traffic)


@long
@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "bytewax", "sqlite cut", "sqlite empty"])
def test_a_damaged_recovery_directory_is_refused(
    begin: Begin, engine: Callable[..., EngineProcess],
    store_dir: Path, damage: str,
) -> None:  # fmt: skip
    process = engine("--idle-timeout", "2s")
    begin(process, 1_000)
    assert process.stop() == 0
    rows = process.rows("SELECT count() AS n FROM livepulse.events")
    recovery = store_dir / "recovery"
    state = max((recovery / "state").glob("shard-00*.log"), key=lambda path: path.stat().st_size)
    blob = state.read_bytes()
    match damage:
        case "cut":
            state.write_bytes(blob[: len(blob) // 2])
        case "flip":
            middle = len(blob) // 2
            state.write_bytes(blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :])
        case "missing":
            state.unlink()
        case "bytewax":
            for path in (recovery / "bytewax").iterdir():
                path.unlink()
        case _:
            (path,) = (recovery / "bytewax").glob("*.sqlite3")
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "sqlite cut" else b"")
            for beside in (recovery / "bytewax").glob("*-wal"):
                beside.unlink()
    process.start()
    assert process.wait(60) == 1
    assert re.search(r"damaged|missing|lost its bytewax", process.said()), process.said()[-2000:]
    assert process.rows("SELECT count() AS n FROM livepulse.events") == rows
