"""From decoded messages of one partition to slices that may go downstream: late test, ledger counts, dead letters.

All of it is a function of the partition's log: which messages a consume call happened to return plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.messages import MIN_TIME, Slice
from flows.watermark import TimeBounds, late_mask, running_max
from schemas.decode import Decoded, Decoder
from schemas.events import TOPICS, Limits, frame_schema

Int64s = npt.NDArray[np.int64]

MINUTE_MS = 60_000
ONTIME, REJECTED, FILTERED, LATE = range(4)
_ANY_FUTURE_MS = 1 << 50  # these events' times have been judged
LEDGER_COUNTS = ("consumed", "accepted", "duplicate", "late", "rejected", "filtered")


@dataclass(frozen=True, slots=True)
class Messages:
    """Consecutive messages of one partition, as arrays of length n."""

    partition: int
    offsets: Int64s
    minutes: Int64s  # ledger minute of each message, epoch ms
    values: Sequence[bytes | None]
    now: int  # ingest clock, epoch ms


@dataclass(slots=True)
class Part:
    """Decoded and judged messages of one partition that wait for their release. `row` indexes the messages."""

    partition: int
    offsets: Int64s
    minutes: Int64s
    maxima: Int64s  # (n + 1,): greatest valid event time before each message, and after the last
    outcomes: npt.NDArray[np.uint8]
    topics: pl.Series  # topic name of each message
    frame: pl.DataFrame
    late: pl.DataFrame
    dead: pl.DataFrame

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def next_offset(self) -> int:
        """The offset after the last message."""
        return int(self.offsets[-1]) + 1

    def up_to(self, event_time: int) -> int:
        """How many messages can go before the running maximum exceeds `event_time`."""
        return int(np.searchsorted(self.maxima[1:], event_time, side="right"))

    def split(self, count: int) -> tuple[Part, Part]:
        """The first `count` messages and the rest."""
        frame, late, dead = (_split(f, count) for f in (self.frame, self.late, self.dead))
        ends = ((slice(None, count), 0), (slice(count, None), 1))
        head, tail = (
            Part(
                self.partition,
                self.offsets[cut],
                self.minutes[cut],
                self.maxima[: count + 1] if side == 0 else self.maxima[count:],
                self.outcomes[cut],
                self.topics[cut],
                frame[side],
                late[side],
                dead[side],
            )
            for cut, side in ends
        )
        return head, tail

    def slice(self) -> Slice:
        """What goes downstream."""
        return Slice(_some(self.frame), _some(self.late), _some(self.dead), self._ledger())

    def _ledger(self) -> pl.DataFrame:
        if (
            self.minutes[0] == self.minutes[-1]
            and self.topics.n_unique() == 1
            and (self.minutes == self.minutes[0]).all()
        ):
            counts = np.bincount(self.outcomes, minlength=4)
            keys = pl.DataFrame({"topic": self.topics[:1], "minute": self.minutes[:1]})
            tallies = pl.DataFrame([pl.Series("outcome", counts[None, :].tolist(), dtype=pl.List(pl.Int64))])
            columns = [tallies["outcome"].list.get(code).alias(name) for code, name in _TALLIES]
            grouped = keys.with_columns(pl.lit(len(self), dtype=pl.Int64).alias("consumed"), *columns)
        else:
            grouped = (
                pl.DataFrame({"topic": self.topics, "minute": self.minutes, "outcome": self.outcomes})
                .group_by("topic", "minute")
                .agg(
                    pl.len().cast(pl.Int64).alias("consumed"),
                    *((pl.col("outcome") == code).sum().cast(pl.Int64).alias(name) for code, name in _TALLIES),
                )
            )
        return ledger_rows(grouped.with_columns(pl.lit(self.partition, dtype=pl.Int32).alias("partition")))


_TALLIES = ((LATE, "late"), (REJECTED, "rejected"), (FILTERED, "filtered"))


def ledger_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with every ledger column in one order; counts that it lacks are 0."""
    absent = [pl.lit(0, dtype=pl.Int64).alias(name) for name in LEDGER_COUNTS if name not in frame.columns]
    return frame.with_columns(absent).select("topic", "partition", "minute", *LEDGER_COUNTS)


