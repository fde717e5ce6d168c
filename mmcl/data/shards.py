"""Which files a pattern names, and where in each the members of a sample lie."""

import contextlib
import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path

from webdataset.shardlists import expand_urls

from mmcl.errors import MmclError

Members = dict[str, tuple[int, int]]  # extension -> (offset, size) in the shard
FORMAT = 2  # of the index files
BLOCK = 512  # of a tar


def expand(patterns: str | Path | Sequence[str | Path]) -> list[Path]:
    """Files that patterns name: braces (``{000..051}``), globs, and folders (all tars below them).

    Args:
        patterns: one or several; ``~`` and environment variables are expanded.
    """
    listed = [patterns] if isinstance(patterns, str | Path) else patterns
    paths: list[Path] = []
    for pattern in listed:
        for url in expand_urls(os.path.expandvars(os.path.expanduser(str(pattern)))):
            if Path(url).is_dir():
                paths += sorted(Path(url).rglob("*.tar"))
            else:
                paths += [Path(p) for p in sorted(glob(url))] if has_magic(url) else [Path(url)]
    return paths


def find_shards(patterns: str | Path | Sequence[str | Path], where: str = "data") -> list[Path]:
    """The shards that patterns name; every one of them is there.

    Args:
        patterns: see `expand`.
        where: what asks for them, for the message.

    Raises:
        MmclError: nothing matches, or a file is missing.
    """
    paths = expand(patterns)
    said = patterns if isinstance(patterns, str | Path) else ", ".join(map(str, patterns))
    missing = [path for path in paths if not path.is_file()]
    advice = "Build them first (`mmcl data list` shows the data sets that mmcl can build), or correct the pattern."
    if not paths:
        raise MmclError(f"{where}: no shards match {str(said)!r} (in {Path.cwd()}). {advice}")
    if missing:
        names = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise MmclError(
            f"{where}: {len(missing)} of {len(paths)} shards of {str(said)!r} are missing: {names}. {advice}"
        )
    return paths


@dataclass(frozen=True)
class ShardIndex:
    """Where the members of a shard's samples lie, so that a member is one read at an offset."""

    path: Path
    samples: dict[str, Members]  # key -> members, in the order of the tar
    problems: list[tuple[str, str]]  # (key, reason) of what cannot be read

    @cached_property
    def keys(self) -> list[str]:
        """Keys of the samples, in the order of the tar."""
        return list(self.samples)

    @cached_property
    def digest(self) -> str:
        """Changes whenever a key, an offset or a size does; times and places do not matter."""
        return hashlib.blake2b(json.dumps(self.samples).encode(), digest_size=16).hexdigest()

    def read(self, key: str, extension: str) -> bytes:
        """Bytes of one member."""
        offset, size = self.samples[key][extension]
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"{self.path}: {key}.{extension}: {len(data)} of {size} bytes; the file was cut.")
        return data


def index_path(shard: Path) -> Path:
    """Where the index of a shard lies."""
    return shard.with_name(f"{shard.name}.index.json")


def load_index(shard: Path) -> ShardIndex:
    """Index of a shard: the one beside it, or one sequential pass whose result is left beside it where that is allowed.

    Raises:
        MmclError: the file is no tar at all.
    """
    beside = index_path(shard)
    stat = shard.stat()
    if beside.is_file() and beside.stat().st_mtime_ns >= stat.st_mtime_ns:
        try:
            stored = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError:
            stored = None
        if isinstance(stored, dict) and stored.get("format") == FORMAT and stored.get("tar") == signature(shard):
            samples = {k: {e: (o, s) for e, (o, s) in m.items()} for k, m in stored["samples"].items()}
            return ShardIndex(shard, samples, [(key, reason) for key, reason in stored["problems"]])
    index = scan(shard)
    write_index(index)
    return index


def signature(shard: Path) -> str:
    """Size, and a hash of the first and the last blocks, where names, sizes and times of members stand."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        head = file.read(8 * BLOCK)
        file.seek(max(size - 64 * BLOCK, 0))
        tail = file.read()
    return f"{size}-{hashlib.blake2b(head + tail, digest_size=8).hexdigest()}"


def scan(shard: Path) -> ShardIndex:
    """Index of a tar by one pass over its headers.

    A key is the path up to the first dot of the file's name, its extension the rest in lower case, as in webdataset.
    """
    samples: dict[str, Members] = {}
    problems: list[tuple[str, str]] = []
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not member.isreg() or not extension or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if member.offset_data + member.size > size:
                    problems.append((key, f"{extension}: the shard is cut before the member's end"))
                    break
                if extension.lower() in samples.setdefault(key, {}):
                    problems.append((key, f"{extension}: a second member of this name; the first one is used"))
                else:
                    samples[key][extension.lower()] = (member.offset_data, member.size)
            problems += _beyond(shard, tar.offset, samples) if not problems else []
    except tarfile.ReadError as error:
        if not samples:
            raise MmclError(f"{shard}: this is no uncompressed tar ({error}). Shards are plain .tar files.") from None
        problems.append((next(reversed(samples)), f"the shard cannot be read beyond this sample ({error})"))
    return ShardIndex(shard, samples, problems)


def _beyond(shard: Path, end: int, samples: dict[str, Members]) -> list[tuple[str, str]]:
    """A tar ends with zero blocks; where it does not, tarfile has stopped without a word."""
    with shard.open("rb") as file:
        file.seek(end)
        rest = file.read(2 * BLOCK)
        while not any(rest) and (more := file.read(1 << 20)):
            rest = more if any(more) else rest
    if len(rest) >= 2 * BLOCK and not any(rest):
        return []
    last = next(reversed(samples), "")
    return [(last, "the shard is cut, damaged or goes on after its end; nothing beyond this sample was read")]


def write_index(index: ShardIndex) -> None:
    """Leave an index beside its shard; where that is not allowed, it is made again the next time."""
    content = {"format": FORMAT, "tar": signature(index.path), "problems": index.problems, "samples": index.samples}
    final = index_path(index.path)
    partial = final.with_name(f"{final.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(content, separators=(",", ":")))
        os.replace(partial, final)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
