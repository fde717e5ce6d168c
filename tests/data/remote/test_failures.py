"""One download, and every fault of a server."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcl.data.remote import ShardCache, failures, list_remote, redact
from mmcl.errors import MmclError
from tests.data.remote.server import KIB, MIB, QUICK, Server, content, serving, shards, until, used


@pytest.mark.parametrize("size", [0, 1, 300 * KIB, 3 * MIB + 1])
def test_a_shard_arrives_whole_and_is_asked_for_once(
    server: Server, make: Callable[..., ShardCache], size: int
) -> None:
    data = content("a", size)
    url = server.put("/x/00000.tar", data)
    path = make().fetch(url, hashlib.sha256(data).hexdigest().upper())
    assert path.name.endswith("-00000.tar")
    assert path.read_bytes() == data
    again = make()
    heads = server.heads["/x/00000.tar"]
    assert [again.fetch(url) for _ in range(3)] == [path] * 3
    assert again.size(url) == size
    assert len(server.got("/x/00000.tar")) == min(size, 1)
    assert server.heads["/x/00000.tar"] == heads + 1


def test_a_cut_connection_is_continued_where_it_broke(
    server: Server, make: Callable[..., ShardCache], root: Path
) -> None:
    data = content("a", 1200 * KIB)
    url = server.put("/a.tar", data, cut=[400_000, 400_000])
    # what a client has received but not read is lost when a connection breaks
    server.before_cut = lambda start: until(lambda: used(root) > start)
    assert make().fetch(url).read_bytes() == data
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.got("/a.tar") if asked]
    assert len(starts) == 2
    assert 0 < starts[0] <= 400_000
    assert starts[0] < starts[1] <= 800_000


def test_attempts_that_get_further_are_not_counted(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    data = content("a", 8 * MIB)
    url = server.put("/a.tar", data, cut=[2 * MIB] * 3)
    server.before_cut = lambda start: until(lambda: used(root) >= start + MIB)
    assert make(attempts=2).fetch(url).read_bytes() == data
    assert len(server.got("/a.tar")) >= 4


def test_without_ranges_a_cut_download_begins_anew(server: Server, make: Callable[..., ShardCache]) -> None:
    data = content("a", 600 * KIB)
    url = server.put("/a.tar", data, ranges=False, cut=[400_000, 200_000])
    assert make().fetch(url).read_bytes() == data
    url = server.put("/b.tar", content("b", 3 * MIB), ranges=False, cut=[2 * MIB] * 9)
    with pytest.raises(MmclError, match=r"b.tar: ClientPayloadError.*\(3 attempts\)"):  # it never gets further
        make().fetch(url)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(server: Server, make: Callable[..., ShardCache], status: int) -> None:
    url = server.put("/a.tar", b"abc", statuses=[status] * 2)
    assert make().fetch(url).read_bytes() == b"abc"
    server.put("/a.tar", b"abcd", every=status)
    with pytest.raises(MmclError, match=rf"a.tar: HTTP {status} \w.*\(3 attempts\)\. Check the network"):
        make().fetch(url)


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "it is not there"), (410, "it is not there"), (403, "was denied"), (401, "denied"), (400, "HTTP 400")],
)
def test_what_stays_is_tried_once(server: Server, make: Callable[..., ShardCache], status: int, said: str) -> None:
    url = server.put("/a.tar", b"abc", every=status)
    with pytest.raises(MmclError, match=said) as caught:
        make().fetch(url)
    assert "attempts" not in str(caught.value)
    assert server.heads["/a.tar"] == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_to(
    server: Server, make: Callable[..., ShardCache], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "1" if form == "seconds" else failures.email.utils.formatdate(time.time() + 2, usegmt=True)
    url = server.put("/a.tar", b"abc", statuses=[429], headers={"Retry-After": said})
    assert make().fetch(url).read_bytes() == b"abc"
    first, second = (at for _, _, at in server.gets)
    assert second - first >= 0.9
    url = server.put("/b.tar", b"abc", statuses=[503], headers={"Retry-After": "86400"})
    with pytest.raises(MmclError, match="HTTP 503 .*asks to come back in 86400 s"):
        make().fetch(url)


def test_nothing_waits_for_ever(server: Server, make: Callable[..., ShardCache]) -> None:
    begin = time.monotonic()
    url = server.put("/a.tar", content("a", 600 * KIB), hang=200 * KIB)
    with pytest.raises(MmclError, match=r"a.tar: no data for 0.2 s \(2 attempts\)"):
        make(attempts=2, timeout=0.2).fetch(url)
    url = server.put("/b.tar", b"abc", delay=2)
    with pytest.raises(MmclError, match=r"b.tar: no data for 0.2 s \(2 attempts\)"):
        make(attempts=2, timeout=0.2).fetch(url)
    assert time.monotonic() - begin < 10


def test_a_slow_download_may_take_longer_than_the_timeout(server: Server, make: Callable[..., ShardCache]) -> None:
    data = content("a", 640 * KIB)
    url = server.put("/a.tar", data, slow=0.06)
    assert make(attempts=1, timeout=0.3).fetch(url).read_bytes() == data


def test_a_wrong_length_is_no_shard(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    data = content("a", 300 * KIB)
    with pytest.raises(MmclError, match=r"a.tar: 300,000 of 307,200 bytes came \(3 attempts\)"):
        make().fetch(server.put("/a.tar", data, short=300_000))
    with pytest.raises(MmclError, match="b.tar: more than the 1,000 bytes came"):
        make().fetch(server.put("/b.tar", data, head_size=1000))
    with pytest.raises(MmclError, match="c.tar: the server does not say how long it is"):
        make().fetch(server.put("/c.tar", data, length=False))
    assert shards(root) == set()


def test_a_wrong_checksum_is_downloaded_again_once(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    data = content("a", 300 * KIB)
    url = server.put("/a.tar", data)
    with pytest.raises(MmclError, match="a.tar: its sha256 is not 00000"):
        make().fetch(url, "0" * 64)
    assert len(server.got("/a.tar")) == 2
    assert shards(root) == set()
    unchecked = make().fetch(url)
    unchecked.write_bytes(b"x" * len(data))  # damaged on the disk
    assert make().fetch(url, hashlib.sha256(data).hexdigest()).read_bytes() == data
    assert len(server.got("/a.tar")) == 4


def test_no_server_at_all(make: Callable[..., ShardCache]) -> None:
    with serving() as gone:
        url = gone.url("/a.tar")
    with pytest.raises(MmclError, match=r"Cannot connect to host .*\(3 attempts\)"):
        make().fetch(url)


def test_secrets_are_not_shown(server: Server, make: Callable[..., ShardCache], root: Path) -> None:
    url = server.put("/a.tar", b"abc").replace("http://", "http://me:hunter2@") + "?X-Amz-Signature=abcdef"
    assert make().fetch(url).name.endswith("-a.tar")
    said = [redact(url)]
    for status in (403, 503, 400):
        server.put("/a.tar", b"abc", every=status)
        with pytest.raises(MmclError) as caught:
            make().fetch(url)
        said.append(str(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    with pytest.raises(MmclError) as caught:
        list_remote(url.replace("a.tar?X-Amz-Signature=abcdef", "x y/*.tar?sig=abcdef ghi"), QUICK)
    said.append(str(caught.value))
    said += [path.name for path in root.rglob("*")]
    assert not [text for text in said if "hunter2" in text or "abcdef" in text or "ghi" in text]
    assert failures.redact_text(f"GET {url} failed for hunter2", url).count("***") == 3
