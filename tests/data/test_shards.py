"""Finding shards, and what other tools say about them."""

import json
import struct
from pathlib import Path

import pytest

from mmcl.data import Source, Stream
from mmcl.data.shards import Listed, expand, find_shards
from mmcl.errors import MmclError
from tests.data.test_index import tar


def shards(folder: Path, names: list[str], samples: int = 4) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return [str(tar(folder / n, [(f"{n[:-4]}{i}.txt", f"{i}".encode()) for i in range(samples)])) for n in names]


def test_braces_globs_folders_and_lists(tmp_path: Path) -> None:
    made = shards(tmp_path / "d", ["000.tar", "001.tar", "002.tar"])
    root = tmp_path / "d"
    for pattern in (
        root / "{000..002}.tar",
        root / "*.tar",
        root,
        tmp_path,
        made,
        f"file://{root}/000.tar::{root}/00[12].tar",
    ):
        assert expand(pattern) == made


def test_names_with_brackets_are_names_where_such_a_file_is(tmp_path: Path) -> None:
    made = shards(tmp_path / "set[1]", ["a.tar"])
    assert expand(made[0]) == made
    assert expand(tmp_path / "set[1]") == made


def test_missing_shards_are_named_and_counted(tmp_path: Path) -> None:
    shards(tmp_path, ["000.tar"])
    with pytest.raises(MmclError, match=r"2 of 3 shards .* are missing: .*001.tar, .*002.tar"):
        find_shards(tmp_path / "{000..002}.tar")
    with pytest.raises(MmclError, match="no shards match"):
        find_shards(tmp_path / "nothing-*.tar")


def test_clip_benchmarks_folders_are_read_as_nshards_says(tmp_path: Path) -> None:
    made = shards(tmp_path, [f"{i}.tar" for i in range(12)])
    (tmp_path / "nshards.txt").write_text("12\n")
    assert expand(tmp_path) == made  # in the order of the numbers


def describe(kind: str, folder: Path, samples: int) -> None:
    if kind == "open_clip":
        (folder / "sizes.json").write_text(json.dumps({"00000.tar": samples}))
    elif kind == "wids":
        (folder / "wids.json").write_text(json.dumps({"shardlist": [{"url": "00000.tar", "nsamples": samples}]}))
    elif kind == "img2dataset":
        (folder / "00000_stats.json").write_text(json.dumps({"count": 9, "successes": samples, "status_dict": {}}))
    elif kind == "energon":
        (folder / "00000.tar.idx").write_bytes(struct.pack(f"<{samples + 1}Q", *range(samples + 1)))
    elif kind == "dali":
        (folder / "00000.idx").write_text(f"v1.2 {samples}\n" + "txt 512 1 a.txt\n" * samples)
    elif kind == "mmcl":
        (folder / "manifest.json").write_text(json.dumps({"shards": [{"name": "00000.tar", "samples": samples}]}))


@pytest.mark.parametrize("kind", ["open_clip", "wids", "img2dataset", "energon", "dali", "mmcl"])
def test_counts_of_other_tools_are_used_and_held_to(tmp_path: Path, kind: str) -> None:
    (made,) = shards(tmp_path, ["00000.tar"])
    describe(kind, tmp_path, 4)
    assert [listed.samples for listed in find_shards(made)] == [4]
    source = Source(shards=made, modalities={"text": "txt"})
    assert [len(batch) for batch in Stream(source, batch_size=4)] == [4]
    describe(kind, tmp_path, 5)
    with pytest.raises(MmclError, match=r"says that 00000.tar has 5 samples, but it has 4"):
        list(Stream(source, batch_size=4))


def test_a_description_that_is_not_whole_says_nothing(tmp_path: Path) -> None:
    (made,) = shards(tmp_path, ["00000.tar"])
    for name in ("sizes.json", "wids.json", "00000_stats.json", "00000.idx"):
        (tmp_path / name).write_text("{")
    assert [listed.samples for listed in find_shards(made)] == [None]
    (tmp_path / "manifest.json").write_text("{")  # its checksums would not be held to, and nobody would know
    with pytest.raises(MmclError, match=r"manifest.json: this is not JSON .* Restore it, or remove it"):
        find_shards(made)


def test_a_folder_is_what_its_manifest_names(tmp_path: Path) -> None:
    made = shards(tmp_path, ["a.tar", "b.tar"])
    names = [{"name": Path(path).name, "samples": 4} for path in made]
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [*names, {"name": "gone.tar", "samples": 4}]}))
    with pytest.raises(MmclError, match=r"1 of 3 shards .* are missing: .*/gone.tar"):
        find_shards(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": names}))
    assert [shard.url for shard in find_shards(f"{tmp_path}/")] == made
    shards(tmp_path / "more", ["c.tar"])
    with pytest.raises(MmclError, match=r"manifest.json does not name .*/more/c.tar, which lies there as well"):
        find_shards(tmp_path)


def test_a_folder_that_is_being_written_is_refused(tmp_path: Path) -> None:
    made = shards(tmp_path, ["a.tar"])
    (tmp_path / ".unfinished").touch()
    for pattern in (tmp_path, made[0], tmp_path / "*.tar"):
        with pytest.raises(MmclError, match="is not finished: it is being written"):
            find_shards(pattern)
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [{"name": "a.tar", "samples": 4}]}))
    assert len(find_shards(tmp_path)) == 1  # the mark is what a process left that was killed at the very end


def test_what_lies_beside_shards_is_no_shard(tmp_path: Path) -> None:
    made = shards(tmp_path, ["train-0.tar"])
    (tmp_path / "train-0.tar.index.safetensors").touch()
    assert expand(tmp_path / "train-*") == made
    (tmp_path / "train-1.tar.gz").touch()
    packed = str(tmp_path / "train-1.tar.gz")
    assert expand(tmp_path / "train-*") == [*made, packed]
    assert expand(tmp_path / "*.tar.gz") == expand(packed) == [packed]


def test_a_shard_is_named_once(tmp_path: Path) -> None:
    made = shards(tmp_path, ["a.tar", "b.tar"])
    for again in (made[1], f"{tmp_path}/./b.tar", f"{tmp_path}/../{tmp_path.name}//b.tar"):
        with pytest.raises(MmclError, match=r"b.tar is named twice"):
            find_shards([*made, again])


def test_braces_are_balanced_and_ranges_of_pipes_are_several(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match="braces are not balanced"):
        expand("{000..001.tar")
    assert expand("pipe:cat {08..10}.tar | awk '{print $1,$2}'") == [
        f"pipe:cat {n}.tar | awk '{{print $1,$2}}'" for n in ("08", "09", "10")
    ]


def test_what_a_url_asks_of_the_server_is_no_part_of_its_name() -> None:
    listed = Listed("https://host/set/a.tar?signature=x/y.tar")
    assert (listed.name, listed.shown) == ("a.tar", "https://host/set/a.tar?***")
    assert (
        Listed("pipe:curl https://me:secret@host/a.tar?key=1 | cat").shown
        == "pipe:curl https://***@host/a.tar?*** | cat"
    )
