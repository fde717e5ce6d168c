"""Lists, small files, and other protocols than HTTP."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec.config
import pytest

from mmcl.data.remote import ShardCache, files, is_remote, list_remote, read_remote
from mmcl.errors import MmclError
from tests.data.remote.server import KIB, QUICK, Server, content
from tests.data.remote.worker import Start, read_without_s3fs


def test_what_is_remote() -> None:
    for url in ("https://h/a.tar", "s3://b/a.tar", "hf://datasets/o/r/a.tar", "memory://a", "simplecache::s3://b/a"):
        assert is_remote(url), url
    for path in ("/a.tar", "a.tar", "file:///a.tar", "local:///a", "pipe:curl -s https://h/a.tar", "-", "C://a", ""):
        assert not is_remote(path), path


def test_folders_and_globs_over_http(server: Server) -> None:
    names = ["b.tar", "a.tar", "a.tar.index.json", "sub/"]
    server.put("/d/", "".join(f'<a href="{name}">{name}</a>' for name in names).encode(), headers={})
    server.put("/d/sub/", b'<a href="/d/sub/c.tar">c</a> <a href="../">up</a>')
    at = server.url
    for page in ("/d/", "/d/sub/"):
        server.pages[page].data = b"<html>" + server.pages[page].data
    assert list_remote(at("/d/*.tar"), QUICK) == [at("/d/a.tar"), at("/d/b.tar")]
    everything = [at("/d/a.tar"), at("/d/b.tar"), at("/d/sub/c.tar")]
    assert list_remote(at("/d/"), QUICK) == list_remote(at("/d"), QUICK) == everything
    for empty in ("/d/*.zip", "/d/sub/x*.tar"):
        with pytest.raises(MmclError, match="no files match this pattern"):
            list_remote(at(empty), QUICK)
    gets = len(server.gets)
    for one in ("/nowhere/a.tar", "/get?file=7"):
        assert list_remote(at(one), QUICK) == [at(one)]
    assert len(server.gets) == gets


def test_a_folder_that_cannot_be_listed_is_an_error(server: Server) -> None:
    server.put("/d/", b'<html><a href="a.tar">a</a> <a href="sub/">sub</a>')
    server.put("/d/sub/", b"", every=503)
    with pytest.raises(MmclError, match=r"HTTP 503 .*\(3 attempts\)"):
        list_remote(server.url("/d/"), QUICK)
    with pytest.raises(MmclError, match="it is not there"):
        list_remote(server.url("/nowhere/*.tar"), QUICK)
    with pytest.raises(MmclError, match="Cannot connect"):
        list_remote("http://127.0.0.1:1/*.tar", QUICK)


def test_small_files(server: Server) -> None:
    data = content("a", 300 * KIB)
    assert read_remote(server.url("/none.json"), patience=QUICK) is None
    assert read_remote(server.put("/a.json", data, cut=[1000], statuses=[500]), patience=QUICK) == data
    assert read_remote(server.put("/b.json", data, length=False), patience=QUICK) == data
    assert read_remote(server.put("/c.json", b""), patience=QUICK) == b""
    for length in (True, False):
        with pytest.raises(MmclError, match=r"d.json: it has .* 1,000 "):
            read_remote(server.put("/d.json", data, length=length), 1000, QUICK)
    assert read_remote(server.put("/e.json", data, every=403), patience=QUICK) is None  # S3 without ListBucket
    with pytest.raises(MmclError, match="500"):
        read_remote(server.put("/e.json", data, every=500), patience=QUICK)


def test_unknown_protocols_and_missing_packages(start: Start) -> None:
    with pytest.raises(MmclError, match="Protocol not known: htps; did you mean 'https'"):
        list_remote("htps://host/*.tar", QUICK)
    with pytest.raises(MmclError, match="chained URLs"):
        list_remote("simplecache::s3://b/*.tar", QUICK)
    _, result = start(read_without_s3fs)
    assert (
        "s3://b/a.json: the package that reads s3:// is not installed. Run `pip install 'mmcl[s3]'`." in result.recv()
    )


def test_a_file_system_without_asyncio(
    make: Callable[..., ShardCache], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIECE", 64 * KIB)
    memory = fsspec.filesystem("memory")
    data = content("a", 300 * KIB)
    for name in ("a.tar", "b.tar", "sub/c.tar", "manifest.json"):
        memory.pipe(f"/remote/{name}", data)
    try:
        assert list_remote("memory://remote/*.tar") == ["memory:///remote/a.tar", "memory:///remote/b.tar"]
        assert len(list_remote("memory://remote")) == 3
        assert read_remote("memory://remote/manifest.json") == data
        cache = make()
        assert cache.fetch("memory://remote/a.tar").read_bytes() == data
        memory.pipe("/remote/a.tar", data[::-1])
        assert make().fetch("memory://remote/a.tar").read_bytes() == data[::-1]
        with pytest.raises(MmclError, match="it is not there"):
            cache.fetch("memory://remote/none.tar")
        monkeypatch.setattr(type(memory), "cat_file", lambda *args, **kwargs: time.sleep(1))
        with pytest.raises(MmclError, match=r"no data for 0.1 s \(2 attempts\)"):
            make(attempts=2, timeout=0.1).fetch("memory://remote/b.tar")
    finally:
        memory.rm("/remote", recursive=True)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Endpoint of an S3 API."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_s3(s3: str, make: Callable[..., ShardCache], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE", 256 * KIB)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": s3, "key": "k", "secret": "hunter2"})
    bucket = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    bucket.mkdir("shards")
    data = {name: content(name, 600 * KIB) for name in ("a.tar", "b.tar", "sub/c.tar", "sizes.json")}
    for name, body in data.items():
        bucket.pipe(f"shards/train/{name}", body)
    assert list_remote("s3://shards/train/*.tar", QUICK) == ["s3://shards/train/a.tar", "s3://shards/train/b.tar"]
    assert list_remote("s3://shards/train/?.tar", QUICK) == ["s3://shards/train/a.tar", "s3://shards/train/b.tar"]
    everything = [f"s3://shards/train/{name}" for name in data if name.endswith(".tar")]
    assert list_remote("s3://shards/train", QUICK) == list_remote("s3://shards/train/", QUICK) == everything
    assert read_remote("s3://shards/train/sizes.json", patience=QUICK) == data["sizes.json"]
    assert read_remote("s3://shards/train/none.json", patience=QUICK) is None
    cache = make(timeout=10)
    cache.prefetch(everything)
    for url in everything:
        assert cache.fetch(url).read_bytes() == data[url.removeprefix("s3://shards/train/")]
    bucket.pipe("shards/train/a.tar", data["b.tar"])
    assert make(timeout=10).fetch(everything[0]).read_bytes() == data["b.tar"]
    for missing in ("s3://shards/train/none.tar", "s3://nowhere/a.tar"):
        with pytest.raises(MmclError, match="it is not there"):
            cache.fetch(missing)
    with pytest.raises(MmclError, match="this is a folder"):
        cache.fetch("s3://shards/train")
    for nothing in ("s3://shards/train/*.zip", "s3://shards/empty", "s3://nowhere/*.tar"):
        with pytest.raises(MmclError, match="no files match|no .tar files|it is not there"):
            list_remote(nothing, QUICK)
