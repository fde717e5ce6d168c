"""Find what belongs to an item of one modality, or of several, among the items of another."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Int
from pydantic import Field, PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Example, Findings, Items, spread
from mmcl.evaluators.both_ways import Cosines, ranks_both_ways, turned_round
from mmcl.evaluators.combined import mean_of
from mmcl.evaluators.figures import Figure, mean, numbered
from mmcl.evaluators.hubs import HubCorrection, HubPart
from mmcl.evaluators.narrowed import Subset, both_of, check_names, less_of, named, only, without_rows
from mmcl.evaluators.ranking import (
    KEPT,
    Relevant,
    Scores,
    graded_ndcg,
    ranking_figures,
    relevant_ranks,
)
from mmcl.evaluators.sides import Side, belonging, side
from mmcl.losses import SCORES, Score
from mmcl.losses.precision import full_precision
from mmcl.registry import Part

One = str | list[str]
ScorePart = Annotated[SerializeAsAny[Part], PlainValidator(SCORES.check)]
CENTROID = {"name": "cosine", "tuples": "centroid"}
SHOWN, WORST = 5, 3  # of what was found for an example, and how many of the worst queries are shown


class Direction(NamedTuple):
    """One side that asks, and one that is found, of one fold of the items."""

    queries: Side
    gallery: Side
    relevant: Relevant
    scores: Scores


class Turned(NamedTuple):
    """Ranks of the direction that comes second."""

    relevant: Relevant
    ranks: Int[Tensor, "queries kept"]


@EVALUATORS.register("retrieval")
class Retrieval(Evaluator):
    """Retrieval between two modalities, or sets of them, over the whole test set.

    Protocol: every row of the one side is a query, all rows of the other are the gallery. What belongs together is what
    has the same ``identity`` in the data, or else is of the same sample; any number of rows may belong to a query. A
    text belongs to every item that has it word for word, since no model could tell them apart. A query counts for
    recall@k when anything that belongs to it is among the first k; ties count against the model. Scores in fp32.
    Headline: ``text_to_image/recall@10`` for the modalities text and image.

    A side of several modalities asks with all of them (``[text, audio]``; for composed retrieval ``[image, text]``,
    and ``image.target`` is what is found): by the cosine of the mean of their unit vectors, or by any score that takes
    tuples (``gram``: the volume; ``span``; ``{name: cosine, tuples: mean}``: the sum of cosines).

    Conventions: Clotho and DCASE quote recall@1, 5, 10 and map@10 of text to audio, where one sound belongs to each
    caption, so that map@10 is the mean of 1/rank up to 10; with five captions a sound, audio to text counts the best
    caption for recall, and all of them for map@10 (as LAION-CLAP does). AudioCaps is quoted like COCO. COCO's "1K" is
    the mean over five folds of 1,000 pictures: ``folds: 1000``. CIRR leaves a query's own picture out of its gallery
    (``without``), and asks for recall_subset@1, 2 and 3 among the five others of its group (``subset``).

    Args:
        modalities: the two sides; the headline goes from the first to the second.
        at: the k of recall at k.
        score: how rows are compared.
        both: whether the other direction is measured, too.
        folds: items are divided into folds of so many, in their order, each with a gallery of its own.
        distinct: sides (by their first modality) of which samples repeat the same thing: of rows with equal identity
            the first one counts.
        equal_texts: False lets a text belong to its own item only, as CLIP_benchmark has it.
        grades: fields that make a grade, for `graded_ndcg@10`: the number of those in which an item of the gallery
            equals the query's.
        hubs: a correction of what too many queries find, learned from the queries of ``train``.
        distractors: whether samples that lack the query (by `optional` in the data) stay in the gallery.
        without: field in which a query names what is left out of its gallery, by its `identity`.
        subset: field in which a query names a few things, among which `recall_subset@k` is measured, too.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the task's
        self,
        modalities: tuple[One, One],
        at: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1, 5, 10],  # noqa: B006
        score: ScorePart = SCORES.check(CENTROID),  # noqa: B008 - a frozen record
        both: bool = True,
        folds: Annotated[int, Field(ge=2)] | None = None,
        distinct: list[str] = [],  # noqa: B006
        equal_texts: bool = True,
        grades: list[str] = [],  # noqa: B006
        hubs: HubPart | None = None,
        distractors: bool = False,
        without: str | None = None,
        subset: Subset | None = None,
    ) -> None:
        one, other = ([m] if isinstance(m, str) else list(m) for m in modalities)
        self.sides = (one, other)
        if not one or not other or set(one) & set(other):
            raise MmclError(f"retrieval: two sides that share no modality are needed; got {one} and {other}.")
        self.at, self.both, self.folds, self.equal_texts, self.grades = at, both, folds, equal_texts, grades
        self.distinct, self.partial = distinct, distractors
        if distractors and both:
            raise MmclError("retrieval: distractors belong to no query; say `both: false`.")
        self.without, self.subset = without, subset
        if (without or subset) and (both or grades):
            raise MmclError(
                "retrieval: what `without` and `subset` name is of queries; say `both: false`, and no `grades`."
            )
        if unknown := set(distinct) - {one[0], other[0]}:
            raise MmclError(f"retrieval: distinct: {sorted(unknown)} begin no side; the sides are {one} and {other}.")
        self.part = score
        self.scorer = _scorer(score, one, other)
        if hubs is not None and score.name != "cosine":
            raise MmclError(f"retrieval: hubs corrects cosines; score is {score.name}.")
        self.hubs: HubCorrection | None = None if hubs is None else hubs.build()
        self.score = _in_words(score) if max(len(one), len(other)) > 1 else score.name
        if hubs is not None:
            self.score += f" - {_in_words(hubs)}"
        self.headline = f"{_called(one)}_to_{_called(other)}/recall@{at[-1]}"

    def modalities(self) -> list[str]:
        """Those of both sides."""
        return [*self.sides[0], *self.sides[1]]

    def fields(self) -> list[str]:
        """Those that make grades, and those that narrow galleries."""
        return [*self.grades, *self._names()]

    def trained_on(self) -> list[str]:
        """The queries that a correction of hubs learns from."""
        if self.hubs is None:
            return []
        return self.modalities() if self.both else list(self.sides[0])

    def metrics(self) -> dict[str, bool]:
        """Figures of each direction; of the median rank the smaller is better."""
        names = [*(f"recall@{k}" for k in self.at), "median_rank", "mrr", "map@10", "ndcg@10"]
        names += ["graded_ndcg@10"] if self.grades else []
        names += [f"recall_subset@{k}" for k in self.subset.at] if self.subset else []
        each = {f"{d}/{name}": name != "median_rank" for d in self._directions() for name in names}
        return each | (dict.fromkeys([f"mean_recall@{k}" for k in self.at], True) if self.both else {})

    def check(self, items: Items, train: Items | None = None) -> None:
        """See that folds come out even, and that grades and what narrows galleries are there."""
        if self.folds is not None and len(items) % self.folds:
            raise MmclError(f"folds: {len(items)} items cannot be divided into folds of {self.folds}.")
        for name in self.grades:
            items.one(name)
        for name in self._names():
            check_names(items, name)

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``a_to_b/recall@k`` and the others, in both directions, their mean ``mean_recall@k``, and examples."""
        figures: dict[str, Figure] = {}
        examples: list[Example] = []
        things, unit = data.items.ids.unique(return_inverse=True)  # what shows the same thing is not independent
        turned = None
        for name, (asking, found) in self._directions().items():
            queries, gallery = (side(data, names, names[0] in self.distinct) for names in (asking, found))
            folds = [self._direction(queries, gallery, data, asking, fold) for fold in self._folds(data)]
            if self.hubs is not None and data.train is not None:
                bank = side(data.train, asking, asking[0] in self.distinct).vectors
                folds = [one._replace(scores=self._corrected(self.hubs, one, bank)) for one in folds]
            if self.without:
                folds = [_without(one, data.items, self.without) for one in folds]
            ranks, turned = self._ranks(folds, turned)
            counts = torch.cat([one.relevant.counts for one in folds])
            units = unit[torch.cat([one.queries.item for one in folds])]
            of = torch.cat([torch.full((len(one.queries),), i) for i, one in enumerate(folds)])
            width = max(one.shape[1] for one in ranks)
            every = torch.cat([F.pad(one, (0, width - one.shape[1])) for one in ranks])
            made = ranking_figures(every, counts, self.at, units, len(things), of if self.folds else None)
            if self.grades:
                made["graded_ndcg@10"] = self._graded(folds, data, unit, len(things))
            if self.subset:
                best = torch.cat([_subset_ranks(one, data.items, self.subset.field, self.without) for one in folds])
                made |= {f"recall_subset@{k}": mean(best <= k, units, units=len(things)) for k in self.subset.at}
            figures |= {f"{name}/{metric}": figure for metric, figure in made.items()}
            if len(folds) == 1:
                examples += _examples(folds[0], data, asking, found, ranks[0][:, 0])
            del queries, gallery, folds  # their rows, before there are others
        if self.both:
            ways = list(self._directions())
            figures |= {f"mean_recall@{k}": mean_of([figures[f"{w}/recall@{k}"] for w in ways]) for k in self.at}
        return Findings(figures, examples)

    def _ranks(
        self, folds: Sequence[Direction], turned: Turned | None
    ) -> tuple[list[Int[Tensor, "queries kept"]], Turned | None]:
        """Of each fold; and, where the scores of the first direction gave them, those of the other one."""
        one = folds[0]
        if turned is not None and all(map(torch.equal, one.relevant, turned.relevant)):
            return [turned.ranks], None
        if self.both and turned is None and len(folds) == 1 and isinstance(one.scores, Cosines):
            found = ranks_both_ways(one.scores, one.relevant)
            if found is not None:
                return [found[0]], Turned(turned_round(one.relevant, len(one.gallery)), found[1])
        return [relevant_ranks(one.scores, one.relevant, len(one.gallery)) for one in folds], None

    def _names(self) -> list[str]:
        return [name for name in (self.without, self.subset and self.subset.field) if name]

    def _directions(self) -> dict[str, tuple[list[str], list[str]]]:
        one, other = self.sides
        ways = [(one, other), (other, one)] if self.both else [(one, other)]
        return {f"{_called(a)}_to_{_called(b)}": (a, b) for a, b in ways}

    def _folds(self, data: Embedded) -> list[tuple[int, int]]:
        """(first, end) of each."""
        size = self.folds or len(data.items)
        if len(data.items) % size:  # an item could not be embedded
            raise MmclError(f"folds: {len(data.items)} items that could be used are no folds of {self.folds}.")
        return [(start, start + size) for start in range(0, len(data.items), size)]

    def _direction(
        self, queries: Side, gallery: Side, data: Embedded, asking: Sequence[str], fold: tuple[int, int]
    ) -> Direction:
        """One fold, and what belongs to each of its queries."""
        if self.folds is not None:
            queries, gallery = (
                one.take(((one.item >= fold[0]) & (one.item < fold[1])).nonzero()[:, 0]) for one in (queries, gallery)
            )
        relevant = belonging(queries, gallery, data.items.ids, self.equal_texts)
        alone = (relevant.counts == 0).nonzero()[:, 0]
        if len(alone) or not len(queries):
            key = data.items.keys[int(queries.item[alone[0]])] if len(alone) else "-"
            raise MmclError(
                f"nothing in the gallery belongs to {len(alone)} of {len(queries)} queries by {_called(asking)}; the "
                f"first is item {key}. Mend the data, or its `identity`."
            )
        return Direction(queries, gallery, relevant, self.scorer(queries.vectors, gallery.vectors))

    def _corrected(self, hubs: HubCorrection, one: Direction, bank: Sequence[Tensor]) -> Scores:
        """Scores less each row's bias."""
        score = self.part.build()
        bias = hubs(*(score.candidates(list(vectors))[0] for vectors in (one.gallery.vectors, bank)))
        return lambda start, end: one.scores(start, end).sub_(bias)

    def _graded(self, folds: Sequence[Direction], data: Embedded, unit: Int[Tensor, " items"], units: int) -> Figure:
        codes = [numbered(data.items.one(name))[0] for name in self.grades]
        found = []
        for one in folds:

            def grades(start: int, end: int, one: Direction = one) -> Tensor:
                own, others = one.queries.item[start:end], one.gallery.item
                return torch.stack([code[own][:, None] == code[others] for code in codes]).sum(0).double()

            found.append(graded_ndcg(one.scores, grades, len(one.queries)))
        values, items = torch.cat(found), torch.cat([one.queries.item for one in folds])
        there = ~values.isnan()
        return mean(values[there], unit[items[there]], units=units)


