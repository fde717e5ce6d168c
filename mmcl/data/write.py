"""Samples to shards: plain webdataset tars of equal bytes for equal samples, with indexes and a manifest."""

import errno
import fcntl
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from webdataset.writer import TarWriter

from mmcl.data.encode import Encoded, encode
from mmcl.data.index import load_index, scan, write_index
from mmcl.data.shards import MANIFEST, UNFINISHED
from mmcl.errors import MmclError
from mmcl.files import replacing, write_json

FORMAT = 1  # of the manifest
SHARDS = "[0-9][0-9][0-9][0-9][0-9]*.tar"
PARTIAL = (f".{SHARDS}.partial", f"{SHARDS}.*.partial")  # shards and indexes of a process that was killed


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    out: str | Path,
    samples_per_shard: int | None = 1000,
    bytes_per_shard: int | None = None,
) -> dict[str, Any]:
    """Write samples as ``out/00000.tar`` and so on, each with its index, and last ``out/manifest.json``.

    A writing that was interrupted, at whatever instant, goes on when it is called again with the same samples: they
    are made again, shards that are there are compared with them byte by byte, and the others are written. The result
    is that of an uninterrupted writing. A finished folder is never written again.

    Args:
        samples: in webdataset's form: ``__key__``, and an extension -> bytes (or text, or what JSON can hold, see
            `mmcl.data.encode`) for each member. They are used up before the manifest is written.
        out: a folder that holds no finished data set yet.
        samples_per_shard: a shard that has so many is full; the last one may hold fewer. None sets no limit.
        bytes_per_shard: a tar that has reached so many bytes is full, so it is exceeded by less than a sample.

    Returns:
        The manifest: ``{"format", "samples", "shards": [{"name", "samples", "bytes", "sha256", "digest"}]}``, where the
        digest is that of the shard's index.

    Raises:
        MmclError: the folder is finished or not ours, another process writes in it, the samples are not those of the
            interrupted writing, a key comes twice, or a sample cannot be written as it is (see `mmcl.data.encode`).
    """
    out = Path(out)
    if any(limit is not None and limit < 1 for limit in (samples_per_shard, bytes_per_shard)):
        raise MmclError(f"a shard needs room: got {samples_per_shard} samples and {bytes_per_shard} bytes a shard.")
    with claimed(out, [SHARDS, *PARTIAL], "data set") as left:
        there = {path.name for path in left if path.suffix == ".tar"}
        for path in left:
            if path.suffix == ".partial":
                path.unlink()
        writer = _Writer(out, samples_per_shard or 2**63, bytes_per_shard or 2**63)
        encoded = encode(samples)
        try:
            for first in encoded:
                writer.write_shard(itertools.chain([first], encoded))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise MmclError(
                f"{out}: the disk is full. Make room and call it again; it will go on from there."
            ) from None
        if not writer.shards:
            raise MmclError(f"there are no samples to write to {out}.")
        beyond = sorted(there - {shard["name"] for shard in writer.shards})
        if beyond:
            raise _changed(out, f"it holds {beyond[0]}, but the samples end with {writer.shards[-1]['name']}")
        manifest = {"format": FORMAT, "samples": sum(s["samples"] for s in writer.shards), "shards": writer.shards}
        write_json(out / MANIFEST, manifest)
    return manifest


