"""Vectors, and distances between them, as a teacher has them (ProCLIP)."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.base import Features
from mmcl.losses.chunks import by_rows
from mmcl.losses.line import Extra, looked_up
from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, share
from mmcl.losses.regularizers.consistency import squared_differences
from mmcl.losses.scores.unit import floored_sqrt, unit
from mmcl.types import Embeddings

FLOOR = 1e-6  # of a squared distance, below which fp32 knows nothing of it

Teachers = Annotated[dict[str, str], Field(min_length=1), Extra()]
"""Names of extras, by the modality that they teach."""


@REGULARIZERS.register("instance")
class Instance(Regularizer):
    r"""Every embedding near the teacher's of the same row.

    .. math:: \frac1n\sum_i \lVert x_i - t_i\rVert_2^2

    over unit vectors; modalities are averaged.

    Use when: a tower starts where a frozen one is (or an earlier model was), and should not leave it.
    Cost: O(rows x dim).
    Range: [0, 4].
    Differs from the paper: mean over rows, where its code sums, so that the weight does not depend on the batch.
    Related: `structure` takes teachers of any width.

    Args:
        teachers: names of the teachers' vectors among the extras, by modality; as wide as the embeddings.

    Reference:
        Hu et al., "ProCLIP: Progressive Vision-Language Alignment via LLM-based Embedder", 2025, instance semantic
        distillation (https://arxiv.org/abs/2510.18795).

    Example:
        >>> e = Embeddings.single({"a": torch.eye(2)}, extras={"teacher": torch.eye(2).flip(0)})
        >>> Instance({"a": "teacher"})(e)
        tensor(2.)
    """

    def __init__(self, teachers: Teachers) -> None:
        self.teachers = teachers

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e, values = embeddings, []
        for m, name in self.teachers.items():
            t, both = taught(e, m, name)
            x = unit(e.all[m][e.own])
            if x.shape[1] != t.shape[1]:
                raise MmclError(
                    f"objective: instance: {m} has {x.shape[1]} coordinates and {name} {t.shape[1]}; "
                    "`structure` compares vectors of different widths."
                )
            count = both.sum()
            distance = torch.where(both[e.own] & (count >= 2), (x - t[e.own]).square().sum(-1), 0.0)
            values.append(distance.sum() / count.clamp(min=1))
        return torch.stack(values).mean()


@REGULARIZERS.register("structure")
class Structure(Regularizer):
    r"""Distances within a modality as the teacher has them.

    .. math:: \frac{1}{n(n-1)}\sum_{i \ne j} h\bigl(\lVert x_i - x_j\rVert - \lVert t_i - t_j\rVert\bigr), \quad
              h(d) = \begin{cases} \frac12 d^2 & |d| < 1 \\ |d| - \frac12 & \text{else}\end{cases}
              \qquad\text{or}\qquad \frac{1}{n^2}\sum_{ij} (x_i^\top x_j - t_i^\top t_j)^2

    over unit vectors (`kind: distances`, or `cosines`); modalities are averaged. A rotation of the space costs nothing.

    Use when: the teacher's space is another one, of another width even; what it says of likeness should stay.
    Cost: distances: two products (rows, dim) x (dim, rows) a modality, some rows at a time, and once more in backward;
        cosines: three products of (dim, rows) x (rows, dim), on every process.
    Range: [0, 1.5] for distances, [0, 4] for cosines.
    Differs from the paper: mean over pairs, where its code sums; distances below a thousandth count as one and have no
        gradient.
    Related: `instance`; `consistency` compares two modalities in the same way; `score_matrix`.

    Args:
        teachers: names of the teachers' vectors among the extras, by modality.
        kind: what is compared.

    Reference:
        Hu et al., "ProCLIP: Progressive Vision-Language Alignment via LLM-based Embedder", 2025, structure distillation
        (https://arxiv.org/abs/2510.18795); cosines: Gupta et al., "Structuring Representation Geometry with
        Rotationally Equivariant Contrastive Learning", ICLR 2024, Eq. 3 (https://arxiv.org/abs/2306.13924), with a
        teacher in place of a second view.

    Example:
        >>> x = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
        >>> rotation = torch.linalg.qr(torch.randn(4, 4)).Q
        >>> e = Embeddings.single({"a": x}, extras={"teacher": x @ rotation})
        >>> bool(Structure({"a": "teacher"})(e) < 1e-6)
        True
    """

    def __init__(self, teachers: Teachers, kind: Literal["distances", "cosines"] = "distances") -> None:
        self.teachers, self.kind = teachers, kind

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        value = _distances if self.kind == "distances" else _cosines
        return torch.stack([value(embeddings, m, name) for m, name in self.teachers.items()]).mean()


def taught(
    e: Embeddings, modality: str, name: str
) -> tuple[Float[Tensor, "all_batch width"], Bool[Tensor, " all_batch"]]:
    """A teacher's unit vectors of all rows, zero where there are none, and which rows have them and the modality.

    Raises:
        MmclError: there are no such vectors.
    """
    t = looked_up(e, name)
    if not t.is_floating_point():
        raise MmclError(f"objective: {name!r} holds a vector a row; got {t.dtype} of {tuple(t.shape)}.")
    there = e.present.get(name, e.present[modality])
    return torch.where(there[:, None], unit(t), 0.0), there & e.present[modality]


def _distances(e: Embeddings, modality: str, name: str) -> Float[Tensor, ""]:
    x = unit(e.all[modality])
    t, both = taught(e, modality, name)
    mine = t[e.own]

    def gaps(part: slice, rows: Features, columns: Features) -> Tensor:
        gap = F.smooth_l1_loss(_apart(rows[0], columns[0]), _apart(mine[part], t).to(x.dtype), reduction="none")
        return torch.where(both, gap, 0.0).sum(1)  # a row's distance from itself is the floor for both

    count = both.sum()
    sums = torch.where(both[e.own] & (count >= 2), by_rows(gaps, (x[e.own],), (x,)), 0.0)
    return sums.sum() / (count * (count - 1)).clamp(min=1)


def _apart(x: Tensor, y: Tensor) -> Float[Tensor, "rows columns"]:
    """Distances from inner products."""
    square = x.square().sum(-1)[:, None] + y.square().sum(-1) - 2 * (x @ y.T)
    return floored_sqrt(square, FLOOR)


def _cosines(e: Embeddings, modality: str, name: str) -> Float[Tensor, ""]:
    """As `consistency` has them, the narrower one padded."""
    t, both = taught(e, modality, name)
    x = torch.where(both[:, None], unit(e.all[modality]), 0.0)
    t = torch.where(both[:, None], t, 0.0).to(x.dtype)
    width = max(x.shape[1], t.shape[1])
    x, t = (F.pad(v, (0, width - v.shape[1])) for v in (x, t))
    total, _ = squared_differences(x, t)
    count = both.sum()
    return torch.where(count >= 2, total, 0.0) / count.clamp(min=1).square() * share(e)
