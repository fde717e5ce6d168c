"""Linear probes: logistic regression on unit vectors, its regulariser chosen on a held-out part, and what it finds."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import Confusion, Example, Items, spread
from mmcl.evaluators.classified import class_found, class_ranks, classified, taken_for
from mmcl.evaluators.combined import mean_of
from mmcl.evaluators.figures import Figure
from mmcl.evaluators.labelled import Labelled, check_holdout, check_labels
from mmcl.evaluators.ranking import whole
from mmcl.registry import Spec

MAX_ITER = 1000  # of L-BFGS, as CLIP allows
TOLERANCE = 1e-7  # of the mean loss's gradient; scikit-learn's 1e-4 ends at once where classes are many
DECADES = 2  # of the first steps of a sweep
ROWS = 1024  # items that are scored at once
SHOWN = 10  # examples
FOUND = 3  # classes of an example
CONFUSED = 100  # classes of which confusion is still told
SMALL = 100_000_000  # products of one evaluation of the loss, below which threads wait longer than they work

Score = tuple[float, float]


class Sweep(Spec):
    """Which C are tried. Points lie evenly on a log scale, ``per_decade`` to a factor of ten.

    Every second decade is tried first, then both neighbours of the best at half the step, down to one step. The best
    has the largest accuracy on what is held out; of those that are as good, the smallest mean loss there; and then the
    smallest C.
    """

    low: Annotated[float, Field(gt=0)] = 1e-6
    high: Annotated[float, Field(gt=0)] = 1e6
    per_decade: Annotated[int, Field(ge=1)] = 8
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training examples of each class that the choice is made by."""

    def grid(self) -> list[float]:
        """All points.

        Raises:
            MmclError: the range is empty.
        """
        if self.low >= self.high:
            raise MmclError(f"c: low must lie below high; got {self.low:g} and {self.high:g}.")
        low, high = torch.tensor([self.low, self.high], dtype=torch.float64).log10().tolist()
        steps = max(round((high - low) * self.per_decade), 1)
        return torch.logspace(low, high, steps + 1, dtype=torch.float64).tolist()


SWEEP = Sweep()
Inverse = Annotated[float, Field(gt=0)] | Sweep
"""scikit-learn's C, or the range that it is chosen from."""


def check_probe(items: Items, train: Items | None, label: str, c: float | Sweep) -> Items:
    """Refuse classes that cannot be learnt: each needs an example, and one of them two where C is chosen.

    Returns:
        What is learnt from.

    Raises:
        MmclError: there is nothing to learn from, too little, or a class is never seen.
    """
    train = check_labels(items, train, label)
    if isinstance(c, Sweep):
        check_holdout(train, label)
    return train


class Probe(NamedTuple):
    """A linear classifier."""

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    converged: bool
    iterations: int


class Judged(NamedTuple):
    """What a classifier finds."""

    ranks: Int[Tensor, " items"]  # of the right class, from 1; ties come before it
    found: Int[Tensor, " items"]  # number of a class; a wrong one where the right one ties with it
    best: Int[Tensor, "items few"]  # best classes, best first

    def figures(self, labels: Int[Tensor, " items"], classes: int) -> dict[str, Figure]:
        """Accuracies, recall and F1."""
        return classified(self.ranks, self.found, labels, classes)


