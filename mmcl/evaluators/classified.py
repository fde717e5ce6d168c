"""Figures of classification, from the rank of each item's class."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmcl.evaluators.figures import Figure, group_sums, macro, mean


def classified(
    ranks: Int[Tensor, " items"],
    found: Int[Tensor, " items"],
    labels: Int[Tensor, " items"],
    classes: int,
    at: Sequence[int] = (1, 5),
) -> dict[str, Figure]:
    """Accuracies at k, mean recall of the classes and mean F1 of the classes. Units are items.

        acc_k = mean_i [rank_i <= k]
        mean_per_class_recall = mean_c mean_{i of c} [rank_i <= 1]          (balanced accuracy)
        f1_macro = mean_c 2 TP_c / (2 TP_c + FP_c + FN_c)

    A recall is a mean over the classes that occur; F1 over those that occur or are found. ``acc{k}`` is left out where
    there are fewer than k classes, and so nothing to find.

    Args:
        ranks: of the right class, from 1; classes that tie with it come before it.
        found: number of the class that was found; a wrong one where the right one ties with it.
        labels: number of the right class.
        classes: how many there are.
        at: the k.
    """
    right = ranks <= 1
    figures = {f"acc{k}": mean(ranks <= k) for k in at if k <= classes}
    figures["mean_per_class_recall"] = macro(right, labels, classes)
    figures["f1_macro"] = _f1(found, labels, classes)
    return figures


def _f1(found: Int[Tensor, " items"], labels: Int[Tensor, " items"], classes: int) -> Figure:
    hit = (found == labels).double()

    def statistic(w: Tensor) -> Float[Tensor, " times"]:
        hits, true, said = (group_sums(*x, classes) for x in ((w * hit, labels), (w, labels), (w, found)))
        there = true + said > 0
        return torch.where(there, 2 * hits / (true + said), 0).sum(1) / there.sum(1)

    return Figure(statistic, len(labels), int(torch.cat([found, labels]).unique().numel()))
