"""InfoNCE: cross-entropy of a row of scores."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS


@CONTRASTS.register("softmax")
class Softmax:
    r"""Tell the positive from all candidates of its row (InfoNCE).

    .. math:: \ell_i = -(1-\varepsilon)\,z_{ip} - \frac{\varepsilon}{|C_i|}\sum_{j \in C_i} z_{ij}
              + \log \sum_{j \in C_i} e^{z_{ij}}

    with logits :math:`z = s/\tau`, the row's positive p, its candidates :math:`C_i \ni p` and the label smoothing
    :math:`\varepsilon`.

    Use when: the default; batches of some hundreds and more.
    Cost: O(rows x columns) beside the scores.
    Range: [0, inf) without label smoothing; log(columns) at chance.
    Differs from the paper: nothing; label smoothing spreads over the candidates only.

    Args:
        label_smoothing: mass that is moved from the positive to all candidates, in [0, 1).

    Reference:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, Eq. 4
        (https://arxiv.org/abs/1807.03748); symmetric over two modalities as in Radford et al., "Learning Transferable
        Visual Models From Natural Language Supervision", ICML 2021, Figure 3 (https://arxiv.org/abs/2103.00020).

    Example:
        >>> everyone = torch.ones(2, 4, dtype=torch.bool)
        >>> loss = Softmax()(torch.zeros(2, 4), torch.tensor([0, 1]), everyone)  # chance: log 4
        >>> [round(x, 4) for x in loss.tolist()]
        [1.3863, 1.3863]
    """

    def __init__(self, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(
        self,
        logits: Float[Tensor, "rows columns"],
        positive: Int[Tensor, " rows"],
        candidate: Bool[Tensor, "rows columns"],
    ) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        # finite, so that the gradient of a row without any candidate is zero and not NaN
        masked = logits.masked_fill(~candidate, torch.finfo(logits.dtype).min)
        target = logits.gather(1, positive[:, None]).squeeze(1)
        if self.label_smoothing:
            mean = logits.masked_fill(~candidate, 0.0).sum(1) / candidate.sum(1).clamp(min=1)
            target = (1 - self.label_smoothing) * target + self.label_smoothing * mean
        return masked.logsumexp(1) - target
