"""Classify items by prompts that name the classes."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError, did_you_mean
from mmcl.evaluators.base import EVALUATORS, Confusion, Embedded, Embedder, Evaluator, Example, Findings, Items, spread
from mmcl.evaluators.classified import (
    calibration_error,
    class_found,
    class_ranks,
    classified,
    mean_average_precision,
    taken_for,
)
from mmcl.evaluators.groups import group_figures
from mmcl.evaluators.labelled import listed
from mmcl.evaluators.prompts import (
    Aggregate,
    ClassVectors,
    Described,
    Differences,
    FollowUp,
    Read,
    names_of,
    no_files,
    prompts_of,
    templates_of,
)

SHOWN, EACH = 10, 5  # examples that are spread evenly; the best and the worst ones
ROWS = 1024  # items that are scored at once
CONFUSED = 60  # classes of which a whole table is shown


class Found(NamedTuple):
    """What every item was taken for."""

    scores: Callable[[Any], Float[Tensor, "some classes"]]
    """Of some items."""
    labels: Int[Tensor, " items"]
    ranks: Int[Tensor, " items"]
    classes: Int[Tensor, " items"]
    confidence: Float[Tensor, " items"]


@EVALUATORS.register("zeroshot")
class ZeroShot(Evaluator):
    """Zero-shot classification by an ensemble of prompts, of pictures, sounds, or anything that has a tower.

    Protocol: each class's name is put into every template; the mean of the prompts' unit vectors, made a unit vector
    again, stands for the class; an item belongs to the class with the largest cosine. Ties count against the model.
    Scores in fp32. Headline: ``acc1``, or ``mean_average_precision`` where an item may have several labels.

    Beside templates: each class's own prompts (a mapping by name: CuPL), descriptions of what one sees (`described`,
    with `aggregate: scores`: Menon and Vondrick), with controls that tell what the descriptions are worth; and a second
    look at the best classes by what tells each two of them apart (`follow_up`: FuDD).

    Args:
        modality: of the items.
        classes: label in the data -> the name to prompt with; or names, or a file of lines, of the labels 0, 1, 2, ...
        templates: prompts with ``{c}`` where the class's name goes; a mapping of prompts; or a file of either.
        label: name of the data's field that holds the label: a text, or, of several labels, a list of them or a vector
            (.npy) with a 1 for each class that it has.
        prompts: modality of the prompts.
        labels: `one` or `several`.
        groups: a field by whose values items are grouped, for `worst_group_acc1`, and `group_gap_acc1` between the best
            and the worst (and `acc5`).
        at: the k of accuracy at k.
        aggregate: how a class's prompts become its score: `vector`, `scores` or `best`.
        described: descriptions instead of templates.
        follow_up: the second look.
        scale: what cosines are multiplied by for probabilities, of which `ece` (the calibration error) is; CLIP's ends
            at 100.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section
        3.1.4. https://arxiv.org/abs/2103.00020
        Menon and Vondrick, "Visual Classification via Description from Large Language Models", ICLR 2023, Eq. 1.
        https://arxiv.org/abs/2210.07183
        Esfandiarpoor and Bach, "Follow-Up Differential Descriptions", ICLR 2024. https://arxiv.org/abs/2311.07593
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the task's
        self,
        modality: str,
        classes: dict[str, str] | list[str] | str,
        templates: dict[str, list[str]] | list[str] | str = [],  # noqa: B006
        label: str = "label",
        prompts: str = "text",
        labels: Literal["one", "several"] = "one",
        groups: str | None = None,
        at: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1, 5],  # noqa: B006
        aggregate: Aggregate = "vector",
        described: Described | None = None,
        follow_up: FollowUp | None = None,
        scale: Annotated[float, Field(gt=0)] = 100.0,
        *,
        read: Read = no_files,
    ) -> None:
        self.classes = names_of(classes, read)
        if not self.classes:
            raise MmclError("a zero-shot task needs classes.")
        if described is not None and templates:
            raise MmclError("zeroshot: templates and described: prompts are made of one of them; leave the other out.")
        made = templates if described is not None else templates_of(templates, read)
        self.prompts_of_classes = prompts_of(self.classes, made, described, read)  # type: ignore[arg-type]
        self.modality, self.label, self.prompts, self.several = modality, label, prompts, labels == "several"
        self.groups, self.at, self.scale = groups, at, scale
        self.aggregate: Aggregate = aggregate
        self.differences = Differences(follow_up, list(self.classes), read) if follow_up is not None else None
        if self.several and (groups is not None or follow_up is not None):
            raise MmclError("zeroshot: groups and follow_up are for items of one label.")
        self.headline = "mean_average_precision" if self.several else "acc1"

    def modalities(self) -> list[str]:
        """That of the items."""
        return [self.modality]

    def fields(self) -> list[str]:
        """Labels, and groups."""
        return [self.label, *([self.groups] if self.groups else [])]

    def prompted(self) -> list[str]:
        """What prompts are made of."""
        return [self.prompts]

    def metrics(self) -> dict[str, bool]:
        """Shares of what is right, of which larger is better, and the calibration error."""
        if self.several:
            return {"mean_average_precision": True}
        ks = [k for k in self.at if k <= len(self.classes)]
        names = [*(f"acc{k}" for k in ks), "mean_per_class_recall", "f1_macro"]
        names += [f"worst_group_acc{k}" for k in ks] if self.groups else []
        gaps = [f"group_gap_acc{k}" for k in ks] if self.groups else []
        return {**dict.fromkeys(names, True), **dict.fromkeys([*gaps, "ece"], False)}

    def check(self, items: Items, train: Items | None = None) -> None:
        """See that labels and classes fit each other."""
        if self.several:
            self._belongs(items)
        else:
            self._numbers(items)
        if self.groups and len(set(items.one(self.groups))) < 2:
            raise MmclError(f"groups: all items have the same {self.groups}; the worst of one group says nothing.")

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``acc1``, ``acc5``, ``mean_per_class_recall``, ``f1_macro``, ``ece``; or ``mean_average_precision``."""
        vectors = data.only(self.modality)
        if self.several:
            scores = self._vectors(embedder).scores(vectors)
            figure = mean_average_precision(scores, self._belongs(data.items))
            return Findings({"mean_average_precision": figure})
        found, details = self._found(data.items, vectors, embedder)
        figures = classified(found.ranks, found.classes, found.labels, len(self.classes), self.at)
        if self.groups:
            groups = data.items.one(self.groups)
            for k in (k for k in self.at if k <= len(self.classes)):
                of = group_figures(found.ranks <= k, groups)
                figures[f"worst_group_acc{k}"], figures[f"group_gap_acc{k}"] = of.pop("worst_group"), of.pop("gap")
                details[f"groups_acc{k}"] = {name.removeprefix("group/"): one.value for name, one in of.items()}
        figures["ece"] = calibration_error(found.confidence, found.ranks <= 1)
        return Findings(figures, self._examples(data.items, found), self._confusion(found), details)

    def _vectors(self, embedder: Embedder) -> ClassVectors:
        return ClassVectors(self.prompts_of_classes, embedder, self.prompts, self.aggregate)

    def _found(
        self, items: Items, vectors: Float[Tensor, "items dim"], embedder: Embedder
    ) -> tuple[Found, dict[str, Any]]:
        details: dict[str, Any] = {"prompts": sum(map(len, self.prompts_of_classes.values()))}
        labels, stands = self._numbers(items), self._vectors(embedder)

        def first(some: Any) -> Tensor:
            return stands.scores(vectors[some])

        scores = first
        if self.differences is not None:
            whole, details["not_followed_up"] = self.differences.again(
                first(slice(None)), vectors, embedder, self.prompts
            )
            scores = whole.__getitem__
        parts = []
        for start in range(0, len(labels), ROWS):
            some = slice(start, start + ROWS)
            of, own = scores(some), labels[some]
            ranks = class_ranks(of, own)
            parts.append((ranks, class_found(of, own, ranks), self._confidence(of)))
        ranks, classes, confidence = (torch.cat(part) for part in zip(*parts, strict=True))
        return Found(scores, labels, ranks, classes, confidence), details

    def _confidence(self, scores: Float[Tensor, "some classes"]) -> Float[Tensor, " some"]:
        """Probability of the best class."""
        return (self.scale * scores.nan_to_num(nan=-1.0)).softmax(1).amax(1)

    def _numbers(self, items: Items) -> Int[Tensor, " items"]:
        """The number of each item's class."""
        numbers = {label: i for i, label in enumerate(self.classes)}
        said = items.one(self.label)
        self._known(set(said))
        return torch.tensor([numbers[label] for label in said])

    def _belongs(self, items: Items) -> Bool[Tensor, "items classes"]:
        """Which classes each item has."""
        if self.label in items.numbers:
            flags = items.numbers[self.label]
            if flags.shape[1] != len(self.classes):
                raise MmclError(
                    f"labels of the data have {flags.shape[1]} numbers, but {len(self.classes)} classes are given."
                )
            return flags > 0
        said = items.several(self.label)
        self._known({label for some in said for label in some})
        numbers = {label: i for i, label in enumerate(self.classes)}
        flags = torch.zeros(len(said), len(self.classes), dtype=torch.bool)
        for row, some in enumerate(said):
            flags[row, [numbers[label] for label in some]] = True
        return flags

    def _known(self, said: set[str]) -> None:
        if unknown := sorted(said - set(self.classes)):
            near = did_you_mean(unknown[0], list(self.classes))
            raise MmclError(
                f"labels of the data that are not among the {len(self.classes)} classes: {', '.join(unknown[:5])}"
                f"{', ...' if len(unknown) > 5 else ''}{near} The classes have the labels {listed(list(self.classes))}"
                " (those of a list are numbered from 0)."
            )

    def _examples(self, items: Items, found: Found) -> list[Example]:
        """The best classes of some items: spread evenly, right and most sure, wrong and most sure."""
        names, right = list(self.classes), found.ranks <= 1
        sure = found.confidence.argsort(descending=True, stable=True)
        chosen = [(row, "spread evenly") for row in spread(len(items), SHOWN)]
        chosen += [(row, "best") for row in sure[right[sure]][:EACH].tolist()]
        chosen += [(row, "worst") for row in sure[~right[sure]][:EACH].tolist()]
        best = found.scores([row for row, _ in chosen]).topk(min(3, len(names)), dim=1).indices.tolist()
        return [
            Example(
                items.keys[row], self.modality, [names[found.labels[row]]], [names[i] for i in some], "labels", group=g
            )
            for (row, g), some in zip(chosen, best, strict=True)
        ]

    def _confusion(self, found: Found) -> Confusion | None:
        """The table of all classes, or of those that are mistaken most often."""
        return confusion(list(self.classes), found.labels, found.classes)


def confusion(classes: list[str], labels: Int[Tensor, " items"], found: Int[Tensor, " items"]) -> Confusion:
    """How often items of one class were taken for another; of many classes, of those with the most mistakes.

    Args:
        classes: their names.
        labels: the right class of each item.
        found: what it was taken for.
    """
    count = len(classes)
    table = taken_for(labels, found, count)
    kept = torch.arange(count)
    if count > CONFUSED:
        wrong = table - table.diag().diag()
        kept = (wrong.sum(0) + wrong.sum(1)).topk(CONFUSED).indices.sort().values
    return Confusion([classes[i] for i in kept.tolist()], table[kept][:, kept].tolist())
