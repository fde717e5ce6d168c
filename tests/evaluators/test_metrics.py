"""Metrics on matrices made by hand; ties count against the model."""

import pytest
import torch

from mmcl.errors import MmclError
from mmcl.evaluators import Embedded, Retrieval, ZeroShot
from mmcl.evaluators.metrics import classification_ranks, mean_per_class, retrieval_metrics, retrieval_ranks


def ranks(scores: list[list[float]], query_ids: list[int], gallery_ids: list[int]) -> list[int]:
    """Ranks for given scores: queries against unit axes score what they hold."""
    gallery = torch.eye(len(scores[0]))
    return retrieval_ranks(torch.tensor(scores), gallery, torch.tensor(query_ids), torch.tensor(gallery_ids)).tolist()


def test_ranks_of_a_matrix_made_by_hand() -> None:
    assert ranks([[0.9, 0.1, 0.5], [0.8, 0.7, 0.1], [0.9, 0.8, 0.1]], [0, 1, 2], [0, 1, 2]) == [1, 2, 3]


def test_a_tie_counts_against_the_model() -> None:
    assert ranks([[0.5, 0.5, 0.5]] * 3, [0, 1, 2], [0, 1, 2]) == [3, 3, 3]


def test_of_several_that_belong_the_best_counts_and_the_others_are_no_competitors() -> None:
    assert ranks([[0.9, 0.8, 0.7, 0.6]], [1], [0, 1, 1, 2]) == [2]
    assert ranks([[0.9, 0.9, 0.7, 0.6]], [1], [1, 1, 0, 2]) == [1]


def test_what_is_not_a_number_is_never_right() -> None:
    assert ranks([[float("nan")] * 3] * 3, [0, 1, 2], [0, 1, 2]) == [3, 3, 3]
    assert classification_ranks(torch.full((2, 4), torch.nan), torch.tensor([0, 3])).tolist() == [4, 4]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, g, ids = torch.randn(50, 6), torch.randn(50, 6), torch.arange(50)
    whole = retrieval_ranks(q, g, ids, ids)
    monkeypatch.setattr("mmcl.evaluators.metrics.ROWS", 7)
    assert torch.equal(retrieval_ranks(q, g, ids, ids), whole)
    order = (q @ g.T).argsort(1, descending=True)
    assert torch.equal(whole, (order == ids[:, None]).float().argmax(1) + 1)


def test_recall_and_median_rank() -> None:
    metrics = retrieval_metrics(torch.tensor([1, 2, 5, 6]), [1, 5, 10])
    assert metrics == {"recall@1": 0.25, "recall@5": 0.75, "recall@10": 1.0, "median_rank": 3.5}


def test_classification_ranks_and_mean_per_class() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.1], [0.3, 0.3]])
    labels = torch.tensor([0, 1, 1])
    found = classification_ranks(scores, labels)
    assert found.tolist() == [1, 2, 2]
    assert mean_per_class((found <= 1).float(), labels) == 0.5


class Words:
    """Embeds a prompt as the axis of the class that it names."""

    names = ("red", "green", "blue")

    def embed(self, modality: str, values: list[str]) -> torch.Tensor:
        assert modality == "text"
        self.seen = list(values)
        return torch.stack([torch.eye(3)[[n in v for n in self.names].index(True)] for v in values])


def test_zero_shot_asks_every_template_and_takes_the_nearest_class() -> None:
    task = ZeroShot("image", {"r": "red", "g": "green", "b": "blue"}, ["a {c} thing", "{c}"])
    data = Embedded(
        {"image": torch.eye(3)[[0, 1, 2, 0]]}, {"label": ["r", "g", "b", "g"]}, ["w", "x", "y", "z"], [0, 1, 2, 3]
    )
    words = Words()
    assert task.measure(data, words) == {"acc1": 0.75, "mean_per_class_recall": pytest.approx(2.5 / 3), "n": 4}
    assert words.seen == ["a red thing", "red", "a green thing", "green", "a blue thing", "blue"]
    example = task.examples(data, words, 4)[3]
    assert (example.correct, example.found[0]) == ("g", "r")


def test_labels_that_are_no_class_are_named() -> None:
    task = ZeroShot("image", {"r": "red"}, ["{c}"])
    with pytest.raises(MmclError, match="not among the classes: purple"):
        task.measure(Embedded({"image": torch.eye(3)[:1]}, {"label": ["purple"]}, ["x"], [0]), Words())


@pytest.mark.parametrize(("classes", "templates"), [({}, ["{c}"]), ({"a": "a"}, []), ({"a": "a"}, ["no place"])])
def test_a_zero_shot_task_without_sense_is_refused(classes: dict[str, str], templates: list[str]) -> None:
    with pytest.raises(MmclError, match="classes and templates|no \\{c\\}"):
        ZeroShot("image", classes, templates)


def test_retrieval_measures_both_directions_and_knows_twins() -> None:
    vectors = {"text": torch.eye(4)[[0, 1, 2, 2]], "image": torch.eye(4)[[0, 1, 2, 3]]}
    apart = Embedded(vectors, {}, ["a", "b", "c", "d"], [0, 1, 2, 3])
    twins = Embedded(vectors, {}, ["a", "b", "c", "d"], [0, 1, 2, 2])
    task = Retrieval(("text", "image"), [1])
    assert task.measure(apart, Words())["text_to_image/recall@1"] == 0.75
    assert task.measure(twins, Words())["text_to_image/recall@1"] == 1.0
    assert task.measure(apart, Words())["image_to_text/recall@1"] == 0.5  # text c and d tie for image c
    assert task.headline == "text_to_image/recall@1"
