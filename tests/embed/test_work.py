"""The folder of an export: what is gone on with, and what is refused."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from mmcl.embed import Vectors, embed_shards
from mmcl.embed.plan import Plan
from mmcl.errors import MmclError
from mmcl.model import Encoder
from tests.embed import export
from tests.embed.export import embed, fork, source, tree


def test_a_finished_export_is_left_as_it_is(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    first = embed(folder, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert embed(folder, tmp_path / "out") == first == json.loads(undisturbed["manifest.json"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


@pytest.mark.parametrize("finished", [False, True])
def test_another_plan_is_refused_with_what_differs(folder: Path, tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "out"
    embed(folder, out, parts=(0, 1 if finished else 2))
    before = tree(out)
    how = "holds a finished export of something else" if finished else "was begun otherwise"
    with pytest.raises(MmclError, match=rf"{how}: part_size \(12 before, 13 now\), dtype \(fp32 before, fp16 now\)\."):
        embed(folder, out, part_size=13, dtype="fp16")
    assert tree(out) == before


def test_other_weights_and_other_shards_are_refused(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    shards, out = shutil.copytree(folder / "shards", tmp_path / "shards"), tmp_path / "out"
    embed_shards(encoder, source(shards), out, part_size=20, parts=(0, 2))
    moved = shards.rename(tmp_path / "moved")
    assert embed_shards(encoder, source(moved), out, part_size=20, parts=(0, 2)) is None  # the same, elsewhere
    with pytest.raises(MmclError, match=r"was begun otherwise: captions|was begun otherwise: optional"):
        embed_shards(encoder, source(moved).model_copy(update={"optional": []}), out, part_size=20)
    shutil.rmtree(moved)
    export.write(moved, count=export.COUNT - 1)
    with pytest.raises(MmclError, match="was begun otherwise: shards"):
        embed_shards(encoder, source(moved), out, part_size=20)
    export.write(tmp_path / "again")
    other = encoder.model.tower("voice").head
    changed = next(other.parameters(), None)
    changed = next(encoder.model.parameters()) if changed is None else changed
    changed.data.add_(1e-3)
    try:
        with pytest.raises(MmclError, match=r"was begun otherwise: model \("):
            embed_shards(encoder, source(tmp_path / "again"), out, part_size=20)
    finally:
        changed.data.sub_(1e-3)


@pytest.mark.parametrize("name", ["img_emb/img_emb_0.npy", "quantized/int8/img_emb/img_emb_0003.npy"])
def test_files_of_somebody_else_are_never_overwritten(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(MmclError, match=f"holds {name}, which would be overwritten"):
        embed(folder, tmp_path)
    assert tree(tmp_path) == {name: b"mine"}  # nor does the folder look unfinished


def test_a_damaged_plan_is_told(folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out", parts=(0, 2))
    (tmp_path / "out" / ".work" / "plan.json").write_text("{")
    with pytest.raises(MmclError, match="plan.json is damaged"):
        embed(folder, tmp_path / "out")


def test_an_unfinished_export_is_not_read(folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out", parts=(0, 2))
    with pytest.raises(MmclError, match="is not finished; make the same `mmcl embed` again"):
        Vectors(tmp_path / "out")


def test_names_of_parts_sort_as_their_numbers_do() -> None:
    assert Plan({"part_size": 10}, 99).name(3) == "0003"
    assert Plan({"part_size": 1}, 10_000).name(9_999) == "9999"
    assert Plan({"part_size": 1}, 20_000).name(3) == "00003"


@pytest.mark.parametrize("out", ["/proc/vectors", "/dev/null/vectors"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(folder: Path, out: str) -> None:
    with pytest.raises(MmclError, match=f"{out} cannot be written: .*the same command goes on"):
        embed(folder, Path(out))


def _with_little_room(folder: Path, out: Path) -> None:
    """Embed where no file may be larger than one part of metadata: what a full disk or a quota does."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        embed(folder, out)
    except MmclError as error:
        sys.exit(43 if "cannot be written: " in str(error) and "File too large" in str(error) else str(error))


def test_a_full_disk_is_one_clear_error_after_which_it_goes_on(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    embed(folder, tmp_path / "out", parts=(0, 2))
    one = fork.Process(target=_with_little_room, args=(folder, tmp_path / "out"))
    one.start()
    one.join()
    assert one.exitcode == 43
    embed(folder, tmp_path / "out")
    assert tree(tmp_path / "out") == undisturbed


def test_an_error_in_the_middle_lets_go_of_what_was_claimed(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """In one process, as in a notebook: the same call goes on after the fault is mended."""
    copy, out = shutil.copytree(folder, tmp_path / "copy"), tmp_path / "out"
    embed(copy, out, parts=(0, 11))
    shard, stat = copy / "shards" / "00002.tar", (copy / "shards" / "00002.tar").stat()
    good = shard.read_bytes()
    header = good.index(b"0100.")
    shard.write_bytes(good[: header + 110] + b"1" + good[header + 111 :])  # another owner, behind the index's back
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(MmclError, match="has changed since it was indexed"):
        embed(copy, out)
    shard.write_bytes(good)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert embed(copy, out) is not None
    found = tree(out)
    assert {name for name in found if found[name] != undisturbed[name]} == {"manifest.json"}  # says where shards lie
    assert found.keys() == undisturbed.keys()
