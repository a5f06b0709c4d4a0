"""From decoded messages of one partition to slices that may go downstream: late test, ledger counts, dead letters.

All of it is a function of the partition's log: which messages a consume call happened to return plays no part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.messages import MIN_TIME, Slice
from flows.pseudonyms import Pseudonyms
from flows.watermark import TimeBounds, late_mask, running_max
from schemas.decode import Decoded, Decoder
from schemas.decode_text import Texts
from schemas.events import KIND, TOPICS, Limits, frame_schema

Int64s = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]

MINUTE_MS = 60_000
ONTIME, REJECTED, FILTERED, LATE = range(4)
UNKNOWN_KIND = 255  # of a line in a file that names no topic, or one of too many that are none
_ANY_FUTURE_MS = 1 << 50  # these events' times have been judged
LEDGER_COUNTS = ("consumed", "accepted", "duplicate", "late", "rejected", "filtered")
_KINDS = dict(KIND)
"""Numbers of topics, in their order: the contract's, then those of the other names that lines of files gave."""


def kind_of(topic: str | None) -> int:
    """The number of a topic, as a reject shows it (cut to a bound).

    An unknown one gets a number, which holds for this process, while there are some; else it is UNKNOWN_KIND.
    """
    if not topic:
        return UNKNOWN_KIND
    if topic not in _KINDS and len(_KINDS) < UNKNOWN_KIND:
        _KINDS[topic] = len(_KINDS)
    return _KINDS.get(topic, UNKNOWN_KIND)


def _names_of(kinds: Int64s | Kinds) -> list[str]:
    names = [*_KINDS]
    return [names[kind] if kind < len(names) else "" for kind in kinds.tolist()]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Messages `first` up to before `last` of a batch: consecutive ones of one partition."""

    partition: int
    first: int
    last: int
    before: int = MIN_TIME  # greatest event time at lower offsets


@dataclass(frozen=True, slots=True)
class Messages:
    """A batch of n messages, as arrays, and the stretches that it consists of."""

    stretches: Sequence[Stretch]
    offsets: Int64s
    minutes: Int64s  # ledger minute of each message, epoch ms
    kinds: Kinds  # number of each message's topic, or UNKNOWN_KIND
    values: Sequence[bytes | None] | Texts
    now: int  # ingest clock, epoch ms


@dataclass(frozen=True, slots=True)
class Numbered:
    """A frame with the number in the batch of each row's message, ascending."""

    numbers: Int64s
    frame: pl.DataFrame

    def cut(self, first: int, last: int) -> Numbered:
        """The rows of messages `first` up to before `last`."""
        if not len(self.numbers):
            return self
        start, stop = np.searchsorted(self.numbers, (first, last)).tolist()
        if stop - start == len(self.numbers):
            return self
        return Numbered(self.numbers[start:stop], self.frame[start:stop])

    def some(self) -> pl.DataFrame | None:
        """The frame, unless it is empty."""
        return self.frame if len(self.numbers) else None


