"""Where objectives could break: no rows, no bound, long vectors, candidates that are drawn, settings given in part."""

import math

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
