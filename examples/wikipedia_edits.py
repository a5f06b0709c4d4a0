"""A recorded public stream as events: a day of Wikipedia edits (Apache Druid's tutorial data), and its own recount.

    python examples/wikipedia_edits.py wikiticker-2015-09-12.json.gz > edits.ndjson
    livepulse replay edits.ndjson --speed max --brokers 127.0.0.1:9092     # while `livepulse run` reads that broker
    python examples/wikipedia_edits.py --recount edits.ndjson              # five hours, as the view active_hours has them

Each edit is a `view` of its page by its author; its channel (`#en.wikipedia`) is category and tag.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo


def lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, packed or not."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from file


def event(number: int, edit: dict[str, Any]) -> dict[str, Any]:
    """The edit as an event of the contract."""
    page = hashlib.sha256(edit["page"].encode()).hexdigest()[:16]
    return {
        "topic": "view", "event_id": f"edit-{number}", "event_time": edit["time"], "user_id": edit["user"],
        "surface": "video", "video_id": page, "creator_id": edit["channel"], "category": edit["channel"],
        "tags": [edit["channel"]], "region": edit.get("countryIsoCode"), "watch_ms": 1000,
    }  # fmt: skip


def recount(events: Iterable[bytes], zone: str = "Asia/Shanghai") -> list[tuple[str, int, int, int]]:
    """Date, hour, events and distinct users of each hour of the zone, most users first."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for line in events:
        edit = json.loads(line)
        when = datetime.fromisoformat(edit["event_time"].replace("Z", "+00:00")).astimezone(ZoneInfo(zone))
        found[when.date().isoformat(), when.hour].append(edit["user_id"])
    rows = [(date, hour, len(users), len(set(users))) for (date, hour), users in found.items()]
    return sorted(rows, key=lambda row: (-row[3], row[:2]))


if __name__ == "__main__":
    if sys.argv[1] == "--recount":
        for row in recount(lines(Path(sys.argv[2])))[:5]:
            print(*row, sep="\t")
    else:
        for number, line in enumerate(lines(Path(sys.argv[1]))):
            print(json.dumps(event(number, json.loads(line)), ensure_ascii=False))
