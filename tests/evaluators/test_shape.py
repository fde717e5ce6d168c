import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators import shape
from mmcl.evaluators.figures import Figure, intervals
from mmcl.evaluators.shape import (
    alignment,
    centroid_gap,
    effective_rank,
    hubness,
    occurrences,
    orphans,
    uniformity,
)
from mmcl.losses.diagnostics import diagnostics
from mmcl.types import Embeddings


def unit_rows(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift, dim=1)


def own(n: int) -> Tensor:
    return torch.arange(n)


def under(figure: Figure, weights: list[int]) -> float:
    return figure.statistic(torch.tensor([weights], dtype=torch.float64)).item()


def test_alignment_by_hand() -> None:
    x, y = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert alignment(x, y, own(2)).value == pytest.approx(1.0)  # (0 + 2) / 2
    assert alignment(x, y, own(2), alpha=1.0).value == pytest.approx(2**0.5 / 2)
    assert under(alignment(x, y, own(2)), [1, 3]) == pytest.approx(1.5)


def test_the_gap_by_hand_and_of_opposite_cones() -> None:
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert centroid_gap(x, y, own(2)).value == pytest.approx(0.5**0.5)  # (-1/2, 1/2)
    assert centroid_gap(x[:1], -x[:1], own(1)).value == pytest.approx(2.0)


def test_uniformity_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = np.log((2 * np.exp(-4.0) + np.exp(-8.0)) / 3)
    assert uniformity(x, own(3)).value == pytest.approx(expected, rel=1e-6)
    assert uniformity(x[:1].repeat(3, 1), own(3)).value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("t", [2.0, 0.5])
def test_uniformity_is_the_equation_in_float64_under_weights(t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "ROWS", 4)  # several blocks
    x, unit = unit_rows(11, 5), torch.tensor([0, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7])
    figure = uniformity(x, unit, t)
    for weights in ([1] * 8, [2, 0, 1, 3, 0, 1, 1, 0]):
        drawn = [i for i in range(11) for _ in range(weights[unit[i]])]
        pairs = [(i, j) for a, i in enumerate(drawn) for j in drawn[:a] if unit[i] != unit[j]]
        kernel = [np.exp(-t * ((x[i].double() - x[j].double()) ** 2).sum().item()) for i, j in pairs]
        assert under(figure, weights) == pytest.approx(np.log(np.mean(kernel)), rel=1e-5)


def test_copies_would_lift_uniformity_but_do_not() -> None:
    figure = uniformity(unit_rows(200, 64), own(200))
    low, high = intervals({"u": figure}, times=300)["u"]
    assert low < figure.value < high
    assert high < -3.7  # at 0.005 of copies among the pairs, the mean kernel would be log(0.019 + 0.005) = -3.7


def test_the_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(6), own(6)).value == pytest.approx(6.0)
    assert effective_rank(torch.eye(6)[:1].repeat(9, 1), own(9)).value == pytest.approx(1.0, abs=1e-4)
    rows = torch.cat([torch.eye(2)[:1].repeat(9, 1), torch.eye(2)[1:]])  # singular values 3 and 1
    p = np.array([0.75, 0.25])
    assert effective_rank(rows, own(10)).value == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_effective_rank_takes_singular_values_uncentred() -> None:
    x = unit_rows(40, 7, shift=0.5)
    sigma = np.linalg.svd(x.double().numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    assert effective_rank(x, own(40)).value == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


def test_the_scatter_of_the_effective_rank_is_the_jackknife_s() -> None:
    x, n = unit_rows(18, 6), 18  # fewer units than groups: the delete-one jackknife
    figure = effective_rank(x, own(n))
    without = [effective_rank(x[own(n) != i], own(n - 1)).value for i in range(n)]
    variance = (n - 1) / n * sum((r - np.mean(without)) ** 2 for r in without)
    effect = torch.tensor([under(figure, [2 if i == j else 1 for j in range(n)]) for i in range(n)])
    # with n drawn of n, the bootstrap's variance is the sum of squares of centred effects; (n + 1) / n undoes the scale
    assert ((effect - figure.value) * (n + 1) / n).square().sum().item() == pytest.approx(variance, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(60, 80), (300, 40)])
def test_intervals_of_the_effective_rank_cover_what_other_data_give(n: int, d: int) -> None:
    expected = np.mean([effective_rank(unit_rows(n, d, seed), own(n)).value for seed in range(40)])
    covered = 0
    for seed in range(100, 120):
        low, high = intervals({"r": effective_rank(unit_rows(n, d, seed), own(n))}, times=200)["r"]
        covered += low <= expected <= high
    assert covered >= 16  # of 20; of plain resamples none does


