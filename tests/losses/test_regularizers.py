"""Regularizers against float64 references written from the equations, their limits, and rows that are missing."""

import math
from contextlib import nullcontext
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import REGULARIZERS, Objective

N, D = 9, 5
TWO = [name for name, cls in REGULARIZERS.classes.items() if cls.least == 2]
TAUGHT = {"teachers": {"text": "teacher.text", "image": "teacher.image"}}
SAID: dict[str, Any] = {  # what cannot be left out
    "care": {"pairs": [["text", "image"]]},
    "instance": TAUGHT,
    "structure": TAUGHT,
    "score_matrix": TAUGHT,
}
# their references stand in test_distillation, test_swapped, test_entailment, test_clusters and test_matching
OF_THEIR_OWN = {"instance", "structure", "score_matrix", "swapped", "entailment", "clusters", "matching"}

OURS = [name for name, cls in REGULARIZERS.classes.items() if cls.__module__.startswith("mmcl.")]  # not those of tests


def made(name: str) -> Objective:
    """A regularizer alone; `entailment` has the term from which it takes its space beside it, without weight."""
    torch.manual_seed(0)
    beside = [{"score": "lorentz", "weight": 0.0}] if name == "entailment" else []
    return mmcl.objective([{"regularize": {"name": name, **SAID.get(name, {})}}, *beside], dim=D)


def teachers(rows: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"teacher.{m}": torch.randn(rows, D, generator=generator) for m in ("text", "image")}


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
    "care": (lambda x, y: float(((x @ x.T - y @ y.T) ** 2).sum()) / len(x) ** 2, True),
    "variance": (one_each(variance), False),
    "covariance": (one_each(covariance), False),
    "barlow": (barlow, False),
}


def test_every_regularizer_has_a_reference() -> None:
    assert {*REFERENCES, *OF_THEIR_OWN} == set(OURS)


@pytest.mark.parametrize("name", REFERENCES)
def test_values_and_gradients(name: str) -> None:
    reference, on_sphere = REFERENCES[name]
    x = vectors()
    seen = [F.normalize(t.detach(), dim=1) if on_sphere else t.detach() for t in x.values()]
    objective = made(name)
    assert objective(x).total.item() == pytest.approx(reference(*seen), rel=1e-6)
    assert torch.autograd.gradcheck(lambda a, b: objective({"text": a, "image": b}).total, tuple(x.values()))


@pytest.mark.parametrize("name", OURS)
def test_rows_that_are_missing_change_nothing(name: str) -> None:
    x = vectors()
    there = torch.arange(N) < 6
    objective, taught = made(name).double(), teachers()
    total = objective(x, present={"text": there, "image": there}, extras=taught).total
    total.backward()
    few = {m: t[:6].detach() for m, t in x.items()}
    expected = objective(few, extras={m: t[:6] for m, t in taught.items()}).total
    torch.testing.assert_close(total, expected)
    assert all(t.grad is not None and t.grad[6:].abs().max() == 0 for t in x.values())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_add_exactly_zero(name: str, rows: int) -> None:
    x = vectors()
    there = torch.arange(N) < rows
    total = made(name).double()(x, present={"text": there, "image": there}, extras=teachers()).total
    total.backward()
    assert total == 0
    assert all(t.grad is not None and t.grad.abs().max() == 0 for t in x.values())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_collapse(name: str, dtype: torch.dtype) -> None:
    for base in (torch.ones(6, D), torch.zeros(6, D), torch.randn(3, D).repeat(2, 1)):
        x = {m: base.to(dtype).clone().requires_grad_() for m in ("text", "image")}
        total = made(name)(x, extras=teachers(6)).total
        total.backward()
        assert total.isfinite()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in x.values())


@pytest.mark.parametrize("name", OURS)
def test_no_rows_at_all_are_zero(name: str) -> None:
    x = {m: t[:0].detach().requires_grad_() for m, t in vectors().items()}
    total = made(name).double()(x, extras=teachers(0)).total
    total.backward()
    assert total == 0
    assert all(t.grad is not None for t in x.values())  # a process without rows takes part in backward, too


@pytest.mark.parametrize("name", OURS)
def test_autocast_changes_nothing(name: str) -> None:
    x, objective = {m: t.detach().float() for m, t in vectors().items()}, made(name)
    plain = objective(x, extras=teachers()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(objective(x, extras=teachers()).total, plain, rtol=0, atol=0)


@pytest.mark.parametrize("name", OURS)
def test_nothing_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values refuse to be looked at, for which a host would wait on a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    objective = made(name).to("meta")
    x = {m: torch.empty(N, D, device="meta", requires_grad=True) for m in ("text", "image")}
    there = {m: torch.ones(N, dtype=torch.bool, device="meta") for m in x}
    total = objective(x, present=there, extras={m: t.to("meta") for m, t in teachers().items()}).total
    total.backward()
    assert all(t.grad is not None for t in x.values())


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
            made(name)({"text": torch.eye(3)})


def test_pairs_may_be_copies_of_one_modality() -> None:
    torch.manual_seed(0)
    x = {m: torch.randn(6, 4) for m in ("image", "image.2")}
    found = mmcl.objective({"regularize": {"name": "alignment", "pairs": [["image", "image.2"]]}})(x).total
    torch.testing.assert_close(
        found, mmcl.objective({"regularize": "alignment"})({"a": x["image"], "b": x["image.2"]}).total
    )
    with pytest.raises(MmclError, match="compares 2 modalities"):
        mmcl.objective({"regularize": "alignment"})(x)
