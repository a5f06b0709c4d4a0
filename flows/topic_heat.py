"""Heat of topics (or of another subject that a `HeatSpec` names): weights that fade, ranks, and how topics live.

Shards turn events into integer sums per minute and topic (`HeatShard`); the merge stage (`HeatMerge`) takes the minutes
in order (`flows.heat_ticks`) and gives out rows of the heat table, and of the lifecycle table at ten-minute ticks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from flows.heat_ticks import HeatTicks, TickRows
from flows.kernel import Progress
from flows.keyed_set import KeyedSet
from flows.topic_columns import NEVER, Floats, Int64s, pack, unpack
from flows.topic_lifecycle import STAGES, WINDOW_MINUTES, lifecycle_rows
from flows.user_cap import UserCap
from schemas.events import AD, KIND, OPTIONAL
from schemas.hashing import Hashes, hash64, mix
from schemas.heat import MINUTE_MS, TOPIC_HEAT, HeatSpec

FORMAT: Final = 1
INCREMENTS: Final = {
    "minute": pl.Int64(),  # epoch minute
    "topic": pl.String(),
    "events": pl.Int64(),
    "users": pl.Int64(),  # seen for the first time in this minute and topic
    "weight": pl.Int64(),  # Σ w · 2^(-(minute's end - t)/H) in units of 1 / spec.scale
    "first_ms": pl.Int64(),  # least event time, epoch ms
}


class HeatShard:
    """Events of one user shard → increments per minute and topic."""

    def __init__(self, spec: HeatSpec = TOPIC_HEAT) -> None:
        self.name = spec.name
        self.columns = spec.columns
        self._spec = spec
        self._users = KeyedSet()
        self._cap = None if spec.user_cap is None else UserCap(round(spec.user_cap * spec.scale))
        self._is_list = OPTIONAL[spec.subject] != pl.String()
        self._kind_weights = np.array(spec.kind_weights())
        # By whole milliseconds before the minute's end, as integers: three views weigh what one like of that time does.
        self._fading = np.rint(np.exp2(-np.arange(MINUTE_MS + 1) / spec.half_life_ms) * spec.scale)

    def fold(self, frame: pl.DataFrame, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Increments of `frame` under the merge kernel's name; see `flows.kernel.ShardKernel`."""
        sums = self._sums(frame)
        self._expire(progress)  # last, since these events were admitted at the watermark before
        return {self.name: sums} if sums.height else {}

    def _sums(self, frame: pl.DataFrame) -> pl.DataFrame:
        topics, hashes, rows = self._subjects(frame)
        if not len(rows):
            return pl.DataFrame(schema=INCREMENTS)
        times = frame["event_time"].to_numpy()[rows]
        minutes = times // MINUTE_MS
        keys = mix(minutes.astype(np.uint64), hashes)  # one integer to group by costs half of what text and minute do
        pairs = frame["user_hash"].to_numpy()[rows] ^ hashes
        full = self._weights(frame)[rows]
        weight = np.rint(full * self._fading[(minutes + 1) * MINUTE_MS - times]).astype(np.int64)
        if self._cap is not None:
            weight = self._cap.add(minutes, pairs, np.rint(full * self._spec.scale).astype(np.int64), weight)
        users = self._users.first_seen(minutes, pairs)
        table = pl.DataFrame({
            "key": keys, "minute": minutes, "topic": topics, "users": users, "weight": weight, "first_ms": times,
        })  # fmt: skip
        sums = table.group_by("key").agg(
            pl.col("minute", "topic").first(),
            pl.len().cast(pl.Int64).alias("events"),
            pl.col("users").sum().cast(pl.Int64),
            pl.col("weight").sum(),
            pl.col("first_ms").min(),
        )
        sums.drop_in_place("key")
        return sums

    def _subjects(self, frame: pl.DataFrame) -> tuple[pl.Series, Hashes, Int64s]:
        """Subjects of the events that count, each once an event; their hashes; the row that each comes from."""
        column = frame[self._spec.subject]
        used = frame["kind"].to_numpy() != AD
        if not self._is_list:
            used &= column.is_not_null().to_numpy()
            topics = column.filter(pl.Series(used))
            return topics, hash64(topics).to_numpy(), np.flatnonzero(used)
        lengths = column.list.len().fill_null(0).to_numpy()
        used &= lengths > 0
        rows = np.flatnonzero(used)
        if not len(rows):
            return pl.Series(dtype=pl.String), np.zeros(0, dtype=np.uint64), rows
        if len(rows) < len(used):
            column, lengths = column.filter(pl.Series(used)), lengths[rows]
        topics, rows = column.explode(), np.repeat(rows, lengths)
        hashes = hash64(topics).to_numpy()
        again = np.zeros(len(rows), dtype=np.bool_)
        for back in range(1, int(lengths.max())):  # lists are short: compare each place with those before it
            again[back:] |= (hashes[back:] == hashes[:-back]) & (rows[back:] == rows[:-back])
        if again.any():
            return topics.filter(pl.Series(~again)), hashes[~again], rows[~again]
        return topics, hashes, rows

    def _weights(self, frame: pl.DataFrame) -> Floats:
        """Weight of each event, before fading."""
        kinds = frame["kind"].to_numpy()
        weights: Floats = self._kind_weights[kinds]
        for kind, column in self._spec.action_columns().items():
            places = np.flatnonzero(kinds == KIND[kind])
            if len(places):
                known = self._spec.action_weights(kind)
                actions = frame[column].gather(places)
                weights[places] = actions.replace_strict(
                    known, default=self._spec.weights.get(kind, 0.0), return_dtype=pl.Float64
                ).to_numpy()
        continued = frame["continued"]
        if continued.null_count() < len(continued):
            weights[continued.fill_null(value=False).to_numpy()] = 0.0
        return weights

    def _expire(self, progress: Progress) -> None:
        oldest = progress.watermark // MINUTE_MS - self._spec.retain_minutes - 1
        self._users.expire(oldest)
        if self._cap is not None:
            self._cap.expire(oldest)

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        users, cap = self._users.snapshot(), self._cap.snapshot() if self._cap else b""
        return pack({"format": FORMAT, "users": users, "cap": cap})

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        users, cap = self._users.delta(), self._cap.delta() if self._cap else b""
        return pack({"format": FORMAT, "users": users, "cap": cap}) if users or cap else b""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        values = [_read(blob) for blob in (snapshot, *deltas) if blob]
        self._users.restore(values[0]["users"], [value["users"] for value in values[1:]])
        if self._cap is not None:
            self._cap.restore(values[0]["cap"], [value["cap"] for value in values[1:]])


