"""Shards that share one order: what comes next in it, window by window."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from mmcl.data.order import sample_order, shard_order
from mmcl.data.source import SampleWindow, Window
from mmcl.data.store import Shard, ShardSet
from mmcl.errors import MmclError
from mmcl.types import Bad


class Ref(NamedTuple):
    """One sample at one place of the order."""

    epoch: int
    shard: Shard
    sample: int


class OpenWindow:
    """Shards whose samples are shuffled together; the last one of an epoch, or not."""

    def __init__(
        self, cursor: "Cursor", shards: Sequence[Shard], order: np.ndarray | None, last: bool, problems: list[Bad]
    ) -> None:
        self.epoch, self.first, self.shards, self.last, self.problems = (
            cursor.epoch,
            cursor.first,
            shards,
            last,
            problems,
        )
        counts = [len(shard) for shard in shards]
        of = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        sample = np.concatenate([np.arange(c, dtype=np.int32) for c in counts]) if counts else of
        self._of, self._sample = (of, sample) if order is None else (of[order], sample[order])

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, place: int) -> Ref:
        return Ref(self.epoch, self.shards[self._of[place]], int(self._sample[place]))

    @cached_property
    def digest(self) -> str:
        """Changes when one of its shards does."""
        joined = " ".join(shard.index.digest for shard in self.shards)
        return hashlib.blake2b(joined.encode(), digest_size=8).hexdigest()


@dataclass
class Cursor:
    """Where a pool is: three integers."""

    epoch: int = 0
    first: int = 0  # place of the window's first shard in the order of the epoch's shards
    place: int = 0  # within the window


class Taken(NamedTuple):
    """A run of places in one window."""

    window: OpenWindow
    start: int
    stop: int


class Pool:
    """Shards that share one order: permuted every epoch, their samples shuffled within windows.

    Args:
        shards: all shards of the stream.
        numbers: those of this pool.
        seed: of the run.
        window: how far samples are shuffled; None leaves everything in the order of the tars.
        endless: whether the next epoch will be read, and may be opened ahead.
        name: tells the pools of a mixture apart.
    """

    def __init__(
        self,
        shards: ShardSet,
        numbers: Sequence[int],
        seed: int,
        window: Window | None,
        endless: bool,
        name: str = "",
    ) -> None:
        self.shards, self.numbers, self.seed, self.size, self.name = shards, list(numbers), seed, window, name
        self.endless = endless
        self.cursor = Cursor()
        self.news: list[Bad] = []  # problems of windows that were entered
        self._few = window if isinstance(window, int) else 1  # shards of a window, as far as that is known before
        self._window: OpenWindow | None = None
        self._next: tuple[Cursor, Future[OpenWindow]] | None = None
        count = len(self.numbers)  # of no self: shards are let go of when the last one lets go of the pool
        self._order = lru_cache(maxsize=2)(lambda epoch: shard_order(count, seed, epoch, window is not None, name))

    def __len__(self) -> int:
        """Samples of one epoch."""
        return sum(self.shards.count(number) for number in self.numbers)

    def take(self, count: int, across: bool) -> list[Taken]:
        """The next places; fewer where the epoch ends, unless they may go on ``across`` its end."""
        taken: list[Taken] = []
        empty = 0
        while count:
            window = self._enter()
            stop = min(self.cursor.place + count, len(window))
            if stop > self.cursor.place:
                taken.append(Taken(window, self.cursor.place, stop))
                count -= stop - self.cursor.place
                self.cursor.place, empty = stop, 0
            if self.cursor.place < len(window):
                break
            empty += len(window.shards)
            if empty > 2 * len(self.numbers):
                raise MmclError(f"data: the shards of {self.shards.listed[self.numbers[0]].shown} ... hold no samples.")
            if self._leave(window) and not across:
                break
        return taken

    def snapshot(self) -> list[Any]:
        """Where it is, and what tells whether the shards of a window that was begun are still the same."""
        at = self.cursor
        return [at.epoch, at.first, at.place, self._window.digest if self._window is not None and at.place else None]

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from a snapshot.

        Raises:
            MmclError: the shards of the window have changed.
        """
        *numbers, digest = state
        self.cursor, self._window, self._next = Cursor(*map(int, numbers)), None, None
        if digest is not None and self._enter().digest != digest:
            names = ", ".join(shard.url for shard in self._enter().shards[:3])
            raise MmclError(
                f"data: the shards that were being read ({names}, ...) have changed, so the order cannot be continued. "
                "Restore them, or start a new run."
            )
        if self.cursor.place and not 0 <= self.cursor.place < len(self._enter()):
            raise MmclError(f"data: this is no state of a stream; its window has no place {self.cursor.place}.")

    def seek(self, sample: int) -> None:
        """Go to a sample of the first epoch, where all is read in the order of the shards.

        Raises:
            MmclError: samples are shuffled.
        """
        if self.size is not None:
            raise MmclError("data: samples are shuffled, so none can be gone to; read them with shuffle=False.")
        ends = np.cumsum([self.shards.count(number) for number in self.numbers])
        first = int(np.searchsorted(ends, sample, side="right"))
        before = int(ends[first - 1]) if first else 0
        self.restore([0, first, sample - before, None])
        self.news = []

    def _enter(self) -> OpenWindow:
        """The window where the cursor is, with the next one on its way."""
        at = self.cursor
        if self._window is None or (self._window.epoch, self._window.first) != (at.epoch, at.first):
            waiting, self._next = self._next, None
            if waiting is not None and (waiting[0].epoch, waiting[0].first) == (at.epoch, at.first):
                self._window = waiting[1].result()
            else:
                self._window = self._open(Cursor(at.epoch, at.first))
            if at.place == 0:
                self.news += self._window.problems
            following = self._following(self._window)
            if self.endless or following.epoch == at.epoch:
                self._next = following, _meanwhile(lambda: self._open(following))
        return self._window

    def _leave(self, window: OpenWindow) -> bool:
        """Step to the next window; whether that is another epoch's."""
        following = self._following(window)
        ended = following.epoch != self.cursor.epoch
        self.cursor.epoch, self.cursor.first, self.cursor.place = following.epoch, following.first, 0
        return ended

    def _following(self, window: OpenWindow) -> Cursor:
        if window.last:
            return Cursor(window.epoch + 1, 0)
        return Cursor(window.epoch, window.first + len(window.shards))

    def _open(self, at: Cursor) -> OpenWindow:
        order = [self.numbers[i] for i in self._order(at.epoch)[at.first :]]
        wanted = order if isinstance(self.size, SampleWindow) else order[: self.size or 1]
        self.shards.prefetch(self.name, wanted[: self._few])
        shards: list[Shard] = []
        for number in wanted:
            shards.append(self.shards.open(number))
            if isinstance(self.size, SampleWindow) and sum(map(len, shards)) >= self.size.samples:
                break
        self._few = len(shards) if isinstance(self.size, SampleWindow) else len(wanted)
        self.shards.hold(self.name, [shard.number for shard in shards])
        mixed = None
        if self.size is not None:
            mixed = sample_order([len(shard) for shard in shards], self.seed, at.epoch, at.first, self.name)
        problems = [Bad(s.url, key, "", reason) for s in shards for key, reason in s.index.problems]
        return OpenWindow(at, shards, mixed, at.first + len(shards) >= len(self.numbers), problems)


def _meanwhile(call: Callable[[], OpenWindow]) -> Future[OpenWindow]:
    """The result of a call in a thread that a process does not wait for when it ends, as it would for an executor's."""
    future: Future[OpenWindow] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="mmcl-window").start()
    return future
