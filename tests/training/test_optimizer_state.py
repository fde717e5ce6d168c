"""Every optimizer goes on from a checkpoint, bit for bit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcl import checkpoints, workflow
from mmcl.errors import MmclError
from mmcl.optimizers import OPTIMIZERS
from mmcl.recipe import Recipe
from mmcl.training.optimizer_state import remembered, restore, settings

LAST, EARLY = "step-00000006", "step-00000003"
TINY = ["training.samples=192", "training.checkpoint_every_steps=3", "dim=8"]
WAKING = "towers.image.policy={name: trained, from_step: 2}"  # its slots begin later than the others'


def kept(run: Path) -> dict[str, Tensor]:
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.path.name == LAST
    return checkpoint.tensors("weights") | {f"slot {k}": t for k, t in checkpoint.tensors("optimizer").items()}


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "muon"])
def test_a_run_goes_on_with_all_that_its_optimizer_remembers(
    name: str, tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    schedule = "schedule={name: wsd, warmup: 2, cooldown: 2}"
    recipe = tiny(tmp_path / "run", *TINY, f"optimizer={name}", schedule, WAKING, "towers.image.head=linear")
    run = workflow.train(recipe)
    whole = kept(run)
    shutil.rmtree(run / "checkpoints" / LAST)
    (run / "metrics.jsonl").unlink()
    workflow.train(str(run), resume=True)
    again = kept(run)
    assert again.keys() == whole.keys()
    assert [key for key in whole if not torch.equal(whole[key], again[key])] == []
    assert any(key.startswith("slot") for key in whole)


def test_counts_that_an_optimizer_keeps_as_numbers_go_into_json() -> None:
    """As timm's LAMB did before 1.0.28, and as its Muon says which way of a step a matrix has."""
    made = [OPTIMIZERS.check("lamb").build().over([nn.Linear(2, 2)], {}) for _ in range(2)]
    keys = settings(made[0])
    made[0].param_groups[0]["step"] = 7
    weight = made[0].param_groups[0]["params"][0]
    made[0].state[weight] = {"exp_avg": torch.ones(2, 2), "use_muon": True}
    tensors, numbers = remembered(made[0], keys)
    assert set(tensors) == {"0.exp_avg"}
    assert {k: v for k, v in numbers.items() if k.startswith("group.0.")} == {"group.0.step": 7, "group.0.size": 1}
    assert numbers["0.use_muon"] is True
    restore(made[1], tensors, numbers)
    again = made[1].state[made[1].param_groups[0]["params"][0]]
    assert again["use_muon"] is True
    assert torch.equal(again["exp_avg"], torch.ones(2, 2))
    assert int(made[1].param_groups[0]["step"]) == 7
    made[0].state[weight]["names"] = ["a"]
    with pytest.raises(MmclError, match=r"a checkpoint keeps tensors and numbers; 0.names is a list"):
        remembered(made[0], keys)
