"""Associations of one set of things with another, as a measure of social bias."""

from math import comb
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Findings, Items
from mmcl.evaluators.figures import Figure, group_means, group_sums
from mmcl.registry import Spec

CELLS = 1_000_000  # numbers that a permutation test holds at once
DIGITS = 12  # of associations, which lie between -2 and 2; what differs less is equal but for rounding


class Chosen(Spec):
    """Items of the data, by the value of a field."""

    modality: str
    field: str
    values: Annotated[list[str], Field(min_length=1)]


Texts = Annotated[list[str], Field(min_length=1)]
Group = Texts | Chosen
"""Prompts, or items of the data."""


@EVALUATORS.register("weat")
class WEAT(Evaluator):
    r"""Embedding association test: do targets X lean to attributes A, and Y to B, more than the other way round?

    The association of a target is :math:`s(w) = \frac{1}{|A|}\sum_a \cos(w, a) - \frac{1}{|B|}\sum_b \cos(w, b)`. The
    effect size is :math:`d = (\bar s_X - \bar s_Y) / \sigma`, with :math:`\sigma` the standard deviation of s over all
    targets, X and Y together, with n - 1 below: so in the code of May et al., on which later tests build; the paper
    does not say. Of sets of one size it lies between -2 and 2; 0 is no association, and its sign says in which
    direction one is. ``difference`` is what is above the line: an effect can be large on associations that hardly
    differ.

    p, in the details, is one-sided: the share of ways to split the targets into sets of these sizes of which the
    difference is as large or larger. All are tried if there are at most `permutations`; otherwise as many are drawn,
    and p is (1 + those) / (1 + drawn). It is a number about all resamples, and has no interval of its own.

    Protocol: targets and attributes are prompts or items, so that it works across modalities: pictures of people as
    targets, occupations as prompts. Items with equal ids are one target, with the mean of their associations. Intervals
    are over targets; the attributes are held fixed.
    Headline: ``effect_size``; nearer to 0 is better, which "smaller" cannot say.

    Args:
        targets: X and Y.
        attributes: A and B.
        prompts: modality of the prompts.
        permutations: most splits that are tried.
        seed: of those that are drawn.

    Reference:
        Caliskan et al., "Semantics derived automatically from language corpora contain human-like biases", Science
        2017, supplement (https://arxiv.org/abs/1608.07187); Steed and Caliskan, "Image Representations Learned With
        Unsupervised Pre-Training Contain Human-like Biases", FAccT 2021 (iEAT, https://arxiv.org/abs/2010.15052); Ross
        et al., "Measuring Social Biases in Grounded Vision and Language Embeddings", NAACL 2021
        (https://arxiv.org/abs/2002.08911), across modalities; May et al., "On Measuring Social Biases in Sentence
        Encoders", NAACL 2019 (https://arxiv.org/abs/1903.10561).
    """

    headline = "effect_size"

    def __init__(
        self,
        targets: tuple[Group, Group],
        attributes: tuple[Group, Group],
        prompts: str = "text",
        permutations: Annotated[int, Field(ge=100)] = 10_000,
        seed: int = 0,
    ) -> None:
        self.targets, self.attributes = targets, attributes
        self.prompts, self.permutations, self.seed = prompts, permutations, seed
        self.chosen = [group for group in (*targets, *attributes) if isinstance(group, Chosen)]
        for name, (first, second) in (("targets", targets), ("attributes", attributes)):
            twice = _both(first, second)
            if twice:
                raise MmclError(f"weat: both {name} name {', '.join(twice)}; the two must differ.")

    def modalities(self) -> list[str]:
        """Those of items."""
        return list(dict.fromkeys(group.modality for group in self.chosen))

    def metrics(self) -> dict[str, bool]:
        """The effect and the difference; 0 is best of both."""
        return {"effect_size": False, "difference": False}

    def fields(self) -> list[str]:
        """By which items are chosen."""
        return list(dict.fromkeys(group.field for group in self.chosen))

    def prompted(self) -> list[str]:
        """What prompts are made of, if there are any."""
        return [self.prompts] if len(self.chosen) < 4 else []

    def check(self, items: Items, train: Items | None = None) -> None:
        """Every set must have members, and each of the targets two different ones.

        Raises:
            MmclError: one has not, or a thing is a target of both kinds.
        """
        for group in self.chosen:
            _members(group, items)
        first, second = (self._names(group, items) for group in self.targets)
        for side, names in (("first", first), ("second", second)):
            if len(set(names)) < 2:
                raise MmclError(f"weat: the {side} targets need two different members at least; there is {len(names)}.")
        both = set(first) & set(second)
        if both:
            raise MmclError(f"weat: items of {len(both)} ids are targets of both kinds.")

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """Effect and difference; p, and how it was found, in the details."""
        self.check(data.items)
        a, b = (self._vectors(group, data, embedder) for group in self.attributes)
        apart = a.mean(0) - b.mean(0)
        x, y = (
            _by_name(self._vectors(group, data, embedder) @ apart, self._names(group, data.items))
            for group in self.targets
        )
        if not (x.isfinite().all() and y.isfinite().all()):
            raise MmclError("weat: an association is not finite: a vector is broken.")
        details: dict[str, Any] = {
            "p": permutation_p(x, y, self.permutations, self.seed),
            "exact": comb(len(x) + len(y), len(x)) <= self.permutations,
            "targets": [len(x), len(y)],
            "attributes": [len(a), len(b)],
            "associations": [x.mean().item(), y.mean().item()],
        }
        return Findings({"effect_size": effect_size(x, y), "difference": difference(x, y)}, details=details)

    def _names(self, group: Group, items: Items) -> list[str]:
        """What each member of a set is, so that equal names are one thing."""
        if isinstance(group, Chosen):
            return [f"id {i}" for i in items.ids[_members(group, items)].tolist()]
        return [f"text {text}" for text in group]

    def _vectors(self, group: Group, data: Embedded, embedder: Embedder) -> Float[Tensor, "members dim"]:
        if isinstance(group, Chosen):
            return data.only(group.modality)[_members(group, data.items)].double()
        return embedder.embed(self.prompts, group).double()


