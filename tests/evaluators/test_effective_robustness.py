import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcl.errors import MmclError
from mmcl.evaluators.effective_robustness import baseline_of, effective_robustness


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_on_the_line_of_two_models() -> None:
    a, b = (0.5, 0.5), (0.8, 0.8)  # logits (0, 0) and (log 4, log 4): the line is the diagonal
    assert effective_robustness(0.7, 0.75, [a, b]).item() == pytest.approx(0.05)
    assert effective_robustness(0.5, 0.5, [a, b]).item() == pytest.approx(0.0)


def test_it_is_least_squares_in_logits() -> None:
    pairs = [(0.55, 0.3), (0.62, 0.41), (0.7, 0.45), (0.76, 0.6), (0.85, 0.66)]
    slope, offset = np.polyfit([logit(x) for x, _ in pairs], [logit(y) for _, y in pairs], 1)
    expected = 0.5 - 1 / (1 + math.exp(-(slope * logit(0.66) + offset)))
    assert effective_robustness(0.66, 0.5, pairs).item() == pytest.approx(expected)
    many = effective_robustness(torch.tensor([0.66, 0.7]), torch.tensor([0.5, 0.5]), pairs)
    assert many[0].item() == pytest.approx(expected)
    assert many[1] < many[0]


@settings(deadline=None)
@given(st.floats(0.1, 3), st.floats(-2, 2), st.floats(0.01, 0.99))
def test_a_model_on_the_baseline_s_line_is_as_expected(slope: float, offset: float, clean: float) -> None:
    def line(p: float) -> float:
        return 1 / (1 + math.exp(-(slope * logit(p) + offset)))

    pairs = [(p, line(p)) for p in (0.3, 0.5, 0.6)]
    assert effective_robustness(clean, line(clean), pairs).item() == pytest.approx(0.0, abs=1e-6)


def test_ends_and_flat_lines() -> None:
    assert baseline_of([(0.4, 0.3), (0.6, 0.3)])(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.3] * 3)
    assert baseline_of([(0.4, 0.2), (0.6, 0.3)])(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert effective_robustness(math.nan, 0.5, [(0.4, 0.2), (0.6, 0.3)]).isnan()


def test_a_baseline_that_makes_no_line_is_refused() -> None:
    with pytest.raises(MmclError, match="two models at least; there are 1"):
        effective_robustness(0.5, 0.5, [(0.5, 0.5)])
    with pytest.raises(MmclError, match="equally accurate"):
        effective_robustness(0.5, 0.5, [(0.5, 0.5), (0.5, 0.6)])
    with pytest.raises(MmclError, match=r"got \[0.5, 1.0\]"):
        effective_robustness(0.5, 0.5, [(0.4, 0.5), (0.5, 1.0)])
