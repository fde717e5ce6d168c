"""A head that says whether an anchor and a tuple belong together, taught on what is easily confused (GRAM)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.losses.base import Features, Score, ScorePart
from mmcl.losses.chunks import by_rows
from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer
from mmcl.losses.scores import cosine
from mmcl.losses.scores.unit import unit
from mmcl.losses.temperature import Positive
from mmcl.registry import Part
from mmcl.types import Embeddings

COSINE = cosine.SCORES.check("cosine")


@REGULARIZERS.register("matching")
class Matching(Regularizer, nn.Module):
    r"""Binary cross-entropy of a small head on own tuples and on drawn ones.

    .. math:: \frac1n\sum_i \Bigl[\tfrac12 \zeta(-h(t_i, X_i)) + \tfrac14 \zeta(h(t_i, X_{j(i)}))
              + \tfrac14 \zeta(h(t_{k(i)}, X_i))\Bigr], \quad \zeta(z) = \log(1 + e^z)

    j(i) is drawn for each anchor, and k(i) for each tuple, from the softmax of the scores over the temperature, without
    what shows the same thing. The draws depend on the run's seed, the step and the row, on nothing else: one uniform
    number a row and the inverse of the cumulative softmax. The head sees the anchor's unit vector, the mean of the
    others' and the product of the two by coordinates (whose sum is the mean cosine); then linear, GELU, layer norm,
    linear. So its weights fit any number of modalities.

    Use when: beside `gram` or another contrast, where its hardest negatives should count more.
    Cost: for the draws, the scores of all pairs twice, without gradient, some rows at a time; for the head
        O(rows x dim x hidden).
    Range: [0, inf); log 2 at chance.
    Differs from the paper: its head is a cross-attention encoder over all tokens of the towers, this one sees their
        embeddings; the positives weigh as much as both kinds of negatives; no 1e-4 is added to the softmax.
    Related: `hard_negative`.

    Args:
        anchor: the modality whose rows are told from one another.
        others: the modalities of the tuple; all but the anchor where nothing is said. Rows that lack one do not count.
        hidden: width of the head.
        score: by which negatives are drawn.
        temperature: of the draws; smaller draws harder ones.
        dim: width of the embeddings.

    Reference:
        Cicchetti et al., "Gramian Multimodal Representation Learning and Alignment", ICLR 2025, the data-anchor
        matching loss (https://arxiv.org/abs/2412.11959).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> matching = Matching("text", dim=4)
        >>> bool(matching(Embeddings.single({"text": torch.randn(6, 4), "image": torch.randn(6, 4)})) > 0.3)
        True
    """

    least = 2

    def __init__(
        self,
        anchor: str = "text",
        others: list[str] | None = None,
        hidden: Annotated[int, Field(ge=1)] = 256,
        score: ScorePart = COSINE,
        temperature: Positive = 0.07,
        *,
        dim: int,
    ) -> None:
        super().__init__()
        self.score: Score = _without_weights(score)
        if anchor in (others or []):
            raise MmclError(f"matching: others: {anchor!r} is the anchor.")
        self.anchor, self.others, self.temperature, self.dim = anchor, others, temperature, dim
        self.head = nn.Sequential(nn.Linear(3 * dim, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, 1))

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings
        names = self.others or [m for m in e.modalities if m != self.anchor]
        if len(names) < self.score.least or (self.score.most or len(names)) < len(names):
            raise MmclError(f"objective: matching: the score does not take {len(names)} modalities beside the anchor.")
        valid = torch.stack([e.present[m] for m in (self.anchor, *names)]).all(0)
        anchors, others = unit(e.all[self.anchor]), torch.stack([unit(e.all[m]) for m in names]).mean(0)
        if anchors.shape[1] != self.dim:
            raise MmclError(
                f"objective: matching has a head for {self.dim} coordinates; embeddings have {anchors.shape[1]}."
            )
        j, k = self._drawn(e, names, valid)
        counted, j, k = valid[e.own] & (j >= 0), j.clamp(min=0), k.clamp(min=0)
        right = self._head(anchors[e.own], others[e.own])
        wrong_tuple, wrong_anchor = self._head(anchors[e.own], others[j]), self._head(anchors[k], others[e.own])
        # a row has nothing to draw from only where all rows have nothing, so both kinds weigh the same
        losses = F.softplus(-right) / 2 + F.softplus(wrong_tuple) / 4 + F.softplus(wrong_anchor) / 4
        return torch.where(counted, losses, 0.0).sum() / valid.sum().clamp(min=1)

    def _head(self, anchors: Float[Tensor, "rows dim"], others: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
        """Logits. Unit vectors and their products are brought to the size of one a coordinate."""
        root = self.dim**0.5
        seen = torch.cat([anchors * root, others * root, anchors * others * self.dim], 1)
        return self.head(seen.to(next(self.head.parameters()).dtype)).squeeze(1)

    @torch.no_grad()
    def _drawn(
        self, e: Embeddings, names: list[str], valid: Bool[Tensor, " all_batch"]
    ) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """For each of this process's anchors a tuple that is not its own, and for each tuple an anchor; -1 for none."""
        anchors = self.score.anchors(e.all[self.anchor])
        tuples = self.score.candidates([e.all[m] for m in names])
        ids = e.ids[e.own]
        draws = torch.rand(valid.shape[0], 2, generator=e.generator(*b"matching"))
        uniform = 1 - draws.to(valid.device, non_blocking=True)[e.own]  # above zero, and one at most

        def drawn(which: int, rows: Features, columns: Features) -> Int[Tensor, " batch"]:
            def one(part: slice, mine: Features, everyone: Features) -> Tensor:
                scores = self.score.tile(everyone, mine).T if which else self.score.tile(mine, everyone)
                out = ~valid | (ids[part, None] == e.ids)
                z = (scores / self.temperature).masked_fill(out, -float("inf"))
                p = (z - z.amax(1, keepdim=True).nan_to_num(neginf=0.0)).exp()
                sums = p.cumsum(1)
                found = (sums < uniform[part, which, None] * sums[:, -1:]).sum(1).clamp(max=p.shape[1] - 1)
                # a rounded sum may point to what has no part in it
                found = torch.where(p.gather(1, found[:, None]).squeeze(1) > 0, found, p.argmax(1))
                return found.masked_fill(out.all(1), -1)

            return by_rows(one, tuple(f[e.own] for f in rows), columns).long()

        return drawn(0, anchors, tuples), drawn(1, tuples, anchors)


def _without_weights(part: Part) -> Score:
    score = part.build()
    if isinstance(score, nn.Module):
        raise MmclError(f"matching: score: {part.name} has weights, which nothing would train here.")
    return score
