"""One id twice, with different payloads, through the whole engine: one event counts, whole, the other is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.engine_process import livepulse
from tests.simulation.backfilled import asked

pytestmark = pytest.mark.integration

MINUTE = 60_000
T0 = 1_770_000_000_000 // 3_600_000 * 3_600_000
LIKES = 20_000
"""More than one batch of a file."""


def gift(room: str, user: str, at: int, amount: int, **more: object) -> dict[str, object]:
    """A gift; its pieces tell its payload as its money does."""
    return {
        "topic": "gift", "event_id": "same", "user_id": user, "event_time": at, "live_id": room, "creator_id": "c",
        "gift_id": "g", "quantity": amount // 100, "amount_minor": amount, **more,
    }  # fmt: skip


def like(number: int) -> dict[str, object]:
    """A like of a user of its own."""
    names = {"event_id": f"l{number}", "user_id": f"u{number}", "creator_id": "c", "video_id": "v"}
    return {"topic": "like", "event_time": T0 + 2 * MINUTE, **names}


FIRST: list[dict[str, object]] = [
    gift("twice", "a", T0 + 2 * MINUTE, 700),
    gift("twice", "a", T0 + MINUTE, 900),  # of an earlier minute: first is what the log has first
    gift("twice", "a", T0 + 2 * MINUTE, 100, region="CN-GD"),
    gift("users", "b", T0, 700),
    gift("users", "w", T0 + 1, 900),  # another user's id is another id
    {**like(0), "event_id": "same", "user_id": "b", "event_time": T0 + 2},  # the same user's is not, in another topic
    gift("partitions", "x", T0 + 2 * MINUTE, 900),
    *map(like, range(LIKES)),
    gift("twice", "a", T0 + 2 * MINUTE, 400, gift_id="other"),  # in another batch
    gift("horizon", "y", T0 + 2 * MINUTE, 700),
    gift("horizon", "y", T0 + 11 * MINUTE, 100),
    gift("horizon", "y", T0 + 60 * MINUTE, 900),  # an id used anew, beyond the 10 min of the horizon
]
SECOND: list[dict[str, object]] = [gift("partitions", "x", T0 + MINUTE, 400)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files, each a partition, taken in."""
    directory = tmp_path_factory.mktemp("same_id")
    names = []
    for number, events in enumerate((FIRST, SECOND)):
        name = directory / f"{number}.ndjson"
        name.write_text("".join(json.dumps(event) + "\n" for event in events))
        names.append(str(name))
    done = livepulse("backfill", *names, "--store", str(directory / "store"))
    assert done.returncode == 0, done.stderr
    return directory / "store"


def room(store: Path, name: str) -> dict[str, Any]:
    """What the room received, from live rooms and from the archive."""
    sql = (
        "SELECT gift_amount_minor AS money, toInt64(gifts) AS pieces, toInt64(gifters) AS users, "
        f"toInt64(events) AS events FROM livepulse.live_sessions WHERE live_id = '{name}'"
    )
    kept = (
        "SELECT toInt64(partition) AS partition, offset, amount_minor AS money, toInt64(quantity) AS pieces "
        f"FROM livepulse.events WHERE topic = 'gift' AND live_id = '{name}' ORDER BY partition, offset"
    )
    (live,) = asked(store, sql).to_dicts()
    return {**live, "kept": asked(store, kept).rows()}


def ledger(store: Path) -> list[tuple[Any, ...]]:
    """(topic, partition, consumed, accepted, duplicate), in order."""
    sums = ", ".join(f"toInt64(sum({name})) AS {name[:1]}" for name in ("consumed", "accepted", "duplicate"))
    view = "livepulse.ingest_ledger GROUP BY topic, part ORDER BY topic, part"
    return asked(store, f"SELECT topic, toInt64(partition) AS part, {sums} FROM {view}").rows()


def test_the_first_payload_counts(store: Path) -> None:
    found = room(store, "twice")
    assert found == {"money": 700, "pieces": 7, "users": 1, "events": 1, "kept": [(0, 0, 700, 7)]}
    regions = "SELECT toInt64(count()) FROM livepulse.active_users WHERE dim = 'region'"
    assert asked(store, regions).item() == 0, "a field of a duplicate left no trace"


def test_an_id_is_its_user_s(store: Path) -> None:
    found = room(store, "users")
    assert found == {
        "money": 1_600, "pieces": 16, "users": 2, "events": 2, "kept": [(0, 3, 700, 7), (0, 4, 900, 9)],
    }  # fmt: skip


def test_in_another_partition_one_counts_and_it_is_whole(store: Path) -> None:
    """Which one is read first is not a function of the log (docs/guarantees.md)."""
    found = room(store, "partitions")
    assert (found["users"], found["events"]) == (1, 1)
    ((partition, offset, *payload),) = found["kept"]
    assert (offset, *payload) == ((6, 900, 9), (0, 400, 4))[partition]
    assert [found["money"], found["pieces"]] == payload


def test_beyond_the_horizon_an_id_is_a_new_event(store: Path) -> None:
    found = room(store, "horizon")
    assert (found["money"], found["pieces"], found["users"], found["events"]) == (1_600, 16, 1, 2)


def test_each_duplicate_is_counted_in_its_partition(store: Path) -> None:
    """Three of `twice`, one of `horizon`, a like by `b`, and the one of `partitions` that was read second."""
    ((partition, *_),) = room(store, "partitions")["kept"]
    gifts, second = len(FIRST) - LIKES - 1, int(partition == 1)
    assert ledger(store) == [
        ("gift", 0, gifts, gifts - 4 - second, 4 + second), ("gift", 1, 1, second, 1 - second),
        ("like", 0, LIKES + 1, LIKES, 1),
    ]  # fmt: skip
    events = "SELECT toInt64(sum(events)) FROM livepulse.active_users WHERE dim = 'all' AND window_seconds = 60"
    assert asked(store, events).item() == LIKES + 6
