"""Mixup of embeddings: rows are mixtures of two, and so are their targets."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from mmcl.errors import MmclError
from mmcl.losses.draws import permutation
from mmcl.losses.scores.unit import wide
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform, with_vectors
from mmcl.types import Embeddings, Mixed


@TRANSFORMS.register("mixup")
class Mixup(EmbeddingTransform):
    r"""Mix rows of one modality with other rows of it, and ask for both rows' counterparts.

    .. math:: \tilde x_i = b_i\, x_i + (1 - b_i)\, x_{\pi(i)}, \quad P_{ii} \mathrel{+}= b_i, \quad
              P_{i\pi(i)} \mathrel{+}= 1 - b_i, \quad
              \mathcal{L} = -\frac{1}{2n}\sum_{ij} P_{ij}
              \Bigl(\log \mathrm{softmax}_j\, z_{ij} + \log \mathrm{softmax}_i\, z_{ij}\Bigr)

    with a permutation :math:`\pi` of the rows that have this modality and another one, and
    :math:`b \sim \mathrm{Beta}(\alpha, \alpha)` in a share p of the rows (1 in the others). Each modality is mixed in
    its turn, and the term averaged over them. Where the other row lacks what a matrix compares, its weight falls away.

    Use when: pairs are few and the model learns them by heart.
    Cost: the term once a modality; the scores of rows with one candidate more.
    Range: that of the term.
    Differs from the paper: nothing in the loss. Its code assigns targets, so a row that the permutation leaves in its
        place loses its target, and it sums the modalities; here weights add up, and modalities are averaged. The paper
        trains so for a third of the time (`until_step`) and then with soft targets.
    Related: rows that were mixed before the towers (`data.mix`: CutMix, TiMix) need no transform, since
        `Embeddings.mixed` says so.

    Args:
        alpha: of the Beta distribution; small ones leave most rows nearly alone.
        p: how many of the rows are mixed.
        modalities: which are mixed, each in its turn; all of the batch where nothing is said, also those that
            the line does not compare.

    Reference:
        Kumar et al., "Harnessing Shared Relations via Multimodal Mixup Contrastive Learning for Multimodal
        Classification", TMLR 2025, the loss M3Co (https://arxiv.org/abs/2409.17777).

    Example:
        >>> made = Mixup(p=1.0)(Embeddings.single({"image": torch.eye(4), "text": torch.eye(4)}))
        >>> [(weight, list(e.mixed)) for weight, e in made]
        [(0.5, ['image']), (0.5, ['text'])]
    """

    mixes: ClassVar[bool] = True

    def __init__(
        self,
        alpha: Annotated[float, Field(gt=0)] = 0.15,
        p: Annotated[float, Field(ge=0, le=1)] = 0.5,
        modalities: Annotated[list[str], Field(min_length=1)] | None = None,
    ) -> None:
        super().__init__()
        self.alpha, self.p, self.modalities = alpha, p, modalities

    def forward(self, embeddings: Embeddings) -> list[tuple[float, Embeddings]]:
        """One record a modality."""
        names = self.modalities or embeddings.modalities
        return [(1 / len(names), self._mixed(embeddings, m)) for m in names]

    def _mixed(self, e: Embeddings, modality: str) -> Embeddings:
        if e.mixed:
            raise MmclError(f"mixup: rows of {', '.join(e.mixed)} are mixtures already.")
        x, generator = wide(e.all[modality]), self.generator(e, modality)
        others = [e.present[m] for m in e.modalities if m != modality]
        partner = permutation(e.present[modality] & torch.stack(others).any(0), generator)
        drawn = np.random.default_rng(generator.initial_seed())  # torch's Beta takes no generator
        alone = drawn.random(x.shape[0]) >= self.p
        own = torch.from_numpy(np.where(alone, 1.0, drawn.beta(self.alpha, self.alpha, x.shape[0])))
        weight = own.to(x.dtype).to(x.device, non_blocking=True)
        made = weight[:, None] * x + (1 - weight)[:, None] * x[partner]
        return with_vectors(e, {**e.all, modality: made}, mixed={modality: Mixed(partner, weight)})
