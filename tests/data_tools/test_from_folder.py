"""Folders of files to shards."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmcl.errors import MmclError


@pytest.fixture
def build(tool: Callable[[str], SimpleNamespace]) -> Callable[..., None]:
    return tool("from_folder").build


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_files_that_share_path_and_stem_are_a_sample(
    tmp_path: Path, build: Callable[..., None], written: Callable[..., Any]
) -> None:
    # a folder whose name sorts between two files of one sample must not part them
    folder = fill(tmp_path / "in", "a/x.jpg", "a/x.txt", "a/x.k/x.txt", "b.x/猫.JPG", "b.x/猫.json", "z.wav", "a/y.txt")
    build(tmp_path / "out", folder)
    samples, counts, bad = written(tmp_path / "out")
    assert samples == {
        "z": {"wav": b"z.wav"},
        "a/x": {"jpg": b"a/x.jpg", "txt": b"a/x.txt"},
        "a/y": {"txt": b"a/y.txt"},
        "a/x.k/x": {"txt": b"a/x.k/x.txt"},
        "b.x/猫": {"jpg": "b.x/猫.JPG".encode(), "json": "b.x/猫.json".encode()},
    }
    assert counts == {
        "samples with jpg, txt": 1,
        "samples with txt": 2,
        "samples with jpg, json": 1,
        "samples with wav": 1,
    }
    assert bad == []


def test_dots_in_names_need_a_decision(tmp_path: Path, build: Callable[..., None], written: Callable[..., Any]) -> None:
    folder = fill(tmp_path / "in", "cat.v1.jpg", "cat.v1.txt", "cat.v2.jpg", "cat.v2.txt")
    with pytest.raises(MmclError, match=r"cat.v1.jpg has more than one dot.*'cat_v1'.*'cat' and 'v1.jpg'"):
        build(tmp_path / "no", folder)
    build(tmp_path / "replaced", folder, dots="replace")
    assert {k: set(m) for k, m in written(tmp_path / "replaced")[0].items()} == {
        "cat_v1": {"jpg", "txt"},
        "cat_v2": {"jpg", "txt"},
    }
    build(tmp_path / "extended", folder, dots="extension")
    assert {k: set(m) for k, m in written(tmp_path / "extended")[0].items()} == {
        "cat": {"v1.jpg", "v1.txt", "v2.jpg", "v2.txt"}
    }
    fill(folder, "cat_v1.jpg")
    with pytest.raises(MmclError, match="would both have the key 'cat_v1'"):
        build(tmp_path / "no", folder, dots="replace")


def test_what_is_left_out_is_told(tmp_path: Path, build: Callable[..., None], written: Callable[..., Any]) -> None:
    folder = fill(
        tmp_path / "in", "a.jpg", "a.txt", "b.jpg", "c.jpg", "README", ".git/x", ".DS_Store", "d.jpg", "d.txt"
    )
    (folder / "c.txt").touch()
    (folder / "d.jpg").unlink()
    (folder / "d.jpg").symlink_to("nowhere.jpg")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    build(tmp_path / "out", folder, require=["jpg;png", "txt"])
    samples, counts, bad = written(tmp_path / "out")
    assert list(samples) == ["a"]
    assert counts == {
        "samples with jpg, txt": 1,
        "no txt": 2,
        "no jpg;png": 1,
        "empty file": 1,
        "a file without an extension": 1,
        "hidden files and folders left out": 2,
        "a link to a folder or to nothing, or no regular file": 3,
    }
    assert {(b.get("key"), b["reason"]) for b in bad} >= {("b", "no txt"), ("c", "empty file"), ("d", "no jpg;png")}


@pytest.mark.parametrize(
    ("names", "out", "told"),
    [
        (["a.jpg", "a.JPG"], "out", "two files that end in .jpg"),
        (["a.jpg"], "in/out", "lies in .*write to a folder outside"),
        (["a.pkl"], "out", "pickled"),
        ([], "out", "there are no samples"),
    ],
)
def test_mistakes_are_told(names: list[str], out: str, told: str, tmp_path: Path, build: Callable[..., None]) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(MmclError, match=told):
        build(tmp_path / out, fill(tmp_path / "in", *names))
    with pytest.raises(MmclError, match="is no folder"):
        build(tmp_path / "other", tmp_path / "nowhere")
