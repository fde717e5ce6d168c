"""Losses of several views at once against float64 references: the equations, one pair of rows at a time."""

import math
from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import MULTI_VIEWS, MultiViewSpec

MODALITIES = ("text", "image", "audio", "video")
TAU, RELATIVE = 0.3, 1e-7  # temperatures are stored in fp32


class Rows:
    """Unit vectors of rows by view, and only those that are there; rows with fewer than two are not."""

    def __init__(self, x: dict[str, Tensor], there: dict[str, Tensor], ids: list[int] | None = None) -> None:
        n = len(next(iter(x.values())))
        views = {i: [m for m in x if bool(there[m][i])] for i in range(n)}
        self.views = {i: v for i, v in views.items() if len(v) >= 2}
        self.ids = ids or list(range(n))
        self.units = {(i, m): F.normalize(x[m][i].detach().double(), dim=0) for i, v in self.views.items() for m in v}

    def z(self, i: int, a: str, j: int, b: str) -> float:
        return float(self.units[i, a] @ self.units[j, b]) / TAU

    def others(self, i: int) -> list[tuple[int, str]]:
        return [(j, m) for j in self.views if j != i and self.ids[j] != self.ids[i] for m in self.views[j]]


def partners(rows: Rows, i: int, a: str) -> list[float]:
    """The probabilities of view a, by each of the row's other views."""
    found = []
    for b in rows.views[i]:
        if b != a:
            negatives = sum(math.exp(rows.z(j, c, i, b)) for j, c in rows.others(i))
            positive = math.exp(rows.z(i, a, i, b))
            found.append(positive / (positive + negatives))
    return found


def geometric(rows: Rows, i: int) -> float:
    each = [sum(math.log(p) for p in partners(rows, i, a)) / (len(rows.views[i]) - 1) for a in rows.views[i]]
    return -sum(each) / len(each)


def arithmetic(rows: Rows, i: int) -> float:
    each = [math.log(sum(partners(rows, i, a)) / (len(rows.views[i]) - 1)) for a in rows.views[i]]
    return -sum(each) / len(each)


def sufficient(rows: Rows, i: int, centroid: bool = False) -> float:
    each = []
    for a in rows.views[i]:
        mean = torch.stack([rows.units[i, b] for b in rows.views[i] if b != a]).mean(0)
        mean = mean / mean.norm() if centroid else mean
        positive = math.exp(float(mean @ rows.units[i, a]) / TAU)
        negatives = sum(math.exp(float(mean @ rows.units[j, c]) / TAU) for j, c in rows.others(i))
        each.append(math.log(positive / (positive + negatives)))
    return -sum(each) / len(each)


def mv_infonce(rows: Rows, i: int, same: bool = True) -> float:
    views = rows.views[i]
    above = sum(math.exp(rows.z(i, a, i, b)) for a, b in permutations(views, 2))
    below = above + sum(math.exp(rows.z(i, a, j, b)) for a in views for j, b in rows.others(i) if same or a != b)
    return -math.log(above / below)


def mv_dhel(rows: Rows, i: int, own: bool = False) -> float:
    loss = -math.log(sum(math.exp(rows.z(i, a, i, b)) for a, b in combinations(rows.views[i], 2)))
    for a in rows.views[i]:
        below = sum(math.exp(rows.z(i, a, j, a)) for j, b in rows.others(i) if b == a)
        below += math.exp(1 / TAU) if own else 0
        loss += math.log(below) if below else 0
    return loss


CASES: dict[str, tuple[Any, Callable[[Rows, int], float]]] = {
    "geometric": ({"multi_view": "poly"}, geometric),
    "arithmetic": ({"multi_view": {"name": "poly", "form": "arithmetic"}}, arithmetic),
    "sufficient": ({"multi_view": {"name": "poly", "form": "sufficient"}}, sufficient),
    "centroid": (
        {"multi_view": {"name": "poly", "form": "sufficient"}, "score": {"name": "cosine", "tuples": "centroid"}},
        lambda rows, i: sufficient(rows, i, centroid=True),
    ),
    "mv_infonce": ({"multi_view": "mv_infonce"}, mv_infonce),
    "mv_infonce, no negatives of the same view": (
        {"multi_view": {"name": "mv_infonce", "same_view_negatives": False}},
        lambda rows, i: mv_infonce(rows, i, same=False),
    ),
    "mv_dhel": ({"multi_view": "mv_dhel"}, mv_dhel),
    "mv_dhel, with itself": (
        {"multi_view": {"name": "mv_dhel", "own": True}},
        lambda rows, i: mv_dhel(rows, i, own=True),
    ),
}
PRESETS = ("poly_geometric", "poly_arithmetic", "poly_sufficient", "mv_infonce", "mv_dhel")


