"""What has no index, with the promises that are left."""

import bz2
import gzip
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mmcl.data import SampleWindow, Source, Stream, write_shards
from mmcl.data.index import load_index
from mmcl.data.stream import LastBatch
from mmcl.errors import MmclError
from mmcl.types import Batch
from tests.data.test_index import tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(({"__key__": f"{i:03d}", "txt": f"text {i}"} for i in range(50)), tmp_path / "s", 10)
    return tmp_path / "s"


def piped(folder: Path, window: int = 20, **more: object) -> Stream:
    pipes = [f"pipe:cat {shard}" for shard in sorted(folder.glob("*.tar"))]
    source = Source(shards=pipes, modalities={"text": "txt"}, window=SampleWindow(samples=window))
    return Stream(source, **{"batch_size": 8, "seed": 1, **more})  # type: ignore[arg-type]


def keys(stream: Stream) -> list[str]:
    return keys_of(list(stream))


def keys_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pipe_is_shuffled_within_its_window_and_dealt_out_over_processes(folder: Path, workers: int) -> None:
    whole = keys(piped(folder, workers=workers))
    assert sorted(whole[:20]) == [f"{i:03d}" for i in range(20)] != whole[:20]
    assert sorted(whole) == [f"{i:03d}" for i in range(50)]
    ranks = [list(piped(folder, share=(rank, 3))) for rank in range(3)]
    assert [key for step in zip(*ranks, strict=True) for batch in step for key in batch.keys] == whole
    texts = [text for batch in piped(folder) for text in batch["text"]]
    assert texts == [f"text {int(key)}" for key in whole]


@pytest.mark.parametrize("policy", ["carry", "drop", "keep"])
def test_a_pipe_is_read_again_for_the_next_epoch(folder: Path, policy: LastBatch) -> None:
    stream = piped(folder, endless=True, last_batch=policy)
    seen = [key for _, batch in zip(range(12), stream, strict=False) for key in batch.keys]
    once = 48 if policy == "drop" else 50
    assert len(set(seen[:once])) == once
    assert seen[:once] != seen[once : 2 * once]


def test_compressed_tars_are_read(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress((folder / "00002.tar").read_bytes()))
    stream = Stream(Source(shards=str(packed), modalities={"text": "txt"}), batch_size=4, shuffle=False)
    assert keys(stream) == [f"{i:03d}" for i in range(20, 30)]


def test_what_a_pipe_cannot_do_is_refused(folder: Path) -> None:
    stream = piped(folder)
    with pytest.raises(MmclError, match="known only at its end"):
        assert stream.samples
    next(iter(stream))
    with pytest.raises(MmclError, match="no run on it resumes"):
        piped(folder).restore(stream.state())
    with pytest.raises(MmclError, match="cannot be mixed in one source"):
        Stream(Source(shards=["pipe:cat x", str(folder)], modalities={"text": "txt"}), batch_size=2)


def test_a_pipe_that_is_cut_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.tar").write_bytes((folder / "00000.tar").read_bytes()[:5000])
    source = Source(shards=["pipe:cat cut.tar", f"pipe:cat {folder}/00001.tar"], modalities={"text": "txt"})
    monkeypatch.chdir(tmp_path)
    batches = list(Stream(source, batch_size=4, shuffle=False))
    assert keys_of(batches)[-10:] == [f"{i:03d}" for i in range(10, 20)]
    assert ["ReadError" in bad.reason for batch in batches for bad in batch.bad] == [True]


def test_tars_that_follow_one_another_in_a_pipe_are_told(folder: Path) -> None:
    source = Source(shards=f"pipe:cat {folder}/*.tar", modalities={"text": "txt"})
    batches = list(Stream(source, batch_size=50, shuffle=False))
    assert len(keys_of(batches)) == 10
    assert ["goes on after the end mark" in bad.reason for batch in batches for bad in batch.bad] == [True]


def told(source: Source, **more: object) -> list[tuple[str, str, str]]:
    batches = list(Stream(source, **{"batch_size": 50, "shuffle": False, **more}))  # type: ignore[arg-type]
    return [(bad.shard, bad.key, bad.reason) for batch in batches for bad in batch.bad]


def test_a_command_that_fails_stops_the_run(folder: Path) -> None:
    source = Source(shards=f"pipe:cat {folder}/00000.tar; exit 3", modalities={"text": "txt"})
    for _ in range(5):
        with pytest.raises(MmclError, match="the command ended with exit status 3, so what it gave may be only a part"):
            told(source)


