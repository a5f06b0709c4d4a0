"""What the views must say about the benchmark's events, recomputed from the generator's columns by plain Polars.

Independent of the engine: none of its decoding, hashing, windows or kernels is used, only the definitions of TABLES.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from flows.bench_traffic import category, platform, region
from schemas.events import CORE_TOPICS, GIFT, LIKE, ORDER, VIEW

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
HEAT_HALF_LIFE_MS: Final = 6 * HOUR_MS
HEAT_WEIGHTS: Final = {VIEW: 1.0, LIKE: 3.0}
LIVE_ENTER_WITHIN_MS: Final = 30 * MINUTE_MS
REST_WITHIN_MS: Final = 24 * HOUR_MS
FUNNEL: Final = "video_to_live"
_HEAT_TOLERANCE: Final = 1e-6  # relative: the engine keeps heat in fixed point
_FLOATS: Final = ("heat",)


@dataclass(frozen=True, slots=True)
class View:
    """How a view is read for the comparison: rows that `where` keeps, `keys` and `figures` (SQL → name)."""

    name: str
    keys: Mapping[str, str]
    figures: tuple[str, ...]
    where: str = "1"

    def sql(self) -> str:
        """The query that reads it as CSV with a header."""
        columns = [f"{expression} AS {name}_" for name, expression in self.keys.items()]
        summed = [f"sum({name}) AS {name}_" for name in self.figures]
        grouped = ", ".join(f"{name}_" for name in self.keys)
        read = f"SELECT {', '.join(columns + summed)} FROM {self.name} WHERE {self.where}"  # noqa: S608  # fixed words
        return f"{read} GROUP BY {grouped} FORMAT CSVWithNames"

    def visible_sql(self) -> str:
        """The sum of the first figure: grows up to the truth's while rows come in."""
        return f"(SELECT sum({self.figures[0]}) FROM {self.name} WHERE {self.where})"  # noqa: S608  # fixed words


def _ms(column: str) -> str:
    return f"toInt64(toUnixTimestamp({column})) * 1000"


ACTIVE_USERS: Final = View(
    "active_users",
    {"window_start": _ms("window_start"), "window_seconds": "window_seconds", "dim": "dim", "value": "value"},
    ("events", "users", "watch_ms"),
)
TOPIC_HEAT: Final = View(
    "topic_heat", {"tick": _ms("tick"), "topic": "topic"}, ("events", "users", "heat"), where="events > 0"
)
FUNNELS: Final = View(
    "funnel",
    {"unit": "unit", "bucket_start": _ms("bucket_start"), "step": "step"},
    ("reached", "amount_minor"),
    where=f"funnel = '{FUNNEL}' AND dim = 'all' AND reached > 0",
)
LEDGER: Final = View(
    "ingest_ledger", {"topic": "topic"}, ("consumed", "accepted", "duplicate", "late", "rejected", "filtered")
)


@dataclass(frozen=True, slots=True)
class Truth:
    """A view and the rows that it must show."""

    view: View
    rows: pl.DataFrame

    @property
    def visible(self) -> int:
        """What `View.visible_sql` gives once all is there."""
        return int(self.rows[self.view.figures[0]].sum())


def all_families(events: pl.DataFrame) -> list[Truth]:
    """The truth of `bench throughput`'s main run."""
    dims = {
        "all": pl.lit(""),
        "surface": _surface(),
        "category": category(),
        "region": region(),
        "platform": platform(),
    }
    return [
        Truth(LEDGER, ledger(events)),
        Truth(ACTIVE_USERS, active_users(events, (60, 3600), dims)),
        Truth(TOPIC_HEAT, topic_heat(events)),
        Truth(FUNNELS, funnel(events)),
    ]


def w1(events: pl.DataFrame) -> list[Truth]:
    """The truth of W1: one-minute windows per category over the views."""
    views = events.filter(pl.col("kind") == VIEW)
    dims = {"all": pl.lit(""), "category": category()}
    return [Truth(LEDGER, ledger(views)), Truth(ACTIVE_USERS, active_users(views, (60,), dims))]


def _surface() -> pl.Expr:
    return pl.when(pl.col("kind") == VIEW).then(pl.when("in_room").then(pl.lit("live")).otherwise(pl.lit("video")))


def ledger(events: pl.DataFrame) -> pl.DataFrame:
    """Every event is accepted."""
    counts = dict(events.group_by("kind").len().iter_rows())
    kinds = sorted(counts)
    whole = [counts[kind] for kind in kinds]
    none = [0] * len(kinds)
    return pl.DataFrame(
        {"topic": [CORE_TOPICS[k] for k in kinds], "consumed": whole, "accepted": whole}
        | dict.fromkeys(("duplicate", "late", "rejected", "filtered"), none)
    )


