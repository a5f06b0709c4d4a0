"""The run-away stop: a partition whose messages mostly break the contract stops the engine.

After a bad deploy of a producer the alternative is to empty the topic into the dead letters. The epoch that is under
way does not commit, so that a mended engine or a raised limit starts again where it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flows.errors import Stop
from flows.messages import LEDGER_LINE, Slice

_CONSUMED, _REJECTED = (LEDGER_LINE.index(name) for name in ("consumed", "rejected"))


@dataclass(slots=True)
class _Window:
    consumed: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class RejectGuard:
    """Judges windows of at least `messages` messages of each partition; a `ratio` of 1 allows everything."""

    ratio: float = 1.0
    messages: int = 10_000
    _windows: dict[str, _Window] = field(default_factory=dict)

    def count(self, partition: str, taken: Slice) -> None:
        """Add what a partition gave.

        Raises:
            Stop: too many of them were rejected.
        """
        window = self._windows.setdefault(partition, _Window())
        window.consumed += int(taken.ledger[:, _CONSUMED].sum())
        window.rejected += int(taken.ledger[:, _REJECTED].sum())
        if taken.dead is not None:
            window.reasons.update(dict(taken.dead["reason"].value_counts().iter_rows()))
        if window.consumed < self.messages:
            return
        del self._windows[partition]
        if window.rejected > self.ratio * window.consumed:
            reason, count = window.reasons.most_common(1)[0]
            raise Stop(
                f"partition {partition}: {window.rejected:,} of its last {window.consumed:,} messages break the "
                f"contract ({count:,} of them: {reason}), and reject_ratio allows {self.ratio:.0%}. Offsets are kept: "
                "look at `livepulse deadletters list`, mend the producer, or start with a higher --reject-ratio"
            )
