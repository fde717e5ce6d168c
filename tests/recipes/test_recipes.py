"""Every recipe: whole on the meta device, and one step of it in miniature."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmcl import bundled
from mmcl.model import MultiTower
from mmcl.recipe import load_recipe
from mmcl.runs import Run, build_model
from mmcl.training import Trainer
from tests.recipes.miniature import Miniature

SHELF = bundled.shelf("recipes")
RECIPES = sorted(path.relative_to(SHELF).with_suffix("").as_posix() for path in SHELF.rglob("*.yaml"))
PARAMETERS = {  # as the authors' models have them, temperature aside
    "image_text/clip_vit_b_32": 151_277_312,
    "image_text/clip_vit_b_16": 149_620_736,
    "image_text/lora_vit_b_32": 151_277_312,
}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature(tmp_path_factory.mktemp("miniature"))


def test_there_are_recipes_of_the_field() -> None:
    assert {"image_text", "audio_text", "more_modalities"} <= {name.partition("/")[0] for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_in_its_own_size(name: str, miniature: Miniature) -> None:
    recipe = miniature.whole(load_recipe(name))
    with torch.device("meta"):
        model = build_model(recipe, load=False)
    assert all(weight.is_meta for weight in model.parameters())
    sizes = {n: p.numel() for n, p in model.named_parameters() if "lora_" not in n}
    print(name, f"{sum(sizes.values()):,}")
    assert sum(sizes.values()) == PARAMETERS.get(name, sum(sizes.values()))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_a_step_in_miniature(name: str, miniature: Miniature, tmp_path: Path) -> None:
    recipe = miniature.small(load_recipe(name), tmp_path / "run")
    trainer = Trainer(recipe, Run(tmp_path / "run"), lambda _: {})
    before = copied(trainer.model)
    (tmp_path / "run").mkdir()
    trainer.train()
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert torch.tensor(row["loss"]).isfinite()
    assert row["loss"] != 0
    assert not (tmp_path / "run" / "bad_samples.jsonl").exists()
    after = trainer.model.state_dict()
    for modality in recipe.towers:
        place = f"towers.{modality}."
        tower = trainer.model.tower(modality)
        learns = {f"{place}{n}" for n, p in tower.named_parameters() if p.requires_grad}
        moved = {n for n in before if n.startswith(place) and not torch.equal(before[n], after[n])}
        policy = recipe.towers[modality].policy.name
        if policy == "frozen":
            assert not any(n.startswith(f"{place}backbone.") for n in moved)
        if policy == "lora":
            assert {n for n in moved if n.startswith(f"{place}backbone.")} <= {n for n in before if "lora_" in n}
        assert len(moved & learns) >= 0.9 * len(learns), sorted(learns - moved)


def copied(model: MultiTower) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
