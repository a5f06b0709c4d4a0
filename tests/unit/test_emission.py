"""When a family's rows are asked for: as windows close and twice a second, seldom in a backlog, at once after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from flows.families import step_config
from flows.kernel import Progress
from flows.messages import MergeItem
from flows.settings import Settings
from flows.steps import MergeLogic

INTERVAL = 500


@dataclass
class Asked:
    """A kernel that notes what it is asked for."""

    name: str = "asked"
    asked: list[tuple[int, bool]] = field(default_factory=list)

    def fold(self, increments: list[pl.DataFrame]) -> None:
        """Nothing to fold."""

    def emit(self, progress: Progress) -> Mapping[str, pl.DataFrame]:
        self.asked.append((progress.now, progress.early))
        return {}

    def snapshot(self) -> bytes:
        return b""

    def delta(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """Nothing to restore."""


def asked(moments: Iterable[tuple[int, int, bool]], *, drained: bool = False) -> list[tuple[int, bool]]:
    """What a kernel is asked for at these (now, watermark, no backlog), and perhaps a drain after them."""
    kernel = Asked()
    settings = Settings(shards=1, early_interval_ms=INTERVAL)
    config = step_config(settings, sources=1, generation=1, state_dir=None)
    logic = MergeLogic(replace(config, merge_kernels={kernel.name: lambda: kernel}), None)
    for now, watermark, early in moments:
        logic.on_batch([MergeItem(kernel.name, 0, [], watermark, now, early, end=False, last_event_time=watermark)])
    if drained:
        logic.on_eof()
    return kernel.asked


def test_live_rows_come_as_windows_close_and_twice_a_second() -> None:
    moments = [(10_000 + 100 * k, 7 if k < 3 else 8, True) for k in range(8)]
    assert asked(moments) == [(10_000, True), (10_300, False), (10_500, True)]


def test_in_a_backlog_what_closes_waits_for_its_turn() -> None:
    moments = [(10_000 + 100 * k, k, False) for k in range(32)]
    assert asked(moments) == [(10_000, False), (11_500, False), (13_000, False)]


def test_after_a_backlog_early_rows_come_at_once() -> None:
    moments = [(10_000, 1, False), (10_100, 2, False), (10_200, 2, True), (10_300, 2, True), (10_700, 2, True)]
    assert asked(moments) == [(10_000, False), (10_200, True), (10_700, True)]


def test_in_a_backlog_a_watermark_that_stands_keeps_nobody_from_asking() -> None:
    """Kernels sum what waits when they are asked."""
    moments = [(10_000 + 100 * k, 3, False) for k in range(32)]
    assert asked(moments) == [(10_000, False), (11_500, False), (13_000, False)]


def test_a_drain_tells_what_has_closed_since() -> None:
    moments = [(10_000, 1, False), (10_100, 2, False)]
    assert asked(moments, drained=True) == [(10_000, False), (10_100, False)]
    assert asked(moments[:1], drained=True) == [(10_000, False)]
