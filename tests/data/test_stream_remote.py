"""Streams over a real server: the order of local shards, in a bounded cache, through faults."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmcl.data import SampleWindow, Source, Stream, write_shards
from mmcl.data.describe import describe
from mmcl.data.remote import ShardCache
from mmcl.errors import MmclError
from tests.data.remote.server import Server, serving, used

SHARDS, EACH = 12, 10


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def local(tmp_path: Path) -> Path:
    samples = ({"__key__": f"{i:03d}", "txt": f"text {i}", "npy": bytes(2000)} for i in range(SHARDS * EACH))
    write_shards(samples, tmp_path / "local", EACH)
    return tmp_path / "local"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Callable[[], ShardCache]]]:
    made: list[ShardCache] = []

    def cache(shards: float = 50, name: str = "cache") -> Callable[[], ShardCache]:
        def make() -> ShardCache:
            made.append(ShardCache(tmp_path / name, int(shards * 42_000), timeout=2.0, backoff=0.01))
            return made[-1]

        return make

    yield cache
    for each in made:
        each.close()


def publish(server: Server, folder: Path, **faults: Any) -> str:
    for file in folder.iterdir():
        if file.suffix in (".tar", ".json"):
            server.put(f"/d/{file.name}", file.read_bytes(), **(faults if file.suffix == ".tar" else {}))
    return server.url("/d")


def source(shards: Any, **more: Any) -> Source:
    return Source(shards=shards, modalities={"text": "txt"}, **{"window": 3, **more})


def keys(stream: Stream, count: int = 10_000) -> list[str]:
    return [key for _, batch in zip(range(count), stream, strict=False) for key in batch.keys]


@pytest.mark.parametrize("window", [3, SampleWindow(samples=25)])
def test_the_order_is_that_of_local_shards_and_the_cache_stays_small(
    server: Server, local: Path, opened: Any, tmp_path: Path, window: Any
) -> None:
    expected = keys(Stream(source(str(local), window=window), batch_size=8, seed=1))
    url = publish(server, local)
    stream = Stream(source(url, window=window), batch_size=8, seed=1, cache=opened(shards=7))
    seen, most = [], 0
    for batch in stream:
        seen += batch.keys
        most = max(most, used(tmp_path / "cache"))
    assert seen == expected
    assert 3 * 40_000 < most <= 7 * 42_000 + 5_000  # an index is made room for with the next download
    assert max(len(server.got(f"/d/{i:05d}.tar")) for i in range(SHARDS)) == 1


def test_faults_of_the_server_change_nothing(server: Server, local: Path, opened: Any) -> None:
    expected = keys(Stream(source(str(local)), batch_size=8, seed=1))
    url = publish(server, local)
    for number in range(SHARDS):
        page = server.pages[f"/d/{number:05d}.tar"]
        if number % 3 == 0:
            page.statuses = [500, 503]
        elif number % 3 == 1:
            page.cut = [7_000, 20_000]
        else:
            page.delay = 0.05
    assert keys(Stream(source(url), batch_size=8, seed=1, cache=opened())) == expected


def test_shards_without_a_description_stream_window_by_window(server: Server, local: Path, opened: Any) -> None:
    expected = keys(Stream(source(str(local)), batch_size=8, seed=1, endless=True), 40)
    publish(server, local)
    del server.pages["/d/manifest.json"]
    stream = Stream(source(server.url("/d/{00000..00011}.tar")), batch_size=8, seed=1, endless=True, cache=opened())
    first = keys(stream, 2)
    assert first == expected[:16]
    assert len({path for path, _, _ in server.gets}) <= 9 + 3  # two windows and what they prefetch; what was looked for
    with pytest.raises(MmclError, match="nothing says how many samples"):
        assert stream.samples
    resumed = Stream(source(server.url("/d/{00000..00011}.tar")), batch_size=8, seed=1, endless=True, cache=opened())
    resumed.restore(json.loads(json.dumps(stream.state())))
    assert first + keys(resumed, 38) == expected


def test_what_cannot_be_had_ends_the_stream_with_its_url(server: Server, local: Path, opened: Any) -> None:
    url = publish(server, local)
    server.pages["/d/00004.tar"].every = 404
    with pytest.raises(MmclError, match=r"00004\.tar"):
        keys(Stream(source(url), batch_size=8, seed=1, cache=opened()))


def test_a_shard_that_is_not_the_described_one_is_refused(server: Server, local: Path, opened: Any) -> None:
    url = publish(server, local)
    server.pages["/d/00004.tar"].data = (local / "00005.tar").read_bytes()
    with pytest.raises(MmclError, match=r"00004\.tar"):
        keys(Stream(source(url), batch_size=8, seed=1, cache=opened()))


def test_signatures_are_shown_nowhere_and_may_change(server: Server, local: Path, opened: Any) -> None:
    publish(server, local)

    def signed(signature: str) -> Stream:
        urls = [server.url(f"/d/{n:05d}.tar?sig={signature}") for n in range(SHARDS)]
        named = Source(shards=urls, modalities={"text": "txt", "image": "jpg"}, window=3)
        return Stream(named, batch_size=10, workers=0, cache=opened(name=signature))

    first = signed("hunter2")
    batch = next(iter(first))
    assert len(batch.bad) == 10
    assert all("?***" in bad.shard and "hunter2" not in bad.shard for bad in batch.bad)
    assert first.samples == SHARDS * EACH  # as the manifest says, whatever the query
    del server.pages["/d/manifest.json"]
    with pytest.raises(MmclError, match="nothing says how many") as caught:
        _ = signed("hunter2").samples
    assert "hunter2" not in str(caught.value)
    second = signed("swordfish")
    second.restore(first.state())
    assert len({*batch.keys, *keys(second)}) == SHARDS * EACH


def test_a_cache_that_cannot_hold_two_windows_is_told(server: Server, local: Path, opened: Any) -> None:
    url = publish(server, local)
    with pytest.raises(MmclError, match=r"two windows of remote shards take .* Raise data.cache.gigabytes"):
        keys(Stream(source(url), batch_size=8, seed=1, cache=opened(shards=4.5)))
    small = Stream(source(url, window=1), batch_size=8, seed=1, cache=opened(shards=4.5))
    assert len(keys(small)) == SHARDS * EACH
    whole = Stream(source(url, window=12), batch_size=8, seed=1, cache=opened(shards=13, name="whole"))
    assert len(keys(whole)) == SHARDS * EACH


def test_a_compressed_tar_is_fetched_whole_and_retried(server: Server, local: Path, opened: Any) -> None:
    url = server.put("/a.tar.gz", gzip.compress((local / "00002.tar").read_bytes()), statuses=[503, 503], cut=[90])
    stream = Stream(source(url), batch_size=4, shuffle=False, cache=opened())
    assert keys(stream) == [f"{i:03d}" for i in range(20, 30)]


def test_counts_that_img2dataset_and_others_leave_are_read(server: Server, local: Path, opened: Any) -> None:
    publish(server, local)
    del server.pages["/d/manifest.json"]
    for number in range(SHARDS):
        name = f"/d/{number:05d}"
        if number % 2:
            server.put(f"{name}_stats.json", json.dumps({"successes": EACH}).encode())
        else:
            server.put(f"{name}.idx", f"v1.2 {EACH}\n".encode())
    stream = Stream(source(server.url("/d/{00000..00011}.tar")), batch_size=8, seed=1, cache=opened())
    assert stream.samples == SHARDS * EACH
    assert not any(path.endswith(".tar") for path, _, _ in server.gets)
    server.put("/d/00007_stats.json", json.dumps({"successes": EACH + 1}).encode())
    wrong = Stream(source(server.url("/d/{00000..00011}.tar")), batch_size=8, seed=1, cache=opened())
    assert wrong.samples == SHARDS * EACH + 1
    with pytest.raises(MmclError, match=r"00007_stats.json says that 00007.tar has 11 samples, but it has 10"):
        keys(wrong)


def test_a_process_ends_while_a_window_is_on_its_way(server: Server, local: Path, tmp_path: Path) -> None:
    url = publish(server, local)
    code = f"""
