"""Numbers of rows that need all columns and are no statistics of one score, made for some rows at a time.

The walk knows one score; what compares two matrices (a student's with a teacher's, a prediction with an assignment) is
written plainly here, for a few rows and all columns, forgotten, and made once more in backward. So memory is linear in
the batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcl.losses.base import Features, vjp_of
from mmcl.losses.precision import full_precision

ENTRIES = 2**20  # of a matrix that exist at once on a CPU, whose allocator keeps several times as much
GPU_ENTRIES = 2**24

ByRow = Callable[[slice, Features, Features], Tensor]
"""Makes one number a row of some rows and all columns. The slice says which rows: what has no gradient (masks,
teachers) is not among the features, and the function cuts it itself."""


def by_rows(function: ByRow, rows: Features, columns: Features) -> Tensor:
    """What a function makes of each row and all columns, without TF32; once differentiable.

    Args:
        function: sees some rows at a time.
        rows: tensors with a row for each.
        columns: the same of the columns.
    """
    return _ByRows.apply(function, len(rows), *rows, *columns)  # type: ignore[no-any-return]


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: ByRow, split: int, *features: Tensor) -> Tensor:
        rows, columns = features[:split], features[split:]
        ctx.function, ctx.split = function, split
        ctx.save_for_backward(*features)
        with full_precision(rows[0].device, exact=True):
            made = rows[0].new_zeros(0)
            for part in _parts(rows, columns):
                found = function(part, _cut(rows, part), columns)
                if part.start == 0:  # in one piece: small results between large ones would split a CPU's heap
                    made = found.new_empty(rows[0].shape[0])
                made[part] = found
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        features = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        into = tuple(torch.zeros_like(f) if want else None for f, want in zip(features, wanted, strict=True))
        rows, columns = features[: ctx.split], features[ctx.split :]
        with full_precision(g.device, exact=True):
            for part in _parts(rows, columns):
                _, pull = vjp_of(partial(ctx.function, part), _cut(rows, part), columns)
                pull(g[part], _cut(into[: ctx.split], part), into[ctx.split :])
        return None, None, *into


def _parts(rows: Features, columns: Features) -> list[slice]:
    entries = ENTRIES if rows[0].device.type == "cpu" else GPU_ENTRIES
    count, side = rows[0].shape[0], max(1, entries // max(1, columns[0].shape[0]))
    return [slice(r, min(r + side, count)) for r in range(0, count, side)]


def _cut(features: Any, part: slice) -> tuple[Any, ...]:
    return tuple(None if f is None else f[part] for f in features)
