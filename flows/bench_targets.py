"""What the benchmarks' figures should reach: stated once, for the table, `--check` and its help."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_HOLDS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "≥": operator.ge, "≤": operator.le, "<": operator.lt, "=": operator.eq,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be to its bound."""

    sign: str
    bound: float

    def __post_init__(self) -> None:
        if self.sign not in _HOLDS:
            raise ValueError(f"{self.sign!r} is none of {', '.join(_HOLDS)}")

    def __str__(self) -> str:
        bound = str(self.bound) if isinstance(self.bound, bool) else f"{self.bound:g}"
        return bound if self.sign == "=" else f"{self.sign} {bound}"

    def met(self, value: float) -> bool:
        """Whether a figure reaches it; what is no number does not."""
        return _HOLDS[self.sign](value, self.bound)


_EXACT: Final = Target("=", bound=True)
_PEAK_RSS_MB: Final = Target("<", 2048)
TARGETS: Final[dict[str, dict[str, Target]]] = {
    "throughput": {
        "engine_ratio": Target("≥", 0.35), "w1_ratio": Target("≥", 0.6), "exact": _EXACT, "peak_rss_mb": _PEAK_RSS_MB,
    },
    "latency": {
        "p99_ms": Target("≤", 2000), "lost": Target("=", 0), "rows_per_event": Target("≤", 1),
        "active_parts": Target("≤", 100), "peak_rss_mb": _PEAK_RSS_MB,
    },
    "views": {"slowest_p50_ms": Target("≤", 300)},
    "boards": {"slowest_p95_ms": Target("<", 1000)},
    "replay": {"memory_ratio": Target("≤", 1.2), "exact": _EXACT},
}  # fmt: skip
"""By benchmark and figure."""


def listed(benchmark: str) -> str:
    """All targets of a benchmark in one line."""
    return ", ".join(
        f"{name} {'= ' if target.sign == '=' else ''}{target}" for name, target in TARGETS[benchmark].items()
    )


def missed(result: Mapping[str, Any]) -> Iterator[str]:
    """A line for each target that a benchmark's result misses: which, the figure, and by how much."""
    for name, target in TARGETS[result["benchmark"]].items():
        value = result.get(name)
        if value is None:
            yield f"target missed: {name} was not measured, wanted {target}"
        elif not target.met(value):
            yield f"target missed: {name} is {value}, wanted {target}{_distance(value, target)}"


def _distance(value: float, target: Target) -> str:
    if isinstance(target.bound, bool):
        return ""
    distance = abs(value - target.bound)
    share = f" ({distance / abs(target.bound):.1%})" if target.bound else ""
    return f": off by {distance:.4g}{share}"
