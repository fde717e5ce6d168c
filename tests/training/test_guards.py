"""Steps that are broken are left out whole, counted and named; a run that breaks on and on stops."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcl import checkpoints, distributed, workflow
from mmcl.errors import MmclError
from mmcl.losses import LossOutput, Objective
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.training import Trainer
from mmcl.training.collapse import signs
from mmcl.training.state import check_weights
from tests.distributed_worker import run_processes

REMEMBER: list[Any] = [
    {"negatives": ["in_batch", {"name": "queue", "size": 64, "of": ["image"]}]},
    {"contrast": {"name": "sogclr", "slots": 1024}, "weight": 0.1},
    {"regularize": {"name": "clusters", "clusters": 4}, "weight": 0.1},
]


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """All that a checkpoint would keep of what learns."""
    learner = trainer.learner
    found = {f"model.{name}": x for name, x in learner.model.state_dict().items()}
    found |= {f"objective.{name}": x for name, x in learner.objective.state_dict().items()}
    slots = learner.optimizer.state_dict()["state"]
    return {
        k: x.clone() for k, x in {**found, **{f"{i}.{n}": t for i, s in slots.items() for n, t in s.items()}}.items()
    }


def broken_at(monkeypatch: pytest.MonkeyPatch, steps: set[int], value: float = float("nan")) -> None:
    """Let the loss, and each term's value, be ``value`` at some steps."""
    forward = Objective.forward

    def breaking(self: Objective, embeddings: Any, **more: Any) -> LossOutput:
        out = forward(self, embeddings, **more)
        if embeddings.step not in steps:
            return out
        return LossOutput(out.total * value, {title: part * value for title, part in out.parts.items()})

    monkeypatch.setattr(Objective, "forward", breaking)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("normed", [False, True], ids=["vit", "batch_norm"])
def test_a_broken_step_changes_nothing(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, value: float, normed: bool
) -> None:
    recipe = tiny(tmp_path / "run").model_dump(mode="json")
    recipe |= {"objective": REMEMBER}
    if normed:  # statistics of batches, which move in the forward pass
        recipe["towers"]["image"] = {"name": "timm_image", "model": "resnet10t", "image_size": 32, "weights": "random"}
    trainer = Trainer(Recipe.model_validate(recipe), Run(tmp_path / "run"), lambda _: {})
    broken_at(monkeypatch, {1}, value)
    batches = iter(trainer.stream)
    before, taken = {}, []
    for step in range(3):
        before[step] = everything(trainer)
        trainer.learner.backward(next(batches))
        taken.append(bool(trainer.learner.update().taken))
    assert taken == [True, False, True]
    assert before[1].keys() == before[2].keys()
    assert [name for name in before[1] if not torch.equal(before[1][name], before[2][name])] == []
    after = everything(trainer)
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[2][name])}
    assert {"model", "objective"} <= moved
    statistics = [name for name in before[0] if name.endswith("running_var")]
    assert bool(statistics) == normed
    assert not any(torch.equal(before[0][name], before[1][name]) for name in statistics)


