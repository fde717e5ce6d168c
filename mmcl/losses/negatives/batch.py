"""Candidates of the batch itself."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.guide import Alike
from mmcl.losses.matrix import Candidates, Matrix
from mmcl.losses.negatives.base import NEGATIVES, Negatives
from mmcl.losses.targets.base import By, vectors
from mmcl.losses.views import Edge
from mmcl.types import Embeddings, modality_of


@NEGATIVES.register("in_batch")
class InBatch(Negatives):
    """Every other row of the global batch.

    Use when: the default.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, Figure 3
        (https://arxiv.org/abs/2103.00020).

    Example:
        >>> InBatch().drop_same
        False
    """

    pairs: ClassVar[bool] = False
    adds: ClassVar[bool] = False


@NEGATIVES.register("distinct")
class Distinct(Negatives):
    """Every other row of the global batch that does not show the same thing, as `identity` of the data says.

    Use when: captions or pictures repeat, and the repeats are marked.

    Reference:
        The usual mask of in-batch negatives with equal ids, as in dense retrieval: Karpukhin et al., "Dense Passage
        Retrieval for Open-Domain Question Answering", EMNLP 2020, Section 3.2 (https://arxiv.org/abs/2004.04906).

    Example:
        >>> Distinct().drop_same
        True
    """

    drop_same: ClassVar[bool] = True
    pairs: ClassVar[bool] = False
    adds: ClassVar[bool] = False


@NEGATIVES.register("alike")
class TooAlike(Negatives):
    r"""Leave out what a model finds too similar to be a negative: it may be a positive that nobody marked.

    Left out is j of row i where :math:`t_{ij} > a` (`above`), or :math:`t_{ij} > t_{ii} + m` (`margin`): more similar
    than the row's own candidate.

    Use when: many samples of a batch fit one another, and a frozen or averaged model can tell.
    Cost: one more product of that model's width a tile.
    Differs from the paper: MultiCSR's code multiplies such logits by 0, so that they still count as exp(0); they are
        left out here.
    Related: candidates beside the batch's (`in_modal`, `queue`) are not asked. `distinct` leaves out by ids;
        `neighbours` makes positives of what is near.

    Args:
        by: whose similarities: an extra such as `teacher.text`, or a modality, held still; or a mapping of modalities
            to names for similarities between them (which a margin needs to say something).
        above: largest cosine of a negative.
        margin: by how much a negative may be more similar than the row's own candidate.

    Reference:
        Wang et al., "Large Language Models can Contrastively Refine their Generation for Better Sentence Representation
        Learning", NAACL 2024, Section 3.3 (https://arxiv.org/abs/2310.10962); margin: Morris and Rush, "Contextual
        Document Embeddings", ICLR 2025, Section 4.1 (https://arxiv.org/abs/2410.02525).

    Example:
        >>> TooAlike({"text": "ema.text", "image": "ema.image"}, margin=0.0).margin
        0.0
    """

    pairs: ClassVar[bool] = False
    adds: ClassVar[bool] = False

    def __init__(
        self,
        by: By,
        above: Annotated[float, Field(ge=-1, le=1)] | None = None,
        margin: float | None = None,
    ) -> None:
        super().__init__()
        if (above is None) == (margin is None):
            raise MmclError("negatives: alike: say either `above` or `margin`.")
        if margin is not None and margin >= 0 and isinstance(by, str):
            raise MmclError("negatives: alike: a margin needs a mapping `by`; no vector is nearer to one than itself.")
        self.by, self.above, self.margin = by, above, margin

    def alike(self, embeddings: Embeddings, edge: Edge) -> Alike:
        """The entries of all rows and columns."""
        v = vectors(embeddings, self.by, edge)
        if self.above is not None:
            limits = torch.full_like(v.rows[:, 0], self.above)
            return Alike(v, limits, limits)
        assert self.margin is not None
        own = (v.rows * v.columns).sum(1) + self.margin
        own = own.masked_fill(~(v.row_there & v.column_there), float("inf"))
        return Alike(v, own, own)


@NEGATIVES.register("in_modal")
class InModal(Negatives):
    r"""The other rows of the row's own modality are negatives beside those of the other modality.

    .. math:: Z_i = \sum_j e^{s(x_i, y_j)/\tau} + \sum_{j \ne i} e^{s(x_i, x_j)/\tau}

    and the same with x and y exchanged for the other direction; `directions: joint` makes one denominator of both
    (GTE's enlarged negatives).

    Use when: one kind of text on both sides (sentence embeddings), or the gap between modalities is to be closed.
    Cost: one more walk a direction.
    Differs from the paper: the row's own positive counts once in GTE's joint form.
    Related: `uniformity`.

    Reference:
        Li et al., "Towards General Text Embeddings with Multi-stage Contrastive Learning", 2023, Section 3.3
        (https://arxiv.org/abs/2308.03281); Chen et al., "A Simple Framework for Contrastive Learning of Visual
        Representations" (NT-Xent has them too), ICML 2020, Eq. 1 (https://arxiv.org/abs/2002.05709).

    Example:
        >>> InModal().pairs
        True
    """

    def more(self, matrix: Matrix, forward: bool) -> Sequence[Candidates | Float[Tensor, "rows drawn"]]:
        """All rows of the modality that searches."""
        (m,) = matrix.searching(forward)
        there = matrix.anchors_there if forward else matrix.tuples_there
        return [Candidates([matrix.e.all[m]], there, matrix.e.ids, paired=True)]


@NEGATIVES.register("provided")
class Provided(Negatives):
    r"""Candidates that the data provides as wrong: a caption with two words exchanged, a picture that is nearly right.

    They are further candidates of every row that looks for their modality, and look for nothing themselves (NegCLIP's
    layout). A copy with a dot holds them: `text.wrong`.

    Use when: order and composition matter: captions whose words were swapped, wrong by construction.
    Cost: one more walk, in one direction.
    Differs from the paper: NegCLIP's public code puts them after the positives of each process, where a gather moves
        the labels away; here positives and negatives never share a tensor. Its hard pictures are samples of their own.
    Related: `mixed` makes hard negatives up.

    Args:
        copies: names of the copies that hold them.

    Reference:
        Yuksekgonul et al., "When and why vision-language models behave like bags-of-words, and what to do about it?",
        ICLR 2023, Section 4 (https://arxiv.org/abs/2210.01936).

    Example:
        >>> Provided(["text.wrong"]).copies
        ['text.wrong']
    """

    pairs: ClassVar[bool] = False

    def __init__(self, copies: Annotated[list[str], Field(min_length=1)]) -> None:
        super().__init__()
        for copy in copies:
            if "." not in copy:
                raise MmclError(
                    f"negatives: provided: {copy!r} is no copy of a modality; say `text.wrong` or the like."
                )
        self.copies = copies

    def more(self, matrix: Matrix, forward: bool) -> Sequence[Candidates | Float[Tensor, "rows drawn"]]:
        """The wrong ones; in a tuple, beside what is right of the others."""
        found = []
        for copy in self.copies:
            base, wanted = modality_of(copy), matrix.modalities(forward)
            if base in wanted:
                names = [copy if m == base else m for m in wanted]
                there = torch.stack([matrix.e.present[m] for m in names]).all(0)
                found.append(Candidates([matrix.e.all[m] for m in names], there))
        return found

    @classmethod
    def looks_for(cls, said: Any) -> list[str]:
        """What the copies are copies of."""
        return [modality_of(copy) for copy in said.copies]

    @classmethod
    def named(cls, said: Any) -> list[str]:
        """The copies."""
        return list(said.copies)
