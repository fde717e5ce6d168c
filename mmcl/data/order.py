"""The one order of samples: a pure function of (seed, epoch, counts of the shards)."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def draws(*what: int | str) -> np.random.Philox:
    """A counter-based source of bits that depends on its arguments and on nothing else."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))


def permutation(count: int, *what: int | str) -> np.ndarray:
    """A permutation of ``range(count)`` that depends on its arguments and on nothing else.

    Sorted from raw bits: numpy promises those for ever, `Generator.permutation` it does not.
    """
    return np.argsort(draws(*what).random_raw(count), kind="stable")


class EpochOrder:
    """Order of one epoch: shards are permuted, then samples are shuffled within windows of shards.

    A window needs the counts of its own shards only.

    Args:
        counts: samples of each shard.
        seed: of the run.
        epoch: from 0.
        window: shards whose samples are shuffled together; 0 leaves everything in the order of the tars.
    """

    def __init__(self, counts: Sequence[int], seed: int, epoch: int, window: int) -> None:
        self.seed, self.epoch, self.window = seed, epoch, window
        shards = np.arange(len(counts)) if window == 0 else permutation(len(counts), seed, epoch, "shards")
        size = window or len(counts)
        self.windows = [shards[i : i + size] for i in range(0, len(shards), size)]
        self.counts = np.asarray(counts)
        self.ends = np.cumsum([self.counts[w].sum() for w in self.windows])
        self._window = lru_cache(maxsize=2)(self._make_window)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(shard, sample within the shard) at a position of the epoch."""
        number = int(np.searchsorted(self.ends, position, side="right"))
        start = int(self.ends[number - 1]) if number else 0
        shards, samples = self._window(number)
        return int(shards[position - start]), int(samples[position - start])

    def _make_window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        shards = self.windows[number]
        counts = self.counts[shards]
        of_shard = np.repeat(shards, counts)
        sample = np.concatenate([np.arange(c) for c in counts])
        if self.window == 0:
            return of_shard, sample
        mixed = permutation(len(sample), self.seed, self.epoch, "window", number)
        return of_shard[mixed], sample[mixed]
