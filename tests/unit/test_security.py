"""What an attacker, or a careless operator, would try: secrets in output, ids in the store, users with too much."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import structlog

from flows.errors import BadSetting, Stop
from flows.families import part_builder
from flows.masking import MASK, masked, remember
from flows.parts import Messages, Stretch
from flows.pseudonyms import Pseudonyms
from flows.recovery import RecoveryDir
from flows.settings import Settings
from flows.telemetry import Screen, configure_logging
from flows.worker import StoreAddress
from sinks.embedded import Embedded
from tests.unit.bad_inputs import NOW_MS, VIEW, compact

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-very-secret"  # the one that must not be seen


def test_a_secret_that_was_read_is_in_no_log_line_nor_traceback(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(SECRET + "\n")
    assert Settings(store_password_file=path).password() == SECRET
    stream = io.StringIO()
    for kind in ("json", "text"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIVEPULSE_LOG", kind)
            configure_logging(screen=Screen(stream))
            address = StoreAddress("http://h:1", "u", SECRET, "livepulse")
            try:
                int(f"cannot log in with {address.password}")
            except ValueError:
                structlog.get_logger().exception("failed", address=address)
    configure_logging()
    assert "cannot log in" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_reprs_hide_passwords() -> None:
    assert SECRET not in repr(StoreAddress("http://h:1", "u", SECRET, "d"))
    assert SECRET not in repr(Embedded(Path(), "u", "r", SECRET, 1, "n"))
    assert SECRET not in repr(Settings(store_password=SECRET, kafka={"sasl.password": SECRET}))  # type: ignore[arg-type]


def test_short_words_are_no_secrets() -> None:
    remember("abc")
    assert masked("abc") == "abc"
    remember("abcd")
    assert masked("x abcd y") == f"x {MASK} y"


@pytest.mark.parametrize("more", [[], ["--debug"]])
def test_no_command_shows_a_secret(tmp_path: Path, more: list[str]) -> None:
    environment = {
        "LIVEPULSE_STORE_PASSWORD": SECRET, "LIVEPULSE_KAFKA": f"sasl.password={SECRET},sasl.username=u",
        "PATH": "/usr/bin", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    for command in (
        ["config", "show"],
        ["config", "show", "--json"],
        ["check", "--store", "http://127.0.0.1:9", "--recovery-dir", str(tmp_path), "--brokers", "127.0.0.1:9"],
        ["sql", "--store", "http://127.0.0.1:9", "SELECT 1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *command, *more],
            capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=60,
        )  # fmt: skip
        assert done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr, command


def test_the_recovery_directory_is_its_owners_alone(tmp_path: Path) -> None:
    recovery = RecoveryDir(tmp_path / "recovery")
    (tmp_path / "recovery").mkdir(mode=0o755)
    with recovery.lock():
        recovery.begin(4, {})
        modes = {
            p.name: stat.S_IMODE(p.stat().st_mode)
            for p in (recovery.path, recovery.path / "bytewax", recovery.state_dir)
        }
        assert set(modes.values()) == {0o700}
        with pytest.raises(Stop, match="another engine"), RecoveryDir(recovery.path).lock():
            pass


KEY = b"0123456789abcdef-key"


def test_a_pseudonym_is_stable_keyed_and_kept() -> None:
    one, other = Pseudonyms(KEY), Pseudonyms(KEY + b"2")
    hidden = one.of("u-1")
    assert re.fullmatch(r"h1:[0-9a-f]{40}", hidden)
    assert hidden == Pseudonyms(KEY).of("u-1") != other.of("u-1")
    assert one.of(hidden) == hidden  # repair and replay do not hash again
    assert one.of("u-2") != hidden


def test_a_key_that_is_no_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short\n")
    with pytest.raises(BadSetting, match="16 are the least"):
        Pseudonyms.from_file(path)
    with pytest.raises(BadSetting, match="cannot be read"):
        Pseudonyms.from_file(tmp_path / "none")


def test_no_user_id_leaves_the_decoder(tmp_path: Path) -> None:
    """Events, late events and dead letters: the id is nowhere, and counts of users are the same."""
    path = tmp_path / "key"
    path.write_bytes(KEY)
    users = [f"private-{n % 3}" for n in range(6)]
    values: list[bytes | None] = [compact(VIEW | {"event_id": f"e{n}", "user_id": u}) for n, u in enumerate(users)]
    values.append(compact(VIEW | {"event_id": "late", "user_id": "private-0", "event_time": NOW_MS - 3_000_000}))
    values.append(compact(VIEW | {"user_id": "private-0", "watch_ms": -1}))
    values += [b'{"user_id":"private-0", cut', b'["private-0"]', b'{"user_id":{"x":"private-0"}}']
    zero = np.zeros(len(values), dtype=np.int64)
    messages = Messages(
        [Stretch(0, 0, len(values))], np.arange(len(values)), zero, zero.astype(np.uint8), values, NOW_MS
    )
    builder = part_builder(Settings(user_key_file=path))
    (part,) = builder.build(messages, builder.decoder.decode("view", values, NOW_MS))
    assert (part.events.frame.height, part.late.frame.height, part.dead.frame.height) == (6, 1, 4)
    for frame in (part.events.frame, part.late.frame, part.dead.frame):
        shown = json.dumps(frame.to_dicts(), default=lambda v: v.decode(errors="replace"))
        assert "private" not in shown
    assert part.events.frame["user_hash"].n_unique() == 3
    assert part.events.frame["id_hash"].n_unique() == 6
    known = orjson.loads(part.dead.frame["raw"][0])
    assert known["user_id"] == part.events.frame["user_id"][0] == part.late.frame["user_id"][0]
    plain = part_builder(Settings())
    (open_,) = plain.build(messages, plain.decoder.decode("view", values, NOW_MS))
    assert set(open_.events.frame["user_hash"]).isdisjoint(set(part.events.frame["user_hash"]))
    assert isinstance(open_.events.frame, pl.DataFrame)


def test_users_of_a_server_have_no_more_than_they_need() -> None:
    sql = (ROOT / "sinks" / "users.sql").read_text()
    grants = dict(re.findall(r"GRANT ([A-Z, ]+) ON livepulse\.\* TO (\w+);", sql))
    assert {user: rights for rights, user in grants.items()}["livepulse_reader"] == "SELECT"
    assert {user: rights for rights, user in grants.items()}["livepulse_writer"] == "SELECT, INSERT"
    assert "readonly = 1" in sql
    assert re.search(r"livepulse_reader .*?SETTINGS PROFILE 'livepulse_capped'", sql, re.DOTALL)
