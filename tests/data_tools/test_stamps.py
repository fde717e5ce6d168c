"""The stamps data set, on a miniature of the package, and on the package itself where MMCL_STAMPS names its folder."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmcl import bundled
from mmcl.data import read_samples
from mmcl.errors import MmclError

TOOLS = bundled.shelf("data_tools")
SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" {}><rect x="2" y="2" width="9" height="4" fill="#00f"/></svg>'
HIDDEN = np.zeros((20, 10, 4), np.uint8)  # black, but transparent


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    import stamps

    monkeypatch.setattr(stamps, "PIECES", 280)  # of a few words
    return stamps


def put(root: Path, name: str, content: bytes | str | np.ndarray) -> None:
    """A file of a miniature package: text, a picture (height, width, 4) or a second of sound."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray) and content.ndim == 3:
        Image.fromarray(content, "RGBA").save(path)
    elif isinstance(content, np.ndarray):
        soundfile.write(path, content, 8000)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def picture(red: int, green: int, blue: int) -> np.ndarray:
    """10 by 20, of which the left half is transparent black."""
    made = HIDDEN.copy()
    made[:, 5:] = (red, green, blue, 255)
    return made


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What the real one has: twins, variants, missing parts, broken and silent recordings, odd names."""
    root = tmp_path / "unpacked/usr/share/tuxpaint/stamps"
    tone = np.sin(np.arange(8000) / 9)
    put(root, "animals/birds/owl.png", picture(255, 0, 0))
    put(root, "animals/birds/owl.svg", "this is not even read: there is a PNG")
    put(root, "animals/birds/owl.txt", "An owl.\nfr.utf8=Un hibou.\npt_BR.utf8=Uma coruja = 1.\nde.utf8=\n")
    put(root, "animals/birds/owl_desc_fr.ogg", tone)
    put(root, "animals/birds/owl_desc.wav", tone)
    put(root, "animals/birds/owl_desc_pt_BR.ogg.ogg", tone)
    put(root, "animals/birds/owl.ogg", tone)
    put(root, "animals/birds/owl_desc_ru.ogg", b"OggS, but broken")
    put(root, "animals/birds/owl_desc_es.ogg", np.zeros(800))
    put(root, "animals/birds/owl_desc_el.wav", np.zeros(0))
    put(root, "animals/birds/owl_mirror.png", picture(255, 0, 0))
    put(root, "food/lost.txt", "Nothing to see.")
    put(root, "food/lost_desc_fr.ogg", tone)
    put(root, "food/points.svg", SQUARE.format('width="20pt" height="10pt"'))
    put(root, "food/points.txt", "Café: “points”")
    put(root, "food/white.png", picture(255, 255, 255))
    put(root, "food/white.txt", "Some snow.")
    put(root, "food/blank.png", HIDDEN)
    put(root, "food/blank.txt", "Nothing.")
    put(root, "food/broken.png", b"PNG?")
    put(root, "food/broken.txt", "Broken.")
    put(root, "symbols/math/7.png", picture(9, 0, 0))
    put(root, "symbols/math/7.txt", "Seven.")
    put(root, "symbols/math/7.ogg", tone)
    put(root, "symbols/math/7_zh_tw.ogg", tone)
    put(root, "symbols/math/7_fr.ogg", tone / 2)
    put(root, "symbols/math/7_desc_fr.ogg", tone / 3)
    return tmp_path / "unpacked"


def read(out: Path) -> dict[str, dict[str, bytes]]:
    """Key -> extension -> bytes of all samples."""
    return {str(sample.pop("__key__")): sample for sample in read_samples(out)}


def test_a_sample_has_its_picture_captions_and_recordings(tool: Any, package: Path, tmp_path: Path) -> None:
    tool.build(tmp_path / "out", package)
    samples = read(tmp_path / "out")
    assert set(samples) == {"animals-birds-owl", "food-points", "food-white", "symbols-math-7"}
    owl = samples["animals-birds-owl"]
    assert set(owl) == {"png", "txt", "json", "fr.ogg", "en.wav", "pt_br.ogg", "effect.ogg"}
    assert owl["fr.ogg"] == (package / "usr/share/tuxpaint/stamps/animals/birds/owl_desc_fr.ogg").read_bytes()
    assert owl["txt"] == b"An owl."
    assert json.loads(owl["json"]) == {
        "stamp": "animals/birds/owl",
        "category": "animals",
        "subcategory": "animals/birds",
        "caption_id": "owl",
        "captions": {"en": "An owl.", "fr": "Un hibou.", "pt_br": "Uma coruja = 1."},
        "effect": True,
        "spoken": ["en", "fr", "pt_br"],
    }
    assert json.loads(samples["food-points"]["json"])["subcategory"] == "food"
    assert samples["food-points"]["txt"].decode() == "Café: “points”"


def test_a_sound_that_says_a_symbols_name_is_no_effect(tool: Any, package: Path, tmp_path: Path) -> None:
    tool.build(tmp_path / "out", package)
    seven = read(tmp_path / "out")["symbols-math-7"]
    assert set(seven) == {"png", "txt", "json", "en.ogg", "fr.ogg", "zh_tw.ogg"}
    assert seven["fr.ogg"] == (package / "usr/share/tuxpaint/stamps/symbols/math/7_desc_fr.ogg").read_bytes()
    assert json.loads(seven["json"])["effect"] is False


def test_what_is_transparent_is_paper_and_what_is_white_is_on_black(tool: Any, package: Path, tmp_path: Path) -> None:
    tool.build(tmp_path / "out", package)
    samples = read(tmp_path / "out")

    def pixels(key: str) -> np.ndarray:
        made = Image.open(io.BytesIO(samples[key]["png"]))
        assert (made.mode, made.width) == ("RGB", made.height)
        return np.asarray(made)

    owl = pixels("animals-birds-owl")  # 10 by 20, on 22 by 22
    assert owl.shape == (22, 22, 3)
    assert owl[1:21, 11:16].reshape(-1, 3).tolist() == 100 * [[255, 0, 0]]
    assert int((owl == 255).all(2).sum()) == 22 * 22 - 100
    assert pixels("food-white").mean() == pytest.approx(255 * 100 / 22**2)
    assert pixels("food-points").shape == (30, 30, 3)  # 20 points are 27 pixels
    assert {tuple(p) for p in pixels("food-points").reshape(-1, 3).tolist()} >= {(0, 0, 255), (255, 255, 255)}


def test_what_cannot_be_used_is_told(tool: Any, package: Path, tmp_path: Path) -> None:
    tool.build(tmp_path / "out", package)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["left_out"] == {
        "captions without a picture": ["food/lost.txt"],
        "pictures without a caption": ["animals/birds/owl_mirror.png"],
        "pictures or captions that cannot be read": ["food/blank.png", "food/broken.png"],
        "recordings without a stamp": ["food/lost_desc_fr.ogg"],
        "recordings that cannot be read": ["animals/birds/owl_desc_ru.ogg"],
        "empty or silent recordings": ["animals/birds/owl_desc_el.wav", "animals/birds/owl_desc_es.ogg"],
        "second recordings of a stamp in a language": ["symbols/math/7_fr.ogg"],
    }
    assert manifest["train"] + manifest["test"] == 4
    assert manifest["spoken"] == {"fr": 2, "en": 2, "pt_br": 1, "zh_tw": 1}
    assert manifest["effects"] == 1


@pytest.mark.parametrize(
    ("one", "other", "same", "family"),
    [
        ("A flower.", "Some flowers!", True, True),
        ("The letter N.", "the letter n", True, True),
        ("A green bus.", "A bus.", False, True),
        ("A green apple.", "A red apple.", False, True),
        ("An orange.", "An apple.", False, False),
        ("An orange.", "A banana.", False, False),
        ("A glass.", "A gla.", False, False),
        ("A bus.", "A bu.", False, False),
        ("10 Japanese yen.", "100 Japanese yen.", False, False),
        ("A", "The", False, False),
        ("!", "?", False, False),
    ],
)
def test_captions_that_say_the_same(tool: Any, one: str, other: str, same: bool, family: bool) -> None:
    stamps = [tool.Stamp(name, name.encode(), {"en": caption}) for name, caption in (("a/1", one), ("b/2", other))]
    ids = {tool.sample(stamp)["json"]["caption_id"] for stamp in stamps}
    assert (len(ids) == 1) == same
    assert (len(tool.families(stamps)) == 1) == family


def test_families_are_joined_through_others(tool: Any) -> None:
    made = [
        tool.Stamp("a/1", b"1", {"en": "A bass guitar"}, {"fr.ogg": b"guitare"}),
        tool.Stamp("a/2", b"2", {"en": "A lamp"}),
        tool.Stamp("b/3", b"3", {"en": "A lute"}, {"effect.ogg": b"lute"}),
        tool.Stamp("b/4", b"2", {"en": "A light"}),
        tool.Stamp("c/5", b"5", {"en": "Lutes"}, {"fr.ogg": b"guitare"}),
    ]
    for order in (made, made[::-1]):
        families = {frozenset(stamp.path for stamp in family) for family in tool.families(order)}
        assert families == {frozenset({"a/1", "b/3", "c/5"}), frozenset({"a/2", "b/4"})}


def test_the_split_depends_on_hashes_alone_and_holds_every_category(tool: Any) -> None:
    made = [tool.Stamp(f"{c}/{i:03d}", f"{c}{i}".encode(), {"en": f"{c} {i // 2}"}) for c in "abc" for i in range(200)]
    chosen = tool.choose_test(made)
    assert chosen == tool.choose_test(made[:])
    assert Counter(path[0] for path in chosen) == {"a": 30, "b": 30, "c": 30}
    assert all(f"{path[:2]}{int(path[2:]) ^ 1:03d}" in chosen for path in chosen)
    assert len({path[2:] for path in chosen}) > 60  # not the same ones of every category


def test_two_builds_are_equal(tool: Any, package: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tool.build(tmp_path / name, package)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    assert len(files) >= 4
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb makes the package")
def test_a_package_is_unpacked(tool: Any, package: Path, tmp_path: Path) -> None:
    put(package, "DEBIAN/control", "Package: t\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n")
    target = tmp_path / "debs" / "tuxpaint-stamps-default_1_all.deb"
    target.parent.mkdir()
    subprocess.run(["dpkg-deb", "-b", str(package), str(target)], check=True, capture_output=True)
    tool.build(tmp_path / "one", target)
    tool.build(tmp_path / "two", target.parent)
    assert read(tmp_path / "one").keys() == read(tmp_path / "two").keys()
    assert len(read(tmp_path / "one")) == 4


def test_without_apt_and_without_stamps_it_says_what_to_do(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MmclError, match=r"empty holds no stamps: pictures .* of the same name"):
        tool.build(tmp_path / "out", tmp_path / "empty")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(MmclError, match=r"apt-get is not installed here\. Get the package at https://packages.debian"):
        tool.build(tmp_path / "out")
    put(tmp_path, "empty/apt-get", "#!/bin/sh\necho 'E: Unable to locate package' >&2; exit 100\n")
    (tmp_path / "empty/apt-get").chmod(0o755)
    with pytest.raises(MmclError, match=r"`apt-get download tuxpaint-stamps-default` failed: E: Unable to locate"):
        tool.build(tmp_path / "out")


def test_a_missing_package_of_python_is_told(tmp_path: Path) -> None:
    """Through the command, in a Python where resvg_py cannot be imported."""
    code = "import sys; sys.modules['resvg_py'] = None; from mmcl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "build", "stamps", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "stamps needs the package resvg_py: pip install" in done.stderr.replace("\n", " ")


@pytest.mark.skipif("MMCL_STAMPS" not in os.environ, reason="MMCL_STAMPS names no folder with the package")
@pytest.mark.slow
def test_the_package_is_all_there(tool: Any, tmp_path: Path) -> None:
    tool.build(tmp_path / "out", Path(os.environ["MMCL_STAMPS"]))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name: len(files) for name, files in manifest["left_out"].items()} == {
        "captions without a picture": 2,
        "pictures without a caption": 11,
        "recordings without a stamp": 44,
        "empty or silent recordings": 4,
        "second recordings of a stamp in a language": 28,
    }
    assert (manifest["train"], manifest["test"], manifest["families"]) == (799, 151, 751)
    assert len(manifest["captions"]) == 78
    assert sum(manifest["spoken"].values()) == 7691
    assert manifest["effects"] == 106
    samples = {key: json.loads(members["json"]) for key, members in read(tmp_path / "out").items()}
    assert len(samples) == 950
    assert len({s["category"] for s in samples.values()}) == 16
    assert len({s["subcategory"] for s in samples.values()}) == 75
    assert all(set(manifest["categories"][side]) == set(manifest["categories"]["train"]) for side in ("train", "test"))
    sides = [
        {json.loads(m["json"])["caption_id"] for m in read(tmp_path / "out" / s).values()} for s in ("train", "test")
    ]
    assert sides[0].isdisjoint(sides[1])
