"""The state log: truncation to what was committed, compaction, damage refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from flows import state_log
from flows.errors import Stop
from flows.state_log import StateLog, read_manifest


class Counter:
    """The least persistent state: a list of numbers, its delta the new ones."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._saved = 0

    def add(self, *numbers: int) -> None:
        self.numbers += numbers

    def snapshot(self) -> bytes:
        self._saved = len(self.numbers)
        return bytes(self.numbers)

    def delta(self) -> bytes:
        fresh = bytes(self.numbers[self._saved :])
        self._saved = len(self.numbers)
        return fresh

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        self.numbers = [*snapshot, *(n for delta in deltas for n in delta)]
        self._saved = len(self.numbers)


def resumed(directory: Path, manifest: bytes) -> tuple[StateLog, Counter]:
    log, part = StateLog(directory, "shard-00"), Counter()
    log.resume(read_manifest(manifest), {"c": part})
    return log, part


def test_resume_forgets_what_was_not_committed(tmp_path: Path) -> None:
    log, part = StateLog(tmp_path, "shard-00"), Counter()
    part.add(1)
    log.write({"c": part}, {})
    part.add(2)
    committed = log.write({"c": part}, {"watermark": 5})
    part.add(3)
    log.write({"c": part}, {})
    again, state = resumed(tmp_path, committed)
    assert state.numbers == [1, 2]
    assert read_manifest(committed).facts == {"watermark": 5}
    state.add(9)
    final = again.write({"c": state}, {})
    assert resumed(tmp_path, final)[1].numbers == [1, 2, 9]


def test_an_epoch_without_changes_writes_nothing(tmp_path: Path) -> None:
    log, part = StateLog(tmp_path, "shard-00"), Counter()
    part.add(1)
    log.write({"c": part}, {})
    written = log.bytes_written
    log.write({"c": part}, {})
    assert log.bytes_written == written


def test_what_was_superseded_stays_for_the_last_epochs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_log, "_COMPACT_MIN_BYTES", 200)
    log, part = StateLog(tmp_path, "shard-00"), Counter()
    files, most, manifest = set[str](), 0, b""
    for number in range(120):
        part.add(number % 256)
        before, manifest = manifest, log.write({"c": part}, {})
        files |= {path.name for path in tmp_path.iterdir()}
        most = max(most, len(list(tmp_path.iterdir())))
        assert not before or (tmp_path / read_manifest(before).file).exists()
    assert len(files) > 5
    assert most <= 3
    assert resumed(tmp_path, manifest)[1].numbers == [n % 256 for n in range(120)]


def test_a_snapshot_is_written_part_by_part(tmp_path: Path) -> None:
    log, parts = StateLog(tmp_path, "shard-00"), {str(number): Counter() for number in range(5)}
    for number, part in enumerate(parts.values()):
        part.numbers = [number] * 1_000_000
    tracemalloc.start()
    try:
        manifest = read_manifest(log.write(parts, {}))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert manifest.length > 5_000_000
    assert most < 2_000_000  # one part, and not two at a time
    restored = {name: Counter() for name in parts}
    StateLog(tmp_path, "shard-00").resume(manifest, restored)
    assert [part.numbers for part in restored.values()] == [part.numbers for part in parts.values()]


@pytest.mark.parametrize("harm", ["gone", "short", "flipped"])
def test_damage_is_refused(tmp_path: Path, harm: str) -> None:
    log, part = StateLog(tmp_path, "shard-00"), Counter()
    part.add(*range(50))
    manifest = log.write({"c": part}, {})
    (path,) = tmp_path.iterdir()
    blob = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "short":
        path.write_bytes(blob[:-1])
    else:
        blob[-3] ^= 1
        path.write_bytes(blob)
    with pytest.raises(Stop, match=str(tmp_path)):
        resumed(tmp_path, manifest)


def test_without_a_directory_nothing_is_kept() -> None:
    log, part = StateLog(None, "shard-00"), Counter()
    part.add(1)
    assert log.write({"c": part}, {}) == b""
