"""A linear classifier that starts from the prompts of the classes, and learns from a few examples of each."""

from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Findings, Items
from mmcl.evaluators.labelled import (
    Labelled,
    Learner,
    Seeds,
    as_numbers,
    check_labels,
    check_shots,
    distinct,
    labelled,
    listed,
    training,
)
from mmcl.evaluators.probing import (
    MAX_ITER,
    TOLERANCE,
    Probe,
    averaged,
    confused,
    few_threads,
    held_out_score,
    judge_linear,
    shown,
)
from mmcl.evaluators.prompts import ClassVectors, Read, names_of, no_files, prompts_of, templates_of
from mmcl.registry import Spec

FOLDS = 5  # of the shots, at most, to choose the pull by
METRICS = ("acc1", "mean_per_class_recall")

Pull = Annotated[float, Field(gt=0)]


class Fit(Spec):
    """How the classifier learns."""

    pull: Pull | Annotated[list[Pull], Field(min_length=2)] = 0.1
    """Weight of the distance from the start; of several, the one that is best in cross-validation among the shots."""
    scale: Annotated[float, Field(gt=0)] = 100.0
    """Of cosines, to make logits: the inverse of the temperature that the model was trained with."""
    max_iter: Annotated[int, Field(ge=1)] = MAX_ITER


FIT = Fit()
Shots = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


