"""Reads tens of thousands of messages at once out of librdkafka, without an object for each and without the GIL.

`Consumer.consume` makes a Python object a message (0.4 µs, with the GIL held) and taking it apart costs as much again.
Here the same client's queue is read through librdkafka's C interface, from the library that `confluent_kafka` itself is
linked with, and compiled code copies the messages into arrays. All else (assign, pause, commit, close) stays with the
`Consumer`. Sources: `rd_kafka_message_t` and `rd_kafka_consume_batch_queue` in librdkafka's rdkafka.h, whose layout and
names have not changed since 0.9; `Handle` in confluent_kafka.h, whose first field is the client.
"""
# ruff: noqa: PLR0913, PLR0917  # compiled code takes arrays one by one

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import confluent_kafka.cimpl
import llvmlite.binding
import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, TopicPartition
from numba import types

from schemas.decode_compile import Bytes, compiled, copy_in, inlined, peek, peek32, prefetch_at
from schemas.decode_rules import Int64s
from schemas.decode_text import PADDING, Texts

Pointers = npt.NDArray[np.uint64]

# Places of the fields of rd_kafka_message_t on 64-bit machines
_TOPIC, _PARTITION, _PAYLOAD, _SIZE, _KEY, _KEY_SIZE, _OFFSET = 8, 16, 24, 32, 40, 48, 56
_CLIENT: Final = object.__basicsize__  # of a Consumer: the client comes right behind the object's head
_MOST_LANES: Final = 4096
_LEAST_SHARE: Final = 1_000  # of messages: a partition's run costs some microseconds by itself
_LOOK_SECONDS: Final = 0.005  # between two looks …
_LOOK_SECONDS_EACH: Final = 1e-4  # … and at least so long for each queue: a look at one takes some microseconds
_FAILED: Final = -1
_AHEAD: Final = 8  # messages that are on their way from memory while one is copied
_APPEND_TIME: Final = 2  # RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME

_library = ctypes.CDLL(confluent_kafka.cimpl.__file__)  # finds the names of what it is linked with, too
for _name, _answer, _given in (
    ("rd_kafka_queue_get_consumer", ctypes.c_void_p, [ctypes.c_void_p]),
    ("rd_kafka_queue_get_partition", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32]),
    ("rd_kafka_queue_forward", None, [ctypes.c_void_p, ctypes.c_void_p]),
    ("rd_kafka_queue_destroy", None, [ctypes.c_void_p]),
    ("rd_kafka_consume_batch_queue", ctypes.c_ssize_t,
     [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]),
    ("rd_kafka_topic_name", ctypes.c_char_p, [ctypes.c_void_p]),
    ("rd_kafka_message_timestamp", ctypes.c_int64, [ctypes.c_void_p, ctypes.c_void_p]),
    ("rd_kafka_message_destroy", None, [ctypes.c_void_p]),
    ("rd_kafka_conf", ctypes.c_void_p, [ctypes.c_void_p]),
    ("rd_kafka_conf_set_error_cb", None, [ctypes.c_void_p, ctypes.c_void_p]),
):  # fmt: skip
    _function = getattr(_library, _name)
    _function.restype, _function.argtypes = _answer, _given
    llvmlite.binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
_destroy: Any = types.ExternalFunction("rd_kafka_message_destroy", types.void(types.uint64))
_timestamp: Any = types.ExternalFunction("rd_kafka_message_timestamp", types.int64(types.uint64, types.uint64))


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive messages of one partition: rows `first` up to before `last` of the batch."""

    topic: str
    partition: int
    first: int
    last: int
    append_time: bool  # stamps are the broker's

    def moved(self, by: int) -> Run:
        """The same messages in a batch where they are `by` rows further on."""
        return replace(self, first=self.first + by, last=self.last + by)


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error that came instead of a message."""

    code: int
    topic: str
    partition: int
    offset: int
    text: str

    @property
    def error(self) -> KafkaError:
        """As the library has it."""
        return KafkaError(self.code, self.text)


@dataclass(frozen=True, slots=True)
class Batch:
    """n messages, those of each partition together and in order. Arrays of length n; stamps in epoch ms (or −1)."""

    runs: list[Run]
    values: Texts
    keys: Texts
    offsets: Int64s
    stamps: Int64s
    troubles: list[Trouble] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.offsets)

    def rows(self, first: int, last: int) -> Batch:
        """Rows `first` up to before `last`, without runs and troubles. Values and keys stay where they are."""
        cut = slice(first, last)
        return Batch([], self.values.rows(cut), self.keys.rows(cut), self.offsets[cut], self.stamps[cut])


