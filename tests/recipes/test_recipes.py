"""Every recipe: whole on the meta device, and one step of it in miniature."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mmcl
from mmcl import bundled, cli, workflow
from mmcl.dry_run import dry_run
from mmcl.model import MultiTower
from mmcl.recipe import Recipe, load_recipe
from mmcl.runs import Run, build_model
from mmcl.training import Trainer
from tests.recipes.miniature import WIDTH, Miniature

SHELF = bundled.shelf("recipes")
RECIPES = sorted(path.relative_to(SHELF).with_suffix("").as_posix() for path in SHELF.rglob("*.yaml"))
PARAMETERS = {  # as the authors' models have them, temperature aside
    "image_text/clip_vit_b_32": 151_277_312,
    "image_text/clip_vit_b_16": 149_620_736,
    "image_text/lora_vit_b_32": 151_277_312,
    "image_text/siglip_vit_b_16": 203_155_968,
}
FORWARD = {  # GFLOP of a row, by hand: 2 (patches + layers (12 tokens width^2 + 2 tokens^2 width) + projection)
    "image_text/clip_vit_b_32": {"image": 8.8, "text": 6.0},
    "image_text/clip_vit_b_16": {"image": 35.1, "text": 6.0},
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
    if name in PARAMETERS:
        sizes = [weight.numel() for n, weight in model.named_parameters() if "lora_" not in n]
        assert sum(sizes) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_planned_in_its_own_size(name: str, miniature: Miniature, tmp_path: Path) -> None:
    recipe = miniature.whole(load_recipe(name, [f"run={tmp_path / 'run'}", "tasks=[]", "training.processes=8"]))
    found = dry_run(recipe)
    assert [error for error in found.errors if "shards" not in error] == []  # those are not here
    assert found.plan is not None
    assert all(tower.forward > 0 for tower in found.plan.towers.values())
    if name in FORWARD:
        expected = {m: round(tower.forward / 1e9, 1) for m, tower in found.plan.towers.items()}
        assert expected == FORWARD[name]
    assert not (tmp_path / "run").exists()


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


def test_the_commands_in_the_head_of_cached_text_make_its_shards(miniature: Miniature, tmp_path: Path) -> None:
    head = (SHELF / "image_text/cached_text.yaml").read_text().partition("\nrun:")[0]
    said = "\n".join(line[4:] for line in head.splitlines() if line.startswith("#   "))
    first, embed, last = (shlex.split(one) for one in said.replace("\\\n", "").splitlines())
    assert first[:2] == last[:2] == ["mmcl", "train"]
    begun = load_recipe(first[2], first[3:])
    assert begun.towers["text"].policy.name == "frozen"
    workflow.train(miniature.small(begun, tmp_path / "first"))

    assert embed[3] == begun.run
    places = {begun.run: tmp_path / "first", begun.data.sources[0].shards: tmp_path / "first-0"}
    recipe = load_recipe(last[2], last[3:])
    assert embed[-2:] == ["--out", recipe.data.sources[0].shards]
    cli.main([*(str(places.get(word, word)) for word in embed[1:-1]), str(tmp_path / "out")])
    content = miniature.small(recipe, tmp_path / "last").model_dump(mode="json")
    content["towers"]["text"]["width"] = WIDTH
    content["data"]["train"]["shards"] = str(tmp_path / "out")
    run = workflow.train(Recipe.model_validate(content))
    assert not (run / "bad_samples.jsonl").exists()
    assert mmcl.load(run).embed("text", [np.ones(WIDTH, np.float32)]).shape == (1, WIDTH)


def copied(model: MultiTower) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
