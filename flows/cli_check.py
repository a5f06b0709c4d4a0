"""`livepulse check`: is everything reachable and consistent? Each finding says how it is and what to do about it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from flows.cli_options import code_of
from flows.cli_tools import answer
from flows.configuration import FILE, PREFIX, unknown_variables
from flows.errors import CHECK_FAILED, DEPENDENCY_DOWN, OK, DependencyDown
from flows.kafka_ask import Asker
from flows.settings import Settings
from schemas.events import CORE_TOPICS, TOPICS

_TIMEOUT_SECONDS: Final = 5.0
_LOW_DISK_BYTES: Final = 2 * 1024**3


class State(Enum):
    """How one thing stands: its mark."""

    GOOD = "✓"
    NOTE = "–"
    WRONG = "✗"
    DOWN = "⚠"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    detail: str
    advice: str = ""

    def plain(self) -> dict[str, str]:
        """For JSON."""
        return {"what": self.what, "state": self.state.name.lower(), "detail": self.detail, "advice": self.advice}


def findings(settings: Settings) -> list[Finding]:
    """Look at everything; what needs something that is down is left out."""
    return [*_settings(settings), *_kafka(settings), *_store(settings), *_recovery(settings)]


def exit_code(found: list[Finding]) -> int:
    """3 if something is down, 1 if something is wrong, else 0."""
    states = {finding.state for finding in found}
    if State.DOWN in states:
        return DEPENDENCY_DOWN
    return CHECK_FAILED if State.WRONG in states else OK


def show(found: list[Finding]) -> None:
    """Print a table of ticks."""
    from rich.console import Console
    from rich.table import Table

    colours = {State.GOOD: "green", State.NOTE: "dim", State.WRONG: "red", State.DOWN: "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        advice = f"\n→ {finding.advice}" if finding.advice else ""
        table.add_row(f"[{colours[finding.state]}]{finding.state.value}[/]", finding.what, finding.detail + advice)
    Console(highlight=False).print(table)


def _guarded(what: str, look: Callable[[], Iterator[Finding]], advice: str) -> Iterator[Finding]:
    """What `look` finds; an error of ours or of the system is a finding too."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - whatever it is, the user asked to hear of it
        state = State.DOWN if code_of(error) == DEPENDENCY_DOWN else State.WRONG
        yield Finding(what, state, str(error) or type(error).__name__, advice)


def _settings(settings: Settings) -> Iterator[Finding]:
    changed = {name: source for name, source in settings.sources().items() if source != "default"}
    file = os.environ.get(PREFIX + "CONFIG") or (str(FILE) if FILE.exists() else None)
    where = f"{file}, " if file else f"no {FILE}, "
    yield Finding("settings", State.GOOD, f"{where}{len(changed)} of {len(settings.sources())} set")
    for name in unknown_variables():
        yield Finding(
            "settings", State.NOTE, f"{name} is set, but there is no such setting", "see livepulse config show"
        )
    if settings.declare:
        yield from _guarded(
            "declarations", lambda: _declarations(settings), "mend the file; examples/ has one that works"
        )


def _declarations(settings: Settings) -> Iterator[Finding]:
    from schemas.declarations import load_all

    declared = load_all(settings.declare)
    names = ", ".join(funnel.name for funnel in declared.funnels)
    yield Finding("declarations", State.GOOD, f"{len(settings.declare)} file(s); funnels: {names}")


def _kafka(settings: Settings) -> Iterator[Finding]:
    yield from _guarded("kafka", lambda: _topics(settings), "check brokers and the kafka properties")


def _topics(settings: Settings) -> Iterator[Finding]:
    asker = Asker(settings.client_properties())
    try:
        found = asker.metadata(_TIMEOUT_SECONDS)
    except DependencyDown as error:
        detail, _, advice = str(error).partition("; ")
        yield Finding("kafka", State.DOWN, detail, advice)
        return
    yield Finding("kafka", State.GOOD, f"{len(found.brokers)} broker(s) at {settings.brokers}")
    here = {name: found.topics[settings.topic(name)] for name in TOPICS if settings.topic(name) in found.topics}
    missing = [settings.topic(name) for name in CORE_TOPICS if name not in here]
    if missing:
        advice = "make them; the engine waits for topics and takes them in when they come"
        yield Finding("topics", State.WRONG, f"missing: {', '.join(missing)}", advice)
    if here:
        counts = ", ".join(f"{settings.topic(name)} ({len(topic.partitions)})" for name, topic in here.items())
        yield Finding("topics", State.GOOD, f"{counts} partitions")
        yield from _append_time(asker.admin, [settings.topic(name) for name in here])
        yield from _offsets(settings, {name: len(topic.partitions) for name, topic in here.items()})
    absent = [settings.topic(name) for name in TOPICS if name not in here and name not in CORE_TOPICS]
    if absent:
        yield Finding("topics", State.NOTE, f"optional and absent: {', '.join(absent)}")


