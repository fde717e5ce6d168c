"""Multimodal clusters against k-means written out, step by step."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import Clusters, Objective, gradient_norms
from mmcl.losses.regularizers.clusters import DEAD
from mmcl.types import Embeddings

N, D, K, TAU, M = 12, 4, 3, 0.2, 0.7


def batch(step: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * seed + step)
    base = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return {
        m: (base + 0.5 * torch.randn(N, D, generator=generator, dtype=torch.float64)).requires_grad_()
        for m in ("image", "text", "audio")
    }


def present() -> dict[str, Tensor]:
    return {"audio": torch.arange(N) % 2 == 0, "text": torch.arange(N) != 3, "image": torch.arange(N) != 3}


def objective(**said: Any) -> Objective:
    said = {"clusters": K, "temperature": TAU, "momentum": M, **said}
    return mmcl.objective({"regularize": {"name": "clusters", **said}}, dim=D).double()


def regularizer(of: Objective) -> Clusters:
    made = of.terms[0].regularizer
    assert isinstance(made, Clusters)
    return made


class KMeans:
    """The same, row by row."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.numbers: list[float] = []
        self.begun_anew = 0

    def step(self, x: dict[str, Tensor], there: dict[str, Tensor], step: int) -> float:
        x = {m: F.normalize(t.detach(), dim=1) for m, t in x.items()}
        rows = [i for i in range(N) if any(there[m][i] for m in x)]
        joint = {i: F.normalize(sum(x[m][i] for m in x if there[m][i]), dim=0) for i in rows}  # type: ignore[arg-type]
        e = replace(Embeddings.single(x), step=step)
        drawn = torch.rand(N, generator=e.generator(*b"clusters")).tolist()
        order = sorted(rows, key=lambda i: drawn[i])
        some = [joint[order[k % len(order)]] for k in range(K)]
        if not self.sums:
            self.sums, self.numbers = [s * len(rows) / K for s in some], [len(rows) / K] * K
        centroids = [F.normalize(s, dim=0) for s in self.sums]
        cluster = {i: max(range(K), key=lambda k: float(joint[i] @ centroids[k])) for i in rows}
        loss = 0.0
        for m, t in x.items():
            has = [i for i in rows if there[m][i]]
            for i in has:
                z = [math.exp(float(t[i] @ c) / TAU) for c in centroids]
                loss -= math.log(z[cluster[i]] / sum(z)) / len(has) / len(x)
        for k in range(K):
            mine = [joint[i] for i in rows if cluster[i] == k]
            self.sums[k] = M * self.sums[k] + (1 - M) * sum(mine, torch.zeros(D, dtype=torch.float64))
            self.numbers[k] = M * self.numbers[k] + (1 - M) * len(mine)
        even = sum(self.numbers) / K
        for k in range(K):
            if self.numbers[k] < DEAD * even:
                self.begun_anew += 1
                self.sums[k], self.numbers[k] = some[k] * even, even
        return loss


@pytest.mark.parametrize("missing", [False, True])
def test_steps_are_those_of_k_means(missing: bool) -> None:
    mine, other = objective(), KMeans()
    everything = dict.fromkeys(("image", "text", "audio"), torch.ones(N, dtype=torch.bool))
    there = present() if missing else everything
    for step in range(4):
        x = batch(step)
        assert mine(x, present=there, step=step).total.item() == pytest.approx(other.step(x, there, step))
        mine.after_step_()
        torch.testing.assert_close(regularizer(mine).sums, torch.stack(other.sums))
        torch.testing.assert_close(regularizer(mine).numbers, torch.tensor(other.numbers, dtype=torch.float64))


def test_a_centroid_that_nothing_is_near_begins_anew_at_a_row() -> None:
    mine, other = objective(), KMeans()
    there = dict.fromkeys(("image", "text", "audio"), torch.ones(N, dtype=torch.bool))
    for step in range(14):
        x = {m: t.detach() + torch.tensor([9.0, 0, 0, 0]) for m, t in batch(step).items()}  # all near one another
        if step < 3:
            x = {m: t - torch.tensor([9.0, 0, 0, 0]) for m, t in x.items()}
        assert mine(x, step=step).total.item() == pytest.approx(other.step(x, there, step))
        mine.after_step_()
    assert other.begun_anew > 0
    torch.testing.assert_close(regularizer(mine).sums, torch.stack(other.sums))


