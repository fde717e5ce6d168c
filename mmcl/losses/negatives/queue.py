"""Rows of earlier steps, or of a whole collection, as candidates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.guide import Alike, Vectors
from mmcl.losses.line import Extra, looked_up
from mmcl.losses.matrix import Candidates, Matrix
from mmcl.losses.negatives.base import NEGATIVES, Negatives, weight_name
from mmcl.losses.scores.unit import unit


@NEGATIVES.register("queue")
class Queue(Negatives):
    r"""Rows of the last steps, held still, are negatives beside those of the batch.

    .. math:: Z_i = \sum_{j \in B} e^{z_{ij}} + \sum_{q \in \mathrm{top}_k(Q)} e^{z_{iq}}

    The queue takes up the batch's rows after each step of the optimizer, and forgets the oldest.

    Use when: the batch is small and towers move slowly: fine-tuning, or with an averaged tower (`by`), whose rows
        stay true longer.
    Cost: one walk of (rows, size) a direction; size x dim floats, kept in checkpoints.
    Differs from the paper: the batch's own candidates stay negatives, as in ALBEF (MoCo has the queue alone).
    Related: `bank`, a queue that never moves; `mixed`.

    Args:
        size: how many rows are kept, of each modality.
        of: modalities that have a queue.
        by: what is kept of each: an averaged tower's vectors, as in `{image: ema.image}`; the embeddings themselves
            where nothing is said.
        top_k: only each row's k hardest of the queue count; all where nothing is said.

    Reference:
        He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, Section 3
        (https://arxiv.org/abs/1911.05722); Li et al., "Align before Fuse", NeurIPS 2021, Section 3.2
        (https://arxiv.org/abs/2107.07651); the hardest alone: Hoang et al., "Momentum Contrastive Learning with
        Enhanced Negative Sampling and Hard Negative Filtering", 2025 (https://arxiv.org/abs/2501.16360).

    Example:
        >>> Queue(8, ["image"], dim=4).image_vectors.shape
        torch.Size([8, 4])
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)],
        of: Annotated[list[str], Field(min_length=1)],
        by: Annotated[dict[str, str] | None, Extra(held=True)] = None,
        top_k: Annotated[int, Field(ge=1)] | None = None,
        *,
        dim: int,
    ) -> None:
        super().__init__()
        self.size, self.of, self.by, self.top_k = size, of, by or {}, top_k
        if unknown := set(self.by) - set(of):
            raise MmclError(f"negatives: queue: by: {sorted(unknown)} have no queue; `of` names {of}.")
        for m in map(weight_name, of):
            self.register_buffer(f"{m}_vectors", torch.zeros(size, dim))
            self.register_buffer(f"{m}_ids", torch.zeros(size, dtype=torch.long))
            self.register_buffer(f"{m}_there", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))
        self.seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def more(self, matrix: Matrix, forward: bool) -> Sequence[Candidates | Float[Tensor, "rows drawn"]]:
        """What is in the queue; what the batch has of it is noted for the end of the step."""
        e, (m,) = matrix.e, matrix.modalities(forward)
        if m not in self.of:
            return []
        name = self.by.get(m, m)
        found = looked_up(e, name)
        if found.shape[1] != self.get_buffer(f"{weight_name(m)}_vectors").shape[1]:
            raise MmclError(f"negatives: queue: {name!r} is not of the embeddings' width; got {tuple(found.shape)}.")
        self.seen[m] = found, e.ids, e.present[name] & e.present[m]
        vectors, ids, there = (self.get_buffer(f"{weight_name(m)}_{kind}") for kind in ("vectors", "ids", "there"))
        # copies: the queue moves on before backward has made the tiles again, where losses are accumulated
        return [Candidates([vectors.to(found.dtype, copy=True)], there.clone(), ids.clone(), top_k=self.top_k)]

    @torch.no_grad()
    def after_step_(self, taken: Bool[Tensor, ""] | None = None) -> None:
        """Take up the rows of the step, the same on every process."""
        if not self.seen:
            return
        rows, place = min(self.size, next(iter(self.seen.values()))[0].shape[0]), self.get_buffer("next")
        places = (place + torch.arange(rows, device=place.device)) % self.size
        for m, noted in self.seen.items():
            for kind, new in zip(("vectors", "ids", "there"), noted, strict=True):
                old = self.get_buffer(f"{weight_name(m)}_{kind}")
                new = new[-rows:].to(old)
                old[places] = new if taken is None else torch.where(taken, new, old[places])
        place.copy_((place + (rows if taken is None else rows * taken)) % self.size)
        self.seen = {}


