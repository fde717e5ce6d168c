"""Matryoshka: the first coordinates alone are an embedding too."""

from typing import Annotated, Any

from pydantic import Field

from mmcl.errors import MmclError
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform, Seen, with_vectors
from mmcl.types import Embeddings


@TRANSFORMS.register("matryoshka")
class Matryoshka(EmbeddingTransform):
    r"""The term of the first coordinates, for several widths at once.

    .. math:: \mathcal{L} = \sum_m c_m\, \mathcal{L}(x_{:m}, y_{:m}, \dots)

    Scores normalise what they are given, so every width is brought to length one by itself.

    Use when: exported embeddings will be cut to save memory.
    Cost: the term once a width.
    Range: that of the term, times the sum of the weights.
    Differs from the paper: nothing; the term's one temperature serves all widths.

    Args:
        dims: widths, in any order; the whole width counts only where it is among them.
        weights: of the widths, 1 each unless told.

    Reference:
        Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Eq. 1 (https://arxiv.org/abs/2205.13147).

    Example:
        >>> import torch
        >>> made = Matryoshka([2, 4])(Embeddings.single({"image": torch.ones(3, 4), "text": torch.ones(3, 4)}))
        >>> [tuple(e.all["text"].shape) for _, e in made]
        [(3, 2), (3, 4)]
    """

    def __init__(
        self,
        dims: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)],
        weights: list[Annotated[float, Field(ge=0)]] | None = None,
    ) -> None:
        super().__init__()
        if weights is not None and len(weights) != len(dims):
            raise MmclError(f"matryoshka: {len(dims)} dims and {len(weights)} weights.")
        if len(set(dims)) < len(dims):
            raise MmclError(f"matryoshka: dims: {dims} names one twice.")
        self.dims, self.weights = dims, weights or [1.0] * len(dims)

    @classmethod
    def check(cls, said: Any, seen: Seen) -> Seen:
        """Refuse embeddings that are narrower."""
        if max(said.dims) > min(seen.widths):
            raise MmclError(
                f"transform: matryoshka: embeddings have {min(seen.widths)} coordinates, fewer than {max(said.dims)}."
            )
        return Seen(seen.names, tuple(said.dims))

    def forward(self, embeddings: Embeddings) -> list[tuple[float, Embeddings]]:
        """One record a width."""
        return [
            (weight, with_vectors(embeddings, {m: x[:, :dim] for m, x in embeddings.all.items()}))
            for dim, weight in zip(self.dims, self.weights, strict=True)
        ]
