"""A probe that learns from one modality, tested on another."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Findings, Items
from mmcl.evaluators.combined import combined
from mmcl.evaluators.figures import Figure
from mmcl.evaluators.labelled import (
    METRICS,
    Labelled,
    Seeds,
    as_numbers,
    distinct,
    labelled,
    training,
)
from mmcl.evaluators.probing import SWEEP, Inverse, Sweep, averaged, check_probe, confused, judge_linear, probed, shown


@EVALUATORS.register("transfer")
class Transfer(Evaluator):
    """Cross-modal transfer: how well a probe that learnt from one modality works on another, as `CLOSE` does it.

    Protocol: logistic regression (as in `linear_probe`) learns the classes of the training items from their vectors of
    the source modality, and is tested on the test items' vectors of the target modality. Source vectors x may be moved
    by the difference of both modalities' means over the training data, and noise may be added:

        x' = (x + mean_target - mean_source + noise e) / |...|,     e ~ N(0, 1) in each dimension

    C is chosen by held-out source vectors that were changed in the same way: nothing of the target modality is looked
    at but its mean, where that is asked for. The same probe that learns from the training items' target vectors is the
    upper bound. Figures: those of the transfer; ``same_modality/acc1`` of the upper bound; ``fidelity`` = acc1 /
    same_modality/acc1, and ``gap`` = same_modality/acc1 - acc1. Headline: ``acc1``.

    Means over seeds; intervals are of other test items. `details` say of each fit which C was chosen, what each one
    that was tried found, and whether the solver converged.

    Args:
        source: modality that is learnt from; an item may have several vectors of it (captions).
        target: modality that is tested.
        label: field that holds the class, in the task's data and in the training data.
        c: scikit-learn's C, or the range to choose it from: low, high, per_decade, holdout.
        noise: standard deviation in each dimension; none, unless told (the paper: 0.04 to 0.12 at 768 dimensions).
        copies: how many noisy copies of each source vector are learnt from.
        shift: whether source vectors are moved.
        seeds: of what is held out, and of the noise.

    Reference:
        Gu, Clark and Kembhavi, "I Can't Believe There's No Images! Learning Visual Tasks Using only Language
        Supervision", ICCV 2023, section 3. https://arxiv.org/abs/2211.09778
    """

    headline = "acc1"
    score = "logistic regression"

    def __init__(
        self,
        source: str,
        target: str,
        label: str = "label",
        c: Inverse = SWEEP,
        noise: Annotated[float, Field(gt=0)] | None = None,
        copies: Annotated[int, Field(ge=1)] = 1,
        shift: bool = False,
        seeds: Seeds = [0],  # noqa: B006
    ) -> None:
        if source == target:
            raise MmclError(f"transfer: two modalities are needed; got {source} twice (linear_probe tests one).")
        if noise is None and copies > 1:
            raise MmclError("copies: without noise they are all the same; leave it out, or give `noise`.")
        if isinstance(c, Sweep):
            c.grid()
        elif noise is None and seeds != [0]:
            raise MmclError("seeds: nothing is drawn where C is given and no noise is added.")
        self.source, self.target, self.label, self.c = source, target, label, c
        self.noise, self.copies, self.shift, self.seeds = noise, copies, shift, distinct(seeds)

    def modalities(self) -> list[str]:
        """What is tested."""
        return [self.target]

    def trained_on(self) -> list[str]:
        """What is learnt from; the target for the upper bound."""
        return [self.source, self.target]

    def fields(self) -> list[str]:
        """The classes."""
        return [self.label]

    def metrics(self) -> dict[str, bool]:
        """Shares of what is right, and how they compare with the upper bound."""
        return {**METRICS, "same_modality/acc1": True, "fidelity": True, "gap": False}

    def check(self, items: Items, train: Items | None = None) -> None:
        """Every class must be learnt, and one of them by two examples where C is chosen.

        Raises:
            MmclError: there is nothing to learn from, too little, or a class is never seen.
        """
        check_probe(items, train, self.label, self.c)

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``acc1`` and its kin, ``same_modality/acc1``, ``fidelity`` and ``gap``.

        Raises:
            MmclError: the training vectors are not finite.
        """
        self.check(data.items, data.train and data.train.items)
        train = training(data.train)
        known, bound = (labelled(train, m, self.label) for m in (self.source, self.target))
        vectors, labels = data.only(self.target), as_numbers(data.items.one(self.label), known.classes)
        by_seed, fits, first = [], [], None
        for seed in self.seeds:
            both = []
            for learnt_from, used in ((self.source, self._changed(known, bound, seed)), (self.target, bound)):
                probe, told = probed(used, self.c, seed)
                judged = judge_linear(probe, vectors, labels)
                both.append(judged.figures(labels, len(known.classes)))
                fits.append({"seed": seed, "from": learnt_from, "acc1": both[-1]["acc1"].value, **told})
                first = first or judged
            by_seed.append({**both[0], "same_modality/acc1": both[1]["acc1"]})
        assert first is not None
        figures = averaged(by_seed)
        return Findings(
            figures | compared(figures["acc1"], figures["same_modality/acc1"]),
            shown(data.items, self.target, first.best, labels, known.classes),
            confused(first.found, labels, known.classes),
            self._details(known, bound, fits),
        )

    def _changed(self, known: Labelled, bound: Labelled, seed: int) -> Labelled:
        """Source vectors as they are learnt from."""
        x = known.vectors
        if self.shift:
            x = x + _shift(known, bound)
        if self.noise is not None:
            x = x.repeat_interleave(self.copies, 0)
            x = x + self.noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        labels, unit = (column.repeat_interleave(self.copies) for column in (known.labels, known.unit))
        return Labelled(F.normalize(x, dim=-1), labels, unit, known.classes)

    def _details(self, known: Labelled, bound: Labelled, fits: list[dict[str, Any]]) -> dict[str, Any]:
        distance = _shift(known, bound).norm().item()
        return {"converged": all(fit["converged"] for fit in fits), "distance_of_means": distance, "fits": fits}


def compared(cross: Figure, same: Figure) -> dict[str, Figure]:
    """``fidelity``, the share of the upper bound that is reached (not a number where that is zero), and ``gap``."""
    both = [cross, same]
    return {
        "fidelity": combined(lambda v: torch.where(v[1] > 0, v[0] / v[1], torch.nan), both),
        "gap": combined(lambda v: v[1] - v[0], both),
    }


def _shift(known: Labelled, bound: Labelled) -> Float[Tensor, " dim"]:
    """Difference of both modalities' means."""
    return bound.vectors.double().mean(0).float() - known.vectors.double().mean(0).float()
