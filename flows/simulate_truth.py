"""What the engine must find: counted from the generator's own rows, by code that shares nothing with the kernels.

`Judge` tells the outcome of each message as it is sent, from its partition's log alone (EVENTS.md, *Time limits*);
`Expectation` keeps the accepted events and works the tables out at the end.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.simulate_funnel import funnel_rows
from flows.simulate_plants import Plant
from flows.simulate_rooms import room_tables
from flows.simulate_traffic import Events, Traffic, described
from flows.simulate_world import (
    CATEGORIES,
    CHANNELS,
    HOUR_CURVE,
    MINUTE_MS,
    PLATFORMS,
    REGIONS,
    ZONES,
    Int64s,
    topic_name,
)
from schemas.events import AD, DIMENSIONS, ORDER, VIEW

OUTCOMES: Final = ("accepted", "duplicate", "late", "rejected")
ACCEPTED, DUPLICATE, LATE, REJECTED = range(4)
SURFACES: Final = ("video", "live")
VALUES: Final[dict[str, tuple[str, ...]]] = {
    "surface": SURFACES, "category": CATEGORIES, "region": REGIONS, "platform": PLATFORMS, "channel": CHANNELS,
}  # fmt: skip
TABLES: Final = (
    "partitions", "active_users", "active_hours", "topic_minutes", "funnel", "rooms", "room_minutes", "room_sources",
    "room_products",
)  # fmt: skip
_NOTHING: Final = -(1 << 62)


class Judge:
    """Outcome of each message of some partitions, a function of each partition's log."""

    def __init__(self, logs: int, out_of_orderness_ms: int) -> None:
        self._bound = out_of_orderness_ms
        self._greatest = np.full(logs, _NOTHING, dtype=np.int64)

    def judge(
        self, logs: Int64s, times: Int64s, copies: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int8]:
        """Outcomes of these messages in the order of sending, shape (n,): codes into OUTCOMES.

        `logs`: partition of each; `copies`: it is the second sending of an event (the first went before into the same
        partition, so if that was late this one is late too); `times` of bad messages play no part.
        """
        outcome = np.where(copies, DUPLICATE, ACCEPTED).astype(np.int8)
        outcome[bad] = REJECTED
        for log in np.unique(logs).tolist():
            mine = np.flatnonzero((logs == log) & ~bad)
            if len(mine):
                greatest = np.maximum.accumulate(np.concatenate(([self._greatest[log]], times[mine])))
                outcome[mine[times[mine] < greatest[:-1] - self._bound]] = LATE
                self._greatest[log] = greatest[-1]
        return outcome


@dataclass(slots=True)
class Truth:
    """What was planted and what follows from the messages that were sent.

    Frames, times in epoch ms. All but `partitions` are None if there were too many events to keep.

    - `partitions`: topic (empty for file lines that name none), partition, file, consumed and the four outcomes
    - `active_users`: window_start, window_seconds (60 and 3600), dim, value, events, users, watch_ms
    - `active_hours`: basis, date, hour, dim, value, events, users, watch_ms
    - `topic_minutes`: tick (the minute's end), topic, events, users
    - `funnel`: unit, bucket_start, dim, value, step, reached, amount_minor
    - `rooms`: live_id, creator_id, category, started_at, ended_at, pcu, watching_peak and `schemas.sessions.MEASURES`
    - `room_minutes`: live_id, window_start, viewers, pcu, watching and those measures
    - `room_sources`: live_id, source, entered_users
    - `room_products`: live_id, product_id, product_clicks, clickers, orders, buyers, gmv_minor
    """

    planted: dict[str, Any]
    totals: dict[str, int]
    bad: dict[str, int] = field(default_factory=dict)  # messages by class
    partitions: pl.DataFrame = field(default_factory=pl.DataFrame)
    active_users: pl.DataFrame | None = None
    active_hours: pl.DataFrame | None = None
    topic_minutes: pl.DataFrame | None = None
    funnel: pl.DataFrame | None = None
    rooms: pl.DataFrame | None = None
    room_minutes: pl.DataFrame | None = None
    room_sources: pl.DataFrame | None = None
    room_products: pl.DataFrame | None = None

    def write(self, directory: Path) -> Path:
        """`truth.json` with what was planted and the counts, and `truth-TABLE.parquet` beside; the JSON's path."""
        directory.mkdir(parents=True, exist_ok=True)
        document = {
            "planted": self.planted,
            "totals": self.totals,
            "bad": self.bad,
            "partitions": self.partitions.to_dicts(),
        }
        path = directory / "truth.json"
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        for name in TABLES[1:]:
            if (frame := getattr(self, name)) is not None:
                frame.write_parquet(directory / f"truth-{name}.parquet")
        return path

    @classmethod
    def read(cls, directory: Path) -> Truth:
        """What `write` wrote."""
        document = json.loads((directory / "truth.json").read_text())
        files = {name: directory / f"truth-{name}.parquet" for name in TABLES[1:]}
        frames = {name: pl.read_parquet(file) for name, file in files.items() if file.exists()}
        partitions = pl.DataFrame(document["partitions"])
        return cls(document["planted"], document["totals"], document["bad"], partitions, **frames)