def fit_logistic(data: Labelled, c: float, max_iter: int = MAX_ITER) -> Probe:
    """Multinomial logistic regression with an intercept, by scikit-learn's L-BFGS in double precision.

        minimise  C sum_i -log softmax(W x_i + b)_{y_i} + |W|^2 / 2

    With two classes it is scikit-learn's binary one: one vector w, the sigmoid of w x + b, and |w|^2 / 2.

    Args:
        data: every class must occur.
        c: C.
        max_iter: steps that the solver has.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, solver="lbfgs", max_iter=max_iter, tol=TOLERANCE)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with few_threads(data.vectors.numel() * len(data.classes)):
            model.fit(data.vectors.double().numpy(), data.labels.numpy())
    ended = [w for w in told if issubclass(w.category, ConvergenceWarning)]
    for other in told:
        if other not in ended:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    assert model.classes_.tolist() == list(range(len(data.classes))), "a class without an example"
    weight, bias = (torch.as_tensor(x, dtype=torch.float64) for x in (model.coef_, model.intercept_))
    if len(data.classes) == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return Probe(weight.float(), bias.float(), not ended, int(model.n_iter_.max()))


@contextmanager
def few_threads(products: int) -> Iterator[None]:
    """Solve a small problem on one thread.

    Where other work shares the cores, threads that wait for each other in each of thousands of short steps are up to a
    hundred times slower.

    Args:
        products: of one evaluation of the loss.
    """
    from threadpoolctl import threadpool_limits  # slow to import

    if products >= SMALL:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def judge(scores: Float[Tensor, "items classes"], labels: Int[Tensor, " items"]) -> Judged:
    """Rank of the right class, and the class that is found. What is not a number never counts for the model."""
    ranks = class_ranks(scores, labels)
    best = scores.nan_to_num(nan=-torch.inf).topk(min(FOUND, scores.shape[1]), dim=1).indices
    return Judged(ranks, class_found(scores, labels, ranks), best)


def judge_linear(probe: Probe, vectors: Float[Tensor, "items dim"], labels: Int[Tensor, " items"]) -> Judged:
    """What a linear classifier finds; scores in fp32, some items at a time."""
    right, classes = whole(probe.weight), len(probe.weight)
    parts = [
        judge((x.float() @ right.T)[:, :classes] + probe.bias, y)
        for x, y in zip(vectors.split(ROWS), labels.split(ROWS), strict=True)
    ]
    return Judged(*(torch.cat(column) for column in zip(*parts, strict=True)))


def search(points: int, first: int, score: Callable[[int], Score]) -> dict[int, Score]:
    """Points that are tried, from coarse to fine around the best, and the score of each.

    Args:
        points: how many there are.
        first: step between the points of the first round; then it is halved, until it was one.
        score: larger is better, and the first of its numbers counts before the second.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, appendix
        A.3: "a parametric binary search". https://arxiv.org/abs/2103.00020
    """
    tried = {i: score(i) for i in sorted({*range(0, points, first), points - 1})}
    step = first // 2
    while step >= 1:
        peak = best_of(tried)
        for i in (peak - step, peak + step):
            if 0 <= i < points and i not in tried:
                tried[i] = score(i)
        step //= 2
    return dict(sorted(tried.items()))


def best_of(tried: dict[int, Score]) -> int:
    """The best point; of those that are as good, the first."""
    return max(tried, key=lambda i: (tried[i], -i))


def held_out_score(probe: Probe, held: Labelled) -> Score:
    """Accuracy, and minus the mean loss, on what is held out."""
    loss = F.cross_entropy(held.vectors.double() @ probe.weight.double().T + probe.bias.double(), held.labels)
    accuracy = (judge_linear(probe, held.vectors, held.labels).ranks <= 1).double().mean()
    return accuracy.item(), -loss.item()


def probed(data: Labelled, c: float | Sweep, seed: int, max_iter: int = MAX_ITER) -> tuple[Probe, dict[str, Any]]:
    """A probe with the given C, or with the one that is best on a held-out part; then fitted to all of the data.

    Returns:
        The probe; the C, whether the solver converged, and all that was tried.

    Raises:
        MmclError: nothing can be held out.
    """
    if not isinstance(c, Sweep):
        return _told(fit_logistic(data, c, max_iter), c, data, {})
    rest, held = data.held_out(c.holdout, seed)
    grid = c.grid()
    rows: dict[int, dict[str, Any]] = {}

    def score(i: int) -> Score:
        probe = fit_logistic(rest, grid[i], max_iter)
        accuracy, minus_loss = held_out_score(probe, held)
        rows[i] = {"c": grid[i], "accuracy": accuracy, "loss": -minus_loss, "converged": probe.converged}
        return accuracy, minus_loss

    first = 1 << (DECADES * c.per_decade).bit_length() - 1
    tried = search(len(grid), first, score)
    best = best_of(tried)
    more = {"at_edge": best in (0, len(grid) - 1), "held_out_rows": len(held), "tried": [rows[i] for i in tried]}
    return _told(fit_logistic(data, grid[best], max_iter), grid[best], data, more)


def _told(probe: Probe, c: float, data: Labelled, more: dict[str, Any]) -> tuple[Probe, dict[str, Any]]:
    told = {"c": c, "converged": probe.converged, "iterations": probe.iterations, "rows": len(data)}
    return probe, told | more


def averaged(figures: Sequence[dict[str, Figure]]) -> dict[str, Figure]:
    """Means of the same figures over several draws; their units are the items, and not the draws."""
    return {name: mean_of([row[name] for row in figures]) for name in figures[0]}


def shown(
    items: Items, modality: str, best: Int[Tensor, "items few"], labels: Int[Tensor, " items"], classes: list[str]
) -> list[Example]:
    """The best classes of a few items."""
    right, few = labels.tolist(), best.tolist()
    return [
        Example(items.keys[i], modality, [classes[right[i]]], [classes[j] for j in few[i]], "labels")
        for i in spread(len(items), SHOWN)
    ]


def confused(found: Int[Tensor, " items"], labels: Int[Tensor, " items"], classes: Sequence[str]) -> Confusion | None:
    """What was taken for what, where there are few enough classes to look at."""
    if len(classes) > CONFUSED:
        return None
    return Confusion(list(classes), taken_for(labels, found, len(classes)).tolist())
