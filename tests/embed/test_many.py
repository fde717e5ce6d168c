"""Several processes make one export: by claims, by shares that jobs are told, and by launchers."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmcl.data import write_shards
from mmcl.errors import MmclError
from tests.embed.export import embed, process, tree
from tests.evaluators.clip_benchmark_folders import encoded, pictures, write_model


def test_processes_that_start_at_once_make_the_bytes_of_one(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    started = [process(folder, tmp_path / "out", rank, 3) for rank in range(3)]
    for one in started:
        one.join()
        assert one.exitcode == 0
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_jobs_that_share_the_parts_may_come_in_any_order(
    folder: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    order: tuple[int, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    left = 11
    for index in order[:-1]:
        left -= len(range(index, 11, 3))
        assert embed(folder, out, parts=(index, 3), show=True) is None
        assert f"{left} parts of other jobs are left" in capsys.readouterr().err
        assert not (out / "manifest.json").exists()
    assert embed(folder, out, parts=(order[-1], 3)) is not None
    assert tree(out) == undisturbed


def test_jobs_that_share_the_parts_may_come_at_once(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    started = [process(folder, tmp_path / "out", parts=(index, 2)) for index in range(2)]
    for one in started:
        one.join()
        assert one.exitcode == 0
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("parts", [(2, 2), (-1, 2), (0, 0)])
def test_shares_that_there_are_not_are_refused(folder: Path, tmp_path: Path, parts: tuple[int, int]) -> None:
    with pytest.raises(MmclError, match=r"parts: i/n with i from 0 to n - 1, as in 0/"):
        embed(folder, tmp_path / "out", parts=parts)


@pytest.mark.slow
def test_torchrun_makes_the_bytes_of_one_process(tmp_path: Path) -> None:
    write_model(tmp_path)
    samples = [{"__key__": f"{i:04d}", "png": encoded(p, "png"), "txt": f"a {i}"} for i, p in enumerate(pictures(150))]
    write_shards(samples, tmp_path / "shards", 40)
    model = [f"open_clip:{tmp_path / 'small.json'}", "--weights", tmp_path / "weights.safetensors"]
    words = ["-m", "mmcl", "embed", *model, "--shards", tmp_path / "shards", "--modalities", "image=png,text=txt"]
    words += ["--part-size", "20", "--batch-size", "8", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc-per-node", "2"])):
        command = [sys.executable, *launcher, *map(str, [*words, tmp_path / name])]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("150 samples, image, text") == 1
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
