"""Processes that are killed at any instant, and others that go on: the bytes are those of an export at one go."""

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.embed.export import embed, process, tree


def killed_until_done(folder: Path, out: Path, rng: random.Random, longest: float, processes: int = 1) -> int:
    """Make an export by processes that are killed at random instants; how many were."""
    kills = 0
    while not (out / "manifest.json").exists():
        started = [process(folder, out, rank, processes) for rank in range(processes)]
        time.sleep(rng.uniform(0, longest))
        for one in started:
            kills += one.is_alive()
            one.kill()
            one.join()
            assert one.exitcode in (0, -9)
        longest *= 1.05  # so that it ends on a machine that has become slower
    return kills


@pytest.fixture(scope="module")
def seconds(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """That a process takes, when it is left alone."""
    process(folder, tmp_path_factory.mktemp("first") / "out").join()  # it starts the server
    begun = time.monotonic()
    one = process(folder, tmp_path_factory.mktemp("second") / "out")
    one.join()
    assert one.exitcode == 0
    return time.monotonic() - begun


@pytest.mark.parametrize("trials", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_change_no_byte(
    folder: Path, undisturbed: dict[str, bytes], seconds: float, tmp_path: Path, trials: int
) -> None:
    rng, kills = random.Random(trials), 0
    for trial in range(trials):
        kills += killed_until_done(folder, tmp_path / str(trial), rng, seconds)
        embed(folder, tmp_path / str(trial))  # of one that was killed after its manifest
        assert tree(tmp_path / str(trial)) == undisturbed, trial
    assert kills >= trials / 2, "they came too late to mean anything"


def test_kills_of_processes_that_work_together_change_no_byte(
    folder: Path, undisturbed: dict[str, bytes], seconds: float, tmp_path: Path
) -> None:
    rng = random.Random(2)
    for trial in range(2):
        out = tmp_path / str(trial)
        killed_until_done(folder, out, rng, seconds, processes=2)
        embed(folder, out)
        assert tree(out) == undisturbed


def test_a_part_whose_maker_dies_is_made_by_who_is_left(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, second = (process(folder, out, rank, 2) for rank in range(2))
    while not list((out / ".work").glob("part_*.lock")):
        time.sleep(0.001)
    first.kill()
    second.join()
    assert second.exitcode == 0
    assert tree(out) == undisturbed


def test_what_a_killed_process_leaves_is_made_again(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The states that a kill can leave, one by one, where a random one may not come."""
    out = tmp_path / "out"
    embed(folder, out, parts=(0, 2))
    assert not (out / "manifest.json").exists()
    work = out / ".work"
    (work / "part_0001").mkdir()
    (work / "part_0001" / "picture_emb.npy").write_bytes(b"half")  # killed while it wrote
    (out / "picture_emb" / "picture_emb_0003.npy").write_bytes(b"old")  # between its files and its record
    (work / ".part_0005.json.partial").write_bytes(b'{"file')  # while it wrote the record
    (out / "metadata" / "metadata_0002.parquet").unlink()  # of a part that is whole, by somebody else
    shutil.copytree(work, tmp_path / "kept")
    embed(folder, out)
    assert tree(out) == undisturbed
    shutil.copytree(tmp_path / "kept", work)  # between the manifest and the end of all this
    embed(folder, out)
    assert tree(out) == undisturbed
    assert json.loads(undisturbed["manifest.json"])["parts"][-1]["number"] == 10
