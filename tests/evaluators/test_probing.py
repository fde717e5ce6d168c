"""Logistic regression against its equation and scikit-learn; the search; what is found."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mmcl.errors import MmclError
from mmcl.evaluators.base import Embedded
from mmcl.evaluators.figures import mean
from mmcl.evaluators.labelled import Labelled, labelled
from mmcl.evaluators.probing import (
    CONFUSED,
    Probe,
    Sweep,
    averaged,
    best_of,
    confused,
    fit_logistic,
    judge,
    judge_linear,
    probed,
    search,
)
from tests.evaluators.clusters import items, vectors


def known(labels: list[str], noise: float = 0.9, dim: int = 8) -> Labelled:
    return labelled(Embedded.single({"image": vectors(labels, 0, noise, dim)}, items(labels)), "image", "label")


@pytest.mark.parametrize(("limit", "threads"), [(100_000_000, 1), (1, 3)])
def test_a_small_fit_runs_on_one_thread(limit: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other in thousands of short steps are slow where others share the cores."""
    from threadpoolctl import threadpool_info, threadpool_limits

    seen: list[set[int]] = []
    fit = LogisticRegression.fit

    def counted(self: LogisticRegression, *args: np.ndarray) -> LogisticRegression:
        seen.append({pool["num_threads"] for pool in threadpool_info()})
        return fit(self, *args)

    monkeypatch.setattr(LogisticRegression, "fit", counted)
    monkeypatch.setattr("mmcl.evaluators.probing.SMALL", limit)
    with threadpool_limits(3):
        fit_logistic(known(list("ab") * 6), 1.0)
    assert seen == [{threads}]


def test_the_fit_is_the_minimum_of_its_equation() -> None:
    data, c = known(list("abc") * 6, dim=4), 3.0
    x, y = data.vectors.double().numpy(), data.labels.tolist()

    def objective(theta: np.ndarray) -> float:
        weight, bias = theta[:12].reshape(3, 4), theta[12:]
        total = (weight**2).sum() / 2
        for row, label in zip(x, y, strict=True):
            logits = weight @ row + bias
            total += c * (math.log(sum(math.exp(z) for z in logits)) - logits[label])
        return total

    best = minimize(objective, np.zeros(15), method="BFGS", options={"gtol": 1e-6})
    probe = fit_logistic(data, c)
    assert probe.converged
    np.testing.assert_allclose(probe.weight.numpy().ravel(), best.x[:12], atol=1e-3)
    ours = np.concatenate([probe.weight.double().numpy().ravel(), probe.bias.double().numpy()])
    assert objective(ours) == pytest.approx(best.fun, rel=1e-6)


def test_two_classes_are_the_sigmoid_of_one_vector() -> None:
    data = known(list("ab") * 10)
    probe = fit_logistic(data, 2.0)
    model = LogisticRegression(C=2.0, tol=1e-7).fit(data.vectors.double().numpy(), data.labels.numpy())
    logits = data.vectors @ probe.weight.T + probe.bias
    np.testing.assert_allclose(logits.softmax(1), model.predict_proba(data.vectors.double().numpy()), atol=1e-6)


def test_many_classes_do_not_end_before_they_begin() -> None:
    """By scikit-learn's own tolerance a fit ends after a few steps: gradients of unit vectors are small."""
    labels = [f"class {number}" for number in range(60) for _ in range(3)]
    data = known(labels, noise=3.0, dim=32)
    probe, loose = fit_logistic(data, 1e3), LogisticRegression(C=1e3, max_iter=1000)
    loose.fit(data.vectors.double().numpy(), data.labels.numpy())

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = data.vectors.double() @ weight.double().T + bias.double()
        loss = torch.nn.functional.cross_entropy(logits, data.labels, reduction="sum")
        return (1e3 * loss + weight.double().square().sum() / 2).item()

    theirs = objective(torch.tensor(loose.coef_), torch.tensor(loose.intercept_))
    assert objective(probe.weight, probe.bias) < 0.999 * theirs


def test_a_solver_that_did_not_converge_is_told_without_a_warning() -> None:
    data = known(list("abcd") * 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fit_logistic(data, 1e4, max_iter=3).converged
        assert fit_logistic(data, 1.0).converged


def test_every_class_of_a_fit_must_occur() -> None:
    data = known(list("abc") * 3)
    with pytest.raises(AssertionError):
        fit_logistic(data.where(data.labels != 1), 1.0)


def test_ranks_and_what_is_found_by_hand() -> None:
    scores = torch.tensor([[3.0, 1, 2], [1, 1, 0], [0, 2, 1], [torch.nan, 1, 0], [torch.nan, 1, 0], [5, 5, 5]])
    judged = judge(scores, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert judged.ranks.tolist() == [1, 2, 2, 3, 2, 3]
    assert judged.found.tolist() == [0, 0, 1, 1, 0, 0]
    assert judge(torch.tensor([[torch.nan, -1, -2]]), torch.tensor([1])).best.tolist() == [[1, 2, 0]]
    assert judged.best.tolist()[:3] == [[0, 2, 1], judged.best.tolist()[1], [1, 2, 0]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=8), st.integers(0, 3))
def test_what_is_found_is_right_exactly_where_the_rank_is_one(rows: list[list[int]], label: int) -> None:
    scores, labels = torch.tensor(rows).float(), torch.full((len(rows),), label)
    judged = judge(scores, labels)
    assert torch.equal(judged.found == labels, judged.ranks == 1)
    for row, rank, found in zip(rows, judged.ranks.tolist(), judged.found.tolist(), strict=True):
        assert rank == 1 + sum(score >= row[label] for i, score in enumerate(row) if i != label)
        assert row[found] == max(row)
    assert torch.equal(judge(scores.exp() * 7, labels).ranks, judged.ranks)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = known(list("abcd") * 10)
    probe = fit_logistic(data, 1.0)
    whole = judge_linear(probe, data.vectors, data.labels)
    monkeypatch.setattr("mmcl.evaluators.probing.ROWS", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, judge_linear(probe, data.vectors, data.labels), strict=True))
    model = LogisticRegression(tol=1e-7).fit(data.vectors.double().numpy(), data.labels.numpy())
    assert whole.found.tolist() == model.predict(data.vectors.double().numpy()).tolist()


