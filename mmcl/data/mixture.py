"""Pools, interleaved: the places of the global order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mmcl.data.order import Quotas
from mmcl.data.pool import OpenWindow, Pool, Ref, Taken
from mmcl.types import Bad


class Mixture:
    """Pools with weights, interleaved; or one pool alone.

    The epoch of a mixture is as many samples as its sources have together: those of greater weight are seen more than
    once in it, those of smaller weight in part. Each source runs through epochs of its own.

    Args:
        pools: one a source.
        weights: of the sources; None for one pool.
        seed: of the run.
    """

    def __init__(self, pools: Sequence[Pool], weights: Sequence[float] | None, seed: int) -> None:
        self.pools, self.position = list(pools), 0
        self._quotas = None if weights is None else Quotas(weights, seed)

    @cached_property
    def samples(self) -> int:
        """Of one epoch."""
        return sum(map(len, self.pools))

    def take(self, count: int, across: bool) -> "Places":
        """The next places of the order; fewer where the epoch ends, unless they may go on ``across`` its end."""
        if self._quotas is None:
            taken = self.pools[0].take(count, across)
            places = Places([t.window for t in taken], *_spread(taken))
            self.position += len(places)
            return places
        if not across:
            count = min(count, self.samples - self.position % self.samples)
        sources = self._quotas(self.position, self.position + count)
        windows: list[OpenWindow] = []
        of, place = np.empty(count, np.int32), np.empty(count, np.int64)
        for number, pool in enumerate(self.pools):
            here = np.flatnonzero(sources == number)
            taken = pool.take(len(here), across=True) if len(here) else []
            of[here], place[here] = _spread(taken, len(windows))
            windows += [t.window for t in taken]
        self.position += count
        return Places(windows, of, place)

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
        """Position and cursors."""
        return {"position": self.position, "cursors": [pool.snapshot() for pool in self.pools]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.position = int(state["position"])
        for pool, cursor in zip(self.pools, state["cursors"], strict=True):
            pool.restore(cursor)


@dataclass(frozen=True)
class Places:
    """Places of an order, across windows."""

    windows: list[OpenWindow]
    of: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, row: int) -> Ref:
        return self.windows[self.of[row]][int(self.place[row])]


def _spread(taken: list[Taken], offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    of = np.repeat(np.arange(len(taken), dtype=np.int32) + offset, [t.stop - t.start for t in taken])
    places = [np.arange(t.start, t.stop) for t in taken]
    return of, np.concatenate(places) if places else np.empty(0, np.int64)
