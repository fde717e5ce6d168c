"""The record of a step, with copies and extras, and the average of the towers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcl import distributed
from mmcl.model import MultiTower, embedded, present_rows
from mmcl.specs import EmaSpec
from mmcl.towers import Tower
from mmcl.training.average import Average
from mmcl.training.record import gathered, placed
from mmcl.types import Batch
from tests.distributed_worker import run_processes
from tests.training.test_processes import DIM, ROWS, Linear

NAMES = ("image", "image.2", "text", "text.2", "text.wrong")
CPU = torch.device("cpu")


def batch_of(own: slice) -> tuple[dict[str, Tensor], Batch]:
    """Rows of a batch: the last three have no copy of a picture, the first two no second caption."""
    generator = torch.Generator().manual_seed(5)
    columns = {name: torch.randn(ROWS, DIM, dtype=torch.float64, generator=generator) for name in NAMES}
    present = {name: torch.ones(ROWS, dtype=torch.bool) for name in (*NAMES, "grade", "teacher")}
    present["image.2"][ROWS - 3 :] = False
    present["text.2"][:2] = False
    present["text.wrong"][1:] = False
    present["grade"][3] = False
    columns["grade"] = torch.arange(ROWS, dtype=torch.float32) * present["grade"]
    columns["teacher"] = torch.randn(ROWS, 4, generator=generator)
    columns, present = ({k: v[own] for k, v in kind.items()} for kind in (columns, present))
    rows = len(columns["grade"])
    batch = Batch(columns, present, [""] * rows, torch.arange(ROWS)[own], ROWS, own.start, [])
    return columns, batch


def one_of_several() -> dict[str, Any]:
    """The record and the gradients of towers under DDP, by this process's share of the rows."""
    offset, count = distributed.share(ROWS, distributed.rank(), distributed.world_size())
    columns, batch = batch_of(slice(offset, offset + count))
    torch.manual_seed(4)
    towers: torch.nn.Module = MultiTower({m: Tower(Linear()) for m in ("image", "text")}, DIM)
    if distributed.world_size() > 1:
        towers = torch.nn.parallel.DistributedDataParallel(
            towers,
            find_unused_parameters=True,
            bucket_cap_mb=1e-4,  # type: ignore[arg-type]
        )
    rows = present_rows(batch, NAMES, CPU)
    taught = placed({n: x.float() for n, x in rows.items() if n == "text.2"}, batch, ["text.2"], DIM, CPU)
    extras = {"grade": columns["grade"], "teacher": columns["teacher"], "ema.text.2": taught[:, 0]}
    e = gathered(embedded(towers, rows), batch, NAMES, DIM, CPU, extras)
    apart = [(e.all["image"] - e.all[n]).square().sum(1) for n in NAMES]
    weights = torch.stack([*(e.present[n] * x for n, x in zip(NAMES, apart, strict=True))]).sum(0) * e.extras["grade"]
    (weights[e.own].sum() * distributed.world_size()).backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in towers.named_parameters()}
    return {
        "all": {n: x.detach() for n, x in e.all.items()},
        "own": {n: torch.equal(x.detach(), e.all[n].detach()[e.own]) for n, x in e.local.items()},
        "present": dict(e.present),
        "extras": dict(e.extras),
        "gradients": gradients,
    }


def test_the_record_has_a_row_for_each_sample_in_every_copy_and_extra() -> None:
    columns, batch = batch_of(slice(0, ROWS))
    one = one_of_several()
    for name in NAMES:
        assert torch.equal(one["present"][name], batch.present[name])
        assert not one["all"][name][~batch.present[name]].any()
    assert one["all"]["image.2"].any(1).tolist() == batch.present["image.2"].tolist()
    assert torch.equal(one["extras"]["grade"], columns["grade"])
    assert torch.equal(one["extras"]["teacher"], columns["teacher"])
    taught = torch.where(batch.present["text.2"][:, None], columns["text.2"], 0.0).float()
    assert torch.equal(one["extras"]["ema.text.2"], taught)
    assert torch.equal(one["present"]["ema.text.2"], batch.present["text.2"])


@pytest.mark.slow
def test_the_record_of_several_processes_is_that_of_one(tmp_path: Path) -> None:
    """Three, with unequal shares; the last has no copy of a picture, and only the first has a wrong caption."""
    one = one_of_several()
    for rank in run_processes(one_of_several, 3, tmp_path):
        assert all(rank["own"].values())
        for kind in ("all", "present", "extras", "gradients"):
            assert list(rank[kind]) == list(one[kind])
            for name, value in one[kind].items():
                torch.testing.assert_close(rank[kind][name], value, rtol=1e-10, atol=1e-12)


def test_copies_go_through_their_tower_together() -> None:
    calls: list[dict[str, int]] = []

    class Counting(torch.nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            calls.append({name: len(rows) for name, rows in inputs.items()})
            return {name: 2 * rows for name, rows in inputs.items()}

    rows = {"text": torch.randn(3, 2), "image": torch.randn(4, 2), "text.wrong": torch.randn(1, 2)}
    made = embedded(Counting(), rows)
    assert calls == [{"text": 4, "image": 4}]
    assert all(torch.equal(made[name], 2 * rows[name]) for name in rows)


def test_the_average_is_the_recurrence_of_its_decay() -> None:
    torch.manual_seed(0)
    model = MultiTower({"image": Tower(Linear())}, DIM)
    for spec in (EmaSpec(decay=0.7, warmup=False), EmaSpec(decay=0.4)):
        average = Average(model, spec)
        assert not any(p.requires_grad for p in average.model.parameters())
        assert not average.model.training
        expected: Tensor | None = None
        for step in range(12):
            with torch.no_grad():
                model.tower("image").backbone.linear.weight += torch.randn(DIM, DIM)  # type: ignore[operator]
            weight = model.tower("image").backbone.linear.weight.detach().clone()  # type: ignore[union-attr]
            decay = 0.7 if not spec.warmup else min(0.4, (1 + step) / (10 + step))
            expected = weight if expected is None else decay * expected + (1 - decay) * weight
            average.update(model)
            torch.testing.assert_close(average.model.tower("image").backbone.linear.weight, expected)  # type: ignore[arg-type]
        other = Average(model, spec)
        assert other.restore(average.state(), model)
        assert all(torch.equal(a, b) for a, b in zip(other.state().values(), average.state().values(), strict=True))
