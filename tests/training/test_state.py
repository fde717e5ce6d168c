"""What a checkpoint holds comes back as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from mmcl import checkpoints, workflow
from mmcl.errors import MmclError
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.training import Trainer, state
from mmcl.training.devices import make_accelerator


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Recipe]) -> Callable[[Path], Trainer]:
    """Makes runs whose gradients are scaled as those of fp16 on a GPU are."""

    def make_scaled(precision: str) -> Accelerator:
        made = make_accelerator(precision)
        made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)
        return made

    monkeypatch.setattr("mmcl.training.learner.make_accelerator", make_scaled)
    return lambda path: Trainer(tiny(path), Run(path), lambda _: {})


def test_the_scale_of_half_precision_is_kept(tmp_path: Path, scaled: Callable[[Path], Trainer]) -> None:
    one = scaled(tmp_path / "run")
    learner, batches = one.learner, iter(one.stream)
    weight, scales = next(one.model.tower("text").parameters()), []
    for step in range(3):
        hook = weight.register_hook(lambda gradient: gradient * float("inf")) if step == 1 else None
        before = weight.detach().clone()
        learner.backward(next(batches))
        taken = bool(learner.update().taken)
        assert taken == (step != 1)
        assert taken != torch.equal(before, weight)
        scales.append(learner.accelerator.scaler.get_scale())  # type: ignore[union-attr]
        if hook is not None:
            hook.remove()
    assert scales == [2.0**20, 2.0**19, 2.0**19]
    checkpoints.write(tmp_path / "checkpoints", learner.step, *state.taken(learner), keep=1)
    checkpoint = checkpoints.latest(tmp_path / "checkpoints")
    assert checkpoint is not None
    again = scaled(tmp_path / "run")
    state.give(again.learner, checkpoint)
    scaler = again.learner.accelerator.scaler
    assert scaler is not None
    assert scaler.state_dict() == checkpoint.state["scaler"]
    assert scaler.state_dict()["_growth_tracker"] == 1  # a new one begins with 0, at the first scale


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", 1)
        run = workflow.train(tiny(tmp_path / "run"))
    with pytest.raises(
        MmclError, match=r"step-00000008 is of format 1, and this version of mmcl goes on from format 2"
    ):
        workflow.train(str(run), resume=True)
