"""What is remembered of each sample is the same on every process, and that of one process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmcl import checkpoints, distributed, workflow
from mmcl.losses.memory import NOBODY, SampleMemory
from mmcl.recipe import Recipe
from mmcl.training.record import gathered
from mmcl.types import Batch, sample_id
from tests.distributed_worker import run_processes
from tests.losses.global_reference import CASES, built, steps

ROWS, DIM, MODALITIES = 7, 6, ("text", "image")  # unequal shares on 2 and on 3 processes


def run() -> dict[str, dict[str, list[Tensor]]]:
    """Losses, gradients of this process's rows and of parameters, and the whole state, of several steps."""
    offset, count = distributed.share(ROWS, distributed.rank(), distributed.world_size())
    own = slice(offset, offset + count)
    results = {}
    for case in CASES:
        objective = built(case)
        found: dict[str, list[Tensor]] = {"loss": [], "rows": [], "parameters": []}
        for vectors, present, keys in steps(5, ROWS, MODALITIES, seed=1, samples=12):
            ids = torch.tensor([sample_id(key) for key in keys])
            batch = Batch({}, {m: p[own] for m, p in present.items()}, keys[own], ids[own], ROWS, offset, [])
            leaves = {m: x[own][present[m][own]].clone().requires_grad_() for m, x in vectors.items()}
            there = {m: x for m, x in leaves.items() if x.shape[0]}
            objective.zero_grad()
            out = objective(gathered(there, batch, MODALITIES, DIM, torch.device("cpu")))
            (out.total * distributed.world_size()).backward()  # as the step does, for DDP's mean
            distributed.average_gradients(objective.parameters())
            objective.after_step_()
            full = torch.zeros(count, 2, DIM, dtype=torch.float64)
            for number, m in enumerate(MODALITIES):
                if m in there:
                    full[present[m][own], number] = there[m].grad / distributed.world_size()
            found["loss"].append(distributed.total(out.total.detach()))
            found["rows"].append(full)
            found["parameters"].append(torch.stack([*(p.grad for p in objective.parameters()), torch.zeros(())]))
        memory = objective.terms[0].contrast.memory
        assert isinstance(memory, SampleMemory)
        found["state"] = [memory.keys, memory.values]
        results[case] = found
    return results


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_steps_are_those_of_one_process(processes: int, tmp_path: Path) -> None:
    expected, ranks = run(), run_processes(run, processes, tmp_path)
    for case in CASES:
        for step, rows in enumerate(expected[case]["rows"]):
            mine = torch.cat([rank[case]["rows"][step] for rank in ranks])
            torch.testing.assert_close(mine, rows, rtol=1e-9, atol=1e-12)
            assert rows.abs().max() > 0
        for rank in ranks:
            for key in ("loss", "parameters", "state"):
                for mine, theirs in zip(rank[case][key], expected[case][key], strict=True):
                    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        losses = torch.stack(expected[case]["loss"])
        assert losses.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["isogclr", "fastclip"])
def test_a_run_goes_on_with_what_it_remembered(preset: str, tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    more = [f"objective={preset}", "training.checkpoint_every_steps=4", "training.keep_checkpoints=2"]
    weights = []
    for name in ("whole", "broken"):
        run = workflow.train(tiny(tmp_path / name, *more))
        if name == "broken":
            shutil.rmtree(run / "checkpoints" / "step-00000008")
            workflow.train(str(run), resume=True)
        found = checkpoints.latest(run / "checkpoints")
        assert found is not None
        assert found.state["step"] == 8
        weights.append(found.tensors("weights"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert weights[0]["objective.terms.0.contrast.steps"] == 8
    assert int((weights[0]["objective.terms.0.contrast.memory.keys"] != NOBODY).sum()) > 200
