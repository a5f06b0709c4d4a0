"""Who and what the simulated platform is made of: users in their zones, videos, live rooms, topics that rise and fall.

Everything is drawn from the seed, so the same options give the same world. Times are epoch ms, rates are per second.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

HOUR_CURVE: Final = (
    0.79, 0.48, 0.31, 0.22, 0.19, 0.27, 0.51, 0.74, 0.86, 0.96, 1.07, 1.15,
    1.27, 1.28, 1.15, 1.17, 1.24, 1.31, 1.40, 1.48, 1.59, 1.65, 1.63, 1.28,
)  # fmt: skip
"""Exposures of each local hour over their mean. Derived from KuaiRand (https://kuairand.com,
CC BY-SA 4.0): the exposures of 27,000 Kuaishou users by hour of day."""

CATEGORIES: Final = ("food", "dance", "game", "beauty", "knowledge", "comedy", "music", "sport", "pets", "travel")
CHANNELS: Final = ("feed", "search", "follow", "share", "paid")
CHANNEL_SHARES: Final = (0.62, 0.14, 0.12, 0.07, 0.05)
GIFTS: Final = (("rose", 100), ("heart", 520), ("beer", 1_000), ("crown", 6_600), ("rocket", 50_000))
"""Gift and its price in fen."""
GIFT_SHARES: Final = (0.6, 0.22, 0.12, 0.05, 0.01)
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000


_Number = TypeVar("_Number", int, pl.Expr)


def product_number(room: _Number, item: _Number) -> _Number:
    """The product of an order or a click in a room: each sells twenty, some of them other rooms as well."""
    return (room * 7 + item % 20) % 997


@dataclass(frozen=True, slots=True)
class Zone:
    """Where a share of the users lives. `regions`: ISO 3166-2, the first is the most frequent."""

    tz: str
    share: float
    regions: tuple[str, ...]
    platforms: tuple[str, ...]


ZONES: Final = (
    Zone(
        "Asia/Shanghai", 0.72, ("CN-GD", "CN-ZJ", "CN-SC", "CN-SD", "CN-BJ", "CN-SH", "CN-HN"), ("douyin", "kuaishou")
    ),
    Zone("Asia/Urumqi", 0.04, ("CN-XJ",), ("douyin", "kuaishou")),
    Zone("Asia/Kolkata", 0.05, ("IN-MH", "IN-KA"), ("kwai",)),
    Zone("Asia/Kathmandu", 0.01, ("NP-P3",), ("kwai",)),
    Zone("Europe/London", 0.04, ("GB-ENG", "GB-SCT"), ("tiktok",)),
    Zone("America/New_York", 0.08, ("US-NY", "US-FL", "US-GA"), ("tiktok",)),
    Zone("America/Sao_Paulo", 0.06, ("BR-SP", "BR-RJ"), ("kwai", "tiktok")),
)
PLATFORMS: Final = tuple(sorted({name for zone in ZONES for name in zone.platforms}))
REGIONS: Final = tuple(name for zone in ZONES for name in zone.regions)


@dataclass(frozen=True, slots=True)
class Conversion:
    """Planted probabilities: `enter` of a video view, the others of a room entered by way of a video."""

    enter: float = 0.03
    engage: float = 0.40
    gift: float = 0.12
    order: float = 0.06

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"conversion {name} = {value} is no probability")


@dataclass(frozen=True, slots=True)
class Options:
    """What to simulate.

    `rate`: messages per second of event time, the mean of a day if `daily_curve`, else always. It is reached some
    minutes after the start, when reports of long stays have set in: give some `history_s` for a full rate at once.
    """

    seed: int = 1
    rate: float = 2_000.0
    start: int | None = None  # event time of the first event; None: a fixed day for files, now − history for Kafka
    events: int | None = None  # messages in all
    duration_s: float | None = None  # of event time (Kafka: beside the history)
    history_s: float = 0.0  # Kafka: so much is sent as fast as possible before the live pace begins
    paced: bool = True  # Kafka: at the pace of event time; else as fast as possible
    drain: bool = True  # bounded input: let what has begun come to its end
    daily_curve: bool = True
    users: int = 50_000
    videos: int = 20_000
    creators: int = 2_000
    topics: int = 2_000
    rooms: int = 40  # at any time
    conversion: Conversion = field(default_factory=Conversion)
    trend_half_lives_minutes: tuple[float, ...] = (12.0, 25.0, 45.0, 90.0)
    trend_interval_minutes: float = 10.0
    trend_peak_share: float = 0.015  # of `rate`, at the peak of one planted topic
    plant_every_minutes: float = 0.0  # anomalies, one in so many minutes; 0: none
    plant_from_minutes: float = 1_440.0  # the first comes so long after the start: detectors must know the series
    plant_kinds: tuple[str, ...] = ("spike", "drop", "shift", "leak", "region", "stall")  # in turn
    late_share: float = 0.002  # how many are sent too late on purpose; whether they were is told by the log
    duplicate_share: float = 0.01
    bad_share: float = 0.0005
    out_of_orderness_ms: int = 300_000  # of the engine, and allowed lateness with it: late is measured against it
    partitions: int = 4  # a topic; also the number of files
    topic_prefix: str = ""
    compression: str = ""  # of files: "", "gz" or "zst"
    file_per_topic: bool = False
    platform_zone: str = "Asia/Shanghai"
    detail_events_max: int = 8_000_000  # beyond so many accepted events the truth keeps counts only

    def __post_init__(self) -> None:
        for name in ("late_share", "duplicate_share", "bad_share", "trend_peak_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ValueError(f"{name} must lie in 0 … 0.5")
        for name in ("rate", "users", "videos", "creators", "topics", "rooms", "partitions", "trend_interval_minutes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.compression not in {"", "gz", "zst"}:
            raise ValueError("compression must be empty, gz or zst")
        if self.plant_every_minutes < 0 or self.plant_from_minutes < 0:
            raise ValueError("plant_every_minutes and plant_from_minutes are not negative")
        if 0 < self.plant_every_minutes < 240 and "leak" in self.plant_kinds:
            raise ValueError("plant_every_minutes must be 240 at least, so that no anomaly hides in another")
        if self.topics < 4 or min(self.trend_half_lives_minutes, default=0) <= 0:
            raise ValueError("at least 4 topics and one positive trend half-life are needed")


def power_law_rank(uniform: Floats, count: int | Int64s, exponent: float) -> Int64s:
    """Ranks in 0 … count − 1 with P(rank) about ∝ (rank + 1)^−exponent (continuous inverse; exponent ≠ 1).

    `uniform`: draws in [0, 1), shape (n,); `count`: one number or one for each draw.
    """
    power = 1.0 - exponent
    ranks = ((count + 1) ** power - 1.0) * uniform + 1.0
    return np.minimum(ranks ** (1.0 / power) - 1.0, count - 1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Trend:
    """A planted topic: its rate rises in a straight line from `start` to `peak`, then halves every half-life."""

    topic: str
    start: int
    peak: int
    half_life_ms: int
    peak_per_minute: float  # events with the topic, whatever they weigh

    def shape(self, times: Int64s) -> Floats:
        """Rate over the rate at the peak, 0 … 1."""
        rise = (times - self.start) / (self.peak - self.start)
        fall = np.exp2(-(times - self.peak) / self.half_life_ms)
        return np.clip(np.where(times < self.peak, rise, fall), 0.0, 1.0)

    @property
    def end(self) -> int:
        """After ten half-lives it is over: its rate is under a thousandth of the peak."""
        return self.peak + 10 * self.half_life_ms

    def planted(self) -> dict[str, Any]:
        """For the truth file."""
        return {
            "topic": self.topic, "start": self.start, "peak_time": self.peak,
            "half_life_minutes": self.half_life_ms / MINUTE_MS, "peak_per_minute": round(self.peak_per_minute, 3),
        }  # fmt: skip


class Trends:
    """The planted topics, one after another for ever."""

    def __init__(self, options: Options, start: int) -> None:
        self._options, self._start = options, start
        self._rng = np.random.default_rng((options.seed, 1))
        self.all: list[Trend] = []

    def until(self, time: int) -> list[Trend]:
        """All that have started before `time`."""
        while not self.all or self.all[-1].start < time:
            self.all.append(self._next(len(self.all)))
        return [trend for trend in self.all if trend.start < time]

    def _next(self, index: int) -> Trend:
        options = self._options
        half_lives = options.trend_half_lives_minutes
        half_life_ms = round(half_lives[index % len(half_lives)] * MINUTE_MS)
        jitter = self._rng.uniform(0.1, 0.9)
        start = self._start + round((index + jitter) * options.trend_interval_minutes * MINUTE_MS)
        peak = start + round(half_life_ms * self._rng.uniform(0.3, 0.7))
        per_minute = 60 * options.rate * options.trend_peak_share * self._rng.uniform(0.7, 1.3)
        name = f"{_TREND_WORDS[index % len(_TREND_WORDS)]}-{index + 1}"
        return Trend(name, start, peak, half_life_ms, per_minute)


_TREND_WORDS: Final = ("street-dance", "night-market", "snow-town", "old-songs", "hotpot", "marathon", "lantern-fair",
                       "star-wedding", "new-phone", "exam-day", "rain-alarm", "panda-cub")  # fmt: skip


class Crowd:
    """Users, in blocks by zone so that a zone's users are a range; creators follow after them as users of their own."""

    def __init__(self, options: Options) -> None:
        rng = np.random.default_rng((options.seed, 2))
        self.sizes = np.maximum(1, np.round(np.array([z.share for z in ZONES]) * options.users)).astype(np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(self.sizes)))
        self.viewers = int(self.offsets[-1])
        total = self.viewers + options.creators
        self.zone = np.zeros(total, dtype=np.int8)
        self.zone[: self.viewers] = np.repeat(np.arange(len(ZONES)), self.sizes)
        self.region = np.zeros(total, dtype=np.int16)
        self.platform = np.zeros(total, dtype=np.int8)
        for index, zone in enumerate(ZONES):
            mine = np.flatnonzero(self.zone == index)
            regions = [REGIONS.index(name) for name in zone.regions]
            self.region[mine] = np.array(regions)[power_law_rank(rng.random(len(mine)), len(regions), 0.7)]
            self.platform[mine] = np.array([PLATFORMS.index(p) for p in zone.platforms])[
                power_law_rank(rng.random(len(mine)), len(zone.platforms), 0.7)
            ]
        self.region[rng.random(total) < 0.03] = -1  # some clients say no region
        self.names_zone = rng.random(total) >= np.where(
            self.zone == 0, 0.2, 0.0
        )  # and some in the platform's zone no tz

    def fragments(self) -> list[str]:
        """JSON members of each user: id, region, tz, platform, experiments."""
        lines = []
        for user in range(len(self.zone)):
            name = f"u{user}" if user < self.viewers else f"c{user - self.viewers}"
            region = f'"region":"{REGIONS[self.region[user]]}",' if self.region[user] >= 0 else ""
            tz = f'"tz":"{ZONES[self.zone[user]].tz}",' if self.names_zone[user] else ""
            variant = f',"experiments":{{"rec_v7":"{"AB"[user // 4 % 2]}"}}' if user % 4 == 0 else ""
            lines.append(f'"user_id":"{name}",{region}{tz}"platform":"{PLATFORMS[self.platform[user]]}"{variant}')
        return lines


