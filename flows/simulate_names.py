"""Names of simulated rooms, hosts and products: a topic of labels, or a CSV beside the files of events."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog
from confluent_kafka import KafkaException, Producer

from flows.simulate_world import CATEGORIES, Options, Rooms
from schemas.label_messages import TOPIC, Label
from sinks.topics import ensure_topic

log = structlog.get_logger()

FILE: Final = "labels.csv"
PRODUCTS: Final = 997  # of `product_number`
_TIMEOUT_SECONDS: Final = 15.0
_CREATE_SECONDS: Final = 1.5  # the mock cluster never answers; a slower broker has made it when asked again
_SURNAMES: Final = ("Lin", "Chen", "Wang", "Zhao", "Liu", "Sun", "Zhou", "Wu", "Xu", "Hu", "Guo", "He", "Gao", "Luo")
_GIVEN: Final = ("Yue", "Na", "Wei", "Xin", "Ming", "Jia", "Rui", "Fei", "Lan", "Hao", "Qing", "Bo", "Ting")
_SHOWS: Final = {
    "food": "Street food night", "dance": "Dance along", "game": "Ranked all evening", "beauty": "Make-up table",
    "knowledge": "Ask me anything", "comedy": "Open stage", "music": "Old songs live", "sport": "Home workout",
    "pets": "Cat café", "travel": "Mountain road",
}  # fmt: skip
_QUALITIES: Final = ("Silk", "Bamboo", "Crystal", "Jade", "Copper", "Linen", "Cedar", "Pearl", "Velvet")
_THINGS: Final = ("lamp", "scarf", "teapot", "cushion", "serum", "rice cooker", "headset", "notebook", "sneakers",
                  "parasol", "noodle set")  # fmt: skip


def host_name(creator: int) -> str:
    """The first 182 have a name of their own, later ones a number as well."""
    number, given = divmod(creator, len(_GIVEN))
    again, surname = divmod(number, len(_SURNAMES))
    return f"{_SURNAMES[surname]} {_GIVEN[given]}" + (f" {again + 1}" if again else "")


def product_name(product: int) -> str:
    """A quality, a thing and a model."""
    return f"{_QUALITIES[product % len(_QUALITIES)]} {_THINGS[product % len(_THINGS)]} {product}"


def standing_labels(options: Options) -> Iterator[Label]:
    """Names that are there from the start: hosts and products."""
    yield from (Label("creator", f"c{number}", host_name(number)) for number in range(options.creators))
    yield from (Label("product", f"p{number}", product_name(number)) for number in range(PRODUCTS))


def room_labels(rooms: Rooms, first: int) -> Iterator[Label]:
    """Names of the rooms from number `first` on."""
    for room in range(first, len(rooms.creator)):
        show, host = _SHOWS[CATEGORIES[rooms.category[room]]], host_name(rooms.creator[room])
        yield Label("live", f"l{room}", f"{show} · {host}")


def write_names(directory: Path, options: Options, rooms: Rooms) -> None:
    """Write them for `livepulse labels`."""
    with (directory / FILE).open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(("kind", "id", "name"))
        out.writerows((one.kind, one.id, one.name) for one in (*standing_labels(options), *room_labels(rooms, 0)))


class NameSender:
    """Sends names of what there is, then of each room that opens. Without the topic nothing is sent: it is no event."""

    def __init__(self, brokers: str, options: Options, properties: Mapping[str, str] | None = None) -> None:
        self._topic, self._rooms_named = options.topic_prefix + TOPIC, 0
        self._producer: Producer | None = None
        settings = {**(properties or {}), "bootstrap.servers": brokers, "log_level": "0"}
        try:
            ensure_topic(settings, self._topic, {"cleanup.policy": "compact"}, _CREATE_SECONDS)
        except KafkaException as error:
            log.warning("no names: their topic cannot be made", topic=self._topic, error=error.args[0].str())
            return
        self._producer = Producer({**settings, "enable.idempotence": True, "linger.ms": 50})
        self._send(standing_labels(options))

    def follow(self, rooms: Rooms) -> None:
        """Send the names of rooms that have come since."""
        if len(rooms.creator) > self._rooms_named:
            self._send(room_labels(rooms, self._rooms_named))
            self._rooms_named = len(rooms.creator)

    def close(self) -> None:
        """Let what is under way arrive."""
        if self._producer is not None:
            self._producer.flush(_TIMEOUT_SECONDS)

    def _send(self, labels: Iterator[Label]) -> None:
        if self._producer is None:
            return
        for label in labels:
            value = json.dumps({"name": label.name}, ensure_ascii=False)
            self._producer.produce(self._topic, value, key=f"{label.kind}/{label.id}")
        self._producer.poll(0)
