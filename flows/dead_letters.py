"""What a person does with dead letters: list them, look at one, send them again once they would be accepted."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
from confluent_kafka import KafkaError, Message, Producer

from flows.errors import DependencyDown, Usage
from flows.settings import Settings
from schemas.events import TOPICS
from schemas.validate import Valid, judge
from sinks.clickhouse import Store

REPLAY_HEADER: Final = "livepulse-replay-of"
_PAGE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters: all conditions hold; None is no condition."""

    reason: str | None = None
    topic: str | None = None
    since: int | None = None  # ingest time, epoch ms
    until: int | None = None

    def sql(self) -> tuple[str, dict[str, object]]:
        """A condition with its values bound."""
        pairs = (
            ("reason = {reason:String}", "reason", self.reason),
            ("topic = {topic:String}", "topic", self.topic),
            ("toUnixTimestamp64Milli(ingest_time) >= {since:Int64}", "since", self.since),
            ("toUnixTimestamp64Milli(ingest_time) < {until:Int64}", "until", self.until),
        )
        held = [(text, name, value) for text, name, value in pairs if value is not None]
        return " AND ".join(text for text, _, _ in held) or "1", {name: value for _, name, value in held}


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    ingest_time: str
    raw: bytes

    @property
    def origin(self) -> str:
        """Where it was, as `show` takes it."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def summary(store: Store, wanted: Wanted) -> list[dict[str, Any]]:
    """How many there are, by reason and topic, with an example."""
    condition, bound = wanted.sql()
    return store.query(
        "SELECT reason, topic, count() AS messages, min(ingest_time) AS first, max(ingest_time) AS last,"
        " concat(topic, '/', toString(argMax(partition, ingest_time)), '/', toString(argMax(offset, ingest_time)))"
        f" AS example FROM {store.database}.dead_letters WHERE {condition}"
        " GROUP BY reason, topic ORDER BY messages DESC, reason, topic",
        bound,
    )


def letters(store: Store, wanted: Wanted) -> Iterator[Letter]:
    """All that are wanted, in the order of their origin."""
    condition, bound = wanted.sql()
    after: tuple[str, int, int] = ("", -1, -1)
    while True:
        rows = store.query(
            "SELECT topic, partition, offset, reason, detail, toString(ingest_time) AS ingest_time,"
            f" base64Encode(raw) AS raw FROM {store.database}.dead_letters WHERE ({condition}) AND"
            " (topic, partition, offset) > ({t:String}, {p:Int32}, {o:Int64})"
            f" ORDER BY topic, partition, offset LIMIT {_PAGE}",
            {**bound, "t": after[0], "p": after[1], "o": after[2]},
        )
        for row in rows:
            yield Letter(**{**row, "raw": base64.b64decode(row["raw"])})
        if len(rows) < _PAGE:
            return
        after = (rows[-1]["topic"], rows[-1]["partition"], rows[-1]["offset"])


def letter(store: Store, origin: str) -> Letter:
    """The one at `topic/partition/offset`.

    Raises:
        Usage: there is none, or the place is not written so.
    """
    topic, _, rest = origin.partition("/")
    partition, _, offset = rest.partition("/")
    if not (partition.isdigit() and offset.isdigit()):
        raise Usage(f"{origin!r} is no place of a message; write topic/partition/offset, as `deadletters list` does")
    rows = store.query(
        "SELECT topic, partition, offset, reason, detail, toString(ingest_time) AS ingest_time,"
        f" base64Encode(raw) AS raw FROM {store.database}.dead_letters"
        " WHERE topic = {t:String} AND partition = {p:Int32} AND offset = {o:Int64}",
        {"t": topic, "p": int(partition), "o": int(offset)},
    )
    if not rows:
        raise Usage(f"there is no dead letter at {origin}")
    return Letter(**{**rows[0], "raw": base64.b64decode(rows[0]["raw"])})


@dataclass(slots=True)
class Replayed:
    """What a replay did: dead letters sent, and those that would be rejected again."""

    sent: int = 0
    still_bad: int = 0


def replay(store: Store, settings: Settings, wanted: Wanted, *, everything: bool, dry: bool) -> Replayed:
    """Produce dead letters to their topics again, those only that are valid now unless `everything`.

    They come as new messages: counted, late if their time has passed (`livepulse repair` then takes them in).

    Raises:
        DependencyDown: the broker did not take them.
    """
    done, failed = Replayed(), list[str]()

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error.str())

    producer = None if dry else Producer({**settings.client_properties(), "enable.idempotence": True})
    for found in letters(store, wanted):
        if found.topic not in TOPICS or not (everything or _valid(found, settings)):
            done.still_bad += 1
            continue
        done.sent += 1
        if producer is not None:
            headers: list[tuple[str, str | bytes | None]] = [(REPLAY_HEADER, found.origin)]
            producer.produce(
                settings.topic(found.topic), found.raw, key=_user_of(found.raw), headers=headers, on_delivery=delivered
            )
            producer.poll(0 if len(producer) < 50_000 else 1)
    if producer is not None and (producer.flush(60) or failed):
        raise DependencyDown(f"the broker did not take all: {failed[0] if failed else 'no answer within 60 s'}")
    return done


def _valid(found: Letter, settings: Settings) -> bool:
    return isinstance(judge(found.raw, found.topic, int(time.time() * 1000), settings.limits), Valid)


def _user_of(raw: bytes) -> bytes | None:
    try:
        event = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    user = event.get("user_id") if isinstance(event, dict) else None
    return user.encode() if isinstance(user, str) else None
