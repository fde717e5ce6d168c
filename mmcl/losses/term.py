"""One term of an objective: a score, a contrast and a temperature over the matrices of a view."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.losses import mixtures
from mmcl.losses.base import Contrast, Score, Side
from mmcl.losses.draws import permutation
from mmcl.losses.guide import Guide
from mmcl.losses.line import Line, built
from mmcl.losses.matrix import Candidates, Matrix, merged, nothing
from mmcl.losses.negatives.base import Negatives
from mmcl.losses.negatives.batch import InBatch
from mmcl.losses.precision import full_precision
from mmcl.losses.scores.cosine import Cosine
from mmcl.losses.statistics import Count, Expected, Statistic
from mmcl.losses.targets.base import SoftTargets, Targets, vectors
from mmcl.losses.temperature import Temperature
from mmcl.losses.term_spec import TermSpec
from mmcl.losses.views import Edge, View
from mmcl.types import Embeddings

COUNTED, TARGET = (
    "candidates that are not left out",
    "expected logit under soft targets",
)  # statistics of the term's own


class Term(Line):
    """A contrast over score matrices.

    Each matrix adds half the mean loss of the rows that search their own candidate among all candidates, and half that
    of the candidates that search their own anchor among all anchors (`directions` can say otherwise); matrices are
    averaged. A row counts where it has all that the matrix compares. A direction with fewer than two such rows in the
    global batch adds zero.
    """

    spec: TermSpec

    def __init__(self, spec: TermSpec, dim: int | None = None) -> None:
        super().__init__(spec, dim)
        self.score: Score = built(spec.score, dim)
        self.contrast: Contrast = built(spec.contrast, dim)
        self.targets: Targets = built(spec.targets, dim)
        self.negatives = nn.ModuleList(built(part, dim) for part in spec.negatives)
        assert spec.view is not None
        self.view: View = spec.view.build()
        self.temperature = None if spec.temperature is None else Temperature(spec.temperature)

    def value(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part of the term."""
        edges = self.view.edges(list(embeddings.all))
        if not edges:
            raise MmclError(f"view: {self.spec.title} finds nothing to compare among {list(embeddings.all)}.")
        with full_precision(embeddings.ids.device, self.score.exact):
            return torch.stack([self._edge(embeddings, edge, i) for i, edge in enumerate(edges)]).mean()

    def _edge(self, e: Embeddings, edge: Edge, number: int) -> Float[Tensor, ""]:
        """One matrix, or several where the candidates come in copies."""
        matrix = self._matrix(e, edge, number)
        forward, backward = self._search(matrix)
        if backward is None or self.spec.directions == "forward":
            return self._loss([forward])
        backwards = [backward, *(self._copy(matrix, copy) for copy in edge.copies)]
        if self.spec.directions == "joint":
            asked, statistics = self._asked(matrix), forward.statistics
            for side in backwards:
                statistics = merged(asked, statistics, side.statistics)
            return self._loss([replace(forward, statistics=statistics)])
        if self.spec.directions == "backward":
            return self._loss(backwards)
        return (self._loss([forward]) + self._loss(backwards)) / 2

    def _matrix(self, e: Embeddings, edge: Edge, number: int) -> Matrix:
        """Features of all rows, and who takes part."""
        there = e.present[edge.anchor], torch.stack([e.present[m] for m in edge.others]).all(0)
        if not any(part.unmatched for part in self._parts()):  # then nobody looks at what has no partner
            there = (there[0] & there[1],) * 2
        anchors = self.score.anchors(e.all[edge.anchor])
        like = anchors[0]
        matrix = Matrix(
            e=e,
            edge=edge,
            score=self.score,
            scale=like.new_ones(()) if self.temperature is None else self.temperature.scale.to(like.dtype),
            bias=self.contrast.logit_bias(),
            block=self.spec.block,
            anchors=anchors,
            tuples=self.score.candidates([e.all[m] for m in edge.others]),
            anchors_there=there[0],
            tuples_there=there[1],
            drop_same=any(part.drop_same for part in self._parts()),
            alike=tuple(a for a in (part.alike(e, edge) for part in self._parts()) if a is not None),
            number=number,
            shared=self.targets.shared,
            suffix=f"/{like.shape[1]}{f'.{e.number}' if e.number else ''}" if self.spec.transform else "",
        )
        return self._with_factors(matrix)

    def _with_factors(self, matrix: Matrix) -> Matrix:
        """What the contrast knows of each row's logits."""
        ids = matrix.e.ids[matrix.e.own]
        rows, columns = (self.contrast.factors(ids, matrix.name(forward)) for forward in (True, False))
        return replace(matrix, row_factors=rows, column_factors=columns)

    def _search(self, matrix: Matrix) -> "tuple[_Rows, _Rows | None]":
        """What rows find among candidates, and candidates among rows."""
        shuffle, directions = getattr(self.score, "shuffle", False), self.spec.directions
        both = not self.contrast.one_way and not shuffle and directions != "forward"
        asked, guide = self._asked(matrix), self._guide(matrix)
        if guide is not None:
            asked = {**asked, TARGET: Expected()}
        replaced = [any(part.replaces(matrix, forward) for part in self._parts()) for forward in (True, False)]
        seen = self._shuffled(matrix) if shuffle else matrix
        if replaced[0] and (replaced[1] or not both):
            own, sides = matrix.pairs(), [{}, {}]
        else:
            found = seen.statistics(asked, both, own=not shuffle, guide=guide)
            own, sides = matrix.pairs() if found.own is None else found.own, found.sides
        sides = [nothing(asked, own) if r else side for r, side in zip(replaced, sides, strict=False)]
        forward = self._rows(matrix, True, own, self._with_more(matrix, True, sides[0], asked), guide)
        backward = None
        if both:
            backward = self._rows(matrix, False, own, self._with_more(matrix, False, sides[1], asked), guide)
        if (mixed := self._mixed(matrix, own)) is not None:
            forward = replace(forward, target=mixed[0])
            backward = backward and replace(backward, target=mixed[1])
        if backward is not None:
            return forward, backward
        if self.contrast.one_way:  # columns would say again what rows said, but for what only columns meet
            forward = replace(forward, statistics=self._with_more(matrix, False, forward.statistics, asked))
        return forward, None

    def _copy(self, matrix: Matrix, copy: str) -> "_Rows":
        """Another copy of the candidates in search of the anchors."""
        e, asked = matrix.e, self._asked(matrix)
        more = replace(
            matrix,
            edge=Edge(matrix.edge.anchor, (copy,)),
            tuples=self.score.candidates([e.all[copy]]),
            tuples_there=matrix.tuples_there & e.present[copy],
        )
        more = self._with_factors(more)
        return self._rows(more, False, more.pairs(), self._with_more(more, False, more.side(False, asked), asked), None)

    def _rows(
        self, matrix: Matrix, forward: bool, own: Tensor, statistics: dict[str, Tensor], guide: Guide | None
    ) -> "_Rows":
        """Rows of a direction with all that is known of them."""
        counted = matrix.anchors_there & matrix.tuples_there
        sinks = [sink for part in self._parts() if (sink := part.sink(matrix, forward)) is not None]
        for sink in sinks:  # what has no partner must find it
            own = torch.where(counted[matrix.e.own], own, sink)
            counted = matrix.anchors_there if forward else matrix.tuples_there
        log_weights = statistics.pop(TARGET, None)
        target = None
        if log_weights is not None and guide is not None and self._softens(matrix, forward):
            assert isinstance(self.targets, SoftTargets)
            z = own * matrix.scale
            z = z if matrix.bias is None else z + matrix.bias
            expected = self.targets.expected(z, log_weights, guide, matrix.e.own, forward)
            target = mixtures.Target(expected, torch.ones_like(expected))
        return _Rows(matrix, forward, own, statistics, counted, target)

    def _mixed(self, matrix: Matrix, own: Tensor) -> "tuple[mixtures.Target, mixtures.Target] | None":
        """Targets of rows that are mixtures, in both directions."""
        if not {matrix.edge.anchor, *matrix.edge.others} & set(matrix.e.mixed):
            return None
        self.spec.takes_mixed(matrix.e.mixed, list(matrix.e.all))
        return mixtures.targets(matrix, own)

    def _loss(self, parts: "list[_Rows]") -> Float[Tensor, ""]:
        """Mean loss of all rows that count, this process's part."""
        e, enough = parts[0].matrix.e, parts[0].counted.sum() >= 2  # of samples, not of their copies
        count = torch.stack([rows.counted.sum() for rows in parts]).sum()
        total = parts[0].own.new_zeros(())
        weights = self.targets.weights(e)
        for rows in parts:
            counted = rows.counted[e.own] & enough
            loss = self.contrast(rows.side(counted, count, self.score.lowest))
            if loss.shape != rows.own.shape:
                raise MmclError(
                    f"objective: {self.spec.title}: {self.spec.contrast.name} must return the loss of each of "
                    f"{len(rows.own)} rows; got {tuple(loss.shape)}."
                )
            loss = loss if weights is None else loss * weights[e.own].to(loss)
            total = total + torch.where(counted, loss, 0.0).sum()
        return total / count.clamp(min=1)

    def _asked(self, matrix: Matrix) -> dict[str, Statistic]:
        asked = self.contrast.statistics(shared=self.targets.shared)
        if any(type(part) is not InBatch for part in self._parts()) or matrix.edge.copies:
            asked = {**asked, COUNTED: Count()}  # else all that are there are candidates
        return asked

    def _with_more(
        self, matrix: Matrix, forward: bool, side: Mapping[str, Tensor], asked: Mapping[str, Statistic]
    ) -> dict[str, Tensor]:
        """Statistics of a direction, over further candidates too."""
        side, asked = dict(side), {name: s for name, s in asked.items() if not s.guided}
        more = [candidates for part in self._parts() for candidates in part.more(matrix, forward)]
        for copy in matrix.edge.copies if forward else ():
            there = matrix.tuples_there & matrix.e.present[copy]
            more.append(Candidates([matrix.e.all[copy]], there, matrix.e.ids, positives=True))
        for candidates in more:
            if isinstance(candidates, Candidates):
                found = matrix.against(forward, candidates, asked)
            else:
                found = {n: s.plain(candidates * s.scale, 1) for n, s in asked.items() if s.over != "positives"}
            side = merged(asked, side, found)
        return side

    def _parts(self) -> "Iterator[Negatives]":
        for part in self.negatives:
            assert isinstance(part, Negatives)
            yield part

    def _softens(self, matrix: Matrix, forward: bool) -> bool:
        toward = getattr(self.targets, "toward", None)
        return toward is None or toward in matrix.modalities(forward)

    @torch.no_grad()
    def _guide(self, matrix: Matrix) -> Guide | None:
        """Whom soft targets weigh how much, and what must be known of each row for it."""
        if not isinstance(self.targets, SoftTargets):
            return None
        if not any(self._softens(matrix, forward) for forward in (True, False)):
            return None
        v = vectors(matrix.e, self.targets.by, matrix.edge)
        known = self.targets.known()
        sides: list[dict[str, Tensor]] = [{}, {}]
        if known:
            similar = replace(
                matrix,
                score=Cosine(),
                scale=v.rows.new_ones(()),
                bias=None,
                anchors=(v.rows,),
                tuples=(v.columns,),
                anchors_there=matrix.anchors_there & v.row_there,
                tuples_there=matrix.tuples_there & v.column_there,
            )
            sides = similar.statistics(known, own=False).sides
        own = {"own": (v.rows * v.columns).sum(1)}
        gathered = [{n: matrix.e.everyone(x.flatten()) for n, x in side.items()} | own for side in sides]
        return Guide(v, partial(self.targets.log_weights, own=False), *gathered)

    def _shuffled(self, matrix: Matrix) -> Matrix:
        """Candidates put together anew from rows that count: by step and matrix, the same on every process."""
        e, valid = matrix.e, matrix.tuples_there
        generator = e.generator(matrix.number)
        rows = [e.all[m][permutation(valid, generator)] for m in matrix.edge.others]
        return replace(matrix, tuples=self.score.candidates(rows))


@dataclass(frozen=True)
class _Rows:
    """Rows of one direction of a matrix, and what they found."""

    matrix: Matrix
    forward: bool
    own: Float[Tensor, " rows"]
    statistics: dict[str, Tensor]
    counted: Bool[Tensor, " all_batch"]
    target: mixtures.Target | None

    def side(self, counted: Bool[Tensor, " rows"], count: Tensor, lowest: float | None) -> Side:
        """What the contrast sees."""
        matrix, e = self.matrix, self.matrix.e
        statistics = dict(self.statistics)

        def mean(x: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
            return e.total(torch.where(counted, x, 0.0).sum()) / count.clamp(min=1)

        there = matrix.tuples_there if self.forward else matrix.anchors_there
        others = (there.sum() - there[e.own].long()).to(self.own)
        return Side(
            self.own,
            statistics,
            statistics.pop(COUNTED, others),
            matrix.scale,
            matrix.bias,
            lowest,
            mean,
            ids=e.ids[e.own],
            counted=counted,
            gather=e.everyone,
            name=matrix.name(self.forward),
            target=None if self.target is None else self.target.logit,
            mass=None if self.target is None else self.target.mass,
        )
