"""Several real processes give the loss, the gradients and the runs of one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mmcl
from mmcl import distributed, workflow
from mmcl.losses import Objective
from mmcl.model import MultiTower
from mmcl.recipe import Recipe, dump_yaml
from mmcl.towers import POLICIES, Backbone, Tower
from mmcl.training.record import gathered
from mmcl.types import Batch, Embeddings, Mixed, Transform, sample_id
from tests.distributed_worker import run_processes

ROWS, DIM = 11, 6  # 11 rows: unequal shares on 2 and on 3 processes
TOWERS = ("image", "text", "audio")
MODALITIES = (*TOWERS, "text.2", "image.wrong")  # with copies, which only some objectives look at
TEACHER = {"text": "teacher.text", "image": "teacher.image"}
PAIR = {"pairs": [["text", "image"]]}
STEPS = 2  # what remembers something shows it in the second
OBJECTIVES: dict[str, Any] = {
    "clip": "clip",
    "distinct": {"negatives": "distinct", "contrast": {"name": "softmax", "label_smoothing": 0.1}},
    "two terms": [{"pairs": [["text", "image"]], "weight": 0.3}, {"temperature": 0.2}],
    "switched": [{"temperature": {"init": 0.2}, "until_step": 1}, {"temperature": {"init": 0.1}, "from_step": 1}],
    "gram": "gram",
    "span": {"score": "span", "view": "rotating", "contrast": {"name": "softmax", "label_smoothing": 0.1}},
    "triangle": "triangle",
    "symile": "symile",
    "lorentz": {"score": "lorentz", "contrast": "hard_negative"},
    "sigmoid": {"contrast": "sigmoid", "targets": "shared"},
    "supcon": {"targets": "shared", "temperature": {"init": 0.2}},
    "dclw": "dclw",
    "hinge": {"contrast": "hinge", "anchor": "image"},
    "groco": {"contrast": {"name": "groco", "top_k": 4, "steepness": 5.0}},
    "sogclr": {"contrast": {"name": "sogclr", "rho": 6.5}, "temperature": {"init": 0.1, "learn": True}},
    "isogclr": {"contrast": {"name": "isogclr", "tau": 0.05}, "negatives": "distinct"},
    "cuaxu": "cuaxu",
    "soft": {"targets": {"name": "soft", "by": TEACHER}, **PAIR},
    "congrat": {"targets": {"name": "congrat", "by": "teacher.text", "alpha": 0.4}},
    "neighbours": {"targets": {"name": "neighbours", "by": "image", "k": 3}, "temperature": {"init": 0.3}},
    "graded": {"targets": {"name": "graded", "by": "grade", "map": "log"}, "contrast": "hard_negative"},
    "gte": {"negatives": ["distinct", "in_modal"], "directions": "joint"},
    "alike": {
        "negatives": {"name": "alike", "by": TEACHER, "margin": 0.0},
        **PAIR,
    },
    "provided": {"negatives": ["in_batch", {"name": "provided", "copies": ["image.wrong"]}], "contrast": "sigmoid"},
    "wrong tuples": {
        "score": "gram",
        "anchor": "text",
        "negatives": ["distinct", {"name": "provided", "copies": ["image.wrong"]}],
    },
    "null": {"negatives": ["in_batch", {"name": "null_anchor", "of": ["audio"]}], "anchor": "text"},
    "queue": {"negatives": ["in_batch", {"name": "queue", "size": 16, "of": ["image", "text"], "top_k": 5}], **PAIR},
    "mixed": {"negatives": ["in_batch", {"name": "mixed", "hardest": 4, "count": 3, "with_query": 2}]},
    "captions": {"view": {"name": "captions", "anchor": "image", "of": "text"}, "targets": "shared"},
    "milnce": {
        "view": {"name": "captions", "anchor": "image", "of": "text"},
        "contrast": {"name": "softmax", "positives": "in"},
        "targets": "shared",
        "directions": "joint",
    },
    "poly_geometric": "poly_geometric",
    "poly_arithmetic": {"multi_view": {"name": "poly", "form": "arithmetic"}, "negatives": "distinct"},
    "poly_sufficient": "poly_sufficient",
    "mv_infonce": "mv_infonce",
    "mv_dhel": "mv_dhel",
    "regularizers": [
        {"regularize": name}
        for name in ("koleo", "variance", "covariance", "barlow", "consistency", "cross_uniformity")
    ],
    "matryoshka": {"transform": {"name": "matryoshka", "dims": [2, 4, 6], "weights": [1.0, 0.5, 0.2]}},
    "whitening": {"transform": {"name": "whitening", "groups": 3}},
    "swap": {"transform": {"name": "swap", "p": 0.5, "pair": ["audio", "image"]}},
    "mixup": {"transform": {"name": "mixup", "p": 0.9, "alpha": 1.0}},
    "mixup, distinct": {"transform": {"name": "mixup", "p": 1.0, "alpha": 1.0}, "negatives": "distinct"},
    "rows that came mixed": {"contrast": {"name": "softmax", "label_smoothing": 0.1}, "temperature": {"init": 0.3}},
    "heads": {"transform": {"name": "heads", "modalities": ["image", "text"], "hidden": 4}},
    "distillation": [
        {"regularize": {"name": "instance", "teachers": {"text": "teacher.audio"}}},
        {"regularize": {"name": "structure", "teachers": {"text": "teacher.text", "audio": "teacher.audio"}}},
        {"regularize": {"name": "structure", "teachers": {"text": "teacher.text"}, "kind": "cosines"}},
        {"regularize": {"name": "score_matrix", "teachers": {"text": "teacher.text", "image": "teacher.image"}}},
    ],
    "swapped": {"regularize": "swapped"},
    "swapped views": {"regularize": {"name": "swapped", "views": {"text": "image"}, "pairs": [["text", "audio"]]}},
    "meru": "meru",
    "clusters": {"regularize": {"name": "clusters", "clusters": 3, "momentum": 0.5}},
    "matching": [
        {"regularize": {"name": "matching", "score": "gram", "hidden": 5}},
        {"regularize": {"name": "matching", "anchor": "image", "others": ["text"], "hidden": 5}},
    ],
}


def whole_batch() -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Vectors, presence and keys. Audio is missing in some rows, and from one process's rows altogether."""
    torch.manual_seed(3)
    vectors = {m: torch.randn(ROWS, DIM, dtype=torch.float64) for m in MODALITIES}
    present = {m: torch.ones(ROWS, dtype=torch.bool) for m in MODALITIES}
    present["audio"][6:] = False
    present["text"][2] = False
    present["text.2"][1::2] = False
    present["image.wrong"][7:9] = False
    vectors = {m: x.masked_fill(~present[m][:, None], 0.0) for m, x in vectors.items()}
    return vectors, present, ["a", "b", "a", "c", "d", "e", "f", "a", "g", "g", "h"]


