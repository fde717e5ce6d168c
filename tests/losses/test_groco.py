"""The sorting network at its ends."""

import pytest
import torch

import mmcl
from mmcl.losses import Side
from mmcl.losses.contrasts.groco import Groco


def loss(own: float, hardest: list[float], **settings: float) -> float:
    groco = Groco(top_k=len(hardest), **settings)
    side = Side(torch.tensor([own], dtype=torch.float64), {"hardest": torch.tensor([hardest]).double()}, torch.ones(1))
    return groco(side).item()


def test_it_falls_as_the_positive_rises_and_is_about_who_is_first() -> None:
    found = [loss(own, [0.6, 0.5, 0.1, -0.4], steepness=50.0) for own in (-0.5, 0.0, 0.3, 0.55, 0.7, 0.95)]
    assert found == sorted(found, reverse=True)
    assert loss(0.9, [0.6, 0.5, 0.1], steepness=1e6) == pytest.approx(0, abs=1e-4)
    assert loss(0.2, [0.6, 0.5, 0.1], steepness=1e6) > 3  # two stand above it


def test_negatives_that_are_not_there_take_no_part() -> None:
    infinity = float("inf")
    for hardest in ([0.3], [0.3, 0.1], [0.3, 0.1, -0.2]):
        padded = hardest + [-infinity] * 4
        assert loss(0.2, padded, steepness=7.0) == pytest.approx(loss(0.2, hardest, steepness=7.0), rel=1e-12)
    assert loss(0.2, [-infinity] * 3) == 0


def test_gradients_reach_the_positive_and_the_negatives() -> None:
    own = torch.tensor([0.2], requires_grad=True)
    hardest = torch.tensor([[0.5, 0.1, -float("inf")]], requires_grad=True)
    Groco(top_k=3)(Side(own, {"hardest": hardest}, torch.ones(1))).backward()
    assert own.grad is not None
    assert hardest.grad is not None
    assert own.grad.item() < -0.01
    assert hardest.grad[0, 0] > 0.01
    assert hardest.grad[0, 1] != 0
    assert hardest.grad[0, 2] == 0


@pytest.mark.parametrize("contrast", ["groco", "sogclr", "isogclr"])
def test_rows_without_others_add_nothing(contrast: str) -> None:
    x = {m: torch.randn(4, 5, requires_grad=True) for m in ("a", "b")}
    objective = mmcl.objective({"contrast": contrast, "negatives": "distinct"})
    total = objective(x, keys=["same"] * 4).total
    total.backward()
    objective.after_step_()
    assert total == 0
    assert all(leaf.grad is not None and leaf.grad.abs().max() == 0 for leaf in x.values())
    assert objective(x, keys=["same", "same", "same", "other"]).total.isfinite()
