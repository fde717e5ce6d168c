"""Ranks of what belongs to a query, and figures of them. A tie counts against the model."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmcl.evaluators.figures import Figure, mean, median

ROWS = 512  # queries that are scored at once, at most: of several sizes the fastest
CELLS = 2**23  # scores that are held at once, and as many results of comparing them: 32 MB each
COLUMNS = 64  # that a product's right side is padded to, see `whole`
KEPT = 10  # of what belongs to a query, as many are ranked: more cannot be among the first ten
EXACT = 2**24  # as far as fp32 counts

Scores = Callable[[int, int], Float[Tensor, "queries gallery"]]
"""Scores of the queries from one number to another with the whole gallery, larger is closer; may be overwritten."""


class Relevant(NamedTuple):
    """What belongs to each query: the gallery's ``rows[starts[q] : starts[q + 1]]``."""

    starts: Int[Tensor, " one_more"]
    rows: Int[Tensor, " pairs"]

    @property
    def counts(self) -> Int[Tensor, " queries"]:
        """How many belong to each."""
        return self.starts.diff()

    @classmethod
    def of_pairs(cls, pairs: Int[np.ndarray, "pairs two"], queries: int) -> "Relevant":
        """From (query, gallery row), in any order, repeated or not."""
        wide = int(pairs[:, 1].max(initial=0)) + 1
        query, row = np.divmod(np.unique(pairs[:, 0] * wide + pairs[:, 1]), wide)
        return cls(torch.from_numpy(np.searchsorted(query, np.arange(queries + 1))), torch.from_numpy(row))


def whole(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "more_rows dim"]:
    """The right side of a product, with rows of zeros behind it up to a multiple of 64.

    Libraries compute the last columns of a product another way where these do not fill a register, and round them
    differently: equal rows would get scores that differ in the last bit, and a tie would not be seen as one.
    """
    return F.pad(rows, (0, 0, 0, -len(rows) % COLUMNS))


