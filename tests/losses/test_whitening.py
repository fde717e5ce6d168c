"""Whitening against float64 references by eigenvectors, and its gradients where these have none."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcl.losses import TRANSFORMS, Whitening
from mmcl.losses.transforms.whitening import _InverseRoot
from mmcl.types import Embeddings
from tests.losses.test_transforms import SAID, D, N, info_nce, objective, vectors


def zca(x: Tensor, order: list[int], groups: int, shrinkage: float) -> Tensor:
    """Group by group, by eigenvectors."""
    x = x.detach() / x.detach().square().mean().sqrt()
    made, k = torch.zeros_like(x), x.shape[1] // groups
    for g in range(groups):
        channels = order[g * k : (g + 1) * k]
        centred = x[:, channels] - x[:, channels].mean(0)
        covariance = sum(torch.outer(row, row) for row in centred) / len(x)
        covariance = covariance + (shrinkage * covariance.trace() / k + 1e-6) * torch.eye(k, dtype=x.dtype)
        values, directions = torch.linalg.eigh(covariance)
        made[:, channels] = centred @ directions @ torch.diag(values**-0.5) @ directions.T
    return made


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_whitening_is_zca_of_shuffled_groups_averaged_over_copies(groups: int) -> None:
    x, said = vectors(), {"name": "whitening", "groups": groups, "copies": 3, "shrinkage": 0.01}
    built = TRANSFORMS.check(said).build()
    e, expected = Embeddings.single(x), []
    for copy, (weight, made) in enumerate(built(e)):
        assert weight == pytest.approx(1 / 3)
        seen = {}
        for m in x:
            order = torch.randperm(D, generator=built.generator(e, m, copy)).tolist()
            seen[m] = zca(x[m], order, groups, 0.01)
            torch.testing.assert_close(made.all[m], seen[m], rtol=1e-9, atol=1e-9)
        expected.append(info_nce(seen["text"], seen["image"]))
    assert objective(said)(x).total.item() == pytest.approx(sum(expected) / 3, abs=1e-6)
    assert len({round(value, 9) for value in expected}) == (1 if groups in (1, D) else 3)


@pytest.mark.parametrize("shrinkage", [1e-2, 1e-5])
def test_iterations_suffice_where_nearly_all_variance_lies_along_one_direction(shrinkage: float) -> None:
    """The worst that the shrinkage leaves."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 2, N, dtype=torch.float64)[:, None] * torch.randn(1, D, dtype=torch.float64)
    x = x + 1e-3 * torch.randn(N, D, dtype=torch.float64)
    ((_, made),) = Whitening(groups=1, copies=1, shrinkage=shrinkage)(Embeddings.single({"text": x}))
    torch.testing.assert_close(made.all["text"], zca(x, list(range(D)), 1, shrinkage), rtol=1e-7, atol=1e-9)


def test_whitened_coordinates_of_a_group_are_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, D, generator=generator) @ torch.rand(D, D, generator=generator) + 5
    ((_, made),) = Whitening(groups=1, copies=1, shrinkage=1e-5)(Embeddings.single({"text": x}))
    torch.testing.assert_close(torch.cov(made.all["text"].T, correction=0), torch.eye(D), rtol=0, atol=1e-2)


def test_whitening_takes_statistics_of_present_rows_alone() -> None:
    x, there = vectors(), torch.arange(N) < 8
    made = objective(SAID["whitening"])
    total = made(x, present={"text": there, "image": there}).total
    torch.testing.assert_close(total, made({m: t[:8] for m, t in x.items()}).total)


def test_a_modality_with_no_more_rows_than_a_group_has_coordinates_does_not_count() -> None:
    made = objective({"name": "whitening", "groups": 2})
    for rows, zero in ((3, True), (4, False)):
        total = made(vectors(), present={"text": torch.arange(N) < rows}).total
        assert (total == 0) == zero


@pytest.mark.parametrize("kind", ["equal eigenvalues", "two of three equal", "one direction", "duplicates", "constant"])
def test_gradients_of_whitening_are_right_where_covariances_are_degenerate(kind: str) -> None:
    """Eigenvectors have no derivative there."""
    eye = torch.eye(3, dtype=torch.float64)
    x = {
        "equal eigenvalues": torch.cat([eye, -eye]),
        "two of three equal": torch.cat([eye, -eye]) * torch.tensor([1.0, 1.0, 3.0]),
        "one direction": torch.linspace(-1, 2, 6, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 2.0, -1.0]]),
        "duplicates": eye[:2].repeat(3, 1),
        "constant": torch.cat([torch.cat([eye, -eye])[:, :2], torch.ones(6, 1, dtype=torch.float64)], 1),
    }[kind]
    transform = Whitening(groups=1, copies=1, shrinkage=0.1)
    assert torch.autograd.gradcheck(
        lambda t: transform(Embeddings.single({"text": t}))[0][1].all["text"], x.clone().requires_grad_()
    )


@pytest.mark.parametrize("k", [1, 4, 24])
@pytest.mark.parametrize("share", [1e-1, 1e-3])
def test_inverse_roots_and_their_gradients_are_those_of_eigenvalues(k: int, share: float) -> None:
    """The derivative of a function of a matrix by divided differences (Daleckii and Krein), at the worst spread."""
    torch.manual_seed(0)
    v = torch.randn(k, 1, dtype=torch.float64)
    a = v @ v.T / v.square().mean() + share * torch.eye(k, dtype=torch.float64)
    g = torch.randn(k, k, dtype=torch.float64)
    g = g + g.T
    values, u = torch.linalg.eigh(a)
    roots = values.sqrt()
    differences = -1 / (roots[:, None] * roots[None, :] * (roots[:, None] + roots[None, :]))
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 5e-3)):
        leaf = a.to(dtype)[None].requires_grad_()
        steps = math.ceil(math.log(2 * k / share) / math.log(2.25)) + 6
        made: Any = _InverseRoot.apply(leaf, steps)
        made.backward(g.to(dtype)[None])
        for found, expected in (
            (made[0].detach(), u @ torch.diag(1 / roots) @ u.T),
            (leaf.grad[0], u @ (differences * (u.T @ g @ u)) @ u.T),
        ):
            assert (found.double() - expected).norm() < limit * expected.norm()
