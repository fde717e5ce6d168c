"""Shards that are whole, equal for equal samples, and never overwritten."""

import gc
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset

from mmcl.data import write_shards
from mmcl.data.shards import index_path, load_index
from mmcl.errors import MmclError


def samples(n: int = 25) -> Iterator[dict[str, Any]]:
    return ({"__key__": f"{i:03d}", "bin": bytes([i]), "txt": f"é {i}", "json": {"i": i}} for i in range(n))


@pytest.mark.filterwarnings("ignore")  # webdataset leaves its files to the garbage collector
def test_shards_hold_what_was_given_and_webdataset_reads_them(tmp_path: Path) -> None:
    manifest = write_shards(samples(), tmp_path / "s", samples_per_shard=10)
    assert [s["samples"] for s in manifest["shards"]] == [10, 10, 5]
    assert json.loads((tmp_path / "s" / "manifest.json").read_text()) == manifest
    pattern = str(tmp_path / "s" / "{00000..00002}.tar")
    read = list(webdataset.WebDataset(pattern, shardshuffle=False).decode())
    assert [(r["__key__"], r["txt"], r["json"]["i"]) for r in read] == [(f"{i:03d}", f"é {i}", i) for i in range(25)]
    gc.collect()


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    first = write_shards(samples(), tmp_path / "a")
    assert write_shards(samples(), tmp_path / "b") == first


def test_the_index_is_there_from_the_start(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path / "s")
    assert index_path(tmp_path / "s" / "00000.tar").is_file()
    assert len(load_index(tmp_path / "s" / "00000.tar").keys) == 25


def test_a_finished_folder_is_not_touched(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path / "s")
    with pytest.raises(MmclError, match="holds a finished data set"):
        write_shards(samples(), tmp_path / "s")


def test_an_interrupted_writing_leaves_whole_shards_only_and_no_manifest(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from samples(15)
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write_shards(broken(), tmp_path / "s", samples_per_shard=10)
    assert [p.name for p in sorted((tmp_path / "s").glob("*.tar"))] == ["00000.tar"]
    assert not (tmp_path / "s" / "manifest.json").exists()
    with tarfile.open(tmp_path / "s" / "00000.tar") as tar:
        assert len(tar.getmembers()) == 30


def test_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=r"x: a \.pyd member is pickled"):
        write_shards([{"__key__": "x", "pyd": {"a": 1}}], tmp_path / "s")


def test_leavings_of_ours_are_cleared_and_files_of_others_are_not(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from samples(25)
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write_shards(broken(), tmp_path / "s", samples_per_shard=10)
    write_shards(samples(5), tmp_path / "s")
    assert [p.name for p in sorted((tmp_path / "s").glob("*.tar"))] == ["00000.tar"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "00003.tar").write_bytes(b"years of work")
    with pytest.raises(MmclError, match="holds 00003.tar, which would be overwritten"):
        write_shards(samples(5), tmp_path / "theirs")
    assert (tmp_path / "theirs" / "00003.tar").read_bytes() == b"years of work"
