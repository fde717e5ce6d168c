"""Which shards a pattern names, and what is said about them before they are opened."""

import contextlib
import itertools
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]
from webdataset.shardlists import expand_urls

from mmcl.data.remote import is_http, is_remote, list_remote, read_remote, redact, redact_text
from mmcl.errors import MissingDataError, MmclError

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"  # marks a folder that is being written
RANGE = r"(\{\d+\.\.\d+(?:\.\.\d+)?\})"
UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
)  # what a file of another form than ours ends in


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
        return shown(self.url)

    @property
    def name(self) -> str:
        """Name of the file."""
        return _split(self.url)[1]


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
        raise MissingDataError(f"{where}: no shards match {str(said)!r} (in {Path.cwd()}). {advice}")
    missing = [url for url in urls if not (is_remote(url) or is_stream(url) or os.path.isfile(url))]
    if missing:
        names = ", ".join(map(shown, missing[:3])) + (", ..." if len(missing) > 3 else "")
        kind = MissingDataError if len(missing) == len(urls) else MmclError
        raise kind(
            f"{where}: {len(missing)} of {len(urls)} shards of {str(said)!r} are missing: {names} (looked for from "
            f"{Path.cwd()}). {advice}"
        )
    places = Counter(url if is_remote(url) else os.path.abspath(url) for url in urls if not is_stream(url))
    repeated = next((place for place, count in places.items() if count > 1), None)
    if repeated is not None:
        raise MmclError(
            f"{where}: {shown(repeated)} is named twice. Every sample is seen once an epoch; what is to be seen more "
            "often is a source of its own with a greater `weight`."
        )
    folder = lru_cache(maxsize=None)(Folder)  # described once, however many shards it has
    return [Listed(url) if is_pipe(url) else folder(_split(url)[0]).describe(url) for url in urls]


def indexed(listed: list[Listed]) -> list[Listed]:
    """The same shards.

    Raises:
        MmclError: one of them is a pipe.
    """
    for shard in listed:
        if is_pipe(shard.url):
            raise MmclError(
                f"{shard.shown}: a pipe or a compressed tar has no index, which this needs; give .tar files."
            )
    return listed


def shown(url: str) -> str:
    """A path, a URL or a pipe as messages may say it."""
    if is_stream(url):
        return redact_text(url, "")
    return redact(url) if is_remote(url) else url


def _split(url: str) -> tuple[str, str]:
    """Folder and name of a file; what a URL asks of the server (after ?) is part of neither."""
    folder, _, name = (url.partition("?")[0] if is_http(url) else url).rpartition("/")
    return folder, name


def is_pipe(url: str) -> bool:
    """Whether a shard can only be read from its beginning to its end."""
    return is_stream(url) or bool(re.search(r"\.(tar\.\w+|tgz)$", _split(url)[1]))


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
        if UNFINISHED in self._names and MANIFEST not in self._names:
            raise MmclError(
                f"{path or '.'} is not finished: it is being written, or its writing was interrupted. Wait for it, or "
                "call what writes it again; it goes on from there."
            )
        self._described: dict[str, Listed] = {}
        for name, read in DESCRIPTIONS.items():
            content = self._json(name)
            with contextlib.suppress(*UNREADABLE):
                self._described = {listed.name: listed for listed in read(content, f"{path}/{name}")}
            if self._described:
                break

    def describe(self, url: str) -> Listed:
        """What is said about one shard."""
        found = self._described.get(_split(url)[1])
        if found is not None:
            return Listed(url, found.samples, found.digest, found.sha256, found.said_by)

        def read(path: str) -> bytes | None:
            with contextlib.suppress(OSError):
                return Path(path).read_bytes() if path.rpartition("/")[2] in self._names else None
            return None

        return Listed(url) if self.remote else described_beside(Listed(url), read)

    def _json(self, name: str) -> Any:
        if self.remote:  # where some servers answer with a page of theirs for what is not there
            with contextlib.suppress(ValueError):
                return json.loads(read_remote(f"{self.path}/{name}") or b"null")
            return None
        path = Path(self.path, name)
        if name not in self._names or not path.is_file():
            return None
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            if name != MANIFEST:  # counts can be had from the shards as well, checksums cannot
                return None
            raise MmclError(f"{path}: this is not JSON ({error}). Restore it, or remove it.") from None


