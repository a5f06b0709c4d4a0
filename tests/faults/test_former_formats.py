"""State that another version wrote: `livepulse run` refuses it, names both numbers, and writes nothing."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from flows.broker import Broker
from flows.state_log import _FRAME, _Record, _record
from tests.faults.conftest import Begin, long
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import produce

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(400), long]
Change = Callable[[Path], None]


def facts(**changes: object) -> Change:
    def change(recovery: Path) -> None:
        path = recovery / "facts.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def facts_are(text: str) -> Change:
    return lambda recovery: (recovery / "facts.json").write_text(text) and None


def snapshots(step: str, fields: Callable[[list[object]], list[object]]) -> Change:
    """Rewrite what Bytewax's store holds for one step: pickled bytes, a packed list that begins with its format."""

    def change(recovery: Path) -> None:
        database = sqlite3.connect(recovery / "bytewax" / "part-0.sqlite3")
        rows = database.execute("SELECT rowid, ser_change FROM snaps WHERE step_id = ?", (f"livepulse.{step}",))
        for row, blob in rows.fetchall():
            packed = msgspec.msgpack.encode(fields(msgspec.msgpack.decode(pickle.loads(blob))))
            database.execute("UPDATE snaps SET ser_change = ? WHERE rowid = ?", (pickle.dumps(packed), row))
        database.commit()
        database.close()

    return change


def kernel(key: str, part: str, places: dict[bytes, int]) -> Change:
    """Count one down at the byte behind a mark (at the blob's start: b"") in one kernel's part of a state file."""

    def former(blob: bytes) -> bytes:
        found = next(((mark, at) for mark, at in places.items() if mark in blob[:40]), None)
        if found is None:  # a delta in which nothing is of this kernel
            return blob
        at = blob.index(found[0]) + found[1]
        return blob[:at] + bytes([blob[at] - 1]) + blob[at + 1 :]

    def change(recovery: Path) -> None:
        (path,) = (recovery / "state").glob(f"{key}.*.log")
        blob, at, out = path.read_bytes(), 0, b""
        while at < len(blob):
            size, _ = _FRAME.unpack_from(blob, at)
            record = msgspec.msgpack.decode(blob[at + _FRAME.size : at + _FRAME.size + size], type=_Record)
            parts = {name: former(of) if name == part else of for name, of in record.parts.items()}
            payload = b"".join(_record(parts.items(), len(parts), full=record.full))
            assert len(payload) == size
            out += _FRAME.pack(size, zlib.crc32(payload)) + payload
            at += _FRAME.size + size
        path.write_bytes(out)

    return change


NAMED = {b"\xa6format": 7}
LISTED = {b"": 1}
WATCHED = {b"watched2\x93\xc5": 13, b"watched2\x93\xc6": 15}  # a list's format, within what watches it
CASES: dict[str, tuple[Change, str]] = {
    "directory, former": (facts(format=0), r"recovery is of format 0; this version reads 1"),
    "directory, later": (facts(format=2), r"recovery is of format 2; this version reads 1"),
    "directory, other fields": (facts_are('{"format": 0, "slices": 4}'), r"is of format 0; this version reads 1"),
    "directory, no format": (facts_are('{"shards": 4}'), r"facts\.json is damaged"),
    "source, former": (snapshots("source", lambda f: [0, *f[1:]]), r"source partition \S+ is of format 0; this"),
    "source, other fields": (snapshots("source", lambda f: [2, "x"]), r"source partition \S+ is of format 2; this"),
    "shard manifest, former": (snapshots("shard", lambda f: [0, *f[1:]]), r"recovery state is of format 0; this"),
    "family manifest, other fields": (snapshots("merge", lambda f: [2, {}]), r"recovery state is of format 2; this"),
    "ids seen": (kernel("shard-00", "admission", {b"": 0}), r"admission: key set of format 1; this version reads 2"),
    "activity of users": (kernel("shard-00", "activity", LISTED), r"activity: activity state of format 0; this"),
    "heat of users": (kernel("shard-00", "heat", NAMED), r"heat: .* of format 0; this"),
    "funnel of users": (kernel("shard-00", "funnel", LISTED), r"funnel: funnel state of format 2; this"),
    "rooms of users": (kernel("shard-00", "sessions", NAMED), r"sessions: .* of format 0; this"),
    "rows of activity": (kernel("family-activity", "activity", WATCHED), r"activity: .* of format 0; this"),
    "rows of the funnel": (kernel("family-funnel", "funnel", WATCHED), r"funnel: funnel state of format 0; this"),
    "rows of heat": (kernel("family-heat", "heat", NAMED), r"heat: heat state of format 0; this"),
    "rows of rooms": (kernel("family-sessions", "sessions", NAMED), r"sessions: .* of format 0; this"),
}  # fmt: skip


def test_state_of_another_version_is_refused(
    kafka: Broker, begin: Begin, topic_prefix: str, engine: Callable[..., EngineProcess],
    store_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    process = engine("--idle-timeout", "2s")
    traffic = begin(process, 1_000)
    assert process.stop() == 0
    count = "SELECT sum(rows) AS n FROM system.parts WHERE active AND database = 'livepulse'"
    rows, recovery, kept = process.rows(count), store_dir / "recovery", tmp_path / "kept"
    shutil.copytree(recovery, kept)
    wrong = {}
    for name, (change, words) in CASES.items():
        shutil.rmtree(recovery)
        shutil.copytree(kept, recovery)
        change(recovery)
        before = len(process.said())
        process.start()
        code, said = process.wait(60), process.said()[before:]
        told = next((line for line in said.splitlines() if line.startswith(("error: ", "unexpected"))), said)
        if code != 1 or not told.startswith("error: ") or not re.search(words, told):
            wrong[name] = (code, told)
        print(f"\n{name}: {told}", end="")
    assert wrong == {}
    assert process.rows(count) == rows
    shutil.rmtree(recovery)
    shutil.copytree(kept, recovery)
    process.start()
    produce(kafka.address, topic_prefix, traffic, 1_000)
    process.until(lambda: process.consumed() == 2_000)
    agree(process, traffic)
