"""Targets of rows that are mixtures of two (mixup, CutMix): both rows' counterparts, by their weights."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.matrix import Matrix


class Target(NamedTuple):
    """Expected logit under each row's target, and the sum of the target's weights."""

    logit: Float[Tensor, " rows"]
    mass: Float[Tensor, " rows"]


def targets(matrix: Matrix, own: Float[Tensor, " rows"]) -> tuple[Target, Target]:
    """Targets of this process's rows, and of its columns, where one of the two are mixtures.

    A mixture asks for its own counterpart and for its partner's, and both ask for it by the same weights. A partner
    that lacks one of the two has no counterpart: its weight falls away. Only the anchor, or a candidate of one
    modality, may be mixtures (`TermSpec.takes_mixed`).

    Args:
        matrix: the scores.
        own: scores of this process's rows with their own candidates.
    """
    e, edge = matrix.e, matrix.edge
    mixed = next(m for m in (edge.anchor, *edge.others) if m in e.mixed)
    valid, partner = matrix.anchors_there & matrix.tuples_there, e.mixed[mixed].partner
    weight = e.mixed[mixed].weight.to(own.dtype)
    mine, other = torch.where(valid, weight, 0.0), torch.where(valid & valid[partner], 1 - weight, 0.0)
    if matrix.drop_same:  # a partner that shows the same thing is no candidate but one's own
        same = e.ids == e.ids[partner]
        mine, other = torch.where(same, mine + other, mine), torch.where(same, 0.0, other)
    rows = mixed == edge.anchor
    anchors, tuples = matrix.anchors, matrix.tuples
    if rows:
        scores = matrix.score.pairs(anchors, tuple(f[partner] for f in tuples))
    else:
        scores = matrix.score.pairs(tuple(f[partner] for f in anchors), tuples)
    expected = other * scores

    def target(more: Float[Tensor, " all_batch"], mass: Float[Tensor, " all_batch"]) -> Target:
        z = (mine[e.own] * own + more[e.own]) * matrix.scale
        mass = (mine + mass)[e.own]
        return Target(z if matrix.bias is None else z + matrix.bias * mass, mass)

    back = [torch.zeros_like(x).index_add(0, partner, x) for x in (expected, other)]
    asking, asked = target(expected, other), target(*back)
    return (asking, asked) if rows else (asked, asking)
