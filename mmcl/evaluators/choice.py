"""Choose the right one of a few candidates."""

from typing import Any

import torch
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Example, Findings, Items, spread
from mmcl.evaluators.candidates import Groups, counted, grouped, macro_part, pair_scores, part, words
from mmcl.evaluators.figures import Figure, mean
from mmcl.evaluators.foils import Foil, Foils, FoilsPart
from mmcl.evaluators.questions import Questions, each_question, share
from mmcl.types import modality_of

SHOWN = 5  # examples of each kind


@EVALUATORS.register("choice")
class Choice(Evaluator):
    """Choice between right and wrong candidates: a picture and its caption, with captions that do not fit.

    Columns of the data: one value an item for ``query``; one or more for ``right`` (each is a question of its own);
    one or more for all of ``wrong`` together, which are the wrong candidates of each of the item's questions. So
    ``image``, ``text``, ``text.wrong``, ``text.wrong.2``, ...; the other way round ``text``, ``image``,
    ``image.wrong``. Columns of wrong candidates that not every item has are named in ``data.optional``; a column with
    several texts an item takes ``data.captions: all``.

    Protocol: a question is answered right where the right candidate's cosine with the query is larger than that of
    EVERY wrong one:

        accuracy = mean over questions of [ s(q, right) > max over wrong of s(q, wrong) ]

    A tie is wrong, and so is what is not a number. A wrong caption that is the very text of the right one (a shuffle
    that changed nothing) is not wrong: it is left out, with its question where there is no other, and counted in the
    details. Chance is the mean of 1 / (1 + wrong candidates). With ``groups``, ``macro_accuracy`` is the mean over
    groups of the accuracy of each one's questions. Intervals draw items.

    ARO: ``groups: {field: relation, without: [...]}`` with the symmetric relations of its notebook, and
    ``{field: attributes, least: 25}``. SugarCrepe and VALSE: groups are the subsets, or instruments; VALSE's pairwise
    ranking accuracy acc_r is this accuracy. VALSE's acc, precisions p_c and p_f, and AUROC need a model that says of
    one pair whether it fits, which a cosine does not, and are left out.

    Headline: ``macro_accuracy`` where there are groups, ``accuracy`` otherwise. Details: chance, accuracies of all
    groups and against each kind of wrong candidate, what always choosing the longest (shortest) text would score.

    Args:
        query: column of what is shown.
        right: column of what fits.
        wrong: columns of what does not; ``text.wrong`` for ``text``, unless told or made.
        foils: how wrong captions are made from the right ones, instead: `swapped` or `order`. A caption that none can
            be made from asks no question, and is counted in the details.
        groups: the field that items are grouped by, or more of it.

    Raises:
        MmclError: wrong candidates are both named and made, or a name is there twice.

    Reference:
        Yuksekgonul et al., "When and why vision-language models behave like bags-of-words, and what to do about it?",
        ICLR 2023. https://arxiv.org/abs/2210.01936
        Hsieh et al., "SugarCrepe", NeurIPS 2023. https://arxiv.org/abs/2306.14610
        Parcalabescu et al., "VALSE", ACL 2022. https://arxiv.org/abs/2112.07566
    """

    partial = True  # items have fewer wrong candidates than there are columns

    def __init__(
        self,
        query: str = "image",
        right: str = "text",
        wrong: str | list[str] | None = None,
        foils: FoilsPart | None = None,
        groups: str | Groups | None = None,
    ) -> None:
        if foils is not None and wrong is not None:
            raise MmclError("wrong candidates are either columns (`wrong`) or made from the right ones (`foils`).")
        named = [wrong] if isinstance(wrong, str) else wrong
        self.query, self.right = query, right
        self.foils: Foils | None = foils.build() if foils is not None else None
        self.wrong = [] if self.foils else [f"{right}.wrong"] if named is None else named
        names = [query, right, *self.wrong]
        if len(set(names)) < len(names) or not (self.foils or self.wrong):
            raise MmclError(f"query, right and wrong must be different columns, one wrong at least; got {names}.")
        self.groups = Groups(field=groups) if isinstance(groups, str) else groups
        self.headline = "macro_accuracy" if self.groups else "accuracy"

    def modalities(self) -> list[str]:
        """Columns of the query and the candidates."""
        return [self.query, self.right, *self.wrong]

    def fields(self) -> list[str]:
        """The group, where there are such."""
        return [self.groups.field] if self.groups else []

    def prompted(self) -> list[str]:
        """Wrong captions that are made."""
        return [modality_of(self.right)] if self.foils else []

    def metrics(self) -> dict[str, bool]:
        """Accuracies, of which larger is better."""
        named = [f"accuracy/{name}" for name in self.groups.named] if self.groups else []
        return dict.fromkeys(["accuracy", *(["macro_accuracy"] if self.groups else []), *named], True)

    def check(self, items: Items, train: Items | None = None) -> None:
        """Wrong captions can be made, and the groups are there.

        Raises:
            MmclError: they are not.
        """
        if self.foils and self.right not in items.texts:
            raise MmclError(f"`foils` makes wrong captions of right ones, but {self.right} holds no texts.")
        asked = [self._asks(items, i) for i in range(len(items))]
        if not any(asked):
            none = (
                f"{self._kinds()} change none" if self.foils else f"those of {', '.join(self.wrong)} are the right ones"
            )
            raise MmclError(f"no text of {self.right} has a wrong one: {none}.")
        if self.groups:
            self.groups.check(items.one(self.groups.field), asked)

    def _asks(self, items: Items, item: int) -> int:
        """How many questions an item asks, as far as texts tell."""
        if self.right not in items.texts:
            return 1
        rights = items.several(self.right)[item]
        if self.foils:
            return sum(bool(self.foils(text)) for text in rights)
        if any(name not in items.texts for name in self.wrong):
            return len(rights)
        wrong = {text for name in self.wrong for text in items.several(name)[item]}
        return sum(bool(wrong - {text}) for text in rights)

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """``accuracy``; ``macro_accuracy`` and ``accuracy/GROUP`` where there are groups."""
        every = self._made(data, embedder) if self.foils else self._given(data)
        asked = every.distinct()
        if not len(asked.item):
            raise MmclError(
                f"no text of {self.right} has a wrong one: those of {', '.join(self.wrong)} are the right ones."
            )
        correct = asked.correct()
        unit = asked.item.unique(return_inverse=True)[1]
        figures = {"accuracy": mean(correct, unit)}
        details: dict[str, Any] = {"chance": asked.chance(), "by_wrong": asked.by_kind(self._kinds())}
        details["blind"] = asked.blind()
        details["left_out"] = {
            "items": len(data.items) - len(asked.item.unique()),
            "questions": len(data.owner[self.right]) - len(asked.item),
            "wrong": len(every.wrong) - len(asked.wrong),
        }
        if self.groups:
            more, details["by_group"] = self._by_group(data.items, asked, correct, unit)
            figures |= more
        return Findings(figures, self._examples(data, asked), None, details)

    def _kinds(self) -> list[str]:
        return self.foils.kinds() if self.foils else self.wrong

    def _given(self, data: Embedded) -> Questions:
        """The questions that the data ask: each right candidate against all wrong ones of its item."""
        counts, _ = counted(data, [self.right]), counted(data, self.wrong)
        queries, item = data.only(self.query), data.owner[self.right]
        right = pair_scores(queries, item, data.vectors[self.right])
        scores, of, kind, texts = [], [], [], []
        for number, name in enumerate(self.wrong):
            owner = data.owner[name]
            row, question = each_question(owner, counts)
            scores.append(pair_scores(queries, owner, data.vectors[name])[row])
            of.append(question)
            kind.append(torch.full_like(row, number))
            written = words(data, name)
            texts += [None if written is None else written[i] for i in row.tolist()]
        written = words(data, self.right) or [None] * len(item)
        return Questions(item, right, written, torch.cat(scores), torch.cat(of), torch.cat(kind), texts)

    def _made(self, data: Embedded, embedder: Embedder) -> Questions:
        """The questions that made captions ask: each right one against those that are made from it."""
        assert self.foils is not None
        written = words(data, self.right)
        assert written is not None, "`check` comes first"
        made: list[list[Foil]] = [self.foils(text) for text in written]
        rows = torch.tensor([i for i, some in enumerate(made) if some], dtype=torch.long)
        if not len(rows):
            raise MmclError(f"no text of {self.right} has a wrong one: {self._kinds()} change none.")
        every = [(question, foil) for question, i in enumerate(rows.tolist()) for foil in made[i]]
        texts = list(dict.fromkeys(foil.text for _, foil in every))
        number = {text: i for i, text in enumerate(texts)}
        vectors = embedder.embed(modality_of(self.right), texts)[[number[foil.text] for _, foil in every]]
        queries, item = data.only(self.query), data.owner[self.right][rows]
        of = torch.tensor([question for question, _ in every])
        kinds = self._kinds()
        return Questions(
            item,
            pair_scores(queries, item, data.vectors[self.right][rows]),
            [written[i] for i in rows.tolist()],
            pair_scores(queries, item[of], vectors),
            of,
            torch.tensor([kinds.index(foil.kind) for _, foil in every]),
            [foil.text for _, foil in every],
        )

    def _by_group(
        self, items: Items, asked: Questions, correct: Tensor, unit: Tensor
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        groups = self.groups
        assert groups is not None
        group, names = grouped(groups, items, asked.item)
        may = torch.tensor([name not in groups.without for name in names])
        figures = {"macro_accuracy": macro_part(correct, unit, group, may, groups.least)}
        for name in groups.named:
            figures[f"accuracy/{name}"] = part(correct, unit, group == names.index(name))
        found = {name: share(correct[group == i]) for i, name in enumerate(names)}
        for name, one in found.items():
            one["in_macro"] = name not in groups.without and one["n"] >= groups.least
        return figures, found

    def _examples(self, data: Embedded, asked: Questions) -> list[Example]:
        """Questions that are spread evenly, and those that were answered the most wrongly."""
        margin = (asked.right - asked.rival()).nan_to_num(nan=-torch.inf)
        worst = [i for i in margin.argsort(stable=True).tolist()[:SHOWN] if margin[i] <= 0]
        chosen = [(i, "spread evenly") for i in spread(len(asked.item), SHOWN)] + [(i, "worst") for i in worst]
        shown = words(data, self.query)
        keys, kinds = data.items.keys, self._kinds()
        examples = []
        for i, why in chosen:
            item = int(asked.item[i])
            query = keys[item] if shown is None else shown[item]
            right = asked.rights[i] or self.right
            found = asked.ranked(i, self.right, kinds)
            examples.append(Example(query, modality_of(self.query), [right], found, "labels", group=why))
        return examples
