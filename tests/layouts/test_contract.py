"""What every layout keeps: its miniature becomes the samples that were put in, and nothing is lost without a word."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcl.data import read_samples
from mmcl.errors import MmclError
from mmcl.layouts import LAYOUTS, lost, packed
from mmcl.registry import Part
from tests.layouts.files import Miniature
from tests.layouts.miniatures import MINIATURES

LOSING = ["audiocaps", "vggsound"]


def part(name: str, mini: Miniature) -> Part:
    return LAYOUTS.check({"name": name, **mini.args})


def check(samples: dict[str, dict[str, bytes]], expected: dict[str, dict[str, Any]]) -> None:
    """Samples of shards against what was put in: bytes are the same, pictures that were made have the same pixels."""
    assert list(samples) == list(expected)
    for key, members in expected.items():
        assert set(samples[key]) == set(members), key
        for name, value in members.items():
            found = samples[key][name]
            if isinstance(value, np.ndarray):
                assert np.array_equal(np.asarray(Image.open(io.BytesIO(found))), value)
            elif isinstance(value, dict):
                assert json.loads(found) == value
            else:
                assert found == (value.encode() if isinstance(value, str) else value)


def read(folder: Path) -> dict[str, dict[str, bytes]]:
    return {sample.pop("__key__"): sample for sample in read_samples(folder)}


def test_every_layout_has_a_miniature() -> None:
    assert set(MINIATURES) | {"digits"} == set(LAYOUTS.offered())


@pytest.mark.parametrize("name", MINIATURES)
def test_what_is_packed_is_what_was_put_in(name: str, tmp_path: Path) -> None:
    mini = MINIATURES[name](tmp_path / "root")
    folder = packed(part(name, mini), tmp_path / "root", tmp_path / "cache")
    check(read(folder), mini.expected)
    assert lost(folder) == 0
    assert json.loads((folder / "counts.json").read_text()) == {"samples": len(mini.expected)}
    made = list(LAYOUTS.check({"name": name, **mini.args}).build().samples(tmp_path / "root"))
    assert [sample["__key__"] for sample in made] == list(mini.expected)


@pytest.mark.parametrize(
    ("name", "annotation"),
    [
        (name, i)
        for name in MINIATURES
        for i in range(2 if name in ("xtd10", "multi30k", "mnist", "fashion_iq", "cirr") else 1)
    ],
)
def test_a_missing_annotation_is_named(name: str, annotation: int, tmp_path: Path) -> None:
    mini = MINIATURES[name](tmp_path)
    if not mini.annotations:
        shutil.rmtree(tmp_path / "genres_original")
        missing = "genres_original"
    else:
        missing = Path(mini.annotations[annotation]).name
        (tmp_path / mini.annotations[annotation]).unlink()
    with pytest.raises(MmclError) as error:
        packed(part(name, mini), tmp_path, tmp_path / "cache")
    assert str(tmp_path) in str(error.value)
    assert missing in str(error.value)
    assert "The folder holds" in str(error.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", [name for name in MINIATURES if name not in (*LOSING, "mnist", "folders")])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_missing_file_is_an_error_that_names_it(name: str, how: str, tmp_path: Path) -> None:
    mini = MINIATURES[name](tmp_path)
    gone = tmp_path / mini.media[-1]
    gone.write_bytes(b"")
    if how == "missing":
        gone.unlink()
    with pytest.raises(MmclError, match=r"1 of \d+ files that the annotations name are missing or empty") as error:
        packed(part(name, mini), tmp_path, tmp_path / "cache")
    assert mini.media[-1] in str(error.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", LOSING)
def test_clips_that_were_taken_down_are_counted_and_listed(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mini = MINIATURES[name](tmp_path)
    (tmp_path / mini.media[0]).unlink()
    folder = packed(part(name, mini), tmp_path, tmp_path / "cache")
    first, *rest = mini.expected
    check(read(folder), {key: mini.expected[key] for key in rest})
    assert lost(folder) == 1
    (line,) = (folder / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == first
    assert json.loads(line)["file"].endswith(mini.media[0])
    assert "1 samples" in caplog.text
    assert "taken down" in caplog.text
    (tmp_path / mini.media[1]).write_bytes(b"")
    with pytest.raises(MmclError, match="2 of 2 files"):  # none is left: the pattern is wrong, or nothing was fetched
        packed(part(name, mini), tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("name", [name for name in MINIATURES if name not in ("mnist", "folders")])
def test_annotations_of_another_form_are_said_in_words(name: str, tmp_path: Path) -> None:
    """Whatever stands in the file, what a person reads names it."""
    mini = MINIATURES[name](tmp_path)
    path = tmp_path / mini.annotations[-1]
    for content in (b"{}", b"[]", b"[1, 2]", b'{"a": {"b": 1}}', b"a,b\n1,2\n3,4\n", b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(MmclError) as error:
            packed(part(name, mini), tmp_path, tmp_path / "cache")
        assert path.name in str(error.value), (content, str(error.value))
