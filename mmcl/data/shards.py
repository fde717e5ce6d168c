"""Which shards a pattern names, and what is said about them before they are opened."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from webdataset.shardlists import expand_urls

from mmcl.data.remote import is_remote, list_remote, read_remote, redact
from mmcl.errors import MmclError

MANIFEST = "manifest.json"
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)  # what a file of another form than ours ends in


@dataclass(frozen=True)
class Listed:
    """A shard that a pattern names, and what a description of its folder says of it."""

    url: str
    samples: int | None = None
    digest: str | None = None  # of its index
    sha256: str | None = None
    said_by: str = ""  # the file that says so

    @property
    def shown(self) -> str:
        """Where it lies, as messages, lists of bad samples and runs may say it: a signature is a secret."""
        return redact(self.url) if is_remote(self.url) else self.url

    @property
    def name(self) -> str:
        """Name of the file."""
        return PurePosixPath(self.url).name


def expand(patterns: str | Path | Sequence[str | Path]) -> list[str]:
    """Shards that patterns name: braces (``{000..051}``), globs, folders (all tars below them), URLs of each.

    A folder of CLIP_benchmark's layout is read as its ``nshards.txt`` says.

    Args:
        patterns: one or several; ``~`` and environment variables are expanded.
    """
    listed = [patterns] if isinstance(patterns, str | Path) else patterns
    return [url for pattern in listed for one in _braces(str(pattern)) for url in _expand_one(one)]


def find_shards(patterns: str | Path | Sequence[str | Path], where: str = "data") -> list[Listed]:
    """The shards that patterns name, with their descriptions; every local one is there.

    Counts come from a ``manifest.json`` (ours), or from what other tools leave: open_clip's ``sizes.json``, wids'
    JSON, img2dataset's ``*_stats.json``, Energon's ``.tar.idx``, DALI's ``.idx``.

    Args:
        patterns: see `expand`.
        where: what asks for them, for the message.

    Raises:
        MmclError: nothing matches, or a file is missing.
    """
    urls = expand(patterns)
    said = patterns if isinstance(patterns, str | Path) else ", ".join(map(str, patterns))
    advice = "Build them first (`mmcl data list` shows the data sets that mmcl can build), or correct the pattern."
    if not urls:
        raise MmclError(f"{where}: no shards match {str(said)!r} (in {Path.cwd()}). {advice}")
    missing = [url for url in urls if not (is_remote(url) or is_stream(url) or os.path.isfile(url))]
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise MmclError(
            f"{where}: {len(missing)} of {len(urls)} shards of {str(said)!r} are missing: {names}. {advice}"
        )
    folder = lru_cache(maxsize=None)(Folder)  # described once, however many shards it has
    return [Listed(url) if is_pipe(url) else folder(url.rpartition("/")[0]).describe(url) for url in urls]


def is_pipe(url: str) -> bool:
    """Whether a shard can only be read from its beginning to its end."""
    return is_stream(url) or bool(re.search(r"\.(tar\.\w+|tgz)$", url))


def is_stream(url: str) -> bool:
    """Whether a shard is what a command or standard input gives."""
    return url == "-" or url.startswith("pipe:")


class Folder:
    """What the files of one folder say about the shards in it.

    Args:
        path: a folder or the URL of one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.remote = is_remote(f"{path}/")
        self._names = frozenset() if self.remote else frozenset(_names(path or "."))
        self._described: dict[str, Listed] = {}
        for name, read in DESCRIPTIONS.items():
            content = self._json(name)
            with contextlib.suppress(*UNREADABLE):
                self._described = {listed.name: listed for listed in read(content, f"{path}/{name}")}
            if self._described:
                break

    def describe(self, url: str) -> Listed:
        """What is said about one shard."""
        name = PurePosixPath(url).name
        found = self._described.get(name)
        if found is not None:
            return Listed(url, found.samples, found.digest, found.sha256, found.said_by)
        for suffix, count in ((".tar.idx", _energon), (".idx", _dali), ("_stats.json", _img2dataset)):
            beside = name.removesuffix(".tar") + suffix
            if beside in self._names:
                path = os.path.join(self.path, beside)
                with contextlib.suppress(OSError, *UNREADABLE):
                    return Listed(url, count(Path(path)), said_by=path)
        return Listed(url)

    def _json(self, name: str) -> Any:
        if not self.remote and name not in self._names:
            return None
        content = read_remote(f"{self.path}/{name}") if self.remote else Path(self.path, name).read_bytes()
        with contextlib.suppress(ValueError):
            return None if content is None else json.loads(content)
        return None


def _names(folder: str) -> Iterable[str]:
    with contextlib.suppress(OSError):
        return [entry.name for entry in os.scandir(folder)]
    return []


def _manifest(content: Any, path: str) -> list[Listed]:
    return [Listed(s["name"], s["samples"], s.get("digest"), s.get("sha256"), path) for s in content["shards"]]


def _sizes(content: Any, path: str) -> list[Listed]:
    return [Listed(name, int(count), said_by=path) for name, count in content.items() if name.endswith(".tar")]


def _wids(content: Any, path: str) -> list[Listed]:
    return [Listed(s["url"], int(s["nsamples"]), said_by=path) for s in content.get("shardlist", [])]


def _energon(path: Path) -> int:
    return path.stat().st_size // 8 - 1  # little-endian offsets of the samples, and of the end


def _dali(path: Path) -> int:
    with path.open(encoding="utf-8") as file:
        return int(file.readline().split()[1])  # v1.2 N


def _img2dataset(path: Path) -> int:
    return int(json.loads(path.read_text(encoding="utf-8"))["successes"])


DESCRIPTIONS: dict[str, Callable[[Any, str], list[Listed]]] = {
    MANIFEST: _manifest,
    "sizes.json": _sizes,
    "wids.json": _wids,
    "index.json": _wids,
}


def _braces(pattern: str) -> list[str]:
    return [pattern] if pattern.startswith("pipe:") else expand_urls(os.path.expandvars(os.path.expanduser(pattern)))


def _expand_one(url: str) -> list[str]:
    if is_pipe(url):
        return [url]
    if is_remote(url):
        if urlsplit(url).path.endswith(".tar") and not has_magic(urlsplit(url).path):
            return [url]
        folder = url.rstrip("/")
        return ([] if has_magic(url) else _numbered(folder, _remote_text) or _listed(folder)) or list_remote(url)
    url = url.removeprefix("file://")
    if os.path.isdir(url):
        return _numbered(url.rstrip("/"), _local_text) or sorted(map(str, Path(url).rglob("*.tar")))
    return sorted(glob(url)) if has_magic(url) and not os.path.exists(url) else [url]


def _numbered(folder: str, text: Callable[[str], str | None]) -> list[str]:
    """The shards of a folder of CLIP_benchmark's layout."""
    count = text(f"{folder}/nshards.txt")
    return [f"{folder}/{n}.tar" for n in range(int(count))] if count is not None and count.strip().isdigit() else []


def _listed(folder: str) -> list[str]:
    """The shards that a remote folder's manifest names; not every server can be asked what a folder holds."""
    with contextlib.suppress(*UNREADABLE):
        return [
            f"{folder}/{shard['name']}" for shard in json.loads(_remote_text(f"{folder}/{MANIFEST}") or "")["shards"]
        ]
    return []


def _local_text(path: str) -> str | None:
    return Path(path).read_text(encoding="utf-8") if os.path.isfile(path) else None


def _remote_text(url: str) -> str | None:
    content = read_remote(url)
    return None if content is None else content.decode("utf-8", "replace")
