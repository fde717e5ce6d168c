"""Transforms of embeddings against float64 references written from the equations; what all of them keep to."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import TRANSFORMS, Heads, Matryoshka, Swap
from mmcl.types import Embeddings
from tests.losses import references

N, D = 12, 6
SAID: dict[str, Any] = {  # by name, what a recipe may say
    "matryoshka": {"name": "matryoshka", "dims": [2, 6]},
    "whitening": {"name": "whitening", "groups": 2},
    "swap": {"name": "swap", "p": 0.5},
    "mixup": {"name": "mixup", "p": 0.8, "alpha": 1.0},
    "heads": {"name": "heads", "modalities": ["text", "image"], "hidden": 5},
}
DRAWN = ("whitening", "swap", "mixup")


def vectors(rows: int = N, modalities: tuple[str, ...] = ("text", "image"), dtype: Any = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(rows, D, generator=generator, dtype=torch.float64)
    return {
        m: (base + torch.randn(rows, D, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for m in modalities
    }


def objective(said: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    return mmcl.objective({"temperature": 0.3, "transform": said, **more}, dim=D).double()


def info_nce(a: Tensor, b: Tensor, tau: float = 0.3) -> float:
    return references.loss(references.cosine, references.softmax, a.detach(), [b.detach()], tau)


def test_all_are_here() -> None:
    assert set(SAID) == set(TRANSFORMS.classes)


@pytest.mark.parametrize("name", SAID)
def test_gradients_are_those_of_differences(name: str) -> None:
    made, x = objective(SAID[name]), vectors(6)
    leaves = (*x.values(), *made.parameters())
    assert torch.autograd.gradcheck(
        lambda a, b, *_: made({"text": a, "image": b}, step=3).total, leaves, fast_mode=True
    )


@pytest.mark.parametrize("name", SAID)
def test_rows_that_are_missing_get_no_gradient_and_change_nothing(name: str) -> None:
    made = objective(SAID[name])
    x, there = vectors(), torch.arange(N) % 4 != 1
    total = made(x, present={"text": there}).total
    total.backward()
    assert x["text"].grad[~there].abs().max() == 0
    assert x["text"].grad[there].abs().max() > 0
    other = {m: t.detach().clone() for m, t in x.items()}
    other["text"][~there] = 1e3
    torch.testing.assert_close(made(other, present={"text": there}).total, total)
    if name == "whitening":
        return  # what is in one modality alone is part of that modality's statistics
    assert x["image"].grad[~there].abs().max() == 0
    other["image"][~there] = -7.0
    torch.testing.assert_close(made(other, present={"text": there}).total, total)


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_add_exactly_zero(name: str, rows: int) -> None:
    made, there = objective(SAID[name]), torch.arange(N) < rows
    for x, present in ((vectors(), {"text": there}), (vectors(), {"text": there, "image": there}), (vectors(rows), {})):
        total = made(x, present=present).total
        total.backward()
        assert total == 0
        assert all(t.grad.abs().sum() == 0 for t in (*x.values(), *made.parameters()))


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("kind", ["identical", "collinear", "zero", "duplicates"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_collapse(name: str, kind: str, dtype: torch.dtype) -> None:
    base = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    second = {
        "identical": base[:1].expand(N, D),
        "collinear": base[:1] * torch.linspace(-2, 3, N)[:, None],
        "zero": base * 0,
        "duplicates": base[:2].repeat(N // 2, 1),
    }[kind]
    torch.manual_seed(0)
    made = mmcl.objective({"transform": SAID[name]}, dim=D)
    for first in (base, second):
        x = {"text": first.to(dtype).clone().requires_grad_(), "image": second.to(dtype).clone().requires_grad_()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            total = made(x).total
        total.backward()
        assert total.isfinite()
        assert total.dtype == torch.float32
        for t in (*x.values(), *made.parameters()):
            assert t.grad.isfinite().all()
            assert t.grad.abs().max() < 1e5


@pytest.mark.parametrize("name", SAID)
def test_autocast_changes_nothing(name: str) -> None:
    x = vectors(dtype=torch.float32)
    torch.manual_seed(0)
    made = mmcl.objective({"transform": SAID[name]}, dim=D)
    plain = made(x).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(made(x).total, plain, rtol=0, atol=0)


@pytest.mark.parametrize("name", SAID)
def test_nothing_is_read_back_from_a_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" holds no numbers, so whoever asks for one fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    x = {m: t.detach().to("meta").requires_grad_() for m, t in vectors().items()}
    made = objective(SAID[name]).to("meta")
    made(x).total.backward()
    assert all(t.grad.device.type == "meta" for t in (*x.values(), *made.parameters()))


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_depends_on_seed_and_step_alone(name: str) -> None:
    x = vectors()

    def total(seed: int, step: int) -> float:
        torch.manual_seed(seed * 100 + step)  # the global generator is not looked at
        return objective(SAID[name])(replace(Embeddings.single(x), seed=seed, step=step)).total.item()

    assert total(1, 5) == total(1, 5)
    assert len({total(1, 5), total(1, 6), total(2, 5)}) == 3


@pytest.mark.parametrize("name", [n for n in SAID if n != "mixup"])
def test_regularizers_see_the_same(name: str) -> None:
    transform = TRANSFORMS.check(SAID[name])
    x = vectors()
    torch.manual_seed(0)
    built = transform.build(**({"dim": D} if transform.wants else {})).double()
    expected = sum(w * mmcl.objective({"regularize": "barlow"})(e).total for w, e in built(Embeddings.single(x)))
    torch.manual_seed(0)
    found = mmcl.objective({"regularize": "barlow", "transform": SAID[name]}, dim=D).double()(x).total
    torch.testing.assert_close(found, expected)
    assert found > 0


def test_transforms_are_applied_in_their_order() -> None:
    x = vectors()
    swap, cut = {"name": "swap", "p": 1.0, "kind": "hard", "by": "vector"}, {"name": "matryoshka", "dims": [2, 3]}
    other = {"text": x["image"], "image": x["text"]}
    expected = [info_nce(other["text"][:, :d], other["image"][:, :d]) for d in (2, 3)]
    assert objective([swap, cut])(x).total.item() == pytest.approx(sum(expected), abs=1e-6)
    whitened = objective([cut, {"name": "whitening", "groups": 1}])(x).total
    assert (whitened - objective([{"name": "whitening", "groups": 1}, cut])(x).total).abs() > 1e-3


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"name": "matryoshka", "dims": [2], "weights": [1, 2]}, "1 dims and 2 weights"),
        ({"name": "matryoshka", "dims": []}, "at least 1"),
        ({"name": "whitening"}, "groups: this key is needed"),
        ({"name": "whitening", "groups": 2, "shrinkage": 0}, "shrinkage: .*greater than or equal to"),
        ({"name": "whiten"}, "did you mean 'whitening'"),
        ({"name": "swap", "p": 2}, "less than or equal to 1"),
        ({"name": "swap", "pair": ["text", "text"]}, "pairs a modality with itself"),
        ({"name": "mixup", "alpha": 0}, "greater than 0"),
        ({"name": "heads"}, "modalities: this key is needed"),
        ({"name": "heads", "modalities": ["image.2"]}, "no copies such as 'image.2'"),
        ({"name": "heads", "modalities": ["text", "text"]}, "name each once"),
    ],
)
def test_mistakes_are_refused(said: Any, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        objective(said)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"name": "matryoshka", "dims": [2, 7]}, "embeddings have 6 coordinates, fewer than 7"),
        ({"name": "whitening", "groups": 4}, "4 groups do not divide 6 coordinates"),
        ({"name": "whitening", "groups": 2, "modalities": ["audio"]}, "whitening: 'audio' is not among"),
        ({"name": "swap", "pair": ["text", "audio"]}, "swap: 'audio' is not among"),
        ({"name": "mixup", "modalities": ["audio"]}, "mixup: 'audio' is not among"),
        ({"name": "heads", "modalities": ["audio"]}, "heads: 'audio' is not among"),
        ([{"name": "matryoshka", "dims": [2]}, SAID["heads"]], "text has 2 coordinates, and its head is for 6"),
    ],
)
def test_what_does_not_fit_the_batch_is_told(said: Any, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        objective(said)(vectors())


# matryoshka


def test_matryoshka_is_the_sum_over_widths() -> None:
    x = vectors()
    total = objective({"name": "matryoshka", "dims": [4, 2], "weights": [0.5, 3.0]})(x).total
    expected = 0.5 * info_nce(x["text"][:, :4], x["image"][:, :4]) + 3 * info_nce(x["text"][:, :2], x["image"][:, :2])
    assert total.item() == pytest.approx(expected, abs=1e-6)
    total.backward()
    assert all(t.grad[:, 4:].abs().max() == 0 and t.grad[:, :4].abs().min() > 0 for t in x.values())


def test_matryoshka_of_the_whole_width_is_the_term() -> None:
    x = vectors()
    assert objective({"name": "matryoshka", "dims": [D]})(x).total.item() == pytest.approx(info_nce(*x.values()))
    (_, made), *_ = Matryoshka([2, 4])(Embeddings.single(x))
    assert made.local["text"].shape == made.all["text"].shape == (N, 2)


# swap


def swapped(said: dict[str, Any], rows: int = N, **more: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Vectors before and after, brought to length one."""
    x = vectors(rows)
    ((weight, made),) = Swap(**said)(Embeddings.single(x, **more))
    assert weight == 1
    return tuple({m: F.normalize(t.detach(), dim=1) for m, t in v.items()} for v in (x, made.all))  # type: ignore[return-value]


