"""The order of shards, of samples and of sources is a pure function of its arguments."""

from collections import Counter

import numpy as np
import pytest

from mmcl.data.order import QUOTA_BLOCK, Quotas, draws, permutation, sample_order, shard_order
from mmcl.data.rows import _generator
from mmcl.errors import MmclError


def test_orders_are_permutations_of_their_own() -> None:
    first = shard_order(9, 0, 0, shuffle=True)
    assert sorted(first.tolist()) == list(range(9))
    assert shard_order(9, 0, 0, shuffle=True).tolist() == first.tolist()
    for other in ((1, 0), (0, 1)):
        assert shard_order(9, *other, shuffle=True).tolist() != first.tolist()
    assert shard_order(9, 0, 0, shuffle=True, name="1").tolist() != first.tolist()
    assert shard_order(9, 0, 3, shuffle=False).tolist() == list(range(9))


def test_windows_of_one_epoch_are_mixed_differently() -> None:
    first, second = sample_order([5, 5], 0, 0, 0), sample_order([5, 5], 0, 0, 2)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_bits_are_those_of_philox_for_ever() -> None:
    """Another order would make every run that was interrupted impossible to go on with."""
    assert permutation(8, 0, "test").tolist() == [6, 7, 0, 5, 1, 2, 4, 3]


def test_quotas_hold_in_every_block_and_any_slice_is_that_of_the_whole() -> None:
    quotas = Quotas([0.7, 0.2999, 0.0001], seed=3)
    whole = quotas(0, 3 * QUOTA_BLOCK)
    for block in range(3):
        counts = Counter(whole[block * QUOTA_BLOCK : (block + 1) * QUOTA_BLOCK].tolist())
        assert [counts[n] for n in range(3)] == [7000, 2999, 1]
    for start, stop in ((0, 1), (9_990, 10_010), (12_345, 29_999)):
        assert np.array_equal(quotas(start, stop), whole[start:stop])
    assert not np.array_equal(whole[:QUOTA_BLOCK], whole[QUOTA_BLOCK : 2 * QUOTA_BLOCK])


def test_a_weight_of_next_to_nothing_is_refused() -> None:
    with pytest.raises(MmclError, match="weight of 1e-06 is too small beside 1"):
        Quotas([1.0, 1e-6], seed=0)


def test_generators_of_samples_begin_where_draws_begin() -> None:
    for key in ("a", "b"):
        ours, fresh = _generator(3, 1, key), np.random.Generator(draws(3, 1, key))
        for _ in range(3):
            assert ours.random() == fresh.random()
            assert ours.integers(7, dtype=np.uint32) == fresh.integers(7, dtype=np.uint32)  # keeps half a word
