"""Two pictures and two captions that belong to each other crosswise."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmcl.errors import MmclError, did_you_mean
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Example, Findings, Items, spread
from mmcl.evaluators.candidates import part
from mmcl.evaluators.figures import mean
from mmcl.types import modality_of

SCORES = ("text_score", "image_score", "group_score")
CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}
SHOWN = 10  # examples


@EVALUATORS.register("winoground")
class Winoground(Evaluator):
    """Winoground: match two pictures and two captions of the same words.

    Columns of the data: ``image`` and ``text`` belong together, and so do ``image.2`` and ``text.2``; one value each an
    item.

    Protocol: with the cosine s(C, I) of a caption and a picture, an item counts in

        text_score  where  s(C0, I0) > s(C1, I0)  and  s(C1, I1) > s(C0, I1)
        image_score where  s(C0, I0) > s(C0, I1)  and  s(C1, I1) > s(C1, I0)
        group_score where  both hold.

    A tie is wrong, and so is what is not a number. Chance (four scores drawn by lot): 1/4, 1/4, and 1/6, since both
    right scores must be above both others. Headline: ``group_score``. Intervals draw items.

    Args:
        images: columns of the pictures (or sounds).
        texts: columns of the captions, in the same order.
        tags: a field with the tags of an item, one or more; what was found for each tag stands in the details. The
            field may be absent in items without a tag where it is named in ``data.optional``.
        named: tags that have figures of their own, ``group_score/TAG``.

    Raises:
        MmclError: columns are not different, or tags are named without `tags`.

    Reference:
        Thrush et al., "Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality", CVPR
        2022, equations 1-3. https://arxiv.org/abs/2204.03162
    """

    headline = "group_score"

    def __init__(
        self,
        images: tuple[str, str] = ("image", "image.2"),
        texts: tuple[str, str] = ("text", "text.2"),
        tags: str | None = None,
        named: list[str] = [],  # noqa: B006
    ) -> None:
        if len({*images, *texts}) < 4:
            raise MmclError(f"four different columns are needed; got {', '.join((*images, *texts))}.")
        if named and tags is None:
            raise MmclError("`named` names tags, but `tags` does not say where they lie.")
        self.images, self.texts, self.tags, self.named = images, texts, tags, named

    def modalities(self) -> list[str]:
        """Columns of the pictures and captions."""
        return [*self.images, *self.texts]

    def fields(self) -> list[str]:
        """The tags, where they are asked for."""
        return [] if self.tags is None else [self.tags]

    def metrics(self) -> dict[str, bool]:
        """Scores, of which larger is better."""
        return dict.fromkeys([*SCORES, *(f"{score}/{tag}" for tag in self.named for score in SCORES)], True)

    def check(self, items: Items, train: Items | None = None) -> None:
        """The tags that are named occur.

        Raises:
            MmclError: one does not.
        """
        known = {tag for tags in items.several(self.tags) for tag in tags} if self.tags is not None else set()
        for tag in self.named:
            if tag not in known:
                raise MmclError(f"named: no item has the tag {tag!r}{did_you_mean(tag, known)}")

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """The three scores, of all items and of named tags."""
        scores = self._scores(data)
        right = decided(scores)
        figures = {name: mean(flags) for name, flags in right.items()}
        details: dict[str, Any] = {"chance": CHANCE}
        if self.tags is not None:
            said = data.items.several(self.tags)
            has = {tag: torch.tensor([tag in tags for tags in said]) for tag in sorted({t for ts in said for t in ts})}
            every = torch.arange(len(said))
            for tag in self.named:
                figures |= {f"{name}/{tag}": part(flags, every, has[tag]) for name, flags in right.items()}
            details["by_tag"] = {
                tag: {name: flags[mine].double().mean().item() for name, flags in right.items()}
                | {"n": int(mine.sum())}
                for tag, mine in has.items()
            }
        return Findings(figures, self._examples(data, scores), None, details)

    def _scores(self, data: Embedded) -> Float[Tensor, "items 2 2"]:
        """Cosines of each item's captions (rows) and pictures (columns), in fp32."""
        texts, images = (torch.stack([data.only(n).float() for n in names], 1) for names in (self.texts, self.images))
        return (texts[:, :, None] * images[:, None]).sum(-1)

    def _examples(self, data: Embedded, scores: Float[Tensor, "items 2 2"]) -> list[Example]:
        """Which caption the first picture of an item takes."""
        captions = [data.items.texts.get(name) for name in self.texts]
        examples = []
        for i in spread(len(data.items), SHOWN):
            names = [name if t is None else t[i][0] for name, t in zip(self.texts, captions, strict=True)]
            found = names if scores[i, 0, 0] > scores[i, 1, 0] else names[::-1]
            kind = modality_of(self.images[0])
            examples.append(Example(data.items.keys[i], kind, [names[0]], found, "labels"))
        return examples


def decided(s: Float[Tensor, "items 2 2"]) -> dict[str, Bool[Tensor, " items"]]:
    """The three scores of each item.

    Args:
        s: captions (rows) by pictures (columns).
    """
    text = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    image = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    return dict(zip(SCORES, (text, image, text & image), strict=True))
