"""Files behind URLs: which there are, what a server says of one, and its bytes."""

import http
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.utils import get_protocol, glob_translate

from mmcl.data.remote.failures import (
    PATIENCE,
    AccessDeniedError,
    MissingFileError,
    Patience,
    TransferError,
    TransientError,
    explained,
    is_http,
    persist,
    redact,
    redact_text,
)
from mmcl.errors import MmclError, did_you_mean

MIB = 1 << 20
PIECE = 8 * MIB  # of a range request
EXTRAS = {"s3": "mmcl[s3]", "s3a": "mmcl[s3]", "gs": "mmcl[gs]", "gcs": "mmcl[gs]"}
VERSION = (
    *("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "updated", "mtime", "created"),
    *("generation", "md5Hash", "Content-MD5", "blob_id"),
)  # what file systems call that which changes with a file's content


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file."""

    url: str
    size: int | None
    """Bytes; None where the server does not say."""
    version: str
    """Changes with the content, as far as the server tells; empty where it does not."""


def is_remote(url: str) -> bool:
    """Whether this names a file that fsspec has to fetch; ``file://``, ``pipe:`` and ``-`` do not.

    >>> is_remote("s3://bucket/000.tar"), is_remote("/data/000.tar"), is_remote("pipe:cat https://host/000.tar")
    (True, False, False)
    """
    found = re.match(r"([A-Za-z][\w+.-]+)(::|://)", url)
    return found is not None and found[1].lower() not in ("file", "local", "pipe")


def list_remote(pattern: str, patience: Patience = PATIENCE) -> list[str]:
    """Shards that a URL names: one (``.tar``), those that match a glob, or all tars below a folder.

    One shard is not asked for: whether it is there is seen when it is fetched, so that ten thousand of them cost no
    ten thousand requests.

    Args:
        pattern: URL; braces are expanded already.
        patience: how long failures are borne.

    Returns:
        Sorted URLs, with protocol.

    Raises:
        MmclError: nothing matches, the server cannot be reached, or a package is missing.
    """
    system, path = locate(pattern)
    plain, _, query = pattern.partition("://")[2].partition("/")[2].partition("?")
    http = is_http(pattern)
    magic = bool(re.search(r"[*\[]", plain)) or (bool(query) and not http)  # in http a ? begins the query
    if not magic and (plain.endswith(".tar") or (http and query)):
        return [pattern]
    start = re.match(r"[^*?\[]*/", path) if magic else None
    folder = start[0] if start else path.rstrip("/") + "/"
    fits = re.compile(glob_translate(path) if magic else r".*\.tar")
    depth = path[len(folder) :].count("/") + 1 if magic and "**" not in path else sys.maxsize

    def attempt() -> list[str]:
        with explained(pattern, patience.timeout):
            names = below(system, folder, depth, patience.timeout)
            return sorted(system.unstrip_protocol(name) for name in names if fits.fullmatch(name))

    urls = persist(attempt, pattern, patience)
    if not urls:
        what = "no files match this pattern" if magic else "there are no .tar files below this folder"
        raise MmclError(f"{redact(pattern)}: {what}. {MissingFileError.advice}")
    return urls


def below(system: Any, folder: str, depth: int = sys.maxsize, timeout: float = 60) -> Iterator[str]:
    """Files below a folder, so many levels deep.

    fsspec's own ``find`` and ``glob`` leave out sub-folders that cannot be listed, without a word.
    """
    folders, seen = [(folder, 1)], {folder.rstrip("/")}
    while folders:
        folder, level = folders.pop()
        for info in call(system, "ls", folder, detail=True, timeout=timeout):
            name = info["name"].rstrip("/")
            if info["type"] != "directory":
                yield info["name"]
            elif level < depth and name not in seen and not name.endswith(("/.", "/..")):
                seen.add(name)
                folders.append((info["name"], level + 1))


def read_remote(url: str, limit: int = 64 * MIB, patience: Patience = PATIENCE) -> bytes | None:
    """A small file, such as ``manifest.json``.

    Args:
        url: of the file.
        limit: bytes.
        patience: how long failures are borne.

    Returns:
        Its bytes; None if it is not there. Many stores answer "denied" (401, 403) where a file is missing and the user
        may not list the folder, so that counts as missing; shards that one may not read say so themselves.

    Raises:
        MmclError: it cannot be read, or is larger than the limit.
    """

    def attempt() -> bytes | None:
        try:
            file = look(url, patience.timeout)
            if (file.size or 0) > limit:
                raise TransferError(f"it has {file.size:,} bytes, of which at most {limit:,} are read")
            data = bytearray()
            for position, chunk in chunks(file, 0, patience.timeout):
                if position + len(chunk) > limit:
                    raise TransferError(f"it has more than the {limit:,} bytes that are read")
                data += chunk
        except (MissingFileError, AccessDeniedError):
            return None
        if file.size is not None and len(data) != file.size:
            raise TransientError(f"{len(data):,} of {file.size:,} bytes came")
        return bytes(data)

    return persist(attempt, url, patience)


def locate(url: str) -> tuple[Any, str]:
    """File system of a URL, and the path in it.

    Raises:
        MmclError: fsspec does not know the protocol, or the package that reads it is not installed.
    """
    protocol = get_protocol(url)
    if "::" in url.partition("://")[0]:
        raise MmclError(
            f"{redact(url)}: chained URLs (::) are not read; mmcl keeps a cache itself. Give the plain URL."
        )
    try:
        options = fsspec.get_filesystem_class(protocol)._get_kwargs_from_urls(url)
        system = _filesystem(os.getpid(), protocol, tuple(sorted(options.items())))
    except ImportError as error:
        package = EXTRAS.get(protocol)
        todo = f"Run `pip install '{package}'`." if package else f"{error}."
        raise MmclError(f"{redact(url)}: the package that reads {protocol}:// is not installed. {todo}") from None
    except ValueError as error:
        near = did_you_mean(protocol, fsspec.available_protocols())
        raise MmclError(f"{redact(url)}: {redact_text(str(error), url)}{near} Correct the URL.") from None
    return system, system._strip_protocol(url)


@lru_cache(maxsize=64)
def _filesystem(_pid: int, protocol: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """One a process: fsspec makes one for every thread, whose connections nothing would close.

    Listings are not kept, since they would answer for files that have changed.
    """
    return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **dict(options))


def call(system: Any, method: str, *args: Any, timeout: float, **kwargs: Any) -> Any:
    """A method of a file system, for at most so many seconds.

    Raises:
        TimeoutError: it took longer.
    """
    function = getattr(system, method)
    if system.async_impl:
        return function(*args, timeout=timeout, **kwargs)
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="mmcl-remote-call").start()  # blocking code cannot be interrupted
    return future.result(timeout)


def look(url: str, timeout: float) -> RemoteFile:
    """What the server says of a file now.

    Raises:
        TransferError: it is not there, or cannot be asked.
    """
    system, path = locate(url)
    with explained(url, timeout):
        info = call(system, "info", path, timeout=timeout)
    if info.get("type") == "directory":
        raise TransferError("this is a folder, not a file")
    return RemoteFile(url, info.get("size"), "|".join(f"{key}={info[key]}" for key in VERSION if info.get(key)))


def chunks(file: RemoteFile, start: int, timeout: float) -> Iterator[tuple[int, bytes]]:
    """(position, bytes) from a position on; from 0 where the server cannot start elsewhere.

    Args:
        file: what to read.
        start: first byte.
        timeout: seconds without a byte.

    Raises:
        TransferError: it broke off.
    """
    if file.size == start:
        return
    with explained(file.url, timeout):
        yield from _streamed(file, start, timeout) if is_http(file.url) else _ranges(file, start, timeout)


def _streamed(file: RemoteFile, start: int, timeout: float) -> Iterator[tuple[int, bytes]]:
    """One request, read as it arrives."""
    import aiohttp

    system, path = locate(file.url)
    headers = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
    # block_size 0 is fsspec's word for streaming, and without a size it would ask the server again
    stream = system.open(path, block_size=0, size=file.size or 1, headers=headers, timeout=limits)
    try:
        position = start if stream.r.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        while data := stream.read(MIB):
            yield position, data
            position += len(data)
    finally:
        stream.close()


def _ranges(file: RemoteFile, start: int, timeout: float) -> Iterator[tuple[int, bytes]]:
    """Request after request: what the APIs of object stores have in common."""
    system, path = locate(file.url)
    if file.size is None:
        yield 0, call(system, "cat_file", path, timeout=timeout)
        return
    while start < file.size:
        end = min(start + PIECE, file.size)
        data = call(system, "cat_file", path, start=start, end=end, timeout=timeout)
        if not data:
            return
        if len(data) > end - start:
            raise TransferError("the server does not give the ranges that it is asked for")
        yield start, data
        start += len(data)
