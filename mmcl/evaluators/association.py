"""Pick the pictures that go with a cue."""

from math import comb
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Example, Findings, Items, spread
from mmcl.evaluators.candidates import counted, pair_scores, part, words
from mmcl.evaluators.figures import mean
from mmcl.types import modality_of

SHOWN = 10  # examples


@EVALUATORS.register("association")
class Association(Evaluator):
    """WinoGAViL: of some pictures, the k that go with a cue.

    Columns of the data: one value an item for ``query`` (``text``, the cue as it is to be embedded: WinoGAViL's code
    writes "A cue", or "An cue" before a vowel); pictures that belong to it as ``image``, ``image.2``, ``image.3``, ...;
    the others as ``image.wrong``, ``image.wrong.2``, .... An item is one sample, and fills as many columns as it has
    pictures: all but the first of both kinds are named in ``data.optional``.

    Protocol: k, the number of pictures that belong, is known; the k pictures with the largest cosine are picked (P),
    and compared with those that belong (A):

        jaccard = mean over items of |A and P| / |A or P|

    At a tie those that do not belong are picked first; what belongs and is not a number is never picked, what does not
    belong and is not a number is picked first. Chance is the mean over items of what a draw of k out of all n gives,
    the sum over j of C(k, j) C(n-k, k-j) / C(n, k) * j / (2k - j). Intervals draw items.

    Headline: ``jaccard`` of the last range of ``sizes``, as DataComp quotes ``jaccard/10-12``; of all items where there
    are no ranges.

    Args:
        query: column of the cue.
        right: columns of what belongs to it.
        wrong: columns of what does not.
        sizes: ranges of numbers of candidates, both ends included; each has a figure of its own, ``jaccard/10-12``.
        candidates: a field that says how many candidates an item has; one that lacks some, such as a picture that
            could not be read, is refused instead of being made easier.

    Raises:
        MmclError: a column is named twice, or a range is none or is there twice.

    Reference:
        Bitton et al., "WinoGAViL: Gamified Association Benchmark to Challenge Vision-and-Language Models", NeurIPS
        2022. https://arxiv.org/abs/2207.12576
        Gadre et al., "DataComp", NeurIPS 2023; its eval_utils/wino_eval.py. https://arxiv.org/abs/2304.14108
    """

    partial = True  # items have fewer pictures than there are columns

    def __init__(
        self,
        right: list[str],
        wrong: list[str],
        query: str = "text",
        sizes: list[tuple[int, int]] = [],  # noqa: B006
        candidates: str | None = None,
    ) -> None:
        names = [query, *right, *wrong]
        if len(set(names)) < len(names) or not right or not wrong:
            raise MmclError(f"query, right and wrong must be different columns, one of each at least; got {names}.")
        for low, high in sizes:
            if not 2 <= low <= high:
                raise MmclError(f"sizes: [{low}, {high}] is no range of numbers of candidates, of which there are two.")
        if len(set(sizes)) < len(sizes):
            raise MmclError("sizes: a range is there twice.")
        self.right, self.wrong, self.query, self.candidates = right, wrong, query, candidates
        self.sizes = {f"jaccard/{low}-{high}": (low, high) for low, high in sizes}
        self.headline = ["jaccard", *self.sizes][-1]

    def modalities(self) -> list[str]:
        """Columns of the cue and the pictures."""
        return [self.query, *self.right, *self.wrong]

    def fields(self) -> list[str]:
        """The number of candidates, where the data say it."""
        return [] if self.candidates is None else [self.candidates]

    def metrics(self) -> dict[str, bool]:
        """Jaccard indices, of which larger is better."""
        return dict.fromkeys(["jaccard", *self.sizes], True)

    def check(self, items: Items, train: Items | None = None) -> None:
        """The numbers of candidates are numbers.

        Raises:
            MmclError: one is not.
        """
        if self.candidates is not None:
            for key, said in zip(items.keys, items.one(self.candidates), strict=True):
                if not said.isdecimal():
                    raise MmclError(
                        f"item {key}: {self.candidates} says {said!r}, where a number of candidates is needed."
                    )

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``jaccard`` of all items, and of those with each number of candidates that is asked for."""
        k, others = counted(data, self.right), counted(data, self.wrong)
        n = k + others
        self._complete(data.items, n)
        scores, owner, belongs = self._scores(data)
        values = jaccard(hits(scores, owner, belongs, k), k)
        lots = {(a, b): by_lot(a, b) for a, b in set(zip(k.tolist(), n.tolist(), strict=True))}
        chance = torch.tensor([lots[pair] for pair in zip(k.tolist(), n.tolist(), strict=True)], dtype=torch.float64)
        figures = {"jaccard": mean(values)}
        expected = {"jaccard": chance.mean().item()}
        for name, (low, high) in self.sizes.items():
            inside = (n >= low) & (n <= high)
            if not inside.any():
                raise MmclError(f"sizes: no item has {low} to {high} candidates; they have {sorted(set(n.tolist()))}.")
            figures[name] = part(values, torch.arange(len(n)), inside)
            expected[name] = chance[inside].mean().item()
        by_size = {
            str(size): {"jaccard": values[n == size].mean().item(), "n": int((n == size).sum())}
            for size in sorted(set(n.tolist()))
        }
        details: dict[str, Any] = {"chance": expected, "by_candidates": by_size}
        return Findings(figures, self._examples(data, scores, owner, belongs), None, details)

    def _complete(self, items: Items, n: Int[Tensor, " items"]) -> None:
        if self.candidates is None:
            return
        for key, said, there in zip(items.keys, items.one(self.candidates), n.tolist(), strict=True):
            if int(said) != there:
                raise MmclError(
                    f"item {key} has {there} candidates, but {self.candidates} says {said}: mend or drop it."
                )

    def _scores(self, data: Embedded) -> tuple[Tensor, Tensor, Tensor]:
        """Score of every candidate, its item, and whether it belongs to the cue."""
        queries, names = data.only(self.query), [*self.right, *self.wrong]
        owner = torch.cat([data.owner[name] for name in names])
        scores = torch.cat([pair_scores(queries, data.owner[name], data.vectors[name]) for name in names])
        belongs = torch.cat([torch.full((len(data.owner[name]),), name in self.right) for name in names])
        return scores, owner, belongs

    def _examples(self, data: Embedded, scores: Tensor, owner: Tensor, belongs: Tensor) -> list[Example]:
        """Candidates of a few cues, best first, by their columns."""
        columns = [name for name in (*self.right, *self.wrong) for _ in range(len(data.owner[name]))]
        shown, order = words(data, self.query), _order(scores, owner, belongs).tolist()
        items = owner.tolist()
        examples = []
        for i in spread(len(data.items), SHOWN):
            rows = [row for row in order if items[row] == i]
            query = data.items.keys[i] if shown is None else shown[i]
            correct = [columns[row] for row in sorted(rows) if belongs[row]]
            found = [columns[row] for row in rows]
            examples.append(Example(query, modality_of(self.query), correct, found, "labels"))
        return examples


def hits(
    scores: Float[Tensor, " candidates"],
    owner: Int[Tensor, " candidates"],
    belongs: Bool[Tensor, " candidates"],
    k: Int[Tensor, " items"],
) -> Int[Tensor, " items"]:
    """How many of the k candidates of each item with the largest scores belong to it. For ties see `Association`."""
    order = _order(scores, owner, belongs)
    of = owner[order]
    sizes = torch.bincount(of, minlength=len(k))
    place = torch.arange(len(of)) - (sizes.cumsum(0) - sizes)[of]
    hit = (place < k[of]) & belongs[order] & ~scores[order].isnan()
    return torch.bincount(of[hit], minlength=len(k))


def _order(scores: Tensor, owner: Tensor, belongs: Tensor) -> Tensor:
    """Candidates item by item, best first, those that do not belong first at a tie."""
    feared = torch.where(scores.isnan(), torch.where(belongs, -torch.inf, torch.inf), scores)
    return torch.from_numpy(np.lexsort((belongs.numpy(), -feared.numpy(), owner.numpy())))


def jaccard(hit: Int[Tensor, " items"], k: Int[Tensor, " items"]) -> Float[Tensor, " items"]:
    """|A and P| / |A or P| of two sets of k, of which so many are in both."""
    return hit.double() / (2 * k - hit)


def by_lot(k: int, n: int) -> float:
    """Expected Jaccard index of k drawn out of n, of which k belong."""
    return sum(comb(k, j) * comb(n - k, k - j) / comb(n, k) * j / (2 * k - j) for j in range(1, k + 1))
