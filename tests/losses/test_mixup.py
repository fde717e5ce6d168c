"""Rows that are mixtures, and their targets, against loops in float64."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import CONTRASTS, Mixup
from mmcl.losses.draws import permutation
from mmcl.types import Embeddings, Mixed
from tests.losses import references

N, D, TAU = 9, 5, 0.3


def vectors(modalities: tuple[str, ...] = ("text", "image"), rows: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(rows, D, generator=generator, dtype=torch.float64)
    return {m: (base + torch.randn(rows, D, generator=generator, dtype=torch.float64)) for m in modalities}


def soft(
    mixture: Tensor,
    others: list[Tensor],
    mixed: Mixed,
    valid: list[bool] | None = None,
    ids: list[int] | None = None,
    score: Any = references.cosine,
    smoothing: float = 0.0,
) -> float:
    """Cross-entropy with the matrix of targets, of the rows that are mixtures and of their candidates."""
    n = len(mixture)
    kept = [i for i in range(n) if valid is None or valid[i]]
    p = torch.zeros(n, n, dtype=torch.float64)
    for i in kept:
        j, b = int(mixed.partner[i]), float(mixed.weight[i])
        p[i, i] += b
        if j in kept:
            p[i, i if ids is not None and ids[i] == ids[j] else j] += 1 - b
    z = [[score(mixture[i], *(o[j] for o in others)) / TAU for j in range(n)] for i in range(n)]
    total = 0.0
    for direction in ("rows", "columns"):
        for i in kept:
            seen = [j for j in kept if j == i or ids is None or ids[i] != ids[j]]
            logits = {j: z[i][j] if direction == "rows" else z[j][i] for j in seen}
            targets = {j: float(p[i, j] if direction == "rows" else p[j, i]) for j in seen}
            mass = sum(targets.values())
            log = math.log(sum(math.exp(v) for v in logits.values()))
            expected = sum(targets[j] * logits[j] for j in seen)
            expected = (1 - smoothing) * expected + smoothing * mass * sum(logits.values()) / len(logits)
            total += mass * log - expected
    return total / (2 * len(kept))


def record(x: dict[str, Tensor], mixed: dict[str, Mixed], **more: Any) -> Embeddings:
    return replace(Embeddings.single(x, **more), mixed=mixed)


def some(partner: list[int] | None = None) -> Mixed:
    """Not a permutation: rows 1, 2 and 5 have the same partner, and row 4 itself."""
    weight = torch.linspace(0.2, 1.0, N, dtype=torch.float64)
    return Mixed(torch.tensor(partner or [3, 7, 7, 0, 4, 7, 8, 1, 2]), weight)


@pytest.mark.parametrize("block", [None, 16])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_rows_that_come_as_mixtures_have_two_targets(modality: str, block: int | None) -> None:
    """As rows of the matrix, and as its columns; nothing is said in the recipe."""
    x, mixed = vectors(), some()
    other = next(m for m in x if m != modality)
    found = mmcl.objective({"temperature": TAU, "block": block})(record(x, {modality: mixed})).total
    assert found.item() == pytest.approx(soft(x[modality], [x[other]], mixed), abs=1e-6)
    plain = mmcl.objective({"temperature": TAU})(x).total
    assert (found - plain).abs() > 1e-2


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_row_that_holds_nothing_else_is_as_without(modality: str) -> None:
    x = vectors()
    whole = Mixed(torch.arange(N).roll(1), torch.ones(N, dtype=torch.float64))
    own = Mixed(torch.arange(N), torch.rand(N, dtype=torch.float64))  # partners of themselves
    objective = mmcl.objective({"temperature": TAU})
    for mixed in (whole, own):
        torch.testing.assert_close(objective(record(x, {modality: mixed})).total, objective(x).total)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_partners_that_lack_something_ask_for_nothing(modality: str) -> None:
    x, mixed = vectors(), some()
    other = next(m for m in x if m != modality)
    there = torch.tensor([True, False, True, True, True, True, True, False, False])  # 7 is a partner of three
    found = mmcl.objective({"temperature": TAU})(record(x, {modality: mixed}, present={other: there})).total
    assert found.item() == pytest.approx(soft(x[modality], [x[other]], mixed, there.tolist()), abs=1e-6)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_partners_that_show_the_same_thing_are_no_candidates_where_they_must_be_distinct(modality: str) -> None:
    x, mixed, ids = vectors(), some(), [0, 1, 2, 0, 3, 4, 5, 1, 2]
    other = next(m for m in x if m != modality)
    keys = [str(i) for i in ids]
    found = mmcl.objective({"temperature": TAU, "negatives": "distinct"})(record(x, {modality: mixed}, keys=keys)).total
    assert found.item() == pytest.approx(soft(x[modality], [x[other]], mixed, ids=ids), abs=1e-6)


def test_labels_are_smoothed_at_the_same_mass() -> None:
    x, mixed = vectors(), some()
    contrast = {"name": "softmax", "label_smoothing": 0.2}
    found = mmcl.objective({"temperature": TAU, "contrast": contrast})(record(x, {"text": mixed})).total
    assert found.item() == pytest.approx(soft(x["text"], [x["image"]], mixed, smoothing=0.2), abs=1e-6)


@pytest.mark.parametrize("score", ["gram", "cosine"])
def test_the_anchor_of_a_tuple_may_be_a_mixture(score: str) -> None:
    x, mixed = vectors(("text", "image", "audio")), some()
    term = {"score": score, "view": {"name": "tuple", "anchor": "text"}, "temperature": TAU}
    found = mmcl.objective(term)(record(x, {"text": mixed})).total
    expected = soft(x["text"], [x["image"], x["audio"]], mixed, score=references.SCORES[score])
    assert found.item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(MmclError, match="image: only the anchor, or a candidate of one modality, can be mixtures"):
        mmcl.objective(term)(record(x, {"image": mixed}))


def test_gradients_are_those_of_differences() -> None:
    x = {m: t[:5].requires_grad_() for m, t in vectors().items()}
    mixed = Mixed(torch.tensor([1, 2, 1, 3, 0]), torch.tensor([0.5, 0.1, 0.9, 0.4, 1.0], dtype=torch.float64))
    objective = mmcl.objective({"temperature": {"init": TAU}}).double()
    (scale,) = objective.parameters()
    for modality in x:
        assert torch.autograd.gradcheck(
            lambda a, b, _, m=modality: objective(record({"text": a, "image": b}, {m: mixed})).total,
            (*x.values(), scale),
            fast_mode=True,
        )


def test_m3co_mixes_each_modality_in_its_turn() -> None:
    x = vectors()
    made = Mixup()(Embeddings.single(x))
    expected = 0.0
    for weight, e in made:
        (m,) = e.mixed
        (other,) = set(x) - {m}
        assert weight == 0.5
        assert e.all[other] is x[other]
        mixture = torch.zeros(N, D, dtype=torch.float64)
        for i in range(N):
            b, j = float(e.mixed[m].weight[i]), int(e.mixed[m].partner[i])
            mixture[i] = b * x[m][i] + (1 - b) * x[m][j]
        torch.testing.assert_close(e.all[m], mixture)
        expected += soft(mixture, [x[other]], e.mixed[m]) / 2
    assert mmcl.objective({"transform": "mixup", "temperature": TAU})(x).total.item() == pytest.approx(expected)
    assert not torch.equal(made[0][1].mixed["text"].partner, made[1][1].mixed["image"].partner)
    at = mmcl.objective("m3co").terms[0].temperature
    assert at is not None
    assert at.value == pytest.approx(0.1)


def test_only_rows_that_can_be_compared_are_partners() -> None:
    x = vectors(("text", "image", "audio"), rows=200)
    x = {m: t for m, t in x.items()}
    present = {"text": torch.arange(200) % 2 == 0, "image": torch.arange(200) % 4 == 0, "audio": torch.arange(200) < 40}
    ((_, e),) = Mixup(p=1.0, alpha=1.0, modalities=["text"])(Embeddings.single(x, present))
    can = present["text"] & (present["image"] | present["audio"])
    partner = e.mixed["text"].partner
    assert torch.equal(partner[~can], torch.arange(200)[~can])
    assert sorted(partner[can].tolist()) == torch.arange(200)[can].tolist()
    assert (partner[can] != torch.arange(200)[can]).sum() > can.sum() - 8
    assert e.all["text"][~present["text"]].abs().max() == 0


def test_three_modalities_average_what_is_mixed_and_what_is_not() -> None:
    x = vectors(("text", "image", "audio"))
    ((_, e),) = Mixup(p=1.0, modalities=["image"])(Embeddings.single(x))
    mixture, mixed = e.all["image"], e.mixed["image"]
    plain = references.loss(references.cosine, references.softmax, x["text"], [x["audio"]], TAU)
    expected = soft(mixture, [x["text"]], mixed) + soft(mixture, [x["audio"]], mixed) + plain
    said = {"name": "mixup", "p": 1.0, "modalities": ["image"]}
    found = mmcl.objective({"transform": said, "temperature": TAU})(x).total.item()
    assert found == pytest.approx(expected / 3, abs=1e-6)


def test_weights_are_beta_in_a_share_of_the_rows() -> None:
    x = {"text": torch.zeros(20000, 1), "image": torch.zeros(20000, 1)}
    ((_, e),) = Mixup(alpha=0.5, p=0.4, modalities=["text"])(Embeddings.single(x))
    weight = e.mixed["text"].weight
    drawn = weight[weight < 1]
    assert weight.dtype == torch.float32
    assert len(drawn) / 20000 == pytest.approx(0.4, abs=0.02)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.var().item() == pytest.approx(1 / 8, abs=0.005)  # 1 / (4 (2 alpha + 1))
    same = mmcl.objective({"transform": {"name": "mixup", "p": 0.0}, "temperature": TAU})
    torch.testing.assert_close(same(vectors()).total, mmcl.objective({"temperature": TAU})(vectors()).total)


def test_permutations_are_even_and_leave_the_others_alone() -> None:
    there = torch.tensor([True, False, True, True])
    seen = torch.zeros(4, 4)
    for seed in range(600):
        order = permutation(there, torch.Generator().manual_seed(seed))
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        seen[torch.arange(4), order] += 1 / 600
    assert seen[1, 1] == pytest.approx(1)
    assert (seen[there][:, there] - 1 / 3).abs().max() < 0.07


@pytest.mark.parametrize("contrast", [c for c, made in CONTRASTS.classes.items() if not made.soft])
def test_contrasts_with_one_target_a_row_are_refused(contrast: str) -> None:
    told = f"rows are mixtures, and {contrast} has one target a row: take softmax"
    with pytest.raises(MmclError, match=told):
        mmcl.objective({"contrast": contrast, "transform": "mixup"})
    with pytest.raises(MmclError, match=told):
        mmcl.objective({"contrast": contrast})(record(vectors(), {"text": some()}))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"targets": "shared"}, "take `targets: identity`"),
        ({"score": "symile"}, "symile shuffles the candidates that they hold"),
        ({"regularize": "alignment"}, "alignment has no targets to be mixed too"),
    ],
)
def test_what_mixtures_make_no_sense_with_is_refused(said: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        mmcl.objective({**said, "transform": "mixup"})


def test_rows_are_mixed_once() -> None:
    x, mixed = vectors(), some()
    with pytest.raises(MmclError, match="text, image: only the anchor"):
        mmcl.objective("clip")(record(x, {"text": mixed, "image": mixed}))
    with pytest.raises(MmclError, match="mixup: rows of text are mixtures already"):
        mmcl.objective("m3co")(record(x, {"text": mixed}))
    with pytest.raises(MmclError, match="swap: rows of image are mixtures already"):
        mmcl.objective({"transform": "swap"})(record(x, {"image": mixed}))
