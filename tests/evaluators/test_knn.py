"""Nearest neighbours against loops, scikit-learn, and every way to break a tie."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from mmcl.errors import MmclError
from mmcl.evaluators import NearestNeighbours
from mmcl.evaluators.base import Embedded, Items
from mmcl.evaluators.figures import values
from mmcl.evaluators.knn import nearest
from mmcl.evaluators.labelled import Labelled
from tests.evaluators.clusters import Nobody, assert_weights_are_repetitions, clusters, items, reordered, vectors

TRAIN, TEST = list("abcdef") * 10, list("aabcdefff") * 6


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (7, None), (60, None)])
def test_votes_are_those_of_the_equation(k: int, temperature: float | None) -> None:
    data = clusters(TRAIN, TEST, noise=1.5)
    assert data.train is not None
    train = data.train.vectors["image"].double()
    ranks = []
    for x, label in zip(data.vectors["image"].double(), TEST, strict=True):
        near = sorted(((float(x @ row), c) for row, c in zip(train, TRAIN, strict=True)), reverse=True)[:k]
        votes = dict.fromkeys("abcdef", 0.0)
        for cosine, c in near:
            votes[c] += 1 if temperature is None else math.exp(cosine / temperature)
        ranks.append(1 + sum(votes[c] >= votes[label] for c in votes if c != label))
    got = values(NearestNeighbours("image", k=k, temperature=temperature).measure(data, Nobody()).figures)
    assert got["acc1"] == pytest.approx(sum(rank <= 1 for rank in ranks) / len(ranks))
    assert got["acc5"] == pytest.approx(sum(rank <= 5 for rank in ranks) / len(ranks))
    assert set(got) == set(NearestNeighbours("image").metrics())


@pytest.mark.parametrize("k", [1, 9])
def test_figures_are_those_of_scikit_learn(k: int) -> None:
    data = clusters(TRAIN, TEST, noise=1.5)
    assert data.train is not None
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.07))
    model.fit(data.train.vectors["image"].double().numpy(), TRAIN)
    theirs = model.score(data.vectors["image"].double().numpy(), TEST)
    ours = NearestNeighbours("image", k=k).measure(data, Nobody()).figures["acc1"].value
    assert 0.3 < ours < 0.95
    assert ours == pytest.approx(theirs)


# rows whose cosines with (1, 0, 0) are 1, 0.6 or 0, exactly as fp32 has them
LEVELS = torch.tensor([[0.0, 1, 0], [0.6, 0.8, 0], [1.0, 0, 0]])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=7),
    st.integers(1, 3),
    st.sampled_from([None, 0.2]),
)
def test_ties_at_the_kth_place_are_broken_in_the_worst_way(
    rows: list[tuple[int, int]], k: int, temperature: float | None
) -> None:
    level, label = (torch.tensor(column) for column in zip(*rows, strict=True))
    known = Labelled(LEVELS[level], label, torch.arange(len(rows)), ["a", "b", "c"])
    ranks = nearest(torch.tensor([[1.0, 0, 0]] * 3), torch.arange(3), known, k, temperature).ranks.tolist()
    cosine = [[0.0, 0.6, 1.0][i] for i, _ in rows]
    last = sorted(cosine, reverse=True)[k - 1]
    sure = [i for i, c in enumerate(cosine) if c > last]
    tied = [i for i, c in enumerate(cosine) if c == last]
    beaten = [set() for _ in range(3)]  # by whom each class is beaten in any choice among those that tie
    for some in itertools.combinations(tied, k - len(sure)):
        votes = [0.0, 0.0, 0.0]
        for i in sorted([*sure, *some], key=lambda i: -cosine[i]):
            votes[rows[i][1]] += 1 if temperature is None else math.exp((cosine[i] - max(cosine)) / temperature)
        for a, b in itertools.permutations(range(3), 2):
            if votes[b] >= votes[a] - 1e-6:
                beaten[a].add(b)
    assert ranks == [1 + len(who) for who in beaten]


def test_cases_made_by_hand() -> None:
    known = Labelled(torch.eye(3), torch.arange(3), torch.arange(3), ["a", "b", "c"])
    there = F.normalize(torch.tensor([[3.0, 2, 1], [1, 1, 0], [0, 0, 1]]), dim=-1)
    judged = nearest(there, torch.tensor([0, 1, 2]), known, 1, 0.07)
    assert judged.ranks.tolist() == [1, 3, 1]  # the second is as near to a as to b; if a votes, b ties with c
    judged = nearest(there, torch.tensor([1, 2, 0]), known, 2, None)
    assert judged.ranks.tolist() == [2, 3, 3]  # the last: b or c vote beside c, and neither a
    assert judged.found.tolist()[:2] == [0, 0]


def test_no_class_has_more_votes_than_there_is_room_for() -> None:
    known = Labelled(LEVELS[[2, 2, 1, 1, 1]], torch.tensor([0, 0, 1, 1, 1]), torch.arange(5), ["a", "b"])
    here = torch.tensor([[1.0, 0, 0]])
    assert nearest(here, torch.tensor([0]), known, 3, None).ranks.tolist() == [1]  # two of a, one of b
    assert nearest(here, torch.tensor([0]), known, 4, None).ranks.tolist() == [2]


def test_cold_votes_do_not_overflow() -> None:
    data = clusters(TRAIN, TEST)
    cold, first = (NearestNeighbours("image", k=k, temperature=t) for k, t in ((10, 1e-5), (1, None)))
    assert values(cold.measure(data, Nobody()).figures)["acc1"] == values(first.measure(data, Nobody()).figures)["acc1"]


def test_what_is_not_a_number_is_never_right() -> None:
    known = Labelled(torch.eye(3), torch.arange(3), torch.arange(3), ["a", "b", "c"])
    for temperature in (None, 0.07):
        judged = nearest(torch.full((3, 3), torch.nan), torch.arange(3), known, 3, temperature)
        assert judged.ranks.tolist() == [3, 3, 3]
        assert (judged.found != torch.arange(3)).all()


def test_pieces_and_the_order_of_items_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clusters(TRAIN, TEST, noise=1.5)
    assert data.train is not None
    whole = values(NearestNeighbours("image").measure(data, Nobody()).figures)
    monkeypatch.setattr("mmcl.evaluators.knn.CELLS", 7 * len(TRAIN))
    assert values(NearestNeighbours("image").measure(data, Nobody()).figures) == whole
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(1))
    mixed = Embedded(data.items, data.vectors, data.owner, reordered(data.train, order))
    assert values(NearestNeighbours("image").measure(mixed, Nobody()).figures) == whole


def test_weights_are_repetitions() -> None:
    assert_weights_are_repetitions(NearestNeighbours("image", k=5), clusters(TRAIN, TEST, noise=1.5))


def test_a_class_of_one_example_can_be_found() -> None:
    data = clusters([*(list("abcde") * 10), "f"], ["f"] * 8, noise=0.1)
    assert NearestNeighbours("image", k=1).measure(data, Nobody()).figures["acc1"].value == 1


def test_what_cannot_be_learnt_is_told() -> None:
    with pytest.raises(MmclError, match="`train:` source"):
        NearestNeighbours("image").check(items(["a"]))
    with pytest.raises(MmclError, match="never show g"):
        NearestNeighbours("image").check(items(["g"]), items(TRAIN))
    with pytest.raises(MmclError, match="k: 20 neighbours are asked for, and there are 2"):
        NearestNeighbours("image").check(items(["a"]), items(["a", "b"]))
    few = items(["a", "b"])
    texts = Items(few.keys, few.ids, {**few.texts, "text": [["x", "y"], ["z"]]})
    NearestNeighbours("text", k=3).check(items(["a"]), texts)  # items may have several
    train = Embedded(texts, {"text": vectors(["a"] * 3, 0)}, {"text": torch.tensor([0, 0, 1])})
    data = Embedded.single({"text": vectors(["a"], 1)}, items(["a"]), train)
    NearestNeighbours("text", k=3).measure(data, Nobody())
    with pytest.raises(MmclError, match="there are 3 training vectors"):
        NearestNeighbours("text", k=4).measure(data, Nobody())