from mmcl.data import Source, Stream
stream = Stream(Source(shards={url!r}, modalities={{"text": "txt"}}, window=1), batch_size=3, shuffle=False, workers=0)
print(next(iter(stream)).keys)
"""
    server.pages["/d/00001.tar"].hang = 100
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"MMCL_CACHE": str(tmp_path / "cache"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=50,  # the download would be given up after a minute at the earliest
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "002" in ended.stdout


def test_a_page_in_the_place_of_a_shard_is_told_with_its_url(server: Server, opened: Any) -> None:
    url = server.put("/a.tar", b"<html>Please log in</html>" * 100)
    with pytest.raises(MmclError, match=rf"^{url}: this is no uncompressed tar"):
        keys(Stream(source(url), batch_size=8, cache=opened()))


def test_a_cache_in_which_nothing_may_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(MmclError, match=r"cache: no cache can be made here \(Permission denied\)"):
        ShardCache(tmp_path / "cache", 1000)


def test_a_manifest_is_held_to_also_where_the_url_has_a_query(server: Server, local: Path, opened: Any) -> None:
    publish(server, local)
    page = server.pages["/d/00004.tar"]
    page.data = page.data.replace(b"text 4", b"TEXT 4")
    urls = [server.url(f"/d/{n:05d}.tar?sig=a/b") for n in range(SHARDS)]
    with pytest.raises(MmclError, match=r"00004.tar\?\*\*\*: its sha256 is not"):
        keys(Stream(source(urls), batch_size=8, cache=opened()))


def test_a_page_in_the_place_of_counts_says_nothing(server: Server, local: Path, opened: Any) -> None:
    publish(server, local)
    for name in ("manifest.json", "sizes.json", "00000_stats.json", "00000.tar.idx", "00000.idx"):
        server.put(f"/d/{name}", b"<html>There is no such page here.</html>" * 5)
    with pytest.raises(MmclError, match="nothing says how many samples"):
        assert Stream(source(server.url("/d/00000.tar")), batch_size=8, cache=opened()).samples


def test_folders_in_folders_are_the_same_here_and_there(server: Server, tmp_path: Path, opened: Any) -> None:
    for name in ("d", "d/b", "d/b/c"):
        write_shards(({"__key__": f"{name[-1]}{i}", "txt": "t"} for i in range(5)), tmp_path / name)
        (tmp_path / name / "manifest.json").unlink()
    described = describe([str(tmp_path / "d")], processes=1)
    assert set(described.values()) == {"indexed and described in manifest.json"}
    assert describe([str(tmp_path / "d")], processes=1) != described
    folders = [
        json.loads((tmp_path / name / "manifest.json").read_text()).get("folders") for name in ("d", "d/b", "d/b/c")
    ]
    assert folders == [["b"], ["c"], None]
    here = keys(Stream(source(str(tmp_path / "d")), batch_size=4, seed=1))
    assert len(here) == 15
    for file in (tmp_path / "d").rglob("*.*"):
        server.put(f"/{file.relative_to(tmp_path)}", file.read_bytes())
    assert keys(Stream(source(server.url("/d")), batch_size=4, seed=1, cache=opened())) == here
    assert keys(Stream(source(f"{tmp_path}/d/b/../"), batch_size=4, seed=1)) == here