@EVALUATORS.register("few_shot")
class FewShot(Learner):
    """Few-shot classification that starts from the zero-shot classifier.

    With k training vectors x of each of K classes, class vectors w0 of the prompts (the mean of a class's unit prompt
    vectors, made a unit vector again) and the scale s:

        minimise over w   mean_i -log softmax(s w x_i)_{y_i} + pull / (2 K) sum_c |s w_c - s w0_c|^2

    Protocol: for every k and seed, k different things of each class are drawn (those of a smaller k are among those of
    a larger), and the minimum, which is the only one, is found by L-BFGS in double precision from w0 on. No shot at
    all is the zero-shot classifier. Of several pulls the one is taken that is right most often in cross-validation
    among the shots, in as many folds as there are shots, and at most five; of those that are as good, the one with the
    smallest loss, and then the strongest. Nothing beyond the shots is looked at. Scores in fp32; ties count against the
    model. Headline: ``acc1`` of the most shots, ``16_shot/acc1``.

    Figures are means over the seeds; intervals are of other test items, and not of other draws. `details` say of each
    draw its accuracy, its pull, and whether the solver converged.

    Args:
        modality: of the vectors.
        classes: label in the data -> the name to prompt with, or names or a file, as `zeroshot` takes them; training
            data must show all of them.
        templates: prompts with ``{c}`` where the class's name goes, as `zeroshot` takes them.
        shots: the k.
        label: field that holds the class, in the task's data and in the training data.
        prompts: modality of the prompts.
        fit: pull, scale and max_iter.
        seeds: of the shots.

    Reference:
        Li et al., "ELEVATER: A Benchmark and Toolkit for Evaluating Language-Augmented Visual Models", NeurIPS 2022
        (language-augmented initialisation). https://arxiv.org/abs/2204.08790; the pull towards the start: Li,
        Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018
        (L2-SP). https://arxiv.org/abs/1802.01483
    """

    score = "cosine with class vectors that are learnt"

    def __init__(  # noqa: PLR0913 - each is a choice of the task's
        self,
        modality: str,
        classes: dict[str, str] | list[str] | str,
        templates: dict[str, list[str]] | list[str] | str,
        shots: Shots = [1, 2, 4, 8, 16],  # noqa: B006
        label: str = "label",
        prompts: str = "text",
        fit: Fit = FIT,
        seeds: Seeds = [0, 1, 2],  # noqa: B006
        *,
        read: Read = no_files,
    ) -> None:
        self.classes = names_of(classes, read)
        if len(self.classes) < 2:
            raise MmclError("few_shot: two classes or more are needed.")
        self.prompts_of_classes = prompts_of(self.classes, templates_of(templates, read), None, read)
        if sorted(set(shots)) != shots:
            raise MmclError(f"shots: each once, from few to many; got {shots}.")
        if isinstance(fit.pull, list) and shots[0] == 1:
            raise MmclError("fit.pull: of one shot none can be held out to choose by; give one pull, or leave 1 out.")
        self.modality, self.shots = modality, shots
        self.label, self.prompts, self.fit, self.seeds = label, prompts, fit, distinct(seeds)
        self.headline = f"{shots[-1]}_shot/acc1"

    def prompted(self) -> list[str]:
        """What prompts are made of."""
        return [self.prompts]

    def metrics(self) -> dict[str, bool]:
        """Shares of what is right, of every number of shots, none included."""
        return {f"{k}_shot/{name}": True for k in (0, *self.shots) for name in METRICS}

    def check(self, items: Items, train: Items | None = None) -> None:
        """All labels must be among the classes, and each class must have the shots.

        Raises:
            MmclError: they are not, it has not, or there is nothing to learn from.
        """
        train = check_labels(items, train, self.label)
        unknown = sorted(set(train.one(self.label)) - set(self.classes))
        if unknown:
            raise MmclError(f"{self.label}: labels of the data that are not among the classes: {listed(unknown)}.")
        check_shots(train, self.label, self.shots[-1], list(self.classes))

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``k_shot/acc1`` and ``k_shot/mean_per_class_recall``, from ``0_shot`` on.

        Raises:
            MmclError: the training vectors are not finite.
        """
        self.check(data.items, data.train and data.train.items)
        known = labelled(training(data.train), self.modality, self.label, list(self.classes))
        vectors, labels = data.only(self.modality), as_numbers(data.items.one(self.label), known.classes)
        start = ClassVectors(self.prompts_of_classes, embedder, self.prompts).unit()
        judged, figures, fits = judge_linear(_linear(start), vectors, labels), {}, []
        of_none = judged.figures(labels, len(known.classes))
        figures |= {f"0_shot/{name}": of_none[name] for name in METRICS}
        for k in self.shots:
            draws = []
            for number, seed in enumerate(self.seeds):
                learnt, told = _learn(known.shots(k, seed), start, self.fit, seed)
                found = judge_linear(_linear(learnt.weight), vectors, labels)
                draws.append(found.figures(labels, len(known.classes)))
                fits.append({"shots": k, "seed": seed, "acc1": draws[-1]["acc1"].value, **told})
                judged = found if number == 0 else judged
            figures |= {f"{k}_shot/{name}": figure for name, figure in averaged(draws).items() if name in METRICS}
        return Findings(
            figures,
            shown(data.items, self.modality, judged.best, labels, known.classes),
            confused(judged.found, labels, known.classes),
            {"converged": all(fit["converged"] for fit in fits), "fits": fits},
        )


class Learnt(NamedTuple):
    """A linear classifier without intercept."""

    weight: Float[Tensor, "classes dim"]  # in units of the start's unit vectors
    converged: bool


def fit_from(
    data: Labelled, start: Float[Tensor, "classes dim"], pull: float, scale: float, max_iter: int = MAX_ITER
) -> Learnt:
    """The minimum that `FewShot` describes, in double precision.

    It is found as d = s (w - w0), from zero on, where the logits are s w0 x + d x and the pull is |d|^2.

    Args:
        data: what is learnt from.
        start: class vectors w0.
        pull: weight of the distance from them.
        scale: s.
        max_iter: steps that the solver has.
    """
    x, classes = data.vectors.double(), len(start)
    base = scale * x @ start.double().T
    d = torch.zeros(start.shape, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [d],
        max_iter=max_iter,
        max_eval=2 * max_iter,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(base + x @ d.T, data.labels) + pull / (2 * classes) * d.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad(), few_threads(x.numel() * classes):
        solver.step(objective)
        objective()
    assert d.grad is not None
    return Learnt((start.double() + d.detach() / scale).float(), bool(d.grad.abs().max() <= TOLERANCE))


def _learn(data: Labelled, start: Tensor, fit: Fit, seed: int) -> tuple[Learnt, dict[str, Any]]:
    """The classifier, with the pull that is given or found best; and what was tried."""
    if not isinstance(fit.pull, list):
        learnt = fit_from(data, start, fit.pull, fit.scale, fit.max_iter)
        return learnt, {"pull": fit.pull, "converged": learnt.converged}
    fold = data.places(seed) % min(FOLDS, int(data.sizes().min()))
    tried = []
    for pull in fit.pull:
        row = {"pull": pull, "accuracy": 0.0, "loss": 0.0}
        for number in fold.unique().tolist():
            learnt = fit_from(data.where(fold != number), start, pull, fit.scale, fit.max_iter)
            held = data.where(fold == number)
            accuracy, minus_loss = held_out_score(_linear(fit.scale * learnt.weight), held)
            row["accuracy"] += accuracy * len(held) / len(data)
            row["loss"] -= minus_loss * len(held) / len(data)
        tried.append(row)
    best = max(tried, key=lambda row: (round(row["accuracy"] * len(data)), -row["loss"], row["pull"]))["pull"]
    learnt = fit_from(data, start, best, fit.scale, fit.max_iter)
    return learnt, {"pull": best, "converged": learnt.converged, "tried": tried}


def _linear(weight: Float[Tensor, "classes dim"]) -> Probe:
    return Probe(weight, weight.new_zeros(len(weight)), True, 0)
