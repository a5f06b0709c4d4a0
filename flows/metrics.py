"""Every figure that the engine exports, stated once: name, kind, labels and meaning; and the object that counts them.

Counting is by batch, table and epoch, never by event. One `EngineMetrics` a process, handed to what counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flows.messages import MAX_TIME, MIN_TIME, Slice, SourceProgress
from schemas.events import TOPICS

_DOWN_SECONDS, _OLD_LAG_MS, _HISTORY_MS = 60.0, 600_000, 86_400_000
_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's declaration."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


EVENTS: Final = Metric("livepulse_events_total", Kind.COUNTER, "Messages taken from Kafka", ("topic",))
ACCEPTED: Final = Metric("livepulse_accepted_total", Kind.COUNTER, "Events that count")
LATE: Final = Metric(
    "livepulse_late_total", Kind.COUNTER, "Valid events behind the time limit: late_events", ("cause",)
)
DUPLICATES: Final = Metric("livepulse_duplicates_total", Kind.COUNTER, "Events whose id was there before")
REJECTS: Final = Metric("livepulse_rejects_total", Kind.COUNTER, "Messages in dead_letters, by reason", ("reason",))
FILTERED: Final = Metric("livepulse_filtered_total", Kind.COUNTER, "Valid events that a setting leaves out")
KEY_MISMATCHES: Final = Metric(
    "livepulse_key_mismatches_total", Kind.COUNTER, "Valid events whose message has another key than their user_id"
)
LAG: Final = Metric("livepulse_lag_messages", Kind.GAUGE, "Messages in Kafka that the engine has not taken yet")
LAG_SECONDS: Final = Metric(
    "livepulse_lag_seconds", Kind.GAUGE, "Age of the message last read, while there is a backlog"
)
WATERMARK_DELAY: Final = Metric(
    "livepulse_watermark_delay_seconds", Kind.GAUGE, "How far the watermark is behind the clock"
)
EPOCH: Final = Metric(
    "livepulse_epoch_seconds", Kind.HISTOGRAM, "Time from one commit of offsets and state to the next"
)
SNAPSHOT_BYTES: Final = Metric("livepulse_snapshot_bytes_total", Kind.COUNTER, "Bytes of state written for recovery")
STATE_BYTES: Final = Metric(
    "livepulse_state_bytes", Kind.GAUGE, "Size of the recovery file of a shard or family", ("key",)
)
SINK_SECONDS: Final = Metric(
    "livepulse_sink_seconds", Kind.HISTOGRAM, "Time of an insert, its repetitions too", ("table",)
)
SINK_ROWS: Final = Metric("livepulse_sink_rows_total", Kind.COUNTER, "Rows inserted", ("table",))
SINK_RETRIES: Final = Metric("livepulse_sink_retries_total", Kind.COUNTER, "Calls of the store that had to be repeated")
PARTS: Final = Metric(
    "livepulse_parts", Kind.GAUGE, "Active parts: inserts slow down at 1,000, fail at 3,000", ("table",)
)
MISMATCHES: Final = Metric(
    "livepulse_audit_mismatch_total",
    Kind.COUNTER,
    "Figures that differ from their recomputation (livepulse reconcile)",
    ("view",),
)
AUDITS: Final = Metric("livepulse_audit_runs_total", Kind.COUNTER, "Audits that ran to their end")

METRICS: Final = (
    EVENTS, ACCEPTED, LATE, DUPLICATES, REJECTS, FILTERED, KEY_MISMATCHES, LAG, LAG_SECONDS, WATERMARK_DELAY, EPOCH,
    SNAPSHOT_BYTES, STATE_BYTES, SINK_SECONDS, SINK_ROWS, SINK_RETRIES, PARTS, MISMATCHES, AUDITS,
)  # fmt: skip


@dataclass(slots=True)
class Health:
    """What /livez and /readyz tell: monotonic seconds of the last sign of life of each side."""

    looped: float = field(default_factory=time.monotonic)  # the dataflow asked its source
    broker: float = field(default_factory=time.monotonic)  # the broker answered
    reads: bool = True  # has partitions; one of more workers than partitions has none, and may have no shards either
    folds: bool = False  # a shard of it was told something
    sink_down_since: float | None = None  # the store has not answered since
    sink_failures: int = 0  # calls that failed since

    @property
    def idle(self) -> bool:
        """Neither partitions nor shards are here: there is no work to hear of."""
        return not (self.reads or self.folds)


class EngineMetrics:
    """The figures of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.health = Health()
        self.consumed = 0
        self.rows = 0  # that the store has taken
        self.progress: SourceProgress | None = None
        self.lag: Callable[[], int | None] = lambda: None  # messages; who reads the source sets it
        self.lag_ms: Callable[[], int] = lambda: 0
        self._counters = {m: self._counter(m) for m in METRICS if m.kind is Kind.COUNTER}
        self._gauges = {m: Gauge(m.name, m.help, m.labels, registry=self.registry) for m in _of(Kind.GAUGE)}
        self._histograms = {
            m: Histogram(m.name, m.help, m.labels, buckets=_SECONDS, registry=self.registry)
            for m in _of(Kind.HISTOGRAM)
        }
        self._gauges[LAG].set_function(lambda: self.lag() or 0)
        self._gauges[LAG_SECONDS].set_function(lambda: self.lag_ms() / 1000)
        self._gauges[WATERMARK_DELAY].set_function(lambda: self.watermark_age() or 0.0)
        self._snapshot_names: set[str] = set()
        self._epoch_began = time.monotonic()

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    @property
    def watermark(self) -> int | None:
        """Event time up to which this process's partitions have been seen, epoch ms."""
        mark = self.progress.watermark if self.progress is not None else MIN_TIME
        return mark if MIN_TIME < mark < MAX_TIME else None

    def watermark_age(self) -> float | None:
        """Seconds between the clock and the watermark."""
        return None if self.watermark is None else time.time() - self.watermark / 1000

    def looped(self, progress: SourceProgress | None = None) -> None:
        """The dataflow asked its source for more."""
        self.health.looped = time.monotonic()
        if progress is not None:
            self.progress = progress

    def folded(self, progress: SourceProgress) -> None:
        """A shard was told how a source stands, which is all that a process without partitions hears."""
        self.health.looped, self.health.folds = time.monotonic(), True
        if not self.health.reads:
            self.progress = progress

    def took(self, taken: Slice) -> None:
        """Messages left the source."""
        for kind, _, _, consumed, late, _, filtered in taken.ledger.tolist():
            self.consumed += consumed
            self._counters[EVENTS].labels(TOPICS[kind] if kind < len(TOPICS) else "").inc(consumed)
            if late:
                self._counters[LATE].labels("bound").inc(late)
            if filtered:
                self._counters[FILTERED].inc(filtered)
        if taken.dead is not None:
            for reason, count in taken.dead["reason"].value_counts().iter_rows():
                self._counters[REJECTS].labels(reason).inc(count)

    def admitted(self, accepted: int, duplicate: int, late: int) -> None:
        """A shard judged events."""
        self._counters[ACCEPTED].inc(accepted)
        self._counters[DUPLICATES].inc(duplicate)
        if late:
            self._counters[LATE].labels("idle").inc(late)

    def mismatched(self, count: int) -> None:
        """So many of the valid events just decoded have another key than their user_id."""
        self._counters[KEY_MISMATCHES].inc(count)

    def epoch(self, partition: str) -> None:
        """A source partition was snapshotted; one that is met again begins another epoch."""
        if partition in self._snapshot_names:
            now = time.monotonic()
            self._histograms[EPOCH].observe(now - self._epoch_began)
            self._epoch_began = now
            self._snapshot_names.clear()
        self._snapshot_names.add(partition)

    def state(self, key: str, written: int, size: int) -> None:
        """A step's state was written."""
        self._counters[SNAPSHOT_BYTES].inc(written)
        self._gauges[STATE_BYTES].labels(key).set(size)

    def inserted(self, table: str, rows: int, seconds: float) -> None:
        """The store took rows."""
        self.rows += rows
        self.health.sink_down_since, self.health.sink_failures = None, 0
        self._counters[SINK_ROWS].labels(table).inc(rows)
        self._histograms[SINK_SECONDS].labels(table).observe(seconds)

    def retried(self) -> None:
        """A call of the store failed and is repeated."""
        self._counters[SINK_RETRIES].inc()
        self.health.sink_failures += 1
        if self.health.sink_down_since is None:
            self.health.sink_down_since = time.monotonic()

    def trouble(self) -> tuple[int, int]:
        """What may explain a fall: messages of lag, where they are old, and failed calls of a store that stays down."""
        since = self.health.sink_down_since
        down = since is not None and time.monotonic() - since >= _DOWN_SECONDS
        lag = self.lag() or 0 if _OLD_LAG_MS <= self.lag_ms() < _HISTORY_MS else 0  # older: a replay of history
        return lag, self.health.sink_failures if down else 0

    def parts(self, active: dict[str, int]) -> None:
        """Active parts by table."""
        for table, count in active.items():
            self._gauges[PARTS].labels(table).set(count)

    def audited(self, mismatches: Mapping[str, int]) -> None:
        """An audit ended."""
        self._counters[AUDITS].inc()
        for view, count in mismatches.items():
            self._counters[MISMATCHES].labels(view).inc(count)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


def _of(kind: Kind) -> list[Metric]:
    return [metric for metric in METRICS if metric.kind is kind]
