"""Durations and instants as people write them, and as we keep them: integer milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

UNIT_MS: Final = {"ms": 1, "s": 1_000, "min": 60_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|s|m|h|d)")
_NO_DURATION: Final = "not a duration; write 500 (milliseconds), 30s, 5min, 1h or 10d"
_MAX_MS: Final = 3_660 * UNIT_MS["d"]  # ten years: more is a unit mistaken


def parse_duration(value: object) -> int:
    """Milliseconds of `500`, `"500"`, `"500ms"`, `"30s"`, `"5min"`, `"1h30min"`, `"10d"`. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(_NO_DURATION)  # noqa: TRY004 - pydantic turns only ValueError into a message
    text = str(value).strip().lower()
    if re.fullmatch(r"\d+", text):
        milliseconds = float(int(text[:20]))
    elif text and not _PART.sub("", text).strip():
        milliseconds = sum(float(number) * UNIT_MS[unit] for number, unit in _PART.findall(text))
    else:
        raise ValueError(_NO_DURATION)
    if milliseconds > _MAX_MS:
        raise ValueError("longer than ten years; a number without a unit is in milliseconds")
    return round(milliseconds)


def format_duration(milliseconds: int) -> str:
    """The shortest exact spelling in one unit: 300000 → `5min`, 90000 → `90s`, 0 → `0ms`."""
    for unit in ("d", "h", "min", "s"):
        if milliseconds and milliseconds % UNIT_MS[unit] == 0:
            return f"{milliseconds // UNIT_MS[unit]}{unit}"
    return f"{milliseconds}ms"


def parse_instant(text: str) -> int:
    """Epoch milliseconds of `2026-02-01`, `2026-02-01T08:00:00+08:00` or `1769904000000`. Raises ValueError."""
    if re.fullmatch(r"-?\d{1,16}", text):
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            "not a time; write 2026-02-01T08:00:00+08:00, 2026-02-01 (UTC) or epoch milliseconds"
        ) from error
    if instant.tzinfo is None:
        if len(text) > len("2026-02-01"):
            raise ValueError("a time without a zone; end it with Z or +08:00")
        instant = instant.replace(tzinfo=UTC)
    return round(instant.timestamp() * 1000)
