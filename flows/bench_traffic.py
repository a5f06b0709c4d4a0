"""The benchmark's events: seeded columns first, then the same columns as JSON of the contract, in Kafka or a file.

The columns are all that `flows.bench_truth` recomputes figures from; nothing is decoded back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import zstandard
from confluent_kafka import Producer

from flows.errors import DependencyDown
from schemas.events import CORE_TOPICS, GIFT, LIKE, ORDER, VIEW

SHARES: Final = (0.86, 0.10, 0.025, 0.015)
"""Share of each of `CORE_TOPICS`."""
IN_ROOM: Final = (0.2, 0.5, 1.0, 1.0)
"""Share of each kind that happens in a live room."""
SPAN_MS: Final = 3_600_000
DISORDER_MS: Final = 5_000
USERS: Final = 200_000
VIDEOS: Final = 50_000
ROOMS: Final = 500
TAGS: Final = 5_000
CREATORS: Final = 3_000
CATEGORIES: Final = ("food", "dance", "game", "beauty", "knowledge", "comedy", "music", "sport")
REGIONS: Final = ("CN-GD", "CN-ZJ", "CN-SD", "CN-HA", "CN-SC", "CN-JS", "CN-HE", "CN-BJ")
PLATFORMS: Final = ("douyin", "kuaishou")

_ID_CHARACTERS: Final = 24
_CHUNK: Final = 50_000
_QUEUED: Final = 300_000
_FLUSH_SECONDS: Final = 120.0
_TICK_SECONDS: Final = 0.1


def make_events(count: int, seed: int, end_ms: int, span_ms: int = SPAN_MS) -> pl.DataFrame:
    """`count` events in the order in which they are produced, as numbers (an id is its number).

    Columns: `number`, `kind` (index into `CORE_TOPICS`), `event_time` (epoch ms, rising but for `DISORDER_MS`, before
    `end_ms`), `user`, `video`, `room`, `in_room` (of a room, not a video), `tag`, `other_tag`, `watch_ms`, `amount`,
    `paid`.
    Users, videos and tags follow Zipf's law, as in `peers/produce.py`.
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, count, p=SHARES).astype(np.uint8)
    tag = rng.zipf(1.3, count) % TAGS
    when = end_ms - span_ms + np.sort(rng.integers(0, span_ms, count))
    return pl.DataFrame(
        {
            "number": np.arange(count, dtype=np.int64),
            "kind": kind,
            "event_time": when - rng.integers(0, min(DISORDER_MS, span_ms), count),
            "user": (rng.zipf(1.2, count) % USERS).astype(np.int32),
            "video": (rng.zipf(1.3, count) % VIDEOS).astype(np.int32),
            "room": rng.integers(0, ROOMS, count).astype(np.int32),
            "in_room": rng.random(count) < np.array(IN_ROOM)[kind],
            "tag": tag.astype(np.int32),
            "other_tag": np.roll(tag, 1).astype(np.int32),
            "watch_ms": (rng.gamma(2, 8, count) * 1000).astype(np.int64),
            "amount": (rng.gamma(2, 60, count) * 100).astype(np.int64),
            "paid": rng.random(count) < 0.8,
        }
    )


def category() -> pl.Expr:
    """Category of a view or a like; other kinds carry none."""
    subject = pl.when("in_room").then("room").otherwise("video")
    return pl.when(pl.col("kind") <= LIKE).then(named(subject % len(CATEGORIES), CATEGORIES))


def region() -> pl.Expr:
    """Region of the event's user."""
    return named(pl.col("user") % len(REGIONS), REGIONS)


def platform() -> pl.Expr:
    """Platform of the event's user: the first for 7 of 10."""
    return named((pl.col("user") % 10 >= 7).cast(pl.Int32), PLATFORMS)


def named(index: pl.Expr, names: tuple[str, ...]) -> pl.Expr:
    """The name of each index."""
    return index.replace_strict(range(len(names)), list(names), return_dtype=pl.String)


def encode(events: pl.DataFrame, kind: int, ids: str = "") -> pl.DataFrame:
    """The events of one kind as messages: `number`, `key`, `value` (JSON). `ids` begins each `event_id`."""
    rows = events.filter(pl.col("kind") == kind)
    creator = pl.when("in_room").then("room").otherwise("video") % CREATORS
    head: list[pl.Expr | str] = [
        pl.lit(f'{{"event_id":"{ids}'), pl.col("number").cast(pl.String).str.zfill(_ID_CHARACTERS - len(ids)),
        pl.lit('","event_time":'), "event_time", pl.lit(',"user_id":"u'), "user", pl.lit('","creator_id":"c'), creator,
    ]  # fmt: skip
    tail: list[pl.Expr | str] = [pl.lit(',"region":"'), region(), pl.lit('","platform":"'), platform(), pl.lit('"}')]
    return rows.select(
        "number", pl.format("u{}", "user").alias("key"), pl.concat_str(*head, *_fields(kind), *tail).alias("value")
    )


