"""Poly-view contrastive learning: one view against all others of its row."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.multiview.base import MULTI_VIEWS, MultiView, Views
from mmcl.losses.statistics import log_sum_exp


@MULTI_VIEWS.register("poly")
class Poly(MultiView):
    r"""Tell each view of a row from all views of other rows, by the row's other views.

    .. math:: \ell_{i\alpha\beta} = \frac{e^{z_{i\alpha i\beta}}}
              {e^{z_{i\alpha i\beta}} + \sum_{j \ne i}\sum_\gamma e^{z_{j\gamma i\beta}}}, \qquad
              \mathcal{L}_i = -\frac1M\sum_\alpha \begin{cases}
              \frac{1}{M-1}\sum_{\beta \ne \alpha} \log \ell_{i\alpha\beta} & \text{geometric} \\
              \log \frac{1}{M-1}\sum_{\beta \ne \alpha} \ell_{i\alpha\beta} & \text{arithmetic} \\
              \log \tilde\ell_{i\alpha} & \text{sufficient} \end{cases}

    with logits :math:`z_{i\alpha j\beta} = s(x_{i\alpha}, x_{j\beta})/\tau` of row i's view :math:`\alpha` and row j's
    view :math:`\beta`, and in :math:`\tilde\ell_{i\alpha}` the mean
    :math:`\tilde x_{i\alpha} = \frac{1}{M-1}\sum_{\beta \ne \alpha} x_{i\beta}` of unit vectors in place of
    :math:`x_{i\beta}`. M is the number of views that the row has. With two views all three are SimCLR's NT-Xent over
    both.

    Use when: three views or more that all say the same, such as crops; `geometric` is the safe one, `arithmetic` is
        content once one partner is found, `sufficient` compares a view with what all others say together. Unlike CLIP
        over all pairs, other rows' embeddings of the same modality are negatives too.
    Cost: M(M+1)/2 products (rows, dim) x (dim, rows) on one process, :math:`M^2` on several and for `sufficient`.
    Range: [0, inf); log(1 + M(rows - 1)) at chance; arithmetic is at most geometric.
    Differs from the paper: nothing where all views are there. Derived, not read: in the arithmetic form the anchor is
        :math:`\beta`, as the bound on the information of :math:`\alpha` and the others needs, whose negatives stand in
        :math:`\alpha`'s place (Koromilas et al. keep :math:`\alpha` as the anchor, and take the log-sum-exp of
        losses); and the mean of `sufficient` is not brought to length one, since the sum of directions is sufficient
        for a von Mises-Fisher law and its direction alone is not, which forgets how far the views agree. Say
        ``score: {name: cosine, tuples: centroid}`` for a mean of length one.
    Related: `mv_infonce`, `softmax` over all pairs, `gram`.

    Args:
        form: how the partners of a view come together.

    Reference:
        Shidani et al., "Poly-View Contrastive Learning", ICLR 2024, Section 2, the geometric, arithmetic and
        sufficient-statistics losses (https://arxiv.org/abs/2403.05490).

    Example:
        >>> from mmcl.losses import Objective, check_objective
        >>> same = dict.fromkeys(("text", "image", "audio"), torch.ones(4, 2))
        >>> Objective(check_objective("poly_arithmetic"))(same).total.exp()  # chance: one of ten
        tensor(10.0000, grad_fn=<ExpBackward0>)
    """

    def __init__(self, form: Literal["geometric", "arithmetic", "sufficient"] = "geometric") -> None:
        self.form = form

    def __call__(self, views: Views) -> Float[Tensor, " rows"]:
        """Mean over the views that a row has."""
        one_each = self._sufficient(views) if self.form == "sufficient" else self._partners(views)
        return torch.where(views.there, one_each, 0.0).sum(0) / views.there.sum(0).clamp(min=1)

    def _sufficient(self, views: Views) -> Float[Tensor, "views rows"]:
        found = [views.rest(a) for a in range(len(views.there))]
        return torch.stack([torch.logaddexp(others, own) - own for own, others in found])

    def _partners(self, views: Views) -> Float[Tensor, "views rows"]:
        numbers = range(len(views.there))
        negatives = [log_sum_exp(torch.stack([views.others(b, c) for c in numbers])) for b in numbers]
        logits = {pair: views.own(*pair) for pair in views.pairs}
        losses = []
        for a in numbers:
            partners = [b for b in numbers if b != a]
            there = torch.stack([views.there[b] for b in partners])
            own = [logits[min(a, b), max(a, b)] for b in partners]
            log = torch.stack([z - torch.logaddexp(z, negatives[b]) for z, b in zip(own, partners, strict=True)])
            count = there.sum(0).clamp(min=1)
            if self.form == "geometric":
                losses.append(-torch.where(there, log, 0.0).sum(0) / count)
            else:
                losses.append(count.to(log).log() - log_sum_exp(log, there))
        return torch.stack(losses)