class Expectation:
    """Accepted events of one world, kept as columns until the tables are asked for."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._kept: list[Events] = []
        self._count = 0

    def accept(self, events: Events) -> None:
        """These were sent and count. Beyond the option's limit nothing is kept any more."""
        self._count += len(events)
        if self._count > self._traffic.options.detail_events_max:
            self._kept = []
        else:
            self._kept.append(events[_KEPT])

    def tables(self) -> dict[str, pl.DataFrame]:
        """Every table of `Truth` but `partitions`; empty if the events were too many to keep."""
        if self._count > self._traffic.options.detail_events_max or not self._kept:
            return {}
        frame = self._frame(np.concatenate(self._kept))
        return {
            "active_users": pl.concat(_activity(frame, seconds) for seconds in (60, 3600)),
            "active_hours": pl.concat((_hours(frame, "platform", self._traffic), _hours(frame, "user", self._traffic))),
            "topic_minutes": self._topic_minutes(frame),
            "funnel": funnel_rows(frame, VALUES),
            **room_tables(frame, self._traffic.rooms),
        }

    def _frame(self, events: Events) -> pl.DataFrame:
        """Accepted events with a code for each dimension (−1: the event does not carry it)."""
        crowd, catalogue, rooms = self._traffic.crowd, self._traffic.catalogue, self._traffic.rooms
        in_room = events["room"] >= 0
        view = events["kind"] == VIEW
        tagged = described(events)
        room_category = np.array([*rooms.category, -1])[events["room"]]
        category = np.where(in_room, room_category, catalogue.category[np.maximum(events["video"], 0)])
        columns = {name: np.ascontiguousarray(events[name]) for name in events.dtype.names or ()}
        return pl.DataFrame({
            **columns,
            "surface": np.where(view, in_room.astype(np.int8), -1),
            "category": np.where(tagged | (events["kind"] == ORDER), category, -1),
            "region": crowd.region[events["user"]],
            "platform": crowd.platform[events["user"]],
            "tagged": tagged,
            "zone": np.where(crowd.names_zone, crowd.zone, -1)[events["user"]],
        })  # fmt: skip

    def _topic_minutes(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Events and users of each topic and minute: views with their further reports, likes, comments, shares."""
        traffic = self._traffic
        tags = np.array([*traffic.rooms.tags, (0, 0)], dtype=np.int64)
        tagged = frame.filter("tagged")
        room, video, trend = (tagged[name].to_numpy() for name in ("room", "video", "trend"))
        two = np.where((room >= 0)[:, None], tags[room], traffic.catalogue.tags[np.maximum(video, 0)])
        planted = np.where(trend >= 0, trend + traffic.options.topics, -1)
        codes = np.concatenate((two[:, 0], two[:, 1], planted))
        names = [topic_name(topic) for topic in range(traffic.options.topics)] + [t.topic for t in traffic.trends.all]
        long = pl.DataFrame({
            "tick": np.tile(tagged["time"].to_numpy() // MINUTE_MS * MINUTE_MS + MINUTE_MS, 3),
            "code": codes, "user": np.tile(tagged["user"].to_numpy(), 3),
        }).filter(pl.col("code") >= 0)  # fmt: skip
        counts = long.group_by("tick", "code").agg(pl.len().cast(pl.Int64).alias("events"), _users())
        return _named(counts, "code", names, "topic").select("tick", "topic", "events", "users").sort("tick", "topic")


_KEPT: Final = [
    "time", "user", "video", "room", "trend", "kind", "action", "channel", "continued", "watch", "amount", "quantity",
    "item",
]  # fmt: skip


def planted(traffic: Traffic, plants: list[Plant], end: int) -> dict[str, Any]:
    """What was put into the world, for the truth file. `end`: event time at which it stopped."""
    options = traffic.options
    return {
        "seed": options.seed, "rate": options.rate, "start": traffic.start, "end": end,
        "conversion": asdict(options.conversion),
        "drawn": {"video_views": traffic.video_views, "entries": traffic.entries},
        "topics": [trend.planted() for trend in traffic.trends.all if trend.start < end],
        "anomalies": [plant.told() for plant in plants],
        "zones": [{"tz": zone.tz, "share": zone.share} for zone in ZONES],
        "hour_curve": list(HOUR_CURVE) if options.daily_curve else None,
        "out_of_orderness_ms": options.out_of_orderness_ms,
    }  # fmt: skip


def partition_rows(counts: Int64s, names: list[tuple[str, int, str]]) -> pl.DataFrame:
    """The `partitions` frame of a truth. `names`: topic, partition, file of each log; empty logs are left out."""
    schema = {
        "topic": pl.String,
        "partition": pl.Int64,
        "file": pl.String,
        **dict.fromkeys(("consumed", *OUTCOMES), pl.Int64),
    }
    rows = [(*name, sum(row), *row) for name, row in zip(names, counts.tolist(), strict=True) if sum(row)]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _users() -> pl.Expr:
    return pl.col("user").n_unique().cast(pl.Int64).alias("users")


def _measures() -> list[pl.Expr]:
    watch = pl.when(pl.col("kind") == VIEW).then("watch").otherwise(0).cast(pl.Int64).sum()
    return [pl.len().cast(pl.Int64).alias("events"), _users(), watch.alias("watch_ms")]


def _named(frame: pl.DataFrame, code: str, names: list[str] | tuple[str, ...], name: str) -> pl.DataFrame:
    return frame.with_columns(pl.Series(name, [names[i] for i in frame[code].to_list()], dtype=pl.String))


def _by_dimension(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Measures of activity by `keys`, in all and by each value of each dimension."""
    active = frame.filter(pl.col("kind") != AD)
    found = [active.group_by(keys).agg(_measures()).with_columns(pl.lit("all").alias("dim"), pl.lit("").alias("value"))]
    for dim in DIMENSIONS:
        grouped = active.filter(pl.col(dim) >= 0).group_by(*keys, dim).agg(_measures())
        found.append(_named(grouped, dim, VALUES[dim], "value").with_columns(pl.lit(dim).alias("dim")).drop(dim))
    columns = [*keys, "dim", "value", "events", "users", "watch_ms"]
    return pl.concat(part.select(columns) for part in found).sort(columns[:-3])


def _activity(frame: pl.DataFrame, seconds: int) -> pl.DataFrame:
    length = seconds * 1000
    windowed = frame.with_columns((pl.col("time") // length * length).alias("window_start"))
    return _by_dimension(windowed, ["window_start"]).with_columns(
        pl.lit(seconds, dtype=pl.Int64).alias("window_seconds")
    )


def _hours(frame: pl.DataFrame, basis: str, traffic: Traffic) -> pl.DataFrame:
    """Activity by local date and hour: of the platform's zone, or of each user's own where the event names one."""
    platform = traffic.options.platform_zone
    zones = {-1: platform} if basis == "platform" else {-1: platform, **{i: zone.tz for i, zone in enumerate(ZONES)}}
    utc = pl.from_epoch("time", time_unit="ms").dt.replace_time_zone("UTC")
    parts = []
    for code, tz in zones.items():
        mine = frame if basis == "platform" else frame.filter(pl.col("zone") == code)
        local = utc.dt.convert_time_zone(tz)
        parts.append(mine.with_columns(local.dt.date().alias("date"), local.dt.hour().cast(pl.Int64).alias("hour")))
    return _by_dimension(pl.concat(parts), ["date", "hour"]).select(pl.lit(basis).alias("basis"), pl.all())
