"""The one order of samples: a pure function of (seed, epoch, counts of the shards)."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mmcl.errors import MmclError


def draws(*what: int | str) -> np.random.Philox:
    """A counter-based source of bits that depends on its arguments and on nothing else."""
    return np.random.Philox(key=int.from_bytes(digest(*what), "little"))


def digest(*what: int | str) -> bytes:
    """The key of `draws`."""
    return hashlib.blake2b(repr(what).encode(), digest_size=16).digest()


def permutation(count: int, *what: int | str) -> np.ndarray:
    """A permutation of ``range(count)`` that depends on its arguments and on nothing else.

    Sorted from raw bits: numpy promises those for ever, `Generator.permutation` it does not.
    """
    return np.argsort(draws(*what).random_raw(count), kind="stable")


def shard_order(shards: int, seed: int, epoch: int, shuffle: bool, name: str = "") -> np.ndarray:
    """Order of the shards of one epoch."""
    return permutation(shards, seed, epoch, f"shards{name}") if shuffle else np.arange(shards)


def sample_order(counts: Sequence[int], seed: int, epoch: int, first: int, name: str = "") -> np.ndarray:
    """Order of the samples of one window.

    Args:
        counts: samples of the window's shards.
        seed: of the run.
        epoch: from 0.
        first: place of the window's first shard in the order of the epoch's shards.
        name: of the source, where there are several.
    """
    return permutation(int(sum(counts)), seed, epoch, f"window{name}", first)


QUOTA_BLOCK = 10_000


class Quotas:
    """Which source each position of a mixture comes from, in closed form.

    Every block of 10,000 positions has the same number from each source, in an order drawn for the block. So weights
    hold to 1/10,000 at any length, and how many came from a source before a position is known without counting.

    Args:
        weights: of the sources; only their proportions matter.
        seed: of the run.

    Raises:
        MmclError: a weight is less than half of 1/10,000 of the sum.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        exact = np.asarray(weights, np.float64) / sum(weights) * QUOTA_BLOCK
        counts = np.floor(exact).astype(int)
        for number in np.argsort(-(exact - counts), kind="stable")[: QUOTA_BLOCK - counts.sum()]:
            counts[number] += 1
        if (counts == 0).any():
            least = weights[int(counts.argmin())]
            raise MmclError(
                f"data: a weight of {least} is too small beside {max(weights)}: of {QUOTA_BLOCK:,} samples none would "
                "come from there. Raise it, or leave the source out."
            )
        self.counts, self.seed = counts, seed
        self._block = lru_cache(maxsize=2)(self._make_block)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Number of the source of each position from ``start`` to ``stop``."""
        blocks = range(start // QUOTA_BLOCK, -(-stop // QUOTA_BLOCK))
        offset = blocks.start * QUOTA_BLOCK
        return np.concatenate([self._block(number) for number in blocks])[start - offset : stop - offset]

    def _make_block(self, number: int) -> np.ndarray:
        sources = np.repeat(np.arange(len(self.counts)), self.counts)
        return sources[permutation(QUOTA_BLOCK, self.seed, "mixture", number)]
