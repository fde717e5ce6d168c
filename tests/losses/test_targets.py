"""Targets that are distributions, or that weigh rows, against loops in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import TARGETS
from tests.losses.references import unit

ROWS, TAU = 9, 0.2


@pytest.fixture
def x() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(ROWS, 6, generator=generator)
    return {m: (base + torch.randn(ROWS, 6, generator=generator)).requires_grad_() for m in ("text", "image")}


@pytest.fixture
def teacher() -> Tensor:
    return torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))


def cosines(a: Tensor, b: Tensor) -> list[list[float]]:
    return [[float(unit(p) @ unit(q)) for q in b.detach()] for p in a.detach()]


def cross_entropy(z: list[list[float]], q: list[list[float]], rows: list[int], columns: list[int]) -> float:
    """Mean over rows of -sum q log softmax(z)."""
    total = 0.0
    for i in rows:
        log = math.log(sum(math.exp(z[i][j]) for j in columns))
        total -= sum(q[i][j] * (z[i][j] - log) for j in columns)
    return total / len(rows)


def expected(
    x: dict[str, Tensor],
    q: list[list[list[float]]],
    rows: list[int] | None = None,
    hard: tuple[bool, bool] = (False, False),
) -> float:
    """Both directions, with targets of each; identity where a direction is hard."""
    rows = list(range(ROWS)) if rows is None else rows
    s = cosines(x["text"], x["image"])
    matrices = [[[v / TAU for v in row] for row in s], [[s[j][i] / TAU for j in range(ROWS)] for i in range(ROWS)]]
    one_hot = [[float(i == j) for j in range(ROWS)] for i in range(ROWS)]
    return sum(
        cross_entropy(z, one_hot if h else target, rows, rows) / 2
        for z, target, h in zip(matrices, q, hard, strict=True)
    )


def normalised(weights: list[list[float]], columns: list[int]) -> list[list[float]]:
    return [[w / sum(row[j] for j in columns) if j in columns else 0.0 for j, w in enumerate(row)] for row in weights]


def mixed(q: list[list[float]], alpha: float) -> list[list[float]]:
    return [[alpha * v + (1 - alpha) * (i == j) for j, v in enumerate(row)] for i, row in enumerate(q)]


def soft(t: list[list[float]], columns: list[int]) -> list[list[float]]:
    return mixed(normalised([[math.exp(v / 0.1) for v in row] for row in t], columns), 0.4)


def cwcl(t: list[list[float]], columns: list[int]) -> list[list[float]]:
    return normalised([[0.5 + 0.5 * v for v in row] for row in t], columns)


def congrat(t: list[list[float]], columns: list[int]) -> list[list[float]]:
    rows = [[v - min(row[j] for j in columns) for v in row] for row in t]
    return mixed(normalised([[max(v, 0.0) for v in row] for row in rows], columns), 0.1)


def neighbours(t: list[list[float]], columns: list[int]) -> list[list[float]]:
    made = []
    for i, row in enumerate(t):
        others = [j for j in columns if j != i]
        sum_ = sum(math.exp(row[j] / 0.5) for j in others)
        p = {j: math.exp(row[j] / 0.5) / sum_ for j in others}
        sure = 1 + sum(v * math.log(v) for v in p.values()) / math.log(len(others))
        made.append([1.0 if j == i else min(1.0, sure * 3 * p[j]) if j in others else 0.0 for j in range(ROWS)])
    return normalised(made, columns)


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "soft": ({"name": "soft", "temperature": 0.1, "alpha": 0.4}, soft),
    "cwcl": ({"name": "cwcl"}, cwcl),
    "congrat": ({"name": "congrat"}, congrat),
    "neighbours": ({"name": "neighbours", "temperature": 0.5, "k": 3}, neighbours),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [None, "auto"])
def test_targets_are_those_of_the_equations(case: str, block: Any, x: dict[str, Tensor], teacher: Tensor) -> None:
    said, reference = CASES[case]
    term = {"targets": {**said, "by": "teacher"}, "temperature": TAU, "block": block}
    everyone = list(range(ROWS))
    q = reference(cosines(teacher, teacher), everyone)
    found = mmcl.objective(term)(x, extras={"teacher": teacher}).total
    assert found.item() == pytest.approx(expected(x, [q, q]), abs=2e-5)
    found.backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in x.values())


@pytest.mark.parametrize("case", CASES)
def test_rows_that_are_missing_or_that_the_teacher_does_not_know(
    case: str, x: dict[str, Tensor], teacher: Tensor
) -> None:
    said, reference = CASES[case]
    there = torch.ones(ROWS, dtype=torch.bool)
    image, known = there.clone(), there.clone()
    image[2], known[5] = False, False
    rows = [i for i in range(ROWS) if i != 2]
    columns = [i for i in rows if i != 5]
    q = reference(cosines(teacher, teacher), columns)
    q[5] = [float(j == 5) for j in range(ROWS)]
    objective = mmcl.objective({"targets": {**said, "by": "teacher"}, "temperature": TAU})
    found = objective(x, present={"image": image, "teacher": known}, extras={"teacher": teacher}).total
    assert found.item() == pytest.approx(expected(x, [q, q], rows), abs=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_tiles_have_the_gradients_of_the_whole(case: str) -> None:
    torch.manual_seed(2)
    x = {m: torch.randn(37, 6, dtype=torch.float64) for m in ("text", "image")}
    teacher = {"teacher.text": torch.randn(37, 5, dtype=torch.float64), "teacher.image": torch.randn(37, 5).double()}
    by = {"text": "teacher.text", "image": "teacher.image"}
    results = []
    for block in (None, 16):
        leaves = {m: t.clone().requires_grad_() for m, t in x.items()}
        term = {"targets": {**CASES[case][0], "by": by}, "temperature": {"init": TAU}, "block": block}
        objective = mmcl.objective(term).double()
        total = objective(leaves, extras=teacher).total
        total.backward()
        results.append([total, *(t.grad for t in leaves.values()), *(p.grad for p in objective.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_similarities_between_the_modalities_have_a_direction(x: dict[str, Tensor], teacher: Tensor) -> None:
    other = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(3))
    term = {"targets": {"name": "soft", "by": {"text": "a", "image": "b"}, "temperature": 0.1, "alpha": 0.4}}
    t = cosines(teacher, other)
    q = [soft(t, list(range(ROWS))), soft([[t[j][i] for j in range(ROWS)] for i in range(ROWS)], list(range(ROWS)))]
    found = mmcl.objective({**term, "temperature": TAU})(x, extras={"a": teacher, "b": other}).total
    assert found.item() == pytest.approx(expected(x, q), abs=2e-5)


def test_toward_softens_one_direction_only_and_a_modality_is_held_still(x: dict[str, Tensor]) -> None:
    term = {"targets": {"name": "cwcl", "by": "image", "toward": "image"}, "temperature": TAU}
    q = cwcl(cosines(x["image"], x["image"]), list(range(ROWS)))
    found = mmcl.objective(term)(x).total
    assert found.item() == pytest.approx(expected(x, [q, q], hard=(False, True)), abs=2e-5)
    (moved,) = torch.autograd.grad(found, [x["image"]])
    frozen = {"image": x["image"], "text": x["text"]}
    held = mmcl.objective({**term, "targets": {"name": "cwcl", "by": "still", "toward": "image"}})
    (still,) = torch.autograd.grad(held(frozen, extras={"still": x["image"].detach()}).total, [x["image"]])
    torch.testing.assert_close(moved, still)


def test_weights_of_the_identity_are_info_nce(x: dict[str, Tensor]) -> None:
    plain = mmcl.objective({"temperature": TAU})(x).total
    far = torch.eye(ROWS)
    objective = mmcl.objective(
        {"targets": {"name": "soft", "by": "t", "temperature": 0.01, "alpha": 1.0}, "temperature": TAU}
    )
    torch.testing.assert_close(objective(x, extras={"t": far}).total, plain)
    flat = torch.ones(ROWS, 3)  # nobody is nearer: no neighbours
    objective = mmcl.objective({"targets": {"name": "neighbours", "by": "t"}, "temperature": TAU})
    torch.testing.assert_close(objective(x, extras={"t": flat}).total, plain)


WEIGHTS: dict[str, Any] = {"linear": lambda g: g, "inverse": lambda g: 1 / g, "log": lambda g: math.log(1 + g)}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_grades_weigh_rows(kind: str, x: dict[str, Tensor]) -> None:
    grades = torch.arange(1, ROWS + 1)
    known = torch.ones(ROWS, dtype=torch.bool)
    known[3] = False
    s = cosines(x["text"], x["image"])
    total = 0.0
    for i in range(ROWS):
        w = 1.0 if i == 3 else 2.0 * WEIGHTS[kind](i + 1)
        for z in ([v / TAU for v in s[i]], [s[j][i] / TAU for j in range(ROWS)]):
            total += w * (math.log(sum(math.exp(v) for v in z)) - z[i]) / (2 * ROWS)
    objective = mmcl.objective(
        {"targets": {"name": "graded", "by": "rank", "map": kind, "scale": 2.0}, "temperature": TAU}
    )
    found = objective(x, present={"rank": known}, extras={"rank": grades})
    assert found.total.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", ["soft", "cwcl", "congrat", "neighbours"])
def test_broken_rows_stay_finite(name: str) -> None:
    for rows in (0, 1, 2, 5):
        x = {m: torch.zeros(rows, 4, requires_grad=True) for m in ("text", "image")}
        objective = mmcl.objective({"targets": {"name": name, "by": "t"}})
        for t in (torch.zeros(rows, 3), torch.ones(rows, 3), -torch.eye(5, 3)[:rows]):
            total = objective(x, extras={"t": t}).total
            total.backward()
            assert total.isfinite()
            assert rows < 2 or all(v.grad is not None and v.grad.isfinite().all() for v in x.values())


def test_bad_input_is_told(x: dict[str, Tensor], teacher: Tensor) -> None:
    with pytest.raises(MmclError, match="it needs the extra 'nobody'"):
        mmcl.objective({"targets": {"name": "soft", "by": "nobody"}})(x)
    with pytest.raises(MmclError, match="the extra 't' is a number a row, and a vector is needed"):
        mmcl.objective({"targets": {"name": "soft", "by": "t"}})(x, extras={"t": torch.ones(ROWS)})
    by = {"text": "a", "image": "b"}
    with pytest.raises(MmclError, match="must be equal"):
        mmcl.objective({"targets": {"name": "soft", "by": by}})(x, extras={"a": teacher, "b": torch.ones(ROWS, 5)})
    with pytest.raises(MmclError, match="must name vectors of text and image"):
        mmcl.objective({"targets": {"name": "soft", "by": {"text": "a"}}})(x, extras={"a": teacher})
    with pytest.raises(MmclError, match="takes no distribution"):
        mmcl.objective({"targets": {"name": "soft", "by": "t"}, "contrast": "focal"})
    with pytest.raises(MmclError, match="target"):
        mmcl.objective({"targets": {"name": "soft", "by": "t"}, "directions": "joint"})
    with pytest.raises(MmclError, match="it needs the extra 'rank'"):
        mmcl.objective({"targets": {"name": "graded", "by": "rank"}})(x)
    with pytest.raises(MmclError, match="the extra 'rank' is a vector a row, and a number is needed"):
        mmcl.objective({"targets": {"name": "graded", "by": "rank"}})(x, extras={"rank": teacher})


def test_every_member_says_what_a_reader_needs() -> None:
    for name, cls in TARGETS.classes.items():
        text = cls.__doc__ or ""
        for section in (".. math::", "Use when:", "Range:", "Reference:", "http", "Example:"):
            assert section in text, (name, section)
