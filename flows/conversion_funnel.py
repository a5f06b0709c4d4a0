"""The family `funnel`: declared funnels over user shards, merged into the table `funnel`.

Of a chain's way: `funnel_events` tells which event is which step, `funnel_chains` keeps chains right in any order of
events, `funnel_counts` turns their changes into increments, `FunnelMerge` sums those and takes medians.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final

import msgspec
import numpy as np
import polars as pl

from flows.funnel_chains import ChainsState, FunnelChains
from flows.funnel_counts import FirstSteps, RowNames, increments
from flows.funnel_events import StepReader
from flows.funnel_merge import NAME, FunnelMerge
from flows.funnel_values import Combinations, ascending
from flows.kernel import Progress
from schemas.events import DIMENSIONS
from schemas.funnels import VIDEO_TO_LIVE, Funnel

_FORMAT: Final = 3
_COUNTED_BY: Final = 0b110  # the steps whose dimension values name rows: the first two
_COMBINATIONS_MIN: Final = 10_000

__all__ = ["FunnelMerge", "FunnelShard"]


class _FunnelState(msgspec.Struct, frozen=True, array_like=True):
    declaration: str
    chains: ChainsState | None
    counts: list[bytes]


class _ShardState(msgspec.Struct, frozen=True, array_like=True):
    format: int
    dimensions: tuple[str, ...]
    combinations: bytes
    funnels: dict[str, _FunnelState]


class FunnelShard:
    """Funnels of one user shard (a `flows.kernel.ShardKernel`)."""

    name = NAME

    def __init__(
        self,
        funnels: Sequence[Funnel] = (VIDEO_TO_LIVE,),
        dimensions: Sequence[str] = DIMENSIONS,
        *,
        currency: str = "CNY",
        retain_ms: int = 3_600_000,
    ) -> None:
        self.columns = frozenset(dimensions).union(*(funnel.columns for funnel in funnels))
        self._funnels = tuple(funnels)
        self._reader = StepReader(funnels, currency)
        self._combinations = Combinations(dimensions)
        self._combinations_due = _COMBINATIONS_MIN
        self._chains = [FunnelChains(funnel, self._combinations, retain_ms) for funnel in funnels]
        self._names = [RowNames(funnel, self._combinations) for funnel in funnels]
        self._counts = [FirstSteps(funnel, self._combinations) for funnel in funnels]

    def fold(self, frame: pl.DataFrame, progress: Progress) -> Mapping[str, pl.DataFrame]:
        """Increments for the merge kernel; a frame of `INCREMENTS`."""
        found = self._fold(frame) if frame.height else []
        for _, chains, counts in self._each():
            chains.advance(progress.watermark)
            counts.advance(chains.floor)
        self._forget_combinations()
        return {NAME: pl.concat(found)} if found else {}

    def _fold(self, frame: pl.DataFrame) -> list[pl.DataFrame]:
        labels = self._combinations.label(frame)
        seen = self._reader.read(frame, labels)
        found = []
        for names, (funnel, chains, counts) in zip(self._names, self._each(), strict=True):
            counting = seen.bits(funnel) & _COUNTED_BY != 0
            self._combinations.learn(labels, frame, counting.nonzero()[0])
            first, later = seen.steps(funnel)
            found.append(increments(names, counts.fold(first) + chains.fold(first, later)))
        return [rows for rows in found if rows.height]

    def _forget_combinations(self) -> None:
        if len(self._combinations) > self._combinations_due:
            self._combinations.forget(ascending(np.concatenate([chains.labels() for chains in self._chains])))
            for chains in self._chains:
                chains.recount()
            self._combinations_due = max(_COMBINATIONS_MIN, 2 * len(self._combinations))

    def snapshot(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        funnels = {
            funnel.name: _FunnelState(_declaration(funnel), chains.snapshot(), [k.snapshot() for k in counts.parts()])
            for funnel, chains, counts in self._each()
        }
        return self._pack(self._combinations.snapshot(), funnels)

    def delta(self) -> bytes:
        """See `flows.kernel.Persistent`."""
        funnels = {}
        for funnel, chains, counts in self._each():
            blob, counted = chains.delta(), [keys.delta() for keys in counts.parts()]
            if blob is not None or any(counted):
                funnels[funnel.name] = _FunnelState(_declaration(funnel), blob, counted)
        combinations = self._combinations.delta()
        return self._pack(combinations, funnels) if combinations or funnels else b""

    def restore(self, snapshot: bytes, deltas: Iterable[bytes]) -> None:
        """See `flows.kernel.Persistent`.

        Raises:
            ValueError: the state is of another format, of other dimensions, or of another funnel with the same name.
        """
        states = [msgspec.msgpack.decode(blob, type=_ShardState) for blob in (snapshot, *deltas) if blob]
        for state in states:
            self._check(state)
        self._combinations.restore(b"", [state.combinations for state in states])
        for funnel, chains, counts in self._each():
            mine = [state.funnels[funnel.name] for state in states if funnel.name in state.funnels]
            chains.restore([state.chains for state in mine if state.chains is not None])
            counts.forget_repeats()
            for index, part in enumerate(counts.parts()):
                part.restore(b"", [state.counts[index] for state in mine])

    def _each(self) -> Iterable[tuple[Funnel, FunnelChains, FirstSteps]]:
        return zip(self._funnels, self._chains, self._counts, strict=True)

    def _pack(self, combinations: bytes, funnels: dict[str, _FunnelState]) -> bytes:
        return msgspec.msgpack.encode(_ShardState(_FORMAT, self._combinations.dimensions, combinations, funnels))

    def _check(self, state: _ShardState) -> None:
        if state.format != _FORMAT:
            raise ValueError(f"funnel state of format {state.format}; this version reads {_FORMAT}")
        if state.dimensions != self._combinations.dimensions:
            raise ValueError(
                f"funnel state has the dimensions {list(state.dimensions)}, not {list(self._combinations.dimensions)}: "
                "declare those again, or start afresh"
            )
        for funnel in self._funnels:
            if funnel.name in state.funnels and state.funnels[funnel.name].declaration != _declaration(funnel):
                raise ValueError(f"funnel {funnel.name!r} was declared otherwise before: give the new one another name")


def _declaration(funnel: Funnel) -> str:
    """A fingerprint of all that a funnel says."""
    return sha256(msgspec.json.encode(funnel, order="sorted")).hexdigest()
