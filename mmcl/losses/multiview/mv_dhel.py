"""MV-DHEL: agreement across views, and spread within each."""

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.multiview.base import MULTI_VIEWS, MultiView, Views


@MULTI_VIEWS.register("mv_dhel")
class MvDhel(MultiView):
    r"""Pull the views of a row together, and push each view from the same view of other rows.

    .. math:: \mathcal{L}_i = -\log \frac{\sum_{l < m} e^{z_{il,im}}}{\prod_l \sum_{j \ne i} e^{z_{il,jl}}}
              = -\log \sum_{l < m} e^{z_{il,im}} + \sum_l \log \sum_{j \ne i} e^{z_{il,jl}}

    with logits :math:`z_{il,jm} = s(x_{il}, x_{jm})/\tau` of row i's view l and row j's view m, over the views that
    the rows have; a view that no other row has adds nothing.

    Use when: crops of one modality, or modalities whose own spread matters (probes, clusters). There are NO negatives
        across modalities, it is alignment and uniformity of each; for retrieval across them take `clip` over all pairs
        or `mv_infonce`. Alignment is ruled by the pair that agrees best.
    Cost: M products (rows, dim) x (dim, rows), the least of these losses.
    Range: M log(rows - 1) - log(M(M-1)/2) + (M - 1)/tau where all rows are one vector; less, and less than zero too,
        where they spread.
    Differs from the paper: nothing but a constant: the README's sum above the line has both orders of a pair, log 2
        less; the authors' code has one, as here. Sums stay logarithms, where their code multiplies them and overflows.
    Related: `mv_infonce`, `align_uniform` (a preset), `uniformity`.

    Args:
        own: whether each row is among its own negatives (j = i), as in the README's formula and not in the code. For
            cosines that is a constant, :math:`e^{1/\tau}`: rows that are alone already are pushed less.

    Reference:
        Koromilas et al., "A Principled Framework for Multi-View Contrastive Learning", 2025, MV-DHEL
        (https://arxiv.org/abs/2507.06979); their code, models/losses.py, and README
        (https://github.com/pakoromilas/Multi-View-CL).

    Example:
        >>> from mmcl.losses import Objective, check_objective
        >>> objective = Objective(check_objective({"multi_view": "mv_dhel", "temperature": 1.0}))
        >>> objective({"text": torch.eye(4), "image": torch.eye(4)}).total  # -1 + 2 log 3
        tensor(1.1972)
    """

    def __init__(self, own: bool = False) -> None:
        self.own = own

    def __call__(self, views: Views) -> Float[Tensor, " rows"]:
        """Alignment and uniformity."""
        below = torch.stack([views.others(a, a) for a in range(len(views.there))])
        if self.own:
            below = torch.logaddexp(below, torch.stack([views.own(a, a) for a in range(len(below))]))
        spread = torch.where(views.there & (below != float("-inf")), below, 0.0).sum(0)
        return spread - views.positives()