def described_beside(listed: Listed, read: Callable[[str], bytes | None]) -> Listed:
    """What a file beside a shard says of it, if there is one.

    Args:
        listed: the shard.
        read: content of a file, if it is there.
    """
    folder, name = _split(listed.url)
    for suffix, count in (("_stats.json", _img2dataset), (".tar.idx", _energon), (".idx", _dali)):
        path = os.path.join(folder, name.removesuffix(".tar") + suffix)
        if (content := read(path)) is not None:
            with contextlib.suppress(*UNREADABLE):
                return Listed(listed.url, count(content), said_by=path)
    return listed


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


def _energon(content: bytes) -> int:
    offsets = struct.unpack(f"<{len(content) // 8}Q", content)  # of the samples, and of the end
    if offsets[0] != 0 or any(a >= b for a, b in itertools.pairwise(offsets)):
        raise ValueError("these are no offsets")
    return len(offsets) - 1


def _dali(content: bytes) -> int:
    return int(content.partition(b"\n")[0].split()[1])  # v1.2 N


def _img2dataset(content: bytes) -> int:
    return int(json.loads(content)["successes"])


DESCRIPTIONS: dict[str, Callable[[Any, str], list[Listed]]] = {
    MANIFEST: _manifest,
    "sizes.json": _sizes,
    "wids.json": _wids,
    "index.json": _wids,
}


def _braces(pattern: str) -> list[str]:
    if pattern.startswith("pipe:"):  # whose other braces are the command's
        parts = [list(braceexpand(p)) if re.fullmatch(RANGE, p) else [p] for p in re.split(RANGE, pattern)]
        return ["".join(one) for one in itertools.product(*parts)]
    try:
        return expand_urls(os.path.expandvars(os.path.expanduser(pattern)))
    except UnbalancedBracesError:
        raise MmclError(f"{shown(pattern)}: its braces are not balanced; ranges are written {{000..051}}.") from None


def _expand_one(url: str) -> list[str]:
    if is_stream(url):
        return [url]
    if is_remote(url):
        path = urlsplit(url).path
        if not has_magic(path) and (path.endswith(".tar") or is_pipe(url)):
            return [url]
        folder = url.rstrip("/")
        named = [] if has_magic(url) else _numbered(folder, _remote_text) or _listed(folder, _remote_text)
        return named or _shards_of(list_remote(url))
    url = url.removeprefix("file://")
    if os.path.isdir(url):
        return _numbered(url.rstrip("/"), _local_text) or _below(url.rstrip("/"))
    if os.path.exists(url) or not has_magic(url):
        return [url]
    return _shards_of(sorted(glob(url)))


def _shards_of(found: list[str]) -> list[str]:
    """What a glob is meant to find, where other files lie beside shards; all of it, where no name says what it is."""
    return [url for url in found if is_pipe(url) or _split(url)[1].endswith(".tar")] or found


def _below(folder: str) -> list[str]:
    """The shards below a folder; all that its manifest names, and no others."""
    found = sorted(map(str, Path(folder).rglob("*.tar")))
    named = _listed(folder, _local_text)
    names = {os.path.normpath(url) for url in named}
    beyond = [url for url in found if os.path.normpath(url) not in names]
    if named and beyond:
        raise MmclError(
            f"{folder}/{MANIFEST} does not name {beyond[0]}, which lies there as well ({len(beyond)} such shards). "
            "Remove the manifest and describe the folder again (mmcl data index --sha256), or name the shards that are "
            "meant."
        )
    return named or found


def _numbered(folder: str, text: Callable[[str], str | None]) -> list[str]:
    """The shards of a folder of CLIP_benchmark's layout."""
    count = text(f"{folder}/nshards.txt")
    return [f"{folder}/{n}.tar" for n in range(int(count))] if count is not None and count.strip().isdigit() else []


def _listed(folder: str, text: Callable[[str], str | None]) -> list[str]:
    """The shards that a folder's manifest names; not every server can be asked what a folder holds."""
    with contextlib.suppress(*UNREADABLE):
        manifest = json.loads(text(f"{folder}/{MANIFEST}") or "")
        below = [url for name in manifest.get("folders", []) for url in _listed(f"{folder}/{name}", text)]
        return [*(f"{folder}/{shard['name']}" for shard in manifest["shards"]), *below]
    return []


def _local_text(path: str) -> str | None:
    return Path(path).read_text(encoding="utf-8", errors="replace") if os.path.isfile(path) else None


def _remote_text(url: str) -> str | None:
    content = read_remote(url)
    return None if content is None else content.decode("utf-8", "replace")
