"""What was tried to get at secrets and user ids later: spellings, bugs, threads, flags, odd messages."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
import orjson
import pytest
import structlog

from flows.cli_commands import _RUN_FIELDS
from flows.cli_options import STORE_FIELDS
from flows.configuration import load_settings
from flows.errors import BadSetting, Usage
from flows.families import part_builder
from flows.masking import MASK, masked, remember
from flows.parts import Messages, Stretch
from flows.settings import Settings
from flows.standing import every
from flows.telemetry import Screen, configure_logging
from tests.unit.bad_inputs import CASES, GOOD, NOW_MS, VIEW, compact, with_raw

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter3-very-secret"  # the one that must not be seen
ODD = 'pa"ss\\wört\nof two lines & more'
INNER = "of two lines"


def test_a_secret_is_masked_however_it_is_written() -> None:
    """A quote, a backslash or an end of line is written another way in JSON, in a traceback and in an address."""
    remember(ODD)
    for text in (ODD, json.dumps(ODD), orjson.dumps(ODD).decode(), repr(ODD), json.dumps(repr(ODD)), quote_plus(ODD)):
        assert MASK in masked(f"it is {text}")
        assert INNER not in masked(f"it is {text}").replace("+", " ")


def test_no_log_line_shows_an_odd_secret() -> None:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVEPULSE_LOG", "json")
        configure_logging(screen=Screen(stream))
        remember(ODD)
        try:
            raise ValueError({"password": ODD})  # noqa: TRY301 - the traceback is the point of it
        except ValueError:
            structlog.get_logger().exception("failed", password=ODD)
    configure_logging()
    assert MASK in stream.getvalue()
    assert INNER not in stream.getvalue()


BUG = """
import multiprocessing, threading
from flows import worker
from flows.masking import remember
from flows.telemetry import configure_logging

def fails(*_):
    raise RuntimeError("cannot log in with " + remember("{secret}"))

def main(plan):
    worker.work = fails
    worker.process_main(plan, threading.Event())

class Plan:
    index = 0

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=main, args=(Plan(),))
    process.start()
    process.join()
    configure_logging()
    thread = threading.Thread(target=fails, name="audit")
    thread.start()
    thread.join()
    print("exit code", process.exitcode)
"""


def test_a_bug_in_a_worker_or_a_thread_shows_no_secret(tmp_path: Path) -> None:
    """Python prints what ends a process or a thread by itself, past everything that masks."""
    program = tmp_path / "bug.py"
    program.write_text(BUG.replace("{secret}", SECRET))
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
    )  # fmt: skip
    assert "exit code 1" in done.stdout, done.stderr
    assert done.stderr.count("cannot log in with") == 2
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"STORE": f"http://u:{SECRET}@h:8123"},
        {"STORE": f"http://u:{SECRET}@x@h:8123"},
        {"STORE": f"http://h:8123/?user=u&password={SECRET}"},
        {"BROKERS": f"u:{SECRET}@h:9092"},
        {"KAFKA": f"sasl.password={SECRET},group.id=x"},
        {"KAFKA": SECRET},
        {"STORE_PASSWORD": SECRET, "SHARDS": "x"},
        {"KAFKA": f"sasl.oauthbearer.config=principal={SECRET},group.id=x"},
        {"KAFKA": f"sasl.oauthbearer.assertion.private.key.passphrase={SECRET},group.id=x"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_an_error_about_a_setting_shows_no_secret(environment: dict[str, str]) -> None:
    with pytest.raises(Usage) as refused:
        load_settings(environ={f"LIVEPULSE_{name}": value for name, value in environment.items()})
    assert SECRET not in str(refused.value)


def test_a_table_in_the_wrong_place_shows_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "livepulse.toml"
    path.write_text(f'[kafka.sasl]\npassword = "{SECRET}"\n')
    with pytest.raises(Usage) as refused:
        load_settings(file=path, environ={})
    assert SECRET not in str(refused.value)


def test_a_secret_is_no_flag() -> None:
    """Everybody on the machine reads the command lines of everybody."""
    with pytest.raises(BadSetting, match="every user of this machine sees flags") as refused:
        load_settings({"kafka": ["sasl.username=u", f"sasl.password={SECRET}"]}, environ={})
    assert SECRET not in str(refused.value)
    assert load_settings({"kafka": ["sasl.password_file=x"]}, environ={}).kafka == {"sasl.password_file": "x"}
    assert "store_password" not in {*STORE_FIELDS, *_RUN_FIELDS}


def test_what_is_done_every_so_often_outlives_an_error() -> None:
    """An audit whose thread had ended would find nothing for ever."""
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise ValueError("a surprise")

    with every(0.01, call):
        deadline = time.monotonic() + 5
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(calls) >= 3


USER = "private-0"
NOBODY = {name: value for name, value in VIEW.items() if name != "user_id"}
DEEP = [with_raw("x", "[" * depth + "]" * depth) for depth in (253, 254, 300, 1_000, 1_024, 2_000)]
SPELT = [compact({**NOBODY, name: USER}) for name in ("User_Id", "userId", "USER_ID", "uid", "user-id")]
WITHIN = {"props": {"user_id": USER}, "viewer": f"{USER} ", "category": f"of {USER}", "surface": USER, "tags": [USER]}
BOTH = [
    compact({**VIEW, "user_id": USER, "watch_ms": -1, name: value})
    for name, value in {"userId": USER, "region": USER, **WITHIN}.items()
]
TWICE = b'{"user_id":"x","user_id":"private-0"}'


def test_no_bad_message_stops_the_engine_or_shows_a_user_under_a_key(tmp_path: Path) -> None:
    """A message 254 deep ended the engine (orjson reads deeper than it writes), `User_Id` was stored as it was."""
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef-key")
    builder = part_builder(Settings(user_key_file=path))
    for topic in GOOD:
        mine = [case.raw for case in CASES if case.topic == topic]
        odd = (*DEEP, *SPELT, TWICE, *(BOTH if topic == "view" else ()))
        values = [raw and raw.replace(b'"u-1"', b'"private-0"') for raw in (*mine, *odd)]
        zero = np.zeros(len(values), dtype=np.int64)
        kinds = np.full(len(values), list(GOOD).index(topic), dtype=np.uint8)
        messages = Messages([Stretch(0, 0, len(values))], np.arange(len(values)), zero, kinds, values, NOW_MS)
        (part,) = builder.build(messages, builder.decoder.decode(topic, values, NOW_MS))
        assert part.dead.frame.height > len(DEEP)
        for frame in (part.events.frame, part.late.frame, part.dead.frame):
            for row in frame.to_dicts():
                assert USER not in json.dumps(row, default=lambda v: v.decode(errors="replace")), row


def test_the_header_of_a_login_is_masked_too() -> None:
    remember(b64encode(b"writer:correct horse").decode())
    assert "d3JpdGVyOmNvcnJlY3QgaG9yc2U=" not in masked("Authorization: Basic d3JpdGVyOmNvcnJlY3QgaG9yc2U=")