@NEGATIVES.register("bank")
class Bank(Negatives):
    r"""All embeddings of a collection that no longer moves are the candidates, instead of those of the batch.

    .. math:: \ell_i = -\log \frac{e^{s(x_i, y_i)/\tau}}{\sum_{y \in \text{bank}} e^{s(x_i, y)/\tau}}

    What coincides with the row's own candidate (cosine above `same`) is left out: it is the positive itself.

    Use when: the other tower is frozen, so its whole collection can be embedded once: the last stage of composed
        retrieval, or of a new query tower.
    Cost: one walk of (rows, bank) of the searching direction; the bank lies in memory, not in checkpoints.
    Differs from the paper: nothing; its bank lies on the CPU.
    Related: `queue`.

    Args:
        file: a .npy file of (rows, dim), as `mmcl embed` writes them.
        of: the modality that the file holds.
        same: cosine from which a row of the bank is the row's own candidate.
        alone: whether the batch's other candidates, which the bank holds too, are left out.

    Reference:
        Feng et al., "Improving Composed Image Retrieval via Contrastive Learning with Scaling Positives and Negatives",
        ACM MM 2024, Section 3.4 (https://arxiv.org/abs/2404.11317).

    Example:
        >>> np.save("/tmp/bank.npy", np.eye(3, 4, dtype=np.float32))
        >>> Bank("/tmp/bank.npy", "image", dim=4).vectors.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        file: str,
        of: str,
        same: Annotated[float, Field(gt=0, le=1)] = 0.9999,
        alone: bool = True,
        *,
        dim: int,
    ) -> None:
        super().__init__()
        if not Path(file).is_file():
            raise MmclError(f"negatives: bank: there is no file {file}; `mmcl embed` writes one.")
        try:
            rows = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise MmclError(f"negatives: bank: {file} is no .npy file of numbers: {error}") from None
        if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind != "f":
            raise MmclError(f"negatives: bank: {file} holds {rows.dtype} of {rows.shape}; wanted (rows, {dim}) floats.")
        vectors = torch.from_numpy(np.array(rows)).float()
        if not len(vectors) or not vectors.isfinite().all():
            what = "numbers that are not finite" if len(vectors) else "no rows"
            raise MmclError(f"negatives: bank: {file} holds {what}.")
        self.of, self.same, self.alone = of, same, alone
        self.register_buffer("vectors", vectors, persistent=False)

    def more(self, matrix: Matrix, forward: bool) -> Sequence[Candidates | Float[Tensor, "rows drawn"]]:
        """The bank, without each row's own candidate."""
        (m,), own = matrix.modalities(forward), matrix.e.own
        if m != self.of:
            return []
        bank = self.get_buffer("vectors").to(matrix.scale.dtype)
        mine = unit(matrix.e.all[m][own].detach())
        limits = torch.full_like(mine[:, 0], self.same), torch.full_like(bank[:, 0], self.same)
        there = matrix.e.present[m][own], torch.ones_like(bank[:, 0], dtype=torch.bool)
        return [Candidates([bank], alike=Alike(Vectors(mine, unit(bank), *there), *limits))]

    def replaces(self, matrix: Matrix, forward: bool) -> bool:
        """Where the file's modality is looked for, unless the batch's are wanted too."""
        return self.alone and matrix.modalities(forward) == (self.of,)
