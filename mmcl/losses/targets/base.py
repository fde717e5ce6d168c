"""What targets must offer: who is positive in a row, and how much."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.guide import Guide, Vectors
from mmcl.losses.line import Extra, looked_up
from mmcl.losses.scores.unit import unit
from mmcl.losses.statistics import INFINITY, Statistic
from mmcl.losses.views import Edge
from mmcl.registry import Part, Registry
from mmcl.types import Embeddings

By = Annotated[str | dict[str, str], Extra(held=True)]
"""Whose similarities: a name of `Embeddings.extras` (or a modality itself, held still), or one for each modality."""


class Targets:
    """Who is positive in a row, and how much: a row's own candidate alone, unless a subclass says more."""

    shared: ClassVar[bool] = False
    """Whether every candidate that shows the same thing is a positive."""

    def weights(self, embeddings: Embeddings) -> Float[Tensor, " all_batch"] | None:
        """Weight of each row's loss; all 1 where None."""
        return None


TARGETS: Registry[Targets] = Registry("targets")
TargetsPart = Annotated[SerializeAsAny[Part], PlainValidator(TARGETS.check)]


class SoftTargets(Targets):
    r"""A distribution over the candidates, from similarities that the loss does not move.

    .. math:: q_i = (1 - \alpha)\,\mathbb{1}_i + \alpha\, w_i, \quad w_{ij} \propto e^{b_{ij}}

    A subclass says the log-weights b of similarities. Rows that have no vector keep their own candidate as the target,
    and candidates that have none are in nobody's target but their own row's.

    Args:
        by: whose similarities: a name among the extras, such as `teacher.image`, or a modality, whose own embeddings
            are held still: cosines of the rows with one another, the same in both directions. Or a mapping of each
            modality to a name: cosines between the modalities, as an averaged model sees them.
        alpha: mass that is taken from the row's own candidate.
        toward: modality whose candidates the soft targets are for; the other direction keeps `identity`. Both
            directions where nothing is said.
    """

    def __init__(self, by: By, alpha: Annotated[float, Field(ge=0, le=1)] = 1.0, toward: str | None = None) -> None:
        self.by, self.alpha, self.toward = by, alpha, toward

    def known(self) -> Mapping[str, Statistic]:
        """What must be known of each row's similarities with the others before they can be weighted.

        That with its own candidate is always known, as ``own``.
        """
        return {}

    @abstractmethod
    def log_weights(
        self, t: Float[Tensor, "..."], known: Mapping[str, Float[Tensor, "..."]], own: bool
    ) -> Float[Tensor, "..."]:
        """Log-weights of cosines: of the others, or of a row's own candidate."""

    def expected(
        self,
        z: Float[Tensor, " rows"],
        others: Float[Tensor, "rows 2"],
        guide: Guide,
        rows: slice,
        forward: bool,
    ) -> Float[Tensor, " rows"]:
        """Expected logit under each row's target.

        Args:
            z: logits of the own candidates.
            others: mean logit of the others under their weights, and the log of the sum of these (`Expected`).
            guide: of all rows.
            rows: which of them are asked.
            forward: whether the rows or the columns are asked.
        """
        v = guide.vectors
        known = {name: x[rows] for name, x in (guide.by_row if forward else guide.by_column).items()}
        there = v.row_there[rows] & v.column_there[rows]
        weight = self.log_weights((v.rows[rows] * v.columns[rows]).sum(1), known, own=True).to(z.dtype)
        mean, log = others.unbind(1)
        own = torch.sigmoid(weight - log)  # its share of all weights
        own = torch.where(there & (log > -INFINITY), own, 1.0).detach()
        return z + self.alpha * (1 - own) * (mean - z)


def vectors(e: Embeddings, by: By, edge: Edge) -> Vectors:
    """Unit vectors of all rows of an edge's anchors and of its candidates, without gradient.

    Raises:
        MmclError: a name is not known, or `by` says nothing of a modality.
    """
    if isinstance(by, dict):
        sides = (edge.anchor, *edge.others)
        if len(sides) > 2 or any(m not in by for m in sides):
            raise MmclError(f"`by` must name vectors of {' and '.join(sides)}, two modalities; it names {by}.")
        one, other = (by[m] for m in sides)
    else:
        one = other = by
    rows, columns = looked_up(e, one), looked_up(e, other)
    if rows.shape[1] != columns.shape[1]:
        raise MmclError(f"`by`: {by} have widths {rows.shape[1]} and {columns.shape[1]}; they must be equal.")
    return Vectors(unit(rows), unit(columns), e.present[one], e.present[other])
