"""Mutated valid events: the decoder agrees with the judge, and the engine ends with every line in the ledger (O2)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.decode import Decoder
from schemas.events import OPTIONAL, Limits
from schemas.validate import judge
from sinks import embedded
from sinks.clickhouse import Store
from tests.faults.conftest import SEED
from tests.integration.engine_process import ROOT
from tests.unit.bad_inputs import GOOD, NOW_MS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
FUZZ = int(os.environ.get("FUZZ", "3000"))
DECODER = Decoder(frozenset(OPTIONAL), Limits())
JUNK = (
    b"\x00",
    b"\xff",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"1e400",
    b"-",
    b"null",
    b"true",
    b"9" * 25,
    b"\n",
    b" ",
)


def mutated(rnd: random.Random, topic: str) -> bytes:
    """A valid event with a few things done to its fields or its bytes."""
    event = dict(GOOD[topic]) | {"event_id": f"f-{rnd.getrandbits(40)}"}
    for _ in range(rnd.randrange(3)):
        name = rnd.choice(list(event))
        match rnd.randrange(5):
            case 0:
                event.pop(name)
            case 1:
                event[name] = rnd.choice(
                    [None, True, -1, 0, 1.5, 2**63, 2**64, "", " ", "x" * 300, [], {}, ["a", 1], "\ud800"]
                )
            case 2:
                event[name.upper()] = event.pop(name)
            case 3:
                event[name] = rnd.choice(list(event.values()))
            case _:
                event[f"extra{rnd.randrange(9)}"] = [event.get(name)]
    plain = rnd.random() < 0.5
    raw = bytearray(json.dumps(event, ensure_ascii=plain).encode("utf-8", "surrogatepass"))
    for _ in range(rnd.randrange(3) if rnd.random() < 0.4 else 0):
        at = rnd.randrange(len(raw) + 1)
        match rnd.randrange(4):
            case 0:
                del raw[at : at + rnd.randrange(1, 9)]
            case 1:
                raw[at:at] = rnd.choice(JUNK)
            case 2 if at < len(raw):
                raw[at] ^= 1 << rnd.randrange(8)
            case _:
                raw[at:at] = raw[: rnd.randrange(40)]
    return bytes(raw)


@settings(max_examples=max(20, FUZZ // 500), deadline=None)
@given(st.integers(0, 1 << 60), st.sampled_from(sorted(GOOD)))
def test_decoder_says_what_the_judge_says(seed: int, topic: str) -> None:
    rnd = random.Random(seed)
    values: list[bytes | None] = [mutated(rnd, topic) for _ in range(500)]
    decoded = DECODER.decode(topic, values, NOW_MS)
    reasons = dict(zip(decoded.rejects["row"].to_list(), decoded.rejects["reason"].to_list(), strict=True))
    assert len(reasons) + decoded.frame.height == len(values)
    for row, value in enumerate(values):
        verdict = judge(value, topic, NOW_MS, Limits())
        assert reasons.get(row) == getattr(verdict, "reason", None), (value, verdict)


@pytest.mark.integration
def test_the_engine_ends_with_every_line_in_the_ledger(tmp_path: Path, store_dir: Path) -> None:
    rnd = random.Random(SEED)
    lines = []
    for _ in range(FUZZ):
        topic = rnd.choice(sorted(GOOD))
        raw = mutated(rnd, topic).replace(b"\n", b" ").replace(b"\r", b" ")
        lines.append(b'{"topic":"' + topic.encode() + b'",' + raw[1:] if raw[:1] == b"{" else raw)
    path = tmp_path / "fuzz.ndjson"
    path.write_bytes(b"\n".join(lines) + b"\n")
    command = [sys.executable, "-m", "flows.cli", "backfill", str(path), "--store", str(store_dir)]
    flags = ["--allow-late", "--reject-ratio", "1"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=ROOT, check=False, timeout=600)
    assert done.returncode == 0, (SEED, done.stderr[-3000:])
    up = embedded.start(store_dir, die_with_parent=True)
    try:
        store = Store.connect(up.url, up.user, up.token)
        (row,) = store.query(
            "SELECT sum(consumed) AS c, sum(accepted + duplicate + late + rejected) AS o, sum(rejected) AS r FROM livepulse.ingest_ledger"
        )
        dead = store.query("SELECT count() AS n FROM livepulse.dead_letters")[0]["n"]
        store.close()
    finally:
        up.stop()
    assert (row["c"], row["o"], dead) == (FUZZ, FUZZ, row["r"]), SEED
    print(f"\nSEED={SEED}: {FUZZ:,} mutated events, {dead:,} rejected, none lost")
