"""Vectors whose cosines are what a test wants, and data that are drawn again by hand."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcl.evaluators import Embedded
from mmcl.evaluators.base import Items


def axis(count: int) -> Tensor:
    """Queries: the first axis, so that a candidate's first coordinate is its score, to the last bit."""
    return torch.tensor([[1.0, 0.0]]).repeat(count, 1)


def scoring(scores: Sequence[float]) -> Tensor:
    """Unit vectors with these scores."""
    s = torch.tensor(list(scores), dtype=torch.float32).view(-1)
    return torch.stack([s, (1 - s * s).sqrt()], 1)


def data(
    query: str,
    candidates: Mapping[str, Sequence[Sequence[float]]],
    texts: Mapping[str, list[list[str]]] | None = None,
) -> Embedded:
    """Items with one query each.

    Args:
        query: name of its column.
        candidates: column -> scores of each item's candidates.
        texts: of the items.
    """
    count = len(next(iter(candidates.values())))
    vectors, owner = {query: axis(count)}, {query: torch.arange(count)}
    for name, scores in candidates.items():
        vectors[name] = scoring([s for of_item in scores for s in of_item])
        owner[name] = torch.tensor([i for i, of_item in enumerate(scores) for _ in of_item], dtype=torch.long)
    return Embedded(Items([f"k{i}" for i in range(count)], torch.arange(count), texts or {}), vectors, owner)


def drawn(data: Embedded, times: Sequence[int]) -> Embedded:
    """The same, with each item as often as it was drawn."""
    chosen = [i for i, n in enumerate(times) for _ in range(n)]
    texts = {name: [said[i] for i in chosen] for name, said in data.items.texts.items()}
    vectors, owner = {}, {}
    for name, rows in data.vectors.items():
        mine = [(data.owner[name] == i).nonzero()[:, 0] for i in chosen]
        vectors[name] = rows[torch.cat(mine)]
        owner[name] = torch.arange(len(chosen)).repeat_interleave(torch.tensor([len(m) for m in mine]))
    items = Items([f"d{i}" for i in range(len(chosen))], torch.arange(len(chosen)), texts)
    return Embedded(items, vectors, owner)


class Deaf:
    """An embedder that nobody may ask."""

    def embed(self, modality: str, values: Sequence[object]) -> Tensor:
        raise AssertionError(f"{modality} was embedded")
