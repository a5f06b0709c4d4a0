"""One event, told once: when the whole and a part of it both alarm, which of the two is it about?

A part that was told accounts for the whole's change, or it does not: by their figures, not by which alarm came first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from flows.anomaly_book import MIX, OPEN, Anomaly
from flows.anomaly_series import WHOLE, Key
from flows.anomaly_why import Figures, why
from schemas.events import ALL

MOST: Final = 0.5
"""From which on a change is that of the part: 0 where all moved alike, 1 where the part alone moved."""
_MATTERS: Final = 0.15


def part_of(whole: Anomaly, figures: Figures, measure: int, standing: Iterable[Anomaly]) -> Anomaly | None:
    """What stands and was told of a part that accounts for most of the whole's change; None: the whole is news.

    What is critical is news in any case: parts never are.
    """
    if whole.severity == "critical" or figures.measures[measure].is_rate:
        return None
    of = {
        key: (float(b), float(a))
        for key, b, a in zip(figures.keys, figures.before[:, measure], figures.after[:, measure], strict=True)
    }
    told = [a for a in standing if a.state == OPEN and a.dim != ALL and a.direction in (whole.direction, MIX)]
    for dim in dict.fromkeys(a.dim for a in told):
        mine = [a for a in told if a.dim == dim]
        values = {(dim, a.value) for a in mine} & of.keys()
        if any(a.direction == MIX for a in mine):  # the sentence names those that moved most
            most = max((key for key in of if key[0] == dim), key=lambda key: abs(of[key][1] - of[key][0]), default=None)
            values |= {most} if most else set()  # none: its values are watched no more
        before, after = (sum(of[key][i] for key in values) for i in range(2))
        if values and _own(before, after, *of[WHOLE]) >= MOST:
            return max(mine, key=lambda a: abs(np.subtract(*of.get((dim, a.value), (0.0, 0.0)))))
    return None


def is_of_the_whole(key: Key, figures: Figures, measure: int) -> bool:
    """Whether what the whole changed matters and is not this part's change."""
    if figures.measures[measure].is_rate:
        return False
    (before, after), own = _figure(figures, WHOLE, measure), _figure(figures, key, measure)
    return abs(after - before) >= _MATTERS * before and _own(*own, before, after) < MOST


def of_the_whole(figures: Figures, measure: int) -> str:
    """What a part's alarm says of the whole, which is out of its usual range by it."""
    before, after = _figure(figures, WHOLE, measure)
    way = "over" if after > before else "under"
    return (
        f"The whole is {abs(after / max(before, 1e-9) - 1):.0%} {way} what is usual. {why(figures, measure)}".rstrip()
    )


def _figure(figures: Figures, key: Key, measure: int) -> tuple[float, float]:
    place = figures.keys.index(key)
    return float(figures.before[place, measure]), float(figures.after[place, measure])


def _own(part_before: float, part_after: float, before: float, after: float) -> float:
    """How much more than its size a part has of the whole's change, of what it could have more."""
    if after == before or before <= 0.0:
        return 0.0
    size, share = part_before / before, (part_after - part_before) / (after - before)
    return share if size >= 1.0 else (share - size) / (1.0 - size)
