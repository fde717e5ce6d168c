"""Pools, interleaved: the places of the global order."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from mmcl.data.order import BATCH_BLOCK, QUOTA_BLOCK, Quotas
from mmcl.data.pipe import ADVICE, PipedPool
from mmcl.data.pool import OpenWindow, Pool, Ref, Taken
from mmcl.data.shards import is_pipe
from mmcl.data.source import Source, Window
from mmcl.data.store import ShardSet
from mmcl.errors import MmclError
from mmcl.types import Bad

Batches = Literal["mixed", "by_source"]


class Mixture:
    """Pools with weights, interleaved; or one pool alone.

    A batch is a mixture itself, or of one source: which one is a pure function of the number of the batch.

    The epoch of a mixture is as many samples as its sources have together: those of greater weight are seen more than
    once in it, those of smaller weight in part. Each source runs through epochs of its own.

    Args:
        pools: one a source.
        weights: of the sources; None for one pool.
        seed: of the run.
        batches: whether batches are of all sources (``mixed``) or of one each (``by_source``).
    """

    def __init__(
        self, pools: Sequence[Pool], weights: Sequence[float] | None, seed: int, batches: Batches = "mixed"
    ) -> None:
        self.pools, self.position, self.batch = list(pools), 0, 0
        self._whole = batches == "by_source"
        block = BATCH_BLOCK if self._whole else QUOTA_BLOCK
        self._quotas = None if weights is None else Quotas(weights, seed, block)

    @cached_property
    def samples(self) -> int:
        """Of one epoch."""
        return sum(map(len, self.pools))

    def take(self, count: int, across: bool) -> "Places":
        """The next batch of the order; smaller where the epoch ends, unless it may go on ``across`` its end."""
        if self._quotas is None:
            taken = self.pools[0].take(count, across)
            places = Places([t.window for t in taken], *_spread(taken))
            self.position += len(places)
            return places
        if not across:
            count = min(count, self.samples - self.position % self.samples)
        if self._whole:
            sources = np.repeat(self._quotas(self.batch, self.batch + 1), count)
        else:
            sources = self._quotas(self.position, self.position + count)
        windows: list[OpenWindow] = []
        of, place = np.empty(count, np.int32), np.empty(count, np.int64)
        for number, pool in enumerate(self.pools):
            here = np.flatnonzero(sources == number)
            taken = pool.take(len(here), across=True) if len(here) else []
            of[here], place[here] = _spread(taken, len(windows))
            windows += [t.window for t in taken]
        self.position += count
        self.batch += 1
        return Places(windows, of, place, int(sources[0]) if self._whole and count else None)

    @property
    def ended(self) -> bool:
        """Whether an epoch has just ended (or none begun)."""
        if self._quotas is not None:
            return self.position % self.samples == 0
        cursor = self.pools[0].cursor
        return cursor.first == cursor.place == 0

    @property
    def epoch(self) -> int:
        """That the next place lies in."""
        return self.pools[0].cursor.epoch if self._quotas is None else self.position // self.samples

    def news(self) -> list[Bad]:
        """Problems of the windows that were entered since the last call."""
        news = [bad for pool in self.pools for bad in pool.news]
        for pool in self.pools:
            pool.news = []
        return news

    def state(self) -> dict[str, Any]:
        """Position, number of the batch, and cursors."""
        return {"position": self.position, "batch": self.batch, "cursors": [pool.snapshot() for pool in self.pools]}

    def seek(self, sample: int) -> None:
        """Go to a sample of the first epoch, which is read in the order of the shards.

        Raises:
            MmclError: samples are shuffled, or those of several sources are mixed.
        """
        if self._quotas is not None:
            raise MmclError("data: a mixture has no order of the shards, so no sample can be gone to.")
        self.pools[0].seek(sample)
        self.position, self.batch = sample, 0

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.position, self.batch = int(state["position"]), int(state["batch"])
        for pool, cursor in zip(self.pools, state["cursors"], strict=True):
            pool.restore(cursor)


@dataclass(frozen=True)
class Places:
    """Places of an order, across windows."""

    windows: list[OpenWindow]
    of: np.ndarray
    place: np.ndarray
    source: int | None = None  # that all are of, where each batch is of one

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, row: int) -> Ref:
        return self.windows[self.of[row]][int(self.place[row])]


def order_over(
    sources: Sequence[Source],
    counts: Sequence[int],
    shards: ShardSet,
    seed: int,
    shuffle: bool,
    endless: bool,
    batches: Batches,
) -> tuple[Mixture, list[Any]]:
    """The order over some sources, and what decides on it.

    Raises:
        MmclError: what is said of the sources is not clear, or has no effect.
    """
    weights = [source.weight for source in sources]
    windows: list[Window | None] = [source.window if shuffle else None for source in sources]
    given = [weight for weight in weights if weight is not None]
    if given and len(weights) == 1:
        raise MmclError("data: a weight has no effect where there is one source; leave it out.")
    if given and len(given) < len(weights):
        raise MmclError("data: some sources have a weight and some have none; give all of them one, or none.")
    if batches not in get_args(Batches):
        raise MmclError(f"data: batches must be one of {', '.join(get_args(Batches))}; got {batches!r}.")
    if batches == "by_source" and not given:
        raise MmclError(
            "data: batches: by_source has no effect where sources have no weights, since they are one pool; give each "
            "of several sources a weight, or leave it out."
        )
    if not given and len({str(window) for window in windows}) > 1:
        raise MmclError("data: sources without weights are one pool of shards and need one window; theirs differ.")
    numbers = list(range(sum(counts)))
    ends = list(itertools.accumulate(counts))
    groups = [numbers] if not given else [numbers[end - n : end] for n, end in zip(counts, ends, strict=True)]
    pools = []
    for group, window in zip(groups, windows, strict=False):
        piped = [is_pipe(shards.listed[number].url) for number in group]
        if any(piped) and not all(piped):
            raise MmclError(f"data: shards and pipes cannot be mixed in one source. {ADVICE}")
        if any(piped) and given:
            raise MmclError(
                f"data: {shards.listed[group[0]].shown}: a mixture needs to know how many samples each source has, and "
                f"of a pipe nobody does. {ADVICE}"
            )
        name = "" if len(groups) == 1 else str(len(pools))
        pools.append((PipedPool if any(piped) else Pool)(shards, group, seed, window, endless, name))
    mixture = Mixture(pools, given if len(given) > 1 else None, seed, batches)
    return mixture, [seed, [str(window) for window in windows], given, list(counts), batches]


def _spread(taken: list[Taken], offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    of = np.repeat(np.arange(len(taken), dtype=np.int32) + offset, [t.stop - t.start for t in taken])
    places = [np.arange(t.start, t.stop) for t in taken]
    return of, np.concatenate(places) if places else np.empty(0, np.int64)
