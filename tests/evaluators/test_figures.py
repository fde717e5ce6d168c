"""Figures under weights are the numbers of data in which items stand as often; intervals are those of a bootstrap."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from mmcl.evaluators.classified import calibration_error, classified, mean_average_precision
from mmcl.evaluators.figures import Figure, intervals, macro, mean, median, worst

N, CLASSES = 60, 5
Made = Callable[[torch.Tensor], Figure]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(units: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, units, (units,), generator=generator(seed))


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.randint(0, CLASSES, (N,), generator=generator())


def figures_of(rows: torch.Tensor, labels: torch.Tensor) -> dict[str, Figure]:
    """Every figure that has a unit an item, of some of the items."""
    g = generator(3)
    values = torch.rand(N, generator=g)[rows]
    ranks = torch.randint(1, CLASSES + 1, (N,), generator=g)[rows]
    found = torch.randint(0, CLASSES, (N,), generator=g)[rows]
    own = labels[rows]
    found = torch.where(ranks == 1, own, torch.where(found == own, (found + 1) % CLASSES, found))
    scores = torch.randn(N, CLASSES, generator=g).mul(3).round()[rows]  # with ties
    belongs = torch.rand(N, CLASSES, generator=g)[rows] < 0.3
    return {
        "mean": mean(values),
        "median": median(ranks),
        "macro": macro(values, own, CLASSES),
        "worst": worst(values, own, CLASSES),
        **classified(ranks, found, own, CLASSES),
        "ece": calibration_error(values, ranks <= 1),
        "map": mean_average_precision(scores, belongs),
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_weights_are_how_often_an_item_stands_there(seed: int, labels: torch.Tensor) -> None:
    rows = drawn(N, seed)
    weights = torch.bincount(rows, minlength=N).double()[None]
    whole, again = figures_of(torch.arange(N), labels), figures_of(rows, labels)
    for name, figure in whole.items():
        assert figure.statistic(weights).item() == pytest.approx(again[name].value, abs=1e-12), name


def test_several_weights_at_once_are_those_one_by_one(labels: torch.Tensor) -> None:
    weights = torch.stack([torch.bincount(drawn(N, seed), minlength=N) for seed in range(4)]).double()
    for name, figure in figures_of(torch.arange(N), labels).items():
        each = torch.cat([figure.statistic(row[None]) for row in weights])
        torch.testing.assert_close(figure.statistic(weights), each, msg=name)


def test_units_are_drawn_and_not_their_values() -> None:
    values, unit = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 2])
    figure = mean(values, unit)
    assert figure.units == 3
    assert figure.n == 4
    assert figure.value == 0.75
    assert figure.statistic(torch.tensor([[2.0, 0.0, 1.0]])).item() == pytest.approx(3 / 5)  # 1, 0, 1, 0 and 1
    assert median(torch.tensor([5, 1, 2, 9]), unit).statistic(torch.tensor([[2.0, 0.0, 1.0]])).item() == 5  # 1 1 5 5 9


@pytest.mark.parametrize("values", [[3.0], [1.0, 4.0], [1, 2, 2, 8], [7, 1, 5], [2, 2, 2, 2]])
def test_the_median_is_numpys(values: list[float]) -> None:
    assert median(torch.tensor(values)).value == np.median(values)


def test_a_median_of_nothing_is_no_number() -> None:
    assert torch.isnan(median(torch.tensor([1, 5])).statistic(torch.tensor([[0.0, 0.0]]))).all()


def test_classified_is_what_scikit_learn_says(labels: torch.Tensor) -> None:
    scores = torch.randn(N, CLASSES, generator=generator(5))
    found = scores.argmax(1)
    ranks = (scores >= scores.gather(1, labels[:, None])).sum(1)
    figures = classified(ranks, found, labels, CLASSES, [1, 2])
    assert figures["acc1"].value == pytest.approx((found == labels).double().mean().item())
    assert figures["mean_per_class_recall"].value == pytest.approx(balanced_accuracy_score(labels, found))
    assert figures["f1_macro"].value == pytest.approx(f1_score(labels, found, average="macro"))
    assert "acc5" in classified(ranks, found, labels, CLASSES)
    assert "acc5" not in classified(ranks, found, labels, 4)


def test_average_precision_is_scikit_learns_where_no_scores_are_equal() -> None:
    scores = torch.randn(N, CLASSES, generator=generator(6), dtype=torch.float64).float()
    belongs = torch.rand(N, CLASSES, generator=generator(7)) < 0.2
    theirs = np.mean([average_precision_score(belongs[:, c], scores[:, c]) for c in range(CLASSES)])
    assert mean_average_precision(scores, belongs).value == pytest.approx(theirs)


def test_average_precision_is_against_the_model_where_scores_are_equal_and_leaves_empty_classes_out() -> None:
    scores = torch.zeros(4, 2)
    belongs = torch.tensor([[True, False], [False, False], [False, False], [True, False]])
    figure = mean_average_precision(scores, belongs)
    assert figure.value == pytest.approx((1 / 3 + 2 / 4) / 2)  # behind the two that do not belong
    assert figure.n == 1
    nan = mean_average_precision(torch.full((4, 1), torch.nan), belongs[:, :1])
    assert nan.value == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_calibration_error_by_hand() -> None:
    confidence, right = torch.tensor([0.95, 0.95, 0.55, 0.55]), torch.tensor([True, False, True, True])
    assert calibration_error(confidence, right, 10).value == pytest.approx(0.5 * 0.45 + 0.5 * 0.45, abs=1e-6)
    sure = calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool))
    assert sure.value == 0


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    values = torch.rand(200, generator=generator(8))
    low, high = intervals({"m": mean(values)}, times=4000)["m"]
    theirs = scipy.stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert low < values.mean() < high


def test_intervals_are_the_same_each_time_and_whatever_is_asked_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(50, generator=generator(9))
    alone = intervals({"m": mean(values)})
    beside = intervals({"a": mean(values[:20]), "m": mean(values), "b": median(values)})
    assert alone["m"] == beside["m"]
    monkeypatch.setattr("mmcl.evaluators.figures.CELLS", 500)  # in blocks of ten draws
    assert intervals({"m": mean(values)}) == alone


def test_a_resample_without_anything_to_measure_does_not_count() -> None:
    figure = mean(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
    assert intervals({"m": figure})["m"] == (0.5, 0.5)
    some = macro(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 1, 1]), 2)
    low, high = intervals({"m": some})["m"]
    assert (low, high) == (0.0, 1.0)
