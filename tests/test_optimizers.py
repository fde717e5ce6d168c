"""Steps of the optimizers against the equations of their papers, and who is in which group."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.optimizers import OPTIMIZERS, hidden, undecayed

STEPS, LR, DECAY, BETAS, EPS, MOMENTUM = 3, 0.02, 0.1, (0.9, 0.98), 1e-6, 0.95
NAMES = ("adamw", "lamb", "lion", "muon")
Slot = dict[str, Tensor]
Step = Callable[[Tensor, Tensor, Slot, int, float], Tensor]


class Tower(nn.Module):
    """Every kind of parameter: an embedding, a block of a matrix, two kernels and biases, a projection, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        block = nn.ModuleDict(
            {"fc": nn.Linear(6, 16), "conv": nn.Conv2d(4, 6, 3), "depthwise": nn.Conv2d(6, 6, 3, groups=6)}
        )
        self.blocks = nn.ModuleList([block])
        self.cls_token = nn.Parameter(torch.randn(1, 1, 6))
        self.proj = nn.Linear(16, 5)
        self.log_scale = nn.Parameter(torch.tensor(1.0))


MATRICES = {"blocks.0.fc.weight", "blocks.0.conv.weight"}
DECAYED = MATRICES | {"blocks.0.depthwise.weight", "proj.weight"}


def adam(g: Tensor, slot: Slot, step: int) -> Tensor:
    """Algorithm 1 of Kingma and Ba, without its rate."""
    slot["m"] = BETAS[0] * slot.get("m", 0 * g) + (1 - BETAS[0]) * g
    slot["v"] = BETAS[1] * slot.get("v", 0 * g) + (1 - BETAS[1]) * g**2
    return (slot["m"] / (1 - BETAS[0] ** step)) / ((slot["v"] / (1 - BETAS[1] ** step)).sqrt() + EPS)


def adamw(x: Tensor, g: Tensor, slot: Slot, step: int, decay: float) -> Tensor:
    return x - LR * (adam(g, slot, step) + decay * x)


def lamb(x: Tensor, g: Tensor, slot: Slot, step: int, decay: float) -> Tensor:
    update = adam(g, slot, step) + decay * x
    return x - LR * update * (x.norm() / update.norm() if decay else 1.0)


def lion(x: Tensor, g: Tensor, slot: Slot, step: int, decay: float) -> Tensor:
    m = slot.get("m", 0 * g)
    slot["m"] = BETAS[1] * m + (1 - BETAS[1]) * g
    return x - LR * ((BETAS[0] * m + (1 - BETAS[0]) * g).sign() + decay * x)


def muon(x: Tensor, g: Tensor, slot: Slot, step: int, decay: float) -> Tensor:
    slot["b"] = MOMENTUM * slot.get("b", 0 * g) + g
    y = (g + MOMENTUM * slot["b"]).flatten(1)
    y = y / y.norm()
    for _ in range(5):
        a = y @ y.T
        y = 3.4445 * y + (-4.7750 * a + 2.0315 * a @ a) @ y
    return x - LR * (0.2 * math.sqrt(max(y.shape)) * y.view_as(x) + decay * x)


EQUATIONS: dict[str, Step] = {"adamw": adamw, "lamb": lamb, "lion": lion, "muon": adamw}


def factory(name: str, **more: Any) -> Any:
    said = {"name": name, "lr": LR, "weight_decay": DECAY, "betas": BETAS, **more}
    return OPTIMIZERS.check(said if name == "lion" else {"eps": EPS, **said}).build()


