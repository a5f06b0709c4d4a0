"""UTC offsets of many instants in many zones, looked up once per zone and quarter of an hour."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from flows.grouping import distinct
from schemas.windows import HOUR_MS, MINUTE_MS, SECOND_MS, utc_offset_ms

Int64s = npt.NDArray[np.int64]

_QUARTER_MS: Final = 15 * MINUTE_MS  # since 1972 every clock change has been on a quarter of an hour of UTC
_MAX_CACHED: Final = 200_000
_UNEVEN: Final = None  # the offset changes within the quarter


class ZoneOffsets:
    """A cache of offsets; what it answers depends on nothing but the zone database."""

    def __init__(self) -> None:
        self._quarters: dict[tuple[str, int], int | None] = {}

    def of(self, times: Int64s, zones: list[str], zone: npt.NDArray[np.int64]) -> tuple[Int64s, bool]:
        """Offsets (ms east of UTC) of instants (epoch ms) in `zones[zone[i]]`, and whether all hold for whole minutes.

        Shapes: `times` and `zone` are of length n, as is the answer. Not for whole minutes: an offset with seconds, or
        one that changes off the quarter, as before 1972.
        """
        quarters = times // _QUARTER_MS
        pairs, inverse = distinct(quarters * len(zones) + zone)
        known = [self._quarter(zones[int(p) % len(zones)], int(p) // len(zones)) for p in pairs]
        even = all(offset is not _UNEVEN and offset % MINUTE_MS == 0 for offset in known)
        offsets = np.array([0 if offset is _UNEVEN else offset for offset in known], dtype=np.int64)[inverse]
        if not even:
            uneven = np.array([offset is _UNEVEN for offset in known])[inverse]
            for place in np.flatnonzero(uneven):
                offsets[place] = utc_offset_ms(zones[int(zone[place])], int(times[place]))
        return offsets, even

    def whole_hour(self, zone: str, hour: int) -> bool:
        """Whether all of this UTC hour (hours since the epoch) is one and the same hour of the zone's clock."""
        offsets = {self._quarter(zone, 4 * hour + part) for part in range(4)}
        offset = offsets.pop()
        return not offsets and offset is not _UNEVEN and offset % HOUR_MS == 0

    def _quarter(self, zone: str, quarter: int) -> int | None:
        """The offset all through a quarter of an hour, or `_UNEVEN`."""
        key = (zone, quarter)
        if key not in self._quarters:
            if len(self._quarters) >= _MAX_CACHED:
                self._quarters.clear()
            start = quarter * _QUARTER_MS
            offset = utc_offset_ms(zone, start)
            steady = offset == utc_offset_ms(zone, start + _QUARTER_MS - SECOND_MS)
            self._quarters[key] = offset if steady else _UNEVEN
        return self._quarters[key]