class HeatMerge:
    """Increments of all shards → absolute rows of the heat and lifecycle tables."""

    def __init__(self, spec: HeatSpec = TOPIC_HEAT) -> None:
        self.name = spec.name
        self._spec = spec
        self._ticks = HeatTicks(spec)
        self._changed: dict[int, list[Int64s]] = {}  # slots by minute since the last `emit`
        self._log: list[dict[str, Any]] = []  # folds and closings since the last `snapshot` or `delta`
        self._is_logged = False  # not before a first snapshot: a backfill takes none, and would only gather
        self._closed = (NEVER, False)  # minute of the watermark, and whether input had ended, at the last closing

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """Add increments; see `flows.kernel.MergeKernel`."""
        rows = pl.concat(increments)
        if len(increments) > 1:
            keys = mix(rows["minute"].to_numpy().astype(np.uint64), hash64(rows["topic"]).to_numpy())
            rows = (
                rows.with_columns(key=keys)
                .group_by("key")
                .agg(
                    pl.col("minute", "topic").first(),
                    pl.col("events", "users", "weight").sum(),
                    pl.col("first_ms").min(),
                )
                .drop("key")
            )
        if self._is_logged:
            columns = {name: rows[name].to_numpy() for name in INCREMENTS if name != "topic"}
            self._log.append({**columns, "topic": rows["topic"].to_list()})
        self._add(rows)

    def _add(self, rows: pl.DataFrame) -> None:
        for minute, slots in self._ticks.add(rows):
            self._changed.setdefault(minute, []).append(slots)

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Rows that the watermark closes, and early ones; see `flows.kernel.MergeKernel`."""
        closed = (progress.watermark // MINUTE_MS, progress.end)
        if not self._changed and closed == self._closed:
            return {}
        if self._is_logged:
            self._log.append({"closed": closed})
        final = self._close(closed)
        frames = [self._frame(final, is_final=True)]
        lives = [self._lives(self._stale_lives(end=closed[1]))]
        if progress.early and not progress.end:
            frames.append(self._frame(self._early(), is_final=False))
            lives.append(self._newborn())
        self._clear(closed, early=progress.early)
        tables = {self._spec.heat_table: pl.concat(frames), self._spec.lifecycle_table: pl.concat(lives)}
        return {name: rows for name, rows in tables.items() if rows.height}

    def _close(self, closed: tuple[int, bool]) -> list[TickRows]:
        """Take every minute that has ended, up to the last one with an event; later ones wait for an event."""
        watermark_minute, end = closed
        self._closed = closed
        last = self._ticks.last_minute
        return self._ticks.advance(
            last if end else min(last, watermark_minute - 1), watermark_minute - self._spec.retain_minutes - 1
        )

    def _stale_lives(self, *, end: bool) -> Int64s:
        """Topics whose lifecycle row is due: at ten-minute ticks, and at the end also what has happened since."""
        ticks = self._ticks
        if end:
            ticks.dirty[: ticks.state.size] |= ticks.state.window[: ticks.state.size] > 0
        elif not ticks.window_closed:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(ticks.dirty[: ticks.state.size])

    def _clear(self, closed: tuple[int, bool], *, early: bool) -> None:
        """Set back what has been given out; changes of open minutes stay until early rows are wanted."""
        self._ticks.dirty[self._stale_lives(end=closed[1])] = False
        self._ticks.window_closed = False
        if early:
            self._changed.clear()
            self._ticks.born.clear()
        else:
            head = self._ticks.head
            self._changed = {minute: slots for minute, slots in self._changed.items() if minute > head}
        self._ticks.free_forgotten()

    def _early(self) -> list[TickRows]:
        """Rows of minutes that are still open."""
        head = self._ticks.head
        fresh = {minute: np.concatenate(slots) for minute, slots in self._changed.items() if minute > head}
        return self._ticks.preview(fresh) if fresh else []

    def _newborn(self) -> pl.DataFrame:
        """Lifecycle rows of new topics that no closed minute has: only their beginning is known."""
        slots, first_ms = self._ticks.newborn()
        return self._lives(slots).with_columns(first_seen=pl.Series(first_ms, dtype=pl.Int64))

    def _lives(self, slots: Int64s) -> pl.DataFrame:
        ticks = self._ticks
        window = (ticks.head + 1) // WINDOW_MINUTES - 1
        rows = lifecycle_rows(ticks.state, slots, window, self._spec.half_life_ms)
        return rows.insert_column(0, ticks.slots.topics(slots).alias(self._spec.label))

    def _frame(self, ticks: list[TickRows], *, is_final: bool) -> pl.DataFrame:
        """Rows of the heat table."""
        if not ticks:
            ticks = [_NO_ROWS]
        columns = [np.concatenate([rows[place] for rows in ticks]) for place in range(1, len(TickRows._fields))]
        slots, heat, rank, events, users, growth, stage = columns
        minutes = np.repeat([rows.minute for rows in ticks], [len(rows.slots) for rows in ticks])
        return pl.DataFrame({
            "tick": (minutes + 1) * MINUTE_MS,
            self._spec.label: self._ticks.slots.topics(slots),
            "heat": heat,
            "rank": pl.Series(rank).replace(0, None).cast(pl.UInt32),
            "events": events,
            "users": users,
            "growth": pl.Series(growth).fill_nan(None),
            "stage": pl.Series(STAGES, dtype=pl.String).gather(stage.astype(np.int64)),
            "is_final": pl.Series(np.full(len(slots), is_final, dtype=np.uint8)),
        })  # fmt: skip

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        self._log, self._is_logged = [], True
        changed = {str(minute): np.unique(np.concatenate(parts)) for minute, parts in self._changed.items()}
        return pack({"format": FORMAT, "closed": self._closed, "changed": changed, "ticks": self._ticks.pack()})

    def delta(self) -> bytes:
        """Folds and closings since: they give the same state again, and cost what changed."""
        if not self._log:
            return b""
        steps, self._log = self._log, []
        return pack({"format": FORMAT, "steps": steps})

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`."""
        value = _read(snapshot)
        self._ticks = HeatTicks(self._spec)
        self._ticks.unpack(value["ticks"])
        self._closed = (value["closed"][0], value["closed"][1])
        self._changed = {int(minute): [slots] for minute, slots in value["changed"].items()}
        for blob in deltas:
            for step in _read(blob)["steps"] if blob else ():
                if "closed" in step:
                    closed = (step["closed"][0], step["closed"][1])
                    self._close(closed)
                    self._clear(closed, early=False)
                else:
                    self._add(pl.DataFrame(step, schema=INCREMENTS))
        self._log, self._is_logged = [], True


def _read(blob: bytes) -> dict[str, Any]:
    value = unpack(blob)
    if value["format"] != FORMAT:
        raise ValueError(f"heat state of format {value['format']}; this version reads {FORMAT}")
    return value


_NONE: Final = np.zeros(0, dtype=np.int64)
_NO_ROWS: Final = TickRows(0, _NONE, np.zeros(0), _NONE, _NONE, _NONE, np.zeros(0), np.zeros(0, dtype=np.uint8))
