"""Shards that are opened as their window comes, and the places of their samples in one order."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmcl.data.index import ShardIndex, load_index, stored_count
from mmcl.data.order import Quotas, sample_order, shard_order
from mmcl.data.remote import ShardCache, is_remote
from mmcl.data.shards import Listed
from mmcl.data.source import SampleWindow, Window
from mmcl.errors import MmclError
from mmcl.types import Bad

NEAR = 64 * 1024  # members that lie as near are read at once
OPEN_FILES = 64
AHEAD = 256  # remote shards that are asked for at once


class Descriptor:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not be opened
            os.close(self.number)


class Shard:
    """An open shard: its samples, by number.

    Args:
        url: where it lies.
        number: of the shard among all shards of a stream.
        index: where its samples lie.
        file: opens the shard of a number.
    """

    def __init__(self, url: str, number: int, index: ShardIndex, file: Callable[[int], Descriptor]) -> None:
        self.url, self.number, self.index, self._file = url, number, index, file

    def __len__(self) -> int:
        return len(self.index)

    def key(self, sample: int) -> str:
        """Key of a sample."""
        return self.index.key(sample)

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Extension -> (offset, size)."""
        return self.index.members(sample)

    def read(self, members: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes of members that lie at (offset, size); in one read, where they lie near one another."""
        if not members:
            return []
        low, high = min(o for o, _ in members), max(o + s for o, s in members)
        if high - low <= sum(s for _, s in members) + NEAR:
            data = self._pread(low, high - low)
            return [data[o - low : o - low + s] for o, s in members]
        return [self._pread(o, s) for o, s in members]

    def _pread(self, offset: int, size: int) -> bytes:
        file = self._file(self.number)
        data = os.pread(file.number, size, offset)
        while len(data) < size and (more := os.pread(file.number, size - len(data), offset + len(data))):
            data += more
        if len(data) != size:
            raise MmclError(
                f"{self.url}: {len(data)} of {size} bytes at {offset}: the shard was cut while it was read. "
                "Restore it, and resume."
            )
        return data


class Ref(NamedTuple):
    """One sample at one place of the order."""

    epoch: int
    shard: Shard
    sample: int


class ShardSet:
    """The shards of a stream, by number.

    Args:
        listed: all of them.
        cache: where remote ones are put.
    """

    def __init__(self, listed: Sequence[Listed], cache: ShardCache | None) -> None:
        self.listed, self.cache = list(listed), cache
        self._counts: dict[int, int] = {n: s.samples for n, s in enumerate(listed) if s.samples is not None}
        self._file = lru_cache(maxsize=OPEN_FILES)(self._open_file)
        self._wishes: dict[str, list[Listed]] = {}
        self._held: dict[str, list[dict[int, int]]] = {}

    def count(self, number: int) -> int:
        """Samples of a shard, as its description says, or else its index.

        Raises:
            MmclError: the shard is remote and nothing says how many it has.
        """
        if number not in self._counts:
            listed = self.listed[number]
            if is_remote(listed.url):
                raise MmclError(
                    f"data: nothing says how many samples {listed.url} has, and so how many an epoch has. Put the "
                    "manifest.json that `mmcl data index` writes beside the shards."
                )
            stored = stored_count(Path(listed.url))
            self._counts[number] = len(self.open(number)) if stored is None else stored
        return self._counts[number]

    def open(self, number: int) -> Shard:
        """A shard with its index; a remote one is fetched.

        Raises:
            MmclError: it is not there, or it is not what its description says.
        """
        listed = self.listed[number]
        index = load_index(self.path(number))
        if listed.samples is not None and listed.samples != len(index):
            raise MmclError(
                f"data: {listed.said_by} says that {listed.name} has {listed.samples} samples, but it has "
                f"{len(index)}. Write that file again, or remove it."
            )
        if listed.digest is not None and listed.digest != index.digest:
            raise MmclError(
                f"data: {listed.url} is not the shard that {listed.said_by} describes. Restore it, or describe the "
                "shards again: mmcl data index"
            )
        self._counts[number] = len(index)
        return Shard(listed.url, number, index, self._file)

    def path(self, number: int) -> Path:
        """Where a shard lies on this machine."""
        listed = self.listed[number]
        if is_remote(listed.url):
            assert self.cache is not None
            return self.cache.fetch(listed.url, listed.sha256)
        if not os.path.isfile(listed.url):
            raise MmclError(f"data: {listed.url} is not there any more. Restore it, and resume.")
        return Path(listed.url)

    def prefetch(self, pool: str, numbers: Sequence[int]) -> None:
        """Have remote shards fetched in the background, in this order; beside what other pools wish."""
        wishes = [self.listed[n] for n in numbers if is_remote(self.listed[n].url)]
        if wishes and self.cache is not None:
            self._wishes[pool] = wishes
            turns = itertools.chain.from_iterable(itertools.zip_longest(*self._wishes.values()))
            listed = {shard.url: shard.sha256 for shard in turns if shard is not None}
            self.cache.prefetch(list(listed), {url: sha for url, sha in listed.items() if sha is not None})

    def hold(self, pool: str, numbers: Sequence[int]) -> None:
        """See that the cache has room for the shards of a pool's window beside those of the one before.

        Raises:
            MmclError: it has not, so that shards would be fetched again and again.
        """
        remote = {n: self.path(n).stat().st_size for n in numbers if is_remote(self.listed[n].url)}
        if not remote or self.cache is None:
            return
        self._held[pool] = [*self._held.get(pool, []), remote][-2:]
        need = sum({n: size for held in self._held.values() for window in held for n, size in window.items()}.values())
        if need > self.cache.folder.limit:
            raise MmclError(
                f"data: two windows of remote shards take {need / 1e9:.3g} GB, but the cache in "
                f"{self.cache.folder.path} may hold {self.cache.folder.limit / 1e9:.3g} GB. Raise data.cache.gigabytes, "
                "or make `window` smaller."
            )

    def extensions(self) -> set[str]:
        """Of the members of all samples."""
        return {extension for number in range(len(self.listed)) for extension in self.open(number).index.extensions}

    def described(self) -> list[dict[str, Any]]:
        """Name, samples and digest of every shard."""
        opened = (self.open(number) for number in range(len(self.listed)))
        return [{"name": s.url.rpartition("/")[2], "samples": len(s), "digest": s.index.digest} for s in opened]

    def _open_file(self, number: int) -> Descriptor:
        try:
            return Descriptor(self.path(number))
        except FileNotFoundError:  # evicted between the two
            return Descriptor(self.path(number))


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
        self._window: OpenWindow | None = None
        self._next: tuple[Cursor, Future[OpenWindow]] | None = None
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="mmcl-window")
        self._order = lru_cache(maxsize=2)(
            lambda epoch: shard_order(len(self.numbers), seed, epoch, window is not None, name)
        )

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
                raise MmclError(f"data: the shards of {self.shards.listed[self.numbers[0]].url} ... hold no samples.")
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
                self._next = following, self._opener.submit(self._open, following)
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
        self.shards.prefetch(self.name, order[: 2 * len(wanted)][:AHEAD])
        shards: list[Shard] = []
        for number in wanted:
            shards.append(self.shards.open(number))
            if isinstance(self.size, SampleWindow) and sum(map(len, shards)) >= self.size.samples:
                break
        self.shards.hold(self.name, [shard.number for shard in shards])
        mixed = None
        if self.size is not None:
            mixed = sample_order([len(shard) for shard in shards], self.seed, at.epoch, at.first, self.name)
        problems = [Bad(s.url, key, "", reason) for s in shards for key, reason in s.index.problems]
        return OpenWindow(at, shards, mixed, at.first + len(shards) >= len(self.numbers), problems)


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
