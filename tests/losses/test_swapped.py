"""Swapped prediction against Sinkhorn's iterations on whole matrices, entry by entry."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.errors import MmclError

N, D, TAU, EPSILON = 7, 4, 0.1, 0.05
VIEWS = {"image": "image.2", "text": "text.2"}
Matrix = list[list[float]]


def vectors(rows: int = N, names: tuple[str, ...] = ("image", "text", "image.2", "text.2")) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(rows, D, generator=generator, dtype=torch.float64)
    noise = [torch.randn(rows, D, generator=generator, dtype=torch.float64) for _ in names]
    return {m: (base + x).requires_grad_() for m, x in zip(names, noise, strict=True)}


def assigned(s: Tensor, iterations: int = 3) -> Matrix:
    """Shares of the candidates (columns) in each sample (row), as SwAV's code makes them."""
    rows, columns = s.shape
    q = [[math.exp(float(s[i, j]) / EPSILON) for j in range(columns)] for i in range(rows)]
    for _ in range(iterations):
        sums = [sum(q[i][j] for i in range(rows)) for j in range(columns)]
        q = [[q[i][j] / sums[j] / columns for j in range(columns)] for i in range(rows)]
        sums = [sum(row) for row in q]
        q = [[v / sums[i] / rows for v in q[i]] for i in range(rows)]
    return [[v * rows for v in row] for row in q]


def cross_entropy(s: Tensor, q: Matrix) -> float:
    total = 0.0
    for i, row in enumerate(q):
        log = math.log(sum(math.exp(float(v) / TAU) for v in s[i]))
        total -= sum(share * (float(v) / TAU - log) for share, v in zip(row, s[i], strict=True))
    return total / len(q)


def cosines(x: dict[str, Tensor], a: str, b: str) -> Tensor:
    return F.normalize(x[a].detach(), dim=1) @ F.normalize(x[b].detach(), dim=1).T


def transposed(q: Matrix) -> Matrix:
    return [list(row) for row in zip(*q, strict=True)]


def value(x: dict[str, Tensor], **more: Any) -> Tensor:
    return mmcl.objective({"regularize": {"name": "swapped", "temperature": TAU, **more}})(x).total


def test_a_single_view_predicts_the_assignment_of_the_other_direction() -> None:
    x = {m: t for m, t in vectors().items() if "." not in m}
    s = cosines(x, "image", "text")
    expected = (cross_entropy(s, transposed(assigned(s.T))) + cross_entropy(s.T, transposed(assigned(s)))) / 2
    assert value(x).item() == pytest.approx(expected)
    other = (cross_entropy(s, assigned(s)) + cross_entropy(s.T, assigned(s.T))) / 2
    assert expected != pytest.approx(other, rel=1e-6)  # the directions differ, so the swap can be seen


def test_two_views_predict_the_assignments_of_the_opposite_pair() -> None:
    x, total = vectors(), 0.0
    for v, v2 in (("image", "image.2"), ("image.2", "image")):
        for w, w2 in (("text", "text.2"), ("text.2", "text")):
            s, other = cosines(x, v, w), cosines(x, v2, w2)
            total += cross_entropy(s, assigned(other)) + cross_entropy(s.T, assigned(other.T))
    assert value(x, views=VIEWS).item() == pytest.approx(total / 8)


def test_one_modality_may_have_the_second_view_alone() -> None:
    x, total = vectors(), 0.0
    for v, v2 in (("image", "image.2"), ("image.2", "image")):
        s, other = cosines(x, v, "text"), cosines(x, v2, "text")
        total += cross_entropy(s, assigned(other)) + cross_entropy(s.T, assigned(other.T))
    assert value(x, views={"image": "image.2"}).item() == pytest.approx(total / 4)


def test_the_number_of_iterations_counts() -> None:
    x = vectors()
    other = cosines(x, "image.2", "text.2")
    once, often = (max(abs(sum(c) - 1) for c in transposed(assigned(other, n))) for n in (1, 30))
    assert often < 0.01 < once
    for iterations in (1, 30):
        total = 0.0
        for v, v2 in (("image", "image.2"), ("image.2", "image")):
            for w, w2 in (("text", "text.2"), ("text.2", "text")):
                s, q = cosines(x, v, w), cosines(x, v2, w2)
                total += cross_entropy(s, assigned(q, iterations)) + cross_entropy(s.T, assigned(q.T, iterations))
        assert value(x, views=VIEWS, iterations=iterations).item() == pytest.approx(total / 8)


def test_a_very_soft_assignment_is_even() -> None:
    x = {m: t for m, t in vectors().items() if "." not in m}
    s = cosines(x, "image", "text")
    even = [[1 / N] * N for _ in range(N)]
    expected = (cross_entropy(s, even) + cross_entropy(s.T, even)) / 2
    assert value(x, epsilon=1e6).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("views", [VIEWS, None])
def test_gradients_leave_the_assignments_alone(views: dict[str, str] | None) -> None:
    x = vectors()
    value(x, views=views).backward()
    leaves = {m: t.detach().requires_grad_() for m, t in x.items()}
    u = {m: F.normalize(t, dim=1) for m, t in leaves.items()}
    total = torch.zeros((), dtype=torch.float64)
    for v in ("image", "image.2") if views else ("image",):
        for w in ("text", "text.2") if views else ("text",):
            v2, w2 = (m[:-2] if m.endswith(".2") else f"{m}.2" for m in (v, w)) if views else (v, w)
            other = cosines(x, v2, w2)
            for z, q in ((u[v] @ u[w].T, assigned(other)), (u[w] @ u[v].T, assigned(other.T))):
                total = total - (torch.tensor(q) * (z / TAU).log_softmax(1)).sum() / N / (8 if views else 2)
    if not views:  # the other direction's
        s, total = cosines(x, "image", "text"), torch.zeros((), dtype=torch.float64)
        for z, q in (
            (u["image"] @ u["text"].T, transposed(assigned(s.T))),
            (u["text"] @ u["image"].T, transposed(assigned(s))),
        ):
            total = total - (torch.tensor(q) * (z / TAU).log_softmax(1)).sum() / N / 2
    total.backward()
    for m, leaf in leaves.items():
        if leaf.grad is not None:
            torch.testing.assert_close(x[m].grad, leaf.grad)


def test_rows_that_lack_a_view_change_nothing() -> None:
    x, there = vectors(), torch.arange(N) < 5
    objective = mmcl.objective({"regularize": {"name": "swapped", "views": VIEWS}})
    total = objective(x, present={"text.2": there}).total
    total.backward()
    torch.testing.assert_close(total, objective({m: t.detach()[:5] for m, t in x.items()}).total)
    assert all(t.grad is not None and t.grad[5:].abs().max() == 0 for t in x.values())


def test_hard_assignments_are_finite_in_half_precision() -> None:
    x = {m: t.detach().bfloat16().requires_grad_() for m, t in vectors(32).items()}
    total = value(x, epsilon=1e-3, temperature=0.01)
    total.backward()
    assert total.isfinite()
    assert all(t.grad is None or t.grad.isfinite().all() for t in x.values())


@pytest.mark.parametrize(
    ("said", "told"),
    [({"views": {"image": "image.3"}}, "'image.3' is not among"), ({"epsilon": 0}, "greater than 0")],
)
def test_mistakes_are_told(said: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        value(vectors(), **said)