def _append_time(admin: AdminClient, topics: list[str]) -> Iterator[Finding]:
    """Topics without LogAppendTime: their clock checks use the engine's clock instead of the broker's."""
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=_TIMEOUT_SECONDS
    )
    create_time = []
    for resource, told in asked.items():
        try:
            entry = told.result().get("message.timestamp.type")
        except KafkaException:
            return  # not allowed to ask, or a mock: nothing to say
        if entry is not None and entry.value != "LogAppendTime":
            create_time.append(str(resource.name))
    if create_time:
        advice = "set message.timestamp.type=LogAppendTime, so that replays judge clocks as the first run did"
        yield Finding("topics", State.NOTE, f"producers' clocks stamp {', '.join(sorted(create_time))}", advice)


def _offsets(settings: Settings, partitions: dict[str, int]) -> Iterator[Finding]:
    """How far the group's committed offsets are behind, and whether what comes next is still there."""
    consumer = Consumer({**settings.client_properties(), "group.id": settings.group, "log_level": 0})
    try:
        places = [TopicPartition(settings.topic(name), p) for name, count in partitions.items() for p in range(count)]
        lag, lost = 0, []
        for place in consumer.committed(places, timeout=_TIMEOUT_SECONDS):
            low, high = consumer.get_watermark_offsets(place, timeout=_TIMEOUT_SECONDS)
            if place.offset >= 0:
                lag += high - min(place.offset, high)
                if not low <= place.offset <= high:
                    lost.append(f"{place.topic}/{place.partition}")
            else:
                lag += high - low
    except KafkaException as error:
        yield Finding("lag", State.NOTE, f"unknown: {error.args[0].str()}")
        return
    finally:
        consumer.close()
    if lost:
        advice = "messages are gone from Kafka; run with --accept-loss goes on and records the gap"
        yield Finding("lag", State.WRONG, f"the next offset is outside of the log of {', '.join(lost)}", advice)
    yield Finding("lag", State.GOOD, f"group {settings.group} is {lag:,} messages behind")


def _store(settings: Settings) -> Iterator[Finding]:
    if not settings.is_server:
        yield from _guarded("store", lambda: _directory(settings), "check the directory's owner and mode")
        if not (settings.store_dir / "clickhouse").is_dir():
            return
    yield from _guarded("store", lambda: _views(settings), "")


def _directory(settings: Settings) -> Iterator[Finding]:
    directory = settings.store_dir
    place = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(place, os.W_OK):
        yield Finding("store", State.WRONG, f"{place} is not writable", "change its owner, or set store")
        return
    free = shutil.disk_usage(place).free
    state = State.NOTE if free < _LOW_DISK_BYTES else State.GOOD
    made = "" if directory.exists() else "will be made at the first start, "
    advice = "make room, or set store to another disk" if state is State.NOTE else ""
    yield Finding("store", state, f"{directory}: {made}{free / 1024**3:.1f} GiB free", advice)


def _views(settings: Settings) -> Iterator[Finding]:
    names = set(b"".join(answer(settings, "SHOW TABLES", "TabSeparated")).decode().split())
    expected = {"active_users", "topic_heat", "funnel"}
    if names >= expected:
        yield Finding("store", State.GOOD, f"answers; {len(names)} tables and views in {settings.database}")
    else:
        yield Finding("store", State.NOTE, f"answers; {settings.database} has no views yet; the engine makes them")


def _recovery(settings: Settings) -> Iterator[Finding]:
    yield from _guarded("recovery", lambda: _recovery_dir(settings), "check the directory's owner and mode")


def _recovery_dir(settings: Settings) -> Iterator[Finding]:
    path = settings.recovery_path
    facts = path / "facts.json"
    if not facts.exists():
        yield _first_start(settings, path)
        return
    shards = json.loads(facts.read_bytes()).get("shards")
    if shards != settings.shards:
        detail = f"{path} was begun with shards = {shards}, the setting is {settings.shards}"
        yield Finding(
            "recovery", State.WRONG, detail, f"set shards = {shards}; it is fixed for the life of the directory"
        )
        return
    running = _locked(path / "lock")
    yield Finding("recovery", State.GOOD, f"{path}: {'an engine runs on it' if running else 'ready to resume'}")


def _first_start(settings: Settings, path: Path) -> Finding:
    """Without recovery state a start is a first one, and needs an empty store."""
    made = settings.is_server or (settings.store_dir / "clickhouse").is_dir()
    rows = made and int(b"".join(answer(settings, "SELECT count() FROM ingest_ledger", "TabSeparated")))
    if not rows:
        return Finding("recovery", State.NOTE, f"{path}: none yet; the first start begins at {settings.from_}")
    detail = f"{path}: none, but the store has rows (of a backfill?); `livepulse run` would count events again"
    return Finding("recovery", State.NOTE, detail, "to run, restore the recovery directory or name an empty store")


def _locked(path: Path) -> bool:
    """Another process holds the lock."""
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
