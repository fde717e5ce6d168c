"""What `mmcl data check` and `mmcl data index` say, before anything is trained."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mmcl.cli import main
from mmcl.data import Source, Stream, find_shards, write_shards
from mmcl.data.check import guess
from mmcl.data.describe import describe
from mmcl.data.every_shard import every_shard
from mmcl.errors import MmclError
from mmcl.recipe import dump_yaml
from tests.data.test_index import tar
from tests.data.test_stream import picture


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of which one is cut, with everything that can be wrong."""
    folder = tmp_path_factory.mktemp("dirty")
    fine = [(f"a{i}.{e}", d) for i in range(6) for e, d in (("png", picture(i)), ("txt", b"text"))]
    bad = [("b0.png", b"noise"), ("b0.txt", b"x"), ("b1.png", picture(1)), ("b1.txt", b"\xe9"), ("b2.txt", b"only")]
    more = [("a1.png", picture(1)), ("a1.txt", b"again"), ("cat.v1.jpg", picture(1, "JPEG")), ("cat.txt", b"cat")]
    tar(folder / "0.tar", [*fine, *bad])
    cut = tar(folder / "1.tar", [*more, ("z.png", picture(1)), ("z.txt", b"z" * 20_000)])
    cut.write_bytes(cut.read_bytes()[:12_000])
    return folder


def report(folder: Path, out: Path, *words: str, code: int | None = 1) -> dict[str, Any]:
    command = ["data", "check", *words, "--json", str(out), "--processes", "1"]
    if code is None:
        main(command)
    else:
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == code
    return json.loads(out.read_text())


