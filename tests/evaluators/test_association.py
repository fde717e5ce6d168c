"""Associations: Jaccard indices written out and by scikit-learn, chance by all draws, ties, sizes, draws of items."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmcl.errors import MmclError
from mmcl.evaluators import EVALUATORS, Association, Embedded
from mmcl.evaluators.association import by_lot, hits, jaccard
from mmcl.evaluators.figures import values
from tests.evaluators.scores import Deaf, data, drawn

NAN = float("nan")
RIGHT, WRONG = ["image", "image.2", "image.3"], [f"image.wrong{end}" for end in ("", ".2", ".3", ".4", ".5")]


def index(right: list[float], wrong: list[float]) -> float:
    scores = torch.tensor(right + wrong)
    owner = torch.zeros(len(scores), dtype=torch.long)
    belongs = torch.tensor([True] * len(right) + [False] * len(wrong))
    k = torch.tensor([len(right)])
    return jaccard(hits(scores, owner, belongs, k), k).item()


def reference(right: list[float], wrong: list[float]) -> float:
    """Pick k, those that do not belong first at a tie; then the index of two sets."""
    ranked = sorted([(-s, 0, f"w{i}") for i, s in enumerate(wrong)] + [(-s, 1, f"r{i}") for i, s in enumerate(right)])
    picked, truth = {name for _, _, name in ranked[: len(right)]}, {f"r{i}" for i in range(len(right))}
    return len(picked & truth) / len(picked | truth)


def test_indices_of_items_made_by_hand() -> None:
    assert index([0.9, 0.8], [0.1, 0.2, 0.3]) == 1
    assert index([0.9, 0.1], [0.2, 0.3, 0.05]) == pytest.approx(1 / 3)
    assert index([0.1, 0.2], [0.3, 0.4, 0.5]) == 0
    assert index([0.1, 0.2, 0.3], [0.9, 0.8]) == pytest.approx(1 / 5)  # three of five must be picked
    assert index([0.9], [0.1]) == 1


def test_a_tie_counts_against_the_model() -> None:
    assert index([0.5, 0.5], [0.5, 0.5]) == 0
    assert index([0.9, 0.5], [0.5, 0.1]) == pytest.approx(1 / 3)


def test_what_is_not_a_number_is_never_right() -> None:
    assert index([NAN, 0.9], [0.1, 0.2]) == pytest.approx(1 / 3)
    assert index([0.8, 0.9], [NAN, 0.2]) == pytest.approx(1 / 3)
    assert index([NAN, NAN, NAN], [0.1]) == 0
    assert index([NAN], [NAN]) == 0


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=5),
    st.lists(st.integers(-4, 4), min_size=1, max_size=7),
    st.randoms(),
)
def test_it_is_the_index_of_the_sets_whatever_the_order(right: list[int], wrong: list[int], rng: random.Random) -> None:
    r, w = [x / 8 for x in right], [x / 8 for x in wrong]
    found = index(r, w)
    assert found == pytest.approx(reference(r, w))
    rng.shuffle(r)
    rng.shuffle(w)
    assert index([x**3 - 2 for x in r], [x**3 - 2 for x in w]) == found


def test_without_ties_it_is_what_the_code_of_datacomp_finds() -> None:
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(2, 13))
        k = int(rng.integers(1, n))
        scores, truth = rng.permutation(n) / 16, np.arange(n) < k
        picked = np.isin(np.arange(n), np.argsort(scores)[-k:])
        assert index(scores[:k].tolist(), scores[k:].tolist()) == pytest.approx(jaccard_score(truth, picked))


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 5), (3, 5), (4, 5), (3, 6), (2, 10)])
def test_chance_is_the_mean_over_all_draws(k: int, n: int) -> None:
    truth = set(range(k))
    draws = [len(truth & set(d)) / len(truth | set(d)) for d in itertools.combinations(range(n), k)]
    assert by_lot(k, n) == pytest.approx(np.mean(draws))


def some(seed: int, items: int = 30) -> tuple[Embedded, list[list[float]], list[list[float]]]:
    rng = random.Random(seed)
    grid = [i / 8 for i in range(-8, 9)]
    right = [[rng.choice(grid) for _ in range(rng.randint(1, 3))] for _ in range(items)]
    wrong = [[rng.choice(grid) for _ in range(rng.randint(1, 5))] for _ in range(items)]
    columns = {name: [r[i : i + 1] for r in right] for i, name in enumerate(RIGHT)}
    columns |= {name: [w[i : i + 1] for w in wrong] for i, name in enumerate(WRONG)}
    counts = [[str(len(r) + len(w))] for r, w in zip(right, wrong, strict=True)]
    cues = [[f"cue {i}"] for i in range(items)]
    return data("text", columns, {"text": cues, "count": counts}), right, wrong


@pytest.mark.parametrize("seed", range(4))
def test_figures_and_details_are_those_of_the_protocol_written_out(seed: int) -> None:
    given, right, wrong = some(seed)
    evaluator = Association(RIGHT, WRONG, sizes=[(2, 3), (4, 6)], candidates="count")
    evaluator.check(given.items)
    found = evaluator.measure(given, Deaf())
    each = [
        (len(r) + len(w), reference(r, w), by_lot(len(r), len(r) + len(w))) for r, w in zip(right, wrong, strict=True)
    ]
    numbers = values(found.figures)
    assert list(numbers) == list(evaluator.metrics())
    assert evaluator.headline == "jaccard/4-6"
    for name, low, high in (("jaccard", 0, 99), ("jaccard/2-3", 2, 3), ("jaccard/4-6", 4, 6)):
        mine = [(value, lot) for n, value, lot in each if low <= n <= high]
        assert numbers[name] == pytest.approx(np.mean([value for value, _ in mine]))
        assert found.details["chance"][name] == pytest.approx(np.mean([lot for _, lot in mine]))
        assert (found.figures[name].n, found.figures[name].units) == (len(mine), 30)
    by_size = found.details["by_candidates"]
    assert {int(n): one["n"] for n, one in by_size.items()} == {
        n: sum(m == n for m, _, _ in each) for n in {m for m, _, _ in each}
    }
    assert by_size["4"]["jaccard"] == pytest.approx(np.mean([value for n, value, _ in each if n == 4]))


def test_a_draw_of_items_gives_the_number_of_the_data_that_were_drawn() -> None:
    given, _, _ = some(7)
    evaluator = Association(RIGHT, WRONG, sizes=[(2, 3), (4, 8)])
    times = np.bincount(np.random.default_rng(1).integers(30, size=30), minlength=30).tolist()
    figures = evaluator.measure(given, Deaf()).figures
    again = values(evaluator.measure(drawn(given, times), Deaf()).figures)
    w = torch.tensor([times], dtype=torch.float64)
    assert {name: figure.statistic(w).item() for name, figure in figures.items()} == pytest.approx(again)


def test_examples_show_candidates_best_first_by_their_columns() -> None:
    columns = {"image": [[0.9], [0.1]], "image.2": [[0.5], []], "image.wrong": [[0.5], [0.2]]}
    given = data("text", columns, {"text": [["a werewolf"], ["a moon"]]})
    first, second = Association(RIGHT[:2], WRONG[:1]).measure(given, Deaf()).examples
    assert (first.query, first.correct, first.found) == (
        "a werewolf",
        ["image", "image.2"],
        ["image", "image.wrong", "image.2"],
    )
    assert (second.correct, second.found, second.modality) == (["image"], ["image.wrong", "image"], "text")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"right": []}, "one of each at least"),
        ({"wrong": ["image"]}, "different columns"),
        ({"query": "image"}, "different columns"),
        ({"sizes": [[6, 5]]}, r"\[6, 5\] is no range"),
        ({"sizes": [[1, 5]]}, "is no range"),
        ({"sizes": [[5, 6], [5, 6]]}, "twice"),
    ],
)
def test_what_means_nothing_is_refused(said: dict[str, object], message: str) -> None:
    spec = {"name": "association", "right": RIGHT, "wrong": WRONG}
    assert EVALUATORS.check(spec).build().headline == "jaccard"
    with pytest.raises(MmclError, match=message):
        EVALUATORS.check({**spec, **said}).build()


def test_items_that_lack_candidates_are_told() -> None:
    given, right, wrong = some(0)
    lost = Embedded(
        given.items,
        {**given.vectors, "image": given.vectors["image"][1:]},
        {**given.owner, "image": given.owner["image"][1:]},
    )
    said = len(right[0]) + len(wrong[0])
    message = "item k0 has none of image, image.2, image.3" if len(right[0]) == 1 else f"has {said - 1} candidates"
    with pytest.raises(MmclError, match=message):
        Association(RIGHT, WRONG, candidates="count").measure(lost, Deaf())
    with pytest.raises(MmclError, match="no item has 20 to 30 candidates"):
        Association(RIGHT, WRONG, sizes=[(20, 30)]).measure(given, Deaf())
    many = data("text", {"image": [[0.1]], "image.wrong": [[0.1, 0.2]]}, {"count": [["3"]]})
    Association(["image"], ["image.wrong"], candidates="count").measure(many, Deaf())
    few = data("text", {"image": [[0.1]], "image.wrong": [[0.1]]}, {"count": [["3"]]})
    with pytest.raises(MmclError, match="item k0 has 2 candidates, but count says 3"):
        Association(["image"], ["image.wrong"], candidates="count").measure(few, Deaf())
    words = data("text", {"image": [[0.1]]}, {"count": [["three"]]})
    with pytest.raises(MmclError, match="count says 'three', where a number of candidates is needed"):
        Association(["image"], ["image.wrong"], candidates="count").check(words.items)
