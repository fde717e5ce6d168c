"""What is logged of embeddings and terms, against its definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.losses import diagnostics, gradient_norms
from mmcl.types import Embeddings


@pytest.fixture
def vectors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {m: torch.randn(10, 6, dtype=torch.float64) for m in ("text", "image")}


def test_the_geometry_is_that_of_the_definitions(vectors: dict[str, Tensor]) -> None:
    there = torch.arange(10) < 7
    found = diagnostics(Embeddings.single(vectors, {"image": there}))
    text, image = (F.normalize(vectors[m][:n], dim=1) for m, n in (("text", 10), ("image", 7)))
    assert found["image/uniformity"].item() == pytest.approx(math.log((-2 * torch.pdist(image) ** 2).exp().mean()))
    values = torch.linalg.svdvals(text)
    values = values / values.sum()
    assert found["text/effective_rank"].item() == pytest.approx(
        math.exp(-sum(v * math.log(v) for v in values.tolist()))
    )
    cosines = text[:7] @ image.T
    assert found["text-image/positive"].item() == pytest.approx(cosines.diagonal().mean().item())
    assert found["text-image/alignment"].item() == pytest.approx(((text[:7] - image) ** 2).sum(1).mean().item())
    assert found["text-image/gap"].item() == pytest.approx((text[:7].mean(0) - image.mean(0)).norm().item())
    hardest = [max(float(cosines[i, j]) for j in range(7) if j != i) for i in range(7)]
    assert found["text-image/hardest_negative"].item() == pytest.approx(sum(hardest) / 7)


def test_collapse_shows() -> None:
    same = diagnostics(Embeddings.single({"a": torch.ones(8, 4), "b": torch.ones(8, 4)}))
    assert same["a/uniformity"].item() == pytest.approx(0, abs=1e-5)
    assert same["a/effective_rank"].item() == pytest.approx(1, abs=1e-3)
    assert same["a-b/hardest_negative"].item() == pytest.approx(1)


def test_gradient_norms_count_what_a_term_makes_of_this_processs_rows(
    vectors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mmcl.losses.regularizers.koleo.Koleo.__call__", lambda self, e: e.local["text"].square().sum() / 2
    )
    norms = gradient_norms(mmcl.objective({"regularize": "koleo"}).double(), Embeddings.single(vectors))
    assert norms["koleo"].item() == pytest.approx(vectors["text"].norm().item())


def test_gradient_norms_are_those_of_each_weighted_term(vectors: dict[str, Tensor]) -> None:
    terms = [{"temperature": 0.2, "weight": 3.0}, {"regularize": "uniformity"}, {"temperature": 0.1, "from_step": 9}]
    objective = mmcl.objective(terms).double()
    norms = gradient_norms(objective, Embeddings.single(vectors))
    assert list(norms) == ["cosine_softmax_0", "uniformity"]
    for title, term in zip(norms, terms, strict=False):
        leaves = {m: t.clone().requires_grad_() for m, t in vectors.items()}
        mmcl.objective(term).double()(leaves).total.backward()
        expected = math.sqrt(sum(float((t.grad**2).sum()) for t in leaves.values() if t.grad is not None))
        assert norms[title].item() == pytest.approx(expected)
