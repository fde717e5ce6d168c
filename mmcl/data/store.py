"""The shards of a stream: opened by number, wherever they lie."""

import contextlib
import itertools
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from mmcl.data.index import BLOCK, Member, ShardIndex, load_index, stored_count, user_cache
from mmcl.data.remote import ShardCache, is_remote, read_remote
from mmcl.data.shards import Listed, described_beside, is_pipe
from mmcl.errors import MmclError

NEAR = 64 * 1024  # members that lie as near are read at once
OPEN_FILES = 64
ASKED_AT_ONCE = 16  # files beside shards
EVICTIONS = 5  # in a row, of a shard that was just fetched
GONE = "data: {} is not there any more. Restore it, and resume."
T = TypeVar("T")


def default_cache(folder: str | Path | None = None, gigabytes: float = 100.0) -> ShardCache:
    """Where remote shards are put: a folder of the user's cache (``MMCL_CACHE``) unless told."""
    return ShardCache(Path(folder).expanduser() if folder else user_cache() / "shards", int(gigabytes * 1e9))


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
        url: where it lies, as it may be shown.
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

    def members(self, sample: int) -> dict[str, Member]:
        """Extension -> where it lies, as `read` takes it."""
        return self.index.members(sample)

    def read(self, members: Sequence[Member]) -> list[bytes]:
        """Bytes of members at (offset, size, checksum of the header before); in one read where they lie near.

        Raises:
            MmclError: there is another header than the one that was indexed.
        """
        if not members:
            return []
        low, high = min(o for o, _, _ in members) - BLOCK, max(o + s for o, s, _ in members)
        if high - low > sum(s for _, s, _ in members) + NEAR:
            return [data for member in members for data in self.read([member])]
        data = self._pread(low, high - low)
        for offset, _, check in members:
            if zlib.crc32(data[offset - low - BLOCK : offset - low]) != check:
                raise MmclError(
                    f"{self.url}: the shard has changed since it was indexed (another member lies at {offset}). "
                    "Restore it, and resume; or index it again (mmcl data index), and start a new run."
                )
        return [data[o - low : o - low + s] for o, s, _ in members]

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


class ShardSet:
    """The shards of a stream, by number.

    Args:
        listed: all of them.
        cache: opens where remote ones are put, if there are any.
    """

    def __init__(self, listed: Sequence[Listed], cache: Callable[[], ShardCache] = default_cache) -> None:
        self.listed = list(listed)
        self.cache = cache() if any(is_remote(shard.url) for shard in listed) else None
        self._digests: dict[int, str] = {n: s.digest for n, s in enumerate(listed) if s.digest is not None}
        self._counts: dict[int, int] = {n: s.samples for n, s in enumerate(listed) if s.samples is not None}
        self._asked = False
        self.sizes = [_size(shard) for shard in listed]
        # of no method: files are closed when the last one lets go, and not when Python next looks for circles
        self._file = lru_cache(maxsize=OPEN_FILES)(partial(_open_file, self.listed, self.cache))
        self._wishes: dict[str, list[Listed]] = {}
        self._held: dict[str, list[dict[int, int]]] = {}

    def count(self, number: int) -> int:
        """Samples of a shard, as its description says, or else its index.

        Raises:
            MmclError: the shard is remote and nothing says how many it has.
        """
        if number not in self._counts and is_remote(self.listed[number].url) and not self._asked:
            self._ask_beside()
        if number not in self._counts:
            listed = self.listed[number]
            if is_remote(listed.url):
                raise MmclError(
                    f"data: nothing says how many samples {listed.shown} has, and so how many an epoch has. Put the "
                    "manifest.json that `mmcl data index` writes beside the shards."
                )
            stored = stored_count(Path(listed.url))
            self._counts[number] = len(self.open(number)) if stored is None else stored
        return self._counts[number]

    def _ask_beside(self) -> None:
        """Look for files beside remote shards that nothing else describes."""
        self._asked = True
        asked = [n for n, s in enumerate(self.listed) if is_remote(s.url) and s.samples is None]
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            answers = pool.map(lambda number: described_beside(self.listed[number], read_remote), asked)
            for number, found in zip(asked, answers, strict=True):
                if found.samples is not None:
                    self.listed[number], self._counts[number] = found, found.samples

    def open(self, number: int) -> Shard:
        """A shard with its index; a remote one is fetched.

        Raises:
            MmclError: it is not there, or it is not what its description says.
        """
        listed = self.listed[number]
        try:
            self._file(number)  # an open file is not lost where a cache needs its room
            index = self._load_index(number)
            resized = self.sizes[number] not in (None, _size(listed))
        except FileNotFoundError:  # it goes just now
            raise MmclError(GONE.format(listed.shown)) from None
        except OSError as error:
            raise MmclError(f"data: {listed.shown} cannot be read: {error.strerror}.") from None
        replaced = self._digests.setdefault(number, index.digest) != index.digest
        if resized or (replaced and listed.digest is None):
            raise MmclError(f"data: {listed.shown} has changed while it was in use. Restore it, and resume.")
        if listed.samples is not None and listed.samples != len(index):
            raise MmclError(
                f"data: {listed.said_by} says that {listed.name} has {listed.samples} samples, but it has "
                f"{len(index)}. Write that file again, or remove it."
            )
        if replaced:
            raise MmclError(
                f"data: {listed.shown} is not the shard that {listed.said_by} describes. Restore it; or remove that "
                "file and describe the shards again: mmcl data index"
            )
        self._counts[number] = len(index)
        return Shard(listed.shown, number, index, self._file)

    def path(self, number: int) -> Path:
        """Where a shard lies on this machine."""
        return _path(self.listed[number], self.cache)

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
        if need > self.cache.limit:
            raise MmclError(
                f"data: two windows of remote shards take {need / 1e9:.3g} GB, but the cache in "
                f"{self.cache.path} may hold {self.cache.limit / 1e9:.3g} GB. Raise "
                "data.cache.gigabytes, or make `window` smaller."
            )

    def extensions(self) -> set[str]:
        """Of the members of all samples."""
        return {extension for number in range(len(self.listed)) for extension in self.open(number).index.extensions}

    def described(self) -> list[dict[str, Any]]:
        """Name, samples and digest of every shard."""
        opened = (self.open(number) for number in range(len(self.listed)))
        return [{"name": s.url.rpartition("/")[2], "samples": len(s), "digest": s.index.digest} for s in opened]

    def _load_index(self, number: int) -> ShardIndex:
        def load() -> ShardIndex:
            path = self.path(number)
            try:
                return load_index(path)
            except MmclError as error:  # which says where it lies on this machine
                raise MmclError(str(error).replace(str(path), self.listed[number].shown)) from None

        return _persist(load)


def _path(listed: Listed, cache: ShardCache | None) -> Path:
    if is_remote(listed.url):
        assert cache is not None
        return cache.fetch(listed.url, listed.sha256)
    if not os.path.isfile(listed.url):
        raise MmclError(GONE.format(listed.url))
    return Path(listed.url)


def _open_file(listed: Sequence[Listed], cache: ShardCache | None, number: int) -> Descriptor:
    return _persist(lambda: Descriptor(_path(listed[number], cache)))


def _size(listed: Listed) -> int | None:
    """Bytes of a shard, where it costs nothing to know them."""
    return None if is_remote(listed.url) or is_pipe(listed.url) else os.path.getsize(listed.url)


def _persist(attempt: Callable[[], T]) -> T:
    """Once more, where another process has evicted the shard between the moment it was fetched and now."""
    for _ in range(EVICTIONS):
        with contextlib.suppress(FileNotFoundError):
            return attempt()
    return attempt()
