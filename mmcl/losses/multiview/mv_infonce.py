"""MV-InfoNCE: all pairs of views of a row in one logarithm."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.multiview.base import MULTI_VIEWS, MultiView, Views
from mmcl.losses.statistics import log_sum_exp


@MULTI_VIEWS.register("mv_infonce")
class MvInfoNce(MultiView):
    r"""Tell all pairs of a row's own views from its pairs with other rows, all at once.

    .. math:: \mathcal{L}_i = -\log \frac{\sum_{l \ne m} e^{z_{il,im}}}{\sum_{l}\sum_{(j,m) \ne (i,l)} e^{z_{il,jm}}}

    with logits :math:`z_{il,jm} = s(x_{il}, x_{jm})/\tau` of row i's view l and row j's view m, over the views that
    the rows have. Without `same_view_negatives` the lower sum is over :math:`m \ne l` only.

    Use when: three views or more, and one term a row instead of one a pair. The sum above the line is ruled by the pair
        that agrees best, so watch the others' cosines (`metrics.jsonl`).
    Cost: M(M+1)/2 products (rows, dim) x (dim, rows) on one process, :math:`M^2` on several; M less without
        `same_view_negatives`.
    Range: [0, inf); log((M rows - 1)/(M - 1)) at chance, log(rows) without `same_view_negatives`.
    Differs from the paper: nothing; the authors' code has negatives of the same view, the formula of their README has
        none. Sums stay logarithms, where their code overflows.
    Related: `mv_dhel`, `poly`.

    Args:
        same_view_negatives: whether other rows' embeddings of the same modality are negatives too.

    Reference:
        Koromilas et al., "A Principled Framework for Multi-View Contrastive Learning", 2025, MV-InfoNCE
        (https://arxiv.org/abs/2507.06979); their code, models/losses.py, and README
        (https://github.com/pakoromilas/Multi-View-CL).

    Example:
        >>> from mmcl.losses import Objective, check_objective
        >>> same = dict.fromkeys(("text", "image", "audio"), torch.ones(4, 2))
        >>> Objective(check_objective("mv_infonce"))(same).total.exp()  # chance: 6 of 33
        tensor(5.5000, grad_fn=<ExpBackward0>)
    """

    def __init__(self, same_view_negatives: bool = True) -> None:
        self.same_view_negatives = same_view_negatives

    def __call__(self, views: Views) -> Float[Tensor, " rows"]:
        """Of the positives both orders count, as of the negatives."""
        above = math.log(2) + views.positives()
        numbers = range(len(views.there))
        asked = [(a, b) for a in numbers for b in numbers if self.same_view_negatives or a != b]
        below = torch.logaddexp(above, log_sum_exp(torch.stack([views.others(a, b) for a, b in asked])))
        return below - above
