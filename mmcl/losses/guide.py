"""What vectors that the loss does not move say of rows and columns: who is a positive too, and who is no negative."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmcl.losses.precision import full_precision
from mmcl.losses.statistics import INFINITY

Known = Mapping[str, Float[Tensor, " rows"]]
Weigh = Callable[[Float[Tensor, "..."], Mapping[str, Float[Tensor, "..."]]], Float[Tensor, "..."]]
"""Log-weights from similarities, and from what is known of each row."""


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of rows and of columns, and where there are none."""

    rows: Float[Tensor, "rows guide_dim"]
    columns: Float[Tensor, "columns guide_dim"]
    row_there: Bool[Tensor, " rows"]
    column_there: Bool[Tensor, " columns"]

    def tile(self, at: tuple[slice, slice]) -> Float[Tensor, "height width"]:
        """Cosines of some rows with some columns; -inf where one of the two has no vector."""
        with full_precision(self.rows.device, exact=True):
            t = self.rows[at[0]] @ self.columns[at[1]].T
        return t.masked_fill_(~(self.row_there[at[0], None] & self.column_there[None, at[1]]), -INFINITY)

    def transposed(self) -> "Vectors":
        """Columns as rows."""
        return Vectors(self.columns, self.rows, self.column_there, self.row_there)

    def cut(self, rows: slice, columns: slice) -> "Vectors":
        """Some of the rows and columns."""
        return Vectors(self.rows[rows], self.columns[columns], self.row_there[rows], self.column_there[columns])


@dataclass(frozen=True)
class Guide:
    """Log-weights of the candidates in the target of each row, and of each column."""

    vectors: Vectors
    weigh: Weigh
    by_row: Known = field(default_factory=dict)
    by_column: Known = field(default_factory=dict)

    def cut(self, rows: slice, columns: slice) -> "Guide":
        """For some of the rows and columns."""
        by_row = {name: x[rows] for name, x in self.by_row.items()}
        by_column = {name: x[columns] for name, x in self.by_column.items()}
        return Guide(self.vectors.cut(rows, columns), self.weigh, by_row, by_column)

    def tile(self, at: tuple[slice, slice], dim: int) -> Float[Tensor, "height width"]:
        """Log-weights for numbers per row (``dim`` 1) or per column (0)."""
        known, part = (self.by_row, at[0]) if dim == 1 else (self.by_column, at[1])
        t = self.vectors.tile(at)
        weights = self.weigh(t, {name: x[part].unsqueeze(dim) for name, x in known.items()})
        return weights.masked_fill(t == -INFINITY, -INFINITY)


@dataclass(frozen=True)
class Alike:
    """Entries so similar that they may be positives: nobody's negatives."""

    vectors: Vectors
    row_limits: Float[Tensor, " rows"]
    column_limits: Float[Tensor, " columns"]

    def transposed(self) -> "Alike":
        """Columns as rows."""
        return Alike(self.vectors.transposed(), self.column_limits, self.row_limits)

    def cut(self, rows: slice, columns: slice) -> "Alike":
        """For some of the rows and columns."""
        return Alike(self.vectors.cut(rows, columns), self.row_limits[rows], self.column_limits[columns])

    def tile(self, at: tuple[slice, slice], dim: int) -> Bool[Tensor, "height width"]:
        """Which entries are above the limit of their row (``dim`` 1) or of their column (0)."""
        limits = self.row_limits[at[0]] if dim == 1 else self.column_limits[at[1]]
        return torch.gt(self.vectors.tile(at), limits.unsqueeze(dim))
