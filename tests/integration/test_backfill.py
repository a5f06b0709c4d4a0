"""`livepulse backfill` on hand-made files: declarations, lateness, a store that is not empty, sparse history."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.engine_process import ROOT, livepulse

pytestmark = pytest.mark.integration

MINUTE = 60_000
T0 = 1_770_000_000_000 // 3_600_000 * 3_600_000


def ask(store: Path, sql: str) -> list[dict[str, object]]:
    done = livepulse("sql", "--store", str(store), f"{sql} FORMAT JSONEachRow")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def write(path: Path, events: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps({"event_id": f"e{n}", "user_id": "u1", **event}) + "\n" for n, event in enumerate(events))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_a_line_of_an_unknown_topic_is_ledgered_under_its_name(tmp_path: Path, store_dir: Path) -> None:
    good = {"topic": "like", "creator_id": "c", "live_id": "l"}
    topics = ({"topic": "likeX"}, {"topic": "comments"}, {"topic": "likeX"}, {}, {"topic": "t" * 300}, good)
    events = write(tmp_path / "events.ndjson", [{"event_time": T0, **named} for named in topics])
    done = livepulse("backfill", str(events), "--store", str(store_dir), "--reject-ratio", "1")
    assert done.returncode == 0, done.stderr
    sums = "toInt32(sum(accepted)) AS a, toInt32(sum(rejected)) AS r"
    ledger = ask(store_dir, f"SELECT topic, {sums} FROM ingest_ledger GROUP BY topic")
    assert {(row["topic"], row["a"], row["r"]) for row in ledger} == {
        ("likeX", 0, 2), ("comments", 0, 1), ("", 0, 1), ("t" * 64, 0, 1), ("like", 1, 0),
    }  # fmt: skip
    dead = ask(store_dir, "SELECT topic, toInt32(offset) AS at FROM dead_letters ORDER BY at")
    assert [row["topic"] for row in dead] == ["likeX", "comments", "likeX", "", "t" * 64]


def test_the_recorded_stream_of_the_readme_is_an_example(tmp_path: Path, store_dir: Path) -> None:
    """Edits in the form of Apache Druid's tutorial data → events → the hours that the example itself recounts."""
    edits = [
        {
            "time": f"2015-09-12T{n // 60:02d}:{n % 60:02d}:58.771Z",
            "channel": f"#{'en' if n % 3 else 'vi'}.wikipedia",
            "page": f"Köln {n % 7}", "user": f"user {n * n % 31}", "countryIsoCode": None if n % 5 else "DE",
        }
        for n in range(300)
    ]  # fmt: skip
    recorded, events = tmp_path / "edits.json.gz", tmp_path / "events.ndjson"
    recorded.write_bytes(gzip.compress("".join(json.dumps(edit) + "\n" for edit in edits).encode()))

    def example(*arguments: str) -> str:
        command = [sys.executable, "examples/wikipedia_edits.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60).stdout

    events.write_text(example(str(recorded)))
    done = livepulse("backfill", str(events), "--store", str(store_dir))
    assert done.returncode == 0, done.stderr
    hours = ask(
        store_dir,
        "SELECT toString(date) AS date, hour, toInt32(events) AS events, toInt32(users) AS users FROM active_hours "
        "WHERE basis = 'platform' AND dim = 'all' ORDER BY users DESC, date, hour LIMIT 5",
    )
    found = "".join(f"{row['date']}\t{row['hour']}\t{row['events']}\t{row['users']}\n" for row in hours)
    assert found == example("--recount", str(events)) != ""


def test_own_funnel_and_weights_are_a_declaration(tmp_path: Path, store_dir: Path) -> None:
    order = {"topic": "order", "order_id": "o", "product_id": "p", "quantity": 1, "amount_minor": 700}
    events = write(
        tmp_path / "events.ndjson.gz",
        [
            {"topic": "engage", "event_time": T0, "action": "product_click", "product_id": "p"},
            {"topic": "engage", "event_time": T0 + 1, "action": "comment", "creator_id": "c", "tags": ["t"]},
            {**order, "event_time": T0 + 5 * MINUTE, "status": "created"},
            {**order, "event_time": T0 + 9 * MINUTE, "status": "paid"},
        ],
    )
    done = livepulse("backfill", str(events), "--store", str(store_dir), "--declare", "examples/declarations.toml")
    assert done.returncode == 0, done.stderr
    steps = ask(
        store_dir,
        "SELECT step_name, reached, median_seconds, amount_minor FROM funnel "
        "WHERE funnel = 'click_to_order' AND unit = 'user' AND dim = 'all' ORDER BY step",
    )
    assert [
        (r["step_name"], int(str(r["reached"])), r["median_seconds"], int(str(r["amount_minor"]))) for r in steps
    ] == [
        ("click", 1, 0, 0),
        ("order_created", 1, 300, 0),
        ("order_paid", 1, 540, 700),
    ]
    (heat,) = ask(store_dir, f"SELECT heat FROM topic_heat WHERE toUnixTimestamp(tick) = {T0 // 1000 + 60}")
    # The example weighs a comment 8 and lets heat fade in 3 h.
    assert float(str(heat["heat"])) == pytest.approx(8 * 2 ** (-(MINUTE - 1) / (180 * MINUTE)), rel=1e-9)


def view(time: int, **more: object) -> dict[str, object]:
    return {
        "topic": "view", "event_time": time, "surface": "video", "video_id": "v", "creator_id": "c", "watch_ms": 1,
        **more,
    }  # fmt: skip


def test_too_many_late_events_end_with_1_and_name_what_would_do(tmp_path: Path, store_dir: Path) -> None:
    events = write(tmp_path / "events.ndjson", [view(T0 + 20 * MINUTE), view(T0)])
    done = livepulse("backfill", str(events), "--store", str(store_dir))
    assert done.returncode == 1
    assert "--out-of-orderness 20min" in done.stdout + done.stderr
    again = livepulse("backfill", str(events), "--store", str(store_dir), "--replace", "--out-of-orderness", "20min")
    assert again.returncode == 0, again.stderr
    assert ask(store_dir, "SELECT sum(late) AS n FROM ingest_ledger")[0]["n"] in (0, "0")
    allowed = livepulse("backfill", str(events), "--store", str(store_dir), "--replace", "--allow-late")
    assert allowed.returncode == 0, allowed.stderr
    (late,) = ask(store_dir, "SELECT event_id, cause FROM late_events")
    assert late == {"event_id": "e1", "cause": "bound"}


def test_a_store_that_is_not_empty_is_refused(tmp_path: Path, store_dir: Path) -> None:
    events = write(tmp_path / "events.ndjson", [view(T0)])
    assert livepulse("backfill", str(events), "--store", str(store_dir)).returncode == 0
    refused = livepulse("backfill", str(events), "--store", str(store_dir))
    assert refused.returncode == 2
    assert "--replace" in refused.stderr


def test_history_with_months_between_events_is_whole(tmp_path: Path, store_dir: Path) -> None:
    days = [view(T0 + n * 5 * 86_400_000, user_id=f"u{n % 3}") for n in range(40)]
    first, second = write(tmp_path / "a.ndjson", days[::2]), write(tmp_path / "b.ndjson", days[1::2])
    done = livepulse("backfill", str(first), str(second), "--store", str(store_dir))
    assert done.returncode == 0, done.stderr
    found = ask(
        store_dir,
        "SELECT count() AS n, sum(events) AS e, min(is_final) AS f FROM active_users "
        "WHERE dim = 'all' AND window_seconds = 60",
    )
    assert {k: int(str(v)) for k, v in found[0].items()} == {"n": 40, "e": 40, "f": 1}
