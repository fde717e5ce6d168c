import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ValidationError

from mmcl.errors import MmclError
from mmcl.evaluators import hubs
from mmcl.evaluators.hubs import CSLS, HUB_CORRECTIONS, NNN, HubPart, InvertedSoftmax


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_nnn_by_hand() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    gallery = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # scores 1, 0.6, 0 and -1, -0.6, 0
    assert NNN(alpha=0.75, k=2)(gallery, bank).tolist() == pytest.approx([0.75 * 0.8, 0.75 * -0.3])
    assert CSLS(k=2)(gallery, bank).tolist() == pytest.approx([0.4, -0.15])
    expected = [math.log(sum(math.exp(20 * s) for s in scores)) / 20 for scores in ((1, 0.6, 0), (-1, -0.6, 0))]
    assert InvertedSoftmax(beta=20)(gallery, bank).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", sorted(HUB_CORRECTIONS.classes))
def test_blocks_and_the_order_of_the_bank_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    correction, gallery, bank = HUB_CORRECTIONS.classes[name](), rows(9, 5, 1), rows(40, 5, 2)
    whole = correction(gallery, bank)
    monkeypatch.setattr(hubs, "CELLS", 80)  # two rows
    assert torch.allclose(correction(gallery, bank), whole)
    assert torch.allclose(correction(gallery, bank.flip(0)), whole)
    monkeypatch.setattr(hubs, "CELLS", 1)
    assert torch.allclose(correction(gallery, bank), whole)


def test_csls_ranks_as_its_whole_equation() -> None:
    queries, gallery, bank, k = rows(6, 5, 1), rows(12, 5, 2), rows(30, 5, 3), 4
    of_gallery = (gallery @ bank.T).sort(1, descending=True).values[:, :k].mean(1)
    of_queries = (queries @ gallery.T).sort(1, descending=True).values[:, :k].mean(1)
    whole = 2 * queries @ gallery.T - of_queries[:, None] - of_gallery[None, :]
    ours = queries @ gallery.T - CSLS(k)(gallery, bank)
    assert torch.equal(ours.argsort(1), whole.argsort(1))


def test_inverted_softmax_ranks_as_its_whole_equation() -> None:
    queries, gallery, bank = rows(6, 5, 1).double(), rows(12, 5, 2).double(), rows(30, 5, 3).double()
    whole = (10 * queries @ gallery.T).exp() / (10 * bank @ gallery.T).exp().sum(0)
    ours = queries @ gallery.T - InvertedSoftmax(10.0)(gallery.float(), bank.float()).double()
    assert torch.equal(ours.argsort(1), whole.argsort(1))


@pytest.mark.parametrize("name", sorted(HUB_CORRECTIONS.classes))
def test_a_hub_moves_down(name: str) -> None:
    shared = torch.eye(40)[:1]
    texts = F.normalize(rows(400, 40, 1) + shared, dim=1)  # all queries lean to one direction
    gallery = F.normalize(texts[:100] + 0.9 * rows(100, 40, 2), dim=1)
    gallery[0] = shared  # near to all of them
    queries, bank, own = texts[1:100], texts[100:], torch.arange(1, 100)
    plain = queries @ gallery.T
    corrected = plain - HUB_CORRECTIONS.classes[name]()(gallery, bank)
    hub = [(scores.argmax(1) == 0).sum().item() for scores in (plain, corrected)]
    right = [(scores.argmax(1) == own).sum().item() for scores in (plain, corrected)]
    assert hub[0] > 20
    assert hub[1] < hub[0] / 3
    assert right[1] > right[0] + 10


def test_a_bank_that_is_too_small_is_refused() -> None:
    with pytest.raises(MmclError, match="at least 16 queries, and train has 15"):
        NNN(k=16)(rows(3, 4, 1), rows(15, 4, 2))
    assert NNN(k=16)(rows(3, 4, 1), rows(16, 4, 2)).shape == (3,)
    with pytest.raises(MmclError, match="at least 1 "):
        InvertedSoftmax()(rows(3, 4, 1), rows(16, 4, 2)[:0])


@pytest.mark.parametrize("name", sorted(HUB_CORRECTIONS.classes))
def test_a_bank_that_is_broken_is_refused(name: str) -> None:
    bank = rows(40, 4, 2)
    bank[7, 1] = torch.nan  # it would make every bias one, and so every query a miss
    with pytest.raises(MmclError, match="1 of the 40 queries of train are not finite"):
        HUB_CORRECTIONS.classes[name]()(rows(3, 4, 1), bank)


def test_what_is_not_a_number_stays_so_and_the_others_do_not_change() -> None:
    gallery, bank = rows(3, 4, 1), rows(20, 4, 2)
    whole = NNN()(gallery, bank)
    gallery[1, 0] = torch.nan
    found = NNN()(gallery, bank)
    assert found.isnan().tolist() == [False, True, False]
    assert torch.equal(found[[0, 2]], whole[[0, 2]])


def test_a_recipe_names_them() -> None:
    class Holder(BaseModel):
        hubs: HubPart | None = None

    part = Holder.model_validate({"hubs": {"name": "nnn", "alpha": 0.75, "k": 8}}).hubs
    assert part is not None
    built = part.build()
    assert isinstance(built, NNN)
    assert (built.alpha, built.k) == (0.75, 8)
    for wrong in ({"name": "nnn", "alpha": 0}, {"name": "csls", "k": 0}, {"name": "inverted_softmax", "beta": -1}):
        with pytest.raises(ValidationError):
            Holder.model_validate({"hubs": wrong})
