"""Figures of how embeddings lie: near their partners, spread out, in how many directions, around hubs.

Each is a function of how often every unit counts. A unit is what is independent of the others: an item, or all items
that show the same thing. `unit` gives the unit of each row, from 0 on without a gap.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.figures import Figure, mean
from mmcl.evaluators.ranking import whole

ROWS = 1024  # of a matrix of scores that are held at once
GROUPS = 20  # of units, of which a jackknife leaves out one after the other

Rows = Float[Tensor, "rows dim"]
Unit = Int[Tensor, " rows"]


def alignment(x: Rows, y: Rows, unit: Unit, alpha: float = 2.0) -> Figure:
    r"""Mean over pairs of :math:`\lVert x_i - y_i \rVert^\alpha`: 0 where partners coincide, 2 where unrelated.

    Args:
        x: unit vectors.
        y: their partners, in the same order.
        unit: of each pair.
        alpha: the power.

    Reference:
        Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", ICML 2020, section 4.1. https://arxiv.org/abs/2005.10242
    """
    return mean(torch.linalg.vector_norm(x.double() - y.double(), dim=1) ** alpha, unit)


def centroid_gap(x: Rows, y: Rows, unit: Unit) -> Figure:
    r"""Modality gap, :math:`\lVert \frac1n \sum_i x_i - \frac1n \sum_i y_i \rVert`: from 0 to 2.

    Of two modalities without a gap it is not 0, but of the order of what the means scatter: :math:`\sqrt{v / n}` with
    v the mean of :math:`\lVert x_i - y_i \rVert^2`. Weights lengthen the difference of the means by scatter once more,
    and intervals of a small gap would lie above its value; that share, :math:`\sum_u (w_u - 1)^2 \lVert r_u \rVert^2 /
    n^2` of the square with r a unit's share in the mean, is taken off again. With every unit once it is 0.

    Args:
        x: unit vectors of the one modality.
        y: of the other, in the same order.
        unit: of each pair.

    Reference:
        Liang et al., "Mind the Gap", NeurIPS 2022, section 4. https://arxiv.org/abs/2203.02053
    """
    difference = x.double() - y.double()
    sums, counts = _sums(difference, unit), _sums(torch.ones(len(x), 1).double(), unit)[:, 0]
    scatter = (sums - counts[:, None] * difference.mean(0)).square().sum(1)

    def statistic(w: Tensor) -> Tensor:
        even = w.double() * len(sums) / w.double().sum(1, keepdim=True)
        n = even @ counts
        squares = ((even @ sums) / n[:, None]).square().sum(1) - (even - 1).square() @ scatter / n.square()
        return squares.clamp(min=0).sqrt()

    return Figure(statistic, len(sums), len(x))


def uniformity(x: Rows, unit: Unit, t: float = 2.0) -> Figure:
    r"""Logarithm of the mean of :math:`e^{-t \lVert x_i - x_j \rVert^2}` over pairs of two units.

    0 at collapse; about -4 for unrelated vectors at t = 2. Smaller is more uniform. Rows of the same unit make no pair,
    and so a unit that is drawn twice makes none with its copy either: copies lie at distance 0, and would lift every
    resample above the value. Pairs are weighted by the product of how often the two units count.

    The kernel is computed in fp64 in blocks, each time anew; no n x n matrix is kept.

    Args:
        x: unit vectors.
        unit: of each.
        t: how steep the kernel is.

    Reference:
        Wang and Isola, ICML 2020, section 4.1 (see `alignment`).
    """
    rows = x.double()
    units = int(unit.max()) + 1

    def statistic(w: Tensor) -> Tensor:
        of = w[:, unit].double()
        total = torch.zeros(len(w), dtype=torch.float64)
        for start in range(0, len(rows), ROWS):
            block = slice(start, start + ROWS)
            kernel = (2 * t * (rows[block] @ rows[start:].T) - 2 * t).exp()
            kernel.masked_fill_(unit[block, None] == unit[None, start:], 0.0)
            inner = kernel[:, : kernel.shape[0]]
            inner.copy_(inner.triu())  # each pair once
            total += (of[:, block] * (of[:, start:] @ kernel.T)).sum(1)
        every = _group_sums(of, unit, units)
        pairs = (of.sum(1).square() - every.square().sum(1)) / 2
        return (total / pairs).log()

    return Figure(statistic, units, len(x))


def effective_rank(x: Rows, unit: Unit, seed: int = 0) -> Figure:
    r"""How many directions the vectors use: :math:`e^{H(p)}` with :math:`p_k = \sigma_k / \sum_l \sigma_l`.

    :math:`\sigma` are the singular values of the rows as they are, not centred: 1 at collapse, at most the smaller of
    width and rows. (Some take the eigenvalues of the second moments, :math:`\sigma^2`; that gives a smaller number.)
    It grows with the number of rows up to many times the width: compare models on the same items.

    Weights move it linearly, by what a jackknife over 20 groups of units says of each. The bootstrap itself would be
    wrong: a resample has fewer different rows than the data and so a smaller rank, and its intervals lie below the
    value. The jackknife's scatter is that of other data, with fewer rows than the width too.

    Args:
        x: unit vectors.
        unit: of each.
        seed: of the groups.

    Reference:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, Eq. 3 and 4;
        RankMe of Garrido et al., ICML 2023, Eq. 1, is the same up to an epsilon (https://arxiv.org/abs/2210.02885).
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, Eq. 11.5: the jackknife.
    """
    rows, units = x.double(), int(unit.max()) + 1
    value = _rank(torch.linalg.svdvals(rows))
    if units == 1:
        return Figure(lambda w: value.expand(len(w)), units, len(x))
    groups = min(GROUPS, units)
    group = torch.randperm(units, generator=torch.Generator().manual_seed(seed)) % groups
    moments = rows.T @ rows
    without = torch.stack([_rank(_singular(moments, rows[group[unit] == g])) for g in range(groups)])
    # with these coefficients the bootstrap's variance is the jackknife's, (G - 1) / G times the sum of squares
    effect = (without.mean() - without) * ((groups - 1) / units) ** 0.5
    effect = effect[group] - effect[group].mean()

    def statistic(w: Tensor) -> Tensor:
        return value + (w.double() @ effect) * units / w.double().sum(1)

    return Figure(statistic, units, len(x))


def _rank(sigma: Float[Tensor, " directions"]) -> Float[Tensor, ""]:
    return torch.special.entr(sigma / sigma.sum()).sum().exp()


def _singular(moments: Float[Tensor, "dim dim"], less: Float[Tensor, "some dim"]) -> Float[Tensor, " dim"]:
    """Singular values of rows without some of them."""
    return torch.linalg.eigvalsh(moments - less.T @ less).clamp(min=0).sqrt()


def occurrences(
    queries: Float[Tensor, "queries dim"], gallery: Float[Tensor, "gallery dim"], k: int
) -> Int[Tensor, " gallery"]:
    """N_k: for how many queries each item of the gallery is among the k nearest by cosine.

    Of equal scores the first in the gallery are nearest, so that what all queries score alike becomes a hub. A score
    that is NaN is never near.

    Raises:
        MmclError: k is not smaller than the gallery.
    """
    if k >= len(gallery):
        raise MmclError(f"the {k} nearest of {len(gallery)} items are all of them; take fewer, or more items.")
    counts, right = torch.zeros(len(gallery), dtype=torch.long), whole(gallery.float())
    for part in queries.float().split(ROWS):
        scores = (part @ right.T)[:, : len(gallery)].nan_to_num(nan=-torch.inf)
        last = scores.topk(k, dim=1).values[:, -1:]
        above, equal = scores > last, scores == last
        equal &= equal.cumsum(1) <= k - above.sum(1, keepdim=True)
        counts += (above | equal & scores.isfinite()).sum(0)
    return counts


def hubness(counts: Int[Tensor, " gallery"], unit: Int[Tensor, " gallery"]) -> Figure:
    r"""Skewness of N_k, :math:`E[(N_k - \mu)^3] / \sigma^3`: 0 or below without hubs, above 1 with strong ones.

    Where every item occurs equally often it is 0.

    It is a function of the items of the gallery with N_k held as found: intervals tell how far the skewness of such
    counts scatters, not how other queries would change the counts. (Queries drawn with replacement add noise to the
    counts, and skew them more than the data are.)

    Args:
        counts: N_k of each item of the gallery.
        unit: of each.

    Reference:
        Radovanovic et al., "Hubs in Space: Popular Nearest Neighbors in High-Dimensional Data", JMLR 2010, Eq. 1.
    """
    shifted = counts.double() - counts.double().mean()
    sums = _sums(torch.stack([shifted**p for p in range(4)], 1), unit)

    def statistic(w: Tensor) -> Tensor:
        raw = w.double() @ sums
        first, second, third = (raw[:, p] / raw[:, 0] for p in (1, 2, 3))
        variance = second - first.square()
        skewness = (third - 3 * first * second + 2 * first**3) / variance.clamp(min=1e-300) ** 1.5
        return torch.where(variance > 1e-12, skewness, 0.0 * variance)

    return Figure(statistic, len(sums), len(counts))


def orphans(counts: Int[Tensor, " gallery"], unit: Int[Tensor, " gallery"]) -> Figure:
    """Share of the gallery that is among the k nearest of no query (anti-hubs). Arguments: see `hubness`."""
    return mean(counts == 0, unit)


def _sums(values: Float[Tensor, "rows width"], unit: Unit) -> Float[Tensor, "units width"]:
    return torch.zeros(int(unit.max()) + 1, values.shape[1], dtype=torch.float64).index_add_(0, unit, values)


def _group_sums(values: Float[Tensor, "times rows"], unit: Unit, units: int) -> Float[Tensor, "times units"]:
    return torch.zeros(len(values), units, dtype=torch.float64).index_add_(1, unit, values)
