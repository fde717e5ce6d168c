"""Swapped prediction of balanced assignments (SwALIP)."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import Features
from mmcl.losses.chunks import by_rows
from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, at_least_two, over_pairs
from mmcl.losses.scores.unit import unit
from mmcl.losses.temperature import Positive
from mmcl.losses.views import ModalityPairs
from mmcl.types import Embeddings


@REGULARIZERS.register("swapped")
class Swapped(Regularizer):
    r"""Predict from one pair of views who goes with whom in another, by a balanced assignment of the batch.

    .. math:: -\frac1n\sum_{ij} Q_{ij} \log \operatorname{softmax}_j(x_i^\top y_j/\tau), \quad
              Q_{ij} = e^{x_i'^\top y_j'/\varepsilon + f_i + g_j}

    over unit vectors. Q has no gradient. f and g come from Sinkhorn's iterations, which bring the sums of the columns
    and then those of the rows to one, some times over; both directions and all pairs are averaged. The primes are the
    swap: further views (`views: {image: image.2, text: text.2}`), for all of x'y', xy, x'y and xy', or where there are
    none the other direction: what y's assignment to x, columns last, gives to each x.

    Use when: pairs are loose (one caption fits several pictures): rows may share their mass where InfoNCE forbids it.
    Cost: 2 x iterations products (rows, dim) x (dim, rows) a direction and view pair without gradient, and six with;
        some rows at a time. Only f and g are kept.
    Range: [0, inf).
    Differs from the paper: it has prototypes in its first form and only pairs of two augmented views in the second; the
        swap of directions for a single view is ours. Its temperature is the one learned by the contrast, here it is
        fixed, so the assignments alone cannot sharpen it.
    Related: `clusters`; `uniformity` balances without assignments.

    Args:
        temperature: of the prediction.
        epsilon: of the assignment; smaller is harder.
        iterations: of Sinkhorn.
        views: of each modality, another copy.
        pairs: of modalities; all where nothing is said.

    Reference:
        Fini et al., "Improved baselines for vision-language pre-training", TMLR 2023, SwALIP
        (https://arxiv.org/abs/2305.08675); after Caron et al., "Unsupervised Learning of Visual Features by Contrasting
        Cluster Assignments", NeurIPS 2020, Eq. 2 to 5 (https://arxiv.org/abs/2006.09882).

    Example:
        >>> x = torch.eye(4)
        >>> Swapped(temperature=1.0, epsilon=0.01)(Embeddings.single({"a": x, "b": x})).round(decimals=4)
        tensor(0.7437)
    """

    least = 2

    def __init__(
        self,
        temperature: Positive = 0.1,
        epsilon: Annotated[float, Field(gt=0)] = 0.05,
        iterations: Annotated[int, Field(ge=1)] = 3,
        views: dict[str, str] | None = None,
        pairs: ModalityPairs | None = None,
    ) -> None:
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.views, self.pairs = views or {}, pairs

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings

        def value(a: str, b: str, both: Bool[Tensor, " all_batch"]) -> Tensor:
            first, second = ([m, self.views[m]] if m in self.views else [m] for m in (a, b))
            there = torch.stack([both, *(e.present[m] for m in (*first, *second))]).all(0)
            xs, ys = ([unit(e.all[m]) for m in views] for views in (first, second))
            alone, losses = len(xs) == len(ys) == 1, []
            for i, x in enumerate(xs):
                for j, y in enumerate(ys):
                    x2, y2 = xs[-1 - i].detach(), ys[-1 - j].detach()  # the other copy, where there is one
                    losses.append(self._one(e, (x, y), (x2, y2), there, alone))
                    losses.append(self._one(e, (y, x), (y2, x2), there, alone))
            return torch.stack(losses).mean()

        return over_pairs(e, self.pairs, value)

    def _one(
        self, e: Embeddings, said: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], there: Tensor, alone: bool
    ) -> Float[Tensor, ""]:
        """One direction: rows predict their assignment to columns."""
        seen, (x, y), (mine, yours) = at_least_two(there), said, (other[0][e.own], other[1])
        # of a single view the other direction says who goes with whom: its rows, which are the columns here, come last
        if alone:
            g, f = self._balanced(e, other[1], other[0], seen)
        else:
            f, g = self._balanced(e, *other, seen)
        f = f[e.own]

        def entropy(part: slice, rows: Features, columns: Features) -> Tensor:
            z = (rows[0] @ columns[0].T / self.temperature).masked_fill(~seen, -float("inf"))
            q = (mine[part] @ yours.T / self.epsilon + f[part, None] + g).exp()
            return -torch.where(seen, q * z.log_softmax(1), 0.0).sum(1)

        losses = torch.where(there[e.own] & (there.sum() >= 2), by_rows(entropy, (x[e.own],), (y,)), 0.0)
        return losses.sum() / there.sum().clamp(min=1)

    @torch.no_grad()
    def _balanced(
        self, e: Embeddings, x: Tensor, y: Tensor, seen: Bool[Tensor, " all_batch"]
    ) -> tuple[Float[Tensor, " all_batch"], Float[Tensor, " all_batch"]]:
        """What is added to the logits of rows and of columns by Sinkhorn's iterations; the rows come last."""

        def to_one(rows: Tensor, columns: Tensor, dual: Tensor) -> Tensor:
            """Makes the sums of rows one. Every process makes its own, and learns of the others'."""
            mine = by_rows(
                lambda _, r, c: -(r[0] @ c[0].T / self.epsilon + dual).logsumexp(1), (rows[e.own],), (columns,)
            )
            return e.everyone(torch.where(seen[e.own], mine, 0.0)).masked_fill(~seen, -float("inf"))

        f = g = torch.zeros_like(x[:, 0]).masked_fill(~seen, -float("inf"))
        for _ in range(self.iterations):
            g = to_one(y, x, f)
            f = to_one(x, y, g)
        return f, g
