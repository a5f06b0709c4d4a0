"""Which series are watched for anomalies: the one place that lists them. A user adds measures in TOML (`[[watch]]`).

A watch is a view's closed windows; each measure of it is a series for the whole and for each of the greatest values of
its dimensions. Funnels are watched as they are declared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from schemas.funnels import BUCKET_MS, Funnel
from schemas.tables import identifier, table_of
from schemas.windows import DAY_MS


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a window.

    Attributes:
        name: what the series is called after its view.
        counted: a number of things, which varies at least as Poisson's law says (money and time do not).
        column: where it is read; empty: `name`.
        per: of money and time, the count that they are a sum over: where that is small, they are no figure.
        over: another column; the measure is then the rate column / over.
        factors: names and columns of a chain of counts that ends with this measure's own: its value is the product of
            the first count and of each further one over the one before (GMV: exposures × enter rate × … × AOV).
    """

    name: str
    counted: bool = True
    column: str = ""
    over: str = ""
    per: str = ""
    factors: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        identifier(self.name)
        if self.factors and (self.over or len(self.factors) < 2 or self.factors[-1][1] != self.source):
            raise ValueError(f"measure {self.name}: a chain of factors has two at least and ends with the measure")

    @property
    def source(self) -> str:
        """The column that it is read from; of a rate the upper one."""
        return self.column or self.name

    @property
    def is_rate(self) -> bool:
        """It is a column over another."""
        return bool(self.over)


@dataclass(frozen=True, slots=True)
class Watch:
    """Closed windows of a view and what is watched of them; the first measure is the volume by which values are chosen.

    Attributes:
        table: the view.
        measures: what is watched.
        by: empty where rows have `dim` and `value`; else the column whose values are the one dimension.
        funnel, unit: of the view `funnel`: which one; columns are then names of steps and `STEP_amount_minor`.
        window_seconds: length of the windows.
        closes_after_ms: how long after its end a window can still change, beyond the watermark.
        top: most values that are watched at a time (the setting may ask for fewer).
        mixed: the shares of a dimension's values are watched as well.
        warm_ms: how long a series is watched before it may alarm (the setting may ask for longer).
    """

    table: str
    measures: tuple[Measure, ...]
    by: str = ""
    funnel: str = ""
    unit: str = ""
    window_seconds: int = 60
    closes_after_ms: int = 0
    top: int = 1_000
    mixed: bool = False
    warm_ms: int = DAY_MS

    def __post_init__(self) -> None:
        if not self.measures or self.measures[0].is_rate:
            raise ValueError(f"watch of {self.table}: the first measure is a volume")
        names = [measure.name for measure in self.measures]
        if len(set(names)) != len(names):
            raise ValueError(f"watch of {self.table}: a measure is named twice: {', '.join(names)}")
        if not self.funnel:
            columns = {column.name: column for column in table_of(self.table).columns}
            if unknown := {name for name in (*self.columns, self.by) if name} - columns.keys():
                raise ValueError(f"{self.table} has no columns {sorted(unknown)}; it has {', '.join(columns)}")
            if texts := [name for name in self.columns if not _is_number(columns[name].plain_type)]:
                raise ValueError(f"{self.table}: {', '.join(texts)}: no number, it cannot be watched")
        plain = {measure.source for measure in self.measures if not measure.is_rate}
        for measure in self.measures:
            if unknown := {column for _, column in (*measure.factors, ("", measure.per)) if column} - plain:
                raise ValueError(f"{measure.name}: {sorted(unknown)} must be watched themselves")

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers that are read of each row."""
        return tuple(dict.fromkeys(name for m in self.measures for name in (m.source, m.over) if name))

    def with_measures(self, more: tuple[Measure, ...]) -> Watch:
        """This watch and further measures."""
        return replace(self, measures=(*self.measures, *more))


def _is_number(kind: str) -> bool:
    return "Int" in kind or kind == "Float64"


ACTIVITY: Final = Watch(
    "active_users", (Measure("events"), Measure("users"), Measure("watch_ms", counted=False, per="events")), mixed=True
)

ROOMS: Final = Watch(
    "live_session_minutes",
    (
        Measure("viewers"), Measure("likes"), Measure("comments"), Measure("exposures"), Measure("views"),
        Measure("product_clicks"), Measure("orders"),
        Measure(
            "gmv_minor", counted=False, per="orders",
            factors=(
                ("exposures", "exposures"), ("enter rate", "views"), ("click rate", "product_clicks"),
                ("conversion", "orders"), ("AOV", "gmv_minor"),
            ),
        ),
    ),
    by="live_id",
    top=200,
)  # fmt: skip
"""All live rooms together, and the greatest rooms: GMV = exposures × enter rate × click rate × conversion × AOV."""

WATCHES: Final = (ACTIVITY, ROOMS)


def of_funnel(funnel: Funnel) -> Watch:
    """Units of each step by hour, each step's rate over the one that it needs, and what the last amount is made of."""
    steps = funnel.steps
    counts = tuple(Measure(step.name) for step in steps)
    needed = [0, *(1 if i == 1 else funnel.needed(i + 1) for i in range(1, len(steps)))]
    rates = tuple(
        Measure(f"{step.name}_rate", counted=False, column=step.name, over=steps[needed[i] - 1].name)
        for i, step in enumerate(steps)
        if i > 0
    )
    return Watch(
        "funnel",
        (*counts, *rates, *_amount(funnel)),
        funnel=funnel.name,
        unit="user" if "user" in funnel.units else funnel.pair_unit,
        window_seconds=BUCKET_MS // 1_000,
        closes_after_ms=funnel.matures_after_ms,
        top=200,
        warm_ms=3 * DAY_MS,
    )


def _amount(funnel: Funnel) -> tuple[Measure, ...]:
    """Money of the last step that has an amount, as a product along the steps that it needs."""
    last = max((i for i, step in enumerate(funnel.steps) if step.amount), default=0)
    if not last:
        return ()
    way = [last]
    while way[0] > 0:
        way.insert(0, 0 if way[0] == 1 else funnel.needed(way[0] + 1) - 1)
    names = [funnel.steps[i].name for i in way]
    chain = [(names[0], names[0]), *((f"{name} rate", name) for name in names[1:])]
    column = f"{names[-1]}_amount_minor"
    return (Measure(column, counted=False, per=names[-1], factors=(*chain, ("amount each", column))),)
