"""Figures of a classification. A tie counts against the model."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmcl.evaluators.figures import Figure, Weights, group_sums, macro, mean
from mmcl.evaluators.ranking import less

BINS = 15  # of confidences


def class_ranks(scores: Float[Tensor, "items classes"], labels: Int[Tensor, " items"]) -> Int[Tensor, " items"]:
    """Rank, from 1, of the right class of each item; what is not a number counts as the highest of the others."""
    right = scores.gather(1, labels[:, None])
    return scores.shape[1] - less(scores, right)  # the right class itself makes it start at 1


def class_found(
    scores: Float[Tensor, "items classes"], labels: Int[Tensor, " items"], ranks: Int[Tensor, " items"]
) -> Int[Tensor, " items"]:
    """The class that each item was taken for: the best one; in a tie with the right one, another."""
    found = scores.argmax(1)  # torch takes what is not a number for the largest
    tied = ((found == labels) & (ranks > 1)).nonzero()[:, 0]
    if len(tied):
        found[tied] = scores[tied].scatter(1, labels[tied, None], -torch.inf).argmax(1)
    return found


def taken_for(
    labels: Int[Tensor, " items"], found: Int[Tensor, " items"], classes: int
) -> Int[Tensor, "classes classes"]:
    """How often items of one class (row) were taken for another (column)."""
    return torch.bincount(labels * classes + found, minlength=classes**2).view(classes, classes)


def classified(
    ranks: Int[Tensor, " items"],
    found: Int[Tensor, " items"],
    labels: Int[Tensor, " items"],
    classes: int,
    at: Sequence[int] = (1, 5),
) -> dict[str, Figure]:
    """``acc1``, ``acc5``, ``mean_per_class_recall`` and ``f1_macro``.

    The mean of the classes' recalls is over those that occur (balanced accuracy); the mean of their F1 is over those
    that occur or were found.

    Args:
        ranks: of the right class of each item, from 1.
        found: the class that each item was taken for.
        labels: the right one.
        classes: how many there are.
        at: the k of accuracy at k; where there are fewer classes it says nothing and is left out.
    """
    right = ranks <= 1
    figures = {f"acc{k}": mean(ranks <= k) for k in at if k <= classes}
    figures["mean_per_class_recall"] = macro(right.double(), labels, classes)
    figures["f1_macro"] = f1_macro(right, found, labels, classes)
    return figures


def f1_macro(
    right: Bool[Tensor, " items"], found: Int[Tensor, " items"], labels: Int[Tensor, " items"], classes: int
) -> Figure:
    r"""Mean over classes of :math:`2 TP / (2 TP + FP + FN)`. Arguments: see `classified`."""

    def statistic(w: Weights) -> Tensor:
        true, said, hit = (group_sums(x, of, classes) for x, of in ((w, labels), (w, found), (w * right, labels)))
        there = true + said > 0
        return torch.where(there, 2 * hit / (true + said), 0).sum(1) / there.sum(1)

    return Figure(statistic, len(labels), int(torch.cat([labels, found]).unique().numel()))


def calibration_error(confidence: Float[Tensor, " items"], right: Bool[Tensor, " items"], bins: int = BINS) -> Figure:
    r"""Expected calibration error over bins of equal width.

    .. math:: \mathrm{ECE} = \sum_b \frac{|B_b|}{n} \bigl| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \bigr|

    Args:
        confidence: probability of the class that was found, in [0, 1].
        right: whether it is the right one.
        bins: how many, each without its lower end.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Eq. 3. https://arxiv.org/abs/1706.04599
    """
    gap = right.double() - confidence.double()
    bin_of = (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)

    def statistic(w: Weights) -> Tensor:
        return group_sums(w * gap, bin_of, bins).abs().sum(1) / w.sum(1)

    return Figure(statistic, len(right), len(right))


def mean_average_precision(scores: Float[Tensor, "items classes"], belongs: Bool[Tensor, "items classes"]) -> Figure:
    r"""Mean over classes of the average precision of each one's items, not interpolated.

    .. math:: \mathrm{AP} = \frac{1}{P} \sum_{i \in P} \frac{|\{j \in P : s_j \ge s_i\}|}{|\{j : s_j \ge s_i\}|}

    (where no two scores are equal; of equal ones, what does not belong stands first). Classes to which nothing belongs
    have no average precision and do not count.
    """
    ordered = []
    for c in range(scores.shape[1]):
        mine = belongs[:, c]
        s = torch.where(scores[:, c].isnan(), torch.where(mine, -torch.inf, torch.inf), scores[:, c])
        order = mine.long().argsort(stable=True)  # what does not belong first
        ordered.append(order[s[order].argsort(descending=True, stable=True)])

    def statistic(w: Weights) -> Tensor:
        w = w.double()
        total, there = torch.zeros(len(w)).double(), torch.zeros(len(w)).double()
        for c, order in enumerate(ordered):
            found, mine = w[:, order], belongs[order, c].double()
            positives = found * mine
            before, wrong = found.cumsum(1) - found, (found * (1 - mine)).cumsum(1)
            # copies of one item follow each other: the sum over them of (t + j) / (n + j), in closed form
            more = torch.digamma(before + positives + 1) - torch.digamma(before + 1)
            precision = torch.where(mine > 0, positives - wrong * more, 0).sum(1)
            count = positives.sum(1)
            total += torch.where(count > 0, precision / count, 0)
            there += count > 0
        return total / there

    return Figure(statistic, len(scores), int(belongs.any(0).sum()))
