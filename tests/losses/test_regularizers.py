"""Regularizers against float64 references written from the equations, their limits, and rows that are missing."""

import math
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import REGULARIZERS

N, D = 9, 5
TWO = [name for name, cls in REGULARIZERS.classes.items() if cls.least == 2]


def vectors(rows: int = N, modalities: tuple[str, ...] = ("text", "image")) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {m: torch.randn(rows, D, generator=generator, dtype=torch.float64).requires_grad_() for m in modalities}


def alignment(x: Tensor, y: Tensor) -> float:
    return sum(float((a - b).norm() ** 2) for a, b in zip(x, y, strict=True)) / len(x)


def uniformity(x: Tensor, t: float = 2.0) -> float:
    pairs = list(permutations(range(len(x)), 2))
    return math.log(sum(math.exp(-t * float((x[i] - x[j]).norm() ** 2)) for i, j in pairs) / len(pairs))


def cross_uniformity(x: Tensor, y: Tensor, t: float = 2.0) -> float:
    pairs = list(permutations(range(len(x)), 2))
    return math.log(sum(math.exp(-t * float((x[i] - y[j]).norm() ** 2)) for i, j in pairs) / len(pairs))


def koleo(x: Tensor) -> float:
    nearest = [min(float((x[i] - x[j]).norm()) for j in range(len(x)) if j != i) for i in range(len(x))]
    return -sum(math.log(d) for d in nearest) / len(x)


def consistency(x: Tensor, y: Tensor) -> float:
    same = ((x @ x.T - y @ y.T) ** 2).sum()
    cross = ((x @ y.T - y @ x.T) ** 2).sum()
    return float(same + cross) / len(x) ** 2


def variance(x: Tensor) -> float:
    return float((1 - (x.var(0) + 1e-4).sqrt()).clamp(min=0).mean())


def covariance(x: Tensor) -> float:
    c = torch.cov(x.T)
    return float((c**2).sum() - (c.diagonal() ** 2).sum()) / x.shape[1]


def barlow(x: Tensor, y: Tensor) -> float:
    """Batch normalisation without its weights, then products, as in the code."""
    x, y = ((t - t.mean(0)) / (t.var(0, correction=0) + 1e-5).sqrt() for t in (x, y))
    c = x.T @ y / len(x)
    off = c - torch.diag(c.diagonal())
    return float(((1 - c.diagonal()) ** 2).sum() + 0.0051 * (off**2).sum())


def one_each(value: Any) -> Any:
    return lambda x, y: (value(x) + value(y)) / 2


REFERENCES: dict[str, tuple[Any, bool]] = {  # and whether it sees unit vectors
    "alignment": (alignment, True),
    "uniformity": (one_each(uniformity), True),
    "cross_uniformity": (cross_uniformity, True),
    "koleo": (one_each(koleo), True),
    "consistency": (consistency, True),
    "variance": (one_each(variance), False),
    "covariance": (one_each(covariance), False),
    "barlow": (barlow, False),
}


@pytest.mark.parametrize("name", REGULARIZERS.classes)
def test_values_and_gradients(name: str) -> None:
    reference, on_sphere = REFERENCES[name]
    x = vectors()
    seen = [F.normalize(t.detach(), dim=1) if on_sphere else t.detach() for t in x.values()]
    objective = mmcl.objective({"regularize": name})
    assert objective(x).total.item() == pytest.approx(reference(*seen), rel=1e-6)
    assert torch.autograd.gradcheck(lambda a, b: objective({"text": a, "image": b}).total, tuple(x.values()))


@pytest.mark.parametrize("name", REGULARIZERS.classes)
def test_rows_that_are_missing_change_nothing(name: str) -> None:
    x = vectors()
    there = torch.arange(N) < 6
    objective = mmcl.objective({"regularize": name})
    total = objective(x, present={"text": there, "image": there}).total
    total.backward()
    expected = objective({m: t[:6].detach() for m, t in x.items()}).total
    torch.testing.assert_close(total, expected)
    assert all(t.grad is not None and t.grad[6:].abs().max() == 0 for t in x.values())


@pytest.mark.parametrize("name", REGULARIZERS.classes)
@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_add_exactly_zero(name: str, rows: int) -> None:
    x = vectors()
    there = torch.arange(N) < rows
    total = mmcl.objective({"regularize": name})(x, present={"text": there, "image": there}).total
    total.backward()
    assert total == 0
    assert all(t.grad is not None and t.grad.abs().max() == 0 for t in x.values())


@pytest.mark.parametrize("name", REGULARIZERS.classes)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_collapse(name: str, dtype: torch.dtype) -> None:
    for base in (torch.ones(6, D), torch.zeros(6, D), torch.randn(3, D).repeat(2, 1)):
        x = {m: base.to(dtype).clone().requires_grad_() for m in ("text", "image")}
        total = mmcl.objective({"regularize": name})(x).total
        total.backward()
        assert total.isfinite()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in x.values())


def test_uniformity_is_zero_at_collapse_and_bounded_below() -> None:
    same = torch.ones(6, D, dtype=torch.float64)
    objective = mmcl.objective({"regularize": {"name": "uniformity", "t": 2.0}})
    assert objective({"text": same}).total.item() == pytest.approx(0, abs=1e-9)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)  # the bound -2t n/(n-1), met by two rows
    assert objective({"text": opposite}).total.item() == pytest.approx(-8)


def test_three_modalities_are_averaged() -> None:
    x = vectors(modalities=("text", "image", "audio"))
    units = {m: F.normalize(t.detach(), dim=1) for m, t in x.items()}
    expected = sum(cross_uniformity(units[a], units[b]) for a, b in combinations(units, 2)) / 3
    assert mmcl.objective({"regularize": "cross_uniformity"})(x).total.item() == pytest.approx(expected)
    only = mmcl.objective({"regularize": {"name": "cross_uniformity", "pairs": [["audio", "image"]]}})(x).total.item()
    assert only == pytest.approx(cross_uniformity(units["audio"], units["image"]))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"regularize": "uniform"}, "did you mean 'uniformity'"),
        ({"regularize": "uniformity", "score": "cosine"}, "score: there is no such key"),
        ({"regularize": {"name": "uniformity", "t": 0}}, r"regularize.t: .*greater than 0"),
    ],
)
def test_mistakes_are_refused(said: Any, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        mmcl.objective(said)


def test_modalities_that_are_not_there_are_told() -> None:
    for said, told in (
        ({"name": "uniformity", "modalities": ["audio"]}, "'audio' is not among"),
        ({"name": "alignment", "pairs": [["text", "audio"]]}, "'audio' is not among"),
        ({"name": "alignment", "pairs": [["text", "text"]]}, "pairs a modality with itself"),
    ):
        with pytest.raises(MmclError, match=told):
            mmcl.objective({"regularize": said})(vectors())
    for name in TWO:
        with pytest.raises(MmclError, match="it compares 2 modalities"):
            mmcl.objective({"regularize": name})({"text": torch.eye(3)})
