"""Drawn lists of events and the ways in which they may arrive: what the properties of kernels over events share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from hypothesis import strategies as st

from schemas.events import KIND, frame_schema
from schemas.hashing import hash64

MINUTE, HOUR = 60_000, 3_600_000
Event = dict[str, Any]  # `topic` and the fields of EVENTS.md; event_time in ms


@dataclass(frozen=True)
class World:
    """Events and how they arrive."""

    events: list[Event]
    cuts: list[int]
    early: bool
    jitter: int
    retain: int
    seed: int


def world_of(draw: st.DrawFn, events: list[Event]) -> World:
    """A way for `events` to arrive."""
    return World(
        events,
        cuts=draw(st.lists(st.integers(0, len(events)), max_size=6)),
        early=draw(st.booleans()),
        jitter=draw(st.sampled_from([0, MINUTE, 10 * MINUTE])),
        retain=draw(st.sampled_from([0, 10 * MINUTE, HOUR])),
        seed=draw(st.integers(0, 1 << 16)),
    )


def arrivals(world: World, rng: random.Random) -> list[Event]:
    """An order in which no event comes that is older than the watermark by more than what is retained."""
    span = world.jitter + world.retain
    return sorted(world.events, key=lambda e: e["event_time"] + rng.randint(0, span))


def frame_of(events: Sequence[Event], columns: frozenset[str]) -> pl.DataFrame:
    """Events as a shard kernel gets them."""
    schema = frame_schema(columns)
    rows = [
        {
            **{name: event.get(name) for name in schema},
            "kind": KIND[event["topic"]],
            "partition": 0,
            "offset": 0,
            "ingest_time": 0,
            "user_hash": hash64(pl.Series([event["user_id"]])).item(),
            "id_hash": hash64(pl.Series([event["event_id"]])).item(),
        }
        for event in events
    ]
    return pl.DataFrame(rows, schema=schema)