def active_users(events: pl.DataFrame, windows_s: tuple[int, ...], dims: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """Events, distinct users and time watched per window and value of each dimension that the event carries."""
    watched = pl.when(pl.col("kind") == VIEW).then("watch_ms").otherwise(0)
    found = []
    for seconds in windows_s:
        start = pl.col("event_time") // (seconds * 1000) * (seconds * 1000)
        for dim, value in dims.items():
            rows = events.select(start.alias("window_start"), "user", value.alias("value"), watched.alias("watch_ms"))
            found.append(
                rows.drop_nulls("value")
                .group_by("window_start", "value")
                .agg(events=pl.len(), users=pl.col("user").n_unique(), watch_ms=pl.col("watch_ms").sum())
                .with_columns(window_seconds=pl.lit(seconds), dim=pl.lit(dim))
            )
    return pl.concat(found)


def topic_heat(events: pl.DataFrame) -> pl.DataFrame:
    """Events, users and heat per topic and minute with events. A tag that an event carries twice counts once."""
    tagged = events.filter(pl.col("kind") <= LIKE)
    second = tagged.filter(pl.col("tag") != pl.col("other_tag"))
    carried = pl.concat([tagged.with_columns(t="tag"), second.with_columns(t="other_tag")])
    tick = (pl.col("event_time") // MINUTE_MS + 1) * MINUTE_MS
    weight = pl.when(pl.col("kind") == VIEW).then(HEAT_WEIGHTS[VIEW]).otherwise(HEAT_WEIGHTS[LIKE])
    first = int(events["event_time"].min())  # type: ignore[arg-type]  # a column of integers; the landmark of forward decay
    grown = weight * 2.0 ** ((pl.col("event_time") - first) / HEAT_HALF_LIFE_MS)
    minutes = (
        carried.group_by(tick.alias("tick"), "t")
        .agg(events=pl.len(), users=pl.col("user").n_unique(), grown=grown.sum())
        .sort("t", "tick")
    )
    decay = 2.0 ** (-(pl.col("tick") - first) / HEAT_HALF_LIFE_MS)
    return minutes.select(
        "tick",
        pl.format("t{}", "t").alias("topic"),
        "events",
        "users",
        (pl.col("grown").cum_sum().over("t") * decay).alias("heat"),
    )


def funnel(events: pl.DataFrame) -> pl.DataFrame:
    """Units and money per hour and step of `video_to_live`, both units, undivided by dimension."""
    timed = events.select("kind", "user", "room", "in_room", "amount", "paid", at="event_time")
    of_room = timed.filter(pl.col("in_room"))
    steps = {
        3: of_room.filter(pl.col("kind") == LIKE),
        4: of_room.filter(pl.col("kind") == GIFT),
        5: of_room.filter((pl.col("kind") == ORDER) & pl.col("paid")),
    }
    videos = timed.filter((pl.col("kind") == VIEW) & ~pl.col("in_room")).select("user", "at")
    first = _hour("at")
    chains = _chains(videos, of_room.filter(pl.col("kind") == VIEW))
    rows = [
        videos.group_by(bucket_start=first).agg(reached=pl.col("user").n_unique()).with_columns(
            unit=pl.lit("user"), step=1, amount_minor=0
        )
    ]  # fmt: skip
    for step in (2, 3, 4, 5):
        reached = chains.with_columns(amount=0) if step == 2 else _reached(chains, steps[step], paid=step >= 4)
        for unit, key in (("user", ["user"]), ("user_live", ["user", "room"])):
            rows.append(
                reached.group_by(bucket_start=_hour("step1"))
                .agg(reached=pl.struct(key).n_unique(), amount_minor=pl.col("amount").sum())
                .with_columns(unit=pl.lit(unit), step=step)
            )
    return pl.concat(rows, how="diagonal_relaxed")


def _hour(column: str) -> pl.Expr:
    return pl.col(column) // HOUR_MS * HOUR_MS


def _chains(videos: pl.DataFrame, rooms: pl.DataFrame) -> pl.DataFrame:
    """(user, room, step1, step2): first views of rooms with the user's latest video view up to 30 min before."""
    entered = rooms.group_by("user", "room").agg(step2=pl.col("at").min()).sort("step2")
    before = videos.select("user", step1="at").sort("step1")
    return entered.join_asof(
        before,
        left_on="step2",
        right_on="step1",
        by="user",
        strategy="backward",
        tolerance=LIVE_ENTER_WITHIN_MS,
        coalesce=False,
        check_sortedness=False,
    ).drop_nulls("step1")


def _reached(chains: pl.DataFrame, done: pl.DataFrame, *, paid: bool) -> pl.DataFrame:
    """Chains with a qualifying event of a later step, and the money of all of those."""
    after = chains.join(done.select("user", "room", "at", "amount"), on=["user", "room"]).filter(
        pl.col("at").is_between(pl.col("step2"), pl.col("step2") + REST_WITHIN_MS)
    )
    money = pl.col("amount").sum() if paid else pl.lit(0)
    return after.group_by("user", "room", "step1").agg(amount=money)


def differences(truth: Truth, shown: pl.DataFrame) -> list[str]:
    """Sentences that say where a view's rows are not the truth's; none when they are exact."""
    keys = list(truth.view.keys)
    figures = {f"{name}_": pl.Float64() if name in _FLOATS else pl.Int64() for name in truth.view.figures}
    got = shown.select(
        *(pl.col(f"{key}_").cast(truth.rows.schema[key]).alias(key) for key in keys),
        *(pl.col(name).cast(dtype) for name, dtype in figures.items()),
    )
    both = truth.rows.select(*keys, *truth.view.figures).join(got, on=keys, how="full", coalesce=True, nulls_equal=True)
    found = []
    for name in truth.view.figures:
        expected, is_ = pl.col(name), pl.col(f"{name}_")
        same = (is_ - expected).abs() <= _HEAT_TOLERANCE * expected.abs() if name in _FLOATS else is_ == expected
        wrong = both.filter(~same.fill_null(value=False))
        if wrong.height:
            row = wrong.sort(keys).row(0, named=True)
            where = ", ".join(f"{key} {row[key]}" for key in keys)
            found.append(
                f"{truth.view.name}.{name}: {wrong.height} of {both.height} rows differ, the first at {where}: "
                f"{row[f'{name}_']} instead of {row[name]}"
            )
    return found
