"""How well a linear classifier tells two modalities apart."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.figures import Figure, mean


def separability(
    x: Float[Tensor, "rows dim"],
    y: Float[Tensor, "rows dim"],
    unit: Int[Tensor, " rows"],
    folds: int = 5,
    seed: int = 0,
) -> Figure:
    r"""Accuracy of a logistic regression that tells the modality of a vector, on units that it was not fitted to.

    0.5 where the modalities mix, 1 where a plane lies between them. All rows of a unit, in both modalities, are in the
    same fold. Vectors are scaled by :math:`\sqrt{dim}`, so that coordinates are of the order of 1; then scikit-learn's
    defaults, with :math:`\ell_2` and C = 1. A vector on the plane itself counts as half right.

    Intervals hold for the classifiers that were fitted: they tell how their accuracy scatters over other items.

    Args:
        x: unit vectors of the one modality.
        y: of the other, in the same order.
        unit: of each pair, from 0 on without a gap.
        folds: in turn left out of the fit.
        seed: of the folds.

    Raises:
        MmclError: there are fewer units than folds.

    Reference:
        Liang et al., "Mind the Gap", NeurIPS 2022 (https://arxiv.org/abs/2203.02053), of two cones; Fahim et al., "It's
        Not a Modality Gap", 2024 (https://arxiv.org/abs/2405.18570), for the measure.
    """
    from sklearn.linear_model import LogisticRegression

    units = int(unit.max()) + 1
    if units < folds:
        raise MmclError(f"separability: {folds} folds need as many different items; there are {units}. Lower folds.")
    fold = (torch.randperm(units, generator=torch.Generator().manual_seed(seed)) % folds)[unit].repeat(2)
    rows = torch.cat([x, y]).float() * x.shape[1] ** 0.5
    side = torch.tensor([-1.0, 1.0]).repeat_interleave(len(x))
    correct = torch.zeros(len(rows), dtype=torch.float64)
    for f in range(folds):
        fitted, left = fold != f, fold == f
        model = LogisticRegression(max_iter=1000).fit(rows[fitted].numpy(), side[fitted].numpy())
        distance = torch.from_numpy(model.decision_function(rows[left].numpy())).double() * side[left]
        correct[left] = (distance.sign() + 1) / 2
    return mean(correct, unit.repeat(2))
