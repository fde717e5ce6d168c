"""What has no index: read by webdataset, with the promises that are left."""

import gzip
from pathlib import Path

import pytest

from mmcl.data import SampleWindow, Source, Stream, write_shards
from mmcl.data.stream import LastBatch
from mmcl.errors import MmclError
from mmcl.types import Batch


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
