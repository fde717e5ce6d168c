"""Metrics as pure functions. Scores in fp32; a tie counts against the model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 1024  # queries that are scored at once: memory is ROWS x gallery


def retrieval_ranks(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    query_ids: Int[Tensor, " queries"],
    gallery_ids: Int[Tensor, " gallery"],
) -> Int[Tensor, " queries"]:
    """Rank, from 1, of the best item that belongs to each query.

    One plus the number of items that do not belong to it and score as high or higher: ties count against the model.
    Items belong to a query when their ids are equal; each query needs one.
    """
    ranks = []
    for start in range(0, queries.shape[0], ROWS):
        scores = queries[start : start + ROWS].float() @ gallery.float().T
        belongs = query_ids[start : start + ROWS, None] == gallery_ids[None, :]
        best = scores.masked_fill(~belongs, -torch.inf).amax(1, keepdim=True)
        ranks.append(1 + (~(scores < best) & ~belongs).sum(1))  # what is not a number never counts for the model
    return torch.cat(ranks)


def retrieval_metrics(ranks: Int[Tensor, " queries"], at: Sequence[int]) -> dict[str, float]:
    """Recall at k and median rank (the lower of two middles would flatter: their mean is taken)."""
    metrics = {f"recall@{k}": (ranks <= k).double().mean().item() for k in at}
    return metrics | {"median_rank": ranks.double().quantile(0.5).item()}


def classification_ranks(
    scores: Float[Tensor, "items classes"], labels: Int[Tensor, " items"]
) -> Int[Tensor, " items"]:
    """Rank, from 1, of the right class of each item; ties count against the model."""
    right = scores.gather(1, labels[:, None])
    return (~(scores < right)).sum(1)  # the right class itself makes it start at 1


def mean_per_class(correct: Float[Tensor, " items"], labels: Int[Tensor, " items"]) -> float:
    """Mean over the classes that occur of the share of correct items."""
    classes = labels.unique()
    return torch.stack([correct[labels == c].double().mean() for c in classes]).mean().item()
