"""The recovery directory of a start that was killed before it was complete."""

from __future__ import annotations

from pathlib import Path

from flows.recovery import RecoveryDir


def test_a_start_killed_half_way_begins_anew(tmp_path: Path) -> None:
    recovery = RecoveryDir(tmp_path)
    (tmp_path / "bytewax").mkdir()
    (tmp_path / "bytewax" / "part-0.sqlite3-journal").write_bytes(b"half")
    assert not recovery.started
    recovery.begin(4, {"view/0000": 0})
    assert recovery.started
    assert [path.name for path in (tmp_path / "bytewax").iterdir()] == ["part-0.sqlite3"]
    assert recovery.raise_generation(4, 0) == (1, {"view/0000": 0})