@dataclass(slots=True)
class Part:
    """Decoded and judged messages of one partition that wait for their release."""

    partition: int
    first: int  # the number of the first message in its batch
    offsets: Int64s
    minutes: Int64s
    kinds: Kinds
    maxima: Int64s  # (n + 1,): greatest valid event time before each message, and after the last
    outcomes: npt.NDArray[np.uint8]
    events: Numbered
    late: Numbered
    dead: Numbered

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
        return self._cut(0, count), self._cut(count, len(self))

    def _cut(self, start: int, stop: int) -> Part:
        first, last = self.first + start, self.first + stop
        return Part(
            self.partition,
            first,
            self.offsets[start:stop],
            self.minutes[start:stop],
            self.kinds[start:stop],
            self.maxima[start : stop + 1],
            self.outcomes[start:stop],
            self.events.cut(first, last),
            self.late.cut(first, last),
            self.dead.cut(first, last),
        )

    def slice(self, *, by_log: bool = False) -> Slice:
        """What goes downstream."""
        counts = self._counts(self.maxima[1:] // MINUTE_MS * MINUTE_MS) if by_log else None
        return Slice(self.events.some(), self.late.some(), self.dead.some(), self._counts(self.minutes), counts)

    def _counts(self, minutes: Int64s) -> Int64s:
        """Counts by kind and minute; see `Slice.ledger`."""
        if (minutes == minutes[0]).all() and (self.kinds == self.kinds[0]).all():
            keys, places = minutes[:1] * (UNKNOWN_KIND + 1) + self.kinds[0], np.zeros(len(self), dtype=np.int64)
        else:
            keys, places = np.unique(minutes * (UNKNOWN_KIND + 1) + self.kinds, return_inverse=True)
        counts = np.bincount(places * 4 + self.outcomes, minlength=4 * len(keys)).reshape(-1, 4)
        kinds, partition = keys % (UNKNOWN_KIND + 1), np.full(len(keys), self.partition)
        at, of = keys // (UNKNOWN_KIND + 1), (counts[:, LATE], counts[:, REJECTED], counts[:, FILTERED])
        return np.stack([kinds, partition, at, counts.sum(axis=1), *of], axis=1).astype(np.int64)


def ledger_frame(tallies: Int64s) -> pl.DataFrame:
    """`Slice.ledger` rows as increments of the ledger."""
    kinds, partitions, minutes, consumed, late, rejected, filtered = tallies.T
    none = np.zeros(len(tallies), dtype=np.int64)
    counts = (consumed, none, none, late, rejected, filtered)
    return pl.DataFrame(
        {
            "topic": _names_of(kinds),
            "partition": partitions.astype(np.int32),
            "minute": minutes,
            **{name: np.ascontiguousarray(count) for name, count in zip(LEDGER_COUNTS, counts, strict=True)},
        }
    )


class PartBuilder:
    """Judges decoded messages: rejected, filtered, late, on time (duplicates are told apart in the user's shard)."""

    def __init__(
        self,
        wanted: frozenset[str],
        limits: Limits,
        bounds: TimeBounds,
        platforms: frozenset[str],
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        ids = frozenset({"event_id", "user_id"}) if pseudonyms else frozenset()
        self._pseudonyms = pseudonyms
        self.decoder = Decoder(wanted | ids | ({"platform"} if platforms else frozenset()), limits)
        self._names = Decoder(frozenset({"event_id", "user_id"}), limits)
        self._columns = [*frame_schema(wanted), "minute"]
        self._bounds = bounds
        self._platforms = platforms
        self._limits = limits

    def build(self, messages: Messages, decoded: Decoded) -> list[Part]:
        """A part for each stretch of `messages`, whose rows `decoded` holds."""
        count = len(messages.offsets)
        rows = decoded.frame["row"].to_numpy().astype(np.int64)
        times = np.full(count, MIN_TIME, dtype=np.int64)
        times[rows] = decoded.frame["event_time"].to_numpy()
        maxima = [running_max(times[s.first : s.last], s.before) for s in messages.stretches]
        outcomes = np.full(count, REJECTED, dtype=np.uint8)
        outcomes[rows] = ONTIME
        if self._platforms:
            platforms = decoded.frame["platform"].is_in(list(self._platforms)).fill_null(value=False)
            outcomes[rows[~platforms.to_numpy()]] = FILTERED
        for stretch, greatest in zip(messages.stretches, maxima, strict=True):
            own, cut = outcomes[stretch.first : stretch.last], slice(stretch.first, stretch.last)
            own[late_mask(times[cut], greatest, self._bounds) & (own == ONTIME)] = LATE
        events = self._events(messages, decoded, rows, outcomes)
        late = self._late(messages, np.flatnonzero(outcomes == LATE), maxima)
        dead = self._dead(messages, decoded.rejects)
        return [
            Part(
                s.partition,
                s.first,
                messages.offsets[s.first : s.last],
                messages.minutes[s.first : s.last],
                messages.kinds[s.first : s.last],
                greatest,
                outcomes[s.first : s.last],
                *(numbered.cut(s.first, s.last) for numbered in (events, late, dead)),
            )
            for s, greatest in zip(messages.stretches, maxima, strict=True)
        ]

    def _events(self, messages: Messages, decoded: Decoded, rows: Int64s, outcomes: npt.NDArray[np.uint8]) -> Numbered:
        """The events on time, with where they come from."""
        partitions = _partitions(messages)
        events = self._pseudonyms.frame(decoded.frame) if self._pseudonyms else decoded.frame
        frame = events.hstack(
            [
                pl.Series("partition", partitions[rows]),
                pl.Series("ingest_time", np.full(len(rows), messages.now, dtype=np.int64)),
                pl.Series("offset", messages.offsets[rows]),
                pl.Series("minute", messages.minutes[rows]),
            ]
        )[self._columns]
        kept = outcomes[rows] == ONTIME
        return Numbered(rows, frame) if kept.all() else Numbered(rows[kept], frame.filter(pl.Series(kept)))

    def example(self, now: int) -> pl.DataFrame:
        """A frame of a few invented events, as kernels get it: someone finds a room by a video and buys there."""
        common = f'"event_id":"%d","event_time":{now},"user_id":"warm","creator_id":"c","category":"c","tags":["t"]'
        for platform in sorted(self._platforms)[:1]:  # one that is not filtered
            common += f',"platform":{json.dumps(platform).replace("%", "%%")}'
        room = f'{common},"live_id":"l"'
        values = [
            ("view", f'{{{common},"surface":"video","video_id":"v","watch_ms":1}}'),
            ("view", f'{{{room},"surface":"live","from_video_id":"v","watch_ms":1}}'),
            ("like", f"{{{room}}}"),
            ("gift", f'{{{room},"gift_id":"g","quantity":1,"amount_minor":1}}'),
            ("order", f'{{{room},"order_id":"o","product_id":"p","status":"paid","quantity":1,"amount_minor":1}}'),
        ]
        texts = Texts.of([(value % number).encode() for number, (_, value) in enumerate(values)])
        kinds, times = np.array([KIND[topic] for topic, _ in values]), np.full(len(values), now, dtype=np.int64)
        messages = Messages([Stretch(0, 0, len(values))], times, times, kinds.astype(np.uint8), texts, now)
        decoded = self.decoder.decode_batch(texts, kinds, times, Texts.of([b"warm"] * len(values)))
        (part,) = self.build(messages, decoded)
        assert part.events.frame.height == len(values), decoded.rejects
        return part.events.frame

    def _late(self, messages: Messages, rows: npt.NDArray[np.intp], maxima: list[Int64s]) -> Numbered:
        """Rows of `late_events`; the few late messages are decoded again for their ids, which frames do not carry."""
        if not len(rows):
            return _NOTHING
        found: list[pl.DataFrame] = []
        before = np.concatenate([greatest[:-1] for greatest in maxima])
        partitions = _partitions(messages)
        for kind in np.unique(messages.kinds[rows]).tolist():
            mine = rows[messages.kinds[rows] == kind]
            frame = self._names.decode(
                TOPICS[kind], [messages.values[i] for i in mine.tolist()], messages.now + _ANY_FUTURE_MS
            ).frame
            frame = self._pseudonyms.frame(frame) if self._pseudonyms else frame
            places = mine[frame["row"].to_numpy()]
            found.append(
                frame.select(
                    pl.Series("row", places, dtype=pl.Int64),
                    pl.lit(TOPICS[kind]).alias("topic"),
                    pl.Series("partition", partitions[places]),
                    pl.Series("offset", messages.offsets[places]),
                    "event_id",
                    "user_id",
                    "event_time",
                    pl.lit(messages.now, dtype=pl.Int64).alias("ingest_time"),
                    pl.Series("max_event_time", before[places]),
                    pl.lit("bound").alias("cause"),
                    pl.Series("raw", [self._kept(messages.values[i]) for i in places.tolist()], dtype=pl.Binary),
                )
            )
        return _numbered(pl.concat(found).sort("row"))

    def _dead(self, messages: Messages, rejects: pl.DataFrame) -> Numbered:
        """Rows of `dead_letters`; a message over the size limit keeps its first bytes."""
        if not rejects.height:
            return _NOTHING
        rows = rejects["row"].to_numpy()
        raws = [self._kept(messages.values[i]) for i in rows.tolist()]
        dead = rejects.select(
            pl.col("row").cast(pl.Int64),
            pl.Series("topic", _names_of(messages.kinds[rows]), dtype=pl.String),
            pl.Series("partition", _partitions(messages)[rows]),
            pl.Series("offset", messages.offsets[rows]),
            pl.col("reason").cast(pl.String),
            pl.Series("detail", self._details(messages, rejects), dtype=pl.String),
            pl.Series("raw", raws, dtype=pl.Binary),
            pl.lit(messages.now, dtype=pl.Int64).alias("ingest_time"),
        )
        return _numbered(dead.sort("row"))

    def _details(self, messages: Messages, rejects: pl.DataFrame) -> list[str]:
        rows, details = rejects["row"].to_list(), rejects["detail"].to_list()
        if self._pseudonyms is None:
            return details
        return [
            self._pseudonyms.detail((messages.values[row] or b"")[: self._limits.max_message_bytes], detail)
            for row, detail in zip(rows, details, strict=True)
        ]

    def _kept(self, raw: bytes | None) -> bytes:
        """A message as it may be stored."""
        raw = (raw or b"")[: self._limits.max_message_bytes]
        return self._pseudonyms.raw(raw) if self._pseudonyms and raw else raw


def _partitions(messages: Messages) -> npt.NDArray[np.int32]:
    """The partition of each message."""
    sizes = [stretch.last - stretch.first for stretch in messages.stretches]
    return np.repeat(np.array([stretch.partition for stretch in messages.stretches], dtype=np.int32), sizes)


def _numbered(frame: pl.DataFrame) -> Numbered:
    return Numbered(frame["row"].to_numpy(), frame.drop("row"))


_NOTHING = Numbered(np.zeros(0, dtype=np.int64), pl.DataFrame())


def kind_names(kinds: pl.Series) -> pl.Series:
    """Topic names of a column of kinds."""
    return kinds.replace_strict(range(len(TOPICS)), list(TOPICS), return_dtype=pl.String)