def gradients(module: nn.Module, step: int) -> dict[str, Tensor]:
    torch.manual_seed(step)
    return {name: torch.randn_like(p, dtype=torch.float64) for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_the_paper(name: str) -> None:
    """With a factor on one matrix, and gradients far above 1, which nobody but the trainer may clip."""
    torch.manual_seed(0)
    module = Tower().double()
    expected = {n: p.detach().clone() for n, p in module.named_parameters()}
    slots: dict[str, Slot] = {n: {} for n in expected}
    optimizer = factory(name).over([module], {"proj.weight": 0.5})
    before = dict(expected)
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = LR * group["lr_factor"]  # as the trainer does
        for n, gradient in gradients(module, step).items():
            module.get_parameter(n).grad = 30 * gradient
            equation = muon if name == "muon" and n in MATRICES else EQUATIONS[name]
            x = expected[n]
            moved = equation(x, 30 * gradient, slots[n], step, DECAY if n in DECAYED else 0.0)
            expected[n] = x + (0.5 if n == "proj.weight" else 1.0) * (moved - x)
        optimizer.step()
    for n, p in module.named_parameters():
        moved, wanted = p - before[n], expected[n] - before[n]
        if name == "muon" and n in MATRICES:  # whose iteration is computed in bf16, of 8 bits
            assert (moved - wanted).norm() < 0.02 * wanted.norm()
        else:
            torch.testing.assert_close(moved, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_groups_say_who_is_in_them(name: str) -> None:
    module = Tower()
    module.blocks[0].fc.bias.requires_grad_(False)  # type: ignore[union-attr]
    optimizer = factory(name).over([module, nn.Linear(1, 1)], {"proj.weight": 0.5, "proj.bias": 0.5})
    names = {id(p): n for n, p in module.named_parameters()}
    found = {names[id(p)]: g for g in optimizer.param_groups for p in g["params"] if id(p) in names}
    assert found.keys() == dict(module.named_parameters()).keys() - {"blocks.0.fc.bias"}
    assert {n for n, group in found.items() if group["weight_decay"] == DECAY} == DECAYED
    assert {n for n, group in found.items() if group["weight_decay"] == 0} == found.keys() - DECAYED
    assert {n for n, group in found.items() if group["lr_factor"] == 0.5} == {"proj.weight", "proj.bias"}
    assert all(group["lr"] == pytest.approx(LR * group["lr_factor"]) for group in found.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) + 2


def test_muon_has_the_matrices_of_blocks_and_adamw_the_rest_at_a_rate_of_its_own() -> None:
    module = Tower()
    assert hidden(module) == MATRICES
    optimizer = factory("muon", adamw_lr=LR / 4).over([module], {"blocks.0.conv.weight": 0.5, "proj.weight": 0.5})
    names = {id(p): n for n, p in module.named_parameters()}
    found = {names[id(p)]: g["lr_factor"] for g in optimizer.param_groups for p in g["params"]}
    assert found["blocks.0.fc.weight"] == 1.0
    assert found["blocks.0.conv.weight"] == 0.5
    assert found["proj.weight"] == 0.125
    assert found["embedding.weight"] == found["log_scale"] == 0.25
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    slots = {names[id(p)]: set(optimizer.state[p]) - {"use_muon"} for p in module.parameters()}
    assert {n for n, slot in slots.items() if slot == {"momentum_buffer"}} == MATRICES
    assert {n for n, slot in slots.items() if slot == {"step", "exp_avg", "exp_avg_sq"}} == slots.keys() - MATRICES
    with pytest.raises(MmclError, match="muon is for matrices of numbered blocks, and none of those learns"):
        factory("muon").over([nn.Linear(3, 3)], {})


def test_lamb_scales_steps_without_a_decay_too() -> None:
    module = nn.Linear(4, 4, bias=False)
    before = module.weight.detach().clone()
    optimizer = factory("lamb", weight_decay=0.0).over([module], {})
    module.weight.grad = torch.randn(4, 4)
    optimizer.step()
    torch.testing.assert_close((module.weight - before).norm(), LR * before.norm())


@pytest.mark.parametrize("name", NAMES)
def test_what_never_had_a_gradient_does_not_move(name: str) -> None:
    module = Tower()
    before = module.proj.weight.detach().clone()
    optimizer = factory(name).over([module], {})
    for n, p in module.named_parameters():
        p.grad = None if n == "proj.weight" else torch.ones_like(p)
    optimizer.step()
    assert torch.equal(module.proj.weight, before)
    assert module.proj.weight not in optimizer.state


def test_decay_knows_the_same_in_a_block_and_outside() -> None:
    names = dict(Tower().named_parameters()).keys()
    assert undecayed(Tower()) == names - DECAYED
