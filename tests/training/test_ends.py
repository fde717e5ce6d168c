"""What is left of runs that ended in other ways than well, and what is said of it."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mmcl
from mmcl import checkpoints, cli, runs, workflow
from mmcl.errors import MmclError, StoppedError
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.towers.tensor_files import read_run
from mmcl.training import Trainer
from mmcl.training.loop import Trainer as Loop
from tests.training.test_resume import rows
from tests.training.test_stops import signal_at


def test_a_folder_without_a_recipe_is_not_overwritten(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(tiny(tmp_path / "run"))
    (run / "recipe.yaml").unlink()
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    for resume in (False, True):
        with pytest.raises(MmclError, match=r"whose recipe.yaml is gone, and a run is never overwritten\. Put"):
            workflow.train(tiny(run), resume=resume)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "metrics.jsonl").write_bytes(b"\xff\xfe mine")
    with pytest.raises(MmclError, match="holds checkpoints or rows"):
        workflow.train(tiny(strange))


def test_what_a_kill_left_of_a_checkpoint_is_removed_with_the_next(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    partial = tmp_path / "run" / "checkpoints" / ".step-00000003.partial"
    partial.mkdir(parents=True)
    (partial / "weights.safetensors").write_bytes(b"some")
    run = workflow.train(tiny(tmp_path / "run"))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000008"]


def test_a_run_that_is_stopped_or_fails_leaves_a_report(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, 4, signal.SIGTERM)
        with pytest.raises(StoppedError):
            workflow.train(tiny(run))
    assert "160 samples" in (run / "report.html").read_text()  # 5 steps of 32
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save", lambda *_: (_ for _ in ()).throw(MmclError("no room")))
        with pytest.raises(MmclError, match="no room"):
            workflow.train(str(run), resume=True)
    assert "256 samples" in (run / "report.html").read_text()
    (run / "report.html").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # killed while it wrote
    capsys.readouterr()
    cli.main(["report", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert "256 samples" in (run / "report.html").read_text()
    with pytest.raises(MmclError, match="is no run folder"):
        workflow.report(tmp_path)


def test_a_finished_run_to_which_an_average_is_added_opens(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    """No step is left, so that the average is what it begins with: the weights."""
    run = workflow.train(tiny(tmp_path / "run"))
    before = mmcl.load(run).embed("text", ["greek"])
    workflow.train(tiny(run, "training.ema={decay: 0.9, evaluate: true}"), resume=True)
    assert torch.equal(mmcl.load(run).embed("text", ["greek"]), before)


def test_two_that_begin_at_once_do_not_undo_one_another(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one trains to its end after this one has looked and before it holds the folder."""
    run, begin = tmp_path / "run", Trainer.__init__
    for resume in (False, True):

        def late(self: Trainer, *args: object, resume: bool = resume) -> None:
            begin(self, *args)  # type: ignore[arg-type]
            monkeypatch.undo()
            workflow.train(tiny(run, *["training.samples=320"] * resume), resume=resume)

        monkeypatch.setattr(Trainer, "__init__", late)
        with pytest.raises(MmclError, match="was trained by another process while this one began"):
            workflow.train(tiny(run), resume=resume)
        assert len(rows(run)) == (10 if resume else 8)


def test_a_measurement_that_is_caught_up_takes_no_time_of_the_steps(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(workflow.train(tiny(tmp_path / "run", "training.eval_every_steps=4")))
    shutil.rmtree(run.checkpoints / "step-00000008")
    run.metrics.write_text(run.metrics.read_text().replace(', "evaluated": true', ""))  # killed before it measured
    longer = tiny(tmp_path / "run", "training.eval_every_steps=4", "training.samples=320")
    rested: list[bool] = []
    trainer = Trainer(longer, run, lambda _: rested.append(trainer.window._rests is not None) or {}, resume=False)
    trainer.learner.step = 4
    trainer.train()
    assert len(rested) == 3  # of steps 4, 8 and 10
    assert all(rested)


def test_damaged_runs_are_told(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(tiny(tmp_path / "run"))
    (run / "tracking.json").write_text("{")
    with pytest.raises(MmclError, match=r"tracking.json is damaged"):
        runs.identity(Run(run))
    (run / "checkpoints" / "step-00000008" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(MmclError, match=r"none of its checkpoints is whole \(step-00000008\)"):
        read_run(run)
    with pytest.raises(MmclError, match=r"seed"):
        tiny(tmp_path / "other", "seed=10000000000000000000")


def test_which_keys_make_another_recipe_is_said(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(tiny(tmp_path / "run"))
    changed = ["data.batch_size=16", "towers.text.width=64", "objective.0.temperature.init=0.1"]
    with pytest.raises(
        MmclError,
        match=r"another recipe: towers.text.width, objective, data.batch_size differ\. Resume it with its own",
    ):
        workflow.train(tiny(run, *changed), resume=True)
    assert json.loads((run / "results.json").read_text())["train"]["samples"] == 256
    assert checkpoints.latest(run / "checkpoints") is not None
