"""Figures of classification against scikit-learn, under weights too."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

from mmcl.evaluators.classified import classified
from mmcl.evaluators.figures import values
from mmcl.evaluators.probing import judge


def of(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    judged = judge(torch.tensor(scores), torch.tensor(labels))
    return values(classified(judged.ranks, judged.found, torch.tensor(labels), scores.shape[1]))


def by_sklearn(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    best, classes = scores.argmax(1), np.arange(scores.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes that are found and do not occur
        return {
            "acc1": (best == labels).mean(),
            "acc5": top_k_accuracy_score(labels, scores, k=5, labels=classes),
            "mean_per_class_recall": balanced_accuracy_score(labels, best),
            "f1_macro": f1_score(labels, best, average="macro"),
        }


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 7, 40)  # class 0 never occurs, but is found
    scores = rng.normal(size=(40, 7)) + 1.5 * np.eye(7)[labels]
    assert of(scores, labels) == pytest.approx(by_sklearn(scores, labels), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=20, max_size=20).filter(any))
def test_weights_are_repetitions(seed: int, times: list[int]) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 20)
    scores = rng.normal(size=(20, 6)) + np.eye(6)[labels]
    judged = judge(torch.tensor(scores), torch.tensor(labels))
    figures = classified(judged.ranks, judged.found, torch.tensor(labels), 6)
    got = {name: f.statistic(torch.tensor([times]).double()).item() for name, f in figures.items()}
    chosen = np.repeat(np.arange(20), times)
    assert got == pytest.approx(by_sklearn(scores[chosen], labels[chosen]), abs=1e-12)


def test_a_case_made_by_hand() -> None:
    figures = classified(torch.tensor([1, 2, 1, 6]), torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 2]), 6)
    got = values(figures)
    assert got["acc1"] == 0.5
    assert got["acc5"] == 0.75
    assert got["mean_per_class_recall"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert got["f1_macro"] == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    assert [figures[name].n for name in ("acc1", "mean_per_class_recall", "f1_macro")] == [4, 3, 3]


def test_accuracy_at_k_needs_k_classes() -> None:
    ones = torch.tensor([1, 1])
    assert "acc5" in classified(ones, torch.tensor([0, 1]), torch.tensor([0, 1]), 5)
    assert "acc5" not in classified(ones, torch.tensor([0, 1]), torch.tensor([0, 1]), 4)
    assert "acc3" in classified(ones, torch.tensor([0, 1]), torch.tensor([0, 1]), 4, at=[1, 3])
