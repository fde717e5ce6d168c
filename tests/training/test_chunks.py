"""Gradients of a batch that goes through the towers in chunks are those of the whole, whatever the objective is."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmcl
from mmcl import distributed, workflow
from mmcl.model import MultiTower, embedded
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.towers import POLICIES, Backbone, Tower
from mmcl.training import Trainer
from mmcl.training.chunks import Chunks
from mmcl.training.record import gathered
from mmcl.types import Batch, Transform, sample_id
from tests.distributed_worker import run_processes
from tests.training.test_processes import losses

ROWS, DIM, WIDTH = 16, 6, 5
NAMES = ("image", "text", "audio", "text.2")
CPU = torch.device("cpu")
OBJECTIVES: dict[str, Any] = {
    "softmax": {"contrast": {"name": "softmax", "label_smoothing": 0.1}, "negatives": "distinct"},
    "siglip": "siglip",
    "gram": "gram",
    "symile": "symile",
    "isogclr": {"contrast": {"name": "isogclr", "tau": 0.05}},
    "clip_uniform": "clip_uniform",
    "barlow": [{"regularize": "barlow"}, "clip"],
    "captions": {"view": {"name": "captions", "anchor": "image", "of": "text"}, "targets": "shared"},
}


class Small(Backbone):
    """Two layers, and dropout between them."""

    takes, width = "vector", DIM

    def __init__(self, dropout: float, norm: bool = False) -> None:
        super().__init__()
        normed = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 8), normed, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, DIM))

    def transform(self, train: bool) -> Transform:
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


def towers(dropout: float = 0.0, frozen: str | None = None, norm: bool = False) -> MultiTower:
    torch.manual_seed(0)
    policies = {frozen: POLICIES.check("frozen").build()} if frozen else {}
    made = {m: Tower(Small(dropout, norm), policy=policies.get(m)) for m in ("image", "text", "audio")}
    return MultiTower(made, DIM).train()


def data(dtype: torch.dtype = torch.float64, own: slice = slice(0, ROWS)) -> tuple[dict[str, Tensor], Batch]:
    """Rows of a process and its batch. Audio is missing on the first process, and in first and last chunks."""
    torch.manual_seed(1)
    rows = {name: torch.randn(ROWS, WIDTH).to(dtype) for name in NAMES}  # the same numbers in any precision
    present = {name: torch.ones(ROWS, dtype=torch.bool) for name in NAMES}
    present["audio"][:9] = False
    present["audio"][14:] = False
    present["text"][[2, 11]] = False
    present["text.2"][::2] = False
    keys = [f"{i % 14}" for i in range(ROWS)]
    ids = torch.tensor([sample_id(key) for key in keys])
    there = {name: p[own] for name, p in present.items()}
    batch = Batch({}, there, keys[own], ids[own], ROWS, own.start, [])
    return {name: x[own][there[name]] for name, x in rows.items() if there[name].any()}, batch


def gradients(
    name: str, model: MultiTower, rows: dict[str, Tensor], batch: Batch, embed: Callable[[], Any], then: Any = None
) -> dict[str, Tensor]:
    """Loss and gradients of two steps."""
    torch.manual_seed(5)
    dtype = next(iter(rows.values())).dtype
    objective, found = mmcl.objective(OBJECTIVES[name], DIM).to(dtype), {}
    for step in range(2):
        vectors = embed()
        e = replace(gathered(vectors, batch, NAMES, DIM, CPU), step=step)
        out = objective(e)
        (out.total * distributed.world_size()).backward()
        if then is not None:
            then()
        found[f"loss {step}"] = distributed.total(out.total.detach())
        objective.after_step_()
    distributed.average_gradients(objective.parameters())
    found |= {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return found | {f"objective {i}": p.grad for i, p in enumerate(objective.parameters())}


def in_chunks(name: str, size: int, model: MultiTower, dtype: torch.dtype, own: slice = slice(0, ROWS)) -> Any:
    rows, batch = data(dtype, own)
    wrapped: Any = model
    unshared: dict[str, Any] = {}
    if distributed.world_size() > 1:
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        unshared = {"unshared": wrapped.no_sync}
    state: list[Chunks] = []

    def embed() -> dict[str, Tensor]:
        state.append(Chunks(model, wrapped, rows, batch, size, **unshared))
        return state[-1].embed()

    return gradients(name, model, rows, batch, embed, lambda: state[-1].backward())


def at_once(name: str, model: MultiTower, dtype: torch.dtype) -> Any:
    rows, batch = data(dtype)
    return gradients(name, model, rows, batch, partial(embedded, model, rows))


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **tolerance)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_whole_batch(name: str) -> None:
    expected = at_once(name, towers().double(), torch.float64)
    for size in (1, 2, 3, 4, 8):
        found = in_chunks(name, size, towers().double(), torch.float64)
        compare(found, expected, rtol=1e-10, atol=1e-12)
    for size in (1, 4):  # in fp32: as near to what is exact, wherever a machine rounds
        for key, value in in_chunks(name, size, towers(), torch.float32).items():
            assert (value - expected[key]).norm() <= 1e-5 * expected[key].norm(), key


def test_a_tower_that_stands_still_is_embedded_once_and_moves_nothing() -> None:
    expected = at_once("softmax", towers(frozen="image").double(), torch.float64)
    model, passes = towers(frozen="image").double(), []
    model.tower("image").backbone.register_forward_hook(lambda *_: passes.append(1))
    compare(in_chunks("softmax", 4, model, torch.float64), expected, rtol=1e-10, atol=1e-12)
    assert len(passes) == 2 * 4  # two steps of four chunks


@pytest.mark.parametrize("size", [1, 3, 8])
def test_dropout_is_that_of_the_same_chunks_at_once(size: int) -> None:
    """Also what is drawn after it."""
    rows, batch = data()
    results = []
    for cached in (False, True):
        model = towers(dropout=0.5, frozen="text").double()
        if cached:
            found = in_chunks("softmax", size, model, torch.float64)
        else:
            chunks = Chunks(model, model, rows, batch, size)
            parts = [chunks.part(places) for places in chunks.places]

            def embed(parts: Any = parts, model: MultiTower = model) -> dict[str, Tensor]:
                made = [embedded(model, part) for part in parts]
                return {n: torch.cat([one[n] for one in made if n in one]) for n in rows}

            found = gradients("softmax", model, rows, batch, embed)
        results.append(found | {"drawn": torch.rand(3)})
    compare(results[1], results[0], rtol=1e-10, atol=1e-12)
    still = at_once("softmax", towers(frozen="text").double(), torch.float64)
    assert not torch.allclose(results[1]["loss 0"], still["loss 0"])


def test_batch_normalisation_counts_each_chunk_once() -> None:
    rows, batch = data(torch.float32)
    model, other = towers(norm=True), towers(norm=True)
    chunks = Chunks(model, model, rows, batch, 8)
    sum(x.sum() for x in chunks.embed().values()).backward()
    chunks.backward()
    for places in chunks.places:
        embedded(other, chunks.part(places))
    compare(dict(model.named_buffers()), dict(other.named_buffers()))


def of_one_process(names: tuple[str, ...], size: int) -> dict[str, Any]:
    offset, count = distributed.share(ROWS, distributed.rank(), distributed.world_size())
    own = slice(offset, offset + count)
    return {name: in_chunks(name, size, towers().double(), torch.float64, own) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_gradients_of_several_processes_are_those_of_one(processes: int, tmp_path: Path) -> None:
    """Of which one has no audio in any chunk, and so other chunks than the others."""
    names = tuple(OBJECTIVES)
    ranks = run_processes(of_one_process, processes, tmp_path, names, 3)
    for name in names:
        expected = at_once(name, towers().double(), torch.float64)
        for rank in ranks:
            compare(rank[name], expected, rtol=1e-10, atol=1e-12)


def test_a_run_in_chunks_is_the_run_at_once(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    one = workflow.train(tiny(tmp_path / "one"))
    two = workflow.train(tiny(tmp_path / "two", "training.chunk=9"))
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)


def test_without_chunks_where_one_would_hold_the_batch(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(tmp_path / "run", "training.chunk=32")
    trainer = Trainer(recipe, Run(tmp_path / "run"), lambda _: {})
    assert trainer.learner._chunks(next(iter(trainer.stream)), {}) is None
