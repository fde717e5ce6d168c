"""Transfer from one modality to another, where it is known what must come out."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from mmcl.errors import MmclError
from mmcl.evaluators import EVALUATORS, LinearProbe, Transfer
from mmcl.evaluators.base import Embedded
from mmcl.evaluators.figures import mean, values
from mmcl.evaluators.labelled import labelled
from mmcl.evaluators.transfer import compared
from tests.evaluators.clusters import Nobody, assert_weights_are_repetitions, items, vectors

TRAIN, TEST = list("abcde") * 12, list("aabcdee") * 8
GAP = 2.0 * F.normalize(torch.randn(8, generator=torch.Generator().manual_seed(9)), dim=0)


def made(gap: float = 0.0, noise: float = 0.8) -> Embedded:
    """Texts that lie beside the pictures of their items, some way off."""
    train = {"image": vectors(TRAIN, 0, noise), "text": F.normalize(vectors(TRAIN, 5, 0.5) + gap * GAP, dim=-1)}
    known = Embedded.single(train, items(TRAIN, "train"))
    return Embedded.single({"image": vectors(TEST, 1, noise)}, items(TEST, "test"), known)


def test_figures_are_those_of_scikit_learn() -> None:
    data = made(0.3)
    assert data.train is not None
    x = data.vectors["image"].double().numpy()
    right = []
    for modality in ("text", "image"):
        model = LogisticRegression(C=4.0, tol=1e-7).fit(data.train.vectors[modality].double().numpy(), TRAIN)
        right.append(np.mean(model.predict(x) == np.array(TEST)))
    evaluator = Transfer("text", "image", c=4.0)
    got = values(evaluator.measure(data, Nobody()).figures)
    assert got["acc1"] == pytest.approx(right[0])
    assert got["same_modality/acc1"] == pytest.approx(right[1])
    assert got["fidelity"] == pytest.approx(right[0] / right[1])
    assert got["gap"] == pytest.approx(right[1] - right[0])
    assert set(got) == set(evaluator.metrics())
    table = evaluator.measure(data, Nobody()).confusion  # of the transfer, and not of the bound
    assert table is not None
    assert right[0] != right[1]
    assert np.trace(table.counts) == round(right[0] * len(TEST))
    assert evaluator.modalities() == ["image"]
    assert evaluator.trained_on() == ["text", "image"]


def test_equal_modalities_transfer_wholly_and_the_bound_is_the_linear_probe() -> None:
    data = made()
    assert data.train is not None
    image = data.train.vectors["image"]
    same = Embedded(
        data.items, data.vectors, data.owner, Embedded.single({"image": image, "text": image}, items(TRAIN))
    )
    got = values(Transfer("text", "image").measure(same, Nobody()).figures)
    assert (got["fidelity"], got["gap"]) == (1, 0)
    probe = values(LinearProbe("image").measure(same, Nobody()).figures)
    assert got["same_modality/acc1"] == probe["acc1"]
    assert {name: got[name] for name in probe} == probe


def test_source_vectors_are_moved_by_the_difference_of_the_means() -> None:
    data = made(0.5)
    assert data.train is not None
    text, image = data.train.vectors["text"], data.train.vectors["image"]
    moved = F.normalize(text + (image.mean(0) - text.mean(0)), dim=-1)
    by_hand = Embedded.single({"image": image, "text": moved}, items(TRAIN, "train"))
    there = Embedded(data.items, data.vectors, data.owner, by_hand)
    shifted = Transfer("text", "image", c=4.0, shift=True).measure(data, Nobody())
    assert values(shifted.figures) == values(Transfer("text", "image", c=4.0).measure(there, Nobody()).figures)
    assert shifted.details["distance_of_means"] == pytest.approx((image.mean(0) - text.mean(0)).norm().item(), rel=1e-5)


def test_the_mean_shift_mends_a_gap_that_is_a_shift() -> None:
    """Source vectors on a line off the target's: the intercept is wrong by the gap, and right without it."""
    base = torch.zeros(60, 3)
    base[:, 0] = torch.tensor([-0.3, 0.3]).repeat(30) + 0.05 * torch.randn(
        60, generator=torch.Generator().manual_seed(0)
    )
    image, text = base.clone(), base + torch.tensor([0.8, 0, 0])
    labels = list("ab") * 30
    known = Embedded.single({"image": image, "text": text}, items(labels, "train"))
    data = Embedded.single({"image": image}, items(labels, "test"), known)
    evaluator = Transfer("text", "image", c=100.0)
    assert evaluator.measure(data, Nobody()).figures["acc1"].value <= 0.5
    changed = Transfer("text", "image", c=100.0, shift=True)._changed(
        labelled(known, "text", "label"), labelled(known, "image", "label"), 0
    )
    torch.testing.assert_close(changed.vectors, F.normalize(image, dim=-1), atol=1e-5, rtol=0)


