import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import MmclError
from mmcl.evaluators.separability import separability


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift, dim=1)


def test_cones_apart_are_told_apart_and_a_mixture_is_not() -> None:
    apart = separability(rows(60, 8, 1, 1.0), rows(60, 8, 2, -1.0), torch.arange(60))
    assert apart.value == 1.0
    assert apart.units == 60
    mixed = separability(rows(400, 8, 1), rows(400, 8, 2), torch.arange(400))
    assert 0.4 < mixed.value < 0.6


def test_where_nothing_differs_half_is_right() -> None:
    x = rows(40, 6, 3)
    assert separability(x, x, torch.arange(40)).value == 0.5  # all lie on the plane
    zero = torch.zeros(10, 3)
    assert separability(zero, zero, torch.arange(10)).value == 0.5


def test_rows_of_a_unit_stay_together() -> None:
    x, y = rows(20, 64, 1).repeat(5, 1), rows(20, 64, 2).repeat(5, 1)
    assert separability(x, y, torch.arange(100)).value > 0.95  # copies in other folds are known by heart
    assert separability(x, y, torch.arange(20).repeat(5)).value < 0.75


def test_it_is_the_accuracy_on_folds_left_out() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

    x, y = rows(30, 5, 1, 0.2), rows(30, 5, 2)
    figure = separability(x, y, torch.arange(30), folds=3, seed=7)
    group = torch.randperm(30, generator=torch.Generator().manual_seed(7)) % 3
    z, side = torch.cat([x, y]).numpy() * 5**0.5, np.repeat([0, 1], 30)
    told = cross_val_predict(
        LogisticRegression(max_iter=1000), z, side, groups=group.repeat(2).numpy(), cv=LeaveOneGroupOut()
    )
    correct = (told == side).reshape(2, 30)
    assert figure.value == pytest.approx(correct.mean())
    w = torch.arange(30).double()[None]
    assert figure.statistic(w).item() == pytest.approx((correct.mean(0) * w.numpy()).sum() / w.sum().item())


def test_too_few_units_are_refused() -> None:
    with pytest.raises(MmclError, match="Lower folds"):
        separability(rows(4, 3, 1), rows(4, 3, 2), torch.arange(4))
