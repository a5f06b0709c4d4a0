"""Recovery state whose cost an epoch follows what changed, not how much there is.

The state of one key (a shard, a family) is an append-only file: one snapshot of everything, then the delta of each
epoch. What Bytewax stores is a manifest: the file's name and the length that is valid. A resume truncates the file to
that length, which undoes what an epoch wrote that never committed. When deltas outgrow the snapshot the state is
written whole to a new file; old files go once no manifest that could be resumed from names them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct

import msgspec

from flows.errors import Stop
from flows.kernel import Persistent
from flows.side_by_side import side_by_side

FORMAT = 1
_OTHER_VERSION = (
    "Run the version of LivePulse that wrote it, or start afresh: with an empty recovery directory and an empty store "
    "Kafka is read again from the setting `from`"
)
_FRAME = Struct("<QI")  # payload length, CRC-32
_COMPACT_MIN_BYTES = 64 << 20
_KEPT_WRITES = 8  # the source waits for each epoch, so the one before the last is the oldest that may be resumed from
_COMPACT_RATIO = 3  # rewrite when the file is this many times its snapshot


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot of one key says: which file holds its state, and how much of it."""

    format: int
    key: str
    file: str
    length: int
    facts: dict[str, int]  # the small numbers of a step: watermark, sequence


class _Record(msgspec.Struct, array_like=True):
    full: bool
    parts: dict[str, bytes]


