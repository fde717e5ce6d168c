"""Classification by the nearest training vectors."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Findings, Items
from mmcl.evaluators.labelled import Labelled, Learner, as_numbers, check_labels, labelled, training
from mmcl.evaluators.probing import Judged, confused, judge, shown
from mmcl.evaluators.ranking import whole

CELLS = 1 << 25  # similarities that are held at once


@EVALUATORS.register("knn")
class NearestNeighbours(Learner):
    """k nearest neighbours: the k training vectors with the largest cosine vote for their classes.

        votes_c = sum over the k neighbours j of class c of exp(s_j / T)        (each counts once where T is none)

    Protocol (Wu's, DINO's): k = 20, T = 0.07. Scores in fp32, votes in double precision. Ties count against the model:
    a class that has as many votes as the right one comes before it, a class without a vote ties with all others that
    have none; and where training vectors as near as the k-th are more than there is room for, each other class is
    compared with the right one in the choice among them that is worst for the right one. Headline: ``acc1``.

    Args:
        modality: of the vectors; a training item that has several takes part with each.
        label: field that holds the class, in the task's data and in the training data.
        k: neighbours that vote.
        temperature: T of a vote's weight; none for plain majority.

    Reference:
        Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.4.
        https://arxiv.org/abs/1805.01978; Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
        ICCV 2021, section 4.1. https://arxiv.org/abs/2104.14294
    """

    headline = "acc1"
    score = "votes of the nearest by cosine"

    def __init__(
        self,
        modality: str,
        label: str = "label",
        k: Annotated[int, Field(ge=1)] = 20,
        temperature: Annotated[float, Field(gt=0)] | None = 0.07,
    ) -> None:
        self.modality, self.label, self.k, self.temperature = modality, label, k, temperature

    def check(self, items: Items, train: Items | None = None) -> None:
        """There must be k neighbours, and every class among the training data.

        Raises:
            MmclError: there is nothing to learn from, too little, or a class is never seen.
        """
        train = check_labels(items, train, self.label)
        if self.modality not in train.texts:
            self._enough(len(train))

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``acc1``, ``acc5`` where there are five classes, ``mean_per_class_recall``, ``f1_macro``.

        Raises:
            MmclError: the training vectors are not finite, or fewer than k.
        """
        self.check(data.items, data.train and data.train.items)
        known = labelled(training(data.train), self.modality, self.label)
        self._enough(len(known))
        labels = as_numbers(data.items.one(self.label), known.classes)
        judged = nearest(data.only(self.modality), labels, known, self.k, self.temperature)
        return Findings(
            judged.figures(labels, len(known.classes)),
            shown(data.items, self.modality, judged.best, labels, known.classes),
            confused(judged.found, labels, known.classes),
            {"train_rows": len(known)},
        )

    def _enough(self, rows: int) -> None:
        if rows < self.k:
            raise MmclError(f"k: {self.k} neighbours are asked for, and there are {rows} training vectors.")


def nearest(
    vectors: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    known: Labelled,
    k: int,
    temperature: float | None,
) -> Judged:
    """What the neighbours of each item find.

    Args:
        vectors: unit vectors.
        labels: the right classes.
        known: unit vectors of known classes, k or more.
        k: neighbours that vote.
        temperature: of their weights.
    """
    rows, right = max(CELLS // len(known), 1), whole(known.vectors)
    parts = [
        _judge((x.float() @ right.T)[:, : len(known)], y, known, k, temperature)
        for x, y in zip(vectors.split(rows), labels.split(rows), strict=True)
    ]
    return Judged(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _judge(
    cosines: Float[Tensor, "items train"],
    labels: Int[Tensor, " items"],
    known: Labelled,
    k: int,
    temperature: float | None,
) -> Judged:
    near, who = cosines.topk(k, dim=1)
    last = near[:, -1:]
    weight = _weight(near, temperature)
    sure = near > last
    votes = _by_class(torch.where(sure, weight, 0), known.labels[who], len(known.classes))
    tied = _by_class((near == last).double(), known.labels[who], len(known.classes))
    crowded = (cosines >= last).sum(1) > k
    if crowded.any():
        as_near = (cosines[crowded] == last[crowded]).double()
        tied[crowded] = _by_class(as_near, known.labels.expand_as(as_near), len(known.classes))
    room = k - sure.sum(1, keepdim=True)
    each = weight[:, -1:]
    right = labels[:, None]
    most = votes + each * torch.minimum(tied, room)
    others = tied.sum(1, keepdim=True) - tied.gather(1, right)
    least = votes.gather(1, right) + each * (room - others).clamp(min=0)
    votes = most.scatter(1, right, least)
    return judge(votes.masked_fill(cosines.isnan().any(1, keepdim=True), torch.nan), labels)


def _weight(near: Float[Tensor, "items k"], temperature: float | None) -> Float[Tensor, "items k"]:
    """Weights of votes, each relative to that of the nearest."""
    if temperature is None:
        return torch.ones_like(near, dtype=torch.float64)
    return ((near - near[:, :1]).double() / temperature).exp()


def _by_class(
    values: Float[Tensor, "items some"], label: Int[Tensor, "items some"], classes: int
) -> Float[Tensor, "items classes"]:
    return values.new_zeros(len(values), classes).scatter_add_(1, label, values)
