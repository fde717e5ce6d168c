"""Hard negatives that nobody has: mixtures of the hardest ones (MoCHi)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmcl.losses.matrix import Candidates, Matrix
from mmcl.losses.negatives.base import NEGATIVES, Negatives
from mmcl.losses.scores.unit import unit
from mmcl.losses.statistics import INFINITY

CHUNK = 256  # rows whose mixtures exist at once


@NEGATIVES.register("mixed")
class Mixed(Negatives):
    r"""Mixtures of each row's hardest negatives are negatives too.

    .. math:: h = \frac{\alpha n_a + (1 - \alpha) n_b}{\lVert\cdot\rVert},\; \alpha \sim U(0, 1); \qquad
              h' = \frac{\beta q + (1 - \beta) n_a}{\lVert\cdot\rVert},\; \beta \sim U(0, \tfrac12)

    with negatives a, b drawn from the row's N hardest of the batch, and the row's own vector q. The mixtures carry no
    gradient.

    Use when: batches are small, data are clean, and the loss is near zero early; from some hundred steps on
        (`from_step`).
    Cost: one walk for the hardest; rows x (mixtures) scores, made some hundred rows at a time.
    Differs from the paper: the hardest are the batch's (its queue is `queue`). Mixtures with the row itself, h', cross
        the gap between modalities, so there are none unless `with_query` says so.
    Related: `hard_negative` weighs what is there.

    Args:
        hardest: N, how many of each row's hardest negatives are mixed.
        count: mixtures of two negatives, a row.
        with_query: mixtures with the row itself, a row.

    Reference:
        Kalantidis et al., "Hard Negative Mixing for Contrastive Learning", NeurIPS 2020, Eq. 5 and 6
        (https://arxiv.org/abs/2010.01028).

    Example:
        >>> Mixed(hardest=64, count=16).with_query
        0
    """

    def __init__(
        self,
        hardest: Annotated[int, Field(ge=1)] = 64,
        count: Annotated[int, Field(ge=0)] = 32,
        with_query: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        self.hardest, self.count, self.with_query = hardest, count, with_query

    def more(self, matrix: Matrix, forward: bool) -> Sequence[Candidates | Float[Tensor, "rows drawn"]]:
        """Logits of this process's rows with their mixtures; -inf for rows that have no negative."""
        e, own = matrix.e, matrix.e.own
        (m,), (q,) = matrix.modalities(forward), matrix.searching(forward)
        with torch.no_grad():
            hard = matrix.hardest(forward, self.hardest)
            pool, queries = unit(e.all[m].detach()), unit(e.all[q].detach())[own]
        drawn = torch.rand(
            3, self.count + self.with_query, e.ids.shape[0], generator=e.generator(matrix.number, int(forward))
        )
        drawn = drawn[:, :, own].to(pool.device, pool.dtype, non_blocking=True).transpose(1, 2)

        def chunk(part: slice) -> Tensor:
            return self._scores(matrix, forward, part, self._mixtures(pool, queries[part], hard[part], drawn[:, part]))

        starts = range(0, hard.shape[0], CHUNK)
        parts = [checkpoint(chunk, slice(r, min(r + CHUNK, hard.shape[0])), use_reentrant=False) for r in starts]
        scores = torch.cat([pool.new_empty(0, drawn.shape[2]), *parts]) * matrix.scale
        scores = scores if matrix.bias is None else scores + matrix.bias
        return [scores.masked_fill((hard < 0).all(1, keepdim=True), -INFINITY)]

    def _mixtures(
        self,
        pool: Float[Tensor, "all_batch dim"],
        queries: Float[Tensor, "rows dim"],
        hard: Int[Tensor, "rows hardest"],
        drawn: Float[Tensor, "3 rows mixtures"],
    ) -> Float[Tensor, "rows mixtures dim"]:
        """Unit vectors between two of the hardest, or between one of them and the row itself."""
        count = (hard >= 0).sum(1, keepdim=True).clamp(min=1)  # the hardest stand in front, what is missing behind
        first = (drawn[0] * count).long().clamp(max=hard.shape[1] - 1)
        second = (first + 1 + (drawn[1] * (count - 1)).long()) % count
        one, other = (pool[hard.clamp(min=0).gather(1, place)] for place in (first, second))
        share = drawn[2].clone()
        share[:, self.count :] *= 0.5
        other = torch.cat([other[:, : self.count], one[:, self.count :]], 1)
        itself = queries[:, None].expand(-1, self.with_query, -1)
        one = torch.cat([one[:, : self.count], itself], 1)
        made = share[..., None] * one + (1 - share[..., None]) * other
        return unit(made.flatten(0, 1)).view_as(made)

    def _scores(
        self, matrix: Matrix, forward: bool, part: slice, mixtures: Float[Tensor, "rows mixtures dim"]
    ) -> Float[Tensor, "rows mixtures"]:
        rows = tuple(f[part].repeat_interleave(mixtures.shape[1], 0) for f in matrix.rows(forward))
        return matrix.paired(forward, rows, [mixtures.flatten(0, 1)]).view(mixtures.shape[:2])
