"""Variance, covariance and cross-correlation of the coordinates (VICReg, Barlow Twins)."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, over_pairs, share
from mmcl.losses.scores.unit import wide
from mmcl.losses.views import Modalities, ModalityPairs
from mmcl.types import Embeddings

TINY = 1e-4  # VICReg's, added to a variance before its root
SMALL = 1e-5  # batch normalisation's


@REGULARIZERS.register("variance")
class Variance(Regularizer):
    r"""Keep the spread of every coordinate above a target.

    .. math:: \frac1d\sum_k \max\bigl(0,\; \gamma - \sqrt{\mathrm{Var}_i(x_{ik}) + 10^{-4}}\bigr)

    over the embeddings as the towers made them, unnormalised: unit vectors cannot reach a spread of one.

    Use when: coordinates die; it prevents collapse without negatives.
    Cost: O(rows x dim), on every process.
    Range: [0, gamma].
    Differs from the paper: modalities are averaged, where it sums its two views.
    Related: `covariance`.

    Args:
        gamma: the target.
        modalities: which; all where nothing is said.

    Reference:
        Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022,
        Eq. 1 and 2 (https://arxiv.org/abs/2105.04906).

    Example:
        >>> Variance()(Embeddings.single({"a": torch.ones(4, 3)})).round(decimals=4)  # collapsed
        tensor(0.9900)
    """

    def __init__(self, gamma: Annotated[float, Field(gt=0)] = 1.0, modalities: Modalities | None = None) -> None:
        self.gamma, self.modalities = gamma, modalities

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e, values = embeddings, []
        for m in self.modalities or e.modalities:
            x, count = centred(e, m, e.present[m])
            spread = (x.square().sum(0) / (count - 1).clamp(min=1) + TINY).sqrt()
            values.append(torch.where(count >= 2, (self.gamma - spread).clamp(min=0).mean(), 0.0))
        return torch.stack(values).mean() * share(e)


@REGULARIZERS.register("covariance")
class Covariance(Regularizer):
    r"""Coordinates that say different things.

    .. math:: \frac1d\sum_{k \ne l} \mathrm{Cov}_i(x_{ik}, x_{il})^2

    over the embeddings as the towers made them.

    Use when: the embedding uses few of its dimensions (effective rank).
    Cost: O(rows x dim^2), on every process.
    Range: [0, inf).
    Differs from the paper: modalities are averaged, where it sums its two views.
    Related: `variance`, `barlow`.

    Args:
        modalities: which; all where nothing is said.

    Reference:
        Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022,
        Eq. 3 and 4 (https://arxiv.org/abs/2105.04906).

    Example:
        >>> Covariance()(Embeddings.single({"a": torch.tensor([[1.0, 1.0], [-1.0, -1.0]])}))  # both say the same
        tensor(4.)
    """

    def __init__(self, modalities: Modalities | None = None) -> None:
        self.modalities = modalities

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e, values = embeddings, []
        for m in self.modalities or e.modalities:
            x, count = centred(e, m, e.present[m])
            covariance = x.T @ x / (count - 1).clamp(min=1)
            off = covariance.square().sum() - covariance.diagonal().square().sum()
            values.append(torch.where(count >= 2, off / x.shape[1], 0.0))
        return torch.stack(values).mean() * share(e)


@REGULARIZERS.register("barlow")
class Barlow(Regularizer):
    r"""Each coordinate of one modality goes with the same coordinate of the other, and with no other.

    .. math:: \sum_k (1 - C_{kk})^2 + \lambda \sum_{k \ne l} C_{kl}^2, \quad
              C_{kl} = \mathrm{Corr}_i(x_{ik}, y_{il})

    over the embeddings as the towers made them; pairs of modalities are averaged. Beside `clip` it is BarLIP.

    Use when: negatives are few or false.
    Cost: O(rows x dim^2), on every process.
    Range: [0, 4 dim + lambda dim (dim - 1)].
    Differs from the paper: nothing; variances have 1e-5 added, as in its code's batch normalisation, so coordinates
        without spread correlate with nothing.
    Related: `covariance`.

    Args:
        off_diagonal: lambda; the paper takes 0.0051.
        pairs: of modalities; all where nothing is said.

    Reference:
        Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021, Eq. 1 and 2
        (https://arxiv.org/abs/2103.03230); between image and text: Fini et al., "Improved baselines for vision-language
        pre-training", TMLR 2023 (https://arxiv.org/abs/2305.08675).

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> Barlow()(Embeddings.single({"a": x, "b": x})).round(decimals=4)
        tensor(0.)
    """

    least = 2

    def __init__(
        self, off_diagonal: Annotated[float, Field(ge=0)] = 0.0051, pairs: ModalityPairs | None = None
    ) -> None:
        self.off_diagonal, self.pairs = off_diagonal, pairs

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings

        def value(a: str, b: str, both: Bool[Tensor, " all_batch"]) -> Tensor:
            x, y = (centred(e, m, both)[0] for m in (a, b))
            count = both.sum().clamp(min=1)
            x, y = (v * (v.square().sum(0) / count + SMALL).rsqrt() for v in (x, y))
            c = x.T @ y / count
            on = (1 - c.diagonal()).square().sum()
            off = c.square().sum() - c.diagonal().square().sum()
            return (on + self.off_diagonal * off) * share(e)

        return over_pairs(e, self.pairs, value)


def centred(e: Embeddings, modality: str, valid: Tensor) -> tuple[Float[Tensor, "all_batch dim"], Tensor]:
    """All rows around their mean, absent ones zero, and how many there are."""
    x, count = wide(e.all[modality]), valid.sum()
    here = valid[:, None]
    mean = torch.where(here, x, 0.0).sum(0) / count.clamp(min=1)
    return torch.where(here, x - mean, 0.0), count
