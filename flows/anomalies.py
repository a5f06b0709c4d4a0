"""Anomalies of a table's series: its final rows in, rows of `anomalies` out. One `AnomalyWatch` beside a merge kernel.

Only closed windows are judged, each once and in order: a row that corrects a window judged before is passed over. A
window without a row counts as 0. After more than `GAP_MS` without any row the stream was off, not empty: the windows
between are not looked at. State is bounded by the spec's `top`; it is logged as the inputs since the last snapshot,
which replay to the same state.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from flows.anomaly_baseline import Found
from flows.anomaly_book import OPEN, ROWS, Anomaly, Book, sentence, severity
from flows.anomaly_book import Key as BookKey
from flows.anomaly_early import EarlyAlarms
from flows.anomaly_mix import MixWatch
from flows.anomaly_once import is_of_the_whole, of_the_whole, part_of
from flows.anomaly_route import Evidence, Health
from flows.anomaly_series import RATE_UNITS, WHOLE, WatchedSeries, final_rows
from flows.anomaly_spec import AnomalySpec, calendar
from flows.anomaly_step import (
    ACCEPTED,
    BECAME_SHIFT,
    DROP,
    NOTHING,
    OPENED,
    RESOLVED,
    SHIFT_DOWN,
    SHIFT_UP,
    SPIKE,
    ZERO,
    Floats,
    Ints,
)
from flows.anomaly_why import ALIKE, Figures, why
from schemas.events import ALL
from schemas.windows import HOUR_MS

GAP_MS: Final = 6 * HOUR_MS
_FORMAT: Final = 3
_FOREVER: Final = 1 << 61
_EXPLAINED: Final = 10
"""Windows up to the one that told it which explain a shift."""
_LOGGED_MAX: Final = 1 << 18  # rows of inputs beyond which a snapshot is shorter


class _Blob(msgspec.Struct, array_like=True):
    """State, or the inputs that came on top of it, as plain data."""

    format: int
    state: dict[str, Any] | None
    inputs: list[tuple[bytes, int, list[Any]]]  # rows (Arrow IPC), end of the closed windows, Evidence
    early: list[dict[str, Any]] | None = None  # provisional alarms that stand, where they changed


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Consecutive windows of one hour with what was found; arrays as in `Found`."""

    starts: Ints
    actual: Floats
    found: Found


