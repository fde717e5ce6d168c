"""Remote shards in a bounded folder on a local disk: fetched ahead of use, whole, once for all processes of a node."""

import contextlib
import hashlib
import heapq
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import filelock
import tenacity

from mmcl.data.remote import failures
from mmcl.data.remote.failures import Patience, TransferError, TransientError, persist, redact
from mmcl.data.remote.files import MIB, RemoteFile, chunks, look
from mmcl.data.remote.folder import CacheFolder, hashed, is_checked, mark_checked
from mmcl.errors import MmclError

T = TypeVar("T")


class ShardCache:
    """Remote shards in a local folder of bounded size, which all processes of a node may share.

    A shard that `fetch` returns is whole: its length is what the server says, its checksum what the caller says. A
    server is asked once in the life of a cache object whether a shard has changed.

    Args:
        folder: of its own, on a local disk; made if needed.
        limit: bytes under the folder, downloads counted in full from their beginning. What callers put beside shards
            counts, but is made room for with the next download only.
        attempts: in a row that get nowhere, before a download is given up.
        timeout: seconds without a byte, before an attempt is given up.
        parallel: downloads of `prefetch` at a time.
        backoff: seconds before the second attempt; doubled each time, up to 30 times this, with jitter.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        attempts: int = 6,
        timeout: float = 60.0,
        parallel: int = 4,
        backoff: float = 1.0,
    ) -> None:
        self._folder = CacheFolder(folder, limit)
        self._patience = Patience(attempts, timeout, backoff)
        self._parallel = parallel
        self._versions: dict[str, RemoteFile] = {}  # of what has been fetched
        self._good: dict[tuple[str, str | None], tuple[Path, int]] = {}
        self._closed = threading.Event()
        self._begin()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def limit(self) -> int:
        """Bytes under it, at most."""
        return self._folder.limit

    def _begin(self) -> None:
        """State of the background downloads, none of which live on in a fork."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._wishes: dict[str, int] = {}  # hash of URL -> place
        self._queue: list[tuple[int, str, str | None]] = []  # a heap of (place, url, checksum)
        self._threads: set[threading.Thread] = set()

    def __enter__(self) -> "ShardCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop background downloads, and those that somebody waits for; what has arrived is kept."""
        self._closed.set()
        if self._pid != os.getpid():
            return
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=1.0)  # one that waits for a server ends by itself, within its timeout

    def fetch(self, url: str, sha256: str | None = None) -> Path:
        """A shard, whole and checked; downloaded if it is not there, or waited for if somebody downloads it.

        Open the file at once: another process may need its room. An open file can be read to its end; if it is gone
        before it was opened, fetch it again.

        Args:
            url: of the shard.
            sha256: its checksum, if known, in hexadecimal digits.

        Returns:
            A local file whose name ends with that of the shard.

        Raises:
            MmclError: url, what happened, attempts, what to do.
        """
        known = self._good.get((url, sha256))
        path = known[0] if known and self._folder.use(*known) else self._fetch_locked(url, sha256)
        if self._wishes.pop(hashed(url), None) is not None and self._queue:
            self._start()  # it has been used, so that there is room again
        return path

    def prefetch(self, urls: Sequence[str], sha256: Mapping[str, str] | None = None) -> None:
        """Download in the background, in this order, as far as there is room.

        Takes the place of the earlier list; what is being downloaded goes on. What is listed here is removed from the
        cache last, and never for something that is listed behind it. What fails here is tried again by `fetch`, which
        raises.

        Args:
            urls: in the order in which they will be fetched.
            sha256: checksums by URL; what has one is checked here already.
        """
        if self._pid != os.getpid():
            self._begin()
        checks = sha256 or {}
        with self._lock:
            wishes = list(dict.fromkeys(urls))
            self._wishes = {hashed(url): place for place, url in enumerate(wishes)}
            self._queue = [(place, url, checks.get(url)) for place, url in enumerate(wishes)]
        self._start()

    def size(self, url: str) -> int | None:
        """Bytes of a shard; None where the server does not say.

        Raises:
            MmclError: it is not there, or the server cannot be asked.
        """
        known = self._versions.get(url)
        return (known or self._persist(lambda: look(url, self._patience.timeout), url)).size

    def _start(self) -> None:
        with self._lock:
            for number in range(min(self._parallel - len(self._threads), len(self._queue))):
                thread = threading.Thread(target=self._work, daemon=True, name=f"mmcl-prefetch-{number}")
                self._threads.add(thread)
                thread.start()

    def _work(self) -> None:
        room = True
        while True:
            with self._lock:
                queue = self._queue
                if not room or not queue or self._closed.is_set():
                    self._threads.discard(threading.current_thread())
                    return
                place, url, sha256 = heapq.heappop(queue)
            with contextlib.suppress(Exception):  # `fetch` meets the same and raises it, where somebody listens
                room = self._prefetch_one(url, sha256, place)
            if not room:
                with self._lock:
                    heapq.heappush(queue, (place, url, sha256))  # until something has been used
                    room = queue is not self._queue  # there is another list by now

    def _prefetch_one(self, url: str, sha256: str | None, place: int) -> bool:
        """False if there was no room."""
        known = self._good.get((url, sha256))
        if known is not None and self._folder.use(*known):
            return True
        try:
            lock = self._folder.lock(url).acquire(timeout=0)
        except filelock.Timeout:  # others download it: the next one
            return True
        with lock:
            return self._obtain(url, sha256, place) is not None

    def _fetch_locked(self, url: str, sha256: str | None) -> Path:
        lock = self._folder.lock(url)
        self._await(lambda: _acquire(lock), f"{redact(url)}: another process downloads this")
        try:
            path = self._obtain(url, sha256, place=None)
        finally:
            lock.release()
        assert path is not None, "whoever has no place waits for room"
        return path

    def _obtain(self, url: str, sha256: str | None, place: int | None) -> Path | None:
        """The shard, whose lock is held; None if there is no room for what has a place in the list of wishes."""
        for last in (False, True):
            with contextlib.suppress(_ChecksumError):
                return self._persist(lambda: self._attempt(url, sha256, place), url)
            if last:
                break
        raise MmclError(
            f"{redact(url)}: its sha256 is not {sha256}, nor was it when all of it was downloaded again. "
            "The shard or the checksum (in the manifest) is wrong: restore the one that is."
        )

    def _attempt(self, url: str, sha256: str | None, place: int | None) -> Path | None:
        file = look(url, self._patience.timeout)
        size = self._check(file, sha256)
        path = self._folder.file(url, f"{size} {file.version}")
        if not self._folder.use(path, size):
            path.unlink(missing_ok=True)  # cut by a crash of the machine
            part = self._folder.part(path, size)
            self._folder.drop_parts(url, keep=part)
            if not self._reserve(part, size, place):
                return None
            self._receive(file, part, size)
            if sha256 is not None:
                self._verify(part, sha256)
                mark_checked(path, part, sha256)
            elif look(url, self._patience.timeout) != file:
                part.unlink()
                raise TransientError("it changed while it was downloaded")
            self._folder.keep(part, path)
        elif sha256 is not None and not is_checked(path, sha256):
            self._verify(path, sha256)
            mark_checked(path, path, sha256)
        self._versions[url] = file
        self._good[url, sha256] = path, size
        return path

    def _verify(self, path: Path, sha256: str) -> None:
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256.lower():
                    return
        except FileNotFoundError:
            raise TransientError("another process removed it before it was checked") from None
        path.unlink(missing_ok=True)
        raise _ChecksumError

    def _check(self, file: RemoteFile, sha256: str | None) -> int:
        """Size of what can be fetched."""
        if file.size is None:
            raise TransferError(
                "the server does not say how long it is, so that nobody could tell whether it has arrived whole",
                "Serve the shards as files (with Content-Length), or download them first.",
            )
        if file.size > self._folder.limit:
            raise TransferError(
                f"it has {file.size:,} bytes, more than the whole cache {self._folder.path} ({self._folder.limit:,})",
                "Raise the limit of the cache; two windows of shards should fit in.",
            )
        if sha256 is None and self._versions.get(file.url, file) != file:
            raise TransferError(
                "it has changed on the server since this run first read it",
                "Restore the shard, or start a new run; checksums in a manifest tell a real change from a new date.",
            )
        return file.size

    def _reserve(self, part: Path, size: int, place: int | None) -> bool:
        if place is not None:
            return self._folder.reserve(part, size, self._wishes, place)
        self._await(
            lambda: self._folder.reserve(part, size, self._wishes),
            f"{self._folder.path}: all of its limit ({self._folder.limit:,} bytes) is taken by downloads",
        )
        return True

    def _receive(self, file: RemoteFile, part: Path, size: int) -> None:
        """Get what is missing of a file."""
        with part.open("r+b", buffering=0) as out:
            start, continued = out.seek(0, os.SEEK_END), True
            try:
                for position, data in chunks(file, start, self._patience.timeout):
                    self._stop_if_closed()
                    if position != out.tell():  # the server cannot go on where we were
                        continued = False
                        out.seek(position)
                        out.truncate()
                    if position + len(data) > size:
                        out.truncate(0)
                        raise TransientError(f"more than the {size:,} bytes came that the server announced")
                    self._write(out, data, part)
                if out.tell() != size:
                    raise TransientError(f"{out.tell():,} of {size:,} bytes came")
            except TransientError as error:
                error.gained = continued and out.tell() - start >= MIB
                raise

    def _write(self, out: FileIO, data: bytes, part: Path) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[out.write(rest) :]
        except OSError as error:
            part.unlink(missing_ok=True)
            free = shutil.disk_usage(part.parent).free
            raise MmclError(
                f"{part.parent}: the cache cannot be written ({error.strerror}). Its limit is {self._folder.limit:,} "
                f"bytes, and {free:,} are free on its disk. Lower the limit, or free some space."
            ) from None

    def _persist(self, attempt: Callable[[], T], url: str) -> T:
        def checked() -> T:
            self._stop_if_closed()
            return attempt()

        return persist(checked, url, self._patience, tenacity.sleep_using_event(self._closed))

    def _stop_if_closed(self) -> None:
        if self._closed.is_set():
            raise MmclError(f"{self._folder.path}: the shard cache was closed while a shard was fetched.")

    def _await(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for others, as long as any download of theirs gets further."""
        limit = self._patience.attempts * self._patience.timeout + failures.RETRY_AFTER_LIMIT
        pause, seen, since = 0.005, None, time.monotonic()
        while not ready():
            self._stop_if_closed()
            self._closed.wait(pause)
            pause = min(2 * pause, 0.1)
            if (now := self._folder.progress()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > limit:
                raise MmclError(f"{what}, and has not got further for {limit:.0f} s. End the process if it hangs.")


class _ChecksumError(Exception):
    """A file is not what it should be; it has been removed."""


def _acquire(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True
