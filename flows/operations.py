"""What operators ask the engine over HTTP, on loopback unless told otherwise: /livez, /readyz, /metrics, /targets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import orjson
import structlog
from prometheus_client import CONTENT_TYPE_LATEST

from flows.metrics import EngineMetrics

log = structlog.get_logger()

_STUCK_SECONDS: Final = 120.0
_BROKER_SECONDS: Final = 30.0  # it is asked every 10 s
_SINK_SECONDS: Final = 5.0
_WATERMARK_SLACK_SECONDS: Final = 60.0


def live(metrics: EngineMetrics) -> dict[str, object]:
    """Whether the dataflow goes on, waits for a store that is down (a restart would not cure that), or has no work."""
    health = metrics.health
    silent = time.monotonic() - health.looped
    waits = health.sink_down_since is not None or health.idle
    return {"ok": silent < _STUCK_SECONDS or waits, "dataflow_silent_s": round(silent, 1)}


def ready(metrics: EngineMetrics, watermark_age_max_s: float) -> dict[str, object]:
    """Whether figures are fresh: broker and store answer, and the watermark is as near as it gets."""
    now, health = time.monotonic(), metrics.health
    age = metrics.watermark_age()
    down = now - health.sink_down_since if health.sink_down_since is not None else 0.0
    checks = {
        "source": now - health.broker < _BROKER_SECONDS or not health.reads,
        "sink": down < _SINK_SECONDS,
        "watermark": health.idle or (age is not None and age < watermark_age_max_s + _WATERMARK_SLACK_SECONDS),
    }
    return {
        "ok": all(checks.values()),
        **checks,
        "broker_silent_s": round(now - health.broker, 1),
        "sink_down_s": round(down, 1),
        "watermark_age_s": None if age is None else round(age, 1),
        "lag": metrics.lag(),
    }


@contextmanager
def served(
    port: int,
    metrics: EngineMetrics,
    watermark_age_max_s: float,
    host: str = "127.0.0.1",
    ports: Sequence[int] = (),
) -> Iterator[int | None]:
    """Answer on `host`:`port` while the block runs; the port, or None when there is none (0) or it is taken.

    `ports`: of all workers. /targets lists them under the name that the asker used (Prometheus: `http_sd_configs`).
    """
    if port == 0:
        yield None
        return

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            match path:
                case "/livez" | "/readyz":
                    told = live(metrics) if path == "/livez" else ready(metrics, watermark_age_max_s)
                    status = HTTPStatus.OK if told["ok"] else HTTPStatus.SERVICE_UNAVAILABLE
                    self._send(status, "application/json", orjson.dumps(told))
                case "/metrics":
                    self._send(HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics.text())
                case "/targets":
                    listed = _targets(self.headers.get("Host", ""), host, ports or (port,))
                    self._send(HTTPStatus.OK, "application/json", orjson.dumps(listed))
                case _:
                    self._send(HTTPStatus.NOT_FOUND, "text/plain", b"/livez, /readyz, /metrics, /targets are here\n")

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Scrapes are no news."""

    Answers.timeout = 10  # a client that says nothing must not hold a thread
    try:
        server = ThreadingHTTPServer((host, port), Answers)
    except OSError as error:
        log.warning(
            "no /metrics: the port cannot be had", host=host, port=port, error=error.strerror, fix="set metrics_port"
        )
        yield None
        return
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="operations", daemon=True).start()
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()


def _targets(asked: str, host: str, ports: Sequence[int]) -> list[dict[str, list[str]]]:
    """All workers, as Prometheus wants to hear of them, under the name by which it reached this one."""
    name = asked.rpartition(":")[0] or host
    return [{"targets": [f"{name}:{port}" for port in ports]}]
