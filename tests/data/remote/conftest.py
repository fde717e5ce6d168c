"""A faulty server and a cache, for the tests of remote shards."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmcl.data.remote import ShardCache
from tests.data.remote.server import MIB, Server, serving
from tests.data.remote.worker import Start, starter


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ShardCache]]:
    made: list[ShardCache] = []

    def cache(limit: int = 64 * MIB, attempts: int = 3, timeout: float = 10.0, parallel: int = 4) -> ShardCache:
        made.append(ShardCache(tmp_path / "cache", limit, attempts, timeout, parallel, backoff=0.01))
        return made[-1]

    yield cache
    for each in made:
        each.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def start() -> Start:
    """Starts a function in a process of its own."""
    return starter()
