"""Compiled blocks compute what the others do, and are compiled a few times only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.model import MultiTower
from mmcl.recipe import Recipe
from mmcl.towers import TOWERS, Backbone, Tower
from mmcl.training.compiling import compile_
from mmcl.types import Transform
from tests.distributed_worker import run_processes
from tests.training.test_chunks import compare, in_chunks
from tests.training.test_sharding import FSDP, alike, recipe, shards, train  # noqa: F401

SMALL = {"layers": 2, "heads": 2}
torch_warns = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf",  # which dynamo hides itself, where it is no error
    "ignore::DeprecationWarning",
)


def two(again: bool = False) -> MultiTower:
    torch.manual_seed(0)
    image = {"name": "vit", "patch_size": 8, **SMALL, "gradient_checkpointing": again}
    sizes = {"one": {"image_size": 32, "width": 32}, "two": {"image_size": 16, "width": 48}}
    return MultiTower({m: TOWERS.check({**image, **size}).build(dim=8) for m, size in sizes.items()}, 8)


@pytest.mark.slow
@torch_warns
@pytest.mark.parametrize("again", [False, True])
def test_gradients_are_those_of_eager_towers_and_sizes_that_vary_are_compiled_once(again: bool) -> None:
    compiled, eager, graphs = two(again), two(again), []
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_(compiled)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for step in range(20):
        rows = {"one": 3 + step % 7, "two": 1 + step % 4}
        sides = {"one": 32, "two": 16}
        torch.manual_seed(step)
        inputs = {m: torch.randint(0, 256, (n, 3, sides[m], sides[m]), dtype=torch.uint8) for m, n in rows.items()}
        if step % 5 == 3:
            del inputs["two"]
        with torch.no_grad():  # as the first pass of a batch in parts
            compiled(inputs)
            compiled.eval()(inputs)
            compiled.train()
        for model in (compiled, eager):
            model.zero_grad()
            sum(x.square().sum() for x in model(inputs).values()).backward()
        for (name, one), other in zip(compiled.named_parameters(), eager.parameters(), strict=True):
            if other.grad is None:
                assert one.grad is None
            else:
                assert one.grad is not None
                assert (one.grad - other.grad).norm() <= 1e-5 * other.grad.norm() + 1e-9, name
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert graphs[-1] == graphs[9] <= 16  # two towers; with gradients, without, in evaluation; one size, then any


class Dropping(Backbone):
    """Blocks with dropout."""

    takes, width = "vector", 6

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5)) for _ in range(2))
        self.last = nn.Linear(5, 6)

    def transform(self, train: bool) -> Transform:
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        for block in self.blocks:
            rows = block(rows).tanh()
        return self.last(rows)


@pytest.mark.slow
@torch_warns
def test_the_second_pass_of_a_batch_in_parts_draws_what_the_first_one_drew() -> None:
    found = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = MultiTower({m: Tower(Dropping()) for m in ("image", "text", "audio")}, 6).train()
        if compiles:
            compile_(model)
        found.append(in_chunks("softmax", 3, model, torch.float32))
    compare(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@torch_warns
def test_a_compiled_run_is_the_eager_one(shards: Path, tmp_path: Path) -> None:  # noqa: F811
    later = {"text": {"policy": {"name": "trained", "from_step": 2}}, "image": {"gradient_checkpointing": True}}
    said: dict[str, Any] = {"ema": {"decay": 0.9, "evaluate": True}}
    train([(recipe(shards, tmp_path / "eager", later, **said), {}, False)])
    said["compile"] = True
    train([(recipe(shards, tmp_path / "one", later, **said, chunk=4), {}, False)])
    jobs = [
        (recipe(shards, tmp_path / name, later, **said), environment, False)
        for name, environment in (("ddp", {}), ("fsdp", FSDP))
    ]
    run_processes(train, 2, tmp_path / "processes", jobs)
    for name in ("one", "ddp", "fsdp"):
        alike(tmp_path / name, tmp_path / "eager")


def test_where_nothing_can_be_compiled_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(MmclError, match="training.compile: torch cannot compile on this machine: No working C.. comp"):
        compile_(two())


def test_it_is_said_in_a_recipe(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    assert not tiny(tmp_path).training.compile
    assert tiny(tmp_path, "training.compile=true").training.compile