def test_intervals_of_a_gap_that_is_not_there_hold_its_value() -> None:
    x, y = unit_rows(200, 64, 1), unit_rows(200, 64, 2)
    figure = centroid_gap(x, y, own(200))
    low, high = intervals({"g": figure}, times=300)["g"]
    plain = [np.linalg.norm((x - y)[torch.randint(200, (200,))].mean(0)) for _ in range(200)]
    assert low < figure.value < high
    assert np.quantile(plain, 0.05) > figure.value  # which is why


def test_the_gap_under_weights_is_the_equation() -> None:
    x, y, unit = unit_rows(5, 3, 1), unit_rows(5, 3, 2), torch.tensor([0, 0, 1, 2, 3])
    w = np.array([2.0, 0.0, 1.0, 1.0])
    r = (x - y).double().numpy()
    n = w[unit].sum() * 1.0
    spread = [sum(r[i] - r.mean(0) for i in range(5) if unit[i] == u) for u in range(4)]
    square = np.linalg.norm((w[unit][:, None] * r).sum(0) / n) ** 2
    square -= sum((w[u] - 1) ** 2 * np.square(spread[u]).sum() for u in range(4)) / n**2
    figure = centroid_gap(x, y, unit)
    assert under(figure, [2, 0, 1, 1]) == pytest.approx(max(square, 0) ** 0.5, abs=1e-6)
    assert under(figure, [4, 0, 2, 2]) == pytest.approx(under(figure, [2, 0, 1, 1]))
    assert figure.value == pytest.approx(np.linalg.norm(r.mean(0)))


def test_training_logs_the_same_numbers() -> None:
    x, y = unit_rows(50, 16, 1), unit_rows(50, 16, 2, 0.3)
    logged = diagnostics(Embeddings.single({"a": x, "b": y}))
    unit = own(50)
    assert uniformity(x, unit).value == pytest.approx(logged["a/uniformity"].item(), rel=1e-4)
    assert effective_rank(y, unit).value == pytest.approx(logged["b/effective_rank"].item(), rel=1e-4)
    assert alignment(x, y, unit).value == pytest.approx(logged["a-b/alignment"].item(), rel=1e-4)
    assert centroid_gap(x, y, unit).value == pytest.approx(logged["a-b/gap"].item(), rel=1e-4)


def test_occurrences_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "ROWS", 7)
    queries, gallery, k = unit_rows(30, 4, 1), unit_rows(25, 4, 2), 3
    expected = np.zeros(25, dtype=int)
    for q in queries.double():
        for j in sorted(range(25), key=lambda j: -(q @ gallery[j].double()).item())[:k]:
            expected[j] += 1
    assert occurrences(queries, gallery, k).tolist() == expected.tolist()


def test_of_equal_scores_the_first_are_nearest() -> None:
    same = torch.eye(3)[:1].repeat(6, 1)
    assert occurrences(same, same, 2).tolist() == [6, 6, 0, 0, 0, 0]  # collapse: two hubs, four orphans
    counts = occurrences(torch.eye(2)[:1], torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), 2)
    assert counts.tolist() == [1, 1, 0]


def test_what_is_not_a_number_is_near_to_nothing() -> None:
    gallery = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert occurrences(torch.eye(2)[:1], gallery, 2).tolist() == [0, 1, 1, 0]
    assert occurrences(torch.full((2, 2), torch.nan), gallery, 2).tolist() == [0, 0, 0, 0]


def test_all_of_a_gallery_are_not_its_nearest() -> None:
    with pytest.raises(MmclError, match="take fewer"):
        occurrences(torch.eye(3), torch.eye(3), 3)


def test_hubness_is_the_skewness_of_counts_also_under_weights() -> None:
    counts, unit = torch.tensor([0, 0, 1, 5, 2, 2, 30]), torch.tensor([0, 1, 1, 2, 3, 4, 5])
    figure = hubness(counts, unit)
    assert figure.value == pytest.approx(skew(counts.numpy()))
    for weights in ([2, 1, 0, 1, 3, 1], [1, 0, 5, 1, 1, 0]):
        drawn = np.repeat(counts.numpy(), np.array(weights)[unit])
        assert under(figure, weights) == pytest.approx(skew(drawn))
        assert under(orphans(counts, unit), weights) == pytest.approx((drawn == 0).mean())
    assert hubness(torch.full((4,), 3), own(4)).value == 0.0
    assert under(figure, [0, 0, 0, 0, 0, 4]) == 0.0
    assert orphans(counts, unit).value == pytest.approx(2 / 7)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_items_does_not_matter(seed: int) -> None:
    x, y = unit_rows(12, 4, seed), unit_rows(12, 4, seed + 1)
    p = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    for figure in (alignment, centroid_gap):
        assert figure(x, y, own(12)).value == pytest.approx(figure(x[p], y[p], own(12)).value)
    for figure in (uniformity, effective_rank):
        assert figure(x, own(12)).value == pytest.approx(figure(x[p], own(12)).value, rel=1e-5)
    assert occurrences(x, y, 3)[p].tolist() == occurrences(x[p], y[p], 3).tolist()