def _without(one: Direction, items: Items, field: str) -> Direction:
    """The same without what its queries name in a field.

    Raises:
        MmclError: it belongs to the query.
    """
    left_out = named(one.queries, one.gallery, items, field)
    own = both_of(one.relevant, left_out, len(one.gallery)).counts.nonzero()[:, 0]
    if len(own):
        key = items.keys[int(one.queries.item[own[0]])]
        raise MmclError(f"{field}: {len(own)} queries leave out what belongs to them; the first is item {key}.")
    return one._replace(scores=without_rows(one.scores, left_out))


def _subset_ranks(one: Direction, items: Items, field: str, without: str | None) -> Int[Tensor, " queries"]:
    """Rank of what belongs to each query among what it names in a field.

    Raises:
        MmclError: nothing of that belongs to the query.
    """
    size = len(one.gallery)
    kept = named(one.queries, one.gallery, items, field)
    if without:
        kept = less_of(kept, named(one.queries, one.gallery, items, without), size)
    own = both_of(one.relevant, kept, size)
    alone = (own.counts == 0).nonzero()[:, 0]
    if len(alone):
        key = items.keys[int(one.queries.item[alone[0]])]
        raise MmclError(
            f"{field}: of what {len(alone)} queries name, nothing belongs to them; the first is item {key}."
        )
    return relevant_ranks(only(one.scores, kept), own, size, kept=1)[:, 0]


