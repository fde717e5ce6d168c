"""The spectral contrastive loss."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import SquareSum, Statistic


@CONTRASTS.register("spectral")
class Spectral(Contrast):
    r"""Positives near, and the squares of all other scores small: a factorisation of the graph of pairs.

    .. math:: \ell_i = -2\,s_{ip} + \frac{1}{n_i}\sum_{j \ne p} s_{ij}^2

    Scores are taken as they are: there is no temperature.

    Use when: embeddings should be eigenvectors of the pairs' graph (linear probes, clustering).
    Range: for cosines [-2, 3].
    Differs from the paper: unit vectors, where the paper scales them by a learned radius; volumes and distances, where
        closer is smaller, enter by their negatives, as into every contrast.
    Related: `softmax`.

    Reference:
        HaoChen et al., "Provable Guarantees for Self-Supervised Deep Learning with Spectral Contrastive Loss", NeurIPS
        2021, Eq. 6 (https://arxiv.org/abs/2106.04156).

    Example:
        >>> Spectral().statistics(shared=False)
        {'others': SquareSum(scale=1.0, over='others')}
    """

    tempered: ClassVar[bool] = False

    def __init__(self) -> None:
        pass

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Squares of the others."""
        return {"others": SquareSum()}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        return side["others"] / side.others.clamp(min=1) - 2 * side.own