def expected(case: str, x: dict[str, Tensor], there: dict[str, Tensor], ids: list[int] | None = None) -> float:
    rows = Rows(x, there, ids)
    return sum(CASES[case][1](rows, i) for i in rows.views) / len(rows.views)


def objective(case: str, **more: Any) -> mmcl.losses.Objective:
    return mmcl.objective({"temperature": {"init": TAU}, **CASES[case][0], **more}).double()


def vectors(rows: int = 9, views: int = 3, dim: int = 5) -> dict[str, Tensor]:
    """Views that have something in common."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(rows, dim, generator=g, dtype=torch.float64)
    return {
        m: (base + torch.randn(rows, dim, generator=g, dtype=torch.float64)).requires_grad_()
        for m in MODALITIES[:views]
    }


def everywhere(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {m: torch.ones(len(t), dtype=torch.bool) for m, t in x.items()}


def some(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every row lacks other views: all there, one missing, only one there, none there."""
    n = len(next(iter(x.values())))
    there = {m: torch.arange(n) % (len(x) + 1) != i for i, m in enumerate(x)}
    for i, m in enumerate(x):
        there[m][2] = i == 0
        there[m][4] = False
    return there


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize("presence", [everywhere, some])
def test_values_are_those_of_the_equations(case: str, views: int, presence: Any) -> None:
    x = vectors(views=views)
    there = presence(x)
    total = objective(case)(x, present=there).total
    assert total.item() == pytest.approx(expected(case, x, there), rel=RELATIVE)


@pytest.mark.parametrize("case", CASES)
def test_rows_that_show_the_same_thing_may_be_nobodys_negatives(case: str) -> None:
    x, ids = vectors(), [0, 0, 1, 2, 0, 3, 4, 4, 5]
    keys = [str(i) for i in ids]
    there = some(x)
    apart = objective(case, negatives="distinct")(x, present=there, keys=keys).total
    assert apart.item() == pytest.approx(expected(case, x, there, ids), rel=RELATIVE)
    assert objective(case)(x, present=there, keys=keys).total.item() == pytest.approx(expected(case, x, there))


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_differences(case: str) -> None:
    made, x = objective(case, block=None), vectors(rows=6, dim=3)
    there = some(x)
    (scale,) = made.parameters()
    assert torch.autograd.gradcheck(
        lambda *leaves: made(dict(zip(x, leaves, strict=False)), present=there).total, (*x.values(), scale)
    )


