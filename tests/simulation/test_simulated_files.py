"""The truth of a simulation against the files that it wrote, recounted in plain Python from EVENTS.md and TABLES.md."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flows.file_feed import open_lines
from flows.simulate import Options, Stream, Truth, file_names, simulate_to_files
from flows.simulate_json import BAD

OPTIONS = Options(
    seed=7, rate=30.0, duration_s=1_800.0, start=1_767_600_000_000, partitions=2, users=1_500, videos=400, creators=80,
    topics=120, rooms=6, late_share=0.01, duplicate_share=0.03, bad_share=0.004,
)  # fmt: skip
OUT_OF_ORDERNESS_MS = 300_000
DIMENSIONS = ("surface", "category", "region", "platform", "channel")

Event = dict[str, object]


class Recount:
    """One pass over the lines of each file: which message is accepted, duplicate, late or rejected."""

    def __init__(self, directory: Path, options: Options) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.accepted: list[Event] = []
        for name in file_names(options):
            if not (directory / name).exists():
                continue
            counts, greatest, seen = Counter[str](), -math.inf, set[object]()
            with open_lines(directory / name) as lines:
                for line in lines:
                    event = good(line)
                    if event is None:
                        counts["rejected"] += 1
                        continue
                    time = int(str(event["event_time"]))
                    late = time < greatest - OUT_OF_ORDERNESS_MS
                    greatest = max(greatest, time)
                    if late:
                        counts["late"] += 1
                    elif (event["user_id"], event["event_id"]) in seen:
                        counts["duplicate"] += 1
                    else:
                        seen.add((event["user_id"], event["event_id"]))
                        counts["accepted"] += 1
                        self.accepted.append(event)
            self.counts[name] = counts


def good(line: bytes) -> Event | None:
    """The event, or None if it was made bad on purpose (their ids and texts say so)."""
    try:
        event = json.loads(line.decode())
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event_id"), str):
        return None
    is_bad = "bad" in event["event_id"] or event["event_id"] in {"", "x" * 65}
    return None if is_bad else event


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth, Recount]:
    directory = tmp_path_factory.mktemp("simulated")
    truth = simulate_to_files(directory, OPTIONS)
    return directory, truth, Recount(directory, OPTIONS)


def test_each_outcome_occurs_and_is_counted_to_the_message(written: tuple[Path, Truth, Recount]) -> None:
    _, truth, recount = written
    for name, counts in recount.counts.items():
        expected = truth.partitions.filter(file=name)
        found = {outcome: expected[outcome].sum() for outcome in ("accepted", "duplicate", "late", "rejected")}
        assert found == dict(counts)
        assert all(counts[outcome] > 20 for outcome in found)
    assert truth.totals["consumed"] == sum(sum(c.values()) for c in recount.counts.values())


def test_active_users_and_hours_are_exact(written: tuple[Path, Truth, Recount]) -> None:
    _, truth, recount = written
    minutes, hours = Activity(), Activity()
    for event in recount.accepted:
        if event["topic"] == "ad":
            continue
        time = int(str(event["event_time"]))
        for seconds in (60, 3600):
            minutes.add((time // (seconds * 1000) * seconds * 1000, seconds), event)
        for basis, tz in (("platform", "Asia/Shanghai"), ("user", str(event.get("tz", "Asia/Shanghai")))):
            local = datetime.fromtimestamp(0, ZoneInfo("UTC")) + timedelta(milliseconds=time)
            local = local.astimezone(ZoneInfo(tz))
            hours.add((basis, local.date(), local.hour), event)
    assert truth.active_users is not None
    assert truth.active_hours is not None
    columns = ("dim", "value", "events", "users", "watch_ms")
    assert minutes.rows() == set(truth.active_users.select("window_start", "window_seconds", *columns).iter_rows())
    assert hours.rows() == set(truth.active_hours.select("basis", "date", "hour", *columns).iter_rows())


class Activity:
    """Events, distinct users and watch time by a key, in all and by each dimension's value."""

    def __init__(self) -> None:
        self.events: Counter[tuple[object, ...]] = Counter()
        self.users: defaultdict[tuple[object, ...], set[object]] = defaultdict(set)
        self.watch_ms: Counter[tuple[object, ...]] = Counter()

    def add(self, key: tuple[object, ...], event: Event) -> None:
        for dim in ("all", *DIMENSIONS):
            if dim == "all" or dim in event:
                row = (*key, dim, event.get(dim, ""))
                self.events[row] += 1
                self.users[row].add(event["user_id"])
                self.watch_ms[row] += int(str(event.get("watch_ms", 0)))

    def rows(self) -> set[tuple[object, ...]]:
        return {(*row, n, len(self.users[row]), self.watch_ms[row]) for row, n in self.events.items()}


