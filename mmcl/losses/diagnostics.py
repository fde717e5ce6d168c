"""What a person looks at while a model trains: where the embeddings lie, and which term moves them."""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.objective import Objective
from mmcl.losses.scores.unit import unit
from mmcl.losses.transforms.base import with_vectors
from mmcl.types import Embeddings

FEW = 256  # rows whose singular values are computed


@torch.no_grad()
def diagnostics(embeddings: Embeddings, most: int = 512) -> dict[str, Float[Tensor, ""]]:
    r"""Geometry of the first rows of a batch; every process computes the same numbers.

    By modality: ``uniformity``, :math:`\log` of the mean of :math:`e^{-2\lVert x_i - x_j\rVert^2}` (0 at collapse,
    -4 for unrelated vectors), and ``effective_rank``, :math:`e^{H(\sigma/\sum\sigma)}` of the singular values of
    the first 256 rows (1 at collapse, at most the width). What is not defined is NaN. By pair: ``alignment``, the
    mean squared distance of what belongs together; ``gap``, the distance of the two modalities' means; and the
    means over rows of the cosine with the own candidate (``positive``) and with the best other one
    (``hardest_negative``).

    Args:
        embeddings: the gathered record of a step.
        most: rows that are looked at.

    Reference:
        Wang and Isola, ICML 2020, Eq. 4 and 5 (https://arxiv.org/abs/2005.10242); Roy and Vetterli, "The effective
        rank", EUSIPCO 2007, Eq. 4; Liang et al., "Mind the Gap", NeurIPS 2022 (https://arxiv.org/abs/2203.02053).

    Example:
        >>> found = diagnostics(Embeddings.single({"a": torch.eye(4), "b": torch.eye(4)}))
        >>> round(found["a/effective_rank"].item(), 3), round(found["a-b/positive"].item(), 3)
        (4.0, 1.0)
    """
    x = {m: unit(embeddings.all[m][:most]) for m in embeddings.modalities}
    there = {m: embeddings.present[m][:most] for m in x}
    found: dict[str, Tensor] = {}
    for m, rows in x.items():
        both = there[m][:, None] & there[m][None, :]
        both.fill_diagonal_(False)
        potential = torch.where(both, (4 * (rows @ rows.T) - 4).exp(), 0.0)
        found[f"{m}/uniformity"] = (potential.sum() / both.sum()).log()
        seen = torch.where(there[m][:FEW, None], rows[:FEW], 0.0)
        values = torch.linalg.svdvals(seen.nan_to_num(0.0, 0.0, 0.0))  # what is broken stops at the loss, not here
        found[f"{m}/effective_rank"] = torch.special.entr(values / values.sum()).sum().exp()
    for a, b in combinations(x, 2):
        valid = there[a] & there[b]
        cosines = x[a] @ x[b].T
        own = cosines.diagonal()
        apart = cosines.masked_fill(~valid[None, :], -1.0).fill_diagonal_(-1.0).amax(1)
        means = [torch.where(valid[:, None], v, 0.0).sum(0) / valid.sum() for v in (x[a], x[b])]
        found[f"{a}-{b}/alignment"] = _mean(2 - 2 * own, valid)
        found[f"{a}-{b}/gap"] = torch.linalg.vector_norm(means[0] - means[1])
        found[f"{a}-{b}/positive"] = _mean(own, valid)
        found[f"{a}-{b}/hardest_negative"] = torch.where(valid.sum() >= 2, _mean(apart, valid), float("nan"))
    return found


def gradient_norms(objective: Objective, embeddings: Embeddings) -> dict[str, Float[Tensor, ""]]:
    """Norm of the gradient of each weighted term with respect to all embeddings, over the global batch.

    Computed apart from training, by one more pass through the objective (not the towers), so it is for steps that are
    logged. Every process must call it.

    Args:
        objective: the terms.
        embeddings: the gathered record of a step.
    """
    leaves = {m: x.detach().to(torch.promote_types(x.dtype, torch.float32)) for m, x in embeddings.all.items()}
    leaves = {m: x.requires_grad_() for m, x in leaves.items()}
    record = with_vectors(embeddings, leaves)
    norms: dict[str, Tensor] = {}
    for title, term in objective:
        if term.spec.active(embeddings.step):
            with torch.enable_grad():
                part = term(record) * term.spec.weight_at(embeddings.step)
            # of a zero that depends on nothing there is no gradient
            grads = torch.autograd.grad(part, list(leaves.values()), allow_unused=True) if part.requires_grad else ()
            squares = [embeddings.total(g).square().sum() for g in grads if g is not None]
            norms[title] = torch.stack([*squares, part.new_zeros(())]).sum().sqrt().detach()
    return norms


def _mean(values: Float[Tensor, " rows"], valid: Tensor) -> Float[Tensor, ""]:
    return torch.where(valid, values, 0.0).sum() / valid.sum()
