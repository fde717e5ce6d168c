"""Entailment cones against MERU's formulas in float64, where they are exact and where they are not."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import Objective

N, D = 8, 5
K = 0.1


def vectors(length: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        m: (length * torch.randn(N, D, generator=generator, dtype=torch.float64)).requires_grad_()
        for m in ("image", "text")
    }


def entailment(score: Any = "lorentz", **said: Any) -> Objective:
    return mmcl.objective([{"regularize": {"name": "entailment", **said}}, {"score": score, "weight": 0.0}])


def lifted(v: Tensor, c: float) -> Tensor:
    v = v.detach().double() / math.sqrt(D)
    return torch.sinh(math.sqrt(c) * v.norm()) * v / (math.sqrt(c) * v.norm())


def outside(text: Tensor, image: Tensor, c: float = 1.0, radius: float = K) -> float:
    """As the paper has it: angles by arccos of Lorentzian inner products."""
    x, y = lifted(text, c), lifted(image, c)
    x_time, y_time = (math.sqrt(1 / c + float(v @ v)) for v in (x, y))
    inner = c * (float(x @ y) - x_time * y_time)
    angle = math.acos((y_time + inner * x_time) / (float(x.norm()) * math.sqrt(inner**2 - 1)))
    aperture = math.asin(min(1.0, 2 * radius / (math.sqrt(c) * float(x.norm()))))
    return max(0.0, angle - aperture)


def aligned(spread: float) -> dict[str, Tensor]:
    """Images on the ways of their texts, farther out, give or take some: in their cones, or not."""
    x = vectors(1.5)
    image = 1.5 * x["text"].detach() + spread * x["image"].detach()
    return {"image": image.requires_grad_(), "text": x["text"]}


@pytest.mark.parametrize("c", [1.0, 0.3])
@pytest.mark.parametrize("radius", [0.1, 0.4])
@pytest.mark.parametrize("spread", [None, 0.3, 0.05])
def test_values_are_those_of_the_paper(c: float, radius: float, spread: float | None) -> None:
    x = vectors(2.0) if spread is None else aligned(spread)
    expected = [outside(x["text"][i], x["image"][i], c, radius) for i in range(N)]
    found = entailment({"name": "lorentz", "curvature": c}, radius=radius).double()(x).total.item()
    assert found == pytest.approx(sum(expected) / N, rel=1e-7)  # the curvature's logarithm is fp32
    if spread == 0.05 and radius == 0.1 and c == 1:
        assert 0 < sum(v == 0 for v in expected) < N  # some are inside


def test_the_other_modality_may_be_general() -> None:
    x = vectors(2.0)
    expected = sum(outside(x["image"][i], x["text"][i]) for i in range(N)) / N
    assert entailment(general="image").double()(x).total.item() == pytest.approx(expected, rel=1e-9)


def test_gradients_are_those_of_differences() -> None:
    objective, x = entailment().double(), vectors(2.0)
    parameters = [p for name, p in objective.named_parameters() if "temperature" not in name]
    assert len(parameters) == 3
    assert torch.autograd.gradcheck(
        lambda a, b, *_: objective({"image": a, "text": b}).total, (*x.values(), *parameters), atol=1e-4
    )


def test_the_space_is_that_of_the_lorentz_term() -> None:
    objective = entailment()
    x = vectors(1.0)
    objective({m: t.detach().float() for m, t in x.items()}).total.backward()
    term = objective.terms[1]
    for name in ("log_curvature", "log_anchor_scale", "log_candidate_scale"):
        grad = getattr(term.score, name).grad
        assert grad is not None
        assert grad.abs() > 1e-4  # the contrast has no weight here
    assert not any(name.startswith("terms.0") for name in objective.state_dict())  # weights have one place
    with torch.no_grad():
        term.score.log_curvature += math.log(3)
    expected = sum(outside(x["text"][i], x["image"][i], 3.0) for i in range(N)) / N
    assert objective(x).total.item() == pytest.approx(expected, rel=1e-5)
    twin = copy.deepcopy(objective)
    with torch.no_grad():
        twin.terms[1].score.log_curvature -= math.log(3)
    assert twin(x).total.item() != pytest.approx(expected, rel=1e-3)
    assert objective(x).total.item() == pytest.approx(expected, rel=1e-5)


def test_scales_go_with_the_roles_of_the_lorentz_term() -> None:
    """Images are its anchors here, since they come first; the scale of candidates is that of texts."""
    x, objective = vectors(2.0), entailment().double()
    with torch.no_grad():
        objective.terms[1].score.log_candidate_scale += math.log(0.5)
    expected = sum(outside(0.5 * x["text"][i], x["image"][i]) for i in range(N)) / N
    assert objective(x).total.item() == pytest.approx(expected, rel=1e-9)


def at(*points: tuple[list[float], list[float]]) -> dict[str, Tensor]:
    """Texts and images of two dimensions, as tangent vectors of this length."""
    texts, images = (torch.tensor(side) * math.sqrt(2) for side in zip(*points, strict=True))
    return {"text": texts.requires_grad_(), "image": images.requires_grad_()}


def test_angles_that_are_known() -> None:
    behind, ahead, origin = ([1.0, 0.0], [-0.5, 0.0]), ([1.0, 0.0], [1.7, 0.0]), ([1.0, 0.0], [0.0, 0.0])
    aperture = math.asin(2 * K / math.sinh(1))
    for points, expected in (
        ((behind, behind), math.pi - aperture),
        ((ahead, ahead), 0.0),
        ((origin, origin), math.pi - aperture),
        ((([0.05, 0.0], [-0.5, 0.0]),) * 2, math.pi / 2),  # within the radius the cone is a half-space
        ((([0.05, 0.0], [0.3, 0.2]),) * 2, 0.0),
    ):
        assert entailment()(at(*points)).total.item() == pytest.approx(expected, abs=2e-5), points


def test_points_a_little_apart_are_exact_in_fp32() -> None:
    """The difference of the paper's arccos would be of the size of what rounding leaves."""
    for step, angle in ((1e-2, 1.0), (1e-3, 2.0)):
        text = torch.tensor([0.7, 0.0], dtype=torch.float64)
        image = text + step * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        exact = entailment().double()({m: v.expand(2, 2) * 1.4 for m, v in (("text", text), ("image", image))})
        rough = entailment()({m: v.float().expand(2, 2) * 1.4 for m, v in (("text", text), ("image", image))})
        assert rough.total.item() == pytest.approx(exact.total.item(), abs=2e-4)
        assert exact.total.item() > 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0.0, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("place", ["origin", "equal", "opposite", "far", "same way"])
