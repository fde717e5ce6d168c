"""Ranks of both directions of a retrieval from one product, of which each is half of what they cost."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmcl.evaluators.ranking import COLUMNS, KEPT, Relevant, best_of, finite, less, steps, whole
from mmcl.losses.precision import full_precision


class Cosines:
    """Scores of unit rows, some queries at a time (`Scores`).

    Args:
        queries: rows that ask.
        gallery: rows that are found.
    """

    def __init__(self, queries: Float[Tensor, "queries dim"], gallery: Float[Tensor, "gallery dim"]) -> None:
        self.queries, self.gallery, self.right = queries, gallery, whole(gallery)

    def __call__(self, start: int, end: int) -> Float[Tensor, "some gallery"]:
        """With the whole gallery."""
        return self.tile(start, end)

    def tile(
        self,
        start: int,
        end: int,
        height: int = 0,
        rows: Int[Tensor, " rows"] | None = None,
        out: Float[Tensor, "height more_columns"] | None = None,
    ) -> Float[Tensor, "some columns"]:
        """Scores of some queries.

        Args:
            start: the first of them.
            end: behind the last one.
            height: as many queries are multiplied at least, so that equal ones of any two tiles have equal scores.
            rows: of the gallery; all of them unless told.
            out: room for the product; it may be overwritten by the next one.
        """
        right, columns = (self.right, len(self.gallery)) if rows is None else (whole(self.gallery[rows]), len(rows))
        left = self.queries[start:end]
        if len(left) < height:
            left = F.pad(left, (0, 0, 0, height - len(left)))
        with full_precision(right.device, exact=True):
            return torch.mm(left, right.T, out=out)[: end - start, :columns]


def ranks_both_ways(
    scores: Cosines, relevant: Relevant, kept: int = KEPT
) -> tuple[Int[Tensor, "queries best"], Int[Tensor, "gallery best_of_gallery"]] | None:
    """What `relevant_ranks` says of the queries, and of the gallery where that asks; each score is computed once.

    Rows of a tile of scores are counted as there. For the other direction its columns are counted, tile by tile; what
    they are compared with, the scores of what belongs together, is computed before, as a small part of the product. A
    library may round these otherwise than in the tile; then a tie would not be seen as one, and there is no result.

    Args:
        scores: of the queries with the gallery.
        relevant: what belongs to each query.
        kept: see `relevant_ranks`.
    """
    queries, gallery = len(scores.queries), len(scores.gallery)
    query = torch.repeat_interleave(torch.arange(queries), relevant.counts)
    tiles = steps(queries, gallery)
    height = -(-tiles[0][1] // COLUMNS) * COLUMNS
    own = _scores_of_pairs(scores, relevant, query, height)
    counts = torch.bincount(relevant.rows, minlength=gallery)
    (best, there), (turned, turned_there) = (
        best_of(own, of, count, max(min(kept, int(count.max())), 1))
        for of, count in ((query, relevant.counts), (relevant.rows, counts))
    )
    ranks = torch.zeros(best.shape, dtype=torch.long)
    below = torch.zeros(turned.shape, dtype=torch.long)  # of each row of the gallery, and each of its best
    new = scores.right.new_empty  # room for all tiles, so that memory is touched once
    product, flags = new(height, len(scores.right)), new(height, gallery)
    ones, limits = new(1, height).fill_(1), turned.T.contiguous()
    for start, end in tiles:
        tile = scores.tile(start, end, height, out=product)
        room, one = flags[: end - start], ones[:, : end - start]
        pairs = slice(int(relevant.starts[start]), int(relevant.starts[end]))
        place = (query[pairs] - start, relevant.rows[pairs])
        if not torch.equal(finite(tile[place]), own[pairs]):
            return None
        tile[place] = -torch.inf
        for j in range(best.shape[1]):
            ranks[start:end, j] = 1 + gallery - less(tile, best[start:end, j, None], room) + j
        for j in range(turned.shape[1]):
            below[:, j] += (one @ torch.lt(tile, limits[j], out=room))[0].round().long()
    turned_ranks = 1 + queries - below + torch.arange(turned.shape[1])
    return ranks.clamp(max=gallery) * there, turned_ranks.clamp(max=queries) * turned_there


def _scores_of_pairs(
    scores: Cosines, relevant: Relevant, query: Int[Tensor, " pairs"], height: int
) -> Float[Tensor, " pairs"]:
    """The score of each pair that belongs together."""
    found = []
    for start, end in steps(len(scores.queries), len(scores.gallery)):
        pairs = slice(int(relevant.starts[start]), int(relevant.starts[end]))
        rows, place = relevant.rows[pairs].unique(return_inverse=True)
        found.append(finite(scores.tile(start, end, height, rows)[query[pairs] - start, place]))
    return torch.cat(found)


def turned_round(relevant: Relevant, gallery: int) -> Relevant:
    """What belongs to each row of the gallery.

    Args:
        relevant: what belongs to each query.
        gallery: how many rows it has.
    """
    query = torch.repeat_interleave(torch.arange(len(relevant.counts)), relevant.counts)
    starts = F.pad(torch.bincount(relevant.rows, minlength=gallery).cumsum(0), (1, 0))
    return Relevant(starts, query[relevant.rows.argsort(stable=True)])
