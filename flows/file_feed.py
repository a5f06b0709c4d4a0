"""Reads event files for a backfill: NDJSON, plain, `.gz` or `.zst`. Each file is one partition, numbered from 0."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
import polars as pl
import zstandard

from flows.errors import Usage
from flows.intake import Intake
from flows.messages import MIN_TIME
from flows.parts import MINUTE_MS, UNKNOWN_KIND, Kinds, Messages, PartBuilder, Stretch, kind_of
from flows.source import PartitionState
from schemas.decode import Decoded


def open_lines(path: Path) -> IO[bytes]:
    """A file of lines, decompressed by its name's ending.

    Raises:
        Usage: the file cannot be read.
    """
    return _opened(path)[0]


def _opened(path: Path) -> tuple[IO[bytes], int]:
    """The file, and the descriptor beneath, whose position says how far it was read."""
    try:
        if path.suffix == ".gz":
            zipped = gzip.open(path, "rb")  # noqa: SIM115  # the caller closes it
            return cast("IO[bytes]", zipped), zipped.fileno()
        raw = path.open("rb")
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix in {".zst", ".zstd"}:
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw), 1 << 20), raw.fileno()
    return raw, raw.fileno()


def read_batches(path: Path, size: int, at: Callable[[int], None] = lambda _: None) -> Iterator[list[bytes]]:
    """Lines without their ends, in batches; `at` is told how many bytes of the file have been read."""
    file, descriptor = _opened(path)
    with file:
        while lines := list(itertools.islice(file, size)):
            at(os.lseek(descriptor, 0, os.SEEK_CUR))
            yield [line.rstrip(b"\r\n") for line in lines]


class FileFeed:
    """A thread that reads the files in turn, a batch of each, and puts their parts into the intake."""

    def __init__(
        self,
        files: Sequence[Path],
        intake: Intake,
        builder: PartBuilder,
        *,
        batch_lines: int,
        max_waiting: int,
        clock: Callable[[], int],
    ) -> None:
        self._files = {file_name(i): path for i, path in enumerate(files)}
        self._intake, self._builder = intake, builder
        self._batch, self._max_waiting, self._clock = batch_lines, max_waiting, clock
        self._minute = clock() // MINUTE_MS * MINUTE_MS
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.topology_changed = False
        self.failure: BaseException | None = None
        self._sizes = sum(path.stat().st_size for path in files)
        self._done: dict[str, int] = {}  # bytes read, by lane
        self.lines = 0
        self.late = 0
        self.worst_lateness_ms = 0

    @property
    def names(self) -> list[str]:
        """The partitions, in the files' order."""
        return list(self._files)

    @property
    def done(self) -> float:
        """The share of the files' bytes that was read."""
        return min(1.0, sum(self._done.values()) / max(1, self._sizes))

    def open(self, name: str, state: PartitionState | None) -> None:
        """Bytewax opens partitions one by one; reading starts with the last of them."""
        assert state is None, "a backfill has no recovery"
        self._intake.add(name, 0, MIN_TIME, self._clock())
        if self._thread is None and len(self._intake.waiting()) == len(self._files):
            self._thread = threading.Thread(target=self._guarded, name="read", daemon=True)
            self._thread.start()

    def commit(self, name: str, offset: int) -> None:
        """Files have no consumer group."""

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def _guarded(self) -> None:
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001  # the dataflow's thread raises it again
            self.failure = error

    def _read(self) -> None:
        lanes = {
            name: _Reader(index, read_batches(path, self._batch, partial(self._done.__setitem__, name)))
            for index, (name, path) in enumerate(self._files.items())
        }
        while lanes and not self._stop.is_set():
            waiting = self._intake.waiting()
            total = sum(waiting.values())
            # The file with the least waiting is the one that may hold the others back.
            name = min(lanes, key=lambda n: waiting[n])
            if waiting[name] and total >= self._max_waiting:
                self._stop.wait(0.002)
                continue
            lines = next(lanes[name].batches, None)
            if lines is None:
                del lanes[name]
                self._intake.caught_up(name, caught_up=True)
                continue
            self._put(name, lanes[name], lines)

    def _put(self, name: str, reader: _Reader, lines: list[bytes]) -> None:
        now = self._clock()
        count = len(lines)
        decoded = self._builder.decoder.decode_lines(lines, now)
        offsets = np.arange(reader.offset, reader.offset + count, dtype=np.int64)
        minutes = np.full(count, self._minute, dtype=np.int64)
        stretch = Stretch(reader.index, 0, count, reader.max_event_time)
        messages = Messages([stretch], offsets, minutes, _kinds(decoded, count), lines, now)
        (part,) = self._builder.build(messages, decoded)
        reader.offset += count
        reader.max_event_time = int(part.maxima[-1])
        self.lines += count
        self._count_late(part.late.frame)
        self._intake.put(name, part)

    def _count_late(self, late: pl.DataFrame) -> None:
        if late.height:
            self.late += late.height
            behind = cast("int", (late["max_event_time"] - late["event_time"]).max())
            self.worst_lateness_ms = max(self.worst_lateness_ms, behind)


def _kinds(decoded: Decoded, count: int) -> Kinds:
    """The topic that each line names, by number."""
    kinds = np.full(count, UNKNOWN_KIND, dtype=np.uint8)
    kinds[decoded.frame["row"].to_numpy()] = decoded.frame["kind"].to_numpy()
    rejects = decoded.rejects
    kinds[rejects["row"].to_numpy()] = [kind_of(topic) for topic in rejects["topic"].to_list()]
    return kinds


class _Reader:
    """Where one file stands."""

    def __init__(self, index: int, batches: Iterator[list[bytes]]) -> None:
        self.index, self.batches = index, batches
        self.offset = 0
        self.max_event_time = MIN_TIME


def file_name(index: int) -> str:
    """The lane of the file with this number."""
    return f"file/{index:04d}"
