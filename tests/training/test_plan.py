"""The plan of a run: what can be counted by hand is counted so, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcl import cli
from mmcl.dry_run import dry_run
from mmcl.losses import Objective
from mmcl.model import MultiTower
from mmcl.optimizers import OPTIMIZERS
from mmcl.recipe import Recipe
from mmcl.runs import build_model
from mmcl.towers import POLICIES, Backbone, Tower
from mmcl.training import costs
from mmcl.training.plan import make_plan
from mmcl.types import Transform

ROWS = 6
FLOAT = 4  # bytes


class Made(Backbone):
    """Any module as a backbone over vectors."""

    takes = "vector"

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module, self.width = module, width

    def transform(self, train: bool) -> Transform:
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        return self.module(rows)


def passes(module: nn.Module, width: int, *shape: int, policy: Any = None, precision: str = "fp32") -> costs.Passes:
    """Cost of a batch through a tower of one module."""
    model = MultiTower({"x": Tower(Made(module, width), None, policy)}, width)
    with costs.pretending(model):
        return costs.passes(model, {"x": (torch.Size([ROWS, *shape]), torch.float32)}, precision)


def linear(inside: int, out: int) -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(inside, out)


def test_operations_and_memory_of_a_linear_tower_are_those_by_hand() -> None:
    found = passes(linear(5, 3), 3, 5)
    assert found.forward == {"x": 2 * ROWS * 5 * 3}
    assert found.backward == {"x": 2 * ROWS * 5 * 3}  # of the weights; nobody asks for that of the rows
    assert found.activations == FLOAT * ROWS * 3  # the vectors; the rows are a batch's
    assert found.peak == FLOAT * (2 * ROWS * 3 + 5 * 3 + 3)  # vectors, their gradient, and those of matrix and bias


def test_two_layers_have_gradients_of_what_lies_between() -> None:
    found = passes(nn.Sequential(linear(5, 7), linear(7, 3)), 3, 5)
    first, second = 2 * ROWS * 5 * 7, 2 * ROWS * 7 * 3
    assert found.forward == {"x": first + second}
    assert found.backward == {"x": first + 2 * second}


def test_what_stands_still_has_no_backward_pass_and_keeps_nothing() -> None:
    found = passes(nn.Sequential(linear(5, 7), linear(7, 3)), 3, 5, policy=POLICIES.check("frozen").build())
    assert found.backward == {"x": 0}
    assert found.activations == FLOAT * ROWS * 3


def test_a_convolution_in_groups_costs_in_groups() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Flatten())
    found = passes(module, 4 * 8 * 8, 4, 8, 8)
    assert found.forward == {"x": 2 * ROWS * 8 * 8 * 4 * 9}
    assert found.backward == found.forward


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_of_a_vision_transformer_costs_what_its_matrices_do(precision: str) -> None:
    from mmcl.towers import TOWERS

    width, tokens, size = 32, 16 + 1, 32
    said = {"name": "vit", "image_size": size, "patch_size": 8, "width": width, "layers": 1, "heads": 2}
    with torch.device("meta"):
        tower = TOWERS.check(said).build(dim=width)
    model = MultiTower({"image": tower}, width)
    with costs.pretending(model):
        found = costs.passes(model, {"image": (torch.Size([ROWS, 3, size, size]), torch.uint8)}, precision)
    patches = 2 * 16 * width * 3 * 8 * 8
    block = 2 * tokens * width * 12 * width  # queries, keys, values; output; twice four times the width
    attention = 2 * 2 * tokens * tokens * width
    projection = 2 * width * width
    assert found.forward == {"image": ROWS * (patches + block + attention + projection)}
    again = attention // 2  # attention's backward pass makes the scores once more
    assert found.backward == {"image": ROWS * (patches + 2 * (block + attention + projection) + again)}


def test_activations_that_are_computed_again_are_not_kept_but_cost_a_pass(tiny: Callable[..., Recipe]) -> None:
    kept = tiny(Path("x"), "towers.image.layers=4")
    again = tiny(Path("x"), "towers.image.layers=4", "towers.image.gradient_checkpointing=true")
    one, other = (planned(recipe) for recipe in (kept, again))
    assert other.activations < 0.7 * one.activations
    image = (one.towers["image"], other.towers["image"])
    assert image[0].forward == image[1].forward
    tokens, width = 17, 32  # of each of four blocks all is computed again but its last matrix, which nothing waits for
    once = 2 * tokens * 8 * width**2 + 2 * 2 * tokens**2 * width
    assert image[1].backward - image[0].backward == 4 * once


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "muon"])
def test_slots_are_those_that_the_optimizer_really_has(name: str) -> None:
    real, meant = (nn.ModuleDict({"blocks": nn.ModuleList([one])}) for one in (nn.Linear(5, 3), linear(5, 3)))
    factory = OPTIMIZERS.check(name).build()
    optimizer = factory.over([real], {})
    real.get_submodule("blocks.0")(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    expected = sum(
        t.numel() * t.element_size() for slot in optimizer.state.values() for t in slot.values() if torch.is_tensor(t)
    )
    with costs.pretending(meant):
        assert costs.optimizer_step(factory.over([meant], {}))[0] == expected


def planned(recipe: Recipe, processes: int = 1) -> Any:
    with torch.device("meta"):
        model, objective = build_model(recipe, load=False), Objective(recipe.objective, recipe.dim)
    return make_plan(recipe, model, objective, processes, None)


def test_the_plan_of_a_recipe(tmp_path: Path, tiny: Callable[..., Recipe], task: Path) -> None:
    recipe = tiny(
        tmp_path / "run",
        f"tasks=['{task}']",
        "training.processes=3",
        "training.checkpoint_every_steps=3",
        "training.eval_every_steps=4",
    )
    before = sorted(tmp_path.rglob("*"))
    found = dry_run(recipe)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.errors == []
    assert found.unchecked == ["that it is started with the 3 processes that training.processes asks for"]
    plan = found.plan
    assert plan is not None
    model = build_model(recipe)
    for modality, tower in plan.towers.items():
        assert tower.parameters == tower.trained == sum(p.numel() for p in model.tower(modality).parameters())
        assert tower.training == tower.forward + tower.backward
    assert (plan.steps, plan.samples, plan.samples_of_an_epoch, plan.epochs) == (8, 256, 2000, 256 / 2000)
    assert (plan.processes, plan.rows, plan.checkpoints, plan.evaluations) == (3, 11, 3, 2)
    assert plan.step_operations == 32 * sum(tower.training for tower in plan.towers.values())
    weights = FLOAT * (sum(p.numel() for p in model.parameters()) + 1)  # and a temperature
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert plan.memory["weights"] == weights + buffers
    assert plan.gradients == weights == plan.memory["sharing"]
    assert plan.memory["total"] == sum(v for k, v in plan.memory.items() if k != "total")
    assert plan.checkpoint == plan.memory["weights"] + plan.memory["optimizer"]


def test_a_checkpoint_is_as_large_as_planned(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    import mmcl

    recipe = tiny(tmp_path / "run", "training.ema={decay: 0.9, evaluate: true}")
    plan = dry_run(recipe).plan
    assert plan is not None
    (folder,) = (mmcl.train(recipe) / "checkpoints").iterdir()
    written = sum((folder / f"{name}.safetensors").stat().st_size for name in ("weights", "optimizer"))
    assert plan.checkpoint == pytest.approx(written, rel=0.1)  # names of tensors are a part of a small file


def test_chunks_cost_a_pass_and_save_activations(tiny: Callable[..., Recipe]) -> None:
    whole, parts = (planned(tiny(Path("x"), *more)) for more in ([], ["training.chunk=4"]))
    for modality, tower in parts.towers.items():
        assert tower.training == whole.towers[modality].training + tower.forward
    assert parts.activations == pytest.approx(whole.activations / 8, rel=0.05)


def test_sources_with_weights_fill_towers_by_their_share(tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(Path("x"))
    both = recipe.data.sources[0].model_dump(mode="json")
    pictures = {**both, "weight": 1.0, "modalities": {"image": "png"}}
    content = recipe.model_dump(mode="json")
    content["data"]["train"] = [{**both, "weight": 3.0}, pictures]
    plan = planned(Recipe.model_validate(content))
    assert {m: tower.rows for m, tower in plan.towers.items()} == {"image": 1.0, "text": 0.75}


def test_all_that_is_wrong_is_told_at_once(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("a file")
    path = tmp_path / "recipe.yaml"
    words = [
        "data.train.shards=nowhere",
        "tasks=[nothing]",
        "towers.image.weights=missing.pt",
        "training.precision=fp16",
    ]
    path.write_text(tiny(tmp_path / "run", *words).to_yaml())
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(path), "--dry-run"])
    assert stopped.value.code == 2
    out, told = capsys.readouterr()
    for part in (
        "no task is called 'nothing'",
        "cannot be a folder",
        "fp16 needs a GPU",
        "towers.image.weights: there is no file or folder 'missing.pt'",
        "1 of 1 shards of 'nowhere' are missing",
        "this would not run",
    ):
        assert part in told
    assert "steps of 32 samples" in out  # the plan is told all the same


def test_what_the_hub_does_not_answer_is_told_and_the_rest_is_planned(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    content = tiny(tmp_path / "run").model_dump(mode="json")
    content["towers"]["image"] = {"name": "transformers_image", "model": "nobody/nothing-at-all"}
    found = dry_run(Recipe.model_validate(content))
    assert found.errors == []
    assert [line.partition(":")[0] for line in found.unchecked] == ["towers.image"]
    assert found.plan is not None
    assert list(found.plan.towers) == ["text"]


def test_a_dry_run_prints_json(tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny(tmp_path / "run").to_yaml())
    cli.main(["train", str(path), "--dry-run", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["steps"] == 8
    assert found["errors"] == []
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        cli.main(["train", str(path), "--json"])