def test_gradients_take_centroids_and_clusters_as_they_are() -> None:
    mine = objective()
    mine(batch(0), step=0)
    mine.after_step_()
    x = batch(1)
    assert torch.autograd.gradcheck(
        lambda *leaves: mine(dict(zip(x, leaves, strict=True)), present=present(), step=1).total, tuple(x.values())
    )


def test_looking_twice_changes_nothing_and_only_the_step_moves() -> None:
    mine, other = objective(), objective()
    for step in range(3):
        e = replace(Embeddings.single(batch(step)), step=step)
        value = mine(e).total
        assert mine(e).total == value
        gradient_norms(mine, e)
        before = regularizer(mine).sums.clone()
        assert torch.equal(regularizer(mine).sums, before)
        other(e)
        for o in (mine, other):
            o.after_step_()
            o.after_step_()  # nothing new was seen
        assert not torch.equal(regularizer(mine).sums, before)
        assert torch.equal(regularizer(mine).sums, regularizer(other).sums)


def test_a_run_goes_on_from_a_checkpoint() -> None:
    mine = objective()
    for step in range(3):
        mine(batch(step), step=step)
        mine.after_step_()
    other = objective()
    other.load_state_dict(mine.state_dict())
    for step in range(3, 5):
        assert mine(batch(step), step=step).total == other(batch(step), step=step).total
        mine.after_step_()
        other.after_step_()
    assert torch.equal(regularizer(mine).sums, regularizer(other).sums)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_leave_the_centroids_where_they_are(rows: int) -> None:
    mine = objective()
    few = {m: torch.arange(N) < rows for m in batch(0)}
    mine(batch(0), present=few)  # before there are any
    mine.after_step_()
    assert regularizer(mine).numbers.abs().max() == 0
    mine(batch(0))
    mine.after_step_()
    before = regularizer(mine).sums.clone()
    assert mine(batch(1), present=few, step=1).total == 0
    mine.after_step_()
    assert torch.equal(regularizer(mine).sums, before)


def test_more_clusters_than_rows_and_rows_without_direction_are_finite() -> None:
    mine = mmcl.objective({"regularize": {"name": "clusters", "clusters": 40}}, dim=D)
    for step, x in enumerate((torch.randn(N, D), torch.zeros(N, D), torch.ones(N, D), torch.randn(N, D))):
        leaves = {m: (sign * x).bfloat16().requires_grad_() for m, sign in (("a", 1), ("b", -1))}  # they cancel
        total = mine(leaves, step=step).total
        total.backward()
        mine.after_step_()
        assert total.isfinite()
        assert regularizer(mine).sums.isfinite().all()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves.values())


def test_samples_of_one_kind_come_together() -> None:
    """Four kinds: k-means finds them, and what it pulls at lies nearer to its kind than before."""
    torch.manual_seed(0)
    kinds = F.normalize(torch.randn(4, 16), dim=1)
    label = torch.arange(64) % 4
    x = {m: (2 * kinds[label] + 0.7 * torch.randn(64, 16)).requires_grad_() for m in ("a", "b")}
    mine = mmcl.objective({"regularize": {"name": "clusters", "clusters": 4, "momentum": 0.5}}, dim=16)
    optimizer = torch.optim.Adam(list(x.values()), lr=0.05)

    def apart() -> float:
        u = F.normalize(x["a"].detach(), dim=1) @ F.normalize(x["b"].detach(), dim=1).T
        same = label[:, None] == label
        return float(u[same].mean() - u[~same].mean())

    before = apart()
    for step in range(60):
        optimizer.zero_grad()
        mine(x, step=step).total.backward()
        optimizer.step()
        mine.after_step_()
    assert apart() > before + 0.2


def test_mistakes_are_told() -> None:
    with pytest.raises(MmclError, match=r"clusters has weights of the embeddings' width"):
        mmcl.objective({"regularize": "clusters"})
    with pytest.raises(MmclError, match="clusters of 5 coordinates; embeddings have 4"):
        mmcl.objective({"regularize": "clusters"}, dim=5)(batch(0))