def test_everything_that_is_wrong_is_counted_and_named(
    dirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(dirty), "--modality", "image=png", "--modality", "text=txt", "--bad", str(tmp_path / "bad.jsonl")]
    told = report(dirty, tmp_path / "r.json", *words)
    assert told["samples"] == 12
    assert told["modalities"] == {"image": 9, "text": 10}
    assert told["reasons"] == {
        "shard": {"txt: the shard is cut before the member's end": 1},
        "image": {"no png": 2, "image cannot be decoded (cannot identify image file)": 1},
        "text": {"text is not UTF-8": 1, "no txt": 1},
    }
    assert told["bad_samples"] == 5
    assert told["repeated_keys"]["samples"] == 2
    assert sorted(told["repeated_keys"]["examples"]) == [f"a1 in {dirty}/0.tar", f"a1 in {dirty}/1.tar"]
    assert told["extensions_with_dots"] == ["v1.jpg"]
    assert told["sizes"]["image"]["height in pixels"]["half"] == 6
    assert told["sizes"]["image"]["width in pixels"]["most"] == 4
    assert told["bad_shards"] == 1
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert sorted((bad["key"], bad["modality"]) for bad in listed) == [
        ("b0", "image"), ("b1", "text"), ("b2", "image"), ("cat", "image"), ("z", ""), ("z", "text")
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "12 samples in 2 shards" in printed
    assert "bad: image: no png; first b2 in" in printed
    assert "5 samples and 1 shard have something bad" in printed
    assert "height in pixels 6 .. 6 .. 6, width in pixels 4 .. 4 .. 4" in printed


def test_it_says_what_a_stream_says(dirty: Path, tmp_path: Path) -> None:
    words = [str(dirty), "--modality", "image=png", "--modality", "text=txt", "--bad", str(tmp_path / "bad.jsonl")]
    report(dirty, tmp_path / "r.json", *words)
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    source = Source(shards=str(dirty), modalities={"image": "png", "text": "txt"})
    streamed = [bad._asdict() for batch in Stream(source, batch_size=5) for bad in batch.bad]
    order = lambda bad: (bad["key"], bad["modality"])  # noqa: E731
    assert sorted(listed, key=order) == sorted(streamed, key=order)


def test_clean_shards_are_clean_and_modalities_are_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(
        ({"__key__": f"{i}", "png": picture(i), "txt": "t", "json": {"a": 1}} for i in range(5)), tmp_path / "s"
    )
    told = report(tmp_path, tmp_path / "r.json", str(tmp_path / "s"), code=None)
    assert told["modalities"] == {"image": 5, "text": 5}
    assert told["bad_samples"] == 0
    printed = capsys.readouterr()
    assert "nothing is bad" in printed.out
    assert "as the members suggest: {'image': 'png', 'text': 'txt'}" in printed.err


def test_a_recipe_says_what_is_checked(tmp_path: Path, tiny: Any, dirty: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(tiny(tmp_path / "run", f"data.train.shards={dirty}").model_dump(mode="json")))
    told = report(dirty, tmp_path / "r.json", "--recipe", str(path))
    assert told["reasons"]["image"]["no png"] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "say which shards"),
        (["nowhere/*.tar"], "no shards match"),
        (["pipe:cat x", "--modality", "a=png"], "a pipe or a compressed tar has no index"),
        (["pipe:cat x"], "a pipe or a compressed tar has no index"),
        (["{dirty}", "--modality", "image=png", "--json", "/nowhere/r.json"], "--json: there is no folder /nowhere"),
        (["{dirty}", "--modality", "image=png", "--bad", "{dirty}"], "is a folder"),
        (["{dirty}", "--modality", "image=png", "--processes", "0"], "processes must be 1 or more"),
        (["{dirty}", "--modality", "image"], "--modality is NAME=WHERE"),
        (["{dirty}", "--recipe", "glyphs/clip_tiny"], "say which shards"),
        (["{dirty}", "--modality", "image=pkl"], "would run code"),
    ],
)
def test_mistakes_are_told(dirty: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", *(word.format(dirty=dirty) for word in words)])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def dies(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_a_shard_that_kills_its_reader_is_told_on_and_costs_no_other() -> None:
    results = dict(every_shard(dies, [1, 2, 3, 4, 5], "dying", processes=2))
    assert results == {1: 1, 2: 2, 3: None, 4: 4, 5: 5}


def test_index_describes_folders_and_holds_shards_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            tar(tmp_path / name / f"{number}.tar", [(f"{name}{number}{i}.txt", b"t") for i in range(3)])
    main(["data", "index", str(tmp_path), "--sha256", "--processes", "1"])
    assert capsys.readouterr().out.count("indexed and described in manifest.json") == 2
    listed = find_shards(tmp_path)
    assert [shard.samples for shard in listed] == [3] * 4
    assert all(shard.digest and shard.sha256 and len(shard.sha256) == 64 for shard in listed)
    assert "folders" not in json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert describe([str(tmp_path / "a")], processes=1) == {tmp_path / "a": "indexed; as manifest.json says"}
    tar(tmp_path / "a" / "1.tar", [(f"a1{i}.txt", b"tt") for i in range(4)])
    with pytest.raises(MmclError, match=r"1.tar is not what .*manifest.json says: samples, digest differ"):
        describe([str(tmp_path / "a")], processes=1)
    (tmp_path / "b" / "manifest.json").write_text('{"name": "somebody else\'s"}')
    assert "not one of ours" in describe([str(tmp_path / "b")], processes=1)[tmp_path / "b"]
    assert json.loads((tmp_path / "b" / "manifest.json").read_text()) == {"name": "somebody else's"}


def test_a_part_of_a_folder_is_not_described_as_the_whole(tmp_path: Path) -> None:
    for number in range(2):
        tar(tmp_path / f"{number}.tar", [("a.txt", b"t")])
    assert "holds other shards as well" in describe([str(tmp_path / "0.tar")], processes=1)[tmp_path]
    assert not (tmp_path / "manifest.json").exists()
    assert (tmp_path / "0.tar.index.safetensors").exists()


def test_content_that_was_changed_in_place_is_met_by_its_checksum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(({"__key__": f"{i}", "txt": f"text {i}"} for i in range(5)), tmp_path / "s")
    shard = tmp_path / "s" / "00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"text 3", b"oh no!"))
    told = report(tmp_path, tmp_path / "r.json", str(tmp_path / "s"))
    assert list(told["reasons"]["shard"]) == [f"its sha256 is not the one in {tmp_path}/s/manifest.json"]
    assert "0 samples and 1 shard have something bad" in capsys.readouterr().out


def test_modalities_are_guessed_from_the_shards_that_can_be_read(tmp_path: Path) -> None:
    samples = [
        (f"{i}.{e}", d) for i in range(9) for e, d in (("png", picture(i)), ("txt", b"t")) if (i, e) != (4, "txt")
    ]
    tar(tmp_path / "1.tar", [*samples, ("8.wav", b"noise")])
    (tmp_path / "0.tar").write_bytes(b"no tar" * 500)
    told = report(tmp_path, tmp_path / "r.json", str(tmp_path))
    assert told["modalities"] == {"image": 9, "text": 8}
    assert told["reasons"]["text"] == {"no txt": 1}  # most have one
    assert list(told["reasons"]["audio"].values()) == [1]  # few have one
    assert "no uncompressed tar" in next(iter(told["reasons"]["shard"]))


def test_shards_of_nothing_are_told(tmp_path: Path) -> None:
    for name, content, told in (
        ("text", b"no tar at all", "this is no uncompressed tar"),
        ("zero", b"", "zero.tar: no samples"),
        ("empty", bytes(10240), "empty.tar: no samples"),
    ):
        (tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(MmclError, match=told):
            guess([str(tmp_path / f"{name}.tar")])


def test_names_with_brackets_are_checked_as_they_are(tmp_path: Path) -> None:
    tar(tmp_path / "set[1].tar", [("a.txt", b"t")])
    tar(tmp_path / "set1.tar", [("b.txt", b"t"), ("c.txt", b"t")])
    assert report(tmp_path, tmp_path / "r.json", str(tmp_path / "set[1].tar"), code=None)["samples"] == 1


def test_what_is_guessed_is_what_readers_would_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar(tmp_path / "depth.tar", [("a.depth.png", picture(1)), ("a.jpg", b"no picture")])
    told = report(tmp_path, tmp_path / "r.json", str(tmp_path / "depth.tar"))
    assert told["bad_samples"] == 1
    assert told["extensions_with_dots"] == ["depth.png"]
    tar(tmp_path / "dots.tar", [(f"v1.{i:02d}.jpg", picture(1, "JPEG")) for i in range(10)])
    with pytest.raises(SystemExit):
        main(["data", "check", str(tmp_path / "dots.tar")])
    assert "a key ends at the first dot of a name" in capsys.readouterr().err
