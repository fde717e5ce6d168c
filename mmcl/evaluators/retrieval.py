"""Find the item of one modality that belongs to an item of another."""

from typing import Annotated

import torch
from pydantic import Field

from mmcl.evaluators.base import EVALUATORS, RAW, Embedded, Embedder, Example
from mmcl.evaluators.metrics import retrieval_metrics, retrieval_ranks


@EVALUATORS.register("retrieval")
class Retrieval:
    """Retrieval in both directions between two modalities, by cosine, over the whole test set.

    Protocol: every item of the one modality is a query, all items of the other are the gallery. What belongs together
    is what has the same ``identity`` in the data, or else is the same sample. Ties count against the model.
    Headline: ``text_to_image/recall@10`` for the modalities text and image.

    Args:
        modalities: the two; the headline goes from the first to the second.
        at: the k of recall at k.
    """

    def __init__(self, modalities: tuple[str, str], at: list[Annotated[int, Field(ge=1)]] = [1, 5, 10]) -> None:  # noqa: B006
        self.pair, self.at = modalities, at
        self.headline = f"{modalities[0]}_to_{modalities[1]}/recall@{at[-1]}"

    def modalities(self) -> list[str]:
        """What must be embedded."""
        return list(self.pair)

    def fields(self) -> list[str]:
        """Labels that the data must bring."""
        return []

    def prompted(self) -> list[str]:
        """Nothing is prompted."""
        return []

    def metrics(self) -> dict[str, bool]:
        """Recalls, of which larger is better, and median ranks."""
        names = {**{f"recall@{k}": True for k in self.at}, "median_rank": False}
        pairs = (self.pair, self.pair[::-1])
        return {f"{a}_to_{b}/{name}": larger for a, b in pairs for name, larger in names.items()}

    def measure(self, data: Embedded, embedder: Embedder) -> dict[str, float]:
        """``a_to_b/recall@k``, ``a_to_b/median_rank`` in both directions, and ``n``."""
        ids = torch.tensor(data.ids)
        metrics: dict[str, float] = {}
        for a, b in (self.pair, self.pair[::-1]):
            ranks = retrieval_ranks(data.vectors[a], data.vectors[b], ids, ids)
            metrics |= {f"{a}_to_{b}/{name}": value for name, value in retrieval_metrics(ranks, self.at).items()}
        return metrics | {"n": len(data.keys)}

    def examples(self, data: Embedded, embedder: Embedder, count: int) -> list[Example]:
        """What each of a few queries of the first modality finds in the second."""
        a, b = self.pair
        chosen = torch.linspace(0, len(data.keys) - 1, min(count, len(data.keys))).round().long()
        scores = data.vectors[a][chosen].float() @ data.vectors[b].float().T
        best = scores.topk(min(5, len(data.keys)), dim=1).indices
        words = data.fields.get(f"{RAW}{a}", data.keys)
        return [
            Example(words[i], a, data.keys[i], [data.keys[j] for j in found], "items")
            for i, found in zip(chosen.tolist(), best.tolist(), strict=True)
        ]