def steps(queries: int, gallery: int) -> list[tuple[int, int]]:
    """(first, end) of the queries that are scored at once."""
    rows = min(ROWS, max(CELLS // max(gallery, 1), 1))
    return [(start, min(start + rows, queries)) for start in range(0, queries, rows)]


def relevant_ranks(scores: Scores, relevant: Relevant, gallery: int, kept: int = KEPT) -> Int[Tensor, "queries kept"]:
    r"""Ranks, from 1 and ascending, of the best rows that belong to each query; 0 where fewer belong to it.

    .. math:: r_j = 1 + |\{n \notin P : s_n \ge s_j\}| + |\{p \in P : s_p > s_j\}|

    Of rows that belong and score the same, one stands behind the other. What does not belong to a query and scores as
    high stands before what does. A score that is not a number counts as the highest of what does not belong, and as the
    lowest of what does.

    Args:
        scores: gives them, some queries at a time.
        relevant: what belongs to each query.
        gallery: how many rows it has.
        kept: how many of each query's rows are ranked, the best ones.
    """
    queries = len(relevant.starts) - 1
    width = max(min(kept, int(relevant.counts.max())), 1) if queries else 1
    ranks = torch.zeros(queries, width, dtype=torch.long)
    room = torch.empty(0)
    for start, end in steps(queries, gallery):
        tile = scores(start, end)
        best, there = _take_best(tile, relevant, start, end, width)
        if len(room) != len(tile) or room.device != tile.device:
            room = torch.empty_like(tile)
        for place in range(width):
            at_least = gallery - less(tile, best[:, place, None], room)
            ranks[start:end, place] = (1 + at_least + place).clamp(max=gallery).cpu()
        ranks[start:end][~there.cpu()] = 0
        del tile  # before there is another one
    return ranks


def _take_best(
    tile: Float[Tensor, "queries gallery"], relevant: Relevant, start: int, end: int, width: int
) -> tuple[Float[Tensor, "queries width"], Tensor]:
    """Scores of the best rows that belong to each query, descending, and which there are; in the tile, all are gone."""
    counts = relevant.counts[start:end].to(tile.device)
    columns = relevant.rows[int(relevant.starts[start]) : int(relevant.starts[end])].to(tile.device)
    query = torch.repeat_interleave(torch.arange(len(tile), device=tile.device), counts)
    found = finite(tile[query, columns])
    tile[query, columns] = -torch.inf
    return best_of(found, query, counts, width)


def finite(scores: Tensor) -> Tensor:
    """Scores of what belongs to a query; one that is not a number is the lowest."""
    return scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def best_of(
    found: Float[Tensor, " pairs"], query: Int[Tensor, " pairs"], counts: Int[Tensor, " queries"], width: int
) -> tuple[Float[Tensor, "queries width"], Bool[Tensor, "queries width"]]:
    """The best scores of each query, descending, and which there are.

    Args:
        found: scores.
        query: that each is of.
        counts: how many there are of each.
        width: how many are wanted.
    """
    order = found.argsort(descending=True, stable=True)
    order = order[query[order].argsort(stable=True)]  # by query, and within it by score
    place = torch.arange(len(order), device=found.device) - (counts.cumsum(0) - counts)[query[order]]
    kept = place < width
    best = found.new_full((len(counts), width), -torch.inf)
    best[query[order][kept], place[kept]] = found[order][kept]
    return best, torch.arange(width, device=found.device) < counts[:, None]


def less(
    scores: Float[Tensor, "rows columns"], than: Float[Tensor, "rows one"], room: Tensor | None = None
) -> Int[Tensor, " rows"]:
    """How many scores of each row are less: by a product with ones, which is the fastest way to count on a CPU.

    Args:
        scores: any; what is not a number is not less.
        than: of each row.
        room: of the shape of the scores, that may be overwritten.
    """
    if scores.shape[1] >= EXACT or scores.dtype != torch.float32:
        return (scores < than).sum(1)
    flags = torch.lt(scores, than, out=torch.empty_like(scores) if room is None else room)
    return (flags @ flags.new_ones(scores.shape[1], 1))[:, 0].round().long()


def ranking_figures(
    ranks: Int[Tensor, "queries kept"],
    counts: Int[Tensor, " queries"],
    at: Sequence[int],
    unit: Int[Tensor, " queries"],
    units: int,
    fold: Int[Tensor, " queries"] | None = None,
) -> dict[str, Figure]:
    r"""Figures of ranks: of each query's best, but for `map@10` and `ndcg@10`, which look at all that belongs to it.

    .. math::
        \mathrm{recall@}k = \overline{[r_1 \le k]}, \quad \mathrm{mrr} = \overline{1 / r_1}, \quad
        \mathrm{map@10} = \overline{\tfrac{1}{\min(P, 10)} \sum_{r_j \le 10} j / r_j}, \quad
        \mathrm{ndcg@10} = \overline{\sum_{r_j \le 10} \tfrac{1}{\log_2 (1 + r_j)} \Big/
        \sum_{j \le \min(P, 10)} \tfrac{1}{\log_2 (1 + j)}}

    Recall at k is that of the papers on CLIP: whether anything that belongs to the query is among the first k.

    Args:
        ranks: as `relevant_ranks` gives them.
        counts: how many rows belong to each query (P).
        at: the k of recall at k.
        unit: the independent thing that each query is of.
        units: how many there are.
        fold: of each query, where the gallery was divided: the median is the mean of the folds' medians.

    Reference:
        Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 2002 (ndcg).
    """
    best = ranks[:, 0].double()
    figures = {f"recall@{k}": mean(best <= k, unit, units=units) for k in at}
    figures["median_rank"] = _median(best, unit, units, fold)
    figures["mrr"] = mean(1 / best, unit, units=units)
    place = torch.arange(1, ranks.shape[1] + 1)
    first = (ranks > 0) & (ranks <= KEPT)
    ideal = counts.clamp(max=KEPT)
    precisions = torch.where(first, place / ranks.clamp(min=1).double(), 0).sum(1)
    figures["map@10"] = mean(precisions / ideal, unit, units=units)
    gains = torch.where(first, 1 / (1 + ranks.double()).log2(), 0).sum(1)
    best_gains = (1 / (1 + torch.arange(1, KEPT + 1).double()).log2()).cumsum(0)
    figures["ndcg@10"] = mean(gains / best_gains[ideal - 1], unit, units=units)
    return figures


def _median(best: Tensor, unit: Tensor, units: int, fold: Tensor | None) -> Figure:
    if fold is None:
        return median(best, unit, units)
    folds = [median(best[fold == f], unit[fold == f], units) for f in fold.unique()]

    def statistic(w: Tensor) -> Tensor:
        return torch.stack([one.statistic(w) for one in folds]).nanmean(0)

    return Figure(statistic, units, len(best))


def graded_ndcg(
    scores: Scores, grades: Callable[[int, int], Float[Tensor, "queries gallery"]], queries: int, k: int = KEPT
) -> Float[Tensor, " queries"]:
    r"""Graded nDCG at k of each query, with a grade for every row of the gallery.

    .. math:: \mathrm{DCG} = \sum_{r \le k} \frac{g_{(r)}}{\log_2(1 + r)}

    over that of the best order. Gains are the grades themselves (as in scikit-learn and trec_eval), not
    :math:`2^g - 1`. Of equal scores the lowest grade stands first. A query without a grade above 0 is not a number.

    Args:
        scores: see `relevant_ranks`.
        grades: of some queries with the whole gallery, 0 and larger.
        queries: how many there are.
        k: how many of the first count.
    """
    found = []
    for start in range(0, queries, ROWS):
        end = min(start + ROWS, queries)
        g = grades(start, end).double()
        s = scores(start, end).to(g.device)
        s = torch.where(s.isnan(), torch.where(g > 0, -torch.inf, torch.inf), s)
        order = g.argsort(dim=1, stable=True)
        order = order.gather(1, s.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :k]
        discount = 1 / torch.arange(2, order.shape[1] + 2, device=g.device).double().log2()
        ideal = g.topk(min(k, g.shape[1]), 1).values @ discount
        found.append(((g.gather(1, order) @ discount) / ideal).cpu())
    return torch.cat(found)
