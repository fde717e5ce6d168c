"""Maps: which points they have, what is said of them, and what cannot be drawn."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.eval_page.embedding_map import FEWEST, MARKS, POINTS, chosen, embedding_map, principal
from mmcl.evaluators import Embedded, Items
from mmcl.plots import COLORS


def unit(rows: int, dim: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def data(rows: int, labels: list[list[str]] | None = None, **vectors: Tensor) -> Embedded:
    items = Items([str(i) for i in range(rows)], torch.arange(rows), {} if labels is None else {"label": labels})
    return Embedded.single(vectors or {"image": unit(rows)}, items)


def marks(svg: str) -> int:
    """Points, which alone use a mark that was defined before."""
    return len(re.findall(r"<use ", svg))


def test_principal_components_are_those_of_the_covariance() -> None:
    x = unit(50).double()
    plane, kept = principal(x)
    values, vectors = torch.linalg.eigh(x.T.cov())
    assert plane is not None
    assert kept == pytest.approx(float(values[-2:].sum() / values.sum()))
    for i in (0, 1):
        axis = vectors[:, -1 - i]
        along = (x - x.mean(0)) @ axis * axis[axis.abs().argmax()].sign()
        torch.testing.assert_close(plane[:, i], along)


def test_pairs_are_joined_and_each_modality_has_its_mark() -> None:
    made = embedding_map(data(40, image=unit(40), text=unit(40, seed=1)), None, "a")
    assert [(kind.label, kind.mark, kind.n) for kind in made.kinds] == [("image", "●", 40), ("text", "■", 40)]
    assert marks(made.svg) == 80
    (path,) = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke-width: 0.4', made.svg)
    assert path.count("M") == path.count("L") == 40
    assert made.about.startswith("PCA of 40 items")
    assert "Lines join" in made.about


def test_classes_have_their_colors_and_the_map_is_the_same_each_time() -> None:
    labels = [["<b>"] if i % 3 else ["$x_{$"] for i in range(60)]
    made, again = (embedding_map(data(60, labels), "label", "a") for _ in range(2))
    assert made == again
    assert [(kind.label, kind.n) for kind in made.kinds] == [("<b>", 40), ("$x_{$", 20)]
    assert marks(made.svg) == 60
    assert "t-SNE of 60 items" in made.about
    assert "Lines" not in made.about


def test_like_lies_with_like() -> None:
    centres = F.normalize(torch.eye(8)[:3], dim=1)
    vectors = F.normalize(centres.repeat(20, 1) + 0.1 * unit(60), dim=1)
    made = embedding_map(data(60, [[str(i % 3)] for i in range(60)], image=vectors), "label", "a")
    assert [kind.n for kind in made.kinds] == [20, 20, 20]
    trust = re.search(r"Trustworthiness (\d\.\d+)", made.about)
    assert trust is not None
    assert float(trust[1]) > 0.9


def test_of_hundreds_of_classes_the_largest_have_a_look_of_their_own() -> None:
    labels = [[f"class {min(i, 299 - i)}"] for i in range(300)]
    made = embedding_map(data(300, labels), "label", "a")
    looks = len(COLORS) * len(MARKS)
    assert len(made.kinds) == looks + 1
    assert len({(kind.color, kind.mark) for kind in made.kinds}) == looks + 1
    assert made.kinds[-1].label == f"{150 - looks} other classes"
    assert sum(kind.n for kind in made.kinds) == marks(made.svg) == 300


def test_classes_of_several_modalities_have_a_color_each_and_modalities_a_mark() -> None:
    labels = [[f"class {i % 12}"] for i in range(36)]
    made = embedding_map(data(36, labels, image=unit(36), text=unit(36, seed=1)), "label", "a")
    named = {kind.label: kind for kind in made.kinds}
    assert len(made.kinds) == 2 * len(COLORS) + 1
    assert named["class 0 image"].color == named["class 0 text"].color
    assert (named["class 0 image"].mark, named["class 0 text"].mark) == ("●", "■")
    assert named["2 other classes"].n == 12


def test_items_with_several_labels_are_told() -> None:
    labels = [["a", "b"] if i % 2 else ["a"] for i in range(20)]
    assert {kind.label for kind in embedding_map(data(20, labels), "label", "a").kinds} == {"a", "several labels"}


def test_of_many_items_some_are_drawn_that_are_spread_evenly() -> None:
    points, said = chosen(data(5000, image=unit(5000), text=unit(5000)))
    assert said == "500 of 5,000 items"
    assert len(points.item) == POINTS
    first = points.item[: POINTS // 2]
    assert (first[0], first[-1]) == (0, 4999)
    assert set(first.diff().tolist()) <= {10, 11}


def test_of_several_captions_of_an_item_the_first_is_drawn() -> None:
    rows = unit(6)
    items = Items(["a", "b", "c"], torch.arange(3))
    points, _ = chosen(Embedded(items, {"text": rows}, {"text": torch.tensor([0, 0, 1, 2, 2, 2])}))
    torch.testing.assert_close(points.vectors, rows[[0, 2, 3]].double())
    points, _ = chosen(Embedded(items, {"text": rows[:2]}, {"text": torch.tensor([0, 2])}))
    assert points.item.tolist() == [0, 2]


def test_what_cannot_be_drawn_is_told() -> None:
    vectors = unit(30)
    vectors[3] = torch.nan
    made = embedding_map(data(30, image=vectors, sound=unit(30, 9)), None, "a")
    assert marks(made.svg) == 29
    assert "(left out, as their vectors are not finite: 1)" in made.about
    assert "without sound, of which vectors have another width" in made.about


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (unit(FEWEST - 1), "There is no map of 11 vectors"),
        (unit(1).repeat(30, 1), "all 30 vectors lie in one place"),
        (torch.full((30, 8), torch.nan), "There is no map of 0 vectors"),
    ],
)
def test_there_is_no_map_of_what_has_no_shape(vectors: Tensor, said: str) -> None:
    for label in (None, "label"):
        made = embedding_map(data(len(vectors), [["a"]] * len(vectors), image=vectors), label, "a")
        assert made.svg == ""
        assert said in made.about


def test_a_line_of_vectors_can_be_drawn() -> None:
    line = torch.linspace(0, 1, 30)[:, None] * torch.ones(1, 4)
    for vectors in (line, line[:, :1]):
        for label in (None, "label"):
            made = embedding_map(data(30, [["a"]] * 30, image=vectors), label, "a")
            assert marks(made.svg) == 30