def test_vectors_that_are_no_numbers_are_never_right() -> None:
    probe = Probe(torch.eye(3), torch.zeros(3), True, 1)
    judged = judge_linear(probe, torch.full((3, 3), torch.nan), torch.arange(3))
    assert judged.ranks.tolist() == [3, 3, 3]
    assert (judged.found != torch.arange(3)).all()


@given(st.integers(0, 96))
def test_the_search_finds_a_peak_in_the_steps_of_the_paper(peak: int) -> None:
    asked: list[int] = []

    def score(i: int) -> tuple[float, float]:
        asked.append(i)
        return -abs(i - peak), 0.0

    tried = search(97, 16, score)
    assert asked[:7] == [0, 16, 32, 48, 64, 80, 96]
    assert len(asked) == len(set(asked)) == len(tried) <= 15
    assert best_of(tried) == peak


def test_of_what_is_as_good_the_first_is_taken() -> None:
    assert best_of(search(97, 16, lambda i: (1.0, 0.0))) == 0
    assert best_of({3: (0.5, -1.0), 1: (0.5, -1.0), 2: (0.4, 0.0)}) == 1
    assert best_of({3: (0.5, -0.9), 1: (0.5, -1.0), 2: (0.4, 0.0)}) == 3
    assert best_of(search(97, 16, lambda i: (1.0, -abs(i - 41.0)))) == 41
    assert list(search(3, 16, lambda i: (float(i), 0.0))) == [0, 1, 2]
    assert best_of(search(6, 2, lambda i: (float(i), 0.0))) == 5


def test_the_grid_is_that_of_clip() -> None:
    grid = Sweep().grid()
    assert len(grid) == 97
    assert grid[::8] == pytest.approx([10.0**e for e in range(-6, 7)])
    assert np.diff(np.log10(grid)) == pytest.approx([1 / 8] * 96)
    with pytest.raises(MmclError, match="low must lie below high"):
        Sweep(low=1, high=1).grid()


def test_the_chosen_c_is_the_best_of_those_tried_and_all_of_the_data_are_fitted() -> None:
    data = known(list("abcde") * 12, noise=2.0)
    probe, told = probed(data, Sweep(), 3)
    best = max(row["accuracy"] for row in told["tried"])
    least = min(row["loss"] for row in told["tried"] if row["accuracy"] == best)
    assert [told["c"]] == [row["c"] for row in told["tried"] if (row["accuracy"], row["loss"]) == (best, least)]
    again = fit_logistic(data, told["c"])
    assert torch.equal(probe.weight, again.weight)
    assert (told["rows"], told["held_out_rows"]) == (60, 10)
    rest, held = data.held_out(0.2, 3)
    for row in told["tried"][::5]:
        found = judge_linear(fit_logistic(rest, row["c"]), held.vectors, held.labels)
        assert row["accuracy"] == (found.ranks == 1).double().mean().item()
        model = LogisticRegression(C=row["c"], tol=1e-7, max_iter=1000)
        model.fit(rest.vectors.double().numpy(), rest.labels.numpy())
        assert row["loss"] == pytest.approx(log_loss(held.labels, model.predict_proba(held.vectors.double().numpy())))
    assert not told["at_edge"] or told["c"] in (Sweep().grid()[0], Sweep().grid()[-1])


def test_a_choice_at_an_end_of_the_range_is_told() -> None:
    data = known(list("abc") * 10, noise=0.1)
    assert probed(data, Sweep(low=1e3, high=1e4, per_decade=2), 0)[1]["at_edge"]


def test_means_over_draws() -> None:
    one, two = {"acc1": mean(torch.tensor([1.0, 0, 1]))}, {"acc1": mean(torch.tensor([0.0, 0, 1]))}
    figure = averaged([one, two])["acc1"]
    assert figure.value == pytest.approx(0.5)
    assert figure.statistic(torch.tensor([[2.0, 1, 0], [0, 0, 3]])).tolist() == pytest.approx([1 / 3, 1.0])
    assert (figure.units, figure.n) == (3, 3)


def test_confusion_counts_and_is_left_out_of_many_classes() -> None:
    table = confused(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 2]), ["a", "b", "c"])
    assert table is not None
    assert table.counts == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    many = [str(i) for i in range(CONFUSED + 1)]
    assert confused(torch.tensor([0]), torch.tensor([0]), many) is None
