"""Distillation against float64 references: vectors, distances, cosines and score matrices of a teacher."""

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import chunks

N, D, WIDE = 9, 5, 7
TEACHERS = {"text": "teacher.text", "image": "teacher.image"}
ALL: list[dict[str, Any]] = [
    {"name": "instance", "teachers": {"text": "same.text"}},
    {"name": "structure", "teachers": TEACHERS},
    {"name": "structure", "teachers": TEACHERS, "kind": "cosines"},
    {"name": "score_matrix", "teachers": TEACHERS, "temperature": 0.3},
]


def vectors(rows: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {m: torch.randn(rows, D, generator=generator, dtype=torch.float64).requires_grad_() for m in TEACHERS}


def extras(rows: int = N) -> dict[str, Tensor]:
    """Of a wider teacher that finds what belongs together, but for some rows; and of one as wide as the student."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(rows, WIDE, generator=generator, dtype=torch.float64)
    made = {
        name: base + torch.randn(rows, WIDE, generator=generator, dtype=torch.float64) for name in TEACHERS.values()
    }
    return {**made, "same.text": torch.randn(rows, D, generator=generator, dtype=torch.float64)}


def units(x: Tensor) -> Tensor:
    return F.normalize(x.detach().double(), dim=1)


def value(said: dict[str, Any], x: dict[str, Tensor], **more: Any) -> Tensor:
    return mmcl.objective({"regularize": said})(x, **{"extras": extras(), **more}).total


def test_instances_are_near_the_teachers() -> None:
    x, t = units(vectors()["text"]), units(extras()["same.text"])
    expected = sum(float((x[i] - t[i]) @ (x[i] - t[i])) for i in range(N)) / N
    assert value(ALL[0], vectors()).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["distances", "cosines"])
def test_structure_is_that_of_the_teacher(kind: str) -> None:
    def huber(d: float) -> float:
        return 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5

    total = 0.0
    for m, name in TEACHERS.items():
        x, t = units(vectors()[m]), units(extras()[name])
        for i, j in product(range(N), repeat=2):
            if kind == "cosines":
                total += float(x[i] @ x[j] - t[i] @ t[j]) ** 2 / N**2 / 2
            elif i != j:
                total += huber(float((x[i] - x[j]).norm() - (t[i] - t[j]).norm())) / (N * (N - 1)) / 2
    assert value({"name": "structure", "teachers": TEACHERS, "kind": kind}, vectors()).item() == pytest.approx(total)


def test_far_apart_where_the_teacher_is_near_is_the_straight_part_of_the_loss() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    t = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0]])
    apart = float((t[0] - F.normalize(t[1:])[0]).norm())
    said = {"name": "structure", "teachers": {"a": "t"}}
    assert value(said, {"a": x}, extras={"t": t}).item() == pytest.approx(2 - apart - 0.5, abs=1e-6)


def matrix_loss(x: dict[str, Tensor], old: dict[str, Tensor], tau: float, ids: list[int]) -> float:
    total = 0.0
    for a, b in (("text", "image"), ("image", "text")):
        new = units(x[a]) @ units(x[b]).T
        was = units(old[f"teacher.{a}"]) @ units(old[f"teacher.{b}"]).T
        for i in range(len(ids)):
            if any(float(was[i, j]) > float(was[i, i]) for j in range(len(ids)) if ids[j] != ids[i]):
                continue
            p, q = (
                [math.exp(float(s[i, j]) / tau) / sum(math.exp(float(v) / tau) for v in s[i]) for j in range(len(ids))]
                for s in (new, was)
            )
            total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return total / (2 * len(ids))


@pytest.mark.parametrize("ids", [list(range(N)), [0, 0, 1, 2, 3, 3, 4, 5, 5]])
def test_score_matrices_are_those_of_the_earlier_model_where_it_was_right(ids: list[int]) -> None:
    keys = [str(i) for i in ids]
    expected = matrix_loss(vectors(), extras(), 0.3, ids)
    assert value(ALL[3], vectors(), keys=keys).item() == pytest.approx(expected)
    assert expected != pytest.approx(matrix_loss(vectors(), extras(), 0.3, [0] * N))  # some rows are left out
    assert expected > 0  # and some are not


def test_rows_in_which_the_earlier_model_was_wrong_have_no_gradient() -> None:
    x = vectors()
    old = extras()
    old["teacher.image"] = -old["teacher.text"]  # the own candidate is the worst
    total = value(ALL[3], x, extras=old)
    total.backward()
    assert total == 0
    assert all(t.grad is not None and t.grad.abs().max() == 0 for t in x.values())


def test_ties_of_the_earlier_model_are_not_wrong() -> None:
    old = extras()
    for name in ("teacher.text", "teacher.image"):
        old[name] = torch.ones(N, WIDE)
    assert value(ALL[3], vectors(), extras=old) > 0.01


@pytest.mark.parametrize("said", ALL)
def test_gradients_are_those_of_differences(said: dict[str, Any]) -> None:
    objective = mmcl.objective({"regularize": said})
    assert torch.autograd.gradcheck(
        lambda a, b: objective({"text": a, "image": b}, extras=extras()).total, tuple(vectors().values())
    )


@pytest.mark.parametrize("said", ALL)
def test_a_teacher_that_lacks_rows_says_nothing_of_them(said: dict[str, Any]) -> None:
    x, there, kept = vectors(), torch.arange(N) != 4, [i for i in range(N) if i != 4]
    taught = {name: t.masked_fill(~there[:, None], float("nan")) for name, t in extras().items()}
    total = value(said, x, extras=taught, present={name: there for name in taught})
    total.backward()
    few = {m: t.detach()[kept] for m, t in x.items()}
    torch.testing.assert_close(total, value(said, few, extras={k: t[kept] for k, t in extras().items()}))
    assert all(t.grad is None or (t.grad[4].abs().max() == 0 and t.grad.isfinite().all()) for t in x.values())


@pytest.mark.parametrize("said", ALL[1:])
def test_a_rotation_of_everything_costs_what_it_should(said: dict[str, Any]) -> None:
    """Nothing: neither structure nor score matrices say where the axes are."""
    x = {m: t.detach() for m, t in vectors().items()}
    rotation = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    taught = {f"teacher.{m}": F.pad(t @ rotation, (0, 2)) for m, t in x.items()}
    assert value(said, x, extras=taught).item() == pytest.approx(0, abs=1e-9)
    assert value(said, x).item() > 1e-3


@pytest.mark.parametrize("kind", ["distances", "cosines"])
def test_near_agreement_in_fp32_is_not_lost_to_rounding(kind: str) -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = x + 1e-3 * torch.randn(64, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    said = {"name": "structure", "teachers": {"a": "t"}, "kind": kind}
    exact = value(said, {"a": x}, extras={"t": t}).item()
    assert value(said, {"a": x.float()}, extras={"t": t.float()}).item() == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize("entries", [1, 20])
@pytest.mark.parametrize("said", [*ALL, {"name": "swapped"}])
def test_a_few_rows_at_a_time_are_all_at_once(
    said: dict[str, Any], entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for many in (2**22, entries):
        monkeypatch.setattr(chunks, "ENTRIES", many)
        x = vectors()
        total = value(said, x)
        total.backward()
        found.append([total.detach(), *(t.grad for t in x.values() if t.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


class Watch(TorchDispatchMode):
    """Notes the largest tensor that anything makes, in backward as well."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        made = [t.numel() for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
        self.largest = max(self.largest, *made) if made else self.largest
        return out


@pytest.mark.parametrize("said", [ALL[1], ALL[3], {"name": "swapped"}, {"name": "matching"}])
def test_memory_does_not_grow_with_the_square_of_the_batch(
    said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, largest = 100, []
    for entries in (256, 2**22):
        monkeypatch.setattr(chunks, "ENTRIES", entries)
        x, taught, objective = vectors(rows), extras(rows), mmcl.objective({"regularize": {**said}}, dim=D)
        if said["name"] == "matching":
            objective.terms[0].regularizer.head = torch.nn.Linear(3 * D, 1)
        with Watch() as watch:
            objective(x, extras=taught).total.backward()
        largest.append(watch.largest)
    assert largest[0] <= rows * WIDE * 3
    assert largest[1] >= rows**2  # the watch would see it


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"name": "instance", "teachers": {"text": "teacher.text"}}, "text has 5 coordinates and teacher.text 7"),
        (
            {"name": "structure", "teachers": {"text": "teacher.txt"}},
            "needs the extra 'teacher.txt'; did you mean 'teacher.text'",
        ),
        ({"name": "structure", "teachers": {"audio": "teacher.text"}}, "'audio' is not among"),
        ({"name": "structure", "teachers": {}}, "at least 1 item"),
        (
            {"name": "structure", "teachers": {"text": "grade"}},
            "the extra 'grade' is a number a row, and a vector is needed",
        ),
        ({"name": "score_matrix", "teachers": {"text": "teacher.text"}}, "it compares two modalities"),
        ({"name": "score_matrix", "teachers": TEACHERS, "pairs": [["text", "audio"]]}, "'audio' has no teacher"),
        ({"name": "score_matrix", "teachers": {**TEACHERS, "text": "same.text"}}, "are of one width"),
    ],
)
def test_mistakes_are_told(said: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        value(said, vectors(), extras={**extras(), "grade": torch.ones(N)})