class BatchReader:
    """Takes batches from the queues of a consumer's partitions. For one thread, the one that calls the consumer.

    Each partition has a queue of its own: in the consumer's common one, what is wanted stands behind what may wait.
    """

    def __init__(self, consumer: Consumer, most: int) -> None:
        self._client = ctypes.c_void_p.from_address(id(consumer) + _CLIENT).value
        self._consumer = consumer  # must outlive the queues
        self._common = _library.rd_kafka_queue_get_consumer(self._client)
        self._queues: dict[str, int] = {}
        # The Python package's error callback may only run within its own calls: in ours it aborts the process, which
        # is what a broker that went away did. Without it librdkafka logs such errors and goes on trying.
        _library.rd_kafka_conf_set_error_cb(_library.rd_kafka_conf(self._client), None)
        self._pointers = np.zeros(most, dtype=np.uint64)
        self._address = self._pointers.ctypes.data
        self._kept: list[int] = []  # errors that `forget` came upon
        _taken(self._pointers[:0])  # loads the compiled code

    def open(self, name: str, place: TopicPartition) -> None:
        """Read this partition under a name from now on: right after it was assigned to the common queue."""
        queue = _library.rd_kafka_queue_get_partition(self._client, place.topic.encode(), place.partition)
        _library.rd_kafka_queue_forward(queue, None)
        self._queues[name] = queue

    def read(
        self, seconds: float, wanted: Mapping[str, int], may_wait: Callable[[], bool] = lambda: False
    ) -> Batch | None:
        """What comes within `seconds` of these partitions, of each at most so many messages; None when nothing did.

        They are asked in this order, for an even share each. Half a batch does not wait for more; less of one also goes
        on while it `may_wait`.
        """
        most, end = len(self._pointers), time.monotonic() + seconds
        share, left = max(_LEAST_SHARE, most // max(1, len(wanted))), dict(wanted)
        pause = max(_LOOK_SECONDS, _LOOK_SECONDS_EACH * len(left))
        kept, self._kept = self._kept[:most], self._kept[most:]
        self._pointers[: len(kept)] = kept
        count = len(kept) + self._take(self._common, len(kept), most - len(kept))
        while True:
            before = count
            for name, may in left.items():
                came = self._take(self._queues[name], count, min(share, may, most - count))
                left[name], count = may - came, count + came
            rest, more = end - time.monotonic(), count - before >= _LEAST_SHARE  # else the queues are empty now
            if rest <= 0 and 0 < 2 * count < most and may_wait():
                rest = pause  # one more look
            if rest <= 0 or count == most or (2 * count >= most and not more):
                return _taken(self._pointers[:count]) if count > 0 else None
            if not more:
                time.sleep(min(rest, pause))

    def forget(self, names: Iterable[str]) -> None:
        """Let go of what waits of partitions that were paused; they go on behind the last message read.

        The library throws it away when the queue is read next, and until then keeps it. Errors that would not come
        again are kept for `read`.
        """
        for name in names:
            while self._take(self._queues[name], 0, 1):
                self._kept.append(int(self._pointers[0]))

    def _take(self, queue: int, count: int, most: int) -> int:
        """Put at most `most` messages behind the `count` that are there; how many came."""
        if most <= 0:
            return 0
        came: int = _library.rd_kafka_consume_batch_queue(queue, 0, self._address + 8 * count, most)
        return max(0, came)

    def close(self) -> None:
        """Let go of the queues; before the consumer is closed."""
        _give_back(np.array(self._kept, dtype=np.uint64))
        self._kept = []
        for queue in (*self._queues.values(), self._common):
            _library.rd_kafka_queue_destroy(queue)
        self._queues, self._common = {}, None


def _taken(pointers: Pointers) -> Batch:
    """Copy the messages and give them back to the library."""
    count = len(pointers)
    lanes, lane_of = np.zeros((_MOST_LANES, 2), dtype=np.int64), np.empty(count, dtype=np.int64)
    sizes = np.zeros(3, dtype=np.int64)
    _describe(pointers, lanes, lane_of, sizes)
    known, size, key_size = sizes.tolist()
    good = lane_of != _FAILED
    troubles = [] if good.all() else [_trouble(int(p)) for p in pointers[~good]]
    number = int(good.sum())
    order = np.argsort(lane_of, kind="stable")[count - number :]
    values, keys = _empty(number, size), _empty(number, key_size)
    offsets, stamps = np.empty(number, dtype=np.int64), np.empty(number, dtype=np.int64)
    kinds, kind = np.empty(number, dtype=np.int64), np.zeros(1, dtype=np.int32)
    places = [(_name_of(topic), partition) for topic, partition in lanes[:known].tolist()]  # while messages hold them
    _take_over(
        pointers, order, values.text, values.starts, values.ends, values.present,
        keys.text, keys.starts, keys.ends, keys.present, offsets, stamps, kinds, kind, kind.ctypes.data,
    )  # fmt: skip
    for texts in (values, keys):
        texts.text.setflags(write=False)  # as `Texts.of` has it: a writable array would be another type to Numba
    ends = np.cumsum(np.bincount(lane_of[good], minlength=known)).tolist()
    append_time = kinds == _APPEND_TIME
    runs = [
        Run(topic, partition, first, last, append_time=bool(append_time[first:last].all()))
        for (topic, partition), first, last in zip(places, [0, *ends], ends, strict=False)
    ]
    _give_back(pointers[~good])
    return Batch(runs, values, keys, offsets, stamps, troubles)


def _empty(count: int, size: int) -> Texts:
    """Room for texts of `size` bytes in all."""
    text = np.empty(size + count + len(PADDING), dtype=np.uint8)
    text[size + count :] = np.frombuffer(PADDING, dtype=np.uint8)
    starts, ends = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    return Texts(text, starts, ends, np.empty(count, dtype=np.bool_))


def _name_of(topic: int) -> str:
    return str(_library.rd_kafka_topic_name(topic).decode()) if topic else ""


def _trouble(message: int) -> Trouble:
    code = ctypes.c_int32.from_address(message).value
    payload = ctypes.c_void_p.from_address(message + _PAYLOAD).value
    text = ctypes.string_at(payload, ctypes.c_size_t.from_address(message + _SIZE).value) if payload else b""
    return Trouble(
        code,
        _name_of(ctypes.c_void_p.from_address(message + _TOPIC).value or 0),
        ctypes.c_int32.from_address(message + _PARTITION).value,
        ctypes.c_int64.from_address(message + _OFFSET).value,
        text.decode(errors="replace"),
    )


@compiled
def _describe(messages: Pointers, lanes: Int64s, lane_of: Int64s, sizes: Int64s) -> None:
    """Number the partitions in `lanes` (topic's address, partition) and say which each message is of (−1: an error).

    `sizes`: how many lanes there are, bytes of values, bytes of keys.
    """
    known, lane = 0, 0
    for i in range(len(messages)):
        if i + 2 * _AHEAD < len(messages):
            prefetch_at(messages[i + 2 * _AHEAD])
        message = messages[i]
        if peek32(message) != 0:
            lane_of[i] = _FAILED
            continue
        topic, partition = peek(message + np.uint64(_TOPIC)), peek32(message + np.uint64(_PARTITION))
        if lane >= known or lanes[lane, 0] != topic or lanes[lane, 1] != partition:
            lane = 0
            while lane < known and (lanes[lane, 0] != topic or lanes[lane, 1] != partition):
                lane += 1
            if lane == known:
                lanes[lane, 0], lanes[lane, 1] = topic, partition
                known += 1
        lane_of[i] = lane
        sizes[1] += peek(message + np.uint64(_SIZE))
        sizes[2] += peek(message + np.uint64(_KEY_SIZE))
    sizes[0] = known


@inlined
def _copy(
    message: np.uint64, place: int, size_place: int, i: int, used: int,
    text: Bytes, starts: Int64s, ends: Int64s, present: npt.NDArray[np.bool_],
) -> int:  # fmt: skip
    """Copy a value or key (`place`, `size_place`: of the fields that say where it is) and an end of line behind it."""
    source, size = peek(message + np.uint64(place)), peek(message + np.uint64(size_place))
    starts[i], present[i] = used, source != 0
    if source != 0 and size > 0:
        copy_in(text, used, source, size)
        used += size
    ends[i] = used
    text[used] = 10
    return used + 1


@compiled
def _take_over(
    messages: Pointers, order: Int64s,
    text: Bytes, starts: Int64s, ends: Int64s, present: npt.NDArray[np.bool_],
    key_text: Bytes, key_starts: Int64s, key_ends: Int64s, key_present: npt.NDArray[np.bool_],
    offsets: Int64s, stamps: Int64s, kinds: Int64s, kind: npt.NDArray[np.int32], address: int,
) -> None:  # fmt: skip
    """Copy values, keys, offsets, times and what kind of time each is, and give each message back.

    `address`: of `kind`, where the library puts it. All at once, since each message's memory is far from the others'.
    """
    used = key_used = 0
    for i in range(len(order)):
        if i + 2 * _AHEAD < len(order):
            prefetch_at(messages[order[i + 2 * _AHEAD]])
        if i + _AHEAD < len(order):
            prefetch_at(np.uint64(peek(messages[order[i + _AHEAD]] + np.uint64(_PAYLOAD))))
        message = messages[order[i]]
        used = _copy(message, _PAYLOAD, _SIZE, i, used, text, starts, ends, present)
        key_used = _copy(message, _KEY, _KEY_SIZE, i, key_used, key_text, key_starts, key_ends, key_present)
        offsets[i] = peek(message + np.uint64(_OFFSET))
        stamps[i] = _timestamp(message, np.uint64(address))
        kinds[i] = kind[0]
        _destroy(message)


@compiled
def _give_back(messages: Pointers) -> None:
    for i in range(len(messages)):
        _destroy(messages[i])
