import pytest
import torch

from mmcl.evaluators.combined import combined, mean_of
from mmcl.evaluators.figures import mean


def test_a_mean_of_figures_is_the_mean_of_their_numbers_under_any_weights() -> None:
    a, b = mean(torch.tensor([1.0, 0.0, 0.0])), mean(torch.tensor([1.0, 1.0, 0.0]))
    both = mean_of([a, b])
    assert (both.value, both.units, both.n) == (0.5, 3, 3)
    w = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    assert both.statistic(w).tolist() == pytest.approx([1 / 6, 1.0])


def test_a_rule_sees_figures_in_their_order() -> None:
    a, b = mean(torch.tensor([1.0, 0.0])), mean(torch.tensor([1.0, 1.0]))
    ratio = combined(lambda v: v[0] / v[1], [a, b])
    assert ratio.value == 0.5
    assert ratio.statistic(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist() == [1.0, 0.0]


def test_units_must_be_the_same() -> None:
    with pytest.raises(AssertionError, match="different units"):
        mean_of([mean(torch.ones(2)), mean(torch.ones(3))])
