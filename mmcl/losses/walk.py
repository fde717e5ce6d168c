r"""Statistics of all scores of rows with columns, without the matrix of these scores.

The walk makes the matrix tile by tile, lets statistics see each tile, and forgets it; backward makes the tiles again.
So memory is that of a tile, whatever the batch, for every score and every statistic, and row and column statistics cost
one pass together. With ``block=None`` the matrix is made at once, by ordinary autograd: the same numbers, written
plainly.

Logits are :math:`z_{ij} = \mathrm{scale} \cdot s_{ij} + \mathrm{bias}`. A row's own column is never part of a
statistic: the score of a pair that belongs together is computed apart (`Score.pairs`), where it can be exact, a few
rows at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcl.losses.base import Features, Score, vjp_of
from mmcl.losses.guide import Alike, Guide
from mmcl.losses.precision import full_precision
from mmcl.losses.statistics import INFINITY, Over, State, Statistic

Block = int | Literal["auto"] | None
Asked = Mapping[str, Statistic]


@dataclass(frozen=True)
class Mask:
    """Which entries of the matrix take part.

    ``diagonal`` says that row i's own column is i + diagonal, where there is such a column. Rows and columns with equal
    ids show the same thing; ids are only needed for `drop_same` and statistics over negatives or positives.
    """

    rows: Bool[Tensor, " rows"] | None = None  # all, where None
    columns: Bool[Tensor, " columns"] | None = None
    diagonal: int | None = None
    row_ids: Int[Tensor, " rows"] | None = None
    column_ids: Int[Tensor, " columns"] | None = None
    drop_same: bool = False  # entries with equal ids are nobody's negatives
    alike: tuple[Alike, ...] = ()  # nor are these

    def transposed(self) -> "Mask":
        """The mask of the transposed matrix."""
        diagonal = None if self.diagonal is None else -self.diagonal
        ids = self.column_ids, self.row_ids
        alike = tuple(a.transposed() for a in self.alike)
        return Mask(self.columns, self.rows, diagonal, *ids, self.drop_same, alike)

    def hide_(self, a: Tensor, statistic: Statistic, at: tuple[slice, slice], dim: int) -> Tensor:
        """Fill what takes no part in a tile with -inf."""
        r, c, (height, width), over = at[0].start, at[1].start, a.shape, statistic.over
        if self.columns is not None:
            a.masked_fill_(~self.columns[None, c : c + width], -INFINITY)
        if self.rows is not None:
            a.masked_fill_(~self.rows[r : r + height, None], -INFINITY)
        if self.diagonal is not None:
            offset = self.diagonal + r - c
            if -height < offset < width:
                a.diagonal(offset).fill_(-INFINITY)
        if over != "others" or self.drop_same:
            assert self.row_ids is not None
            assert self.column_ids is not None
            same = self.row_ids[r : r + height, None] == self.column_ids[None, c : c + width]
            a.masked_fill_(~same if over == "positives" else same, -INFINITY)
        if over != "positives":
            for alike in self.alike:
                a.masked_fill_(alike.tile(at, dim), -INFINITY)
        return a


class Found(NamedTuple):
    """What a walk found."""

    own: Float[Tensor, " rows"] | None  # scores of the rows with their own columns
    rows: dict[str, Tensor]
    columns: dict[str, Tensor]


@dataclass(frozen=True)
class Walk:
    """What to compute: statistics of rows and of columns, by name, and the scores of rows with their own columns."""

    score: Score
    mask: Mask = field(default_factory=Mask)
    rows: Asked = field(default_factory=dict)
    columns: Asked = field(default_factory=dict)
    own: bool = False  # every row must have a column of its own then
    guide: Guide | None = None  # for statistics that are guided
    block: Block = "auto"
    row_factors: Float[Tensor, " rows"] | None = None  # of the logits of row statistics, constants
    column_factors: Float[Tensor, " columns"] | None = None  # of those of column statistics

    def __call__(
        self,
        rows: Features,
        columns: Features,
        scale: Float[Tensor, ""],
        bias: Float[Tensor, ""] | None = None,
    ) -> Found:
        """Make all tiles.

        Args:
            rows: what the score made of the anchors.
            columns: what the score made of the candidates.
            scale: one over the temperature.
            bias: added to all logits.
        """
        if self.block is None:
            with full_precision(rows[0].device, self.score.exact):
                results = self._plain(rows, columns, scale, bias)
        else:
            results = list(cast("tuple[Tensor, ...]", _Tiles.apply(self, len(rows), scale, bias, *rows, *columns)))
        own = results.pop(0) if self.own else None
        split = len(self.rows)
        return Found(
            own,
            dict(zip(self.rows, results[:split], strict=True)),
            dict(zip(self.columns, results[split:], strict=True)),
        )

    @property
    def asked(self) -> list[tuple[int, Statistic]]:
        """All statistics, with the dimension that each sums over."""
        return [*((1, s) for s in self.rows.values()), *((0, s) for s in self.columns.values())]

    def _plain(self, rows: Features, columns: Features, scale: Tensor, bias: Tensor | None) -> list[Tensor]:
        z = self.score.tile(rows, columns) * scale
        z = z if bias is None else z + bias
        own = [self.score.pairs(rows, _cut(columns, self.own_columns(slice(0, z.shape[0]))))] if self.own else []
        whole = slice(0, z.shape[0]), slice(0, z.shape[1])
        logits = (self.factor_(z * s.scale, dim, slice(None)) for dim, s in self.asked)
        hidden = (self.mask.hide_(a, s, whole, dim) for (dim, s), a in zip(self.asked, logits, strict=True))
        seen = (self.seen(s, a, whole, dim) for (dim, s), a in zip(self.asked, hidden, strict=True))
        return [*own, *(s.plain(a, dim) for (dim, s), a in zip(self.asked, seen, strict=True))]

    def factor_(self, a: Tensor, dim: int, part: slice) -> Tensor:
        """Multiply what belongs to some rows (or columns) with their factors."""
        factors = self.row_factors if dim == 1 else self.column_factors
        return a if factors is None else a.mul_(factors[part].unsqueeze(dim))

    def seen(self, statistic: Statistic, a: Tensor, at: tuple[slice, slice], dim: int) -> Tensor:
        """What a statistic sees: the logits of a tile, and above them the log-weights where it is guided."""
        if not statistic.guided:
            return a
        assert self.guide is not None
        weights = self.guide.tile(at, dim).to(a.dtype)
        return torch.stack([a, weights.masked_fill(a == -INFINITY, -INFINITY)])

    def own_columns(self, rows: slice) -> slice:
        """The columns that belong to some rows."""
        assert self.mask.diagonal is not None
        return slice(rows.start + self.mask.diagonal, rows.stop + self.mask.diagonal)

    def tiles(self, shape: tuple[int, int], device: torch.device) -> Iterator[tuple[slice, slice]]:
        """The tiles of the matrix, row by row."""
        if not self.asked:
            return
        side = self.block
        if side is None or side == "auto":  # a tile should stay in a CPU's cache, and keep a GPU busy
            side = self.score.block if device.type == "cpu" else 4096
        for r in range(0, shape[0], side):
            for c in range(0, shape[1], side):
                yield slice(r, min(r + side, shape[0])), slice(c, min(c + side, shape[1]))


class _Tile:
    """Scores of one tile, and its logits by factor and by who takes part, each made when it is first asked for."""

    def __init__(self, walk: Walk, scores: Tensor, scale: Tensor, bias: Tensor | None, at: tuple[slice, slice]) -> None:
        self.walk, self.scores, self.scale, self.bias, self.at = walk, scores, scale, bias, at
        self.made: dict[tuple[float, Over, int | None, bool], Tensor] = {}

    def logits(self, statistic: Statistic, dim: int) -> Tensor:
        """Logits as a statistic sees them."""
        factors = self.walk.row_factors if dim == 1 else self.walk.column_factors
        both = not self.walk.mask.alike and not statistic.guided and factors is None  # rows and columns see the same
        key = statistic.scale, statistic.over, None if both else dim, statistic.guided
        if key not in self.made:
            a = self.scores * (self.scale * statistic.scale)
            if self.bias is not None:
                a.add_(self.bias * statistic.scale)
            a = self.walk.mask.hide_(self.walk.factor_(a, dim, self.part(dim)), statistic, self.at, dim)
            self.made[key] = self.walk.seen(statistic, a, self.at, dim)
        return self.made[key]

    def part(self, dim: int) -> slice:
        """Which of all numbers of a statistic this tile bears on."""
        return self.at[1 - dim]


class _Tiles(torch.autograd.Function):
    """The walk with recomputation; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any, walk: Walk, split: int, scale: Tensor, bias: Tensor | None, *features: Tensor
    ) -> tuple[Tensor, ...]:
        rows, columns = features[:split], features[split:]
        shape = rows[0].shape[0], columns[0].shape[0]
        states: list[State] = [s.empty(shape[1 - dim], rows[0]) for dim, s in walk.asked]
        with full_precision(rows[0].device, walk.score.exact):
            for at in walk.tiles(shape, rows[0].device):
                scores = walk.score.tile(_cut(rows, at[0]), _cut(columns, at[1]))
                tile = _Tile(walk, scores, scale, bias, at)
                for number, (dim, statistic) in enumerate(walk.asked):
                    part = tile.part(dim)
                    old = tuple(x[part] for x in states[number])
                    new = statistic.update(old, tile.logits(statistic, dim), dim, at[dim].start)
                    for whole, values in zip(states[number], new, strict=True):
                        whole[part] = values
            own = [walk.score.pairs(*_own(walk, r, rows, columns)) for r in _chunks(walk, shape[0])]
        ctx.walk, ctx.split, ctx.lengths = walk, split, [len(state) for state in states]
        ctx.save_for_backward(scale, bias, *features, *(x for state in states for x in state))
        results = [s.result(state) for (_, s), state in zip(walk.asked, states, strict=True)]
        return tuple([torch.cat([rows[0].new_empty(0), *own]), *results] if walk.own else results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        walk, split = ctx.walk, ctx.split
        scale, bias, *saved = ctx.saved_tensors
        features = saved[: len(saved) - sum(ctx.lengths)]
        rest = iter(saved[len(features) :])
        states = [tuple(next(rest) for _ in range(length)) for length in ctx.lengths]
        rows, columns = features[:split], features[split:]
        wanted = ctx.needs_input_grad[4:]
        into = [torch.zeros_like(f) if want else None for f, want in zip(features, wanted, strict=True)]
        shape = rows[0].shape[0], columns[0].shape[0]
        of_scale = torch.zeros_like(scale)
        of_bias = None if bias is None else torch.zeros_like(bias)
        of_own, grads = (grads[0], grads[1:]) if walk.own else (None, grads)
        with full_precision(rows[0].device, walk.score.exact):
            for r in _chunks(walk, shape[0]):
                assert of_own is not None
                _, pull = vjp_of(walk.score.pairs, *_own(walk, r, rows, columns))
                pull(of_own[r], *_own(walk, r, into[:split], into[split:]))
            for at in walk.tiles(shape, rows[0].device):
                scores, pull = walk.score.vjp(_cut(rows, at[0]), _cut(columns, at[1]))
                tile = _Tile(walk, scores, scale, bias, at)
                g = _gradient(tile, states, grads)
                if of_bias is not None:
                    of_bias += g.sum()
                if ctx.needs_input_grad[2]:
                    of_scale += torch.dot(g.flatten(), scores.flatten())
                pull(g.mul_(scale), _cut(into[:split], at[0]), _cut(into[split:], at[1]))
        return None, None, of_scale, of_bias, *into


def _chunks(walk: Walk, rows: int, length: int = 1024) -> list[slice]:
    """Rows whose own scores are computed at once."""
    return [slice(r, min(r + length, rows)) for r in range(0, rows, length)] if walk.own else []


def _own(walk: Walk, r: slice, rows: Any, columns: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return _cut(rows, r), _cut(columns, walk.own_columns(r))


def _gradient(tile: _Tile, states: list[State], grads: tuple[Tensor, ...]) -> Tensor:
    """Gradient with respect to the logits of a tile."""
    total: Tensor | None = None
    for (dim, statistic), state, g in zip(tile.walk.asked, states, grads, strict=True):
        part, start = tile.part(dim), tile.at[dim].start
        cut = tuple(x[part] for x in state)
        one = statistic.gradient(cut, tile.logits(statistic, dim), g[part], dim, start)
        one = tile.walk.factor_(one if statistic.scale == 1 else one.mul_(statistic.scale), dim, part)
        total = one if total is None else total.add_(one)
    assert total is not None
    return total


def _cut(features: Any, part: slice) -> tuple[Any, ...]:
    return tuple(None if f is None else f[part] for f in features)


def unless_all(there: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"] | None:
    """None where all is there, if that can be known without waiting for a device."""
    return None if there.device.type == "cpu" and bool(there.all()) else there