def _called(names: Sequence[str]) -> str:
    return "+".join(names)


def _in_words(part: Part) -> str:
    """A part's name, and its arguments if it has any."""
    said = ", ".join(f"{key}={value}" for key, value in part.model_dump().items() if key != "name")
    return f"{part.name}({said})" if said else part.name


def _scorer(
    part: Part, one: Sequence[str], other: Sequence[str]
) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Scores]:
    """What scores a side's rows with another's.

    Raises:
        MmclError: the score does not take as many modalities.
    """
    score: Any = part.build()
    assert isinstance(score, Score)
    if part.name == "cosine":
        return lambda queries, gallery: _cosines(score, queries, gallery)
    sizes = sorted([len(one), len(other)])
    if sizes[0] != 1 or sizes[1] < score.least or sizes[1] > (score.most or sizes[1]):
        most = "or more" if score.most is None else f"to {score.most}"
        raise MmclError(
            f"retrieval: score {part.name} compares one modality with {score.least} {most} others; got {list(one)} and "
            f"{list(other)}."
        )
    return lambda queries, gallery: _tuples(score, queries, gallery)


def _cosines(score: Score, queries: Sequence[Tensor], gallery: Sequence[Tensor]) -> Scores:
    """Cosines of what stands for each side's tuples."""
    (q,), (g,) = score.candidates(list(queries)), score.candidates(list(gallery))
    return Cosines(q, g)


