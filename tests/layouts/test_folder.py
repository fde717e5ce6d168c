"""Annotations and files of a data set's folder."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl.errors import MmclError
from mmcl.layouts.folder import Folder, filled, key_of
from tests.layouts.files import picture, pixels, put


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, ["a.csv", "images/*.jpg"])


def test_files_are_read_as_they_are(folder: Folder) -> None:
    data = put(folder.root, "images/A B.JPG", b"\0\1whatever")
    file = folder.media("images", "A B.JPG")
    assert (file.read(), file.extension, file.there()) == (data, "jpg", True)
    assert not folder.media("images", "b.jpg").there()
    put(folder.root, "images/c.jpg", b"")
    assert not folder.media("images", "c.jpg").there()
    assert not folder.media("images").there()


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/passwd", "a/../../b"])
def test_paths_out_of_the_folder_are_refused(folder: Folder, path: str) -> None:
    """Annotations come from elsewhere."""
    for find in (folder.media, folder.data, folder.text):
        with pytest.raises(MmclError, match="does not lie below"):
            find(path)


def test_what_was_read_is_known(folder: Folder) -> None:
    put(folder.root, "a.csv", "x,y\n1,2\n")
    put(folder.root, "b.txt", "")
    for _ in range(2):
        folder.table("a.csv", ["x"])
    folder.text("b.txt")
    folder.media("images", "a.jpg")
    assert folder.read == [folder.root / "a.csv", folder.root / "b.txt"]


def test_tables(folder: Folder) -> None:
    put(folder.root, "a.csv", '\ufeffx,y\r\n007,"a, ""b""\nc"\r\nNA,\r\n')
    assert folder.table("a.csv", ["y", "x"]) == [{"x": "007", "y": 'a, "b"\nc'}, {"x": "NA", "y": ""}]
    assert folder.table("a.csv", ["p", "q"], header=False)[0] == {"p": "x", "q": "y"}
    with pytest.raises(MmclError, match="no column 'z'; there are: x, y"):
        folder.table("a.csv", ["x", "z"])
    for rows in ("x,y\n1\n", "x,y\n1,2,3\n"):
        put(folder.root, "a.csv", rows)
        with pytest.raises(MmclError, match="line 2: this row has not as many cells as columns"):
            folder.table("a.csv", ["x"])


def test_lines_and_json(folder: Folder) -> None:
    put(folder.root, "a.txt", "one\r\n\r\ntwo\u2028still two\r\n")
    assert folder.lines("a.txt") == ["one", "", "two\u2028still two"]
    put(folder.root, "a.json.gz", gzip.compress(b'{"a": 1}'))
    assert folder.json("a.json.gz", dict) == {"a": 1}
    with pytest.raises(MmclError, match="a JSON list is needed, this is a dict"):
        folder.json("a.json.gz", list)
    put(folder.root, "b.json", '{"a": ')
    with pytest.raises(MmclError, match="b.json: this is not JSON"):
        folder.json("b.json", dict)
    put(folder.root, "c.jsonl", '{"a": 1}\n[2]\n')
    with pytest.raises(MmclError, match="line 2: this is no JSON object"):
        folder.json_lines("c.jsonl")
    put(folder.root, "broken.gz", gzip.compress(b"some bytes")[:-4])
    with pytest.raises(MmclError, match="broken.gz cannot be read"):
        folder.data("broken.gz")
    put(folder.root, "d.txt", b"\xff")
    with pytest.raises(MmclError, match="d.txt: this is not UTF-8"):
        folder.text("d.txt")


def test_the_first_that_is_there(folder: Folder) -> None:
    put(folder.root, "b", "1")
    assert folder.first("a", "b") == "b"
    with pytest.raises(MmclError, match="there is no a or c here"):
        folder.first("a", "c")


def test_a_part_of_a_picture_has_the_pixels_of_the_picture(folder: Folder) -> None:
    put(folder.root, "a.png", picture(3, "PNG"))
    part = folder.cut((2, 1, 7, 5), "a.png")
    made = Image.open(io.BytesIO(part.read()))
    assert (made.format, made.mode, part.extension) == ("PNG", "RGB", "png")
    assert np.array_equal(np.asarray(made), pixels(3)[1:5, 2:7])
    beyond = np.asarray(Image.open(io.BytesIO(folder.cut((14, 0, 20, 2), "a.png").read())))
    assert beyond.shape == (2, 6, 3)
    assert np.array_equal(beyond[:, :2], pixels(3)[:2, 14:])
    assert not beyond[:, 2:].any()


def test_a_part_of_a_grey_picture_is_rgb(folder: Folder) -> None:
    Image.fromarray(pixels(0)[..., 0]).save(out := io.BytesIO(), "PNG")
    put(folder.root, "a.png", out.getvalue())
    made = np.asarray(Image.open(io.BytesIO(folder.cut((0, 0, 4, 4), "a.png").read())))
    assert np.array_equal(made, np.repeat(pixels(0)[:4, :4, :1], 3, 2))


def test_parts_that_cannot_be_cut(folder: Folder) -> None:
    put(folder.root, "a.jpg", picture(0)[:100])
    with pytest.raises(MmclError, match=r"a\.jpg: this picture cannot be read"):
        folder.cut((0, 0, 4, 4), "a.jpg").read()
    put(folder.root, "b.jpg", picture(0))
    with pytest.raises(MmclError, match="of this picture is empty"):
        folder.cut((4, 4, 4, 8), "b.jpg").read()


def test_patterns() -> None:
    assert filled("a/{id}_{start:06d}.wav", {"id": "x", "start": 7}, "clips") == "a/x_000007.wav"
    for pattern in ("{nothing}.wav", "{id:06d}.wav", "{}.wav", "{id"):
        with pytest.raises(MmclError, match="clips: .* cannot be filled in .* It may name id, start, each in braces"):
            filled(pattern, {"id": "x", "start": 7}, "clips")
    with pytest.raises(MmclError, match="is the same for all"):
        filled("a.wav", {"id": "x"}, "clips")


def test_keys_are_keys() -> None:
    assert key_of("a.b..c") == "a_b_c"
    assert key_of("a/b\n") == "a_b_"
