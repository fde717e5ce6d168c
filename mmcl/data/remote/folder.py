"""A folder of bounded size that many processes of a node share: what lies in it, who may write, what has to go."""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from mmcl.errors import MmclError

ENTRY = re.compile(r"(?P<key>(?P<url>[0-9a-f]{16})[0-9a-f]{16})-.*?(?:\.(?P<size>\d+)\.part)?")
ROOM_TIMEOUT = 600.0  # seconds; the lock is held for milliseconds
STRIPE = 3  # digits of a hash that name a lock: there are at most 4,096
LONGEST_NAME = 150  # bytes of a shard's name that are kept; file systems allow 255 for all of ours


@dataclass
class Entry:
    """Files of one shard: the tar, what was put beside it, or what has arrived of it."""

    url: str
    files: list[Path] = field(default_factory=list)
    size: int = 0  # bytes; of a download all that will come
    used: int = 0  # when, in ns
    part: bool = False

    def value(self, wishes: Mapping[str, int]) -> tuple[int, int]:
        """What goes first is smallest."""
        if self.part:
            return 0, self.used
        place = wishes.get(self.url)
        return (1, self.used) if place is None else (2, -place)


class CacheFolder:
    """Names, locks and the limit of a shared folder.

    A file is ``{hash of URL}{hash of version}-{name of the shard}``; what starts with the same hashes belongs to it,
    counts and goes with it. A download is ``....{size}.part``: its name reserves the size. Nothing else is touched.

    A download holds its URL's lock, and the kernel drops the locks of killed processes: a part that nobody holds is a
    leftover, which the next download of that version continues and anybody else may remove. Files that are being read
    may be removed too: on POSIX systems an open file stays readable (and keeps its blocks) until it is closed.

    Args:
        path: made if needed.
        limit: bytes.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.limit = path.absolute(), limit
        self._locks = self.path / "locks"
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            if not all(os.access(folder, os.W_OK | os.X_OK) for folder in (self.path, self._locks)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise MmclError(
                f"{self.path}: no cache can be made here ({error.strerror}). Give a folder on a local disk."
            ) from None

    def file(self, url: str, version: str) -> Path:
        """Where a version of a shard lies, if it does."""
        name = re.sub(r"[^\w.+=@,~-]", "_", url.partition("?")[0].rstrip("/").rpartition("/")[2])
        name = name.encode()[-LONGEST_NAME:].decode(errors="ignore")
        return self.path / f"{hashed(url)}{hashed(version)}-{name}"

    def part(self, file: Path, size: int) -> Path:
        """Where a file lies while it arrives."""
        return file.with_name(f"{file.name}.{size}.part")

    def use(self, file: Path, size: int) -> bool:
        """Whether a file is there, whole; if so, it is the most recently used one."""
        try:
            stat = file.stat()
            if stat.st_size != size:
                return False
            # the access time, since indexes are compared with the time of modification
            os.utime(file, ns=(time.time_ns(), stat.st_mtime_ns))
        except FileNotFoundError:
            return False
        return True

    def lock(self, url: str) -> filelock.BaseFileLock:
        """The lock of a URL's downloads. A few URLs share one, so that locks need never be removed."""
        return self._lock(hashed(url)[:STRIPE])

    def _lock(self, name: str) -> filelock.BaseFileLock:
        return filelock.FileLock(self._locks / f"{name}.lock", thread_local=False)

    def progress(self) -> dict[str, int]:
        """Bytes of each download that have arrived."""
        return {file.name: stat.st_size for file, stat in self._listed(".part")}

    def drop_parts(self, url: str, keep: Path) -> None:
        """Remove what has arrived of other versions of a URL; its lock is held."""
        for part in self.path.glob(f"{hashed(url)}*.part"):
            if part != keep:
                part.unlink(missing_ok=True)

    def reserve(self, part: Path, size: int, wishes: Mapping[str, int], place: int | None = None) -> bool:
        """Make room for a download, and begin its file.

        What goes first are leftovers, then the least recently used shards, at last those that will be wanted,
        beginning with the last one.

        Args:
            part: where it will lie; its lock is held.
            size: bytes, at most the limit.
            wishes: hash of a URL -> place in the order in which they will be wanted.
            place: of this one; what is wanted before it stays. None: somebody waits for it.

        Returns:
            False if too much of the folder is being downloaded, or wanted before this one.
        """
        with self._room_lock(), contextlib.ExitStack() as held:
            entries = self._entries(leave_out=part)
            excess = sum(entry.size for entry in entries) + size - self.limit
            going, ours = [], {part.name[:STRIPE]}
            for entry in sorted(entries, key=lambda entry: entry.value(wishes)):
                if excess <= 0:
                    break
                wanted_before = place is not None and wishes.get(entry.url, place) < place
                if not wanted_before and (not entry.part or self._left_over(entry, ours, held)):
                    excess -= entry.size
                    going.append(entry)
            if excess > 0:
                return False
            for file in (file for entry in going for file in entry.files):
                file.unlink(missing_ok=True)
            part.touch()
        return True

    def keep(self, part: Path, path: Path) -> None:
        """Give a whole download its name, while nobody makes room.

        A file that is renamed while a folder is listed may show under neither name, and would not be counted.
        """
        with self._room_lock():
            part.replace(path)

    def _room_lock(self) -> filelock.AcquireReturnProxy:
        try:
            return self._lock("room").acquire(timeout=ROOM_TIMEOUT)
        except filelock.Timeout:
            raise MmclError(
                f"{self.path}: another process has held the lock of this cache for {ROOM_TIMEOUT:g} s. "
                "End it if it hangs (`fuser` on `locks/room.lock` in this folder tells which one it is)."
            ) from None

    def _left_over(self, entry: Entry, ours: set[str], held: contextlib.ExitStack) -> bool:
        """Whether nobody downloads this any more; nobody can begin to before ``held`` is closed."""
        name = entry.url[:STRIPE]
        try:
            if name not in ours:
                held.enter_context(self._lock(name).acquire(timeout=0))
        except filelock.Timeout:
            return False
        ours.add(name)
        return True

    def _entries(self, leave_out: Path) -> list[Entry]:
        entries: dict[tuple[str, bool], Entry] = {}
        for file, stat in self._listed():
            found = ENTRY.fullmatch(file.name)
            if found is None or file == leave_out:
                continue
            entry = entries.setdefault((found["key"], found["size"] is not None), Entry(found["url"]))
            entry.part = found["size"] is not None
            entry.files.append(file)
            entry.size += max(stat.st_size, int(found["size"] or 0))
            entry.used = max(entry.used, stat.st_atime_ns)
        return list(entries.values())

    def _listed(self, suffix: str = "") -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.path) as listing:
            for item in listing:
                with contextlib.suppress(FileNotFoundError):  # others remove files, too
                    if item.name.endswith(suffix) and item.is_file(follow_symlinks=False):
                        yield self.path / item.name, item.stat(follow_symlinks=False)


def hashed(text: str) -> str:
    """16 hexadecimal digits, from which the text, which may hold a secret, cannot be read."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def mark_checked(file: Path, now_at: Path, sha256: str) -> None:
    """Leave word beside a file that its checksum is right, so that a node computes it once.

    Args:
        file: where it lies, or will.
        now_at: where it lies now; it may be gone already.
        sha256: its checksum.
    """
    with contextlib.suppress(FileNotFoundError):
        _mark(file).write_text(_seal(now_at, sha256))


def is_checked(file: Path, sha256: str) -> bool:
    """Whether such word is there, and about this very file."""
    try:
        return _mark(file).read_text() == _seal(file, sha256)
    except FileNotFoundError:
        return False


def _mark(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _seal(file: Path, sha256: str) -> str:
    return f"{sha256.lower()} {file.stat().st_mtime_ns}"
