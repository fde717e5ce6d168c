import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcl.errors import MmclError
from mmcl.evaluators.figures import intervals
from mmcl.evaluators.groups import group_figures


def test_by_hand() -> None:
    found = group_figures(torch.tensor([True, True, False, True, False]), ["b", "b", "b", "a", "c"])
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {"worst_group": 0.0, "gap": 1.0, "group/a": 1.0, "group/b": 2 / 3, "group/c": 0.0}
    )
    assert [found[name].n for name in ("gap", "group/a", "group/b")] == [3, 1, 3]
    assert {figure.units for figure in found.values()} == {5}


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8).filter(lambda w: sum(w[:4]) > 0 and sum(w[4:]) > 0))
def test_under_weights_it_is_that_of_the_items_drawn(weights: list[int]) -> None:
    correct, groups = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 1.0]).double(), ["x"] * 4 + ["y"] * 4
    drawn = np.repeat(np.arange(8), weights)
    x, y = (correct.numpy()[drawn[(drawn < 4) == first]].mean() for first in (True, False))
    w = torch.tensor([weights]).double()
    found = {name: figure.statistic(w).item() for name, figure in group_figures(correct, groups).items()}
    expected = {"worst_group": min(x, y), "gap": abs(x - y), "group/x": x, "group/y": y}
    assert found == pytest.approx(expected)


def test_a_group_that_is_not_drawn_does_not_count() -> None:
    found = group_figures(torch.tensor([1.0, 0.0, 0.5]), ["a", "b", "b"])
    w = torch.tensor([[0.0, 1.0, 1.0]])
    assert found["gap"].statistic(w).item() == 0.0
    assert found["worst_group"].statistic(w).item() == 0.25
    assert found["group/a"].statistic(w).isnan()
    low, high = intervals(found)["group/a"]
    assert low == high == 1.0


def test_one_group_has_no_gap() -> None:
    with pytest.raises(MmclError, match="two groups at least"):
        group_figures(torch.ones(3), ["a"] * 3)