def test_noise_is_that_of_the_equation() -> None:
    many = Embedded.single({m: vectors(list("ab") * 10, 0, dim=64) for m in ("text", "image")}, items(list("ab") * 10))
    known, bound = (labelled(many, m, "label") for m in ("text", "image"))
    evaluator = Transfer("text", "image", noise=0.05, copies=200)
    noisy = evaluator._changed(known, bound, 0)
    assert len(noisy) == 4000
    torch.testing.assert_close(noisy.vectors.norm(dim=1), torch.ones(4000))
    assert torch.equal(noisy.labels, known.labels.repeat_interleave(200))
    assert torch.equal(noisy.unit, known.unit.repeat_interleave(200))
    cosine = (noisy.vectors * known.vectors.repeat_interleave(200, 0)).sum(1)
    # x.x' = (1 + s e.x) / |x + s e|, whose square is about 1 / (1 + 63 s^2) in 64 dimensions
    assert cosine.square().mean().item() == pytest.approx(1 / (1 + 63 * 0.05**2), abs=0.005)
    draws = noisy.vectors.view(20, 200, 64)
    assert (draws[:, 0] != draws[:, 1]).any()
    assert not torch.equal(evaluator._changed(known, bound, 1).vectors, noisy.vectors)


def test_copies_of_an_item_are_held_out_together() -> None:
    train = made().train
    assert train is not None
    known, bound = (labelled(train, m, "label") for m in ("text", "image"))
    noisy = Transfer("text", "image", noise=0.05, copies=3)._changed(known, bound, 0)
    rest, held = noisy.held_out(0.25, 0)
    assert len(held) == 45
    assert not set(rest.unit.tolist()) & set(held.unit.tolist())


def test_every_fit_is_told_as_json_and_figures_are_means() -> None:
    found = Transfer("text", "image", noise=0.1, c=1.0, seeds=[0, 1]).measure(made(0.5), Nobody())
    told = json.loads(json.dumps(found.details))
    assert [(fit["seed"], fit["from"]) for fit in told["fits"]] == [
        (0, "text"),
        (0, "image"),
        (1, "text"),
        (1, "image"),
    ]
    assert found.figures["acc1"].value == pytest.approx(np.mean([fit["acc1"] for fit in told["fits"][::2]]))


def test_all_captions_are_learnt_from() -> None:
    data = made()
    assert data.train is not None
    owner = torch.arange(len(TRAIN)).repeat_interleave(2)
    train = Embedded(
        data.train.items,
        {"image": data.train.vectors["image"], "text": vectors([c for c in TRAIN for _ in "ab"], 5, 0.5)},
        {"image": torch.arange(len(TRAIN)), "text": owner},
    )
    several = Embedded(data.items, data.vectors, data.owner, train)
    fits = Transfer("text", "image").measure(several, Nobody()).details["fits"]
    assert [fit["rows"] for fit in fits] == [120, 60]
    assert [fit["held_out_rows"] for fit in fits] == [20, 10]


def test_weights_are_repetitions() -> None:
    evaluator = Transfer("text", "image", c=1.0, noise=0.05, seeds=[0, 1])
    assert_weights_are_repetitions(evaluator, made(0.4))


def test_of_a_bound_of_zero_there_is_no_share() -> None:
    zero, half = mean(torch.tensor([0.0, 0.0])), mean(torch.tensor([1.0, 0.0]))
    assert np.isnan(compared(half, zero)["fidelity"].value)
    assert compared(half, half)["fidelity"].value == 1
    assert compared(half, zero)["gap"].value == -0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "text"}, "text twice"),
        ({"copies": 2}, "without noise"),
        ({"c": 1.0, "seeds": [2]}, "nothing is drawn"),
        ({"noise": 0.1, "seeds": [2, 2]}, "given twice"),
        ({"c": {"low": 3, "high": 1}}, "low must lie below"),
    ],
)
def test_settings_without_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(MmclError, match=message):
        EVALUATORS.check({"name": "transfer", "source": "text", "target": "image", **arguments}).build()


def test_what_cannot_be_learnt_is_told_at_once() -> None:
    with pytest.raises(MmclError, match="`train:` source"):
        Transfer("text", "image").check(items(["a"]))
    with pytest.raises(MmclError, match="never show g"):
        Transfer("text", "image").check(items(["g"]), items(TRAIN))
    with pytest.raises(MmclError, match="give `c`"):
        Transfer("text", "image").check(items(["a"]), items(["a", "b"]))