def test_a_tar_without_an_end_mark_is_told(folder: Path) -> None:
    index = load_index(folder / "00000.tar")
    end = int(index.offset[4]) + 512
    command = f"pipe:head -c {end} {folder}/00000.tar"
    ((shard, key, reason),) = told(Source(shards=command, modalities={"text": "txt"}))
    assert (shard, key) == (command, "004")
    assert "ends without an end mark" in reason


def test_bad_samples_are_those_of_their_own_pipe_and_range(folder: Path, tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", [("a.txt", b"one")])
    tar(tmp_path / "1.tar", [("a.txt", b"\xff"), ("b.txt", b"two"), ("b.txt", b"again")])
    source = Source(shards=f"pipe:cat {tmp_path}/{{0..1}}.tar", modalities={"text": "txt"})
    assert sorted(told(source)) == [
        (f"pipe:cat {tmp_path}/1.tar", "a", "text is not UTF-8"),
        (f"pipe:cat {tmp_path}/1.tar", "b", "pipe: txt: a second member of this name; the first one is used"),
    ]
    (batch,) = Stream(source, batch_size=3)
    assert len(set(batch.ids.tolist())) == 3  # two of them are called a


def test_links_and_what_follows_many_zeros_are_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        info = tarfile.TarInfo("a.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "b.txt"
        out.addfile(info)
        out.addfile(info := tarfile.TarInfo("b.txt"), None)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes() + bytes(3 << 20) + b"more" * 1000)
    reasons = [reason for _, _, reason in told(Source(shards=f"pipe:cat {tmp_path}/a.tar", modalities={"text": "txt"}))]
    assert ["a link" in reasons[0], "goes on after the end mark" in reasons[1], reasons[2:]] == [
        True,
        True,
        ["empty text"],
    ]


def test_files_without_an_extension_are_told(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("LICENSE", b"free"), ("a.txt", b"one"), ("README", b"me")])
    source = Source(shards=f"pipe:cat {tmp_path}/a.tar", modalities={"text": "txt"})
    assert [(key, reason) for _, key, reason in told(source)] == [
        ("", "pipe: 2 files without an extension, which nothing reads")
    ]


def test_a_pipe_is_in_no_mixture(folder: Path) -> None:
    weighted = [
        Source(shards=shards, modalities={"text": "txt"}, weight=1.0, window=SampleWindow(samples=9))
        for shards in (f"pipe:cat {folder}/00000.tar", str(folder))
    ]
    with pytest.raises(MmclError, match="a mixture needs to know how many samples each source has"):
        Stream(weighted, batch_size=2, endless=True)


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_all_members_of_a_compressed_file_are_read(folder: Path, tmp_path: Path, module: Any) -> None:
    content = (folder / "00002.tar").read_bytes()
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(module.compress(content[:3000]) + module.compress(content[3000:]))
    for shards in (str(packed), f"pipe:cat {packed}"):
        source = Source(shards=shards, modalities={"text": "txt"})
        assert keys(Stream(source, batch_size=4, shuffle=False)) == [f"{i:03d}" for i in range(20, 30)]
        assert told(source) == []
    packed.write_bytes(module.compress(content) * 2)
    assert ["goes on after the end mark" in reason for _, _, reason in told(source)] == [True]


def test_a_stream_without_any_sample_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"<html>log in</html>" * 100)
    with pytest.raises(MmclError, match=r"a.tar.gz hold no samples \(.*a.tar.gz: pipe: it is cut or damaged"):
        told(Source(shards=str(tmp_path / "a.tar.gz"), modalities={"text": "txt"}))
    with pytest.raises(MmclError, match="pipe:true hold no samples"):
        told(Source(shards="pipe:true", modalities={"text": "txt"}))


def test_damage_in_a_pipe_is_not_the_commands_fault(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "00000.tar").read_bytes() + bytes(1 << 22))
    content[5 * 1024 : 5 * 1024 + 100] = b"x" * 100
    (tmp_path / "a.tar").write_bytes(content)
    source = Source(shards=f"pipe:cat {tmp_path}/a.tar", modalities={"text": "txt"})
    ((_, key, reason),) = told(source)
    assert (key, "damaged" in reason) == ("004", True)