class Catalogue:
    """Videos and the topics that people tag them with."""

    def __init__(self, options: Options) -> None:
        rng = np.random.default_rng((options.seed, 3))
        count = options.videos
        self.creator = rng.integers(0, options.creators, count)
        self.category = power_law_rank(rng.random(count), len(CATEGORIES), 0.6).astype(np.int8)
        self.duration_ms = np.clip(rng.lognormal(10.1, 0.8, count), 4_000, 300_000).astype(np.int64)
        self.tags = two_topics(rng, count, options.topics)


def two_topics(rng: np.random.Generator, count: int, topics: int) -> Int64s:
    """Two different topics each, Zipf: shape (count, 2)."""
    first = power_law_rank(rng.random(count), topics, 0.6)
    second = (first + 1 + power_law_rank(rng.random(count), topics - 1, 0.6)) % topics
    return np.stack((first, second), axis=1)


def topic_name(topic: int) -> str:
    """A tag of the standing topics."""
    return f"{CATEGORIES[topic % len(CATEGORIES)]}-{topic}"


class Rooms:
    """Live rooms: `options.rooms` slots, one show after another. A show takes no new viewers in its last 3 min."""

    def __init__(self, options: Options, start: int) -> None:
        self._rng = np.random.default_rng((options.seed, 4))
        self._options = options
        self.creator: list[int] = []
        self.category: list[int] = []
        self.tags: list[tuple[int, int]] = []
        self.ends: list[int] = []
        self.current = np.zeros(options.rooms, dtype=np.int64)
        self._ends_of_current = np.zeros(options.rooms, dtype=np.int64)
        self._visitors: dict[int, set[int]] = {}
        self._start = start

    def advance(self, time: int) -> list[tuple[int, int, int]]:
        """Replace shows that end by `time`; (room, start, end) of the new ones."""
        opened = []
        first = not self.creator
        for slot in range(self._options.rooms):
            while first or self._ends_of_current[slot] - 3 * MINUTE_MS <= time:
                begin = self._start if first else max(self._start, int(self._ends_of_current[slot]) - 3 * MINUTE_MS)
                opened.append((self._open(slot, begin), begin, int(self._ends_of_current[slot])))
                if first:
                    break
        self._visitors = {room: users for room, users in self._visitors.items() if self.ends[room] > time}
        return opened

    def _open(self, slot: int, begin: int) -> int:
        room = len(self.creator)
        rng = self._rng
        self.creator.append(int(rng.integers(0, self._options.creators)))
        self.category.append(int(power_law_rank(rng.random(1), len(CATEGORIES), 0.6)[0]))
        first, second = two_topics(rng, 1, self._options.topics)[0]
        self.tags.append((int(first), int(second)))
        self.ends.append(begin + int(rng.uniform(15, 90) * MINUTE_MS))
        self.current[slot], self._ends_of_current[slot] = room, self.ends[-1]
        return room

    def enter(self, users: Int64s, rng: np.random.Generator) -> Int64s:
        """A room for each user that it has not been in, by popularity; −1 where none was found in four draws."""
        chosen = np.full(len(users), -1, dtype=np.int64)
        for _ in range(4):
            open_rows = np.flatnonzero(chosen < 0)
            if not len(open_rows):
                break
            rooms = self.current[power_law_rank(rng.random(len(open_rows)), self._options.rooms, 0.7)]
            for row, room in zip(open_rows.tolist(), rooms.tolist(), strict=True):
                visitors = self._visitors.setdefault(room, set())
                user = int(users[row])
                if user not in visitors:
                    visitors.add(user)
                    chosen[row] = room
        return chosen


class DayCurve:
    """How busy the platform is at a time, by the local hour of each zone."""

    def __init__(self, options: Options) -> None:
        self._flat = not options.daily_curve
        self._shares = np.array([zone.share for zone in ZONES])
        self._infos = [ZoneInfo(zone.tz) for zone in ZONES]

    def zone_weights(self, time: int) -> Floats:
        """Activity of each zone relative to the day's mean of all: shape (zones,)."""
        moment = datetime.fromtimestamp(time / 1000, UTC)
        weights = [
            share * _curve_at(moment.astimezone(info)) for share, info in zip(self._shares, self._infos, strict=True)
        ]
        return np.array(weights)

    def level(self, time: int) -> float:
        """Rate over the mean rate."""
        return 1.0 if self._flat else float(self.zone_weights(time).sum())


def _curve_at(local: datetime) -> float:
    """The hour curve, in straight lines between the middles of its hours."""
    at = local.hour + local.minute / 60 - 0.5
    low = int(np.floor(at))
    part = at - low
    return HOUR_CURVE[low % 24] * (1 - part) + HOUR_CURVE[(low + 1) % 24] * part