def test_a_hard_swap_of_vectors_exchanges_directions_in_a_share_of_the_rows() -> None:
    before, after = swapped({"p": 0.3, "kind": "hard", "by": "vector"}, rows=4000)
    moved = (before["text"] - after["text"]).abs().amax(1) > 1e-9
    assert 0.27 < moved.double().mean() < 0.33
    for m, other in (("text", "image"), ("image", "text")):
        torch.testing.assert_close(after[m], torch.where(moved[:, None], before[other], before[m]))


def test_a_hard_swap_of_coordinates_exchanges_half_of_them() -> None:
    x = vectors(2000)
    ((_, made),) = Swap(p=1.0, kind="hard")(Embeddings.single(x))
    parts = {m: made.all[m] / x[m].norm(dim=1, keepdim=True) for m in x}
    own = {m: F.normalize(t, dim=1) for m, t in x.items()}
    kept = (parts["text"] - own["text"]).abs() < 1e-12
    assert 0.48 < kept.double().mean() < 0.52
    torch.testing.assert_close(parts["text"], torch.where(kept, own["text"], own["image"]))
    torch.testing.assert_close(parts["image"], torch.where(kept, own["image"], own["text"]))


@pytest.mark.parametrize("by", ["coordinate", "vector"])
def test_a_soft_swap_mixes_and_keeps_the_sum(by: Any) -> None:
    x = vectors()
    ((_, made),) = Swap(p=1.0, by=by)(Embeddings.single(x))
    parts = {m: made.all[m] / x[m].norm(dim=1, keepdim=True) for m in x}
    own = {m: F.normalize(t, dim=1) for m, t in x.items()}
    torch.testing.assert_close(parts["text"] + parts["image"], own["text"] + own["image"])
    share = ((parts["text"] - own["image"]) / (own["text"] - own["image"])).detach()
    assert share.min() >= -1e-9
    assert share.max() <= 1 + 1e-9
    assert (share.std(1) < 1e-6).all() == (by == "vector")
    assert share[:, 0].std() > 0.1