def effect_size(x: Float[Tensor, " first"], y: Float[Tensor, " second"]) -> Figure:
    """Difference of the means of associations over their standard deviation (n - 1) in both together.

    The units are the targets, those of the first set before those of the second. Without any spread it is NaN.

    Args:
        x: associations of the first targets.
        y: of the second.
    """
    s = torch.cat([x, y]).double()
    apart = difference(x, y)

    def statistic(w: Tensor) -> Tensor:
        w = w.double()
        n = w.sum(1)
        middle = (w @ s / n)[:, None]
        variance = (w * (s - middle).square()).sum(1) / (n - 1)
        sigma = variance.sqrt()
        return torch.where(sigma > 10.0**-DIGITS, apart.statistic(w) / sigma, torch.nan)

    return Figure(statistic, len(s), len(s))


def difference(x: Float[Tensor, " first"], y: Float[Tensor, " second"]) -> Figure:
    """Difference of the means of associations. Arguments and units: see `effect_size`."""
    s = torch.cat([x, y]).double()
    group = torch.tensor([0] * len(x) + [1] * len(y))

    def statistic(w: Tensor) -> Tensor:
        means = group_means(w.double(), s, group, 2)[0]
        return means[:, 0] - means[:, 1]

    return Figure(statistic, len(s), len(s))


def permutation_p(
    x: Float[Tensor, " first"], y: Float[Tensor, " second"], permutations: int = 10_000, seed: int = 0
) -> float:
    """Share of splits of both, of these sizes, whose means differ by as much or more in the same direction.

    All splits if there are at most `permutations`; otherwise (1 + those) / (1 + drawn), so that it is never 0.

    Args:
        x: numbers of the first set.
        y: of the second.
        permutations: most splits that are tried.
        seed: of those that are drawn.

    Reference:
        Caliskan et al. 2017 (see `WEAT`), where equal differences do not count; here they do, which is cautious.
        Phipson and Smyth, "Permutation P-values should never be zero", 2010 (https://arxiv.org/abs/1603.05766).
    """
    from scipy.stats import permutation_test

    found = permutation_test(
        (x.double().numpy(), y.double().numpy()),
        lambda a, b, axis: (a.mean(axis) - b.mean(axis)).round(DIGITS),
        n_resamples=permutations,
        batch=max(CELLS // (len(x) + len(y)), 1),
        alternative="greater",
        vectorized=True,
        rng=seed,
    )
    return float(found.pvalue)


def _members(group: Chosen, items: Items) -> Int[Tensor, " members"]:
    """Numbers of the items that a set chooses.

    Raises:
        MmclError: there is none of a value.
    """
    said = items.one(group.field)
    missing = [value for value in group.values if value not in said]
    if missing:
        known = ", ".join(sorted(set(said))[:10])
        raise MmclError(f"weat: no item has {', '.join(missing)} in {group.field}; there are: {known}.")
    return torch.tensor([i for i, value in enumerate(said) if value in group.values])


def _by_name(s: Float[Tensor, " members"], names: list[str]) -> Float[Tensor, " different"]:
    """Mean over members that are the same thing, in the order of their first."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of = torch.tensor([number[name] for name in names])
    sums, counts = (group_sums(v[None], of, len(number))[0] for v in (s, torch.ones_like(s)))
    return sums / counts


def _both(first: Group, second: Group) -> list[str]:
    """What two sets have in common by what is said of them."""
    if isinstance(first, Chosen) and isinstance(second, Chosen):
        same = (first.modality, first.field) == (second.modality, second.field)
        return sorted(set(first.values) & set(second.values)) if same else []
    if isinstance(first, Chosen) or isinstance(second, Chosen):
        return []
    return sorted(set(first) & set(second))