def test_statistics_that_overflow_are_put_back_and_never_saved(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(tmp_path / "run", "training.ema={decay: 0.5, evaluate: true}").model_dump(mode="json")
    recipe["towers"]["image"] = {"name": "timm_image", "model": "resnet10t", "image_size": 32, "weights": "random"}
    forward, calls = nn.BatchNorm2d.forward, iter(range(1000))

    def overflowing(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
        return forward(self, x * math.inf if next(calls) == 30 else x)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", overflowing)
    run = workflow.train(Recipe.model_validate(recipe))
    monkeypatch.undo()
    assert rows(run)[-1]["skipped_steps"] == 1
    checkpoint = checkpoints.latest(Run(run).checkpoints)
    assert checkpoint is not None
    assert [name for name, x in checkpoint.tensors("weights").items() if not x.isfinite().all()] == []
    trainer = Trainer(Recipe.model_validate(recipe), Run(run), lambda _: {}, resume=True)
    name, broken = next((n, b) for n, b in trainer.model.named_buffers() if n.endswith("running_mean"))
    broken.fill_(math.nan)
    with pytest.raises(MmclError, match=f"step 8: {name} is not finite, so no checkpoint was written"):
        check_weights(trainer.learner)


def test_no_checkpoint_takes_a_good_one_s_place_amid_broken_steps(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a rate that is too large leaves is finite and useless; the run goes on from before it."""
    broken_at(monkeypatch, {2, 3, 6, 7})
    run = workflow.train(tiny(tmp_path / "run", "training.checkpoint_every_steps=1", "training.keep_checkpoints=9"))
    assert [path.name[-1] for path in checkpoints.listed(Run(run).checkpoints)] == ["1", "2", "5", "6", "8"]
    again = tiny(tmp_path / "two", "training.checkpoint_every_steps=3", "training.keep_checkpoints=9")
    assert [path.name[-1] for path in checkpoints.listed(Run(workflow.train(again)).checkpoints)] == ["5", "6", "8"]


def test_broken_steps_are_counted_named_and_left_out_of_the_means(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = rows(workflow.train(tiny(tmp_path / "whole")))
    broken_at(monkeypatch, {6})
    run = workflow.train(tiny(tmp_path / "run", "training.log_every_steps=2"))
    found = rows(run)
    assert [row["skipped_steps"] for row in found] == [0, 0, 0, 1]
    assert found[2]["loss"] == pytest.approx((whole[4]["loss"] + whole[5]["loss"]) / 2, rel=1e-6)
    assert found[3]["loss"] < 10  # of step 8 alone
    told = capsys.readouterr().err
    assert "step 7: the term cosine_softmax is nan although all vectors are finite; steps left out" in told


def test_a_run_that_breaks_on_and_on_stops_with_the_weights_of_before(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, set(range(3, 9)))
    more = ["training.skip_nonfinite=2", "training.checkpoint_every_steps=1", "training.log_every_steps=4"]
    with pytest.raises(
        MmclError, match=r"step 5: .*is nan.*left out: 3; training.skip_nonfinite allows 2.*step-00000003"
    ):
        workflow.train(tiny(tmp_path / "run", *more))
    (run := Run(tmp_path / "run")).recipe()
    assert max(run.checkpoints.glob("step-*")).name == "step-00000003"  # not those of the broken steps
    monkeypatch.undo()
    workflow.train(str(run.path), resume=True)
    assert rows(run.path)[-1]["skipped_steps"] == 0


def test_what_breaks_is_named(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    trainer = Trainer(tiny(tmp_path / "run", "training.skip_nonfinite=0"), Run(tmp_path / "run"), lambda _: {})
    (tmp_path / "run").mkdir()
    tower = trainer.model.tower("text")
    weight = next(tower.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(MmclError, match=r"step 1: the loss is finite, but the gradient of towers/text is (nan|inf)\."):
        trainer.train()


def _two(content: dict[str, Any]) -> list[Any]:
    """One process's texts are broken in the second step; what all of them say of each, and their weights."""
    recipe = Recipe.model_validate(content)
    trainer = Trainer(recipe, Run(Path(recipe.run)), lambda _: {})
    batches, taken, broken = iter(trainer.stream), [], []
    for step in range(3):
        batch = next(batches)
        hook = None
        if step == 1 and distributed.rank() == 1:
            hook = trainer.model.tower("text").register_forward_hook(lambda *a: a[2] * float("nan"))
        trainer.learner.backward(batch)
        if hook is not None:
            hook.remove()
        outcome = trainer.learner.update()
        taken.append(bool(outcome.taken))
        broken.append({name for name, x in zip(outcome.names, outcome.values.tolist(), strict=True) if x != x})
    return [taken, broken, {name: x.clone() for name, x in trainer.model.state_dict().items()}]


@pytest.mark.slow
def test_processes_leave_out_the_same_steps(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    one, two = run_processes(_two, 2, tmp_path / "p", tiny(tmp_path / "run").model_dump(mode="json"))
    assert one[0] == two[0] == [True, False, True]
    assert one[1] == two[1]
    assert one[1][0] == one[1][2] == set()
    assert {"loss", "vectors/text", "towers/image/grad_norm"} <= one[1][1]
    assert "vectors/image" not in one[1][1]
    assert all(torch.equal(one[2][name], two[2][name]) for name in one[2])


def test_signs_of_collapse_are_told_with_advice(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run")
    terms = {"clip": recipe.objective[0]}
    healthy = {
        "step": 100,
        "loss/clip": 2.0,
        "temperature/clip": 0.05,
        "embeddings/image/effective_rank": 20.0,
        "embeddings/image/uniformity": -2.0,
        "embeddings/image-text/positive": 0.3,
    }
    assert dict(signs(healthy, terms, 32)) == {}
    for name, value, said in [
        ("loss/clip", 3.46, "guessing among 32 rows"),
        ("temperature/clip", 0.01, "at its limit of 0.01"),
        ("embeddings/image/effective_rank", 1.2, "image uses 1.2 directions"),
        ("embeddings/image/uniformity", -0.01, "all vectors of image lie in one place"),
        ("embeddings/image-text/positive", -0.1, "image-text points apart"),
    ]:
        ((about, text),) = signs({**healthy, name: value}, terms, 32)
        assert about == name
        assert said in text


def test_a_run_that_collapses_says_so_once_and_keeps_it(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["training.samples=768", "training.log_every_steps=8"]
    trainer = Trainer(tiny(tmp_path / "run", *more), Run(tmp_path / "run"), lambda _: {})
    (tmp_path / "run").mkdir()
    for parameter in trainer.model.tower("image").parameters():
        parameter.requires_grad_(False).zero_()
    trainer.model.tower("image").backbone.transformer.ln_post.bias.fill_(1.0)  # type: ignore[union-attr, operator]
    trainer.model.tower("image").register_forward_hook(lambda *a: torch.ones_like(a[2]) + 0 * a[2])
    trainer.train()
    kept = [json.loads(line) for line in (tmp_path / "run" / "warnings.jsonl").read_text().splitlines()]
    assert [(row["step"], row["about"]) for row in kept].count((24, "embeddings/image/uniformity")) == 1
    assert capsys.readouterr().err.count("all vectors of image lie in one place") == 1
