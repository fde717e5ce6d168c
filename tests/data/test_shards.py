"""Finding shards and the members in them."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from mmcl.data.shards import expand, find_shards, index_path, load_index, scan
from mmcl.errors import MmclError


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def test_braces_globs_folders_and_lists(tmp_path: Path) -> None:
    made = [tar(tmp_path / f"{i:03d}.tar", []) for i in range(3)]
    for pattern in (tmp_path / "{000..002}.tar", tmp_path / "*.tar", tmp_path, [str(p) for p in made]):
        assert expand(pattern) == made


def test_missing_shards_are_named_and_counted(tmp_path: Path) -> None:
    tar(tmp_path / "000.tar", [])
    with pytest.raises(MmclError, match=r"2 of 3 shards .* are missing: .*001.tar, .*002.tar"):
        find_shards(tmp_path / "{000..002}.tar")
    with pytest.raises(MmclError, match="no shards match"):
        find_shards(tmp_path / "nothing-*.tar")


def test_keys_end_at_the_first_dot_of_the_name_and_extensions_are_lower_case(tmp_path: Path) -> None:
    index = scan(tar(tmp_path / "a.tar", [("d.1/x.JPG", b"1"), ("d.1/x.seg.png", b"22"), ("y.txt", b"333")]))
    assert {key: set(members) for key, members in index.samples.items()} == {"d.1/x": {"jpg", "seg.png"}, "y": {"txt"}}
    assert index.read("d.1/x", "seg.png") == b"22"


def test_members_that_do_not_lie_together_are_one_sample(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4")]
    index = scan(tar(tmp_path / "a.tar", members))
    assert index.keys == ["a", "b"]
    assert index.read("b", "txt") == b"4"


def test_an_index_is_left_beside_the_shard_and_used(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one")])
    first = load_index(shard)
    content = json.loads(index_path(shard).read_text())
    content["samples"]["proof"] = {"txt": [0, 1]}
    index_path(shard).write_text(json.dumps(content))
    assert load_index(shard).keys == [*first.keys, "proof"]


@pytest.mark.parametrize("damage", ["{", "[1]", '{"format": 2, "tar": "5-abc"}', '{"format": 99}'])
def test_an_index_that_does_not_fit_is_made_again(tmp_path: Path, damage: str) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one")])
    index_path(shard).write_text(damage)
    assert load_index(shard).keys == ["a"]


def test_a_changed_sample_changes_the_digest_and_a_copy_does_not(tmp_path: Path) -> None:
    first = scan(tar(tmp_path / "a.tar", [("a.txt", b"one")]))
    assert scan(tar(tmp_path / "b.tar", [("a.txt", b"one")])).digest == first.digest
    assert scan(tar(tmp_path / "c.tar", [("a.txt", b"four")])).digest != first.digest


def test_a_second_member_of_a_name_is_listed_and_the_first_is_used(tmp_path: Path) -> None:
    index = scan(tar(tmp_path / "a.tar", [("a.txt", b"one"), ("a.txt", b"two")]))
    assert index.read("a", "txt") == b"one"
    assert index.problems == [("a", "txt: a second member of this name; the first one is used")]


def test_a_cut_shard_keeps_its_whole_samples_and_lists_the_other(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one"), ("b.txt", b"x" * 2000)])
    shard.write_bytes(shard.read_bytes()[:2000])
    index = scan(shard)
    assert index.read("a", "txt") == b"one"
    assert [key for key, _ in index.problems] == ["b"]


def test_tars_that_changed_places_are_indexed_again(tmp_path: Path) -> None:
    shards = [tar(tmp_path / name, [(key, b"12345")]) for name, key in (("a.tar", "a.txt"), ("b.tar", "b.txt"))]
    for shard in shards:
        load_index(shard)
    shards[0].rename(tmp_path / "c.tar")
    shards[1].rename(shards[0])
    (tmp_path / "c.tar").rename(shards[1])
    assert [load_index(shard).keys for shard in shards] == [["b"], ["a"]]


@pytest.mark.parametrize("damage", ["header", "boundary", "in a header", "goes on"])
def test_a_shard_that_tarfile_leaves_early_is_told_on(tmp_path: Path, damage: str) -> None:
    shard = tar(tmp_path / "a.tar", [(f"{i}.txt", b"x" * 100) for i in range(50)])
    data = bytearray(shard.read_bytes())
    if damage == "header":
        data[20 * 1024] ^= 1
    elif damage == "goes on":
        data += tar(tmp_path / "b.tar", [("more.txt", b"1")]).read_bytes()
    else:
        data = data[: 20 * 1024 + (100 if damage == "in a header" else 0)]
    shard.write_bytes(data)
    index = scan(shard)
    assert len(index.keys) == (50 if damage == "goes on" else 20)
    assert len(index.problems) == 1
    assert "nothing beyond this sample was read" in index.problems[0][1]


def test_what_is_no_tar_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"hello" * 500)
    with pytest.raises(MmclError, match="no uncompressed tar"):
        load_index(path)
