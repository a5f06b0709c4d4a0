"""Planted anomalies of simulated traffic: which messages are lost, added or broken, when, and who must be told.

They are planted into the messages as they are sent, so every layer of the engine sees what it would see in earnest.
Who is lost follows from user and anomaly alone: a user that is gone is gone with all that it does meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flows.simulate_traffic import Events, Traffic, joined
from flows.simulate_world import MINUTE_MS, REGIONS, ZONES, Floats, Int64s
from schemas.events import VIEW

KINDS: Final = ("spike", "drop", "shift", "leak", "region", "stall")
_LENGTHS_MIN: Final = {
    "spike": (4, 10), "drop": (12, 30), "shift": (90, 150), "leak": (180, 180), "region": (20, 40), "stall": (12, 25),
}  # fmt: skip
_BIG_REGIONS: Final = ZONES[0].regions[:3]
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Plant:
    """One anomaly in [start, end) of event time (epoch ms).

    `level`: what is left of the traffic, or what it grows to (of a leak: at its end). `region`: it is lost there only.
    `partition`: its messages are lost (−1: of none). `rejected`: share of the messages that break the contract.
    """

    number: int
    kind: str
    start: int
    end: int
    level: float
    region: str = ""
    partition: int = -1
    rejected: float = 0.0

    @property
    def route(self) -> str:
        """Who must be told."""
        return "pipeline" if self.kind == "stall" else "business"

    def factor(self, times: Int64s) -> Floats:
        """What is left of the traffic at these times."""
        inside = (times >= self.start) & (times < self.end)
        part = (times - self.start) / (self.end - self.start) if self.kind == "leak" else np.ones(len(times))
        return np.where(inside, 1 + (self.level - 1) * part, 1.0)

    def told(self) -> dict[str, Any]:
        """For the truth file."""
        return {
            "kind": self.kind, "start": self.start, "end": self.end, "level": round(self.level, 4),
            "region": self.region, "partition": self.partition, "rejected": round(self.rejected, 4),
            "route": self.route, "direction": "up" if self.level > 1 else "down",
        }  # fmt: skip


class Plants:
    """The anomalies of a simulation, in turn and for ever; each follows from the seed and its number."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic, self._options, self._start = traffic, traffic.options, traffic.start
        self._rng = np.random.default_rng((self._options.seed, 9))
        self._all: list[Plant] = []

    def until(self, time: int) -> list[Plant]:
        """All that begin before `time`."""
        if not self._options.plant_every_minutes:
            return []
        while not self._all or self._all[-1].start < time:
            self._all.append(self._next(len(self._all)))
        return [plant for plant in self._all if plant.start < time]

    def _next(self, number: int) -> Plant:
        options = self._options
        r = np.random.default_rng((options.seed, 8, number))
        kind = options.plant_kinds[number % len(options.plant_kinds)]
        low, high = _LENGTHS_MIN[kind]
        length = int(r.integers(low, high + 1)) * MINUTE_MS
        jitter = options.plant_every_minutes * r.uniform(0.02, 0.1)
        begin = options.plant_from_minutes + number * options.plant_every_minutes + jitter
        start = (self._start + int(begin * MINUTE_MS)) // MINUTE_MS * MINUTE_MS
        levels = {
            "spike": r.uniform(2.0, 4.0), "drop": r.uniform(0.2, 0.6), "leak": 0.5, "region": r.uniform(0.0, 0.2),
            "shift": r.choice((r.uniform(0.5, 0.7), r.uniform(1.4, 1.8))), "stall": 1.0,
        }  # fmt: skip
        region = str(r.choice(_BIG_REGIONS)) if kind == "region" else ""
        partition, rejected = -1, 0.0
        if kind == "stall" and r.random() < 0.5:
            partition = int(r.integers(options.partitions))
        elif kind == "stall":
            rejected = float(r.uniform(0.3, 0.45))
        lost = 1 - 1 / options.partitions if partition >= 0 else 1 - rejected
        return Plant(number, kind, start, start + length, float(levels[kind]) * lost, region, partition, rejected)

    def apply(self, events: Events, partitions: Int64s) -> tuple[Events, npt.NDArray[np.bool_]]:
        """These events (of a step of arrivals) without what is lost and with what is added, and which of them break.

        `partitions`: of each event.
        """
        regions = self._traffic.crowd.region
        broken = np.zeros(len(events), dtype=np.bool_)
        if not len(events) or not self._options.plant_every_minutes:
            return events, broken
        times = events["time"].astype(np.int64)
        kept = np.ones(len(events), dtype=np.bool_)
        more: list[Events] = []
        for plant in self._near(times):
            inside = (times >= plant.start) & (times < plant.end)
            if plant.partition >= 0:
                kept &= ~(inside & (partitions == plant.partition))
            elif plant.rejected:
                broken |= inside & (_draw(events["id"], plant.number) < plant.rejected)
            elif plant.level > 1:
                more.append(self._added(events[inside], plant))
            else:
                there = regions[events["user"]] == REGIONS.index(plant.region) if plant.region else True
                kept &= ~(inside & there & (_draw(events["user"], plant.number) >= plant.factor(times)))
        added = joined(more)
        return joined([events[kept], added]), np.concatenate([broken[kept], np.zeros(len(added), dtype=np.bool_)])

    def _near(self, times: Int64s) -> list[Plant]:
        first, last = int(times.min()), int(times.max())
        return [plant for plant in self.until(last + 1) if plant.end > first]

    def _added(self, events: Events, plant: Plant) -> Events:
        """Views of videos by further users, so many that all traffic grows by the factor."""
        views: Events = events[(events["kind"] == VIEW) & (events["room"] < 0) & ~events["copy"]]
        views = views[views["arrival"] - views["time"] < 2 * MINUTE_MS]  # not those that come late on purpose
        if not len(views):
            return views
        count = int(self._rng.poisson((plant.level - 1) * len(events)))
        more: Events = views[self._rng.integers(0, len(views), count)]
        more["id"] = self._traffic.new_ids(count)
        more["user"] = self._rng.integers(0, self._traffic.crowd.viewers, count)
        return more


def _draw(codes: npt.NDArray[Any], number: int) -> Floats:
    """A number in [0, 1) for each code, the same whenever it is asked for."""
    mixed = (codes.astype(np.uint64) + np.uint64(number + 1) * np.uint64(1 << 40)) * _MIX
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)
