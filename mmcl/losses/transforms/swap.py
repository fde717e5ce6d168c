"""Modality swapping: some rows exchange what they say in two modalities."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from mmcl.errors import MmclError
from mmcl.losses.precision import full_precision
from mmcl.losses.scores.unit import unit, wide
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform, Seen, with_vectors
from mmcl.types import Embeddings, without_copies


@TRANSFORMS.register("swap")
class Swap(EmbeddingTransform):
    r"""Exchange, or mix, the vectors of two modalities in a share of the rows.

    .. math:: x'_i = \lVert x_i\rVert\,\bigl(\lambda_i \odot \hat x_i + (1 - \lambda_i) \odot \hat y_i\bigr), \quad
              y'_i = \lVert y_i\rVert\,\bigl(\lambda_i \odot \hat y_i + (1 - \lambda_i) \odot \hat x_i\bigr)

    for rows that are drawn, each with probability p, with unit vectors :math:`\hat x, \hat y`: directions are
    exchanged and lengths stay. The soft swap draws :math:`\lambda` evenly from [0, 1], the hard swap takes 0 or 1.
    Nothing is drawn but by the run's seed and the step; a row that lacks one of the two stays as it is.

    Use when: the gap between two modalities should close: a classifier that tells them apart is of no use any more.
    Cost: O(p x rows x dim).
    Range: that of the term.
    Differs from the paper: known here from a summary of it. There, p is the share of the training in which all rows are
        swapped; here it is the share of the rows, in every step. `by: vector` is not in the paper.
    Related: `clip_uniform`; a high or a rising temperature, which the same paper finds to do more.

    Args:
        p: how many of the rows. The paper's best are 0.05 (soft) and 0.001 (hard); a hard swap of all ruins retrieval.
        kind: `soft` or `hard`.
        by: whether every coordinate is drawn by itself (a hard swap exchanges half of them), or rows change whole.
        pair: the two modalities; may be left out where there are only two.

    Reference:
        Yaras et al., "Explaining and Mitigating the Modality Gap in Contrastive Multimodal Learning", 2024, hard and
        soft swapping (https://arxiv.org/abs/2412.07909).

    Example:
        >>> x = {"image": torch.tensor([[1.0, 0.0]]), "text": torch.tensor([[0.0, 2.0]])}
        >>> ((_, made),) = Swap(p=1.0, kind="hard", by="vector")(Embeddings.single(x))
        >>> made.all["image"], made.all["text"]
        (tensor([[0., 1.]]), tensor([[2., 0.]]))
    """

    def __init__(
        self,
        p: Annotated[float, Field(ge=0, le=1)] = 0.05,
        kind: Literal["soft", "hard"] = "soft",
        by: Literal["coordinate", "vector"] = "coordinate",
        pair: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        if pair is not None and pair[0] == pair[1]:
            raise MmclError(f"swap: {list(pair)} pairs a modality with itself.")
        self.p, self.kind, self.by, self.pair = p, kind, by, pair

    @classmethod
    def check(cls, said: Any, seen: Seen) -> Seen:
        """Refuse a pair that is not there, or not said."""
        there = without_copies(seen.names)
        if said.pair is None and len(there) != 2:
            raise MmclError(f"transform: swap: there are {there}; say which two, as in `pair: [image, text]`.")
        for m in said.pair or ():
            if m not in seen.names:
                raise MmclError(f"transform: swap: {m!r} is not among {seen.names}.")
        return seen

    def forward(self, embeddings: Embeddings) -> list[tuple[float, Embeddings]]:
        """One record."""
        e = embeddings
        a, b = self.pair or e.modalities
        for m in (a, b):
            if m in e.mixed:
                raise MmclError(f"swap: rows of {m} are mixtures already; swap before they are mixed.")
        generator = self.generator(e, a, b)
        rows = (torch.rand(e.ids.shape[0], generator=generator) < self.p).nonzero()[:, 0]  # on the CPU, as all draws
        keep = torch.rand(rows.shape[0], e.all[a].shape[1] if self.by == "coordinate" else 1, generator=generator)
        if self.kind == "hard":
            keep = (keep < 0.5).float() if self.by == "coordinate" else torch.zeros_like(keep)
        rows, keep = (t.to(e.ids.device, non_blocking=True) for t in (rows, keep))
        both = (e.present[a] & e.present[b])[rows, None]
        with full_precision(e.ids.device):
            whole = {m: wide(e.all[m]) for m in (a, b)}
            old = {m: whole[m][rows] for m in (a, b)}
            directions = {m: unit(old[m]) for m in (a, b)}
            for m, other in ((a, b), (b, a)):
                length = torch.linalg.vector_norm(old[m], dim=1, keepdim=True)
                made = length * torch.lerp(directions[other], directions[m], keep.to(length))
                whole[m] = whole[m].index_put((rows,), torch.where(both, made, old[m]))
        return [(1.0, with_vectors(e, {**e.all, **whole}))]
