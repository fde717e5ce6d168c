"""Where in a shard the members of its samples lie, so that a sample is one read at an offset."""

import contextlib
import hashlib
import json
import os
import struct
import tarfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import platformdirs
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mmcl.errors import MmclError

FORMAT = 4
SUFFIX = ".index.safetensors"
BLOCK = 512  # of a tar
CACHE = "MMCL_CACHE"  # names the folder for what cannot lie beside the shards
SHAPE = ("names", "name_ends", "first", "extension", "offset", "size")  # what the digest is of
TENSORS = (*SHAPE, "check")
REPEATED = "a second member of this name; the first one is used"
NAMELESS = "{} files without an extension, which nothing reads"
Member = tuple[int, int, int]  # offset, size, checksum of the header before it


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard in the order of the tar, as a few arrays.

    Member ``i`` is ``extensions[extension[i]]``, ``size[i]`` bytes at ``offset[i]``, after a header whose CRC-32 is
    ``check[i]``; sample ``n`` has the members ``first[n]`` to ``first[n + 1]``; its key ends at ``name_ends[n]`` in
    ``names``.
    """

    extensions: list[str]
    problems: list[tuple[str, str]]  # (key, reason) of what cannot be read
    names: np.ndarray
    name_ends: np.ndarray
    first: np.ndarray
    extension: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    check: np.ndarray

    def __len__(self) -> int:
        return len(self.name_ends)

    def key(self, sample: int) -> str:
        """Key of a sample."""
        start = int(self.name_ends[sample - 1]) if sample else 0
        return readable(self.names[start : int(self.name_ends[sample])].tobytes())

    @cached_property
    def keys(self) -> list[str]:
        """Keys of all samples."""
        return [self.key(n) for n in range(len(self))]

    def members(self, sample: int) -> dict[str, Member]:
        """Extension -> (offset, size, checksum of the header) of a sample's members."""
        low, high = int(self.first[sample]), int(self.first[sample + 1])
        kinds = self.extension[low:high].tolist()
        places = (x[low:high].tolist() for x in (self.offset, self.size, self.check))
        return {self.extensions[kind]: place for kind, place in zip(kinds, zip(*places, strict=True), strict=True)}

    @cached_property
    def digest(self) -> str:
        """Changes whenever a key, an offset or a size does; times and places do not matter."""
        digest = hashlib.blake2b(json.dumps(self.extensions).encode(), digest_size=16)
        for name in SHAPE:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()


def load_index(shard: Path, afresh: bool = False) -> ShardIndex:
    """Index of a shard: a stored one that fits, or one pass over the tar, stored for the next time.

    It lies beside the shard, or, where nothing can be written there, in a folder of the user's cache (``MMCL_CACHE``).

    Args:
        shard: a tar.
        afresh: read the tar, whatever is stored.

    Raises:
        MmclError: the file is no tar at all.
    """
    signed = signature(shard)
    for stored in () if afresh else index_paths(shard):
        index = _read(stored, signed)
        if index is not None:
            return index
    index = scan(shard)
    write_index(shard, index)
    return index


def stored_count(shard: Path) -> int | None:
    """Samples of a shard as a stored index that fits says, without loading it."""
    for stored in index_paths(shard):
        header = _header(stored)
        if header is not None and header["tar"] == signature(shard):
            return int(header["samples"])
    return None


def index_paths(shard: Path) -> list[Path]:
    """Where the index of a shard may lie."""
    place = hashlib.blake2b(os.fsencode(shard.resolve()), digest_size=16).hexdigest()
    return [shard.with_name(shard.name + SUFFIX), user_cache() / "indexes" / f"{place}{SUFFIX}"]


def user_cache() -> Path:
    """The folder for what cannot lie beside the shards."""
    return Path(os.environ.get(CACHE) or platformdirs.user_cache_dir("mmcl"))


