from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Items
from mmcl.evaluators.figures import intervals, values
from mmcl.evaluators.geometry import Geometry
from mmcl.evaluators.shape import centroid_gap, hubness, occurrences, uniformity


class Nobody:
    def embed(self, modality: str, values: Any) -> torch.Tensor:
        raise AssertionError("nothing is prompted")


def data(n: int, modalities: list[str], d: int = 8, ids: torch.Tensor | None = None) -> Embedded:
    g = torch.Generator().manual_seed(0)
    vectors = {m: F.normalize(torch.randn(n, d, generator=g) + 0.3 * i, dim=1) for i, m in enumerate(modalities)}
    return Embedded.single(vectors, Items([f"k{i}" for i in range(n)], torch.arange(n) if ids is None else ids))


@pytest.mark.parametrize("modalities", [["image"], ["image", "text"], ["image", "text", "audio"]])
def test_it_measures_what_it_names(modalities: list[str]) -> None:
    evaluator = EVALUATORS.check({"name": "geometry", "modalities": modalities, "neighbors": 3}).build()
    figures = evaluator.measure(data(30, modalities), Nobody()).figures
    assert set(figures) == set(evaluator.metrics())
    assert evaluator.headline in figures
    assert evaluator.modalities() == modalities
    found = values(figures)
    for name, (low, high) in intervals(figures, times=200).items():
        assert low <= found[name] <= high, name


def test_each_figure_is_of_what_its_name_says() -> None:
    d, unit = data(30, ["image", "text"]), torch.arange(30)
    x, y = d.vectors["image"], d.vectors["text"]
    found = Geometry(["image", "text"], neighbors=4).measure(d, Nobody())
    assert found.figures["text/uniformity"].value == uniformity(y, unit).value
    assert found.figures["image-text/gap"].value == centroid_gap(x, y, unit).value
    counts = occurrences(x, y, 4)  # images ask, texts are found
    assert found.figures["image_to_text/hubness"].value == hubness(counts, unit).value
    hubs = found.details["image_to_text/hubs"]
    assert next(iter(hubs.values())) == counts.max()
    assert hubs == {key: counts[int(key[1:])].item() for key in hubs}


def test_items_that_show_the_same_are_one_unit() -> None:
    d = data(30, ["image", "text"], ids=torch.arange(30) // 3 * 7)
    figures = Geometry(["image", "text"], neighbors=4).measure(d, Nobody()).figures
    assert {figure.units for figure in figures.values()} == {10}


def test_of_many_items_some_are_taken_and_it_is_said() -> None:
    d = data(60, ["image", "text"])
    found = Geometry(["image", "text"], neighbors=4, most=20, seed=3).measure(d, Nobody())
    assert found.details["items"] == 20
    assert found.details["of"] == 60
    assert found.figures["image/uniformity"].n == 20
    again = Geometry(["image", "text"], neighbors=4, most=20, seed=3).measure(d, Nobody())
    other = Geometry(["image", "text"], neighbors=4, most=20, seed=4).measure(d, Nobody())
    assert values(again.figures) == values(found.figures)
    assert values(other.figures) != values(found.figures)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(MmclError, match="twice"):
        Geometry(["image", "image"])
    with pytest.raises(MmclError, match="`most`"):
        Geometry(["image", "text"], neighbors=10, most=10)
    few = data(8, ["image", "text"]).items
    with pytest.raises(MmclError, match="10 neighbors need more items than the 8"):
        Geometry(["image", "text"]).check(few)
    Geometry(["image"]).check(few)
    same = data(20, ["image"], ids=torch.zeros(20, dtype=torch.long)).items
    with pytest.raises(MmclError, match="different"):
        Geometry(["image"]).check(same)
    with pytest.raises(MmclError, match="folds"):
        Geometry(["image", "text"]).check(data(20, ["image"], ids=torch.arange(20) // 10).items)


def test_broken_vectors_are_named() -> None:
    d = data(30, ["image", "text"])
    d.vectors["text"][17, 2] = torch.nan
    with pytest.raises(MmclError, match="1 vectors of text are not finite, the first of item k17"):
        Geometry(["image", "text"]).measure(d, Nobody())
