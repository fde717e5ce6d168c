"""Ranks and figures of retrieval, on matrices made by hand, against loops, scikit-learn and torchmetrics."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_normalized_dcg,
    retrieval_reciprocal_rank,
)

from mmcl.errors import MmclError
from mmcl.evaluators import Embedded, Items, Retrieval
from mmcl.evaluators.hubs import HUB_CORRECTIONS
from mmcl.evaluators.ranking import Relevant, graded_ndcg, ranking_figures, relevant_ranks

NAN = float("nan")


def relevant(belongs: list[list[int]]) -> Relevant:
    pairs = np.array([(q, row) for q, rows in enumerate(belongs) for row in rows], dtype=np.int64)
    return Relevant.of_pairs(pairs, len(belongs))


def ranks(scores: Any, belongs: list[list[int]], kept: int = 10) -> list[list[int]]:
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return relevant_ranks(lambda a, b: scores[a:b].clone(), relevant(belongs), scores.shape[1], kept).tolist()


def slow_ranks(scores: list[float], belongs: list[int]) -> list[int]:
    """By sorting: what does not belong stands before what does where scores are equal."""
    key = [(-s, row in belongs) for row, s in enumerate(scores)]
    order = sorted(range(len(scores)), key=lambda row: key[row])
    return sorted(order.index(row) + 1 for row in belongs)


def items(n: int, ids: list[int] | None = None, **texts: list[list[str]]) -> Items:
    return Items([f"k{i}" for i in range(n)], torch.tensor(ids if ids is not None else list(range(n))), texts)


def values(found: Any) -> dict[str, float]:
    return {name: figure.value for name, figure in found.figures.items()}


class Nobody:
    def embed(self, modality: str, values: Any) -> torch.Tensor:
        raise AssertionError("nothing is prompted")


def test_ranks_of_a_matrix_made_by_hand() -> None:
    assert ranks([[0.9, 0.1, 0.5], [0.8, 0.7, 0.1], [0.9, 0.8, 0.1]], [[0], [1], [2]]) == [[1], [2], [3]]


def test_a_tie_counts_against_the_model() -> None:
    assert ranks([[0.5] * 3] * 3, [[0], [1], [2]]) == [[3], [3], [3]]


def test_of_several_that_belong_each_is_ranked_and_none_is_in_the_others_way_but_the_better_ones() -> None:
    assert ranks([[0.9, 0.8, 0.7, 0.6]], [[1, 2]]) == [[2, 3]]
    assert ranks([[0.9, 0.9, 0.7, 0.6]], [[0, 1, 3]]) == [[1, 2, 4]]
    assert ranks([[0.9, 0.8, 0.7, 0.6]], [[1, 2, 3]], kept=2) == [[2, 3]]
    assert ranks([[0.9, 0.1], [0.2, 0.8]], [[0, 1], [1]]) == [[1, 2], [1, 0]]


def test_what_is_not_a_number_is_never_right() -> None:
    assert ranks([[NAN] * 3] * 3, [[0], [1], [2]]) == [[3], [3], [3]]
    assert ranks([[NAN, 0.5, 0.4]], [[1]]) == [[2]]
    assert ranks([[-torch.inf, 0.5, torch.inf]], [[0]]) == [[3]]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ranks_are_those_of_a_sorted_list(data: st.DataObject) -> None:
    queries, gallery = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    few = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # so that scores are equal often
    scores = [[data.draw(few) for _ in range(gallery)] for _ in range(queries)]
    some = st.lists(st.integers(0, gallery - 1), min_size=1, unique=True)
    belongs = [data.draw(some) for _ in range(queries)]
    found = ranks(scores, belongs, kept=gallery)
    assert [[r for r in row if r] for row in found] == [slow_ranks(*pair) for pair in zip(scores, belongs, strict=True)]
    order = data.draw(st.permutations(range(gallery)))  # another order of the gallery, and scores monotonely changed
    moved = [[3 * row[i] ** 3 - 1 for i in order] for row in scores]
    assert ranks(moved, [[order.index(i) for i in some] for some in belongs], kept=gallery) == found


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    belongs = [[i % 40, (i + 7) % 40] for i in range(50)]
    whole = ranks(scores, belongs)
    monkeypatch.setattr("mmcl.evaluators.ranking.ROWS", 7)
    assert ranks(scores, belongs) == whole
    monkeypatch.setattr("mmcl.evaluators.ranking.EXACT", 10)  # counted as integers
    assert ranks(scores, belongs) == whole


def test_figures_by_hand() -> None:
    found = torch.tensor([[1, 3], [2, 0], [6, 12], [5, 0]])
    figures = ranking_figures(found, torch.tensor([2, 1, 2, 1]), [1, 5, 10], torch.arange(4), 4)
    assert values(type("F", (), {"figures": figures})) == pytest.approx(
        {
            "recall@1": 0.25,
            "recall@5": 0.75,
            "recall@10": 1.0,
            "median_rank": 3.5,
            "mrr": (1 + 1 / 2 + 1 / 6 + 1 / 5) / 4,
            "map@10": ((1 + 2 / 3) / 2 + 1 / 2 + (1 / 6) / 2 + 1 / 5) / 4,
            "ndcg@10": float(
                (1 + 0.5) / (1 + 1 / np.log2(3))
                + 1 / np.log2(3)
                + (1 / np.log2(7)) / (1 + 1 / np.log2(3))
                + 1 / np.log2(6)
            )
            / 4,
        }
    )


def test_figures_are_those_of_torchmetrics() -> None:
    g = torch.Generator().manual_seed(1)
    scores = torch.rand(
        20, 10, generator=g
    )  # with more, theirs would divide by what is found, and not by what there is
    target = torch.rand(20, 10, generator=g) < 0.2
    target[:, 0] |= ~target.any(1)
    belongs = [row.nonzero()[:, 0].tolist() for row in target]
    figures = ranking_figures(torch.tensor(ranks(scores, belongs)), target.sum(1), [1, 5], torch.arange(20), 20)
    pairs = list(zip(scores, target, strict=True))

    def theirs(metric: Any, **more: Any) -> float:
        return torch.stack([metric(s, t, **more) for s, t in pairs]).mean().item()

    assert figures["mrr"].value == pytest.approx(theirs(retrieval_reciprocal_rank), abs=1e-6)
    assert figures["map@10"].value == pytest.approx(theirs(retrieval_average_precision, top_k=10), abs=1e-6)
    assert figures["ndcg@10"].value == pytest.approx(theirs(retrieval_normalized_dcg, top_k=10), abs=1e-6)


def test_graded_ndcg_is_scikit_learns_and_against_the_model_where_scores_are_equal() -> None:
    g = torch.Generator().manual_seed(2)
    scores, grades = torch.rand(12, 30, generator=g), torch.randint(0, 4, (12, 30), generator=g).double()
    found = graded_ndcg(lambda a, b: scores[a:b], lambda a, b: grades[a:b], 12)
    assert found.mean().item() == pytest.approx(ndcg_score(grades, scores, k=10, ignore_ties=True))
    equal = graded_ndcg(lambda a, b: torch.zeros(1, 3), lambda a, b: torch.tensor([[2.0, 0.0, 1.0]]), 1)
    worst = (0 + 1 / np.log2(3) + 2 / np.log2(4)) / (2 + 1 / np.log2(3))
    assert equal.item() == pytest.approx(worst)
    nan = graded_ndcg(lambda a, b: torch.tensor([[NAN, 1.0]]), lambda a, b: torch.tensor([[1.0, 0.0]]), 1)
    assert nan.item() == pytest.approx(1 / np.log2(3))


def test_retrieval_measures_both_directions_and_knows_twins() -> None:
    vectors = {"text": torch.eye(4)[[0, 1, 2, 2]], "image": torch.eye(4)[[0, 1, 2, 3]]}
    task = Retrieval(("text", "image"), [1])
    apart = values(task.measure(Embedded.single(vectors, items(4)), Nobody()))
    twins = values(task.measure(Embedded.single(vectors, items(4, [0, 1, 2, 2])), Nobody()))
    assert apart["text_to_image/recall@1"] == 0.75
    assert twins["text_to_image/recall@1"] == 1.0
    assert apart["image_to_text/recall@1"] == 0.5  # the texts of the last two are equal vectors
    assert task.headline == "text_to_image/recall@1"
    assert set(apart) == set(task.metrics())


def captions() -> Embedded:
    """Three pictures with 2, 1 and 3 captions; the second picture's is one of the third's, word for word."""
    texts = [["a", "b"], ["c"], ["c", "d", "e"]]
    rows = torch.eye(6)[[0, 1, 2, 2, 4, 5]]
    images = torch.nn.functional.normalize(torch.eye(6)[[0, 2, 4]] + 0.1 * torch.eye(6)[[1, 3, 2]], dim=1)
    owner = {"text": torch.tensor([0, 0, 1, 2, 2, 2]), "image": torch.arange(3)}
    return Embedded(items(3, text=texts), {"text": rows, "image": images}, owner)


def test_any_number_of_captions_and_equal_ones_belong_to_every_item_that_has_them() -> None:
    found = Retrieval(("text", "image"), [1]).measure(captions(), Nobody())
    numbers = values(found)
    # texts: a -> 0 right; b (0.1 with picture 0) right; c -> 1 right, twice; d -> 2 right; e scores 0 with all: wrong
    assert numbers["text_to_image/recall@1"] == pytest.approx(5 / 6)
    assert numbers["image_to_text/recall@1"] == 1.0
    assert found.figures["text_to_image/recall@1"].n == 6
    assert found.figures["text_to_image/recall@1"].units == 3
    apart = values(Retrieval(("text", "image"), [1], equal_texts=False).measure(captions(), Nobody()))
    assert apart["text_to_image/recall@1"] == pytest.approx(4 / 6)  # the third picture's c finds the second picture
    assert apart["image_to_text/recall@1"] == pytest.approx(2 / 3)  # a tie of c with c


def test_folds_have_galleries_of_their_own() -> None:
    g = torch.Generator().manual_seed(3)
    vectors = {m: torch.nn.functional.normalize(torch.randn(40, 8, generator=g), dim=1) for m in ("text", "image")}
    whole = values(Retrieval(("text", "image"), folds=10).measure(Embedded.single(vectors, items(40)), Nobody()))
    each = []
    for start in range(0, 40, 10):
        part = {m: v[start : start + 10] for m, v in vectors.items()}
        each.append(values(Retrieval(("text", "image")).measure(Embedded.single(part, items(10)), Nobody())))
    for name, value in whole.items():
        assert value == pytest.approx(np.mean([one[name] for one in each])), name
    with pytest.raises(MmclError, match="40 items cannot be divided into folds of 7"):
        Retrieval(("text", "image"), folds=7).check(items(40))


def joint() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    return {
        m: torch.nn.functional.normalize(torch.randn(12, 6, generator=g), dim=1) for m in ("text", "audio", "image")
    }


def expected(score: str, q: list[torch.Tensor], x: torch.Tensor) -> float:
    """Of one query tuple with one vector, in float64."""
    a, b, y = (v.double() for v in (*q, x))
    if score == "cosine":
        mean = (a + b) / 2
        return (mean / mean.norm() @ y).item()
    if score == "sum":
        return ((a @ y + b @ y) / 2).item()
    basis, _ = torch.linalg.qr(torch.stack([a, b], 1))
    height = (1 - (basis.T @ y).square().sum()).clamp(min=0).sqrt()
    if score == "span":
        return -height.item()
    gram = torch.stack([a, b, y]) @ torch.stack([a, b, y]).T
    return -torch.linalg.det(gram).clamp(min=0).sqrt().item()


@pytest.mark.parametrize(
    ("score", "said"),
    [("cosine", None), ("sum", {"name": "cosine", "tuples": "mean"}), ("gram", "gram"), ("span", "span")],
)
def test_joint_queries_by_every_score(score: str, said: Any) -> None:
    from mmcl.losses import SCORES

    vectors = joint()
    more = {} if said is None else {"score": SCORES.check(said)}
    task = Retrieval((["text", "audio"], "image"), [1, 3], **more)
    found = values(task.measure(Embedded.single(vectors, items(12)), Nobody()))
    matrix = [
        [expected(score, [vectors["text"][i], vectors["audio"][i]], y) for y in vectors["image"]] for i in range(12)
    ]
    mine = [row[0] for row in ranks(matrix, [[i] for i in range(12)])]
    back = [row[0] for row in ranks(torch.tensor(matrix).T, [[i] for i in range(12)])]
    assert found["text+audio_to_image/mrr"] == pytest.approx(np.mean([1 / r for r in mine]))
    assert found["image_to_text+audio/mrr"] == pytest.approx(np.mean([1 / r for r in back]))


def test_composed_retrieval_counts_a_repeated_target_once() -> None:
    base = torch.nn.functional.normalize(torch.eye(5)[[0, 1, 2]] + torch.eye(5)[[3, 4, 4]], dim=1)
    vectors = {"image": torch.eye(5)[[0, 1, 2]], "text": torch.eye(5)[[3, 4, 4]], "image.target": base[[0, 1, 1]]}
    task = Retrieval((["image", "text"], "image.target"), [1], distinct=["image.target"], both=False)
    found = task.measure(Embedded.single(vectors, items(3, [7, 8, 8])), Nobody())
    assert values(found)["image+text_to_image.target/recall@1"] == 1.0
    apart = Retrieval((["image", "text"], "image.target"), [1], both=False)
    assert (
        values(apart.measure(Embedded.single(vectors, items(3)), Nobody()))["image+text_to_image.target/recall@1"] < 1
    )


def test_grades_are_how_many_fields_are_equal() -> None:
    texts = {"kind": [["x"], ["x"], ["y"], ["y"]], "colour": [["r"], ["g"], ["r"], ["g"]]}
    vectors = {"text": torch.eye(4), "image": torch.eye(4)[[1, 0, 3, 2]]}
    task = Retrieval(("text", "image"), [1], grades=["kind", "colour"])
    task.check(items(4, **texts))
    found = values(task.measure(Embedded.single(vectors, items(4, **texts)), Nobody()))
    # each text finds the other of its kind (grade 1) first, and the rest ties: 0, then 1, then 2
    dcg = 1 + 0 + 1 / np.log2(4) + 2 / np.log2(5)
    assert found["text_to_image/graded_ndcg@10"] == pytest.approx(dcg / (2 + 1 / np.log2(3) + 1 / 2))


def test_hubs_are_corrected_by_the_queries_of_train_and_not_of_the_test() -> None:
    g = torch.Generator().manual_seed(5)
    vectors = joint()
    bank = {m: torch.nn.functional.normalize(torch.randn(30, 6, generator=g), dim=1) for m in ("text", "image")}
    train = Embedded.single(bank, items(30))
    part = HUB_CORRECTIONS.check({"name": "nnn", "alpha": 0.75, "k": 3})
    task = Retrieval(("text", "image"), [1], hubs=part)
    assert task.trained_on() == ["text", "image"]
    assert task.score == "cosine - nnn(alpha=0.75, k=3)"
    found = values(task.measure(Embedded.single(vectors, items(12), train), Nobody()))
    for a, b in (("text", "image"), ("image", "text")):
        bias = 0.75 * (vectors[b].double() @ bank[a].double().T).topk(3, 1).values.mean(1)
        matrix = vectors[a].double() @ vectors[b].double().T - bias
        mine = [row[0] for row in ranks(matrix, [[i] for i in range(12)])]
        assert found[f"{a}_to_{b}/mrr"] == pytest.approx(np.mean([1 / r for r in mine]))
    assert found != values(Retrieval(("text", "image"), [1]).measure(Embedded.single(vectors, items(12)), Nobody()))


def test_mistakes_are_told() -> None:
    with pytest.raises(MmclError, match="share no modality"):
        Retrieval(("text", ["text", "image"]))
    with pytest.raises(MmclError, match="begin no side"):
        Retrieval(("text", "image"), distinct=["audio"])
    from mmcl.losses import SCORES

    with pytest.raises(MmclError, match="score triangle compares one modality with 2 to 2 others"):
        Retrieval(("text", "image"), score=SCORES.check("triangle"))
    lonely = Embedded(
        items(2, [0, 1]),
        {"text": torch.eye(2), "image": torch.eye(2)[:1]},
        {"text": torch.arange(2), "image": torch.tensor([0])},
    )
    with pytest.raises(
        MmclError, match="nothing in the gallery belongs to 1 of 2 queries by text; the first is item k1"
    ):
        Retrieval(("text", "image")).measure(lonely, Nobody())
    both = Embedded(
        items(1),
        {m: torch.eye(2) for m in ("a", "b")} | {"c": torch.eye(2)[:1]},
        {m: torch.tensor([0, 0]) for m in ("a", "b")} | {"c": torch.tensor([0])},
    )
    with pytest.raises(MmclError, match="several rows of a and of b"):
        Retrieval((["a", "b"], "c")).measure(both, Nobody())
