"""Indexes: where the members of the samples of a shard lie, and what is wrong with it."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from mmcl.data.index import SUFFIX, ShardIndex, index_paths, load_index, scan, stored_count, write_index
from mmcl.data.shards import Listed
from mmcl.data.store import ShardSet
from mmcl.errors import MmclError


def tar(path: Path, members: list[tuple[str, bytes]], **more: object) -> Path:
    with tarfile.open(path, "w", **more) as out:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def read(shard: Path, key: str, extension: str) -> bytes:
    opened = ShardSet([Listed(str(shard))]).open(0)
    sample = opened.index.keys.index(key)
    return opened.read([opened.members(sample)[extension]])[0]


def content(index: ShardIndex) -> dict[str, set[str]]:
    return {key: set(index.members(n)) for n, key in enumerate(index.keys)}


def test_keys_end_at_the_first_dot_of_the_name_and_extensions_are_lower_case(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("d.1/x.JPG", b"1"), ("d.1/x.seg.png", b"22"), ("y.txt", b"333")])
    assert content(scan(shard)) == {"d.1/x": {"jpg", "seg.png"}, "y": {"txt"}}
    assert read(shard, "d.1/x", "seg.png") == b"22"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_every_format(tmp_path: Path, format: int) -> None:
    name = "ordner/" + "x" * 90 + "é" * (3 if format == tarfile.USTAR_FORMAT else 40) + ".txt"
    shard = tar(tmp_path / "a.tar", [(name, b"one"), ("b.txt", b"two")], format=format)
    assert scan(shard).keys == [name.removesuffix(".txt"), "b"]
    assert read(shard, "b", "txt") == b"two"


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("\udce9t\udce9.txt", b"one")], format=tarfile.GNU_FORMAT)
    assert scan(shard).keys == ["\\xe9t\\xe9"]


def test_members_that_do_not_lie_together_are_one_sample(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4")])
    assert scan(shard).keys == ["a", "b"]
    assert read(shard, "b", "txt") == b"4"


def test_an_index_is_left_beside_the_shard_and_used(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one")])
    assert stored_count(shard) is None
    load_index(shard)
    assert index_paths(shard)[0].is_file()
    other = scan(tar(tmp_path / "b.tar", [("proof.txt", b"one"), ("more.txt", b"one")]))
    write_index(shard, other)
    assert load_index(shard).keys == ["proof", "more"]
    assert stored_count(shard) == 2


def test_a_folder_that_cannot_be_written_has_its_indexes_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one")])
    beside = index_paths(shard)[0]
    (beside.parent / f"{beside.name}.{os.getpid()}.partial").mkdir()  # nothing can be written in its place
    load_index(shard)
    assert not beside.exists()
    assert index_paths(shard)[1].is_file()
    assert stored_count(shard) == 1


@pytest.mark.parametrize("damage", [b"{", b"", b"\0" * 100, b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}"])
def test_an_index_that_does_not_fit_is_made_again(tmp_path: Path, damage: bytes) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one")])
    index_paths(shard)[0].write_bytes(damage)
    assert load_index(shard).keys == ["a"]


def test_any_flipped_byte_of_an_index_is_noticed(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [(f"{i}.txt", b"x" * i) for i in range(5)])
    expected = content(load_index(shard))
    stored = index_paths(shard)[0]
    whole = stored.read_bytes()
    for place in range(len(whole)):
        stored.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert content(load_index(shard)) == expected


def test_a_changed_sample_changes_the_digest_and_a_copy_does_not(tmp_path: Path) -> None:
    first = scan(tar(tmp_path / "a.tar", [("a.txt", b"one")]))
    assert scan(tar(tmp_path / "b.tar", [("a.txt", b"one")])).digest == first.digest
    assert scan(tar(tmp_path / "c.tar", [("a.txt", b"four")])).digest != first.digest
    assert scan(tar(tmp_path / "d.tar", [("b.txt", b"one")])).digest != first.digest


def test_a_second_member_of_a_name_is_listed_and_the_first_is_used(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one"), ("a.txt", b"two")])
    assert read(shard, "a", "txt") == b"one"
    assert scan(shard).problems == [("a", "txt: a second member of this name; the first one is used")]


def test_links_are_listed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        out.addfile(info := tarfile.TarInfo("a.txt"), io.BytesIO(b""))
        info = tarfile.TarInfo("b.txt")
        info.type, info.linkname = tarfile.LNKTYPE, "a.txt"
        out.addfile(info)
    index = scan(tmp_path / "a.tar")
    assert index.keys == ["a"]
    assert index.problems[0][0] == "b"
    assert "a link" in index.problems[0][1]


def test_a_cut_shard_keeps_its_whole_samples_and_lists_the_other(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one"), ("b.txt", b"x" * 2000)])
    shard.write_bytes(shard.read_bytes()[:2000])
    assert read(shard, "a", "txt") == b"one"
    assert scan(shard).problems == [("b", "txt: the shard is cut before the member's end")]


def test_tars_that_changed_places_are_indexed_again(tmp_path: Path) -> None:
    shards = [tar(tmp_path / name, [(key, b"12345")]) for name, key in (("a.tar", "a.txt"), ("b.tar", "b.txt"))]
    for shard in shards:
        load_index(shard)
    shards[0].rename(tmp_path / "c.tar")
    shards[1].rename(shards[0])
    (tmp_path / "c.tar").rename(shards[1])
    assert [load_index(shard).keys for shard in shards] == [["b"], ["a"]]


def swapped_in_the_middle(tmp_path: Path) -> Path:
    """A shard that was indexed, and whose middle was then written anew: equal size, beginning and end."""

    def written(name: str, large: int, letter: bytes) -> Path:
        texts = [(b"x" if i < 90 else letter) * (1000 if i == large else 10) for i in range(100)] + [b"x"] * 100
        return tar(tmp_path / name, [(f"{i:03d}.txt", text) for i, text in enumerate(texts)])

    shard, other = written("a.tar", 99, b"x"), written("b.tar", 98, b"y")
    load_index(shard)
    assert shard.stat().st_size == other.stat().st_size
    shard.write_bytes(other.read_bytes())
    return shard


def test_a_change_that_the_index_does_not_see_is_met_when_the_sample_is_read(tmp_path: Path) -> None:
    shard = swapped_in_the_middle(tmp_path)
    assert read(shard, "097", "txt") == b"y" * 10  # a change of content alone is what sha256 is for
    with pytest.raises(MmclError, match=r"a.tar: the shard has changed since it was indexed"):
        read(shard, "099", "txt")
    load_index(shard, afresh=True)
    assert read(shard, "098", "txt") == b"y" * 1000


def test_an_empty_file_is_told_on_and_an_empty_tar_is_not(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [])
    assert (len(scan(shard)), scan(shard).problems) == (0, [])
    shard.write_bytes(b"")
    assert "an empty file" in scan(shard).problems[0][1]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("header", "cannot be read beyond this sample"),
        ("boundary", "ends without an end mark"),
        ("in a header", "cannot be read beyond this sample"),
    ],
)
def test_a_shard_that_tarfile_leaves_early_is_told_on(tmp_path: Path, damage: str, reason: str) -> None:
    shard = tar(tmp_path / "a.tar", [(f"{i}.txt", b"x" * 100) for i in range(50)])
    data = bytearray(shard.read_bytes())
    if damage == "header":
        data[20 * 1024] ^= 1
    else:
        data = data[: 20 * 1024 + (100 if damage == "in a header" else 0)]
    shard.write_bytes(data)
    index = scan(shard)
    assert index.keys == [str(i) for i in range(20)]
    assert len(index.problems) == 1
    assert index.problems[0][0] == "19"
    assert reason in index.problems[0][1]


def test_a_splice_that_ends_in_an_end_mark_is_told_on(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [(f"{i}.txt", b"x" * 100) for i in range(5)])
    data = shard.read_bytes()
    shard.write_bytes(data[:700] + data[-3_000:])  # zeros follow, as at the end of a tar
    index = scan(shard)
    assert index.keys == ["0"]
    assert "no whole number of blocks" in index.problems[0][1]


def test_tars_written_one_after_the_other_are_read_as_one(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one")])
    shard.write_bytes(shard.read_bytes() + tar(tmp_path / "b.tar", [("b.txt", b"two")]).read_bytes())
    assert read(shard, "b", "txt") == b"two"
    assert scan(shard).problems == [("a", "the shard goes on after an end mark; it was read on")]
    shard.write_bytes(shard.read_bytes() + b"something else" * 100)
    index = scan(shard)
    assert index.keys == ["a", "b"]
    assert [key for key, _ in index.problems] == ["a", "b", "b"]
    assert "cannot be read beyond" in index.problems[-1][1]


def test_a_header_of_a_negative_size_does_not_turn_in_a_circle(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", [("a.txt", b"one"), ("b.txt", b"two")])
    data = bytearray(shard.read_bytes())
    header = data[1024:1536]
    header[124:136] = b"\xff" * 10 + (-1024).to_bytes(2, "big", signed=True)  # base 256
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    data[1024:1536] = header
    shard.write_bytes(data)
    index = scan(shard)
    assert index.keys == ["a"]
    assert "cannot be read beyond" in index.problems[0][1]


def test_what_is_no_tar_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"hello" * 500)
    with pytest.raises(MmclError, match="no uncompressed tar"):
        load_index(path)
    assert not path.with_name(path.name + SUFFIX).exists()