@pytest.mark.parametrize("case", CASES)
def test_tiles_are_the_plain_form(case: str) -> None:
    """37 rows in tiles of 16, some missing, some equal."""
    x = vectors(rows=37)
    keys = [str(i // 2) for i in range(37)]
    found = []
    for block in (None, 16):
        made = objective(case, block=block, negatives="distinct")
        total = made(x, present=some(x), keys=keys).total
        found.append([total, *torch.autograd.grad(total, [*x.values(), *made.parameters()])])
    for plain, tiles in zip(*found, strict=True):
        torch.testing.assert_close(plain, tiles)
        assert plain.abs().max() > 0


@pytest.mark.parametrize("case", ["geometric", "arithmetic", "sufficient", "centroid"])
def test_two_views_are_simclr(case: str) -> None:
    """NT-Xent over both views: 2n rows, of which each knows its own other among 2n - 1."""
    x = vectors(views=2)
    z = torch.cat([F.normalize(t.detach(), dim=1) for t in x.values()])
    logits = (z @ z.T / TAU).fill_diagonal_(float("-inf"))
    target = torch.arange(18).roll(9)
    assert objective(case)(x).total.item() == pytest.approx(F.cross_entropy(logits, target).item(), rel=RELATIVE)


def test_two_views_of_mv_dhel_are_alignment_and_two_uniformities() -> None:
    x = vectors(views=2)
    a, b = (F.normalize(t.detach(), dim=1) for t in x.values())
    spread = [(t @ t.T / TAU).fill_diagonal_(float("-inf")).logsumexp(1) for t in (a, b)]
    value = ((a * b).sum(1) / -TAU + spread[0] + spread[1]).mean()
    assert objective("mv_dhel")(x).total.item() == pytest.approx(value.item(), rel=RELATIVE)
    swapped = {"text": x["text"], "image": x["image"].roll(1, 0)}  # which image belongs to whom is all that changes
    align = ((a * b).sum(1).mean() - (a * b.roll(1, 0)).sum(1).mean()) / TAU
    assert objective("mv_dhel")(swapped).total.item() == pytest.approx((value + align).item(), rel=RELATIVE)


def test_the_arithmetic_form_is_at_most_the_geometric_one() -> None:
    for views in (3, 4):
        x = vectors(views=views)
        assert objective("arithmetic")(x).total < objective("geometric")(x).total - 1e-3


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("sufficient", "centroid")])
def test_a_gaussian_kernel_is_a_cosine_at_half_the_temperature(case: str) -> None:
    """Squared distances are 2 - 2 cosine; the constant leaves every fraction as it is, but for MV-DHEL's products."""
    x = vectors()
    kernel = objective(case, score={"name": "kernel", "gamma": 2.0}, temperature={"init": 2 * TAU})(x).total
    constant = -2 / TAU if "dhel" in case else 0.0
    torch.testing.assert_close(kernel, objective(case)(x).total + constant)


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_count_is_as_if_it_were_not_there(case: str) -> None:
    x = vectors(rows=8)
    there = everywhere(x)
    there["text"][5:], there["audio"][5:] = False, False  # images alone
    made = objective(case)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way, not even one that is thrown away
        total = made(x, present=there).total
        total.backward()
    torch.testing.assert_close(total, made({m: t[:5] for m, t in x.items()}).total)
    for t in x.values():
        assert t.grad is not None
        assert t.grad[5:].abs().max() == 0
        assert t.grad[:5].abs().amax(1).min() > 0


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_add_exactly_zero(case: str, rows: int) -> None:
    x = vectors()
    there = {m: torch.arange(9) < (rows if i else 9) for i, m in enumerate(x)}
    made = objective(case)
    total = made(x, present=there).total
    total.backward()
    assert total == 0
    for t in (*x.values(), *made.parameters()):
        assert t.grad is not None
        assert t.grad.abs().max() == 0


@pytest.mark.parametrize("case", CASES)
def test_a_modality_that_only_one_row_has_is_finite(case: str) -> None:
    x = vectors()
    there = everywhere(x)
    there["audio"][1:] = False
    total = objective(case)(x, present=there).total
    total.backward()
    assert total.item() == pytest.approx(expected(case, x, there), rel=RELATIVE)
    assert all(t.grad is not None and t.grad.isfinite().all() for t in x.values())


def test_exponential_sums_that_overflow_do_not() -> None:
    """At collapse of five views, sums of e^1000 and products of five of them; the values are known."""
    n, views, tau = 64, 5, 1e-3
    x = {f"m{i}": torch.ones(n, 4, requires_grad=True) for i in range(views)}
    known = {
        "poly_geometric": math.log(1 + views * (n - 1)),
        "poly_arithmetic": math.log(1 + views * (n - 1)),
        "poly_sufficient": math.log(1 + views * (n - 1)),
        "mv_infonce": math.log((views * n - 1) / (views - 1)),
        "mv_dhel": views * math.log(n - 1) - math.log(views * (views - 1) / 2) + (views - 1) / tau,
    }
    for name, value in known.items():
        (term,) = mmcl.losses.presets()[name]
        total = mmcl.objective({**term, "temperature": tau})(x).total
        total.backward()
        assert total.item() == pytest.approx(value, rel=1e-4), name
        assert all(t.grad is not None and t.grad.isfinite().all() for t in x.values())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["identical", "opposite", "zero", "duplicates", "huge"])
