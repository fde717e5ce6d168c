"""Logistic regression on frozen vectors."""

from typing import Annotated

from pydantic import Field

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Findings, Items
from mmcl.evaluators.labelled import (
    Learner,
    Seeds,
    as_numbers,
    check_shots,
    distinct,
    labelled,
    training,
)
from mmcl.evaluators.probing import (
    MAX_ITER,
    SWEEP,
    Inverse,
    Sweep,
    averaged,
    check_probe,
    confused,
    judge_linear,
    probed,
    shown,
)


@EVALUATORS.register("linear_probe")
class LinearProbe(Learner):
    """Linear probe: logistic regression on the unit vectors of training data, tested on the task's.

    Protocol (CLIP's): multinomial logistic regression by scikit-learn's L-BFGS, at most 1,000 steps; its C is the one
    of 97 from 1e-6 to 1e6 that a search from coarse to fine finds best on a held-out part of the training data, here a
    fifth of each class; then all of the training data are fitted with it. Best is the largest accuracy; of those that
    are as good, the smallest loss. A class of a single example keeps it: it is learnt, and has no say in the choice.
    Vectors are used as they are, of length one. Scores in fp32; ties count against the model. Headline: ``acc1``.

    Of several seeds the mean is told; intervals are of other test items, and not of other draws. `details` say of each
    seed which C was chosen and what each one that was tried found (``tried``), whether the choice lies at an end of the
    range, and whether the solver converged.

    Args:
        modality: of the vectors.
        label: field that holds the class, in the task's data and in the training data.
        c: scikit-learn's C (inverse of the weight of |W|^2 / 2 beside the sum of the losses), or the range to choose
            it from: low, high, per_decade, holdout.
        shots: how many training examples of each class are used; all, unless told.
        max_iter: steps that the solver has.
        seeds: of what is held out, and of the shots.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.2
        and appendix A.3. https://arxiv.org/abs/2103.00020
    """

    headline = "acc1"
    score = "logistic regression"

    def __init__(
        self,
        modality: str,
        label: str = "label",
        c: Inverse = SWEEP,
        shots: Annotated[int, Field(ge=1)] | None = None,
        max_iter: Annotated[int, Field(ge=1)] = MAX_ITER,
        seeds: Seeds = [0],  # noqa: B006
    ) -> None:
        if isinstance(c, Sweep):
            c.grid()
            if shots == 1:
                raise MmclError("shots: of one example a class none can be held out to choose C by; give `c`.")
        elif shots is None and seeds != [0]:
            raise MmclError("seeds: nothing is drawn where C is given and all training examples are used.")
        self.modality, self.label, self.c = modality, label, c
        self.shots, self.max_iter, self.seeds = shots, max_iter, distinct(seeds)

    def check(self, items: Items, train: Items | None = None) -> None:
        """Every class must be learnt, and one of them by two examples where C is chosen.

        Raises:
            MmclError: there is nothing to learn from, too little, or a class is never seen.
        """
        train = check_probe(items, train, self.label, self.c)
        if self.shots is not None:
            check_shots(train, self.label, self.shots)

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``acc1``, ``acc5`` where there are five classes, ``mean_per_class_recall``, ``f1_macro``.

        Raises:
            MmclError: the training vectors are not finite, or nothing can be held out.
        """
        self.check(data.items, data.train and data.train.items)
        known = labelled(training(data.train), self.modality, self.label)
        vectors = data.only(self.modality)
        labels = as_numbers(data.items.one(self.label), known.classes)
        figures, fits, first = [], [], None
        for seed in self.seeds:
            used = known if self.shots is None else known.shots(self.shots, seed)
            probe, told = probed(used, self.c, seed, self.max_iter)
            judged = judge_linear(probe, vectors, labels)
            first = first or judged
            figures.append(judged.figures(labels, len(known.classes)))
            fits.append({"seed": seed, "acc1": figures[-1]["acc1"].value, **told})
        assert first is not None
        return Findings(
            averaged(figures),
            shown(data.items, self.modality, first.best, labels, known.classes),
            confused(first.found, labels, known.classes),
            {"converged": all(fit["converged"] for fit in fits), "fits": fits},
        )
