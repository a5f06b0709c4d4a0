"""Small random traffic whose meaning is known: valid, truly late, duplicate and bad messages by partition."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
from confluent_kafka import Producer

from tests.oracles.log import Event, Lane, Logged

BAD = (b"", b"not json", b'{"event_id":"x"}', b"[1,2]", b'{"event_id":"y","event_time":1,"user_id":"u"}', b"\xff\xfe{}")
MINUTE = 60_000


@dataclass
class Traffic:
    """Makes messages and remembers, per partition, what was produced in which order."""

    seed: int
    start_ms: int
    partitions: int = 4
    users: int = 150
    platforms: tuple[str, ...] = ()
    """Platforms that events name; some name none. (): no event does."""
    stray_key_every: int = 0
    """Each so-many-th message has a key that is not its user. 0: none has."""
    stray_keys: int = 0  # of valid events, so far
    log: dict[Lane, list[Logged]] = field(default_factory=dict)
    _made: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # test traffic
        self._recent: list[tuple[Lane, Event]] = []

    def messages(self, count: int, step_ms: int = 20) -> Iterator[tuple[str, int, bytes, bytes]]:
        """(topic, partition, key, value) in the order to produce; event time moves `step_ms` a message."""
        for _ in range(count):
            lane, value, event = self._next(step_ms)
            lane_log = self.log.setdefault(lane, [])
            lane_log.append(Logged(len(lane_log), event))
            key = event["user_id"].encode() if event else b"k"
            if event and self.stray_key_every and self._made % self.stray_key_every == 0:
                self.stray_keys += 1
                key = b"stray"
            yield lane[0], lane[1], key, value

    def _next(self, step_ms: int) -> tuple[Lane, bytes, Event | None]:
        rnd = self._random
        self._made += 1
        draw = rnd.random()
        if draw < 0.005:
            return (rnd.choice(("view", "like")), rnd.randrange(self.partitions)), rnd.choice(BAD), None
        if draw < 0.02 and self._recent:
            lane, event = rnd.choice(self._recent)
            return lane, orjson.dumps(event), event
        topic, event = self._event(self.start_ms + self._made * step_ms)
        lane = (topic, int(event["user_id"][1:]) % self.partitions)
        if draw < 0.03:
            event["event_time"] -= rnd.choice((290_000, 310_000, 900_000))  # some late, some just not
        else:
            event["event_time"] -= rnd.randrange(0, 30_000)
        self._recent = [*self._recent[-200:], (lane, event)]
        return lane, orjson.dumps(event), event

    def _event(self, time: int) -> tuple[str, Event]:
        rnd = self._random
        user = rnd.randrange(self.users)
        event: Event = {"event_id": f"e{self.seed}-{self._made}", "event_time": time, "user_id": f"u{user}"}
        event["region"] = ("CN-GD", "CN-BJ", "CN-SH")[user % 3]
        if user % 4 == 0:
            event["tz"] = ("America/New_York", "Asia/Kathmandu", "Asia/Shanghai")[user % 12 // 4]
        if rnd.random() < 0.7:
            event["channel"] = rnd.choice(("feed", "search", "paid"))
        if self.platforms and (named := rnd.choice(("", *self.platforms))):
            event["platform"] = named
        room, video = f"l{rnd.randrange(6)}", f"v{rnd.randrange(40)}"
        topic = rnd.choices(("view", "like", "gift", "order"), (80, 12, 5, 3))[0]
        if topic == "view":
            self._view(event, room, video)
        elif topic == "like":
            event |= {"live_id": room, "creator_id": "c1", "tags": [f"t{rnd.randrange(12)}"]}
        elif topic == "gift":
            amount = rnd.randrange(1, 9_999)
            event |= {"live_id": room, "creator_id": "c1", "gift_id": "rose", "quantity": 1, "amount_minor": amount}
            if rnd.random() < 0.1:
                event["currency"] = "USD"
        else:
            status = rnd.choice(("created", "paid", "paid"))
            event |= {"order_id": f"o{self._made}", "status": status, "live_id": room, "product_id": "p1"}
            event |= {"quantity": 1, "amount_minor": rnd.randrange(100, 99_999)}
        return topic, event

    def _view(self, event: Event, room: str, video: str) -> None:
        rnd = self._random
        if rnd.random() < 0.3:
            event |= {"surface": "live", "live_id": room}
            if rnd.random() < 0.4:
                event["continued"] = True
        else:
            event |= {"surface": "video", "video_id": video}
        event |= {
            "creator_id": "c1",
            "category": rnd.choice(("food", "dance", "game")),
            "watch_ms": rnd.randrange(60_000),
        }
        event["tags"] = [f"t{rnd.randrange(12)}" for _ in range(rnd.randrange(3))]


def produce(brokers: str, prefix: str, traffic: Traffic, count: int, step_ms: int = 20) -> None:
    """Produce `count` messages and wait until the broker has them all."""
    producer = Producer(
        {"bootstrap.servers": brokers, "linger.ms": 20, "compression.type": "lz4", "enable.idempotence": True}
    )
    for number, (topic, partition, key, value) in enumerate(traffic.messages(count, step_ms)):
        producer.produce(prefix + topic, value, key=key, partition=partition)
        if number % 5_000 == 0:
            producer.poll(0)
    assert producer.flush(30) == 0


def hours_ago(hours: float) -> int:
    """Epoch ms."""
    return int(time.time() * 1000 - hours * 3_600_000)


def total(traffic: Traffic) -> int:
    """How many messages were produced."""
    return sum(map(len, traffic.log.values()))