def _fields(kind: int) -> list[pl.Expr | str]:
    """What a kind carries beside the common fields; begins after an open string, ends after a closed value."""
    in_room = pl.format('"live_id":"l{}"', "room")
    place = pl.when("in_room").then(in_room).otherwise(pl.format('"video_id":"v{}"', "video"))
    tags = pl.format(',"category":"{}","tags":["t{}","t{}"]', category(), "tag", "other_tag")
    if kind == VIEW:
        surface = pl.when("in_room").then(pl.lit("live")).otherwise(pl.lit("video"))
        watch = pl.format(',"watch_ms":{},"duration_ms":30000', "watch_ms")
        return [pl.lit('","surface":"'), surface, pl.lit('",'), place, tags, watch]
    if kind == LIKE:
        return [pl.lit('",'), place, tags]
    if kind == GIFT:
        return [pl.lit('",'), in_room, pl.format(',"gift_id":"rose","quantity":1,"amount_minor":{}', "amount")]
    assert kind == ORDER
    status = pl.when("paid").then(pl.lit("paid")).otherwise(pl.lit("created"))
    bought = pl.format(
        ',"order_id":"o{}","status":"{}","product_id":"p{}","quantity":1,"amount_minor":{}',
        "number", status, pl.col("number") % 1000, "amount",
    )  # fmt: skip
    return [pl.lit('",'), in_room, bought]


def make_producer(brokers: str, linger_ms: int = 50) -> Producer:
    """A producer that keeps order and compresses with lz4."""
    return Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "log_level": 3,
            "linger.ms": linger_ms,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 2 * _QUEUED,
            "queue.buffering.max.kbytes": 1 << 20,
        }
    )


def produce(
    brokers: str, events: pl.DataFrame, prefix: str = "", kinds: tuple[int, ...] = (VIEW, LIKE, GIFT, ORDER)
) -> float:
    """Send the events of `kinds` to their topics, in order; the average size of a message in bytes.

    Raises:
        DependencyDown: the broker did not take them.
    """
    producer = make_producer(brokers)
    count = size = 0
    for chunk in events.iter_slices(_CHUNK):
        for kind in kinds:
            messages = encode(chunk, kind)
            count += messages.height
            size += int(messages["value"].str.len_bytes().sum())
            send(producer, prefix + CORE_TOPICS[kind], messages)
    if producer.flush(_FLUSH_SECONDS):
        raise DependencyDown(f"the broker at {brokers} did not take all events within {_FLUSH_SECONDS:.0f} s")
    return size / max(count, 1)


def send(producer: Producer, topic: str, messages: pl.DataFrame) -> None:
    """Queue messages, waiting while too many are under way."""
    while len(producer) > _QUEUED:
        producer.poll(0.01)
    if messages.height:
        pairs = zip(messages["key"].to_list(), messages["value"].to_list(), strict=True)
        producer.produce_batch(topic, [{"key": key, "value": value} for key, value in pairs])


def write_ndjson(events: pl.DataFrame, path: Path) -> None:
    """The same events as a file for `livepulse backfill`: zstd, one a line, with `topic`, in the order produced."""
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=3).stream_writer(raw) as file:
        for chunk in events.iter_slices(_CHUNK):
            lines = [
                encode(chunk, kind).select(
                    "number",
                    line=pl.concat_str(pl.lit(f'{{"topic":"{name}",'), pl.col("value").str.slice(1), pl.lit("\n")),
                )
                for kind, name in enumerate(CORE_TOPICS)
            ]
            file.write("".join(pl.concat(lines).sort("number")["line"].to_list()).encode())


def background(brokers: str, prefix: str, rate: int, seed: int, stop: Event, sent: object) -> None:
    """Traffic of `rate` events a second, of now, until `stop`; `sent.value` counts. Runs in a process of its own."""
    producer = make_producer(brokers, linger_ms=5)
    total = 0
    began = time.monotonic()
    for tick, batch in enumerate(_live(rate, seed)):
        now = time.time_ns() // 1_000_000
        stamped = batch.with_columns(event_time=now - batch["age"], number=pl.col("number") + tick * batch.height)
        for kind, name in enumerate(CORE_TOPICS):
            send(producer, prefix + name, encode(stamped, kind, "b"))
        producer.poll(0)
        total += batch.height
        sent.value = total  # type: ignore[attr-defined]  # multiprocessing.Value
        ahead = began + total / rate - time.monotonic()
        if stop.wait(max(0.0, ahead)):
            break
    producer.flush(5)


def _live(rate: int, seed: int) -> Iterator[pl.DataFrame]:
    """Batches for one tick each, endless: columns of `make_events` and `age` (ms)."""
    size = max(1, round(rate * _TICK_SECONDS))
    pool = make_events(size * 200, seed, 0, span_ms=1)
    rng = np.random.default_rng(seed)
    ages = pl.Series("age", rng.exponential(300, pool.height).clip(0, DISORDER_MS).astype(np.int64))
    pool = pool.with_columns(ages)
    while True:
        for batch in pool.iter_slices(size):
            yield batch.with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))
