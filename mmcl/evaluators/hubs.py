"""Corrections of hubs: what many queries find is moved down.

A correction is a number for each item of a gallery, its bias; the corrected score of a query is the score less the bias
of the item. It is learned from a bank of other queries, never from the queries that are measured.
"""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.ranking import COLUMNS, whole
from mmcl.registry import Part, Registry

CELLS = 16_000_000  # scores that are held at once

Positive = Annotated[float, Field(gt=0)]


class HubCorrection(ABC):
    """A bias of each item of a gallery."""

    def __call__(
        self, gallery: Float[Tensor, "gallery dim"], bank: Float[Tensor, "bank dim"]
    ) -> Float[Tensor, " gallery"]:
        """What is taken off the scores of each item, in fp32.

        The scores of the gallery against the bank are computed in blocks of about 16 million, all of one height: equal
        items have equal biases, and a tie stays one. An item that is NaN has a bias that is NaN.

        Args:
            gallery: unit vectors of what is searched.
            bank: unit vectors of queries that are not measured, of the same modality as those that are.

        Raises:
            MmclError: the bank has too few queries, or one that is not made of numbers.
        """
        if len(bank) < self.needs():
            raise MmclError(
                f"the hub correction needs a bank of at least {self.needs()} queries, and train has {len(bank)}."
            )
        broken = int((~bank.isfinite().all(1)).sum())
        if broken:
            raise MmclError(f"the hub correction: {broken} of the {len(bank)} queries of train are not finite.")
        right, left = whole(bank.float()), whole(gallery.float())
        height = min(max(CELLS // len(right) // COLUMNS, 1) * COLUMNS, len(left))
        parts = F.pad(left, (0, 0, 0, -len(left) % height)).split(height)
        return torch.cat([self.bias((part @ right.T)[:, : len(bank)]) for part in parts])[: len(gallery)]

    @abstractmethod
    def bias(self, scores: Float[Tensor, "gallery bank"]) -> Float[Tensor, " gallery"]:
        """Of some items, from their scores against the bank."""

    def needs(self) -> int:
        """Least number of queries in the bank."""
        return 1


HUB_CORRECTIONS: Registry[HubCorrection] = Registry("hub correction")
HubPart = Annotated[SerializeAsAny[Part], PlainValidator(HUB_CORRECTIONS.check)]


@HUB_CORRECTIONS.register("nnn")
class NNN(HubCorrection):
    r"""Nearest neighbour normalisation.

    :math:`b(g) = \alpha \cdot \frac1k \sum_{j=1}^{k} s(q_j, g)` with :math:`q_1, \dots, q_k` the queries of the bank
    that score highest against g.

    Args:
        alpha: share of the mean that is taken off. The paper chooses it, and k, on held-out data; so should you, and
            not on the items that are measured.
        k: queries of the mean.

    Reference:
        Chowdhury et al., "Nearest Neighbor Normalization Improves Multimodal Retrieval", EMNLP 2024, section 2.
        https://arxiv.org/abs/2410.24114
    """

    def __init__(self, alpha: Positive = 0.5, k: Annotated[int, Field(ge=1)] = 16) -> None:
        self.alpha, self.k = alpha, k

    def bias(self, scores: Float[Tensor, "gallery bank"]) -> Float[Tensor, " gallery"]:
        """Weighted mean of the k largest."""
        return self.alpha * _mean_of_largest(scores, self.k)

    def needs(self) -> int:
        """As many as the mean takes."""
        return self.k


@HUB_CORRECTIONS.register("csls")
class CSLS(HubCorrection):
    r"""Cross-domain similarity local scaling.

    :math:`\mathrm{CSLS}(q, g) = 2 s(q, g) - r(q) - r(g)` with :math:`r(g)` the mean of the k largest scores of g
    against the bank. For one query :math:`r(q)` is the same for all of the gallery, so that ranks are those of
    :math:`s(q, g) - r(g) / 2`: `nnn` with an alpha of 1/2.

    Args:
        k: queries of the mean.

    Reference:
        Conneau et al., "Word Translation Without Parallel Data", ICLR 2018, section 2.3, with k = 10.
        https://arxiv.org/abs/1710.04087
    """

    def __init__(self, k: Annotated[int, Field(ge=1)] = 10) -> None:
        self.k = k

    def bias(self, scores: Float[Tensor, "gallery bank"]) -> Float[Tensor, " gallery"]:
        """Half the mean of the k largest."""
        return _mean_of_largest(scores, self.k) / 2

    def needs(self) -> int:
        """As many as the mean takes."""
        return self.k


@HUB_CORRECTIONS.register("inverted_softmax")
class InvertedSoftmax(HubCorrection):
    r"""The softmax over queries instead of over the gallery.

    :math:`e^{\beta s(q, g)} / \sum_{b} e^{\beta s(b, g)}`, whose logarithm over :math:`\beta` is
    :math:`s(q, g) - \frac1\beta \log \sum_b e^{\beta s(b, g)}`: ranks are the same.

    QB-Norm's dynamic form, which corrects only those queries whose first find is a hub of the bank, is not a bias of
    the gallery, and is not offered.

    Args:
        beta: inverse temperature.

    Reference:
        Smith et al., "Offline Bilingual Word Vectors, Orthogonal Transformations and the Inverted Softmax", ICLR 2017,
        section 2.3 (https://arxiv.org/abs/1702.03859); Bogolin et al., "Cross Modal Retrieval with Querybank
        Normalisation", CVPR 2022, section 3.3, with beta = 20 (https://arxiv.org/abs/2112.12777).
    """

    def __init__(self, beta: Positive = 20.0) -> None:
        self.beta = beta

    def bias(self, scores: Float[Tensor, "gallery bank"]) -> Float[Tensor, " gallery"]:
        """Log-sum-exp at the inverse temperature."""
        return (self.beta * scores).logsumexp(1) / self.beta


def _mean_of_largest(scores: Float[Tensor, "gallery bank"], k: int) -> Float[Tensor, " gallery"]:
    return scores.topk(k, dim=1).values.mean(1)
