"""An interrupted run ends where an uninterrupted one does, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mmcl import checkpoints, workflow
from mmcl.errors import MmclError
from mmcl.recipe import Recipe, dump_yaml
from mmcl.runs import Run, check_free, holding
from mmcl.training.learner import Learner

LENGTH = ["training.samples=1920", "training.checkpoint_every_steps=5", "towers.image.patch_dropout=0.25"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["step"] == Run(run).recipe().steps
    return checkpoint.tensors("weights") | checkpoint.tensors("optimizer") | checkpoint.tensors("rng")


def rows(run: Path) -> list[dict[str, float]]:
    clock = ("samples_per_second", "seconds_per_step", "seconds")
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in clock} for row in read]


def same(run: Path, expected: Path) -> None:
    """See that two finished runs are one, bit for bit."""
    one, two = weights(run), weights(expected)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert rows(run) == rows(expected)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", ["null", "9"])
def test_a_killed_run_goes_on_bit_for_bit(chunk: str, tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    length = [*LENGTH, f"training.chunk={chunk}"]
    expected = workflow.train(tiny(tmp_path / "whole", *length))
    run = tmp_path / "killed"
    path = tmp_path / "killed.yaml"
    path.write_text(dump_yaml(tiny(run, *length).model_dump(mode="json")))
    command = [sys.executable, "-m", "mmcl", "train", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "step-00000010").exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
    with pytest.raises(MmclError, match=r"holds a run already.*--resume"):
        workflow.train(tiny(run, *length))
    workflow.train(str(run), resume=True)
    same(run, expected)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(tiny(tmp_path / "run", "training.checkpoint_every_steps=3"))
    newest = run / "checkpoints" / "step-00000008" / "weights.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    (run / "checkpoints" / ".step-00000009.partial").mkdir()
    found = checkpoints.latest(run / "checkpoints")
    assert found is not None
    assert found.state["step"] == 6


def test_resuming_without_a_checkpoint_starts_from_the_beginning_and_says_so(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    workflow.train(tiny(tmp_path / "run"), resume=True)
    assert "has no checkpoint to resume from; the run starts from the beginning" in capsys.readouterr().err


def test_resuming_another_recipe_is_refused(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    workflow.train(tiny(tmp_path / "run"))
    with pytest.raises(MmclError, match="made with another recipe: dim differ"):
        workflow.train(tiny(tmp_path / "run", "dim=8"), resume=True)


def test_a_run_goes_on_with_another_rate_and_says_so(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    workflow.train(tiny(tmp_path / "run"))
    more = [
        "training.samples=320",
        "optimizer.lr=1e-4",
        "training.clip_norm=1",
        "training.ema={decay: 0.9, evaluate: true}",
    ]
    workflow.train(tiny(tmp_path / "run", *more), resume=True)
    told = capsys.readouterr().err
    assert "goes on with another optimizer.lr: 0.0001 instead of 0.001" in told
    assert "goes on with training.clip_norm: 1.0, which was not said before" in told
    assert "goes on with training.ema.decay: 0.9, which was not said before" in told
    assert "None" not in told
    assert Run(tmp_path / "run").recipe().optimizer.lr == 1e-4  # type: ignore[attr-defined]
    assert rows(tmp_path / "run")[-1]["lr"] < 1e-4
    with pytest.raises(MmclError, match="made with another recipe: optimizer.name differ"):
        workflow.train(tiny(tmp_path / "run", "optimizer=lion"), resume=True)


def test_a_folder_that_cannot_be_written_is_told(tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(MmclError, match=r"run: /proc/self/run cannot be written: .*choose another folder with run=DIR"):
        workflow.train(tiny(Path("/proc/self/run")))


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    workflow.train(tiny(tmp_path / "run"))
    workflow.train(tiny(tmp_path / "run", "training.samples=320"), resume=True)
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 11))


def failed(recipe: Recipe) -> Path:
    """A run that dies before its first step."""

    def dying(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "backward", dying)
        with pytest.raises(RuntimeError, match="out of memory"):
            workflow.train(recipe)
    path = Path(recipe.run)
    assert (path / "recipe.yaml").exists()
    return path


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_came_to_nothing_makes_room_for_another(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str], resume: bool
) -> None:
    run = failed(tiny(tmp_path / "run"))
    (run / "bad_samples.jsonl").write_text('{"step": 0}\n')
    (run / "notes.txt").write_text("mine")
    changed = tiny(run, "dim=8")
    workflow.train(changed, resume=resume)
    told = capsys.readouterr().err
    assert ("holds a run without a checkpoint or a row of metrics; this one starts anew there" in told) == (not resume)
    assert Run(run).recipe().dim == 8
    assert len(rows(run)) == 8
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "bad_samples.jsonl").exists()
    with pytest.raises(MmclError, match="holds a run already"):
        workflow.train(changed)


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints/step-00000001/state.json", "results.json"])
def test_a_run_that_came_to_anything_is_not_touched(tmp_path: Path, tiny: Callable[..., Recipe], kept: str) -> None:
    run = failed(tiny(tmp_path / "run"))
    (run / kept).parent.mkdir(parents=True, exist_ok=True)
    (run / kept).write_text('{"step": 1}\n')
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(MmclError, match="holds a run already"):
        workflow.train(tiny(run, "dim=8"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_that_has_only_begun_is_not_touched(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = failed(tiny(tmp_path / "run"))
    with (
        holding(Run(run)),
        ThreadPoolExecutor() as others,
        pytest.raises(MmclError, match="is being trained by another process; choose another folder"),
    ):
        others.submit(check_free, Run(run), tiny(run), False).result()
    assert check_free(Run(run), tiny(run), False)