def test_the_loss_of_a_swap_is_that_of_the_swapped_rows() -> None:
    said = {"p": 0.5, "kind": "hard", "by": "vector"}
    before, after = swapped(said)
    assert objective({"name": "swap", **said})(before).total.item() == pytest.approx(info_nce(*after.values()))
    assert abs(info_nce(*after.values()) - info_nce(*before.values())) > 1e-3
    whole = objective({"name": "swap", **said, "p": 1.0})(before).total.item()
    assert whole == pytest.approx(info_nce(*before.values()))


def test_only_rows_that_have_both_are_swapped() -> None:
    there = torch.arange(N) % 3 != 0
    before, after = swapped({"p": 1.0, "kind": "hard", "by": "vector"}, present={"text": there})
    torch.testing.assert_close(after["image"], torch.where(there[:, None], before["text"], before["image"]))
    assert after["text"][~there].abs().max() == 0


def test_of_three_modalities_two_must_be_named() -> None:
    x = vectors(modalities=("text", "image", "audio"))
    with pytest.raises(MmclError, match="say which two"):
        objective("swap")(x)
    ((_, made),) = Swap(p=1.0, kind="hard", by="vector", pair=("audio", "image"))(Embeddings.single(x))
    assert made.all["text"] is x["text"]
    torch.testing.assert_close(F.normalize(made.all["audio"], dim=1), F.normalize(x["image"], dim=1))


