"""How the embeddings of paired items lie."""

from itertools import combinations, permutations
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Findings, Items
from mmcl.evaluators.figures import Figure
from mmcl.evaluators.separability import separability
from mmcl.evaluators.shape import (
    alignment,
    centroid_gap,
    effective_rank,
    hubness,
    occurrences,
    orphans,
    uniformity,
)

Vectors = dict[str, Float[Tensor, "items dim"]]
Unit = Int[Tensor, " items"]
HUBS = 5  # that are named in the details


@EVALUATORS.register("geometry")
class Geometry(Evaluator):
    """Geometry of the embeddings of some modalities, of items that have one of each.

    Of a modality: ``image/uniformity`` and ``image/effective_rank``. Of a pair: ``image-text/alignment``,
    ``image-text/gap`` (distance of the two means) and ``image-text/separability`` (accuracy of a linear classifier that
    tells them apart). Of a direction, queries first: ``image_to_text/hubness`` (skewness of how often an item is among
    the nearest) and ``image_to_text/orphans`` (share of items that are never). Names and conventions are those of the
    numbers that training logs under ``embeddings/``.

    Of all but the effective rank, smaller counts as better here. None of them is a goal in itself: an alignment of 0
    can be collapse, and a smaller gap need not retrieve better.

    Protocol: at most `most` items are taken, by a seeded draw; the details say how many of how many. Numbers of
    neighbours and ranks grow with the number of items, so compare models on the same items and the same `most`. Items
    with equal ids are one unit: they make no pair in the uniformity, are in one fold, and are drawn together for the
    intervals.
    Headline: the gap of the first two modalities, or the uniformity where there is one modality.

    Args:
        modalities: that are looked at.
        neighbors: k of the k nearest.
        most: items that are taken; time and memory grow with its square.
        folds: of the classifier.
        seed: of the items that are taken, and of the folds.

    Reference:
        See `mmcl.evaluators.shape` and `mmcl.evaluators.separability`.
    """

    score = "cosine"

    def __init__(
        self,
        modalities: Annotated[list[str], Field(min_length=1)],
        neighbors: Annotated[int, Field(ge=1)] = 10,
        most: Annotated[int, Field(ge=2)] = 5000,
        folds: Annotated[int, Field(ge=2)] = 5,
        seed: int = 0,
    ) -> None:
        if len(set(modalities)) < len(modalities):
            raise MmclError(f"geometry: a modality is named twice: {', '.join(modalities)}.")
        if neighbors >= most:
            raise MmclError(f"geometry: {neighbors} neighbors need more items than the {most} of `most`.")
        self.names, self.neighbors, self.most = modalities, neighbors, most
        self.folds, self.seed = folds, seed
        first = modalities[0]
        self.headline = f"{first}/uniformity" if len(modalities) == 1 else f"{first}-{modalities[1]}/gap"

    def modalities(self) -> list[str]:
        """What must be embedded."""
        return list(self.names)

    def metrics(self) -> dict[str, bool]:
        """Numbers of each modality, pair and direction."""
        found: dict[str, bool] = {}
        for m in self.names:
            found |= {f"{m}/uniformity": False, f"{m}/effective_rank": True}
        for a, b in combinations(self.names, 2):
            found |= {f"{a}-{b}/{name}": False for name in ("alignment", "gap", "separability")}
        for a, b in permutations(self.names, 2):
            found |= {f"{a}_to_{b}/{name}": False for name in ("hubness", "orphans")}
        return found

    def check(self, items: Items, train: Items | None = None) -> None:
        """There must be items enough for what is asked.

        Raises:
            MmclError: there are not.
        """
        count, different = len(items), len(items.ids.unique())
        if different < 2:
            raise MmclError(
                f"geometry needs different items; there are {count}, and {different} with an id of its own."
            )
        if len(self.names) > 1 and count <= self.neighbors:
            raise MmclError(f"geometry: {self.neighbors} neighbors need more items than the {count} there are.")
        if len(self.names) > 1 and different < self.folds:
            raise MmclError(f"geometry: {self.folds} folds need as many different items; there are {different}.")

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """Figures of each modality, pair and direction; the details name the largest hubs."""
        self.check(data.items)
        chosen = self._chosen(len(data.items))
        x = {m: self._finite(m, data)[chosen] for m in self.names}
        unit = data.items.ids[chosen].unique(return_inverse=True)[1]
        figures: dict[str, Figure] = {}
        for m, rows in x.items():
            figures[f"{m}/uniformity"] = uniformity(rows, unit)
            figures[f"{m}/effective_rank"] = effective_rank(rows, unit, self.seed)
        for a, b in combinations(x, 2):
            figures[f"{a}-{b}/alignment"] = alignment(x[a], x[b], unit)
            figures[f"{a}-{b}/gap"] = centroid_gap(x[a], x[b], unit)
            figures[f"{a}-{b}/separability"] = separability(x[a], x[b], unit, self.folds, self.seed)
        details: dict[str, Any] = {"items": len(chosen), "of": len(data.items)}
        for a, b in permutations(x, 2):
            counts = occurrences(x[a], x[b], self.neighbors)
            figures[f"{a}_to_{b}/hubness"] = hubness(counts, unit)
            figures[f"{a}_to_{b}/orphans"] = orphans(counts, unit)
            most = counts.argsort(descending=True, stable=True)[:HUBS].tolist()
            details[f"{a}_to_{b}/hubs"] = {data.items.keys[chosen[i]]: counts[i].item() for i in most}
        return Findings(figures, details=details)

    def _chosen(self, count: int) -> Int[Tensor, " chosen"]:
        if count <= self.most:
            return torch.arange(count)
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))[: self.most].sort().values

    def _finite(self, modality: str, data: Embedded) -> Float[Tensor, "items dim"]:
        rows = data.only(modality)
        broken = (~rows.isfinite().all(1)).nonzero()[:, 0].tolist()
        if broken:
            key = data.items.keys[broken[0]]
            raise MmclError(f"geometry: {len(broken)} vectors of {modality} are not finite, the first of item {key}.")
        return rows
