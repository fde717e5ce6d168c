"""Objectives against float64 references written from the equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import check_objective, presets


def info_nce(a: Tensor, b: Tensor, tau: float, smoothing: float = 0.0, ids: list[int] | None = None) -> float:
    """Both directions, as a loop over rows and columns in float64."""
    n = a.shape[0]
    a, b = a.double(), b.double()
    total = 0.0
    for rows, columns in ((a, b), (b, a)):
        for i in range(n):
            x = rows[i] / rows[i].norm()
            kept = [j for j in range(n) if j == i or ids is None or ids[i] != ids[j]]
            z = {j: float(x @ (columns[j] / columns[j].norm())) / tau for j in kept}
            lse = math.log(sum(math.exp(v) for v in z.values()))
            total += lse - (1 - smoothing) * z[i] - smoothing * sum(z.values()) / len(z)
    return total / (2 * n)


@pytest.fixture
def pair() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"image": torch.randn(12, 8), "text": torch.randn(12, 8)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_clip_is_symmetric_info_nce(pair: dict[str, Tensor], smoothing: float) -> None:
    term = {"contrast": {"name": "softmax", "label_smoothing": smoothing}, "temperature": 0.2}
    assert mmcl.objective(term)(pair).total.item() == pytest.approx(info_nce(*pair.values(), 0.2, smoothing), abs=1e-5)


def test_rows_that_show_the_same_thing_are_not_each_others_negatives(pair: dict[str, Tensor]) -> None:
    ids = [0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8]
    objective = mmcl.objective({"negatives": "distinct", "temperature": 0.1})
    expected = info_nce(*pair.values(), 0.1, ids=ids)
    assert objective(pair, keys=[str(i) for i in ids]).total.item() == pytest.approx(expected, abs=1e-5)
    assert objective(pair).total.item() == pytest.approx(info_nce(*pair.values(), 0.1), abs=1e-5)


def test_chance_is_log_n_and_agreement_is_zero() -> None:
    same = torch.ones(16, 4)
    assert mmcl.objective("clip")({"a": same, "b": same}).total.item() == pytest.approx(math.log(16), abs=1e-5)
    assert mmcl.objective({"temperature": 0.01})({"a": torch.eye(16), "b": torch.eye(16)}).total.item() < 1e-6


def test_three_modalities_average_all_pairs() -> None:
    torch.manual_seed(1)
    x = {m: torch.randn(6, 5) for m in ("text", "image", "audio")}
    expected = sum(info_nce(x[a], x[b], 0.07) for a, b in (("text", "image"), ("text", "audio"), ("image", "audio")))
    assert mmcl.objective({"temperature": 0.07})(x).total.item() == pytest.approx(expected / 3, abs=1e-5)


def test_a_missing_modality_changes_nothing_for_the_other_rows(pair: dict[str, Tensor]) -> None:
    there = torch.tensor([True] * 9 + [False] * 3)
    x = {"image": pair["image"].requires_grad_(), "text": pair["text"].clone().masked_fill(~there[:, None], 0.0)}
    out = mmcl.objective({"temperature": 0.1})(x, present={"text": there})
    assert out.total.item() == pytest.approx(info_nce(pair["image"][:9].detach(), pair["text"][:9], 0.1), abs=1e-5)
    out.total.backward()
    assert pair["image"].grad is not None
    assert pair["image"].grad[9:].abs().max() == 0
    assert pair["image"].grad[:9].isfinite().all()


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_add_exactly_zero(pair: dict[str, Tensor], rows: int) -> None:
    there = torch.arange(12) < rows
    x = {m: t.clone().requires_grad_() for m, t in pair.items()}
    objective = mmcl.objective("clip")
    out = objective(x, present={"text": there})
    out.total.backward()
    assert out.total.item() == 0
    for tensor in (*x.values(), *objective.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() == 0


def test_gradients_are_those_of_float64(pair: dict[str, Tensor]) -> None:
    objective = mmcl.objective({"temperature": {"init": 0.2}, "contrast": {"name": "softmax", "label_smoothing": 0.1}})
    objective.double()
    x = [t.double().requires_grad_() for t in pair.values()]
    scale = objective.terms[0].temperature.log_scale
    assert torch.autograd.gradcheck(lambda a, b, _: objective({"image": a, "text": b}).total, (*x, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["identical", "opposite", "zero", "huge"])
def test_finite_at_collapse(kind: str, dtype: torch.dtype) -> None:
    base = torch.ones(8, 4, dtype=dtype)
    other = {"identical": base, "opposite": -base, "zero": base * 0, "huge": base * 1e30}[kind]
    x = {"a": base.clone().requires_grad_(), "b": other.clone().requires_grad_()}
    out = mmcl.objective({"temperature": 0.01})(x)
    out.total.backward()
    assert out.total.isfinite()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in x.values())


def test_invariant_to_the_order_of_rows_to_rotation_and_to_scale(pair: dict[str, Tensor]) -> None:
    objective = mmcl.objective("clip")
    expected = objective(pair).total
    order = torch.randperm(12)
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    for changed in (
        {m: t[order] for m, t in pair.items()},
        {m: t @ rotation for m, t in pair.items()},
        {m: t * 7 for m, t in pair.items()},
    ):
        torch.testing.assert_close(objective(changed).total, expected, rtol=1e-5, atol=1e-5)


def test_terms_switch_on_and_off_by_step(pair: dict[str, Tensor]) -> None:
    terms = [{"temperature": 0.1, "until_step": 5}, {"temperature": {"init": 0.2}, "from_step": 5, "weight": 3}]
    objective = mmcl.objective(terms)
    early, late = objective(pair, step=4), objective(pair, step=5)
    assert list(early.parts) == ["cosine_softmax_0"]
    assert list(late.parts) == ["cosine_softmax_1"]
    torch.testing.assert_close(late.total, 3 * late.parts["cosine_softmax_1"])


def test_a_term_that_is_off_stands_still(pair: dict[str, Tensor]) -> None:
    objective = mmcl.objective([{"temperature": 0.1}, {"temperature": {"init": 0.2}, "until_step": 1}])
    temperature = objective.terms[1].temperature.log_scale
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1, weight_decay=0.1)
    seen = [temperature.item()]
    for step in range(3):
        objective({m: x.clone().requires_grad_() for m, x in pair.items()}, step=step).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(temperature.item())
    assert seen[0] != seen[1] == seen[2] == seen[3]
    assert list(objective.temperatures(0)) == ["cosine_softmax_0", "cosine_softmax_1"]
    assert list(objective.temperatures(1)) == ["cosine_softmax_0"]


def test_what_a_line_borrows_has_a_gradient_where_its_own_line_is_off() -> None:
    lines = [{"score": "lorentz", "until_step": 1}, {"regularize": "entailment"}]
    objective = mmcl.objective(lines)
    assert {id(p) for p in objective.parameters_at(5)} == {id(p) for p in objective.parameters()}
    objective({"text": torch.zeros(3, 4), "image": torch.zeros(3, 4)}, step=5).total.backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_a_weight_may_change_with_the_steps(pair: dict[str, Tensor]) -> None:
    objective = mmcl.objective({"temperature": 0.1, "weight": {"start": 0.0, "end": 2.0, "steps": 10}, "from_step": 5})
    for step, weight in ((5, 0.0), (10, 1.0), (15, 2.0), (500, 2.0)):
        out = objective(pair, step=step)
        torch.testing.assert_close(out.total, weight * out.parts["cosine_softmax"])
    with pytest.raises(MmclError, match="weight"):
        mmcl.objective({"weight": {"start": 0.0, "end": 2.0}})


def test_temperature_is_held_at_its_limit_after_a_step() -> None:
    objective = mmcl.objective({"temperature": {"init": 0.02, "min": 0.01}})
    with torch.no_grad():
        objective.terms[0].temperature.log_scale += 5
    objective.after_step_()
    assert objective.temperatures()["cosine_softmax"].item() == pytest.approx(0.01)
    fixed = mmcl.objective({"temperature": 0.5})
    assert not list(fixed.parameters())
    assert fixed.temperatures()["cosine_softmax"].item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"temperature": {"init": 0.001}}, "init 0.001 lies below min 0.01"),
        ({"temperature": -1}, "greater than 0"),
        ({"until_step": 3, "from_step": 3}, "until_step 3 is not after from_step 3"),
        ({"pairs": [["text", "text"]]}, "pairs a modality with itself"),
        ({"contrast": {"name": "softmax", "label_smoothing": 1}}, "contrast.label_smoothing: .*less than 1"),
        ([], "at least 1"),
        ("simclear", "no objective is called 'simclear'"),
    ],
)
def test_mistakes_are_refused(said: object, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        mmcl.objective(said)


def test_a_pair_that_is_not_there_is_told(pair: dict[str, Tensor]) -> None:
    with pytest.raises(MmclError, match=r"the pair \['text', 'audio'\] is not among"):
        mmcl.objective({"pairs": [["text", "audio"]]})(pair)
    with pytest.raises(MmclError, match="two modalities or more"):
        mmcl.objective("clip")({"text": pair["text"]})


def test_what_is_no_batch_is_refused(pair: dict[str, Tensor]) -> None:
    with pytest.raises(MmclError, match="keys are strings, one a row, 12; got 2"):
        mmcl.objective("clip")(pair, keys=["a", "b"])
    with pytest.raises(MmclError, match="there are no embeddings"):
        mmcl.objective("clip")({})


@pytest.mark.parametrize("name", presets())
def test_every_preset_takes_a_step(name: str) -> None:
    torch.manual_seed(0)
    objective = mmcl.objective(name, dim=8)
    modalities = {"three_towers": ("image", "text", "teacher")}.get(name, ("text", "image", "audio"))
    x = {m: torch.randn(10, 8, requires_grad=True) for m in (*modalities, "text.2", "image.2", "text.wrong")}
    named = set[str]().union(*(line.spec.extras() for _, line in objective)) - set(x)
    extras = {n: torch.rand(10) if n == "grade" else torch.randn(10, 8) for n in named}
    out = objective(x, extras=extras, present={"image": torch.arange(10) != 4})
    out.total.backward()
    objective.after_step_()
    assert out.total.isfinite()
    grads = [t.grad for t in x.values() if t.grad is not None]
    assert len(grads) >= 2
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in grads)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_check_objective_raises_what_a_recipe_shows() -> None:
    with pytest.raises(ValidationError):
        check_objective({"score": "cosin"})


def test_score_is_the_matrix_of_the_anchor_against_the_others(pair: dict[str, Tensor]) -> None:
    expected = F.normalize(pair["text"], dim=-1) @ F.normalize(pair["image"], dim=-1).T
    torch.testing.assert_close(mmcl.score("cosine", pair, anchor="text"), expected)
    with pytest.raises(MmclError, match="the anchor 'audio' is not among"):
        mmcl.score("cosine", pair, anchor="audio")
    with pytest.raises(MmclError, match="an anchor with 1 other"):
        mmcl.score("kernel", {**pair, "audio": pair["text"]}, anchor="audio")


@pytest.mark.parametrize(
    "line",
    [
        "clip",
        {"pairs": [["image", "text"]]},
        {"pairs": [["image", "text"], ["text", "audio"]]},
        {"score": "gram", "anchor": "text"},
        {"score": "gram", "anchor": "audio"},
        {"score": "symile"},
        {"regularize": "swapped"},
        {"regularize": "uniformity"},
        {"regularize": {"name": "uniformity", "modalities": ["audio"]}},
        {"multi_view": "poly"},
    ],
)
@pytest.mark.parametrize("carried", [{"image", "text"}, {"text", "audio"}, {"image"}, set[str]()])
def test_a_term_is_about_rows_that_bring_something_into_it(line: str | dict[str, object], carried: set[str]) -> None:
    torch.manual_seed(0)
    names = ["image", "text", "audio"]
    (spec,) = check_objective([line])
    rows = {m: torch.randn(6, 8) for m in names}
    present = {m: torch.full((6,), m in carried) for m in names}
    value = mmcl.objective(line)(rows, present=present).total.item()
    assert spec.is_about(carried, names) == (value != 0)
