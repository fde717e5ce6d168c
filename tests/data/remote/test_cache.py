"""What is in the cache, and what is fetched ahead of use."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcl.data.remote import ShardCache
from mmcl.data.remote.folder import hashed
from mmcl.errors import MmclError
from tests.data.remote.server import KIB, MIB, Server, content, shards, until, used
from tests.data.remote.worker import Start, fetch_on_a_full_disk


def test_a_changed_shard_is_not_served_stale_in_the_next_run(server: Server, make: Callable[..., ShardCache]) -> None:
    url = server.put("/a.tar", b"old")
    first = make()
    assert first.fetch(url).read_bytes() == b"old"
    server.put("/a.tar", b"new")  # same length
    assert first.fetch(url).read_bytes() == b"old"
    assert make().fetch(url).read_bytes() == b"new"
    first.fetch(url).unlink()
    with pytest.raises(MmclError, match="a.tar: it has changed on the server since this run first read it"):
        first.fetch(url)


def test_a_shard_that_changes_while_it_is_downloaded_is_not_mixed(
    server: Server, make: Callable[..., ShardCache]
) -> None:
    old, new = content("old", 640 * KIB), content("new", 640 * KIB)
    url = server.put("/a.tar", old, slow=0.03)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(make().fetch(url).read_bytes()))
    reader.start()
    until(lambda: server.sent["/a.tar"] > 0)
    server.put("/a.tar", new)
    reader.join(10)
    assert got == [new]


def test_a_file_that_was_cut_or_removed_is_fetched_again(server: Server, make: Callable[..., ShardCache]) -> None:
    url = server.put("/a.tar", b"abcdef")
    cache = make()
    os.truncate(cache.fetch(url), 3)
    assert cache.fetch(url).read_bytes() == b"abcdef"
    cache.fetch(url).unlink()
    assert cache.fetch(url).read_bytes() == b"abcdef"


def test_equal_names_of_different_folders_and_odd_names(server: Server, make: Callable[..., ShardCache]) -> None:
    names = ["/a/0.tar", "/b/0.tar", "/c/%C3%BC%20%2F.tar", f"/{'n' * 240}.tar", "/.tar"]
    cache = make()
    for name in names:
        assert cache.fetch(server.put(name, name.encode())).read_bytes() == name.encode()


def test_the_least_recently_used_shards_go_first(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    a, b, c, d = (server.put(f"/{name}.tar", content(name, 100 * KIB)) for name in "abcd")
    cache = make(limit=300 * KIB + 100)
    for url in (a, b, c):
        path = cache.fetch(url)
    path.with_name(f"{path.name}.index.safetensors").write_bytes(b"x" * 50)
    before = cache.fetch(a).stat().st_mtime_ns
    assert cache.fetch(a).stat().st_mtime_ns == before  # indexes are compared with it
    cache.fetch(d)
    assert shards(root) == {"a.tar", "c.tar", "d.tar"}
    path.with_name(f"{path.name}.index.safetensors").write_bytes(b"x" * 101)
    assert os.path.exists(cache.fetch(a))
    cache.fetch(b)  # the side file of c counts
    assert shards(root) == {"a.tar", "b.tar", "d.tar"}
    assert not list(root.glob("*.index.safetensors"))
    assert used(root) <= 300 * KIB + 100


def test_what_is_being_read_can_be_evicted(server: Server, make: Callable[..., ShardCache]) -> None:
    urls = [server.put(f"/{i}.tar", content(str(i), 100 * KIB)) for i in range(2)]
    cache = make(limit=100 * KIB)
    with open(cache.fetch(urls[0]), "rb") as file:
        cache.fetch(urls[1])
        assert file.read() == content("0", 100 * KIB)


def test_a_shard_larger_than_the_cache_is_refused(server: Server, make: Callable[..., ShardCache]) -> None:
    url = server.put("/a.tar", content("a", 100 * KIB))
    with pytest.raises(MmclError, match=r"a.tar: it has 102,400 bytes, more than the whole cache .* \(1,000\)"):
        make(limit=1000).fetch(url)
    assert not server.gets


def test_files_of_others_are_left_alone(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    root.mkdir()
    (root / "mine.tar").write_bytes(b"x" * 1000)
    cache = make(limit=100)
    for i in range(3):
        cache.fetch(server.put(f"/{i}.tar", b"y" * 90))
    assert (root / "mine.tar").read_bytes() == b"x" * 1000


def test_leftovers_that_share_a_lock_make_room(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    url = server.put("/a.tar", content("a", 300 * KIB))
    cache = make(limit=400 * KIB)
    for key in (hashed(url)[:3], hashed(url)[:3], "123", "123"):
        left = f"{key}{len(list(root.glob('*.part'))):029d}-x.tar.{100 * KIB}.part"
        (root / left).write_bytes(b"x")
    cache.fetch(url)
    assert len(list(root.glob("*.part"))) == 1
    cache.fetch(server.put("/b.tar", content("b", 100 * KIB)))
    cache.fetch(server.put("/c.tar", content("c", 400 * KIB)))
    assert shards(root) == {"c.tar"}
    assert not list(root.glob("*.part"))


def test_a_full_disk_is_said(server: Server, root: Path, start: Start) -> None:
    url = server.put("/a.tar", content("a", 300 * KIB))
    _, result = start(fetch_on_a_full_disk, root, url)
    assert "the cache cannot be written (File too large). Its limit is 1,048,576 bytes" in result.recv()
    assert not list(root.glob("*a.tar*"))


@pytest.mark.parametrize("parallel", [1, 3])
def test_prefetch_keeps_the_order_and_the_number(
    server: Server, make: Callable[..., ShardCache], root: Path, parallel: int
) -> None:
    urls = [server.put(f"/{i}.tar", content(str(i), 128 * KIB), held=True) for i in range(8)]
    cache = make(parallel=parallel, timeout=20)
    cache.prefetch([*urls, urls[0]])
    until(lambda: len(server.gets) == parallel)
    time.sleep(0.1)
    assert len(server.gets) == len(list(root.glob("*.part"))) == parallel
    server.released.set()
    until(lambda: len(shards(root)) == 8)
    order = [int(path[1]) for path, _, _ in server.gets]
    assert sorted(order) == list(range(8))
    assert order == sorted(order) or parallel > 1
    assert cache.fetch(urls[5]).read_bytes() == content("5", 128 * KIB)
    assert len(server.gets) == 8


def test_a_new_list_replaces_the_old_one(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    urls = [server.put(f"/{i}.tar", content(str(i), 256 * KIB), slow=0.03) for i in range(9)]
    cache = make(parallel=1)
    cache.prefetch(urls[:8])
    until(lambda: bool(server.gets))
    cache.prefetch(urls[8:])
    until(lambda: shards(root) == {"0.tar", "8.tar"})  # what was begun goes on
    time.sleep(0.1)
    assert [path for path, _, _ in server.gets] == ["/0.tar", "/8.tar"]


def test_prefetch_never_pushes_out_what_is_wanted_sooner(
    server: Server, make: Callable[..., ShardCache], root: Path
) -> None:
    old, *urls = (server.put(f"/{i}.tar", content(str(i), 100 * KIB)) for i in range(7))
    cache = make(limit=300 * KIB, parallel=1)
    cache.fetch(old)
    cache.prefetch(urls)
    until(lambda: shards(root) == {"1.tar", "2.tar", "3.tar"})
    time.sleep(0.1)
    assert shards(root) == {"1.tar", "2.tar", "3.tar"}
    cache.fetch(urls[5])  # somebody waits for it: what is wanted last goes; it has been used then, and goes for 4
    until(lambda: shards(root) == {"1.tar", "2.tar", "4.tar"})
    cache.fetch(urls[0])
    until(lambda: shards(root) == {"2.tar", "4.tar", "5.tar"})
    assert [path for path, _, _ in server.gets[-3:]] == ["/6.tar", "/4.tar", "/5.tar"]


def test_what_is_wanted_sooner_pushes_out_what_is_wanted_last(
    server: Server, make: Callable[..., ShardCache], root: Path
) -> None:
    sooner, *urls = (server.put(f"/{i}.tar", content(str(i), 100 * KIB)) for i in range(4))
    cache = make(limit=300 * KIB, parallel=1)
    cache.prefetch(urls)
    until(lambda: len(shards(root)) == 3)
    cache.prefetch([sooner, *urls])
    until(lambda: shards(root) == {"0.tar", "1.tar", "2.tar"})


def test_what_prefetch_could_not_get_is_raised_by_fetch(server: Server, make: Callable[..., ShardCache]) -> None:
    urls = [server.put("/a.tar", b"abc", every=404), server.put("/b.tar", b"abc")]
    cache = make(parallel=1)
    cache.prefetch(urls)
    until(lambda: len(server.got("/b.tar")) == 1)
    with pytest.raises(MmclError, match="a.tar: it is not there"):
        cache.fetch(urls[0])


def test_prefetch_checks_what_has_a_checksum(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    url = server.put("/a.tar", b"abc")
    cache = make()
    cache.prefetch([url], {url: hashlib.sha256(b"abc").hexdigest()})
    until(lambda: bool(list(root.glob("*.sha256"))))
    cache.prefetch([url], {url: "0" * 64})
    until(lambda: len(server.gets) >= 2)
    assert cache.fetch(url, hashlib.sha256(b"abc").hexdigest()).read_bytes() == b"abc"


def test_closing_ends_downloads_soon(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    urls = [server.put(f"/{i}.tar", content(str(i), 2 * MIB), slow=0.05) for i in range(4)]
    with make(parallel=2) as cache:
        cache.prefetch(urls)
        until(lambda: len(server.gets) == 2)
        failed: list[BaseException] = []

        def fetch() -> None:
            try:
                cache.fetch(urls[3])
            except MmclError as error:
                failed.append(error)

        waiting = threading.Thread(target=fetch)
        waiting.start()
        until(lambda: len(server.gets) == 3)
        begin = time.monotonic()
    waiting.join(2)
    assert time.monotonic() - begin < 1
    assert "was closed" in str(failed[0])
    assert shards(root) == set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mmcl-prefetch")]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MmclError, match="no cache can be made here"):
        ShardCache(tmp_path / "file" / "cache", MIB)