def write_index(shard: Path, index: ShardIndex) -> None:
    """Store an index beside its shard or in the cache; where neither is allowed, it is made again the next time."""
    header = {
        "format": FORMAT,
        "tar": signature(shard),
        "samples": len(index),
        "digest": index.digest,
        "extensions": index.extensions,
        "problems": index.problems,
    }
    said = json.dumps(header)
    content = save_tensors({name: getattr(index, name) for name in TENSORS}, {"mmcl": f"{_sum(said)} {said}"})
    for path in index_paths(shard):
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, path)
            return
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def signature(shard: Path) -> str:
    """Size, and a hash of the first and the last blocks, where names, sizes and times of members stand.

    What changed between them without changing the size is met when a sample is read whose header is another one.
    """
    size = shard.stat().st_size
    with shard.open("rb", buffering=0) as file:
        head = os.pread(file.fileno(), 8 * BLOCK, 0)
        tail = os.pread(file.fileno(), 64 * BLOCK, max(size - 64 * BLOCK, 0))
    return f"{size}-{hashlib.blake2b(head + tail, digest_size=8).hexdigest()}"


def _header(stored: Path) -> dict | None:
    try:
        with stored.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            checksum, _, said = json.loads(file.read(min(length, 1 << 30)))["__metadata__"]["mmcl"].partition(" ")
            header = json.loads(said)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        struct.error,
        MemoryError,
    ):  # not there, or not whole
        return None
    return header if checksum == _sum(said) and header["format"] == FORMAT else None


def _sum(said: str) -> str:
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _read(stored: Path, signed: str) -> ShardIndex | None:
    header = _header(stored)
    if header is None or header["tar"] != signed:
        return None
    try:
        tensors = load_tensors(stored.read_bytes())
        index = ShardIndex(
            header["extensions"], [(k, r) for k, r in header["problems"]], *(tensors[n] for n in TENSORS)
        )
    except (OSError, SafetensorError, KeyError):
        return None
    return index if index.digest == header["digest"] else None


def readable(key: bytes) -> str:
    """A key as text, whatever bytes stand in the tar."""
    return key.decode("utf-8", "backslashreplace")


class Header(tarfile.TarInfo):
    """A member, with the checksum of the block that says where it is."""

    __slots__ = ("check",)

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        """Read a header's block."""
        header = super().frombuf(buf, encoding, errors)
        header.check = zlib.crc32(buf)
        return header

    def named(self) -> tuple[bytes, str] | None:
        """Key and extension: the path up to the first dot of the file's name, and the rest in lower case.

        None where the member is a folder, or has no such name.
        """
        folder, _, name = self.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if self.isdir() or not stem or not extension:
            return None
        return (f"{folder}/{stem}" if folder else stem).encode("utf-8", "surrogateescape"), extension.lower()

    @property
    def nameless(self) -> bool:
        """Whether this is a file without an extension."""
        return self.isfile() and "." not in self.name.rpartition("/")[2]

    def problem(self) -> str | None:
        """Why its content cannot be read, if so."""
        if self.isreg() and not self.issparse():
            return None
        return "a link or another special member; write files as they are (tar -h, no -S)"