def test_finite_at_collapse(case: str, kind: str) -> None:
    base = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    second = {
        "identical": base[:1].expand(8, 6),
        "opposite": -base,
        "zero": base * 0,
        "duplicates": base[:4].repeat(2, 1),
        "huge": base * 1e30,
    }[kind]
    for dtype, autocast in ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True)):
        first = second if kind == "identical" else base
        x = {m: t.to(dtype).clone().requires_grad_() for m, t in zip(MODALITIES, (first, second, base), strict=False)}
        made = objective(case, temperature={"init": 0.01}).float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            total = made(x).total
        total.backward()
        assert total.isfinite()
        assert total.dtype == torch.float32
        for t in (*x.values(), *made.parameters()):
            assert t.grad is not None
            assert t.grad.isfinite().all()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_toy_of_three_modalities_learns_to_find_rows_that_it_has_not_seen(preset: str) -> None:
    torch.manual_seed(0)
    mix = {m: torch.randn(6, 16) for m in MODALITIES[:3]}

    def inputs(rows: int) -> dict[str, Tensor]:
        latent = torch.randn(rows, 6)
        return {m: latent @ mix[m] + 0.1 * torch.randn(rows, 16) for m in mix}

    towers = nn.ModuleDict({m: nn.Linear(16, 8) for m in mix})
    made = mmcl.objective(preset)
    optimizer = torch.optim.Adam([*towers.parameters(), *made.parameters()], lr=0.02)
    for step in range(50):
        there = {m: torch.rand(64) < 0.8 for m in mix}
        out = made({m: towers[m](t) for m, t in inputs(64).items()}, present=there, step=step)
        optimizer.zero_grad()
        out.total.backward()
        optimizer.step()
        made.after_step_()
    with torch.no_grad():
        z = {m: F.normalize(towers[m](t), dim=1) for m, t in inputs(64).items()}
    for a, b in combinations(z, 2):
        recall = float((z[a] @ z[b].T).argmax(1).eq(torch.arange(64)).float().mean())
        assert recall > 0.9, (a, b)  # chance is 0.016


def test_views_are_all_modalities_or_those_that_are_named() -> None:
    x = vectors()
    copies = {"text": x["text"], "image": x["image"], "image.2": x["audio"]}
    two = objective("geometric")({m: x[m] for m in ("text", "image")}).total
    torch.testing.assert_close(objective("geometric")(copies).total, two)
    named = objective("geometric", modalities=["text", "image", "image.2"])(copies).total
    torch.testing.assert_close(named, objective("geometric")(x).total)


def test_temperatures_are_learned_held_and_told() -> None:
    made = mmcl.objective(["mv_dhel", {"multi_view": "poly", "temperature": 0.5}, {"multi_view": "poly"}][1:])
    assert made.titles == ["cosine_poly_0", "cosine_poly_1"]
    assert len(list(made.parameters())) == 1
    with torch.no_grad():
        made.terms[1].temperature.log_scale += 9
    made.after_step_()
    found = {title: value.item() for title, value in made.temperatures().items()}
    assert found == pytest.approx({"cosine_poly_0": 0.5, "cosine_poly_1": 0.01})
    half = mmcl.objective({"multi_view": "poly", "temperature": {"learn": False}})
    assert half.temperatures()["cosine_poly"].item() == pytest.approx(0.07)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"multi_view": "poli"}, "no multi_view is called 'poli'; did you mean 'poly'"),
        ({"multi_view": "poly", "contrast": "softmax"}, "contrast: there is no such key"),
        ({"multi_view": "poly", "score": "gram"}, "gram does not compare two views .* cosine, kernel"),
        ({"multi_view": "poly", "score": "lorentz"}, "lorentz does not compare two views"),
        ({"multi_view": {"name": "poly", "form": "sufficient"}, "score": "kernel"}, "so cosine; not kernel"),
        ({"multi_view": {"name": "poly", "form": "harmonic"}}, "multi_view.form"),
        ({"multi_view": "poly", "modalities": ["text"]}, "at least 2"),
        ({"multi_view": "poly", "modalities": ["text", "text"]}, "names 'text' twice"),
        ({"multi_view": "poly", "temperature": {"init": 0.001}}, "init 0.001 lies below min 0.01"),
        ({"multi_view": "poly", "temperature": -1}, "greater than 0"),
    ],
)
def test_mistakes_are_refused(said: Any, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        mmcl.objective(said)


def test_modalities_that_are_not_there_are_told() -> None:
    x = {m: t.detach() for m, t in vectors(views=2).items()}
    with pytest.raises(MmclError, match="cosine_poly: 'audio' is not among"):
        mmcl.objective({"multi_view": "poly", "modalities": ["text", "audio"]})(x)
    with pytest.raises(MmclError, match="it compares two modalities or more"):
        mmcl.objective("mv_dhel")({"text": x["text"]})


@pytest.mark.parametrize("name", MULTI_VIEWS.classes)
def test_docstrings_and_specs(name: str) -> None:
    text = MULTI_VIEWS.classes[name].__doc__ or ""
    for section in (".. math::", "Use when:", "Cost:", "Range:", "Differs from the paper:", "Reference:", "Example:"):
        assert section in text, (name, section)
    spec = MultiViewSpec.model_validate({"multi_view": name})
    assert MultiViewSpec.model_validate(spec.model_dump(mode="json")) == spec
