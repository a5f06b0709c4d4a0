"""The whole way with real parts: an engine that dies, Debian's Prometheus and Alertmanager, and who is told."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from flows.broker import Broker, free_port
from tests.alerts.test_rules import ALERTMANAGER, PROMETHEUS, ROOT, RULES_FILE, tool, with_addresses
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, produce

pytestmark = pytest.mark.integration


class Webhook:
    """Takes what Alertmanager delivers: (receiver, status, alertname)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        told = self.told

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.extend((self.path[1:], one["status"], one["labels"]["alertname"]) for one in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    thread = threading.Thread(target=hook.server.serve_forever)
    thread.start()
    yield hook
    hook.server.shutdown()
    thread.join()
    hook.server.server_close()


@contextmanager
def running(command: list[str], log: Path, healthy: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        until(lambda: _answers(healthy), 30, log.read_text)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2):
            return True
    except OSError:
        return False


def until(done: Callable[[], object], seconds: float, why: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not after {seconds} s: {why()}"
        time.sleep(0.2)


@pytest.fixture
def alertmanager(tmp_path: Path, webhook: Webhook) -> Iterator[str]:
    """Debian's Alertmanager with our routes; waits are seconds, and nights are no time to test."""
    program = tool("prometheus-alertmanager", ALERTMANAGER)
    text = re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", with_addresses(webhook.address))
    text = re.sub(r"\n +mute_time_intervals: .*", "", text)
    (tmp_path / "alertmanager.yml").write_text(text)
    at = f"127.0.0.1:{free_port()}"
    command = [
        program, f"--config.file={tmp_path}/alertmanager.yml", f"--storage.path={tmp_path}/am",
        f"--web.listen-address={at}", "--cluster.listen-address=",
    ]  # fmt: skip
    with running(command, tmp_path / "alertmanager.log", f"http://{at}/-/ready"):
        yield at


@contextmanager
def prometheus(tmp_path: Path, engine: str, alertmanager: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Debian's Prometheus with our configuration and rules, every second instead of every 15; gives a query."""
    program = tool("prometheus", PROMETHEUS)
    at = f"127.0.0.1:{free_port()}"
    text = (ROOT / "deploy/prometheus.yml").read_text()
    for named, real in (("engine:9464", engine), ("alertmanager:9093", alertmanager), ("127.0.0.1:9090", at)):
        assert named in text
        text = text.replace(named, real)
    (tmp_path / "prometheus.yml").write_text(text.replace("15s", "1s"))
    rules = re.sub(r"\bfor: \w+", "for: 2s", RULES_FILE.read_text()).replace("interval: 15s", "interval: 1s")
    (tmp_path / "rules.yml").write_text(rules)

    def ask(expression: str) -> list[dict[str, Any]]:
        with urlopen(f"http://{at}/api/v1/query?query={quote(expression)}", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    command = [
        program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address={at}",
    ]  # fmt: skip
    with running(command, tmp_path / "prometheus.log", f"http://{at}/-/ready"):
        yield ask


def test_an_engine_that_dies_is_told_to_sre_and_so_is_its_return(
    any_kafka: Broker, topics: Callable[..., dict[str, str]], topic_prefix: str, store_dir: Path, tmp_path: Path,
    webhook: Webhook, alertmanager: str,
) -> None:  # fmt: skip
    topics(any_kafka)
    traffic = Traffic(seed=1, start_ms=int(time.time() * 1000) - 60_000)
    produce(any_kafka.address, topic_prefix, traffic, 2_000, step_ms=20)
    engine = EngineProcess(any_kafka.address, topic_prefix, store_dir)
    engine.start()
    try:
        engine.until(lambda: engine.metric("livepulse_events_total") >= 2_000)
        with prometheus(tmp_path, f"127.0.0.1:{engine.metrics_port}", alertmanager) as ask:
            scraped = "sum(livepulse_events_total{job='livepulse'})"
            until(lambda: ask(scraped) and float(ask(scraped)[0]["value"][1]) >= 2_000, 20, lambda: ask("up"))
            told = ("sre", "firing", "LivePulseEngineDown")
            assert told not in webhook.told
            engine.kill()
            until(lambda: told in webhook.told, 30, lambda: (webhook.told, ask("ALERTS"), ask("up")))
            engine.start()
            resolved = ("sre", "resolved", "LivePulseEngineDown")
            until(lambda: resolved in webhook.told, 90, lambda: (webhook.told, ask("up"), engine.said()[-2_000:]))
            assert not [one for one in webhook.told if one[0] != "sre"]
    finally:
        if engine.running:
            engine.stop()


def test_a_business_anomaly_is_told_to_operators_and_so_is_its_end(webhook: Webhook, alertmanager: str) -> None:
    labels = {
        "alertname": "LivePulseAnomaly",
        "route": "business",
        "severity": "critical",
        "series": "active_users.users",
    }

    def post(ends: datetime) -> None:
        began = datetime.now(UTC) - timedelta(minutes=1)
        alert = {"labels": labels, "startsAt": began.isoformat(), "endsAt": ends.isoformat(),
                 "annotations": {"summary": "active users fell to 40 (usually 900)"}}  # fmt: skip
        address, kind = f"http://{alertmanager}/api/v2/alerts", {"Content-Type": "application/json"}
        urlopen(Request(address, json.dumps([alert]).encode(), kind), timeout=5).close()

    post(datetime.now(UTC) + timedelta(minutes=4))  # as Grafana does, again and again while it fires
    until(lambda: webhook.told, 20, lambda: webhook.told)
    post(datetime.now(UTC))
    until(lambda: len(webhook.told) > 1, 20, lambda: webhook.told)
    assert webhook.told[0] == ("operators", "firing", "LivePulseAnomaly")
    assert webhook.told[-1] == ("operators", "resolved", "LivePulseAnomaly")


def test_a_fall_of_all_users_silences_that_of_the_live_rooms(alertmanager: str) -> None:
    """One event in two views, whose detectors cannot see each other. Another direction or route is another event."""
    fall = {"alertname": "LivePulseAnomaly", "dim": "all", "route": "business", "direction": "down"}
    rooms = "live_session_minutes.views"
    alerts = [
        fall | {"severity": "warning", "series": "active_users.events"},
        fall | {"severity": "warning", "series": rooms},
        fall | {"severity": "critical", "series": rooms},
        fall | {"severity": "warning", "series": rooms, "direction": "up"},
        fall | {"severity": "warning", "series": rooms, "route": "pipeline"},
        fall | {"severity": "warning", "series": rooms, "dim": "live_id", "value": "r1"},
    ]
    address, ends = f"http://{alertmanager}/api/v2/alerts", datetime.now(UTC) + timedelta(minutes=4)
    posted = json.dumps([{"labels": labels, "endsAt": ends.isoformat()} for labels in alerts]).encode()
    urlopen(Request(address, posted, {"Content-Type": "application/json"}), timeout=5).close()

    def told() -> list[dict[str, str]]:
        with urlopen(address, timeout=5) as answer:
            return [alert["labels"] for alert in json.load(answer) if not alert["status"]["inhibitedBy"]]

    until(lambda: len(told()) == len(alerts) - 1, 20, told)
    assert alerts[1] not in told()