# heads


def test_heads_are_linear_maps_of_their_own() -> None:
    x = vectors()
    made = objective({"name": "heads", "modalities": ["text"], "out": D})
    weight, bias = (p.detach() for p in made.parameters())
    projected = torch.stack([weight @ row + bias for row in x["text"].detach()])
    assert made(x).total.item() == pytest.approx(info_nce(projected, x["image"]), abs=1e-6)
    assert {name.split("heads.")[-1] for name in made.state_dict()} >= {"text.weight", "text.bias"}


def test_heads_with_a_hidden_layer_and_another_width() -> None:
    x = vectors(modalities=("text", "image", "audio"))
    said = {"name": "heads", "modalities": ["text", "image"], "hidden": 4, "out": 3}
    made = objective(said, pairs=[["text", "image"]])
    w = {name.split("heads.")[-1]: p.detach() for name, p in made.named_parameters()}
    projected = [
        F.gelu(x[m].detach() @ w[f"{m}.0.weight"].T + w[f"{m}.0.bias"]) @ w[f"{m}.2.weight"].T + w[f"{m}.2.bias"]
        for m in ("text", "image")
    ]
    assert made(x).total.item() == pytest.approx(info_nce(*projected), abs=1e-6)
    with pytest.raises(MmclError, match=r"\['text', 'audio'\] is not among \['text', 'image'\]"):
        objective(said, pairs=[["text", "audio"]])(x)


def test_copies_share_the_head_of_their_modality_and_absent_rows_stay_zero() -> None:
    x, there = vectors(), torch.arange(N) < 5
    heads = Heads(["image"], dim=D).double()
    e = Embeddings.single({**x, "image.2": x["image"]}, {"image.2": there})
    ((_, made),) = heads(e)
    torch.testing.assert_close(made.all["image.2"][:5], made.all["image"][:5])
    assert made.all["image.2"][5:].abs().max() == 0
    assert torch.equal(made.all["text"], x["text"])


def test_heads_must_know_the_width() -> None:
    with pytest.raises(MmclError, match=r"say it, as in mmcl.objective\(..., dim=512\)"):
        mmcl.objective("three_towers")


def test_three_towers_is_the_mean_of_three_alignments() -> None:
    x = vectors(modalities=("image", "text", "teacher"))
    torch.manual_seed(0)
    made = mmcl.objective("three_towers", dim=D).double()
    heads = [{m: h for t in term.transforms for m, h in t.heads.items()} for _, term in made]
    expected = sum(
        info_nce(*(h[m](x[m]) if h else x[m] for m in pair), tau=0.07)
        for h, pair in zip(heads, (("image", "text"), ("image", "teacher"), ("text", "teacher")), strict=True)
    )
    assert [sorted(h) for h in heads] == [[], ["image", "teacher"], ["teacher", "text"]]
    assert heads[1]["teacher"] is not heads[2]["teacher"]
    assert made(x).total.item() == pytest.approx(expected / 3, abs=1e-6)