@contextmanager
def claimed(out: Path, patterns: Sequence[str], what: str) -> Iterator[list[Path]]:
    """Make a folder ours to write in, and yield what an interrupted writing of ours left there.

    A marker tells our own leavings from files of the same names that somebody else put there. It goes when the block
    ends well, by when the manifest must be there.

    Args:
        out: the folder.
        patterns: of the files that will be written.
        what: will be written, for the message.

    Raises:
        MmclError: the folder is finished, another process is writing in it, or such files are there that are not ours.
    """
    marker = out / UNFINISHED
    _refuse_finished(out, what)
    left = [path for pattern in patterns for path in sorted(out.glob(pattern))]
    if left and not marker.exists():
        raise MmclError(f"{out} holds {left[0].relative_to(out)}, which would be overwritten; write to another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise MmclError(f"{out} cannot be a folder, since a file is in its place; write to another folder.") from None
    with marker.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MmclError(f"{out}: another process is writing a {what} there; wait for it to end.") from None
        except OSError:  # a file system without locks cannot tell
            pass
        _refuse_finished(out, what)  # by whoever held the lock before us
        yield [path for pattern in patterns for path in sorted(out.glob(pattern))]
        marker.unlink(missing_ok=True)


def _refuse_finished(out: Path, what: str) -> None:
    if (out / MANIFEST).exists():
        (out / UNFINISHED).unlink(missing_ok=True)  # of a process that was killed after its last file
        raise MmclError(f"{out} holds a finished {what}; remove it, or write to another folder.")


def _changed(out: Path, how: str) -> MmclError:
    return MmclError(
        f"{out} holds an unfinished data set of other samples: {how}. Call it with the samples and the limits "
        "(samples and bytes per shard) of the first time, or remove the folder, or write to another."
    )


class _Writer:
    """Writes one shard after the other, or finds it there already."""

    def __init__(self, out: Path, samples_per_shard: int, bytes_per_shard: int) -> None:
        self.out, self.samples_per_shard, self.bytes_per_shard = out, samples_per_shard, bytes_per_shard
        self.shards: list[dict[str, Any]] = []
        self._seen = _Hashes()

    def write_shard(self, samples: Iterator[Encoded]) -> None:
        """Take as many samples as the next shard has room for."""
        path = self.out / f"{len(self.shards):05d}.tar"
        there = path.exists()
        with path.open("rb") if there else replacing(path) as file:
            tar = HashedTar(file, there)
            keys = self._fill(tar, samples, path)
            self._refuse_repeated(keys)
        index = scan(path)
        assert index.keys == keys, f"{path} does not give back what was written"
        assert not index.problems, index.problems
        write_index(path, index)
        self.shards.append(
            {
                "name": path.name,
                "samples": len(keys),
                "bytes": tar.size,
                "sha256": tar.sha256.hexdigest(),
                "digest": index.digest,
            }
        )

    def _fill(self, tar: "HashedTar", samples: Iterator[Encoded], path: Path) -> list[str]:
        starts: dict[str, int] = {}
        with tar.writer() as writer:
            for key, members in samples:
                if key in starts:
                    raise MmclError(f"sample {key!r} comes twice; a key must be the only one of the data set.")
                starts[key] = writer.tarstream.offset
                writer.write({"__key__": key, **members})
                full = len(starts) >= self.samples_per_shard or writer.tarstream.offset >= self.bytes_per_shard
                if full or tar.differs_at is not None:
                    break
        tar.end()
        if tar.differs_at is not None:
            key = list(starts)[max(bisect_right(list(starts.values()), tar.differs_at) - 1, 0)]
            raise _changed(self.out, f"{path.name} differs from what they make, from sample {key!r} on")
        return list(starts)

    def _refuse_repeated(self, keys: list[str]) -> None:
        """Hashes may be equal by chance, so the shards have the last word."""
        for key in self._seen.add(keys):
            for shard in self.shards:
                if key in load_index(self.out / shard["name"]).keys:
                    raise MmclError(
                        f"sample {key!r} comes twice, first in {shard['name']}; a key must be the only one of the data "
                        "set."
                    )


class HashedTar:
    """The file of a shard: a new one, which is written, or one that is there, which is compared."""

    def __init__(self, file: BinaryIO, there: bool = False) -> None:
        self.file, self.there = file, there
        self.sha256, self.size = hashlib.sha256(), 0
        self.differs_at: int | None = None

    def write(self, data: bytes) -> int:
        """Take bytes, and sum them up."""
        if not self.there:
            self.file.write(data)
        elif self.differs_at is None and (have := self.file.read(len(data))) != data:
            pairs = enumerate(zip(have, data, strict=False))
            self.differs_at = self.size + next((i for i, (ours, new) in pairs if ours != new), len(have))
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def writer(self) -> TarWriter:
        """Writes samples: equal ones make equal bytes."""
        # mtime: the current time would give every copy another checksum; PAX: plain ustar, and room for long names
        return TarWriter(cast(BinaryIO, self), encoder=False, mtime=0, format="PAX_FORMAT")

    def end(self) -> None:
        """All has been written."""
        if self.there and self.differs_at is None and self.file.read(1):
            self.differs_at = self.size


class _Hashes:
    """Hashes of all keys, eight bytes each: sorted runs, of which those of like length are merged."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, keys: list[str]) -> list[str]:
        """Add keys, and tell which of them may have been added before."""
        hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
        met = np.zeros(len(keys), bool)
        for run in self._runs:
            met |= run[np.searchsorted(run, hashes).clip(max=len(run) - 1)] == hashes
        new = np.sort(hashes)
        while self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._runs.pop(), new]), kind="stable")
        self._runs.append(new)
        return [keys[i] for i in np.flatnonzero(met)]
