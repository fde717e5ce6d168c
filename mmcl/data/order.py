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
BATCH_BLOCK = 1_000


class Quotas:
    """Which source each position of a mixture comes from, in closed form; or each batch, of batches by source.

    Every block of 10,000 positions (of batches, 1,000) has the same number from each source, in an order drawn for the
    block. So weights hold to 1/10,000 at any length, and the source of any position is known without counting.

    Args:
        weights: of the sources; only their proportions matter.
        seed: of the run.
        block: positions of a block.

    Raises:
        MmclError: a weight is too small for one position of a block.
    """

    def __init__(self, weights: Sequence[float], seed: int, block: int = QUOTA_BLOCK) -> None:
        exact = np.asarray(weights, np.float64) / sum(weights) * block
        counts = np.floor(exact).astype(int)
        for number in np.argsort(-(exact - counts), kind="stable")[: block - counts.sum()]:
            counts[number] += 1
        if (counts == 0).any():
            least = weights[int(counts.argmin())]
            raise MmclError(
                f"data: a weight of {least} is too small beside {max(weights)}: of {block:,} "
                f"{'samples' if block == QUOTA_BLOCK else 'batches'} none would come from there. Raise it, or leave "
                "the source out."
            )
        self.counts, self.seed, self.block = counts, seed, block
        self._block = lru_cache(maxsize=2)(self._make_block)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Number of the source of each position from ``start`` to ``stop``."""
        blocks = range(start // self.block, -(-stop // self.block))
        offset = blocks.start * self.block
        return np.concatenate([self._block(number) for number in blocks])[start - offset : stop - offset]

    def _make_block(self, number: int) -> np.ndarray:
        sources = np.repeat(np.arange(len(self.counts)), self.counts)
        return sources[permutation(self.block, self.seed, "mixture", number)]