class _Members:
    """Collects the members of a tar by sample."""

    def __init__(self) -> None:
        self.samples: dict[bytes, dict[str, Member]] = {}
        self.problems: list[tuple[str, str]] = []
        self.nameless = 0

    def add(self, member: Header, size: int) -> bool:
        """Take up a member of a shard of ``size`` bytes; False where the shard is cut before its end."""
        named = member.named()
        if named is None:
            self.nameless += member.nameless
            return True
        key, extension = named
        if problem := member.problem():
            self.say(key, f"{extension}: {problem}")
        elif member.offset_data + member.size > size:
            self.say(key, f"{extension}: the shard is cut before the member's end")
            return False
        elif extension in self.samples.setdefault(key, {}):
            self.say(key, f"{extension}: {REPEATED}")
        else:
            self.samples[key][extension] = (member.offset_data, member.size, member.check)
        return True

    def say(self, key: bytes, reason: str) -> None:
        """Note what cannot be read."""
        self.problems.append((readable(key), reason))

    @property
    def last(self) -> bytes:
        """Key of the sample that came last."""
        return next(reversed(self.samples), b"")

    def index(self) -> ShardIndex:
        """What was collected, as arrays."""
        if self.nameless:
            self.say(b"", NAMELESS.format(self.nameless))
        samples = {key: members for key, members in self.samples.items() if members}
        numbers: dict[str, int] = {}
        kinds, offsets, sizes, checks, first = array("I"), array("Q"), array("Q"), array("I"), array("Q", [0])
        for members in samples.values():
            for extension, (offset, size, check) in members.items():
                kinds.append(numbers.setdefault(extension, len(numbers)))
                offsets.append(offset)
                sizes.append(size)
                checks.append(check)
            first.append(len(kinds))
        return ShardIndex(
            extensions=list(numbers),
            problems=self.problems,
            names=np.frombuffer(b"".join(samples), np.uint8),
            name_ends=np.cumsum([len(key) for key in samples], dtype=np.uint64),
            first=np.frombuffer(first, np.uint64),
            extension=np.frombuffer(kinds, np.uint32),
            offset=np.frombuffer(offsets, np.uint64),
            size=np.frombuffer(sizes, np.uint64),
            check=np.frombuffer(checks, np.uint32),
        )


def scan(shard: Path) -> ShardIndex:
    """Index of a tar by one pass over its headers. Tars that were written one after the other are read as one.

    Raises:
        MmclError: the file is no tar at all.
    """
    found = _Members()
    size = shard.stat().st_size
    if not size:
        found.say(b"", "the shard is an empty file; its writing, or its copying, was interrupted")
    with shard.open("rb") as file:
        start = 0
        while start < size:
            try:
                end = _scan_one(file, start, size, found)
                following = None if end is None else _next_archive(file, end)
                if following is not None and following == end:  # tarfile stops there without a word
                    raise tarfile.ReadError("damaged header")
            except (tarfile.TarError, ValueError, OverflowError) as error:
                if not found.samples:
                    raise MmclError(
                        f"{shard}: this is no uncompressed tar ({error}). Shards are plain .tar files."
                    ) from None
                found.say(found.last, f"the shard is cut or damaged; it cannot be read beyond this sample ({error})")
                break
            if end is None:
                break
            if following is None:
                if size - end < 2 * BLOCK:
                    found.say(found.last, "the shard ends without an end mark; samples after this one may be missing")
                break
            found.say(found.last, "the shard goes on after an end mark; it was read on")
            start = following
    if size % BLOCK and not found.problems:
        found.say(found.last, "the shard is no whole number of blocks; samples after this one may be missing")
    return found.index()


def _scan_one(file, start: int, size: int, found: _Members) -> int | None:
    """Take up one archive; where it ends, or None where the shard is cut."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as tar:
        for member in walk(tar):
            if not found.add(member, size):
                return None
        return tar.offset


def walk(tar: tarfile.TarFile) -> Iterator[Header]:
    """The members of a tar, which does not remember them; a header that would be read for ever is an error."""
    before = -1
    while (member := tar.next()) is not None:
        if member.size < 0 or tar.offset <= before:  # it would be read for ever
            raise tarfile.ReadError("damaged header")
        before = tar.offset
        tar.members = []  # type: ignore[attr-defined]  # or it would remember all of them
        yield cast(Header, member)


def _next_archive(file, end: int) -> int | None:
    """Where bytes follow after the zero blocks that end an archive."""
    file.seek(end)
    place = end
    while chunk := file.read(1 << 20):
        if any(chunk):
            nonzero = next(i for i, byte in enumerate(chunk) if byte)
            return place + nonzero // BLOCK * BLOCK
        place += len(chunk)
    return None
