from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, Findings, Items, View
from mmcl.evaluators.corruptions import NAMES, Corruption
from mmcl.evaluators.effective_robustness import effective_robustness
from mmcl.evaluators.figures import Figure, intervals, mean
from mmcl.evaluators.robustness import Robustness


class Toy(Evaluator):
    """Right is an item whose vector's first coordinate is positive; `learned` shifts what counts as positive."""

    headline = "right"

    def __init__(self, takes: list[str] = ["image"], larger: bool = True, looks: bool = False) -> None:  # noqa: B006
        self.takes, self.larger, self.looks = takes, larger, looks

    def modalities(self) -> list[str]:
        return self.takes

    def metrics(self) -> dict[str, bool]:
        return {"right": self.larger, "other": True}

    def fields(self) -> list[str]:
        return ["label"]

    def prompted(self) -> list[str]:
        return ["text"]

    def trained_on(self) -> list[str]:
        return ["audio"]

    def views(self) -> dict[str, tuple[str, View]]:
        return {"image.flipped": ("image", lambda x, _: x)} if self.looks else {}

    def check(self, items: Items, train: Items | None = None) -> None:
        if len(items) == 1:
            raise MmclError("one")

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        bound = embedder.embed("text", ["a", "b"])[0, 0]
        right = data.only("image")[:, 0] > bound
        other = Figure(lambda w: torch.zeros(len(w)).double(), 1, 1)
        return Findings({"right": mean(right), "other": other}, details={"of the inner": 1})


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    EVALUATORS.register("toy")(Toy)
    yield
    del EVALUATORS.classes["toy"], EVALUATORS._specs["toy"]


class Prompts:
    calls = 0

    def embed(self, modality: str, values: Any) -> Tensor:
        self.calls += 1
        return torch.zeros(len(values), 2)


def robustness(**said: Any) -> Robustness:
    return EVALUATORS.check({"name": "robustness", "of": "toy", **said}).build()


def embedded(n: int, evaluator: Robustness, seed: int = 0) -> Embedded:
    g = torch.Generator().manual_seed(seed)
    vectors = {name: torch.randn(n, 2, generator=g) for name in ("image", *evaluator.views())}
    return Embedded.single(vectors, Items([f"k{i}" for i in range(n)], torch.arange(n)))


def test_all_corruptions_at_all_severities_are_other_looks() -> None:
    evaluator = robustness()
    views = evaluator.views()
    assert len(views) == 75
    assert views["image.fog-3"] == ("image", Corruption("fog", 3, 224))
    assert set(evaluator.metrics()) == {"clean", "mca", "relative", *(f"corruption/{name}" for name in NAMES)}
    assert evaluator.fields() == ["label"]
    assert evaluator.prompted() == ["text"]
    assert evaluator.trained_on() == ["audio"]
    with pytest.raises(MmclError, match="one"):
        evaluator.check(Items(["a"], torch.zeros(1, dtype=torch.long)))


def test_means_over_severities_then_corruptions() -> None:
    baseline = [[0.5, 0.2], [0.6, 0.35], [0.9, 0.7]]
    evaluator = robustness(corruptions=["fog", "snow"], severities=[1, 4], baseline=baseline)
    data, prompts = embedded(50, evaluator), Prompts()
    found = evaluator.measure(data, prompts)
    assert set(found.figures) == set(evaluator.metrics())
    right = {name: (rows[:, 0] > 0).double().numpy() for name, rows in data.vectors.items()}
    rng = np.random.default_rng(0)
    for drawn in (np.arange(50), rng.integers(50, size=50), rng.integers(50, size=50)):
        w = torch.from_numpy(np.bincount(drawn, minlength=50)).double()[None]
        value = {name: figure.statistic(w).item() for name, figure in found.figures.items()}
        share = {name: r[drawn].mean() for name, r in right.items()}
        fog, snow = ((share[f"image.{c}-1"] + share[f"image.{c}-4"]) / 2 for c in ("fog", "snow"))
        assert value["clean"] == pytest.approx(share["image"])
        assert value["corruption/fog"] == pytest.approx(fog)
        assert value["mca"] == pytest.approx((fog + snow) / 2)
        assert value["relative"] == pytest.approx((fog + snow) / 2 / share["image"])
        expected = effective_robustness(share["image"], (fog + snow) / 2, [(a, b) for a, b in baseline]).item()
        assert value["effective_robustness"] == pytest.approx(expected)
    assert found.details["severities"]["fog"]["4"] == pytest.approx(right["image.fog-4"].mean())
    assert found.details["of"] == "right"
    assert prompts.calls == 1  # the same prompts, five times
    low, high = intervals(found.figures)["mca"]
    assert low < found.figures["mca"].value < high


def test_another_modality_stays_clean() -> None:
    evaluator = robustness(of={"name": "toy", "takes": ["image", "text"]}, modality="text", severities=[1])
    assert {modality for modality, _ in evaluator.views().values()} == {"text"}
    assert "text.fog-1" in evaluator.views()


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(MmclError, match="takes image and text; say which `modality`"):
        robustness(of={"name": "toy", "takes": ["image", "text"]})
    with pytest.raises(MmclError, match="takes image, not audio"):
        robustness(modality="audio")
    with pytest.raises(MmclError, match="smaller is better"):
        robustness(of={"name": "toy", "larger": False})
    with pytest.raises(MmclError, match="looks at pictures of its own"):
        robustness(of={"name": "toy", "looks": True})
    with pytest.raises(MmclError, match="corruptions names one twice: fog, fog"):
        robustness(corruptions=["fog", "fog"])
    with pytest.raises(MmclError, match="two models at least"):
        robustness(baseline=[[0.5, 0.5]])
    for wrong in ({"corruptions": ["rain"]}, {"severities": [6]}, {"severities": []}, {"size": 31}):
        with pytest.raises(ValidationError):
            robustness(**wrong)


def test_it_is_not_measured_of_itself() -> None:
    with pytest.raises(MmclError, match="looks at pictures of its own"):
        robustness(of={"name": "robustness", "of": "toy"})
