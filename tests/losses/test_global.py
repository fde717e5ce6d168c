"""Global contrastive losses over several steps, against dictionaries; and what they become at the ends."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import Mask, Objective, Walk, gradient_norms
from mmcl.losses.contrasts.sogclr import Sogclr
from mmcl.losses.memory import NOBODY, keyed
from mmcl.losses.scores.cosine import Cosine
from mmcl.losses.statistics import Largest, LogSumExp, SoftmaxMean, Sum
from mmcl.types import Embeddings, sample_id
from tests.losses.global_reference import CASES, Reference, Step, built, steps


def forward(objective: Objective, step: Step) -> tuple[Tensor, list[Tensor]]:
    """Value, and gradients of embeddings and parameters."""
    vectors, present, keys = step
    leaves = {m: x.clone().requires_grad_() for m, x in vectors.items()}
    objective.zero_grad()
    total = objective(leaves, present=present, keys=keys).total
    total.backward()
    return total.detach(), [*(x.grad for x in leaves.values()), *(p.grad for p in objective.parameters())]


def contrast(objective: Objective) -> Sogclr:
    made = objective.terms[0].contrast
    assert isinstance(made, Sogclr)
    return made


@pytest.mark.parametrize("case", CASES)
def test_several_steps_are_those_of_the_equations(case: str) -> None:
    objective, reference = built(case), copy.deepcopy(CASES[case][1])
    for vectors, present, keys in steps(9, rows=9, modalities=("text", "image", "audio")):
        leaves = {m: x.clone().requires_grad_() for m, x in vectors.items()}
        value, of_tau = reference.step(leaves, present, keys)
        found, gradients = forward(objective, (vectors, present, keys))
        assert found.item() == pytest.approx(value, rel=1e-9)
        for mine, x in zip(gradients, leaves.values(), strict=False):
            torch.testing.assert_close(mine, x.grad, rtol=1e-8, atol=1e-11)
        if len(gradients) == 4:  # the temperature is learned as log 1/tau
            assert gradients[3].item() == pytest.approx(-of_tau * reference.tau, rel=1e-8)
        objective.after_step_()
    memory = contrast(objective).memory
    assert len(reference.u) == int((memory.keys != NOBODY).sum()) > 60
    for (a, b, key), tau in reference.taus.items():
        known, seen = memory.read(keyed(torch.tensor([sample_id(key)]), f"{a}>{b}"))
        assert seen.all()
        assert known[0].exp()[0].item() == pytest.approx(reference.u[a, b, key], rel=1e-8)
        assert known[0, 1].item() == pytest.approx(tau, rel=1e-9)
    if reference.individual:  # the limits, the clip and the middle were all used
        assert {0.03, 0.12} < set(reference.taus.values())


def test_without_memory_the_gradient_is_that_of_decoupled() -> None:
    step = steps(1, rows=9, modalities=("text", "image"))[0]
    same = mmcl.objective({"contrast": "decoupled", "temperature": 0.1}).double()
    objective = mmcl.objective({"contrast": {"name": "sogclr", "gamma": 1.0, "eps": 0.0}, "temperature": 0.1}).double()
    for _ in range(3):
        (value, gradients), (plain, expected) = forward(objective, step), forward(same, step)
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine, 0.1 * theirs)
        both = int((step[1]["text"] & step[1]["image"]).sum())
        torch.testing.assert_close(value, 0.1 * (plain - torch.tensor(both - 1.0).log()))
        objective.after_step_()


def test_the_whole_data_set_in_each_batch_comes_to_the_same() -> None:
    torch.manual_seed(0)
    before, now = (dict(zip(("a", "b"), torch.randn(2, 10, 6, dtype=torch.float64), strict=True)) for _ in range(2))
    made = [mmcl.objective({"contrast": {"name": "sogclr", "gamma": g}, "temperature": 0.1}) for g in (0.3, 1.0)]
    objective, memoryless = (m.double() for m in made)
    everything = {m: torch.ones(10, dtype=torch.bool) for m in now}
    keys = [str(i) for i in range(10)]
    forward(objective, (before, everything, keys))
    objective.after_step_()
    distances = []
    _, expected = forward(memoryless, (now, everything, keys))
    for _ in range(110):
        _, gradients = forward(objective, (now, everything, keys))
        distances.append(max(float((a - b).abs().max()) for a, b in zip(gradients, expected, strict=True)))
        objective.after_step_()
    assert distances[0] > 1e-3
    assert distances[-1] < 1e-10


@pytest.mark.parametrize("case", ["fastclip", "isogclr"])
def test_only_a_step_moves_what_is_remembered(case: str) -> None:
    objective = built(case)
    first, second, *_ = steps(2, rows=9, modalities=("text", "image"))
    forward(objective, first)
    objective.after_step_()
    before = copy.deepcopy(objective.state_dict())
    once = forward(objective, second)
    vectors, present, keys = second
    gradient_norms(objective, Embeddings.single(vectors, present, keys))
    twice = forward(objective, second)
    for a, b in zip([once[0], *once[1]], [twice[0], *twice[1]], strict=True):
        assert torch.equal(a, b)
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    objective.after_step_()
    moved = copy.deepcopy(objective.state_dict())
    assert not torch.equal(moved["terms.0.contrast.memory.values"], before["terms.0.contrast.memory.values"])
    objective.eval()
    forward(objective, first)
    objective.after_step_()  # nothing was proposed
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, moved[name]), name


@pytest.mark.parametrize("case", ["fastclip", "isogclr"])
def test_a_run_goes_on_from_its_checkpoint(case: str) -> None:
    batches = steps(5, rows=9, modalities=("text", "image"))
    unbroken = mmcl.objective(CASES[case][0])
    for step in batches[:3]:
        forward(unbroken, step)
        unbroken.after_step_()
    resumed, fresh = mmcl.objective(CASES[case][0]), mmcl.objective(CASES[case][0])
    resumed.load_state_dict(copy.deepcopy(unbroken.state_dict()))
    for step in batches[3:]:
        (expected, gradients), (value, mine) = forward(unbroken, step), forward(resumed, step)
        assert torch.equal(value, expected)
        assert not torch.equal(forward(fresh, step)[0], expected)
        assert all(torch.equal(a, b) for a, b in zip(mine, gradients, strict=True))
        unbroken.after_step_()
        resumed.after_step_()


@pytest.mark.parametrize("tau", [0.01, 0.005])
@pytest.mark.parametrize("name", ["sogclr", "isogclr"])
def test_low_temperatures_neither_vanish_nor_overflow_in_fp32(tau: float, name: str) -> None:
    """Averages between e^-400 and e^400: the gradient is still that of float64, which holds them."""
    torch.manual_seed(0)
    towards = torch.eye(6)
    good, bad = (towards, towards + 0.05 * torch.randn(6, 6)), (towards, -towards + 0.05 * torch.randn(6, 6))
    settings: dict[str, Any] = {"name": name, "eps": 0.0, "gamma": 0.3}
    tempered: dict[str, Any] = {"temperature": {"init": tau, "min": tau, "learn": False}}
    if name == "isogclr":
        settings, tempered = {**settings, "tau": tau, "eta": 0.0}, {}
    objective = mmcl.objective({"contrast": settings, **tempered})
    reference = Reference(gamma=0.3, eps=0.0, tau=tau, rho=8.0 if name == "isogclr" else 0.0)
    there, keys = {m: torch.ones(6, dtype=torch.bool) for m in "ab"}, [str(i) for i in range(6)]
    for pair in (good, bad, good):
        x = dict(zip("ab", pair, strict=True))
        leaves = {m: t.double().requires_grad_() for m, t in x.items()}
        value, _ = reference.step(leaves, there, keys)
        found, gradients = forward(objective, (x, there, keys))
        assert found.item() == pytest.approx(value, rel=1e-4)
        for mine, leaf in zip(gradients, leaves.values(), strict=True):
            assert leaf.grad is not None
            assert mine.isfinite().all()
            torch.testing.assert_close(
                mine.double(), leaf.grad, rtol=3e-3, atol=1e-30 + 3e-4 * float(leaf.grad.abs().max())
            )
        objective.after_step_()


def test_a_learned_temperature_must_cost_something() -> None:
    with pytest.raises(MmclError, match="set `rho`"):
        mmcl.objective({"contrast": "sogclr", "temperature": {"learn": True}})
    with pytest.raises(MmclError, match="tau 0.1 does not lie between"):
        mmcl.objective({"contrast": {"name": "isogclr", "tau": 0.1}})
    with pytest.raises(MmclError, match="isogclr .* has no `temperature`"):
        mmcl.objective({"contrast": "isogclr", "temperature": 0.1})


def test_each_width_of_an_embedding_remembers_for_itself() -> None:
    vectors, present, keys = steps(1, rows=9, modalities=("text", "image"))[0]
    settings = {"contrast": "sogclr", "temperature": 0.1}
    nested = mmcl.objective({**settings, "transform": {"name": "matryoshka", "dims": [2, 6]}}).double()
    apart = [mmcl.objective(settings).double() for _ in range(2)]
    for drift in (0.0, 0.5):
        x = {m: v + drift * v.roll(1, 0) for m, v in vectors.items()}
        cut = [
            forward(o, ({m: v[:, :d] for m, v in x.items()}, present, keys)) for o, d in zip(apart, (2, 6), strict=True)
        ]
        found, _ = forward(nested, (x, present, keys))
        torch.testing.assert_close(found, cut[0][0] + cut[1][0])
        for objective in (nested, *apart):
            objective.after_step_()


@pytest.mark.parametrize("statistic", [LogSumExp(scale=1.5), SoftmaxMean(), Sum(scale=-0.5), Largest(k=2)])
def test_factors_of_rows_and_columns_multiply_their_logits(statistic: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(20, 5, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    f, g = (0.5 + torch.rand(20, generator=generator, dtype=torch.float64) for _ in range(2))
    scale, bias = torch.tensor([3.0, -0.7], dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, scale.clone(), bias.clone())]
    walk = Walk(Cosine(), Mask(diagonal=0), {"r": statistic}, {"c": statistic}, row_factors=f, column_factors=g)

    def total(block: int | None) -> Tensor:
        found = replace(walk, block=block)((leaves[0],), (leaves[1],), leaves[2], leaves[3])
        return (found.rows["r"].sin().sum() + found.columns["c"].cos().sum()) / 10

    z = (leaves[0] @ leaves[1].T) * leaves[2] + leaves[3]
    off = torch.eye(20, dtype=torch.bool)
    rows, columns = (
        statistic.plain((statistic.scale * logits).masked_fill(off, float("-inf")), 1)
        for logits in (z * f[:, None], z.T * g[:, None])
    )
    expected = (rows.sin().sum() + columns.cos().sum()) / 10
    wanted = torch.autograd.grad(expected, leaves)
    for block in (None, 16):
        torch.testing.assert_close(total(block), expected)
        for mine, theirs in zip(torch.autograd.grad(total(block), leaves), wanted, strict=True):
            torch.testing.assert_close(mine, theirs)
