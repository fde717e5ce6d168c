"""Packing: once, found again, anew when something changed, and by one process at a time."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmcl.layouts.esc50
from mmcl.data import read_samples
from mmcl.errors import MmclError
from mmcl.layouts import LAYOUTS, packed
from mmcl.layouts.base import Layout, Row
from tests.layouts.files import put
from tests.layouts.sounds import esc50

ESC50 = LAYOUTS.check("esc50")


def keys(folder: Path) -> list[str]:
    return [sample["__key__"] for sample in read_samples(folder)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    esc50(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Roots whose samples were made."""
    made: list[Path] = []
    real = Layout.samples

    def samples(self: Layout, root: Path, *args: object) -> Iterator[Row]:
        made.append(root)
        return real(self, root, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Layout, "samples", samples)
    return made


def test_packed_once_and_found_again(root: Path, tmp_path: Path, calls: list[Path]) -> None:
    first = packed(ESC50, root, tmp_path / "cache")
    assert packed(LAYOUTS.check({"name": "esc50"}), root, tmp_path / "cache") == first
    assert calls == [root]
    assert json.loads((first / "layout.json").read_text())["layout"] == {"name": "esc50", "folds": None}
    assert first.parent == tmp_path / "cache"
    assert first.name.startswith("esc50-")


def test_another_place_of_the_same_folder_is_the_same(root: Path, tmp_path: Path, calls: list[Path]) -> None:
    first = packed(ESC50, root, tmp_path / "cache")
    os.rename(root, tmp_path / "moved")
    assert packed(ESC50, tmp_path / "moved", tmp_path / "cache") == first
    assert calls == [root]


def test_whatever_changes_is_packed_anew(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, seen = tmp_path / "cache", []
    seen.append(packed(ESC50, root, cache))
    put(root, "audio/5-9032-A-0.wav", b"another length")
    seen.append(packed(ESC50, root, cache))
    os.utime(root / "audio/5-9032-A-0.wav", ns=(1, 1))
    seen.append(packed(ESC50, root, cache))
    os.utime(root / "meta/esc50.csv", ns=(1, 1))
    seen.append(packed(ESC50, root, cache))
    seen.append(packed(LAYOUTS.check({"name": "esc50", "folds": [1, 2]}), root, cache))
    monkeypatch.setattr(mmcl.layouts.esc50.Esc50, "version", 2)
    seen.append(packed(ESC50, root, cache))
    assert len(set(seen)) == len(seen)
    data = {sample["__key__"]: sample["wav"] for sample in read_samples(seen[1])}
    assert data["5-9032-A-0"] == b"another length"
    assert keys(seen[4]) == ["1-100032-A-0", "2-81112-A-34"]


def test_a_file_that_no_sample_is_made_of_changes_nothing(root: Path, tmp_path: Path, calls: list[Path]) -> None:
    first = packed(ESC50, root, tmp_path / "cache")
    put(root, "README.md", "read me")
    assert packed(ESC50, root, tmp_path / "cache") == first
    assert len(calls) == 1


def test_an_interrupted_writing_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(self: Layout, row: Row, tally: object) -> Row:
        if row["__key__"].startswith("2-"):
            raise KeyboardInterrupt
        return {"__key__": row["__key__"], "wav": row["wav"].read(), "json": row["json"]}

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "_read", stops)
        patch.setattr("mmcl.layouts.pack.SAMPLES_PER_SHARD", 1)
        with pytest.raises(KeyboardInterrupt):
            packed(ESC50, root, tmp_path / "cache")
    monkeypatch.setattr("mmcl.layouts.pack.SAMPLES_PER_SHARD", 1)
    folder = packed(ESC50, root, tmp_path / "cache")
    assert keys(folder) == ["1-100032-A-0", "5-9032-A-0", "2-81112-A-34"]
    assert not list(folder.glob(".*"))  # of a writing


def test_many_at_once_wait_for_one(root: Path, tmp_path: Path, calls: list[Path]) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(packed(ESC50, root, tmp_path / "cache"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert len(calls) == 1
    assert len(keys(found[0])) == 3


def test_a_cache_that_cannot_be_made_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(MmclError, match="no cache can be made here"):
        packed(ESC50, root, tmp_path / "cache" / "below")


def test_no_root_is_said(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=r"there is no meta/esc50.csv here. The folder holds meta/esc50.csv; audio/\*"):
        packed(ESC50, tmp_path / "nowhere", tmp_path / "cache")


def test_two_samples_of_one_key_are_refused(root: Path, tmp_path: Path) -> None:
    table = root / "meta/esc50.csv"
    table.write_text(table.read_text() + "1-100032-A-0.wav,1,0,dog,True,100032,A\n")
    with pytest.raises(MmclError, match="'1-100032-A-0' comes twice"):
        packed(ESC50, root, tmp_path / "cache")


def test_a_layout_that_reads_a_folder_asks_for_its_root(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=r"layout esc50: say the `root` that it reads, a folder that holds meta/esc50"):
        packed(ESC50, None, tmp_path)


def test_the_cache_is_the_users(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "mine"))
    assert packed(ESC50, str(root)).parent == tmp_path / "mine" / "layouts"
