"""Equal vectors tie, whatever the sizes: a model that makes one vector of everything is never right."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.evaluators import Embedded, FewShot, Items, Retrieval, ZeroShot, hubs
from mmcl.evaluators.hubs import HUB_CORRECTIONS
from mmcl.evaluators.knn import nearest
from mmcl.evaluators.labelled import Labelled
from mmcl.evaluators.ranking import whole
from mmcl.evaluators.shape import occurrences
from mmcl.evaluators.zeroshot import ClassVectors

SIZES = [
    (2, 512),
    (3, 16),
    (5, 768),
    (13, 512),
    (47, 64),
    (165, 100),
    (611, 768),
    (1034, 64),
    (2049, 768),
    (2406, 512),
]  # rounded differently


def one(dim: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(1, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


class Alike:
    """Makes one vector of every prompt."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def embed(self, modality: str, values: object) -> Tensor:
        return self.vector.expand(len(values), -1).contiguous()  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "dim"), SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_equal_rows_are_equal(count: int, dim: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    gallery = whole(one(dim, 1).expand(count, -1))
    assert len(gallery) % 64 == 0
    try:
        for queries in (1, 2, 10, 238):
            scores = (F.normalize(torch.randn(queries, dim), dim=-1) @ gallery.T)[:, :count]
            assert (scores == scores[:, :1]).all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("count", "dim"), SIZES)
def test_retrieval_finds_nothing_by_one_vector(count: int, dim: int) -> None:
    items = Items([str(i) for i in range(count)], torch.arange(count), {"text": [[str(i)] for i in range(count)]})
    vectors = {m: one(dim, seed).expand(count, -1).contiguous() for seed, m in enumerate(("text", "image"))}
    evaluator = Retrieval(("text", "image"), at=[1])
    found = evaluator.measure(Embedded.single(vectors, items), Alike(one(dim, 0))).figures
    assert {found[f"{way}/median_rank"].value for way in ("text_to_image", "image_to_text")} == {float(count)}


@pytest.mark.parametrize("aggregate", ["vector", "scores", "best"])
@pytest.mark.parametrize(("classes", "dim"), SIZES[:6])
def test_no_class_is_found_by_one_vector(classes: int, dim: int, aggregate: str) -> None:
    labels = [str(i % classes) for i in range(238)]
    items = Items([str(i) for i in range(238)], torch.arange(238), {"label": [[label] for label in labels]})
    images = F.normalize(torch.randn(238, dim, generator=torch.Generator().manual_seed(3)), dim=-1)
    evaluator = ZeroShot("image", [str(c) for c in range(classes)], ["a {c}", "{c}"], at=[1], aggregate=aggregate)  # type: ignore[arg-type]
    found = evaluator.measure(Embedded.single({"image": images}, items), Alike(one(dim, 5))).figures
    assert found["acc1"].value == 0.0


def test_classes_of_equal_prompts_have_equal_scores() -> None:
    vectors = ClassVectors({str(c): ["a", "b"] for c in range(5)}, Alike(one(768, 2)), "text")
    scores = vectors.scores(F.normalize(torch.randn(238, 768), dim=-1))
    assert (scores == scores[:, :1]).all()


@pytest.mark.parametrize(("count", "dim"), SIZES)
def test_no_class_is_found_by_neighbours_that_are_one_vector(count: int, dim: int) -> None:
    known = Labelled(
        one(dim, 1).expand(count, -1).contiguous(), torch.arange(count), torch.arange(count), ["c"] * count
    )
    for items in (1, 2, 70):  # one alone is multiplied in another way
        vectors = F.normalize(torch.randn(items, dim, generator=torch.Generator().manual_seed(items)), dim=-1)
        labels = (count - 1 - torch.arange(items)) % count  # the last ones are where columns do not fill a register
        judged = nearest(vectors, labels, known, 1, 0.07)
        assert judged.ranks.tolist() == [count] * items


@pytest.mark.parametrize("items", [1, 2, 70])
@pytest.mark.parametrize(("classes", "dim"), SIZES[:5])
def test_no_class_is_found_by_a_classifier_that_starts_from_one_vector(classes: int, dim: int, items: int) -> None:
    def those(count: int, seed: int) -> tuple[Tensor, Items]:
        labels = {"label": [[str(i % classes)] for i in range(count)]}
        rows = F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)
        return rows, Items([str(i) for i in range(count)], torch.arange(count), labels)

    (x, test), (y, train) = those(items, 3), those(classes, 4)
    data = Embedded.single({"image": x}, test, Embedded.single({"image": y}, train))
    evaluator = FewShot("image", [str(c) for c in range(classes)], ["a {c}"], shots=[1], seeds=[0])
    assert evaluator.measure(data, Alike(one(dim, 5))).figures["0_shot/acc1"].value == 0.0


@pytest.mark.parametrize(("count", "dim"), [size for size in SIZES if size[0] > 10])
@pytest.mark.parametrize("queries", [1, 238, 1025])  # the last one alone
def test_of_equal_vectors_the_first_are_hubs(count: int, dim: int, queries: int) -> None:
    asking = F.normalize(torch.randn(queries, dim, generator=torch.Generator().manual_seed(2)), dim=-1)
    counts = occurrences(asking, one(dim, 1).expand(count, -1), 10)
    assert counts.tolist() == [queries] * 10 + [0] * (count - 10)


@pytest.mark.parametrize("name", sorted(HUB_CORRECTIONS.classes))
@pytest.mark.parametrize(("count", "dim"), SIZES)
@pytest.mark.parametrize("bank", [16, 200])
def test_equal_vectors_have_equal_biases(
    name: str, count: int, dim: int, bank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "CELLS", 64 * 16)  # several blocks, the last of one row
    asking = F.normalize(torch.randn(bank, dim, generator=torch.Generator().manual_seed(2)), dim=-1)
    bias = HUB_CORRECTIONS.classes[name]()(one(dim, 1).expand(count, -1), asking)
    assert (bias == bias[0]).all()
    assert len(bias) == count