class AnomalyWatch:
    """See the module."""

    def __init__(self, spec: AnomalySpec) -> None:
        self.spec = spec
        self._start_empty()

    def _start_empty(self) -> None:
        kept = {"window_start": pl.Int64, "dim": pl.String, "value": pl.String}
        self._nothing = pl.DataFrame(schema=kept | dict.fromkeys(self.spec.watch.columns, pl.Float64))
        self.series = WatchedSeries(self.spec)
        self.book = Book()
        self._early = EarlyAlarms(self.spec)
        self._mixes: dict[str, MixWatch] = {}
        self._next: int | None = None  # start of the first window that was not judged
        self._recent = np.zeros((2, 0, 0))  # actual and expected of the last windows, (2, windows, series)
        self._inputs: list[tuple[pl.DataFrame, int, Evidence]] = []
        self._logged = 0
        self._full = True  # nothing was told yet

    @property
    def next(self) -> int:
        """Start of the first window that was not judged, epoch ms."""
        return -_FOREVER if self._next is None else self._next

    def observe(
        self, rows: pl.DataFrame | None, watermark: int, health: Health | Evidence | None = None
    ) -> pl.DataFrame:
        """Judge the windows that `watermark` (epoch ms) has closed; `rows` are final rows of the watched view.

        Returns rows of `anomalies` that are new or changed.
        """
        rows = self._nothing if rows is None or not rows.height else final_rows(self.spec.watch, rows)
        evidence = health if isinstance(health, Evidence) else Evidence(health or Health())
        end = self._end(rows, watermark)
        if end <= (self._next if self._next is not None else -_FOREVER) or (self._next is None and not rows.height):
            return pl.DataFrame(schema=ROWS)
        self._logged += rows.height + 1
        if self._logged > _LOGGED_MAX:
            self._inputs, self._full = [], True
        if not self._full:
            self._inputs.append((rows, end, evidence))
        self._take(rows, end, evidence)
        self._early.settle(end, self.book)
        return self.book.take()

    def foresee(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Provisional alarms on early rows of the watched view: of windows that are spikes whatever may come yet."""
        rows = final_rows(self.spec.watch, rows).filter(pl.col("window_start") >= self.next)
        if self._next is None or not self.series.keys or not rows.height:
            return pl.DataFrame(schema=ROWS)
        return self._early.look(rows, self.series)

    def warm_start(self, rows: pl.DataFrame) -> None:
        """Learn from history (final rows) without telling what was unusual in it. Before any `observe`.

        Calls go on where the one before ended; the first window that is observed afterwards may lie anywhere.
        """
        if rows.height:
            self.observe(rows, _FOREVER)
        open_now = self.series.baseline.is_open()
        self.series.baseline.close(np.flatnonzero(open_now))
        self.book = Book()
        for mix in self._mixes.values():
            mix.open = False
        self._next, self._inputs, self._full = None, [], True

    def _end(self, rows: pl.DataFrame, watermark: int) -> int:
        size = self.spec.window_ms
        if watermark < _FOREVER:
            return watermark // size * size
        last = rows["window_start"].max()
        return int(last) + size if isinstance(last, int) else -_FOREVER

    def _take(self, rows: pl.DataFrame, end: int, evidence: Evidence) -> None:
        size = self.spec.window_ms
        if self._next is None:
            self._next = int(rows["window_start"].min())  # type: ignore[arg-type]
        rows = rows.filter((pl.col("window_start") >= self._next) & (pl.col("window_start") < end)).with_columns(
            hour=pl.col("window_start") // HOUR_MS
        )
        hours = {hour: part for (hour,), part in rows.partition_by("hour", as_dict=True).items()}
        empty = rows.clear()
        while self._next < end:
            hour = self._next // HOUR_MS
            upcoming = min((h for h in hours if h >= hour), default=None)
            if upcoming is None or (upcoming - hour) * HOUR_MS > GAP_MS:
                quiet_end = end if upcoming is None else upcoming * HOUR_MS
                if quiet_end - self._next > GAP_MS:
                    self._next = quiet_end
                    continue
            stop = min((hour + 1) * HOUR_MS, end)
            self._take_hour(hours.get(hour, empty), np.arange(self._next, stop, size, dtype=np.int64), evidence)
            self._next = stop

    def _take_hour(self, rows: pl.DataFrame, starts: Ints, evidence: Evidence) -> None:
        self.series.offer(rows)
        if self.series.keys:
            actual = self.series.dense(rows, starts)
            found = self.series.baseline.step(
                actual,
                calendar(self.spec, starts),
                self.series.counted(),
                self.series.per(),
                self.series.whole(),
                self.spec.floor,
            )
            chunk = _Chunk(starts, actual, found)
            self._tell(chunk, evidence)
            self._remember(chunk)
        if (int(starts[-1]) + self.spec.window_ms) % HOUR_MS == 0 and self.series.admit(HOUR_MS // self.spec.window_ms):
            self._recent = np.zeros((2, 0, 0))  # of other values

    def _tell(self, chunk: _Chunk, evidence: Evidence) -> None:
        mixes = self._mix_events(chunk)
        for w in range(len(chunk.starts)):
            for row in np.flatnonzero(chunk.found.event[w]).tolist():
                self._tell_event(chunk, w, row, evidence)
            for dim, event, distance, score in mixes.get(w, ()):
                self._tell_mix(chunk, w, dim, (event, distance, score), evidence)
            for whole in self.book.loose():
                self._release(chunk, w, whole)

    def _tell_event(self, chunk: _Chunk, w: int, row: int, evidence: Evidence) -> None:
        place, measure = divmod(row, len(self.spec.measures))
        dim, value = self.series.keys[place]
        key = (self.spec.series(measure), dim, value)
        event, end = int(chunk.found.event[w, row]), int(chunk.starts[w]) + self.spec.window_ms
        if event == BECAME_SHIFT:
            self.book.shift(key)
        elif event in (RESOLVED, ACCEPTED):
            self.book.close(key, end, accepted=event == ACCEPTED)
            self._release(chunk, w, key)
        elif event == OPENED:
            self._open(chunk, w, row, evidence.at(int(chunk.starts[w]), end))

    def _open(self, chunk: _Chunk, w: int, row: int, health: Health) -> None:
        """Tell what alarms; or of the whole what alarms of a part first, or of a part what it did to the whole."""
        found = self._anomaly(chunk, w, row)
        measure, key = row % len(self.spec.measures), (found.dim, found.value)
        if self.book.confirms(found, health):
            return
        if key == WHOLE:
            figures = self._figures(chunk, w, found.kind)
            self.book.open(found, health, part_of(found, figures, measure, self.book.standing.values()))
            return
        at = self._of_whole(row)
        news = self.book.parent(found) is None and (found.series, *WHOLE) not in self.book.standing
        if at is not None and news and self._is_out(chunk, w, at, found.direction):
            figures = self._figures(chunk, w, "")
            if is_of_the_whole(key, figures, measure):
                self.book.open_for(found, self._anomaly(chunk, w, at, int(chunk.found.kind[w, row])), health)
            else:
                found.explanation += f" {of_the_whole(figures, measure)}"
        self.book.open(found, health)

    def _of_whole(self, row: int) -> int | None:
        """The row of the whole's same measure."""
        place = self.series.places.get(WHOLE)
        return None if place is None else place * len(self.spec.measures) + row % len(self.spec.measures)

    def _is_out(self, chunk: _Chunk, w: int, row: int, direction: str) -> bool:
        """Whether it is out of its usual range."""
        actual, found = chunk.actual[w, row], chunk.found
        return bool(actual < found.low[w, row] if direction == "down" else actual > found.high[w, row])

    def _release(self, chunk: _Chunk, w: int, part: BookKey) -> None:
        """A part is over: the whole may go on."""
        at = {self.spec.series(i): self._of_whole(i) for i in range(len(self.spec.measures))}
        end = int(chunk.starts[w]) + self.spec.window_ms
        self.book.release(part, end, lambda a: self._is_out(chunk, w, at[a.series] or 0, a.direction))

    def _anomaly(self, chunk: _Chunk, w: int, row: int, code: int = 0) -> Anomaly:
        """What is found of a row. `code`: kind of the alarm where it is another row's."""
        code = code or int(chunk.found.kind[w, row])
        if code == ZERO and chunk.actual[w, row] > 0.0:  # a part is gone, not this
            code = DROP
        place, measure = divmod(row, len(self.spec.measures))
        dim, value = self.series.keys[place]
        found, of = chunk.found, self.spec.measures[measure]
        unit = RATE_UNITS if of.is_rate else 1.0
        actual, expected = float(chunk.actual[w, row]) / unit, float(found.expected[w, row]) / unit
        kind = self._kind(chunk, w, code)
        start = int(chunk.starts[w])
        anomaly = Anomaly(
            start, self.spec.series(measure), dim, value, actual, expected,
            float(found.low[w, row]) / unit, float(found.high[w, row]) / unit, max(float(found.score[w, row]), 0.5),
            kind, severity(kind, dim, actual, expected), OPEN, "", self.spec.window_seconds,
            "up" if code in (SPIKE, SHIFT_UP) else "down", "", start + self.spec.window_ms,
        )  # fmt: skip
        drivers = why(self._figures(chunk, w, kind), measure) if dim == ALL and kind != "missing" else ""
        if kind == "zero":  # all that there was is gone: no part stands out
            drivers = drivers.removeprefix(ALIKE).strip()
        anomaly.explanation = sentence(anomaly, self.spec.zone, drivers, is_rate=of.is_rate)
        return anomaly

    def _figures(self, chunk: _Chunk, w: int, kind: str) -> Figures:
        """What is usual and what is of the window; of a shift, of the windows up to it."""
        after, before = chunk.actual[: w + 1], chunk.found.expected[: w + 1]
        if kind == "shift" and self._recent.shape[2] == after.shape[1]:
            after, before = np.concatenate([self._recent[0], after]), np.concatenate([self._recent[1], before])
        last = _EXPLAINED if kind == "shift" else 1
        shape = (len(self.series.keys), len(self.spec.measures))
        both = (array[-last:].sum(axis=0).reshape(shape) for array in (before, after))
        return Figures(self.series.keys, self.spec.measures, *both)

    def _remember(self, chunk: _Chunk) -> None:
        """Keep the last windows, for what a shift is explained by."""
        new = np.stack([chunk.actual, chunk.found.expected])
        old = self._recent if self._recent.shape[2] == new.shape[2] else new[:, :0]
        self._recent = np.concatenate([old, new], axis=1)[:, -_EXPLAINED + 1 :]

    def _kind(self, chunk: _Chunk, w: int, code: int) -> str:
        if code in (SHIFT_UP, SHIFT_DOWN):
            return "shift"
        if code == ZERO:
            whole = self.series.places.get(WHOLE)
            nothing = whole is not None and chunk.actual[w, whole * len(self.spec.measures)] == 0
            return "missing" if nothing else "zero"
        return "spike" if code == SPIKE else "drop"

    def _mix_events(self, chunk: _Chunk) -> dict[int, list[tuple[str, int, float, float]]]:
        events: dict[int, list[tuple[str, int, float, float]]] = {}
        size, measures = self.spec.window_ms, len(self.spec.measures)
        values = Counter(dim for dim, _ in self.series.keys)
        for dim, watch in self._mixes.items():
            if watch.open and values[dim] < 2:  # they left their places: there is no mix any more
                watch.open = False
                events.setdefault(0, []).append((dim, RESOLVED, 0.0, 0.0))
        for dim in dict.fromkeys(d for d, _ in self.series.keys if d != ALL and self.spec.watch.mixed):
            rows = [i * measures for i, key in enumerate(self.series.keys) if key[0] == dim]
            watch = self._mixes.setdefault(dim, MixWatch())
            for w in np.flatnonzero(chunk.found.known[:, rows].all(axis=1)).tolist():
                event, distance, score = watch.step(
                    chunk.actual[w, rows], chunk.found.expected[w, rows],
                    self.spec.warm_ms // size, self.spec.accept_ms // size,
                )  # fmt: skip
                if event != NOTHING:
                    events.setdefault(w, []).append((dim, event, distance, score))
        return events

    def _tell_mix(self, chunk: _Chunk, w: int, dim: str, told: tuple[int, float, float], evidence: Evidence) -> None:
        event, distance, score = told
        series = f"{self.spec.series(0)}.share"
        start, size = int(chunk.starts[w]), self.spec.window_ms
        if event in (RESOLVED, ACCEPTED):
            self.book.close((series, dim, ""), start + size, accepted=event == ACCEPTED)
            self._release(chunk, w, (series, dim, ""))
            return
        places = [i for i, key in enumerate(self.series.keys) if key[0] == dim]
        rows = [i * len(self.spec.measures) for i in places]
        actual, expected = chunk.actual[w, rows], chunk.found.expected[w, rows]
        change = actual / actual.sum() - expected / max(expected.sum(), 1e-9)
        moved = [int(i) for i in np.argsort(-np.abs(change), kind="stable")[:3]]
        words = ", ".join(
            f"{self.series.keys[places[i]][1]} {expected[i] / expected.sum():.0%} to {actual[i] / actual.sum():.0%}"
            for i in moved
        )
        text = f"The mix of {dim} changed: {words} of {self.spec.measures[0].name}."
        anomaly = Anomaly(
            start, series, dim, "", distance, 0.0, 0.0, 0.1, max(score, 0.5), "mix", severity("mix", dim, 0, 0), OPEN,
            text, self.spec.window_seconds, "mix", "", start + size,
        )  # fmt: skip
        self.book.open(anomaly, evidence.at(start, start + size))

    # ---- recovery

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        self._inputs, self._logged, self._full = [], 0, False
        state = {
            "spec": self.spec.fingerprint,
            "next": self._next,
            "recent": [list(self._recent.shape), self._recent.tobytes()],
            "series": self.series.plain(),
            "book": self.book.plain(),
            "ties": self.book.plain_ties(),
            "mixes": {dim: mix.plain() for dim, mix in self._mixes.items()},
        }
        return msgspec.msgpack.encode(_Blob(_FORMAT, state, [], self._early.plain()))

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        if self._full:
            return self.snapshot()
        if not self._inputs and not self._early.is_unsaved:
            return b""
        inputs = [(_ipc(rows), end, evidence.plain()) for rows, end, evidence in self._inputs]
        self._inputs = []
        early = self._early.plain() if self._early.is_unsaved else None
        return msgspec.msgpack.encode(_Blob(_FORMAT, None, inputs, early))

    def fits(self, snapshot: bytes) -> bool:
        """Whether it is of this watch: state of other measures or windows is of no use."""
        blob = msgspec.msgpack.decode(snapshot, type=_Blob)
        return blob.format == _FORMAT and blob.state is not None and blob.state["spec"] == self.spec.fingerprint

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        self._start_empty()
        for packed in (snapshot, *deltas):
            if packed:
                self._apply(msgspec.msgpack.decode(packed, type=_Blob))
        self.book.take()
        self._full = False

    def _apply(self, blob: _Blob) -> None:
        if blob.format != _FORMAT:
            raise ValueError(f"anomalies of format {blob.format}; this version reads {_FORMAT}")
        if blob.state is not None:
            self._start_empty()
            self._next = blob.state["next"]
            shape, recent = blob.state["recent"]
            self._recent = np.frombuffer(recent).reshape(shape).copy()
            self.series.become(blob.state["series"])
            self.book.become(blob.state["book"], blob.state["ties"])
            self._mixes = {dim: MixWatch.of(plain) for dim, plain in blob.state["mixes"].items()}
        for rows, end, evidence in blob.inputs:
            self._take(pl.read_ipc(io.BytesIO(rows)), end, Evidence.of(evidence))
        if blob.early is not None:
            self._early.become(blob.early)


def _ipc(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()
