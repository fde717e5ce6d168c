"""What every score and every contrast must keep to, over the whole registry."""

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import CONTRASTS, REGULARIZERS, SCORES, TRANSFORMS, VIEWS, Objective, Score, TermSpec
from tests.losses import references

MODALITIES = ("text", "image", "audio")
PAIRED = {"debiased": {"lorentz"}}  # contrasts that need a bounded score, and the scores that are not
NATURAL = [(s, c) for s in SCORES.classes for c in CONTRASTS.classes if s not in PAIRED.get(c, ())]

COVERING = [
    (s, c) for s, c in NATURAL if c == "softmax" or s in ("cosine", "gram")
]  # each member, without each product


def modalities_of(score: str) -> tuple[str, ...]:
    return MODALITIES if SCORES.classes[score].view != "pairs" else MODALITIES[:2]


def natural(score: str, contrast: Any = "softmax", **more: Any) -> dict[str, Any]:
    """A term on the view that the score is made for."""
    view = {"tuple": {"anchor": "text"}, "rotating": {"view": "rotating"}, "pairs": {}}[SCORES.classes[score].view]
    return {"score": score, "contrast": contrast, **view, **more}


def vectors(score: str, rows: int = 12, dim: int = 8, seed: int = 0, dtype: Any = torch.float32) -> dict[str, Tensor]:
    """Modalities that have something in common."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return {
        m: (base + torch.randn(rows, dim, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for m in modalities_of(score)
    }


def gradients(objective: Objective, x: dict[str, Tensor], **more: Any) -> list[Tensor]:
    """Value, and gradients of embeddings and parameters."""
    leaves = {m: t.detach().clone().requires_grad_() for m, t in x.items()}
    objective = copy.deepcopy(objective)
    total = objective(leaves, **more).total
    total.backward()
    return [
        total.detach(),
        *(t.grad for t in leaves.values()),
        *(p.grad for p in objective.parameters() if p.grad is not None),
    ]


class Encoders(nn.Module):
    """A linear tower a modality."""

    def __init__(self, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({m: nn.Linear(16, 8) for m in modalities})

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: self.towers[m](x) for m, x in inputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("score", "contrast"), NATURAL)
def test_a_toy_learns_to_find_what_belongs_together(score: str, contrast: str) -> None:
    torch.manual_seed(0)
    rows = 32
    latent = torch.randn(rows, 6)
    inputs = {m: latent @ torch.randn(6, 16) + 0.1 * torch.randn(rows, 16) for m in modalities_of(score)}
    objective, towers = mmcl.objective(natural(score, contrast)), Encoders(modalities_of(score))
    optimizer = torch.optim.Adam([*towers.parameters(), *objective.parameters()], lr=0.03)
    for step in range(60):
        loss = objective(towers(inputs), step=step).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step_()
    made = objective.terms[0].score
    assert isinstance(made, Score)
    with torch.no_grad():
        anchor, *others = towers(inputs).values()
        found = (made(anchor, *others).argmax(1) == torch.arange(rows)).float().mean()
    # chance is 0.03; squares of products of three cannot be large and small at once, and cacr weighs them nearly evenly
    assert found > (0.12 if (score, contrast) in (("symile", "spectral"), ("symile", "cacr")) else 0.25)


@pytest.mark.slow
def test_every_other_combination_takes_a_finite_step_or_is_refused_with_a_reason() -> None:
    taken, reasons = 0, list[str]()
    said = product(SCORES.classes, CONTRASTS.classes, VIEWS.classes, ("identity", "shared"), ("in_batch", "distinct"))
    for score, contrast, view, targets, negatives in said:
        made: Any = {"name": view, "anchor": "text"} if view in ("star", "tuple") else view
        term = {"score": score, "contrast": contrast, "view": made, "targets": targets, "negatives": negatives}
        try:
            objective = mmcl.objective(term)
        except MmclError as error:
            reasons.append(str(error))
            continue
        torch.manual_seed(0)
        x = {m: torch.randn(5, 6, requires_grad=True) for m in MODALITIES}
        try:
            total = objective(x, keys=["a", "a", "b", "c", "d"]).total
        except MmclError as error:
            reasons.append(str(error))
            continue
        total.backward()
        assert total.isfinite(), term
        assert all(t.grad is not None and t.grad.isfinite().all() for t in x.values()), term
        taken += 1
    assert taken > 300
    assert len(reasons) > 100
    assert all(len(reason) > 40 for reason in reasons)


@pytest.mark.parametrize("score", SCORES.classes)
def test_scores_are_those_of_the_equations(score: str) -> None:
    x = [t.detach() for t in vectors(score).values()]
    made = SCORES.check(score).build()
    found = made(*x).detach().double()
    expected = torch.tensor(
        [[references.SCORES[score](x[0][i], *(o[j] for o in x[1:])) for j in range(12)] for i in range(12)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    pairs = made.pairs(made.anchors(x[0]), made.candidates(x[1:])).detach().double()
    torch.testing.assert_close(pairs, expected.diagonal(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("score", [s for s in SCORES.classes if s != "symile"])
def test_the_whole_loss_is_that_of_the_equations(score: str) -> None:
    x = vectors(score)
    anchor, *others = (t.detach() for t in x.values())
    expected = references.loss(references.SCORES[score], references.softmax, anchor, others, 0.3)
    assert mmcl.objective(natural(score, temperature=0.3))(x).total.item() == pytest.approx(expected, abs=1e-5)


CONTRAST_CASES: dict[str, tuple[Any, Any, str]] = {
    "softmax": ("softmax", references.softmax, "both"),
    "smoothed": ({"name": "softmax", "label_smoothing": 0.1}, references.smoothed, "both"),
    "sigmoid": ("sigmoid", references.sigmoid, "rows"),
    "decoupled": ("decoupled", references.decoupled, "both"),
    "hard_negative": (
        {"name": "hard_negative", "alpha": 0.7, "beta": 0.5},
        lambda p, n, t: references.hard_negative(p, n, t, 0.7, 0.5),
        "both",
    ),
    "hard_negative, detached": ({"name": "hard_negative", "detach": True}, references.hard_negative, "both"),
    "debiased": ("debiased", references.debiased, "both"),
    "debiased at its floor": (
        {"name": "debiased", "tau_plus": 0.6},
        lambda p, n, t: references.debiased(p, n, t, 0.6),
        "both",
    ),
    "margin": ("margin", references.margin, "both"),
    "angular": ({"name": "margin", "kind": "angular"}, references.angular, "both"),
    "focal": ("focal", references.focal, "both"),
    "hinge": ("hinge", references.hinge, "both"),
    "spectral": ("spectral", references.spectral, "both"),
    "cacr": ("cacr", references.cacr, "both"),
    "groco": ("groco", references.groco, "both"),
    "groco, steep": (
        {"name": "groco", "top_k": 3, "steepness": 20.0},
        lambda p, n, t: references.groco(p, n, t, 3, 20.0),
        "both",
    ),
    "sogclr": ({"name": "sogclr", "eps": 0.01}, lambda p, n, t: references.sogclr(p, n, t, eps=0.01), "both"),
    "isogclr": (
        {"name": "isogclr", "tau": 0.3, "tau_max": 0.4},
        lambda p, n, t: references.sogclr(p, n, 0.3, rho=8.0),
        "both",
    ),
}


@pytest.mark.parametrize("case", CONTRAST_CASES)
@pytest.mark.parametrize("distinct", [False, True])
def test_contrasts_are_those_of_the_equations(case: str, distinct: bool) -> None:
    contrast, reference, directions = CONTRAST_CASES[case]
    name = contrast if isinstance(contrast, str) else contrast["name"]
    x = vectors("cosine")
    ids = [0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8]
    tempered = {"temperature": 0.3} if CONTRASTS.classes[name].tempered else {}
    objective = mmcl.objective({"contrast": contrast, "negatives": "distinct" if distinct else "in_batch", **tempered})
    anchor, other = (t.detach() for t in x.values())
    expected = references.loss(
        references.cosine, reference, anchor, [other], 0.3, directions, ids=ids if distinct else None, distinct=distinct
    )
    total = objective(x, keys=[str(i) for i in ids]).total
    assert total.item() == pytest.approx(expected, abs=1e-5)
    total.backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in x.values())


@pytest.mark.parametrize(
    ("contrast", "reference"),
    [
        ("softmax", references.softmax),
        ({"name": "softmax", "positives": "in"}, references.softmax_in),
        ("sigmoid", references.sigmoid),
        ("cacr", references.cacr),
    ],
)
def test_several_positives_are_those_of_the_equations(contrast: Any, reference: Any) -> None:
    x, ids = vectors("cosine"), [0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8]
    anchor, other = (t.detach() for t in x.values())
    directions = "rows" if contrast == "sigmoid" else "both"
    expected = references.loss(references.cosine, reference, anchor, [other], 0.3, directions, ids=ids, shared=True)
    objective = mmcl.objective({"contrast": contrast, "targets": "shared", "temperature": 0.3})
    assert objective(x, keys=[str(i) for i in ids]).total.item() == pytest.approx(expected, abs=1e-5)


def test_decoupled_weights_favour_what_is_far() -> None:
    x = vectors("cosine")
    anchor, other = (t.detach().double() for t in x.values())
    s = torch.nn.functional.normalize(anchor, dim=1) @ torch.nn.functional.normalize(other, dim=1).T
    weight = 2 - (s.diagonal() / 0.5).exp() / (s.diagonal() / 0.5).exp().mean()
    outside = s.masked_fill(torch.eye(12, dtype=torch.bool), float("-inf")) / 0.3
    expected = (-weight * s.diagonal() / 0.3 + (outside.logsumexp(1) + outside.logsumexp(0)) / 2).mean()
    objective = mmcl.objective({"contrast": {"name": "decoupled", "sigma": 0.5}, "temperature": 0.3})
    assert objective(x).total.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(("score", "contrast"), COVERING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_are_the_plain_form(score: str, contrast: str, dtype: torch.dtype) -> None:
    """37 rows in tiles of 16: whole tiles, parts of tiles, and the diagonal across them."""
    x = vectors(score, rows=37, dtype=dtype)
    keys = [str(i // 2) for i in range(37)]
    there = {m: torch.arange(37) % (5 + i) != 3 for i, m in enumerate(x)}
    more = {"targets": "shared"} if CONTRASTS.classes[contrast].shared and score != "symile" else {}
    plain, tiles = (mmcl.objective(natural(score, contrast, block=b, **more)).to(dtype) for b in (None, 16))
    limit = 2e-5 if dtype == torch.float32 else 1e-9
    for a, b in zip(*(gradients(o, x, keys=keys, present=there) for o in (plain, tiles)), strict=True):
        assert (a - b).abs().max() <= limit * max(1.0, float(a.abs().max()))
        assert a.abs().max() > 0


@pytest.mark.parametrize("score", SCORES.classes)
@pytest.mark.parametrize("block", [None, 16])
def test_gradients_of_scores_are_those_of_differences(score: str, block: int | None) -> None:
    _gradcheck(
        natural(score, {"name": "softmax", "label_smoothing": 0.1}, block=block, temperature={"init": 0.3}), score
    )


@pytest.mark.parametrize("case", [c for c in CONTRAST_CASES if c != "hard_negative, detached"])
def test_gradients_of_contrasts_are_those_of_differences(case: str) -> None:
    contrast = CONTRAST_CASES[case][0]
    name = contrast if isinstance(contrast, str) else contrast["name"]
    tempered = {"temperature": {"init": 0.3}} if CONTRASTS.classes[name].tempered else {}
    _gradcheck({"contrast": contrast, "block": 16, **tempered}, "cosine")


def _gradcheck(term: dict[str, Any], score: str) -> None:
    objective = mmcl.objective(term).double()
    x = vectors(score, rows=5, dim=4, dtype=torch.float64)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(
        lambda *leaves: objective(dict(zip(x, leaves, strict=False))).total, (*x.values(), *parameters)
    )


def test_detached_weights_of_hard_negatives_are_constants_for_the_gradient() -> None:
    x = {m: t.detach().double().requires_grad_() for m, t in vectors("cosine").items()}
    objective = mmcl.objective({"contrast": {"name": "hard_negative", "detach": True}, "temperature": 0.3}).double()
    objective(x).total.backward()
    leaves = [t.detach().requires_grad_() for t in x.values()]
    a, b = (torch.nn.functional.normalize(t, dim=1) for t in leaves)
    z = a @ b.T / 0.3
    off = ~torch.eye(12, dtype=torch.bool)
    total: Any = 0.0
    for logits in (z, z.T):
        weights = (0.25 * logits).masked_fill(~off, float("-inf")).softmax(1).detach() * 11
        negatives = (weights * logits.exp()).masked_fill(~off, 0.0).sum(1)
        total = total + (logits.diagonal().exp() + negatives).log().sub(logits.diagonal()).mean() / 2
    total.backward()
    for mine, expected in zip(x.values(), leaves, strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


@pytest.mark.parametrize(("score", "contrast"), COVERING)
@pytest.mark.parametrize("kind", ["identical", "collinear", "zero", "duplicates", "huge"])
def test_finite_at_collapse(score: str, contrast: str, kind: str) -> None:
    torch.manual_seed(0)
    base = torch.randn(8, 6)
    second = {
        "identical": base[:1].expand(8, 6),
        "collinear": -2 * base,
        "zero": base * 0,
        "duplicates": base[:4].repeat(2, 1),
        "huge": base * 1e30,
    }[kind]
    for dtype, autocast in ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True)):
        parts = [second if kind == "identical" else base, second, base if kind == "collinear" else second]
        x = {m: t.to(dtype).clone().requires_grad_() for m, t in zip(modalities_of(score), parts, strict=False)}
        objective = mmcl.objective(natural(score, contrast, block=16))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            total = objective(x).total
        total.backward()
        assert total.isfinite()
        assert total.dtype == torch.float32
        for tensor in (*x.values(), *(p for p in objective.parameters() if p.requires_grad)):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
            assert tensor.grad.abs().max() < 1e5


@pytest.mark.parametrize("score", SCORES.classes)
def test_autocast_changes_nothing(score: str) -> None:
    x, objective = vectors(score), mmcl.objective(natural(score))
    plain = objective(x).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(objective(x).total, plain, rtol=0, atol=0)


@pytest.mark.parametrize(("score", "contrast"), COVERING)
def test_a_missing_modality_changes_nothing_for_the_other_rows(score: str, contrast: str) -> None:
    x = vectors(score)
    there = {m: torch.arange(12) < 12 - 2 * i for i, m in enumerate(x)}  # the last has 8 or 10 rows
    still = {"score": {"name": score, "shuffle": False}} if score == "symile" else {}  # or candidates are drawn anew
    whole = mmcl.objective(natural(score, contrast) | still)
    value, *found = gradients(whole, x, present=there)
    kept = 12 - 2 * (len(x) - 1)
    expected, *alone = gradients(whole, {m: t[:kept] for m, t in x.items()})
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(found[: len(x)], alone[: len(x)], strict=True):
        torch.testing.assert_close(mine[:kept], theirs, rtol=1e-4, atol=1e-6)
        assert mine[kept:].abs().max() == 0


@pytest.mark.parametrize(("score", "contrast"), COVERING)
@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_add_exactly_zero(score: str, contrast: str, rows: int) -> None:
    x = vectors(score)
    value, *found = gradients(mmcl.objective(natural(score, contrast)), x, present={"text": torch.arange(12) < rows})
    assert value == 0
    assert all(g.abs().max() == 0 for g in found)


@pytest.mark.parametrize("score", SCORES.classes)
def test_order_rotation_and_length_do_not_matter(score: str) -> None:
    x = {m: t.detach() for m, t in vectors(score, dtype=torch.float64).items()}
    objective = mmcl.objective(
        natural(score) | ({"score": {"name": score, "shuffle": False}} if score == "symile" else {})
    )
    expected = objective(x).total
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(objective({m: t[order] for m, t in x.items()}).total, expected)
    if score != "symile":  # it has axes
        rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
        torch.testing.assert_close(objective({m: t @ rotation for m, t in x.items()}).total, expected)
    if score != "lorentz":  # lengths are what it is about
        torch.testing.assert_close(objective({m: t * 7 for m, t in x.items()}).total, expected)


@pytest.mark.parametrize("registry", [SCORES, CONTRASTS, REGULARIZERS, TRANSFORMS, VIEWS])
def test_docstrings_say_what_a_reader_needs(registry: Any) -> None:
    for name, cls in registry.classes.items():
        if not cls.__module__.startswith("mmcl."):
            continue  # parts of other tests
        text = cls.__doc__ or ""
        assert "Example:" in text, name
        if registry is not VIEWS:
            for section in (".. math::", "Use when:", "Range:", "Reference:", "http"):
                assert section in text, (name, section)


def test_the_spec_is_written_back_as_it_was_read() -> None:
    for score, contrast in NATURAL:
        spec = TermSpec.model_validate(natural(score, contrast))
        assert TermSpec.model_validate(spec.model_dump(mode="json")) == spec