def _tuples(score: Score, queries: Sequence[Tensor], gallery: Sequence[Tensor]) -> Scores:
    """Scores of an anchor with tuples, whichever side asks."""
    turned = len(queries) > 1
    anchors, candidates = (gallery, queries) if turned else (queries, gallery)
    a, c = score.anchors(anchors[0]), score.candidates(list(candidates))

    def scores(start: int, end: int) -> Tensor:
        with full_precision(anchors[0].device, exact=True):
            if turned:
                return score.tile(a, tuple(x[start:end] for x in c)).T.contiguous()
            return score.tile(tuple(x[start:end] for x in a), c)

    return scores


def _examples(
    one: Direction, data: Embedded, asking: Sequence[str], found: Sequence[str], ranks: Int[Tensor, " queries"]
) -> list[Example]:
    """What some queries find: some that are spread evenly, and the worst."""
    worst = ranks.argsort(descending=True, stable=True)[:WORST].tolist()
    rows = [(row, "spread evenly") for row in spread(len(one.queries), KEPT)]
    rows += [(row, "worst") for row in worst if ranks[row] > 1]
    examples = []
    for row, group in rows:
        scores, places = one.scores(row, row + 1)[0].topk(min(SHOWN, len(one.gallery)))
        best = places[scores > -torch.inf].tolist()  # without what is left out
        own = one.relevant.rows[int(one.relevant.starts[row]) : int(one.relevant.starts[row + 1])].tolist()
        words = data.items.keys[int(one.queries.item[row])]
        if one.queries.texts is not None:
            words = one.queries.texts[row]

        def named(place: int) -> str:
            if one.gallery.texts is not None:
                return one.gallery.texts[place]
            return data.items.keys[int(one.gallery.item[place])]

        examples.append(
            Example(
                words,
                _called(asking),
                [named(i) for i in own],
                [named(i) for i in best],
                "items",
                _called(found),
                group,
            )
        )
    return examples
