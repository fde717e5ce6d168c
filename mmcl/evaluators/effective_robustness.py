"""How much more accurate a model is on shifted data than its accuracy on clean data lets expect."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmcl.errors import MmclError

Pairs = Sequence[tuple[float, float]]


def effective_robustness(clean: float | Tensor, shifted: float | Tensor, baseline: Pairs) -> Tensor:
    r""":math:`\rho = a_{shifted} - \beta(a_{clean})`, in the units of accuracy.

    Positive where the model does better on the shifted data than the models of the baseline would that are as accurate
    on clean data. For corruptions of the same items, or for two data sets, such as ImageNet and ImageNetV2.

    Args:
        clean: accuracy on the data that the baseline calls clean, from 0 to 1; or several, element by element.
        shifted: accuracy on shifted data.
        baseline: (clean, shifted) of other models; see `baseline_of`.

    Raises:
        MmclError: see `baseline_of`.

    Reference:
        Taori et al., "Measuring Robustness to Natural Distribution Shifts in Image Classification", NeurIPS 2020,
        section 2 and Eq. 1. https://arxiv.org/abs/2007.00644

    Example:
        >>> effective_robustness(0.8, 0.7, [(0.6, 0.4), (0.7, 0.5), (0.8, 0.6)]).item()
        0.09...
    """
    at = torch.as_tensor(clean, dtype=torch.float64)
    return torch.as_tensor(shifted, dtype=torch.float64) - baseline_of(baseline)(at)


def baseline_of(pairs: Pairs) -> Callable[[Tensor], Tensor]:
    r"""Accuracy on shifted data that an accuracy on clean data lets expect.

    :math:`\beta(x) = \mathrm{expit}(a \cdot \mathrm{logit}(x) + b)`, with a and b by least squares in logits over the
    pairs. Miller et al. found the line so in many shifts (they take probits, which differ little).

    Args:
        pairs: (clean, shifted) accuracies of other models, each between 0 and 1.

    Raises:
        MmclError: there are fewer than two models, all are equally accurate on clean data, or an accuracy has no logit.

    Reference:
        Miller et al., "Accuracy on the Line", ICML 2021, section 3. https://arxiv.org/abs/2107.04649
    """
    if len(pairs) < 2:
        raise MmclError(f"baseline: a line needs two models at least; there are {len(pairs)}.")
    for pair in pairs:
        if not all(0 < accuracy < 1 for accuracy in pair):
            raise MmclError(f"baseline: accuracies lie between 0 and 1, both excluded; got {list(pair)}.")
    x, y = torch.tensor(pairs, dtype=torch.float64).logit().T
    if (x == x[0]).all():
        raise MmclError("baseline: all models are equally accurate on clean data, which makes no line.")
    apart = x - x.mean()
    slope = (apart @ y / apart.square().sum()).item()
    offset = (y.mean() - slope * x.mean()).item()

    def line(clean: Tensor) -> Tensor:
        logits = clean.double().logit()
        return ((slope * logits if slope else 0 * clean) + offset).sigmoid()

    return line
