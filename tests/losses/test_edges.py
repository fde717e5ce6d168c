"""Where objectives could break: no rows, no bound, long vectors, candidates that are drawn, settings given in part."""

import math
from typing import Any

import pytest
import torch

import mmcl
from mmcl.losses import SCORES, TermSpec
from tests.losses import references
from tests.losses.test_contract import COVERING, MODALITIES, gradients, natural, vectors


@pytest.mark.parametrize(("score", "contrast"), COVERING)
def test_no_rows_at_all_are_zero(score: str, contrast: str) -> None:
    value, *found = gradients(mmcl.objective(natural(score, contrast)), {m: t[:0] for m, t in vectors(score).items()})
    assert value == 0
    assert all(g.abs().sum() == 0 for g in found)


def test_weighted_decoupling_is_finite_where_nothing_counts_and_where_scores_have_no_bound() -> None:
    sharp = {"name": "decoupled", "sigma": 0.01}
    for term, there in ((natural("lorentz", sharp), 12), (natural("cosine", sharp), 1), (natural("cosine", sharp), 0)):
        found = gradients(mmcl.objective(term), vectors(term["score"]), present={"text": torch.arange(12) < there})
        assert all(g.isfinite().all() for g in found)


def test_hyperbolic_distances_along_a_line_are_differences_of_lengths() -> None:
    direction = torch.nn.functional.normalize(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    for length in (0.5, 2.0, 4.0):
        score = SCORES.check("lorentz").build()
        a, b = (score.anchors(direction * 4 * r) for r in (length, 0.95 * length))  # 4 is the root of the width
        assert score.pairs(a, b).item() == pytest.approx(-0.05 * length, rel=1e-5)


def test_symile_draws_its_candidates_from_rows_that_count() -> None:
    """As many negatives as among these rows alone: at chance, the loss is the logarithm of their number."""
    x = {m: torch.randn(64, 6, generator=torch.Generator().manual_seed(i)) for i, m in enumerate(MODALITIES)}
    there = {"text": torch.arange(64) % 2 == 0}
    objective = mmcl.objective({"score": "symile", "temperature": 1000.0})
    assert objective(x, present=there).total.item() == pytest.approx(math.log(32), abs=1e-3)


def test_a_temperature_in_part_keeps_the_rest_of_what_suits_the_score() -> None:
    spec = TermSpec.model_validate({"score": "gram", "anchor": "text", "temperature": {"init": 0.05}})
    assert spec.temperature is not None
    assert (spec.temperature.init, spec.temperature.min) == (0.05, 0.001)
    spec = TermSpec.model_validate({"score": "symile", "temperature": {"learn": False}})
    assert spec.temperature is not None
    assert spec.temperature.init == 0.02


def test_a_tuple_may_be_its_centroid() -> None:
    x = {m: t.detach() for m, t in vectors("gram").items()}
    found = mmcl.score({"name": "cosine", "tuples": "centroid"}, x, anchor="text")
    for i, j in ((0, 0), (3, 5)):
        expected = references.centroid(x["text"][i], x["image"][j], x["audio"][j])
        assert found[i, j].item() == pytest.approx(expected, abs=1e-6)


def test_repulsion_without_negatives_leaves_the_distance_of_the_positives() -> None:
    """Eq. 4 of CACR without its second sum."""
    same = {"text": torch.ones(2, 3), "image": torch.ones(2, 3)}
    contrast: dict[str, Any] = {"contrast": "cacr", "targets": "shared"}
    assert mmcl.objective(contrast)(same, keys=["a", "a"]).total.item() == pytest.approx(0, abs=1e-5)
    two = torch.eye(3, dtype=torch.float64)[:2]
    found = mmcl.objective(contrast).double()({"text": two, "image": two}, keys=["a", "a"]).total
    far = math.exp(1 * 2.0) / (1 + math.exp(1 * 2.0))  # t+ = 1, distances 0 and 2
    assert found.item() == pytest.approx(2 * far)


def test_an_angular_margin_of_perfect_pairs_is_exact() -> None:
    x, m, tau = torch.eye(4, dtype=torch.float64), 0.5, 0.1
    term = {"contrast": {"name": "margin", "kind": "angular", "m": m}, "temperature": tau}
    found = mmcl.objective(term).double()({"text": x, "image": x}).total
    assert found.item() == pytest.approx(math.log1p(3 * math.exp(-math.cos(m) / tau)), rel=1e-6)


def test_the_preset_of_debiased_negatives_still_learns_where_positives_are_found() -> None:
    torch.manual_seed(0)
    x, noise = torch.nn.functional.normalize(torch.randn(2, 256, 128), dim=-1)
    y = (0.5 * x + 0.75**0.5 * noise).requires_grad_()
    mmcl.objective("debiased")({"text": x, "image": y}).total.backward()
    assert y.grad is not None
    assert (y.grad.norm(dim=1) > 1e-5).all()


def test_neighbours_of_koleo_are_measured_exactly() -> None:
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(8, 16, dtype=torch.float64), dim=1)
    x = torch.cat([x, torch.nn.functional.normalize(x + 5e-4 * torch.randn_like(x), dim=1)])
    grads = []
    for dtype in (torch.float64, torch.float32):
        leaf = x.detach().clone().to(dtype).requires_grad_()
        mmcl.objective({"regularize": "koleo"})({"text": leaf}).total.backward()
        assert leaf.grad is not None
        grads.append(leaf.grad.double())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-3 * grads[0].abs().max().item())
