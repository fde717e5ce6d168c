"""Uniformity: embeddings spread over the sphere, within a modality and across two."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, over_pairs, share
from mmcl.losses.scores.cosine import Cosine
from mmcl.losses.statistics import LogSumExp
from mmcl.losses.views import Modalities, ModalityPairs
from mmcl.losses.walk import Mask, Walk
from mmcl.types import Embeddings


@REGULARIZERS.register("uniformity")
class Uniformity(Regularizer):
    r"""Log of the mean Gaussian potential of each modality with itself.

    .. math:: U(x) = \log \frac{1}{n(n-1)}\sum_{i \ne j} e^{-t\lVert x_i - x_j\rVert^2}
              = -2t + \log \frac{1}{n(n-1)}\sum_{i \ne j} e^{2t\,x_i^\top x_j}

    over unit vectors; modalities are averaged. The second form is a log-sum-exp of the scores, which the walk computes
    at O(tile) memory.

    Use when: the gap between modalities should close, and for probes; retrieval loses a little.
    Cost: one product (rows, dim) x (dim, rows) a modality.
    Range: [-2t n/(n-1), 0]; about -2t for unrelated vectors, 0 at collapse.
    Related: `cross_uniformity`, `alignment`, `koleo`.

    Args:
        t: sharpness of the potential.
        modalities: which; all where nothing is said.

    Reference:
        Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", ICML 2020, Eq. 5 (https://arxiv.org/abs/2005.10242).

    Example:
        >>> Uniformity(t=2.0)(Embeddings.single({"a": torch.eye(4)}))  # all at right angles: -2t
        tensor(-4.)
    """

    def __init__(self, t: Annotated[float, Field(gt=0, le=20)] = 2.0, modalities: Modalities | None = None) -> None:
        self.t, self.modalities = t, modalities

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings
        values = [potential(e, m, m, e.present[m], self.t) for m in self.modalities or e.modalities]
        return torch.stack(values).mean()


@REGULARIZERS.register("cross_uniformity")
class CrossUniformity(Regularizer):
    r"""Log of the mean Gaussian potential between modalities, without what belongs together.

    .. math:: XU(x, y) = \log \frac{1}{n(n-1)}\sum_{i \ne j} e^{-t\lVert x_i - y_j\rVert^2}

    over unit vectors; pairs of modalities are averaged.

    Use when: beside `uniformity` and `alignment`, to close the gap between modalities at least cost in retrieval.
    Cost: one product (rows, dim) x (dim, rows) a pair.
    Range: [-4t, 0].
    Related: `uniformity`.

    Args:
        t: sharpness of the potential.
        pairs: of modalities; all where nothing is said.

    Reference:
        Fahim et al., "It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap", 2024, the term
        L_XUniform (https://arxiv.org/abs/2405.18570).

    Example:
        >>> CrossUniformity(t=2.0)(Embeddings.single({"a": torch.eye(4), "b": torch.eye(4)}))
        tensor(-4.)
    """

    least = 2

    def __init__(self, t: Annotated[float, Field(gt=0, le=20)] = 2.0, pairs: ModalityPairs | None = None) -> None:
        self.t, self.pairs = t, pairs

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings
        return over_pairs(e, self.pairs, lambda a, b, both: potential(e, a, b, both, self.t))


def potential(e: Embeddings, a: str, b: str, valid: Bool[Tensor, " all_batch"], t: float) -> Float[Tensor, ""]:
    """This process's part of the log of the mean potential between two modalities (or one and itself)."""
    cosine = Cosine()
    rows, columns = cosine.anchors(e.all[a]), cosine.candidates([e.all[b]])
    mask = Mask(rows=valid[e.own], columns=valid, diagonal=e.offset)
    scale = torch.full((), 2 * t, dtype=rows[0].dtype, device=valid.device)
    found = Walk(cosine, mask, rows={"log": LogSumExp()})((rows[0][e.own],), columns, scale)
    # a potential is at most e^2t: its sum may stand outside a logarithm, where processes can add theirs
    total = e.total(torch.where(valid[e.own], found.rows["log"].exp(), 0.0).sum())
    count = valid.sum()
    enough = count >= 2
    mean = torch.where(enough, total, 1.0).log() - (count * (count - 1)).clamp(min=1).to(total.dtype).log()
    return torch.where(enough, mean - 2 * t, 0.0) * share(e)
