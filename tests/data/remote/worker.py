"""What the tests do in processes of their own; a fork server imports torch for all of them once."""

import hashlib
import multiprocessing
import random
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmcl.data.remote import ShardCache, read_remote
from mmcl.errors import MmclError
from tests.data.remote.server import KIB

Start = Callable[..., tuple[Any, Any]]


def starter() -> Start:
    """A function that starts one of these functions, and gives the process and where its result comes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pytest"])

    def start(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(there, function, *args), daemon=True)
        process.start()
        there.close()
        return process, here

    return start


def _run(result: Connection, function: Callable[..., Any], *args: Any) -> None:
    try:
        result.send(function(*args))
    except MmclError as error:
        result.send(str(error))


def fetch_all(folder: Path, limit: int, seed: int, urls: list[str]) -> dict[str, list[str]]:
    """Checksums that were seen of each shard, in three rounds of different order."""
    seen: dict[str, set[str]] = {}
    with ShardCache(folder, limit, timeout=10, parallel=2, backoff=0.05) as cache:
        for turn in range(3):
            random.Random(seed + turn).shuffle(urls)
            cache.prefetch(urls[:4])
            for url in urls:
                seen.setdefault(url, set()).add(hashlib.sha256(_read(cache, url)).hexdigest())
    return {url: sorted(found) for url, found in seen.items()}


def _read(cache: ShardCache, url: str) -> bytes:
    while True:
        try:
            return cache.fetch(url).read_bytes()
        except FileNotFoundError:  # evicted by another process before it was opened
            continue


def fetch_on_a_full_disk(folder: Path, url: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * KIB, 100 * KIB))
    ShardCache(folder, 1024 * KIB).fetch(url)


def read_without_s3fs() -> None:
    sys.modules["s3fs"] = None  # type: ignore[assignment]
    read_remote("s3://b/a.json")