def extras() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What else is known of all rows, vectors of teachers (two wider than the students) and a grade, and who has it."""
    vectors, present, _ = whole_batch()
    wide = {f"teacher.{m}": torch.cat([vectors[m], torch.randn(ROWS, 3)], 1) for m in ("text", "image")}
    known = {
        **wide,
        "teacher.audio": torch.randn(ROWS, DIM, dtype=torch.float64),
        "grade": torch.rand(ROWS, dtype=torch.float64) + 1,
    }
    everywhere = {name: torch.ones(ROWS, dtype=torch.bool) for name in known}
    return known, everywhere | {"teacher.image": torch.arange(ROWS) != 4, "teacher.text": present["text"]}


def mixtures(name: str, own: slice = slice(0, ROWS)) -> dict[str, tuple[Tensor, Tensor]]:
    """Partners among some rows, each with its neighbour, and weights, of images that came as mixtures."""
    if name != "rows that came mixed":
        return {}
    partner = torch.tensor([*(i ^ 1 for i in range(ROWS - 1)), ROWS - 1])
    weight = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    return {"image": (partner[own] - own.start, weight[own])}


def built(name: str) -> Objective:
    torch.manual_seed(5)  # of parts that have weights: every process has the same
    return mmcl.objective(OBJECTIVES[name], DIM).double()


def state(objective: Objective) -> dict[str, Tensor]:
    return {f"t{i}": p.grad for i, p in enumerate(objective.parameters())} | {
        f"b{i}": b.clone() for i, b in enumerate(objective.buffers())
    }


def single(name: str) -> dict[str, Tensor]:
    vectors, present, keys = whole_batch()
    known, known_of = extras()
    leaves = {m: x.clone().requires_grad_() for m, x in vectors.items()}
    objective, losses = built(name), []
    for step in range(STEPS):
        e = replace(Embeddings.single(leaves, present | known_of, keys, known), step=step)
        out = objective(replace(e, mixed={m: Mixed(*drawn) for m, drawn in mixtures(name).items()}))
        out.total.backward()
        losses.append(out.total.detach())
        objective.after_step_()
    return {"loss": torch.stack(losses), **{m: _zero_at_least(x) for m, x in leaves.items()}, **state(objective)}


def _zero_at_least(x: Tensor) -> Tensor:
    """Gradient; zero for a copy that the objective does not look at."""
    return torch.zeros_like(x) if x.grad is None else x.grad


def one_of_many() -> dict[str, dict[str, Tensor]]:
    """What `single` computes, by this process's share of the rows and the step's own gathering."""
    vectors, present, keys = whole_batch()
    known, known_of = extras()
    offset, count = distributed.share(ROWS, distributed.rank(), distributed.world_size())
    own = slice(offset, offset + count)
    ids = torch.tensor([sample_id(key) for key in keys])
    batch = Batch({}, {m: p[own] for m, p in present.items()}, keys[own], ids[own], ROWS, offset, [])
    results = {}
    for name in OBJECTIVES:
        objective, losses = built(name), []
        leaves = {m: x[own][present[m][own]].clone().requires_grad_() for m, x in vectors.items()}
        there = {m: x for m, x in leaves.items() if x.shape[0]}
        for step in range(STEPS):
            e = gathered(there, batch, MODALITIES, DIM, torch.device("cpu"), mixed=mixtures(name, own))
            out = objective(replace(e, extras=known, present={**e.present, **known_of}, step=step))
            (out.total * distributed.world_size()).backward()  # as the step does, for DDP's mean
            losses.append(distributed.total(out.total.detach()))
            objective.after_step_()
        distributed.average_gradients(objective.parameters())
        full = {m: torch.zeros(count, DIM, dtype=torch.float64) for m in MODALITIES}
        for m, x in there.items():
            full[m][present[m][own]] = x.grad / distributed.world_size()
        results[name] = {"loss": torch.stack(losses), **full, **state(objective)}
    results["ddp"] = absent_on_one_process()
    x = torch.ones(2, requires_grad=True)
    (distributed.total(x).log().sum() / distributed.world_size()).backward()
    results["total"] = {"gradient": x.grad}
    return results


class Linear(Backbone):
    """The smallest one."""

    takes = "image"

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(DIM, DIM, dtype=torch.float64)

    def transform(self, train: bool) -> Transform:
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(rows)


def absent_on_one_process() -> dict[str, Tensor]:
    """Gradients of towers under DDP, where the last process has no audio, and where it has nothing at all."""
    vectors, present, keys = whole_batch()
    gradients = {}
    for name in ("some", "none", "still"):
        offset, count = distributed.share(ROWS, distributed.rank(), distributed.world_size())
        own, last = slice(offset, offset + count), slice(ROWS - 3, ROWS)
        there = {m: p.clone() for m, p in present.items()}
        if name == "none":
            for m in TOWERS:
                there[m][last] = False
        if name == "still":  # the last process has rows of a tower that is frozen, and of no other
            for m in TOWERS[1:]:
                there[m][last] = False
        torch.manual_seed(4)
        policies = {"image": POLICIES.check("frozen").build()} if name == "still" else {}
        towers: torch.nn.Module = MultiTower({m: Tower(Linear(), policy=policies.get(m)) for m in TOWERS}, DIM)
        if distributed.world_size() > 1:
            towers = torch.nn.parallel.DistributedDataParallel(
                towers,
                find_unused_parameters=True,
                bucket_cap_mb=1e-4,  # type: ignore[arg-type]
            )
        inputs = {m: vectors[m][own][there[m][own]] for m in TOWERS if there[m][own].any()}
        batch = Batch({}, {m: p[own] for m, p in there.items()}, keys[own], torch.arange(ROWS)[own], ROWS, offset, [])
        out = mmcl.objective({"temperature": 0.2}).double()(
            gathered(towers(inputs), batch, TOWERS, DIM, torch.device("cpu"))
        )
        (out.total * distributed.world_size()).backward()
        for key, parameter in towers.named_parameters():
            if parameter.requires_grad:
                gradients[f"{name} {key.removeprefix('module.')}"] = parameter.grad
    return gradients


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_one_process(processes: int, tmp_path: Path) -> None:
    ranks = run_processes(one_of_many, processes, tmp_path)
    for name in OBJECTIVES:
        expected = single(name)
        for m in MODALITIES:
            torch.testing.assert_close(
                torch.cat([rank[name][m] for rank in ranks]), expected[m], rtol=1e-10, atol=1e-12
            )
        for rank in ranks:
            for key in (k for k in expected if k not in MODALITIES):
                torch.testing.assert_close(rank[name][key], expected[key], rtol=1e-10, atol=1e-12)
    expected = absent_on_one_process()
    for rank in ranks:
        for key, gradient in expected.items():
            torch.testing.assert_close(rank["ddp"][key], gradient, rtol=1e-10, atol=1e-12)
    for rank in ranks:  # log of a sum of ones: each one's gradient is 1 / processes
        torch.testing.assert_close(rank["total"]["gradient"], torch.full((2,), 1 / processes))


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def measured(run: Path) -> dict[str, float]:
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: value for name, value in row.items() if "recall" in name or "median_rank" in name}


@pytest.mark.slow
@pytest.mark.parametrize("chunk", ["null", "5"])
def test_a_run_on_two_processes_is_the_run_on_one_and_goes_on_on_one(
    chunk: str, tmp_path: Path, tiny: Callable[..., Recipe], task: Path
) -> None:
    more = ["data.batch_size=33", "training.samples=330", f"tasks=['{task}']", "optimizer.lr=1e-4"]
    one = workflow.train(tiny(tmp_path / "one", *more))

    two = tmp_path / "two"
    short = tiny(two, *more, "training.processes=2", "training.checkpoint_every_steps=5", f"training.chunk={chunk}")
    path = tmp_path / "two.yaml"
    path.write_text(dump_yaml(short.model_dump(mode="json")))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmcl"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, "train", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for name, value in measured(one).items():
        assert measured(two)[name] == pytest.approx(value, abs=0.01 if "recall" in name else 1), name

    shutil.rmtree(two / "checkpoints" / "step-00000010")
    workflow.train(str(two), "training.processes=1", resume=True)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
