"""Heads: what one term compares are projections of the embeddings, for this term alone."""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.losses.precision import full_precision
from mmcl.losses.scores.unit import wide
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform, Seen, with_vectors
from mmcl.types import Embeddings, modality_of

Width = Annotated[int, Field(ge=1)]


@TRANSFORMS.register("heads")
class Heads(EmbeddingTransform):
    r"""A linear head (or one hidden layer) a modality, which only this term has and trains.

    .. math:: x' = W x + b \quad\text{or}\quad x' = W_2\,\mathrm{GELU}(W_1 x + b_1) + b_2

    The embeddings that are exported stay free of what the term asks for. With a frozen third tower as a modality of its
    own, and heads for its pairs with both others, this is Three Towers (preset `three_towers`).

    Use when: a term should teach the towers without pulling their embeddings together: a frozen teacher, a second task.
    Cost: O(rows x dim x out) a modality, on every process; their weights.
    Range: that of the term.
    Differs from the paper: known here from a summary of it. In the preset each of the three terms learns a temperature
        of its own, and the third tower is as wide as the others.
    Related: `matryoshka` asks for the term of the first coordinates instead.

    Args:
        modalities: which have a head; further copies (`image.2`) share that of their modality.
        hidden: width of a hidden layer; a linear head where nothing is said.
        out: width that the heads make, that of the embeddings unless told. A modality without a head keeps its width;
            if that is another one, the term does not see it.

    Reference:
        Kossen et al., "Three Towers: Flexible Contrastive Learning with Pretrained Image Models", NeurIPS 2023
        (https://arxiv.org/abs/2305.16999).

    Example:
        >>> heads = Heads(["image", "text"], out=3, dim=4)
        >>> ((_, made),) = heads(Embeddings.single({"image": torch.ones(2, 4), "text": torch.ones(2, 4)}))
        >>> made.all["text"].shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        modalities: Annotated[list[str], Field(min_length=1)],
        hidden: Width | None = None,
        out: Width | None = None,
        *,
        dim: int,
    ) -> None:
        super().__init__()
        for m in modalities:
            if "." in m or modalities.count(m) > 1:
                raise MmclError(f"heads: modalities {modalities}: name each once, and no copies such as 'image.2'.")
        self.dim, self.out = dim, out or dim
        self.heads = nn.ModuleDict({m: _head(dim, hidden, self.out) for m in modalities})

    @classmethod
    def check(cls, said: Any, seen: Seen) -> Seen:
        """Refuse modalities that are not there; those whose width is another one in the end are not seen."""
        super().check(said, seen)
        if len(seen.widths) > 1:
            raise MmclError(f"transform: heads: a head is for one width; they get {list(seen.widths)}.")
        width = max(seen.widths)
        kept = [m for m in seen.names if modality_of(m) in said.modalities or said.out in (width, None)]
        return Seen(kept, (said.out or width,))

    def forward(self, embeddings: Embeddings) -> list[tuple[float, Embeddings]]:
        """One record."""
        e = embeddings
        vectors: dict[str, Tensor] = {}
        with full_precision(e.ids.device):
            for m, x in e.all.items():
                if modality_of(m) in self.heads:
                    made = self._of(modality_of(m), x)
                    vectors[m] = torch.where(e.present[m][:, None], made, 0.0)
                elif x.shape[1] == self.out:
                    vectors[m] = x
        return [(1.0, with_vectors(e, vectors))]

    def _of(self, modality: str, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows out"]:
        if x.shape[1] != self.dim:
            raise MmclError(f"heads: {modality} has {x.shape[1]} coordinates, and its head is for {self.dim}.")
        head, x = self.heads[modality], wide(x)
        return head(x.to(next(head.parameters()).dtype)).to(x.dtype)


def _head(dim: int, hidden: int | None, out: int) -> nn.Module:
    if hidden is None:
        return nn.Linear(dim, out)
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out))
