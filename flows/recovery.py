"""The recovery directory: lock, generation, first offsets, Bytewax's store and the state files.

lock            held by the one engine that runs on it
facts.json      format, shards, generation, first offsets
bytewax/        Bytewax's SQLite recovery store: offsets and manifests, an epoch at a time
state/          the state files that the manifests name
alignment       the workers' least event times while they run
standing        how far each worker is, for the progress line
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
from bytewax.recovery import RecoveryConfig, init_db_dir

from flows.errors import Stop
from flows.state_log import other_format

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMAT = 1


class _Format(msgspec.Struct):
    format: int


class _Facts(msgspec.Struct):
    format: int
    shards: int
    generation: int
    first_offsets: dict[str, int]


class RecoveryDir:
    """One engine's recovery directory, mode 0700: Bytewax unpickles what it finds there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts_path = path / "facts.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for this process.

        Raises:
            Stop: another engine holds it, or it is somebody else's.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self.path.chmod(0o700)
        except PermissionError:  # who owns it can plant what Bytewax unpickles
            raise Stop(f"the recovery directory {self.path} is somebody else's: it must be ours alone") from None
        with (self.path / "lock").open("a+") as file:
            _flock(file, self.path)
            yield

    @property
    def started(self) -> bool:
        """Whether an engine has run on it."""
        return self._facts_path.exists()

    @property
    def state_dir(self) -> Path:
        """Where state files live."""
        return self.path / "state"

    @property
    def alignment_path(self) -> Path:
        """Where workers see each other's event time."""
        return self.path / "alignment"

    @property
    def standing_path(self) -> Path:
        """Where workers say how far they are."""
        return self.path / "standing"

    def config(self) -> RecoveryConfig:
        """Bytewax's view of it."""
        return RecoveryConfig(str(self.path / "bytewax"))

    def begin(self, shards: int, first_offsets: dict[str, int]) -> None:
        """Prepare a first start. Facts come last: without them the directory counts as empty."""
        begun = self.path / "bytewax"
        if begun.exists():
            shutil.rmtree(begun)  # a start that was killed before it wrote the facts: the database may be half made
        begun.mkdir(mode=0o700)
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        init_db_dir(begun, 1)
        self._write(_Facts(_FORMAT, shards, 0, first_offsets))

    def raise_generation(self, shards: int, at_least: int) -> tuple[int, dict[str, int]]:
        """A durable generation above every earlier one and `at_least`; with it the first offsets.

        Raises:
            Stop: the directory is damaged, of another format or of another number of shards.
        """
        facts = self._read()
        if facts.shards != shards:
            raise Stop(
                f"setting shards = {shards}, but {self.path} was begun with {facts.shards}, "
                "which is fixed for its life; "
                f"set shards = {facts.shards}"
            )
        if not (self.path / "bytewax").is_dir() or not any((self.path / "bytewax").iterdir()):
            raise Stop(
                f"{self.path} has lost its bytewax directory: restore it from a backup, "
                "or start afresh with an empty store"
            )
        facts.generation = max(facts.generation, at_least) + 1
        self._write(facts)
        return facts.generation, facts.first_offsets

    def _read(self) -> _Facts:
        try:
            blob = self._facts_path.read_bytes()
            found = msgspec.json.decode(blob, type=_Format).format  # first: another format may have other fields
            if found != _FORMAT:
                raise other_format(str(self.path), found, _FORMAT)
            return msgspec.json.decode(blob, type=_Facts)
        except (msgspec.MsgspecError, OSError) as error:
            raise Stop(f"{self._facts_path} is damaged ({error}): restore it from a backup, or start afresh") from None

    def _write(self, facts: _Facts) -> None:
        scratch = self._facts_path.with_suffix(".new")
        with scratch.open("wb") as file:
            file.write(msgspec.json.encode(facts))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._facts_path)
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _flock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise Stop(
            f"another engine runs on {path} (process {file.read().strip() or 'unknown'}); stop it first"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
