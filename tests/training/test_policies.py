"""Runs in which towers stand still, wake up, learn slower, or learn through adapters."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import mmcl
from mmcl import checkpoints, workflow
from mmcl.errors import MmclError
from mmcl.recipe import Recipe, dump_yaml, load_recipe
from mmcl.runs import Run, build_model
from mmcl.towers import merged_state
from mmcl.training import Trainer
from tests.towers import tiny_texts

IMAGE = "towers.image.backbone."
HEADS = ["towers.image.head=linear", "towers.text.head=linear"]
FROZEN = [*HEADS, "towers.image.policy=frozen", "towers.image.weights=random"]
LATER = [*HEADS, "towers.image.policy={name: trained, from_step: 4}", "training.checkpoint_every_steps=3"]
LORA = [*HEADS, "towers.image.policy={name: lora, rank: 2}", "towers.text.policy={name: lora, rank: 2, lr: 2}"]
LORA += ["towers.image.weights=random", "towers.text.weights=random"]


def weights(run: Path, kind: str = "model.") -> dict[str, Tensor]:
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    return {k.removeprefix(kind): t for k, t in checkpoint.tensors("weights").items() if k.startswith(kind)}


def moved(run: Path) -> set[str]:
    """Weights of the towers that are not what the run began with."""
    return changed(build_model(Run(run).recipe()).state_dict(), weights(run))


def changed(one: dict[str, Tensor], two: dict[str, Tensor]) -> set[str]:
    assert one.keys() == two.keys()
    return {name for name in one if not torch.equal(one[name], two[name])}


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def trainer(recipe: Recipe) -> Trainer:
    return Trainer(recipe, Run(Path(recipe.run)), lambda _: {})


@pytest.mark.parametrize(
    "more", [[], pytest.param(["training.precision=bf16"], marks=pytest.mark.slow)], ids=["fp32", "bf16"]
)
def test_a_frozen_backbone_does_not_move_and_has_no_slots(
    tmp_path: Path, tiny: Callable[..., Recipe], more: list[str]
) -> None:
    run = workflow.train(tiny(tmp_path / "run", *FROZEN, *more))
    names = moved(run)
    assert not any(name.startswith(IMAGE) for name in names)
    assert {"towers.image.head.weight", "towers.text.head.weight"} <= names
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    learning = {
        n: p for n, p in trainer(tiny(tmp_path / "t", *FROZEN, *more)).model.named_parameters() if p.requires_grad
    }
    slots = {key.partition(".")[0] for key in checkpoint.tensors("optimizer")}
    assert len(slots) == len(learning) + 1  # and the temperature
    assert losses(run)[-1] < losses(run)[0]


def test_a_backbone_that_wakes_up_stands_still_before_and_goes_on_exactly(
    tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    whole = workflow.train(tiny(tmp_path / "whole", *LATER, "training.keep_checkpoints=3"))
    early = tmp_path / "early"
    shutil.copytree(whole, early)
    for step in (6, 8):
        shutil.rmtree(early / "checkpoints" / f"step-{step:08d}")
    before = moved(early)
    assert not any(name.startswith(IMAGE) for name in before), "weight decay, or a step, has moved it"
    assert {"towers.image.head.weight", "towers.text.head.weight"} <= before
    assert any(name.startswith(IMAGE) for name in moved(whole))
    workflow.train(str(early), resume=True)  # from step 3, over the step at which it wakes up
    assert changed(weights(early), weights(whole)) == set()
    assert losses(early) == losses(whole)


def test_a_backbone_that_stands_still_is_in_evaluation_mode_and_keeps_nothing(
    tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    made = trainer(tiny(tmp_path / "run", *LATER, "towers.image.patch_dropout=0.5"))
    tower = made.model.tower("image")
    pixels = torch.randint(0, 256, (2, 3, tower.backbone.image_size, tower.backbone.image_size), dtype=torch.uint8)  # type: ignore[attr-defined]
    assert not tower.backbone.training  # from the first step on
    for step, learns in ((0, False), (3, False), (4, True), (2, False)):
        made.model.at_step(step)
        assert tower.training
        assert tower.backbone.training == learns
        assert tower.backbone(pixels).requires_grad  # by itself; the tower holds it still
        assert torch.equal(tower(pixels), tower(pixels)) != learns
        tower(pixels).sum().backward()
        assert (next(tower.backbone.parameters()).grad is not None) == learns
        made.model.zero_grad()
    assert tower.varies
    frozen = trainer(
        tiny(
            tmp_path / "f",
            *FROZEN,
            "towers.image.patch_dropout=0.5",
            "towers.image.crop=[1, 1]",
            "towers.image.shift=0",
        )
    ).model
    assert not frozen.tower("image").varies
    assert trainer(tiny(tmp_path / "g", *FROZEN, "towers.image.crop=[0.5, 1]")).model.tower("image").varies


def test_learning_rates_have_the_factors_of_their_parameters(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    policy = "towers.image.policy={name: trained, lr: 0.5, layer_decay: 0.1}"
    made = trainer(
        tiny(
            tmp_path / "run",
            "towers.image.layers=2",
            "towers.image.head=linear",
            policy,
            "optimizer.lr=0.01",
            "schedule.warmup=0.5",
        )
    )
    names = {id(p): name for name, p in [*made.model.named_parameters(), *made.learner.objective.named_parameters()]}
    batch = next(iter(made.stream))
    made.learner.backward(batch)
    made.learner.update()
    rates = {names[id(p)]: group["lr"] for group in made.learner.optimizer.param_groups for p in group["params"]}
    block = f"{IMAGE}transformer.transformer.resblocks."
    expected = {  # depths 0, 1, 2, and 3 for what follows
        f"{IMAGE}transformer.conv1.weight": 0.0005,
        f"{block}0.mlp.c_fc.weight": 0.005,
        f"{block}1.mlp.c_fc.weight": 0.05,
        f"{IMAGE}transformer.ln_post.weight": 0.5,
        "towers.image.head.weight": 1,
        "towers.text.backbone.transformer.text_projection": 1,
    }
    assert {name: rates[name] / made.learner.lr for name in expected} == pytest.approx(expected)
    assert len(made.learner.optimizer.param_groups) == 2 + 4 * 2 - 1  # no matrix is as deep as the last normalisation
    assert made.learner.lr < 0.01, "the schedule has not moved it"


@pytest.mark.slow
def test_only_the_last_layers_learn(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    policy = "towers.image.policy={name: trained, last_layers: 1}"
    run = workflow.train(
        tiny(tmp_path / "run", "towers.image.layers=2", "towers.image.head=linear", policy, "training.samples=64")
    )
    names = {name.removeprefix(f"{IMAGE}transformer.") for name in moved(run) if name.startswith(IMAGE)}
    assert names
    assert all(name.startswith(("transformer.resblocks.1.", "ln_post")) for name in names)


@pytest.mark.slow
def test_adapters_learn_and_the_run_loads_and_merges(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(
        tiny(tmp_path / "run", *LORA, "training.ema={decay: 0.5, evaluate: true}", "training.samples=96")
    )
    names = moved(run)
    assert any("image" in name and "lora_B" in name for name in names)
    assert all("lora_" in name or ".head." in name for name in names)
    assert changed(weights(run, "ema.module."), weights(run)) == names
    encoder = mmcl.load(run)
    recipe = Run(run).recipe().model_dump(mode="json")
    for tower in ("image", "text"):
        recipe["towers"][tower]["policy"] = "trained"
    without = build_model(Recipe.model_validate(recipe))
    without.load_state_dict(merged_state(encoder.model))
    texts = ["greek small letter alpha", "arrow"]
    torch.testing.assert_close(
        mmcl.model.Encoder(without).embed("text", texts), encoder.embed("text", texts), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["towers.image.policy={name: trained, from_step: 780}"],
            "towers.image.policy: the backbone learns at none of the 780 steps",
        ),
        (["towers.image.policy={name: lora, from_step: 900}"], "towers.image.policy: the backbone learns at none"),
        (
            ["towers.image.policy=frozen", "towers.image.gradient_checkpointing=true"],
            "towers.image: gradient_checkpointing: a backbone that is frozen keeps no activations anyway",
        ),
        (
            ["towers.image.policy={name: frozen, layer_decay: 0.5}"],
            "towers.image.policy.layer_decay: there is no such key",
        ),
    ],
)
def test_policies_without_an_effect_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(MmclError, match=message):
        load_recipe("glyphs/clip_tiny", overrides)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("frozen", "towers: every backbone is frozen or has no weights, and none has a head"),
        ("{name: trained, from_step: 3}", "towers: no backbone learns at step 0 and none has a head"),
    ],
)
def test_towers_of_which_nothing_learns_are_refused(
    tmp_path: Path, tiny: Callable[..., Recipe], policy: str, message: str
) -> None:
    standing = [f"towers.{m}.{said}" for m in ("image", "text") for said in (f"policy={policy}", "weights=random")]
    for heads in ([], ["dim=32", "towers.image.head=none", "towers.text.head=none"]):
        with pytest.raises(MmclError, match=message):
            trainer(tiny(tmp_path / "run", *standing, *heads))
    trainer(tiny(tmp_path / "run", *standing, "towers.text.head=linear"))


def test_a_matrix_that_follows_a_model_without_a_projection_is_something_that_learns(
    tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    said = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}
    pictures, square = tmp_path / "dinov2", {"height": 32, "width": 32}
    transformers.Dinov2Model(transformers.Dinov2Config(image_size=32, patch_size=8, **said)).save_pretrained(pictures)
    transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(pictures)
    bert = transformers.BertConfig(vocab_size=24, max_position_embeddings=24, intermediate_size=48, **said)
    texts = tiny_texts.save(tmp_path / "bert", bert, tiny_texts.bert_like())
    content = tiny(tmp_path / "run").model_dump(mode="json")
    content["towers"] = {
        "image": {"name": "transformers_image", "model": str(pictures), "policy": "frozen"},
        "text": {"name": "transformers_text", "model": texts, "pool": "mean", "policy": "frozen"},
    }
    made = trainer(Recipe.model_validate(content))
    learning = {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert learning == {"towers.image.head.weight", "towers.text.head.weight"}
    for part in content["towers"].values():
        part["head"] = "none"
    content["dim"] = 32
    with pytest.raises(MmclError, match="towers: every backbone is frozen or has no weights, and none has a head"):
        trainer(Recipe.model_validate(content))


@pytest.mark.slow
def test_a_frozen_teacher_takes_part_in_three_towers(tmp_path: Path, glyphs: Any, tiny: Callable[..., Recipe]) -> None:
    """The preset as in its paper: the third tower sees the pictures, too, and stands still."""
    content = tiny(tmp_path / "run", "training.samples=64").model_dump(mode="json")
    content["objective"] = "three_towers"
    content["towers"]["teacher"] = {
        **content["towers"]["image"],
        "head": {"name": "none"},
        "policy": {"name": "frozen"},
        "weights": "random",
    }
    content["towers"]["teacher"]["width"] = content["dim"]
    content["data"]["train"]["modalities"]["teacher"] = "png"
    run = workflow.train(Recipe.model_validate(content))
    names, row = moved(run), json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert not any(name.startswith("towers.teacher.") for name in names)
    assert any(name.startswith(IMAGE) for name in names)
    assert sum("teacher" in name for name in row) > 0


@pytest.mark.slow
@pytest.mark.parametrize("policies", [FROZEN, LATER, LORA], ids=["frozen", "from_step", "lora"])
def test_two_processes_are_one(tmp_path: Path, tiny: Callable[..., Recipe], policies: list[str]) -> None:
    more = ["data.batch_size=33", "training.samples=264", "optimizer.lr=1e-3", *policies]
    one = workflow.train(tiny(tmp_path / "one", *more))
    path, two = tmp_path / "two.yaml", tmp_path / "two"
    path.write_text(dump_yaml(tiny(two, *more, "training.processes=2").model_dump(mode="json")))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmcl", "train", str(path)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert moved(two) == moved(one)
    for name, tensor in weights(one).items():
        if name.endswith("in_proj_bias"):  # that of the keys has no gradient but rounding, which Adam makes steps of
            continue
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_frozen_backbone_keeps_its_statistics_from_the_first_step_and_is_embedded_and_exported(
    tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    """Batch normalisation moves in training mode, even where nothing learns; and it counts, in a number of no axes."""
    resnet = "towers.image={name: timm_image, model: test_resnet, weights: random, image_size: 32, policy: frozen}"
    recipe = tiny(tmp_path / "run", resnet, "training.samples=64")
    made = trainer(recipe)
    before = {name: buffer.clone() for name, buffer in made.model.tower("image").named_buffers()}
    assert any("running_mean" in name for name in before)
    for batch in (next(iter(made.stream)),) * 2:
        made.learner.backward(batch)
        made.learner.update()
    assert not changed(before, dict(made.model.tower("image").named_buffers()))
    mmcl.train(recipe)
    mmcl.export(recipe.run, "safetensors", tmp_path / "out")
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    vectors = [mmcl.load(place, "cpu").embed("image", [picture]) for place in (recipe.run, tmp_path / "out")]
    torch.testing.assert_close(*vectors)
