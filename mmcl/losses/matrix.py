"""One score matrix of a term: who takes part, and the walks through it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmcl.losses.base import Features, Score
from mmcl.losses.guide import Alike, Guide
from mmcl.losses.statistics import Largest, LargestPlaces, Statistic
from mmcl.losses.views import Edge
from mmcl.losses.walk import Block, Mask, Walk, unless_all
from mmcl.losses.walk import Found as Seen
from mmcl.types import Embeddings

Asked = Mapping[str, Statistic]


@dataclass(frozen=True)
class Candidates:
    """More candidates for every row, beside those of the batch."""

    vectors: Sequence[Float[Tensor, "candidates dim"]]  # one of each modality of what is looked for
    there: Bool[Tensor, " candidates"] | None = None  # all, where None
    ids: Int[Tensor, " candidates"] | None = None  # what they show, where that is known
    paired: bool = False  # candidate i belongs to row i of the global batch, and is not its negative
    rows: Bool[Tensor, " all_batch"] | None = None  # rows that see them; all, where None
    alike: Alike | None = None  # of the rows of this process with the candidates
    positives: bool = False  # those with a row's id are positives of it
    top_k: int | None = None  # only a row's k highest count


@dataclass(frozen=True)
class Matrix:
    """Scores of all anchors with all candidates, in both directions, as this process sees them.

    ``forward`` is the search of anchors for candidates (this process's rows against all columns), the other direction
    that of candidates for anchors.
    """

    e: Embeddings
    edge: Edge
    score: Score
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None
    block: Block
    anchors: Features  # of all rows
    tuples: Features
    anchors_there: Bool[Tensor, " all_batch"]
    tuples_there: Bool[Tensor, " all_batch"]
    drop_same: bool = False  # what shows the same thing is nobody's negative
    shared: bool = False  # it is a positive
    alike: tuple[Alike, ...] = ()  # of all rows
    number: int = 0  # tells draws apart
    suffix: str = ""  # of its names, where there are several of the same modalities
    row_factors: Float[Tensor, " rows"] | None = None  # of the logits of this process's rows, constants
    column_factors: Float[Tensor, " rows"] | None = None  # of those of its columns

    def modalities(self, forward: bool) -> tuple[str, ...]:
        """What is looked for."""
        return self.edge.others if forward else (self.edge.anchor,)

    def searching(self, forward: bool) -> tuple[str, ...]:
        """What looks for it."""
        return (self.edge.anchor,) if forward else self.edge.others

    def name(self, forward: bool) -> str:
        """Whose rows against whose candidates, as in "text>image"."""
        sides = "+".join(self.searching(forward)), "+".join(self.modalities(forward))
        return ">".join(sides) + self.suffix

    @property
    def whole(self) -> bool:
        """Whether this process holds all rows, so that both directions are one walk."""
        return self.e.own == slice(0, self.anchors_there.shape[0])

    def statistics(self, asked: Asked, both: bool = True, own: bool = True, guide: Guide | None = None) -> "Found":
        """Statistics of this process's rows over all columns, and of its columns over all rows.

        Args:
            asked: which.
            both: whether columns are asked too.
            own: whether the scores of what belongs together are found on the way.
            guide: of all rows and columns.
        """
        columns = asked if both and self.whole else {}
        found = self._forward(guide, rows=asked, columns=columns, own=own)
        sides = [found.rows, found.columns] if both else [found.rows]
        if both and not self.whole:
            sides[1] = self.side(False, asked, guide)
        return Found(found.own, sides)

    def side(self, forward: bool, asked: Asked, guide: Guide | None = None) -> dict[str, Tensor]:
        """Statistics of this process's rows alone, or of its columns alone."""
        if forward:
            return self._forward(guide, rows=asked).rows
        every = slice(0, self.anchors_there.shape[0])
        walk = self._walk(every, self.e.own, -self.e.offset, guide)
        walk = replace(walk, columns=asked, column_factors=self.column_factors)
        return walk(self.anchors, self.rows(False), self.scale, self.bias).columns

    def hardest(self, forward: bool, k: int) -> Int[Tensor, "rows k"]:
        """Which candidates have the k highest scores of each row of this process; -1 where there are fewer."""
        return self.side(forward, {"hardest": LargestPlaces(k=k)})["hardest"]

    def rows(self, forward: bool) -> Features:
        """Features of this process's rows, or of its columns."""
        return tuple(f[self.e.own] for f in (self.anchors if forward else self.tuples))

    def pairs(self) -> Float[Tensor, " rows"]:
        """Scores of this process's anchors with their own candidates."""
        return self.score.pairs(self.rows(True), self.rows(False))

    def against(self, forward: bool, more: Candidates, asked: Asked) -> dict[str, Tensor]:
        """Statistics of this process's rows (or columns) over more candidates."""
        own = self.e.own
        there = (self.anchors_there if forward else self.tuples_there)[own]
        there = there if more.rows is None else there & more.rows[own]
        known = more.ids is not None
        asked = {name: s for name, s in asked.items() if s.over != "positives" or more.positives}
        if not more.positives:
            asked = {name: replace(s, over="others") for name, s in asked.items()}
        mask = Mask(
            there,
            more.there,
            self.e.offset if more.paired and not more.positives else None,
            self.e.ids[own] if known else None,
            more.ids,
            drop_same=(self.drop_same or self.shared) and known and not more.positives,
            alike=() if more.alike is None else (more.alike,),
        )
        wanted: Asked = asked if more.top_k is None else {"hardest": Largest(k=more.top_k)}
        if forward:
            walk = Walk(self.score, mask, rows=wanted, block=self.block)
            found = walk(self.rows(True), self.score.candidates(more.vectors), self.scale, self.bias).rows
        else:
            walk = Walk(self.score, mask.transposed(), columns=wanted, block=self.block)
            anchors = self.score.anchors(more.vectors[0])
            found = walk(anchors, self.rows(False), self.scale, self.bias).columns
        if more.top_k is None:
            return found
        return {name: s.plain(found["hardest"] * s.scale, 1) for name, s in asked.items()}

    def paired(
        self, forward: bool, rows: Features, vectors: Sequence[Float[Tensor, "rows dim"]]
    ) -> Float[Tensor, " rows"]:
        """Scores of some rows (or columns), each with a candidate of its own among those given."""
        if forward:
            return self.score.pairs(rows, self.score.candidates(vectors))
        return self.score.pairs(self.score.anchors(vectors[0]), rows)

    def _forward(self, guide: Guide | None, **asked: Any) -> Seen:
        """This process's rows against all columns, and, where they are asked too, columns against these rows."""
        walk = self._walk(self.e.own, slice(0, self.anchors_there.shape[0]), self.e.offset, guide)
        walk = replace(walk, row_factors=self.row_factors, column_factors=self.column_factors, **asked)
        return walk(self.rows(True), self.tuples, self.scale, self.bias)

    def _walk(self, rows: slice, columns: slice, diagonal: int, guide: Guide | None) -> Walk:
        there = unless_all(self.anchors_there[rows]), unless_all(self.tuples_there[columns])
        ids = self.e.ids[rows], self.e.ids[columns]
        alike = tuple(a.cut(rows, columns) for a in self.alike)
        mask = Mask(*there, diagonal, *ids, drop_same=self.drop_same, alike=alike)
        return Walk(self.score, mask, guide=None if guide is None else guide.cut(rows, columns), block=self.block)


@dataclass(frozen=True)
class Found:
    """What a matrix says of this process's rows."""

    own: Float[Tensor, " rows"] | None  # scores with their own candidates, where they were asked for
    sides: list[dict[str, Tensor]]  # statistics of the rows, and of the columns


def merged(asked: Asked, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Statistics over the candidates of both; what the other says nothing of stays."""
    return {name: asked[name].merge(x, other[name]) if name in other else x for name, x in one.items()}


def nothing(asked: Asked, like: Float[Tensor, " rows"]) -> dict[str, Tensor]:
    """Statistics of rows without candidates."""
    return {name: s.result(s.empty(like.shape[0], like.detach())) for name, s in asked.items()}