def test_topic_minutes_are_exact(written: tuple[Path, Truth, Recount]) -> None:
    _, truth, recount = written
    events: Counter[tuple[int, object]] = Counter()
    users: defaultdict[tuple[int, object], set[object]] = defaultdict(set)
    for event in recount.accepted:
        tags = event.get("tags", [])
        assert isinstance(tags, list)
        assert len(set(tags)) == len(tags)
        for tag in tags:
            key = (int(str(event["event_time"])) // 60_000 * 60_000 + 60_000, tag)
            events[key] += 1
            users[key].add(event["user_id"])
    assert truth.topic_minutes is not None
    found = {(tick, topic): (n, u) for tick, topic, n, u in truth.topic_minutes.iter_rows()}
    assert found == {key: (n, len(users[key])) for key, n in events.items()}


def test_funnel_is_exact(written: tuple[Path, Truth, Recount]) -> None:
    _, truth, recount = written
    assert truth.funnel is not None
    expected: defaultdict[tuple[object, ...], set[object]] = defaultdict(set)
    money: Counter[tuple[object, ...]] = Counter()
    for unit, bucket, event, step, who, amount in funnel_facts(recount.accepted):
        for dim in ("all", *DIMENSIONS):
            if dim == "all" or dim in event:
                key = (unit, bucket, dim, event.get(dim, ""), step)
                expected[key].add(who)
                money[key] += amount
    rows = {(*key, len(who), money[key]) for key, who in expected.items()}
    assert rows == set(truth.funnel.iter_rows())
    assert {step for _, _, _, _, step, _, _ in rows} == {1, 2, 3, 4, 5}


def funnel_facts(events: list[Event]) -> Iterator[tuple[str, int, Event, int, object, int]]:
    """Unit, bucket, event whose dimensions hold, step, member, amount: by looking at every event for every entry."""
    of_user: defaultdict[object, list[Event]] = defaultdict(list)
    for event in events:
        of_user[event["user_id"]].append(event)
    for user, mine in of_user.items():
        mine.sort(key=lambda e: int(str(e["event_time"])))
        views = [e for e in mine if e["topic"] == "view" and not e.get("continued")]
        for view in views:
            if view["surface"] == "video":
                yield "user", hour(view), view, 1, user, 0
        entered: set[object] = set()
        for entry in (e for e in views if e["surface"] == "live"):
            if entry["live_id"] in entered:
                continue
            entered.add(entry["live_id"])
            at = int(str(entry["event_time"]))
            first = [v for v in views if v["surface"] == "video" and 0 <= at - int(str(v["event_time"])) <= 1_800_000]
            if first:
                reached = [(2, 0), *later_steps(mine, entry["live_id"], at)]
                for step, amount in reached:
                    yield "user", hour(first[-1]), first[-1], step, user, amount
                    yield "user_live", hour(first[-1]), entry, step, (user, entry["live_id"]), amount


def later_steps(mine: list[Event], room: object, entered: int) -> Iterator[tuple[int, int]]:
    for event in mine:
        if event.get("live_id") != room or not 0 <= int(str(event["event_time"])) - entered <= 86_400_000:
            continue
        if event["topic"] == "like" or (event["topic"] == "engage" and event["action"] == "comment"):
            yield 3, 0
        elif event["topic"] == "gift":
            yield 4, int(str(event["amount_minor"]))
        elif event["topic"] == "order" and event["status"] == "paid":
            yield 5, int(str(event["amount_minor"]))


def hour(event: Event) -> int:
    return int(str(event["event_time"])) // 3_600_000 * 3_600_000


def test_a_stay_is_reported_every_minute_and_leaves_no_gap(written: tuple[Path, Truth, Recount]) -> None:
    _, _, recount = written
    stays: defaultdict[tuple[object, object], list[Event]] = defaultdict(list)
    for event in recount.accepted:
        if event["topic"] == "view" and event["surface"] == "live":
            stays[event["user_id"], event["live_id"]].append(event)
    assert any(len(reports) > 4 for reports in stays.values())
    for reports in stays.values():
        reports.sort(key=lambda e: (int(str(e["event_time"])), bool(e.get("continued"))))
        assert [bool(e.get("continued")) for e in reports] == [False] + [True] * (len(reports) - 1)
        for before, after in pairwise(reports):
            assert int(str(after["event_time"])) == int(str(before["event_time"])) + int(str(before["watch_ms"]))
        assert all(0 <= int(str(e["watch_ms"])) <= 60_000 for e in reports)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    short = replace(OPTIONS, duration_s=None, events=3_000, drain=False)
    simulate_to_files(tmp_path / "a", short)
    simulate_to_files(tmp_path / "b", short)
    simulate_to_files(tmp_path / "c", replace(short, seed=8))
    for name in file_names(short):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("file_per_topic", [False, True])
def test_files_of_every_kind_hold_just_what_was_asked_for(
    tmp_path: Path, compression: str, file_per_topic: bool
) -> None:
    options = replace(
        OPTIONS, duration_s=None, events=2_000, drain=False, compression=compression, file_per_topic=file_per_topic
    )
    truth = simulate_to_files(tmp_path, options)
    recount = Recount(tmp_path, options)
    assert truth.totals["consumed"] == 2_000
    for name, counts in recount.counts.items():
        rows = truth.partitions.filter(file=name)
        assert {o: rows[o].sum() for o in ("accepted", "duplicate", "late", "rejected") if rows[o].sum()} == dict(
            counts
        )


def test_truth_is_read_as_it_was_written(written: tuple[Path, Truth, Recount]) -> None:
    directory, truth, _ = written
    again = Truth.read(directory)
    assert again.planted == truth.planted
    assert again.totals == truth.totals
    for name in ("partitions", "active_users", "active_hours", "topic_minutes", "funnel"):
        assert getattr(again, name).equals(getattr(truth, name))


def test_every_class_of_bad_message_occurs_and_none_is_valid() -> None:
    valid = {"event_id", "event_time", "user_id"}
    members = '"event_id":"b1","event_time":1767600000000,"user_id":"u1","topic":"view"'
    for name, bad in BAD.items():
        message = bad.make(members)
        if bad.in_files:
            assert message is not None, name
            assert message.strip(), name
            assert b"\n" not in message, name
        if not bad.framed:
            assert message is not None, name
            assert valid <= json.loads(message).keys(), name


def test_files_need_a_bound(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bound"):
        simulate_to_files(tmp_path, Options())


def test_steps_in_which_nothing_happens_are_no_trouble() -> None:
    stream = Stream(replace(OPTIONS, rate=0.5), 1_767_600_000_000, in_files=False)
    sizes = [len(stream.until(1_767_600_000_000 + 100 * step).values) for step in range(1, 500)]
    assert 0 in sizes
    assert sum(sizes) == stream.messages > 5
