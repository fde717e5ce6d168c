"""A teacher's softmax as the target."""

from collections.abc import Mapping
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.targets.base import TARGETS, By, SoftTargets


@TARGETS.register("soft")
class Soft(SoftTargets):
    r"""The softmax of a teacher's similarities, mixed with the row's own candidate.

    .. math:: q_{ij} = (1 - \alpha)\,\mathbb{1}_{ij} + \alpha\,\mathrm{softmax}_j(t_{ij} / \tau_t)

    over all candidates of the row, its own among them.

    Use when: captions fit other pictures of the batch too, and a frozen or an averaged model knows which.
    Cost: one more product of the teacher's width a tile.
    Range: a distribution over the candidates.
    Differs from the paper: ALBEF's alpha ramps up over the first epoch; two terms with `weight: {start, end, steps}` do
        that. M3CoL's soft targets are `by: text`, the embeddings themselves, at 0.125.
    Related: `cwcl`, `congrat`, `neighbours`; regularizers that distil.

    Args:
        by: whose similarities; a mapping such as `{image: ema.image, text: ema.text}` looks across the modalities.
        temperature: of the teacher.
        alpha: mass of the soft targets.
        toward: modality whose candidates the soft targets are for; both directions where nothing is said.

    Reference:
        Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", NeurIPS
        2021, Eq. 6 (https://arxiv.org/abs/2107.07651); Gao et al., "SoftCLIP", AAAI 2024
        (https://arxiv.org/abs/2303.17561).

    Example:
        >>> import torch
        >>> Soft(by="teacher.image", temperature=0.1).log_weights(torch.tensor([1.0, 0.0]), {}, False)
        tensor([10.,  0.])
    """

    def __init__(
        self,
        by: By,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
        toward: str | None = None,
    ) -> None:
        super().__init__(by, alpha, toward)
        self.temperature = temperature

    def log_weights(
        self, t: Float[Tensor, "..."], known: Mapping[str, Float[Tensor, "..."]], own: bool
    ) -> Float[Tensor, "..."]:
        """Logits of the teacher."""
        return t / self.temperature


@TARGETS.register("cwcl")
class Cwcl(SoftTargets):
    r"""Every candidate is a positive as far as a frozen model finds it like the row's own (CWCL).

    .. math:: w_{ij} \propto \tfrac12 + \tfrac12\, t_{ij}

    with the cosines t of the frozen modality's own vectors.

    Use when: one tower is frozen and good (LiT, speech beside a text model): its similarities are knowledge.
    Cost: one more product a tile.
    Range: a distribution over the candidates; nearly even, because unrelated vectors weigh a half.
    Differs from the paper: nothing; where its weights are those of the identity it is InfoNCE.
    Related: `soft` with a low temperature follows near neighbours only.

    Args:
        by: the frozen vectors: a modality whose tower is frozen, or an extra.
        alpha: mass of the soft targets; the paper takes all.
        toward: the frozen modality; the search in the other direction keeps its own candidate, as in the paper.

    Reference:
        Srinivasa et al., "CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss", NeurIPS 2023, Eq. 3
        to 5 (https://arxiv.org/abs/2309.14580).

    Example:
        >>> import torch
        >>> Cwcl("image").log_weights(torch.tensor([1.0, 0.0]), {}, False).exp()
        tensor([1.0000, 0.5000])
    """

    def log_weights(
        self, t: Float[Tensor, "..."], known: Mapping[str, Float[Tensor, "..."]], own: bool
    ) -> Float[Tensor, "..."]:
        """Log of the weights; -inf for what points the other way."""
        return ((1 + t) / 2).clamp_min(0.0).log()
