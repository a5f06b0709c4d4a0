"""The keyed set against a set in plain Python: any cut, expiry, growth, and snapshots at every step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flows.keyed_set import KeyedSet

pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 25)), max_size=60)


@given(st.lists(pairs, max_size=8), st.lists(st.integers(0, 40), max_size=8), st.integers(0, 3), st.booleans())
def test_like_a_set(batches: list[list[tuple[int, int]]], floors: list[int], reach: int, compact: bool) -> None:
    held: set[tuple[int, int]] = set()
    one = KeyedSet(reach)
    snapshot, deltas = one.snapshot(), []
    lowest = -1
    for drawn, floor in zip(batches, floors, strict=False):
        batch = [pair for pair in drawn if pair[0] >= lowest]  # the rest: test_pairs_of_an_expired_bucket
        expected = []
        for bucket, key in batch:
            near = any((b, key) in held for b in range(bucket - reach, bucket + reach + 1))
            expected.append(not near)
            if not near:
                held.add((bucket, key))
        buckets = np.array([b for b, _ in batch], dtype=np.int64)
        keys = np.array([k for _, k in batch], dtype=np.uint64)
        assert one.first_seen(buckets, keys).tolist() == expected
        one.expire(floor)
        lowest = max(lowest, floor)
        held = {(b, k) for b, k in held if b >= lowest}
        assert len(one) == len(held)
        if compact:
            snapshot, deltas = one.snapshot(), []
        else:
            deltas.append(one.delta())
        again = KeyedSet(reach)
        again.restore(snapshot, deltas)
        assert len(again) == len(held)
        one = again


def test_growth_keeps_everything_and_drops_the_expired() -> None:
    one, rng = KeyedSet(), np.random.default_rng(3)
    keys = rng.integers(0, 1 << 63, 20_000).astype(np.uint64)
    for at in range(0, 20_000, 1_000):
        assert one.first_seen(np.full(1_000, at // 1_000), keys[at : at + 1_000]).all()
    assert not one.first_seen(np.repeat(np.arange(20), 1_000), keys).any()
    one.expire(19)
    assert one.first_seen(np.full(30_000, 20), rng.integers(0, 1 << 63, 30_000).astype(np.uint64)).all()
    assert len(one) == 31_000


def test_key_zero_is_a_key() -> None:
    one = KeyedSet()
    zero = np.zeros(2, dtype=np.uint64)
    assert one.first_seen(np.zeros(2, dtype=np.int64), zero).tolist() == [True, False]


def test_pairs_of_an_expired_bucket_are_held_for_a_while() -> None:
    one = KeyedSet(reach=1)
    one.expire(10)
    buckets, keys = np.array([3, 4, 5]), np.array([7, 7, 7], dtype=np.uint64)
    assert one.first_seen(buckets, keys).tolist() == [True, False, True]
    assert not one.first_seen(buckets, keys).any()
    assert len(one) == 0
