"""KoLeo: every embedding far from its nearest neighbour."""

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer
from mmcl.losses.scores.cosine import Cosine
from mmcl.losses.scores.unit import floored_sqrt
from mmcl.losses.statistics import LargestPlaces
from mmcl.losses.views import Modalities
from mmcl.losses.walk import Mask, Walk
from mmcl.types import Embeddings

FLOOR = 1e-6  # of a squared distance, below which duplicates would tear at one another


@REGULARIZERS.register("koleo")
class Koleo(Regularizer):
    r"""Entropy by nearest neighbours (Kozachenko and Leonenko), to be raised.

    .. math:: -\frac1n\sum_i \log \min_{j \ne i} \lVert x_i - x_j\rVert

    over the unit vectors of each modality; modalities are averaged.

    Use when: duplicates and clusters are the trouble, not the whole distribution; each row feels one neighbour.
    Cost: one product (rows, dim) x (dim, rows) a modality.
    Range: [-log 2, 6.9]: distances below a thousandth count as one and have no gradient.
    Differs from the paper: the floor; DINOv2 adds 1e-8 to distances instead.
    Related: `uniformity` feels all neighbours.

    Args:
        modalities: which; all where nothing is said.

    Reference:
        Sablayrolles et al., "Spreading vectors for similarity search", ICLR 2019, Eq. 2
        (https://arxiv.org/abs/1806.03198); as in DINOv2 (https://arxiv.org/abs/2304.07193).

    Example:
        >>> Koleo()(Embeddings.single({"a": torch.eye(4)})).round(decimals=4)  # -log sqrt(2)
        tensor(-0.3466)
    """

    def __init__(self, modalities: Modalities | None = None) -> None:
        self.modalities = modalities

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        return torch.stack([self._one(embeddings, m) for m in self.modalities or embeddings.modalities]).mean()

    def _one(self, e: Embeddings, modality: str) -> Float[Tensor, ""]:
        cosine, valid = Cosine(), e.present[modality]
        (x,) = cosine.anchors(e.all[modality])
        walk = Walk(cosine, Mask(columns=valid, diagonal=e.offset), rows={"nearest": LargestPlaces(k=1)})
        still = x.detach()
        place = walk((still[e.own],), (still,), still.new_ones(())).rows["nearest"][:, 0]
        counted = valid[e.own] & (place >= 0)
        apart = x[e.own] - x[place.clamp(min=0)]  # exact, where an inner product is not
        distance = floored_sqrt(apart.square().sum(-1), FLOOR)
        return -torch.where(counted, distance.log(), 0.0).sum() / valid.sum().clamp(min=1)