def test_gradients_are_bounded_at_the_origin_and_at_equal_points(place: str, shift: float, dtype: torch.dtype) -> None:
    base = torch.tensor([[0.9, -0.4], [0.3, 1.2]])
    text, image = {
        "origin": (base * 0, base),
        "equal": (base, base),
        "opposite": (base, -base),
        "far": (base * 1e20, base.flip(1) * 1e20),
        "same way": (base, base / 2),
    }[place]
    x = {"text": text + shift, "image": image - shift * torch.tensor([1.0, -0.5])}
    x = {m: t.to(dtype).requires_grad_() for m, t in x.items()}
    objective = entailment()
    total = objective(x).total
    total.backward()
    assert 0 <= total <= math.pi
    for t in (*x.values(), *(p for p in objective.parameters() if p.grad is not None)):
        assert t.grad is not None
        assert t.grad.isfinite().all()
        assert t.grad.abs().max() < 1e4
    if place == "origin" and shift < 1e-4:  # where everything is general enough
        assert total == 0
    if place == "equal" and shift == 0:
        assert total == 0


def test_pairs_without_the_general_modality_do_not_count() -> None:
    x = {**vectors(2.0), "audio": vectors(1.5)["image"].detach()}
    expected = sum(outside(x["text"][i], x[m][i]) for i in range(N) for m in ("image", "audio")) / (2 * N)
    assert entailment().double()(x).total.item() == pytest.approx(expected, rel=1e-9)


def test_mistakes_are_told() -> None:
    with pytest.raises(MmclError, match="there are 0 such terms"):
        mmcl.objective({"regularize": "entailment"})
    with pytest.raises(MmclError, match="there are 2 such terms"):
        mmcl.objective([{"regularize": "entailment"}, {"score": "lorentz"}, {"score": "lorentz"}])
    with pytest.raises(MmclError, match="'caption' is not among"):
        entailment(general="caption")(vectors())
    objective = mmcl.objective([{"regularize": "entailment"}, {"score": "lorentz", "pairs": [["image", "audio"]]}])
    with pytest.raises(MmclError, match="no pair of the lorentz term has 'text'"):
        objective({**vectors(), "audio": vectors()["text"]})
