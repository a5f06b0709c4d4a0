"""Figures for operators: every declared metric is there with its help, and health says what is wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import polars as pl
import pytest

from flows.broker import free_port
from flows.messages import Slice, SourceProgress
from flows.metrics import METRICS, EngineMetrics
from flows.operations import live, ready, served
from flows.standing import StandingBoard


def _progress(watermark: int) -> SourceProgress:
    return SourceProgress(0, watermark, idle=False, now=0, early=True, end=False, last_event_time=watermark)


def _now() -> int:
    return int(time.time() * 1000)


def test_every_metric_is_exported_with_its_help() -> None:
    text = EngineMetrics().text().decode()
    for metric in METRICS:
        name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        assert f"# HELP {metric.name} {metric.help}" in text, name
        assert metric.name.startswith("livepulse_")


def test_a_slice_counts_by_topic_and_reason() -> None:
    metrics = EngineMetrics()
    dead = pl.DataFrame({"reason": ["empty", "empty", "not_utf8"]})
    metrics.took(Slice(None, None, dead, np.array([[0, 0, 0, 10, 2, 3, 1], [1, 0, 0, 5, 0, 0, 0]])))
    text = metrics.text().decode()
    assert metrics.consumed == 15
    for line in (
        'livepulse_events_total{topic="view"} 10.0',
        'livepulse_events_total{topic="like"} 5.0',
        'livepulse_late_total{cause="bound"} 2.0',
        'livepulse_rejects_total{reason="empty"} 2.0',
        'livepulse_rejects_total{reason="not_utf8"} 1.0',
        "livepulse_filtered_total 1.0",
    ):
        assert line in text


def test_stray_keys_add_up() -> None:
    metrics = EngineMetrics()
    assert "livepulse_key_mismatches_total 0.0" in metrics.text().decode()
    for count in (2, 0, 3):
        metrics.mismatched(count)
    assert "livepulse_key_mismatches_total 5.0" in metrics.text().decode()


def test_an_epoch_lasts_until_a_partition_is_met_again() -> None:
    metrics = EngineMetrics()
    for name in ("a", "b", "a", "b", "a"):
        metrics.epoch(name)
    assert "livepulse_epoch_seconds_count 2.0" in metrics.text().decode()


def test_ready_names_what_is_wrong() -> None:
    metrics = EngineMetrics()
    assert ready(metrics, 60)["watermark"] is False  # nothing was read yet
    metrics.looped(_progress(_now() - 30_000))
    assert ready(metrics, 60)["ok"]
    metrics.retried()
    metrics.health.sink_down_since = time.monotonic() - 6
    assert (ready(metrics, 60)["ok"], ready(metrics, 60)["sink"]) == (False, False)
    metrics.inserted("events", 1, 0.1)
    assert ready(metrics, 60)["ok"]
    metrics.health.broker -= 31
    assert ready(metrics, 60)["source"] is False
    metrics.looped(_progress(_now() - 600_000))
    assert ready(metrics, 60)["watermark"] is False


def test_live_notices_a_dataflow_that_hangs() -> None:
    metrics = EngineMetrics()
    assert live(metrics)["ok"]
    metrics.health.looped -= 121
    assert not live(metrics)["ok"]


def test_a_worker_without_partitions_is_judged_by_what_its_shards_are_told() -> None:
    metrics = EngineMetrics()
    metrics.health.reads = False
    metrics.health.looped -= 121
    metrics.health.broker -= 121
    assert live(metrics)["ok"]  # no shards either: it has no work
    assert ready(metrics, 60)["ok"]
    metrics.folded(_progress(_now() - 30_000))
    assert live(metrics)["ok"]
    assert ready(metrics, 60)["ok"]
    metrics.health.looped -= 121
    assert not live(metrics)["ok"]
    metrics.folded(_progress(_now() - 600_000))
    assert live(metrics)["ok"]
    assert ready(metrics, 60)["watermark"] is False


def test_the_partitions_of_a_worker_that_has_some_tell_its_watermark() -> None:
    metrics = EngineMetrics()
    metrics.looped(_progress(_now() - 30_000))
    metrics.folded(_progress(_now() - 600_000))
    assert ready(metrics, 60)["ok"]


def test_served_on_loopback() -> None:
    metrics = EngineMetrics()
    metrics.looped(_progress(_now()))
    port = free_port()
    with served(port, metrics, 60) as at:
        assert at == port
        with urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
            assert json.load(answer)["ok"]
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"livepulse_events_total" in answer.read()
        metrics.health.looped -= 121
        with pytest.raises(HTTPError) as failed:
            urlopen(f"http://127.0.0.1:{port}/livez")
        assert failed.value.code == 503
        with served(port, metrics, 60) as second:
            assert second is None  # a taken port is a warning


def test_workers_stand_together(tmp_path: Path) -> None:
    StandingBoard.create(tmp_path / "standing", 2)
    boards = [StandingBoard(tmp_path / "standing", 2) for _ in range(3)]
    for worker, (consumed, watermark) in enumerate(((10, 2_000), (20, 1_000))):
        metrics = EngineMetrics()
        metrics.consumed = consumed
        assert boards[2].read().watermark is None
        metrics.looped(_progress(watermark))
        metrics.lag = lambda: 7
        boards[worker].write(worker, metrics)
    standing = boards[2].read()
    assert (standing.events, standing.watermark, standing.lag) == (30, 1_000, 14)


def test_what_may_explain_a_fall_is_old_lag_and_a_store_that_stays_down(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = EngineMetrics()
    metrics.lag, old = lambda: 7, [1_000]
    metrics.lag_ms = lambda: old[0]
    metrics.retried()
    assert metrics.trouble() == (0, 0)  # a moment of both is nothing
    old[0] = 900_000
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    metrics.retried()
    assert metrics.trouble() == (7, 2)
    metrics.inserted("active_users", 1, 0.1)
    assert metrics.trouble() == (7, 0)