def _split(frame: pl.DataFrame, count: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    at = int(frame["row"].search_sorted(count)) if frame.height else 0
    return frame[:at], frame[at:].with_columns(pl.col("row") - count)


def _some(frame: pl.DataFrame) -> pl.DataFrame | None:
    return frame.drop("row") if frame.height else None


class PartBuilder:
    """Judges decoded messages: rejected, filtered, late, on time (duplicates are told apart in the user's shard)."""

    def __init__(self, wanted: frozenset[str], limits: Limits, bounds: TimeBounds, platforms: frozenset[str]) -> None:
        self.decoder = Decoder(wanted | ({"platform"} if platforms else frozenset()), limits)
        self._names = Decoder(frozenset({"event_id", "user_id"}), limits)
        self._columns = [*frame_schema(wanted), "minute"]
        self._bounds = bounds
        self._platforms = platforms
        self._limits = limits

    def build(self, messages: Messages, decoded: Decoded, topics: pl.Series, before: int = MIN_TIME) -> Part:
        """The part for `messages`, whose rows `decoded` holds; `before`: greatest event time at lower offsets."""
        count = len(messages.offsets)
        frame = decoded.frame.with_columns(
            pl.lit(messages.partition, dtype=pl.Int32).alias("partition"),
            pl.lit(messages.now, dtype=pl.Int64).alias("ingest_time"),
        )
        rows = frame["row"].to_numpy()
        times = np.full(count, MIN_TIME, dtype=np.int64)
        times[rows] = frame["event_time"].to_numpy()
        maxima = running_max(times, before)
        outcomes = np.full(count, REJECTED, dtype=np.uint8)
        outcomes[rows] = ONTIME
        outcomes[rows[late_mask(times, maxima, self._bounds)[rows]]] = LATE
        if self._platforms:
            outcomes[rows[~frame["platform"].is_in(list(self._platforms)).fill_null(value=False).to_numpy()]] = FILTERED
        frame = frame.with_columns(
            pl.Series("offset", messages.offsets[rows]), pl.Series("minute", messages.minutes[rows])
        )
        kept = outcomes[rows] == ONTIME
        ontime = frame if kept.all() else frame.filter(pl.Series(kept))
        return Part(
            messages.partition,
            messages.offsets,
            messages.minutes,
            maxima,
            outcomes,
            topics,
            ontime.select("row", *self._columns),
            self._late(messages, topics, np.flatnonzero(outcomes == LATE), maxima),
            self._dead(messages, topics, decoded.rejects),
        )

    def example(self, now: int) -> pl.DataFrame:
        """A frame of one invented event, as kernels get it."""
        value = (
            f'{{"event_id":"warm","event_time":{now},"user_id":"warm","surface":"video","video_id":"v","creator_id":"c",'
            '"category":"c","tags":["t"],"watch_ms":1}'
        ).encode()
        zero = np.zeros(1, dtype=np.int64)
        messages = Messages(0, zero, zero, [value], now)
        return self.build(messages, self.decoder.decode("view", [value], now), pl.Series(["view"])).frame.drop("row")

    def _late(self, messages: Messages, topics: pl.Series, rows: npt.NDArray[np.intp], maxima: Int64s) -> pl.DataFrame:
        """Rows of `late_events`; the few late messages are decoded again for their ids, which frames do not carry."""
        if not len(rows):
            return pl.DataFrame({"row": pl.Series([], dtype=pl.Int64)})
        found: list[pl.DataFrame] = []
        names = topics.gather(rows)
        for topic in names.unique():
            mine = rows[(names == topic).to_numpy()]
            raws = [messages.values[i] for i in mine]
            frame = self._names.decode(topic, raws, messages.now + _ANY_FUTURE_MS).frame
            places = mine[frame["row"].to_numpy()]
            found.append(
                frame.select(
                    pl.Series("row", places, dtype=pl.Int64),
                    pl.lit(topic).alias("topic"),
                    pl.lit(messages.partition, dtype=pl.Int32).alias("partition"),
                    pl.Series("offset", messages.offsets[places]),
                    "event_id",
                    "user_id",
                    "event_time",
                    pl.lit(messages.now, dtype=pl.Int64).alias("ingest_time"),
                    pl.Series("max_event_time", maxima[places]),
                    pl.lit("bound").alias("cause"),
                    pl.Series("raw", [messages.values[i] for i in places], dtype=pl.Binary),
                )
            )
        return pl.concat(found).sort("row")

    def _dead(self, messages: Messages, topics: pl.Series, rejects: pl.DataFrame) -> pl.DataFrame:
        """Rows of `dead_letters`; a message over the size limit keeps its first bytes."""
        if not rejects.height:
            return pl.DataFrame({"row": pl.Series([], dtype=pl.Int64)})
        rows = rejects["row"].to_numpy()
        raws = [(messages.values[i] or b"")[: self._limits.max_message_bytes] for i in rows]
        return rejects.select(
            pl.col("row").cast(pl.Int64),
            topics.gather(rows).alias("topic"),
            pl.lit(messages.partition, dtype=pl.Int32).alias("partition"),
            pl.Series("offset", messages.offsets[rows]),
            pl.col("reason").cast(pl.String),
            "detail",
            pl.Series("raw", raws, dtype=pl.Binary),
            pl.lit(messages.now, dtype=pl.Int64).alias("ingest_time"),
        ).sort("row")


def kind_names(kinds: pl.Series) -> pl.Series:
    """Topic names of a column of kinds."""
    return kinds.replace_strict(range(len(TOPICS)), list(TOPICS), return_dtype=pl.String)
