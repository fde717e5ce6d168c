"""Heads: their equations by hand, in float64, and when there is one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.towers import HEADS, TOWERS, Backbone, Tower
from mmcl.towers.heads import Head

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def module(said: Any, width: int = 8, dim: int = 3) -> nn.Module:
    head = HEADS.check(said).build()
    assert isinstance(head, Head)
    return head.between(width, dim).double()


def weights(head: nn.Module) -> list[Tensor]:
    """In the order of the layers; none of them at its start, or a bias of zero would hide."""
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return [p.detach() for p in head.parameters()]


def test_linear_is_a_matrix() -> None:
    head = module("linear")
    (w,) = weights(head)
    torch.testing.assert_close(head(X), torch.einsum("oi,bi->bo", w, X))
    head = module({"name": "linear", "bias": True})
    w, b = weights(head)
    torch.testing.assert_close(head(X), torch.einsum("oi,bi->bo", w, X) + b)


def test_norm_linear_normalises_each_vector_first() -> None:
    head = module("norm_linear")
    scale, shift, w = weights(head)
    centred = X - X.sum(1, keepdim=True) / 8
    normal = centred / (centred.square().sum(1, keepdim=True) / 8 + 1e-5).sqrt()
    torch.testing.assert_close(head(X), (normal * scale + shift) @ w.T)


def test_mlp_has_one_hidden_layer() -> None:
    head = module({"name": "mlp", "hidden": 6})
    w1, b1, w2, b2 = weights(head)
    assert w1.shape == (6, 8)
    hidden = X @ w1.T + b1
    gelu = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    torch.testing.assert_close(head(X), gelu @ w2.T + b2)
    assert [tuple(p.shape) for p in module("mlp").parameters()] == [(3, 8), (3,), (3, 3), (3,)]
    assert len(list(module({"name": "mlp", "bias": False}).parameters())) == 2


def test_dropout_is_of_training_alone() -> None:
    head = module({"name": "mlp", "hidden": 64, "dropout": 0.5})
    torch.manual_seed(0)
    assert not torch.equal(head(X), head(X))
    assert torch.equal(head.eval()(X), head(X))
    tower = TOWERS.check({"name": "vector", "width": 8, "head": {"name": "mlp", "dropout": 0.5}}).build(dim=3)
    assert tower.varies
    assert not TOWERS.check({"name": "vector", "width": 8, "head": "mlp"}).build(dim=3).varies


def test_none_gives_what_the_backbone_gives() -> None:
    assert torch.equal(module("none", width=8, dim=8)(X), X)
    with pytest.raises(MmclError, match="vectors have 8 numbers and the shared space 3; take head: linear, or dim: 8"):
        module("none")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"name": "mlp", "dropout": 1.0}, "dropout"),
        ({"name": "mlp", "hidden": 0}, "hidden"),
        ({"name": "linear", "hidden": 4}, "hidden"),
        ("perceptron", "no head is called 'perceptron'"),
    ],
)
def test_a_head_that_cannot_be_is_told(said: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        HEADS.check(said)


VIT = {"name": "vit", "image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "heads": 2}


def built(**more: Any) -> Tower:
    tower = TOWERS.check({**VIT, **more}).build(dim=24)
    assert isinstance(tower, Tower)
    return tower.eval()


def test_a_backbone_keeps_its_own_projection_where_nothing_is_said() -> None:
    own, headed = built(), built(head="linear")
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert isinstance(own.head, nn.Identity)
    assert (own.backbone.width, headed.backbone.width) == (24, 32)
    assert own(pixels).shape == headed(pixels).shape == (2, 24)
    before = headed.backbone(pixels)
    torch.testing.assert_close(headed(pixels), before @ headed.head.weight.T)
    count = [sum(p.numel() for p in tower.parameters()) for tower in (own, headed)]
    assert count[0] == count[1]  # a projection of the library's, or ours: never both


def test_one_matrix_stands_where_a_backbone_has_no_projection() -> None:
    tower = TOWERS.check({"name": "vector", "width": 8}).build(dim=3)
    assert isinstance(tower.head, nn.Linear)
    assert tower.head.bias is None


def test_patches_go_through_the_head() -> None:
    tower = built(head="norm_linear")
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    backbone = tower.backbone
    assert isinstance(backbone, Backbone)
    assert tower.patches(pixels).shape == (2, 2, 2, 24)
    torch.testing.assert_close(tower.patches(pixels), tower.head(backbone.patches(pixels)))
