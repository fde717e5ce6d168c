"""InfoNCE: cross-entropy of a row of scores."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import Count, LogSumExp, Statistic, Sum


@CONTRASTS.register("softmax")
class Softmax(Contrast):
    r"""Tell the positive from all candidates of its row (InfoNCE).

    .. math:: \ell_i = -(1-\varepsilon)\,z_{ip} - \frac{\varepsilon}{|C_i|}\sum_{j \in C_i} z_{ij}
              + \log \sum_{j \in C_i} e^{z_{ij}}

    with logits :math:`z = s/\tau`, the row's positive p, its candidates :math:`C_i \ni p` and the label smoothing
    :math:`\varepsilon`. With several positives :math:`P_i` (`targets: shared`), :math:`z_{ip}` is their mean (SupCon's
    "out" form), or :math:`\log \frac{1}{|P_i|} \sum_{p \in P_i} e^{z_{ip}}` (its "in" form). Where the target is a
    distribution (rows that are mixtures), :math:`z_{ip}` is its expected logit.

    Use when: the default; batches of some hundreds and more.
    Range: [0, inf) without label smoothing; log(columns) at chance.
    Differs from the paper: nothing; label smoothing spreads over the candidates only.
    Related: `decoupled` and `sigmoid` for small batches, `hard_negative`, `focal`.

    Args:
        label_smoothing: mass that is moved from the positive to all candidates, in [0, 1).
        positives: where the mean over several positives is taken: of the log-probabilities (`out`) or of the
            probabilities (`in`).

    Reference:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, Eq. 4
        (https://arxiv.org/abs/1807.03748); symmetric over two modalities as in Radford et al., "Learning Transferable
        Visual Models From Natural Language Supervision", ICML 2021, Figure 3 (https://arxiv.org/abs/2103.00020);
        several positives: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, Eq. 2 and 3
        (https://arxiv.org/abs/2004.11362).

    Example:
        >>> three = torch.full((2,), 3.0)
        >>> chance = Side(own=torch.zeros(2), statistics={"all": three.log()}, others=three)
        >>> [round(x, 4) for x in Softmax()(chance).tolist()]  # log 4
        [1.3863, 1.3863]
    """

    shared: ClassVar[bool] = True
    soft: ClassVar[bool] = True

    def __init__(
        self, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0, positives: Literal["out", "in"] = "out"
    ) -> None:
        self.label_smoothing, self.positives = label_smoothing, positives

    @classmethod
    def check(cls, said: Any, term: Any) -> None:
        """Refuse a mean of several positives where there is one."""
        if said.positives == "in" and not term.shared:
            raise MmclError("contrast: softmax: positives: in is about several positives; they need `targets: shared`.")

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others; their sum where labels are smoothed; what is said of other positives."""
        asked: dict[str, Statistic] = {"all": LogSumExp()}
        if self.label_smoothing:
            asked["sum"] = Sum()
        if shared:
            kind = Sum if self.positives == "out" else LogSumExp
            asked |= {"positives": kind(over="positives"), "count": Count(over="positives")}
        return asked

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        z = side.logit
        everyone = torch.logaddexp(side["all"], z)
        target = z if side.target is None else side.target
        if "positives" in side.statistics:
            if self.positives == "out":
                target = (z + side["positives"]) / (1 + side["count"])
            else:
                target = torch.logaddexp(z, side["positives"]) - (1 + side["count"]).log()
        mass = torch.ones_like(z) if side.mass is None else side.mass
        if self.label_smoothing:
            mean = (side["sum"] + z) / (side.others + 1)
            target = (1 - self.label_smoothing) * target + self.label_smoothing * mass * mean
        return mass * everyone - target
