"""Score matrices as an earlier model had them (Mod-X)."""

from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.base import Features
from mmcl.losses.chunks import by_rows
from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, at_least_two
from mmcl.losses.regularizers.distillation import Teachers, taught
from mmcl.losses.scores.unit import unit
from mmcl.losses.temperature import Positive
from mmcl.losses.views import ModalityPairs
from mmcl.types import Embeddings

TIE = 1e-6  # of cosines, which rounding alone sets apart


@REGULARIZERS.register("score_matrix")
class ScoreMatrix(Regularizer):
    r"""What a row says of all candidates, the wrong ones too, as an earlier model said it, where that was right.

    .. math:: \frac1n\sum_{i \in R} \sum_j q_{ij} \log\frac{q_{ij}}{p_{ij}}, \quad
              p_{ij} = \operatorname{softmax}_j(x_i^\top y_j / \tau), \;
              q_{ij} = \operatorname{softmax}_j(x_i'^\top y_j' / \tau)

    with the unit vectors x', y' of the earlier model and the rows R for which it ranked no wrong candidate above the
    right one (others would be replaced by the current row, which adds nothing). Both directions and all pairs are
    averaged.

    Use when: a model goes on to train on new data and should keep what it knew of the old.
    Cost: two products (rows, dim) x (dim, rows) a direction, some rows at a time, and once more in backward.
    Range: [0, inf).
    Differs from the paper: both directions, where it takes the rows of one; one temperature for both models; what shows
        the same thing (equal keys) is not wrong. The formula is from memory and was derived again.
    Related: `structure` keeps a modality's own likenesses.

    Args:
        teachers: names of the earlier model's vectors among the extras, by modality; two or more, of one width.
        temperature: of both softmaxes; that of the earlier model is a good choice.
        pairs: of modalities; all that have teachers where nothing is said.

    Reference:
        Ni et al., "Continual Vision-Language Representation Learning with Off-Diagonal Information", ICML 2023, the
        spatial alignment of Mod-X (https://arxiv.org/abs/2305.07437).

    Example:
        >>> x, y = torch.randn(2, 6, 4)
        >>> e = Embeddings.single({"a": x, "b": y}, extras={"old.a": x, "old.b": y})
        >>> ScoreMatrix({"a": "old.a", "b": "old.b"})(e)  # nothing has changed
        tensor(0.)
    """

    least = 2

    def __init__(self, teachers: Teachers, temperature: Positive = 0.07, pairs: ModalityPairs | None = None) -> None:
        if len(teachers) < 2:
            raise MmclError(f"score_matrix: teachers: it compares two modalities; got {list(teachers)}.")
        for m in [m for pair in pairs or [] for m in pair if m not in teachers]:
            raise MmclError(f"score_matrix: pairs: {m!r} has no teacher.")
        self.teachers, self.temperature, self.pairs = teachers, temperature, pairs

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings
        old = {m: taught(e, m, name) for m, name in self.teachers.items()}
        widths = {self.teachers[m]: t.shape[1] for m, (t, _) in old.items()}
        if len(set(widths.values())) > 1:
            raise MmclError(f"objective: score_matrix: the earlier model's vectors are of one width; got {widths}.")
        values = []
        for a, b in self.pairs or combinations(self.teachers, 2):
            both = old[a][1] & old[b][1]
            for anchor, other in ((a, b), (b, a)):
                new = unit(e.all[anchor]), unit(e.all[other])
                kl = self._divergence(e, new, (old[anchor][0], old[other][0]), at_least_two(both))
                kl = torch.where(both[e.own] & (both.sum() >= 2), kl, 0.0)
                values.append(kl.sum() / both.sum().clamp(min=1))
        return torch.stack(values).mean()

    def _divergence(
        self, e: Embeddings, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor], there: Bool[Tensor, " all_batch"]
    ) -> Float[Tensor, " batch"]:
        """Of this process's rows."""
        (x, y), (mine, yours), ids = new, (old[0][e.own], old[1]), e.ids[e.own]
        own = (mine * yours[e.own]).sum(-1)

        def one(part: slice, rows: Features, columns: Features) -> Tensor:
            scores = (mine[part] @ yours.T).to(x.dtype)
            wrong = there & (ids[part, None] != e.ids)
            right = own[part] >= scores.masked_fill(~wrong, -float("inf")).amax(1) - TIE
            q, p = (
                (s / self.temperature).masked_fill(~there, -float("inf")).log_softmax(1)
                for s in (scores, rows[0] @ columns[0].T)
            )
            return torch.where(right, torch.where(there, q.exp() * (q - p), 0.0).sum(1), 0.0)

        return by_rows(one, (x[e.own],), (y,))