@dataclass(slots=True)
class StateLog:
    """The file of one key. `directory=None` keeps nothing (backfill, tests without recovery)."""

    directory: Path | None
    key: str
    fsync: bool = True
    _file: str = ""
    _length: int = 0
    _snapshot_bytes: int = 0
    _number: int = 0
    _older: list[tuple[str, int]] = field(default_factory=list)  # superseded files, and the writes since
    bytes_written: int = 0

    @property
    def size(self) -> int:
        """Bytes of the current file that are valid."""
        return self._length

    def write(self, parts: Mapping[str, Persistent], facts: dict[str, int]) -> bytes:
        """Persist what changed since the last call; the manifest's bytes."""
        if self.directory is None:
            for part in parts.values():
                part.delta()  # thrown away, or it would grow for as long as the backfill lasts
            return b""
        full = not self._file or self._length > max(_COMPACT_MIN_BYTES, _COMPACT_RATIO * self._snapshot_bytes)
        if full:
            self._start_file()
            self._append(_record(((name, part.snapshot()) for name, part in parts.items()), len(parts), full=True))
            self._snapshot_bytes = self._length
        else:
            taken = side_by_side([part.delta for part in parts.values()])
            blobs = {name: blob for name, blob in zip(parts, taken, strict=True) if blob}
            if blobs:
                self._append(_record(blobs.items(), len(blobs), full=False))
        self._drop_old()
        return msgspec.msgpack.encode(Manifest(FORMAT, self.key, self._file, self._length, facts))

    def _start_file(self) -> None:
        assert self.directory is not None
        if self._file:
            self._older.append((self._file, 0))
        self._number += 1
        # The process id keeps a file that a dead run left uncommitted from being taken for ours.
        self._file = f"{self.key}.{self._number:06d}.{os.getpid()}.log"
        self._length = 0

    def _append(self, chunks: Iterable[bytes]) -> None:
        """Write a record, each piece as it is made; what its frame says of it is known at the end."""
        assert self.directory is not None
        at, crc = self._length + _FRAME.size, 0
        descriptor = os.open(self.directory / self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for chunk in chunks:
                crc = zlib.crc32(chunk, crc)
                at = _write_at(descriptor, chunk, at)
                del chunk  # the next one is made without it
            size = at - self._length - _FRAME.size
            _write_at(descriptor, _FRAME.pack(size, crc), self._length)
            if self.fsync:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._length = at
        self.bytes_written += _FRAME.size + size

    def _drop_old(self) -> None:
        """Remove files that no epoch which may be resumed from names any more: each write is of another epoch."""
        assert self.directory is not None
        older, self._older = self._older, []
        for name, writes in older:
            if writes < _KEPT_WRITES:
                self._older.append((name, writes + 1))
            else:
                (self.directory / name).unlink(missing_ok=True)

    def resume(self, manifest: Manifest, parts: Mapping[str, Persistent]) -> None:
        """Restore `parts` from the file that `manifest` names.

        Raises:
            Stop: the file is missing, shorter than the manifest says, damaged, or of a format of another version.
        """
        if self.directory is None:
            raise Stop("there is recovery state but no directory to read it from")
        path = self.directory / manifest.file
        records = list(read_records(path, manifest.length))
        if not records or not records[0].full:
            raise Stop(f"recovery state {path} does not start with a snapshot: it is damaged; restore it from a backup")
        for name, part in parts.items():
            try:
                part.restore(records[0].parts.get(name, b""), [r.parts[name] for r in records[1:] if name in r.parts])
            except ValueError as error:  # a kernel's own format, which its text names
                raise Stop(f"recovery state {path}, {name}: {error}. {_OTHER_VERSION}") from error
        self._file, self._length = manifest.file, manifest.length
        self._snapshot_bytes = _FRAME.size + len(msgspec.msgpack.encode(records[0]))
        self._number = int(manifest.file.rsplit(".", 3)[1])
        os.truncate(path, manifest.length)
        for other in self.directory.glob(f"{self.key}.*.log"):
            if other != path:  # begun by a run that did not get to commit it, or already superseded
                other.unlink()


def _record(parts: Iterable[tuple[str, bytes]], count: int, *, full: bool) -> Iterator[bytes]:
    """A `_Record`'s MessagePack in pieces, the parts' bytes as they are: copies of all of them cost more than the disk.

    Parts are asked for one at a time: a snapshot of all of them at once is a peak of memory.
    """
    empty = msgspec.msgpack.encode(_Record(full, {}))
    yield empty[:-1] + b"\xdf" + count.to_bytes(4, "big")  # map 32
    for name, blob in parts:
        yield msgspec.msgpack.encode(name) + b"\xc6" + len(blob).to_bytes(4, "big")  # bin 32
        yield blob
        del blob


def _write_at(descriptor: int, chunk: bytes, at: int) -> int:
    """Write all of it; where it ends."""
    view = memoryview(chunk)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done
    return at


def read_records(path: Path, length: int) -> Iterator[_Record]:
    """The records in the first `length` bytes of a state file, each checked against its CRC."""
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        raise Stop(
            f"recovery state {path} is missing: restore it from a backup, or start afresh on an empty store"
        ) from None
    if len(blob) < length:
        raise Stop(f"recovery state {path} has {len(blob)} bytes of {length}: it is damaged; restore it from a backup")
    at = 0
    while at < length:
        size, crc = _FRAME.unpack_from(blob, at)
        at += _FRAME.size
        payload = blob[at : at + size]
        if len(payload) != size or zlib.crc32(payload) != crc:
            raise Stop(f"recovery state {path} is damaged at byte {at}: restore it from a backup")
        at += size
        yield msgspec.msgpack.decode(payload, type=_Record)


def read_manifest(blob: bytes) -> Manifest:
    """A manifest from a snapshot's bytes.

    Raises:
        Stop: it is of another format.
    """
    check_format("recovery state", blob, FORMAT)
    return msgspec.msgpack.decode(blob, type=Manifest)


def check_format(what: str, blob: bytes, wanted: int) -> None:
    """Look at the number that a packed list begins with, before its other fields: those of another format may differ.

    Raises:
        Stop: it is another number.
    """
    fields = msgspec.msgpack.decode(blob)
    found = fields[0] if isinstance(fields, list) and fields else None
    if found != wanted:
        raise other_format(what, found, wanted)


def other_format(what: str, found: object, wanted: int) -> Stop:
    """What to say of state that another version of LivePulse wrote."""
    return Stop(f"{what} is of format {found}; this version reads {wanted}. {_OTHER_VERSION}")
