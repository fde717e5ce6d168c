"""Files and folders that are either whole or not there."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmcl.checkpoints import save_tensors
from mmcl.files import replacing, replacing_folder


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_disk_that_is_full_at_the_last_instant_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), replacing(tmp_path / "a") as file:
        file.write(b"new")
    with pytest.raises(OSError, match="No space"), replacing_folder(tmp_path / "b") as folder:
        (folder / "x").write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    with replacing(tmp_path / "a") as file:
        file.write(b"new")
    assert done == [str(tmp_path / ".a.partial"), "replace", str(tmp_path)]
    done.clear()
    with replacing_folder(tmp_path / "b") as folder:
        (folder / "x").write_text("new")
    assert done == [str(tmp_path / ".b.partial" / "x"), str(tmp_path / ".b.partial"), "replace", str(tmp_path)]


def test_leavings_of_a_killed_process_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").write_text("a longer text than the new one")
    with replacing(tmp_path / "a") as file:
        file.write(b"new")
    (tmp_path / ".b.partial").mkdir()
    (tmp_path / ".b.partial" / "old").touch()
    with replacing_folder(tmp_path / "b") as folder:
        (folder / "x").write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["x"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "step"
    for content in ("old", "new"):
        with replacing_folder(path) as folder:
            (folder / content).write_text(content)
    assert [p.name for p in path.iterdir()] == ["new"]
    with pytest.raises(FileNotFoundError), replacing_folder(path) as folder:
        (folder / "no" / "such").touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["step"]


def test_tensors_of_several_names_are_written_under_each(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    save_tensors({"a": weight, "b": weight, "c": weight.T, "d": weight[1:]}, tmp_path / "x.safetensors")
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(tensor, {"a": weight, "b": weight, "c": weight.T, "d": weight[1:]}[name])
