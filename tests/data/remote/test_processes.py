"""Many threads and processes over one cache; kills, stops and forks."""

import hashlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcl.data.remote import ShardCache, failures
from mmcl.errors import MmclError
from tests.data.remote.server import KIB, MIB, Server, content, shards, until, used
from tests.data.remote.worker import Start, fetch_all


def test_many_threads_one_download(server: Server, make: Callable[..., ShardCache]) -> None:
    data = content("a", 256 * KIB)
    url = server.put("/a.tar", data, slow=0.02)
    cache, other = make(), make()
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda c=c: got.append(c.fetch(url).read_bytes())) for c in (cache, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert got == [data] * 8
    assert len(server.gets) == 1


def test_two_processes_share_a_folder_that_holds_only_some_shards(server: Server, root: Path, start: Start) -> None:
    sizes = [(100 + 20 * i) * KIB for i in range(10)]
    urls = [server.put(f"/{i}.tar", content(str(i), size), slow=0.002) for i, size in enumerate(sizes)]
    limit = sum(sizes) // 3
    workers = [start(fetch_all, root, limit, seed, urls) for seed in (10, 20)]
    most = 0
    while any(process.is_alive() for process, _ in workers):
        most = max(most, used(root))
        time.sleep(0.001)
    expected = {url: [hashlib.sha256(content(str(i), sizes[i])).hexdigest()] for i, url in enumerate(urls)}
    assert [result.recv() for _, result in workers] == [expected] * 2
    assert limit // 2 < most <= limit


def test_a_killed_download_is_continued_by_another_process(
    server: Server, make: Callable[..., ShardCache], root: Path, start: Start
) -> None:
    data = content("a", 4 * MIB)
    url = server.put("/a.tar", data, slow=0.02)
    process, _ = start(fetch_all, root, 64 * MIB, 0, [url])
    until(lambda: server.sent["/a.tar"] > MIB)
    waiting = threading.Thread(target=lambda: make().fetch(url))  # it waits for the lock already
    waiting.start()
    process.kill()
    process.join()
    server.pages["/a.tar"].slow = 0.0
    waiting.join(10)
    assert make().fetch(url).read_bytes() == data
    first, second = server.got("/a.tar")
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) > 512 * KIB
    assert not list(root.glob("*.part"))


def test_leftovers_of_killed_processes_make_room(
    server: Server, make: Callable[..., ShardCache], root: Path, start: Start
) -> None:
    url = server.put("/a.tar", content("a", 4 * MIB), slow=0.02)
    process, _ = start(fetch_all, root, 5 * MIB, 0, [url])
    until(lambda: server.sent["/a.tar"] > MIB)
    process.kill()
    process.join()
    assert len(list(root.glob("*.part"))) == 1
    cache = make(limit=5 * MIB)
    small, large = server.put("/b.tar", content("b", MIB)), server.put("/c.tar", content("c", 2 * MIB))
    cache.fetch(small)
    assert len(list(root.glob("*.part"))) == 1  # it may still be wanted
    cache.fetch(large)
    assert not list(root.glob("*.part"))
    assert shards(root) == {"b.tar", "c.tar"}


def test_downloads_of_others_are_waited_for_and_not_removed(
    server: Server, make: Callable[..., ShardCache], root: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "RETRY_AFTER_LIMIT", 0.0)
    slow = server.put("/a.tar", content("a", 4 * MIB), slow=0.02)
    small = server.put("/b.tar", content("b", 2 * MIB))
    process, _ = start(fetch_all, root, 5 * MIB, 0, [slow])
    until(lambda: server.sent["/a.tar"] > MIB)
    got = make(limit=5 * MIB).fetch(small)  # there is no room until the other one has ended
    assert server.sent["/a.tar"] == 4 * MIB
    assert got.read_bytes() == content("b", 2 * MIB)
    process.join()


@pytest.mark.parametrize("what", ["the same shard", "room"])
def test_a_process_that_hangs_is_not_waited_for_for_ever(
    server: Server,
    make: Callable[..., ShardCache],
    root: Path,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    monkeypatch.setattr(failures, "RETRY_AFTER_LIMIT", 0.0)
    slow = server.put("/a.tar", content("a", 4 * MIB), slow=0.02)
    process, _ = start(fetch_all, root, 5 * MIB, 0, [slow])
    until(lambda: server.sent["/a.tar"] > MIB)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        url = slow if what == "the same shard" else server.put("/b.tar", content("b", 2 * MIB))
        with pytest.raises(MmclError, match="has not got further for 0 s"):
            make(limit=5 * MIB, attempts=1, timeout=0.3).fetch(url)
    finally:
        process.kill()
        process.join()


def test_a_fork_goes_on_by_itself(server: Server, make: Callable[..., ShardCache]) -> None:
    urls = [server.put(f"/{i}.tar", content(str(i), 128 * KIB), slow=0.02) for i in range(4)]
    cache = make(parallel=2)
    cache.prefetch(urls[:2])
    until(lambda: len(server.gets) == 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from 3.12 on
        child = os.fork()
    if child == 0:
        try:
            cache.prefetch(urls[2:])
            right = all(cache.fetch(url).read_bytes() == content(str(i), 128 * KIB) for i, url in enumerate(urls))
            os._exit(0 if right else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(server.gets) == 4
