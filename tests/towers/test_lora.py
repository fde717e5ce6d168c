"""Adapters: where they go, that they alone learn, and that they merge into plain weights."""

import sys
from collections.abc import Callable

import pytest
import timm
import torch
import transformers
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.towers import Tower, merged_state
from mmcl.towers.base import TOWERS
from mmcl.towers.lora import targets
from mmcl.towers.policies import POLICIES

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def open_clip() -> nn.Module:
    return VisionTransformer(32, 16, 32, 2, 2, 2.0, output_dim=16)


def of_timm() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=2, num_classes=0, dynamic_img_size=False
    )


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(vocab_size=50, **SIZES))  # type: ignore[arg-type]


def clip() -> nn.Module:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=32, patch_size=16, **SIZES))  # type: ignore[arg-type]


def vectors(model: nn.Module) -> Tensor:
    torch.manual_seed(1)
    if isinstance(model, transformers.BertModel):
        return model(input_ids=torch.randint(0, 50, (3, 7))).last_hidden_state
    made = model(torch.randn(3, 3, 32, 32))
    return made if isinstance(made, Tensor) else made.last_hidden_state


FAMILIES: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "open_clip": (open_clip, {"attn"}),
    "timm": (of_timm, {"qkv", "proj"}),
    "bert": (bert, {"query", "value"}),
    "clip": (clip, {"q_proj", "v_proj"}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_alone_learn_and_merge_into_plain_weights(name: str) -> None:
    make, ends = FAMILIES[name]
    torch.manual_seed(0)
    model, plain = make().eval(), make().eval()
    plain.load_state_dict(model.state_dict())
    assert {target.rpartition(".")[2] for target in targets(model, None)} == ends
    POLICIES.check({"name": "lora", "rank": 4}).build().prepare_(model)
    before = vectors(plain)
    torch.testing.assert_close(vectors(model), before)  # adapters begin as nothing

    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in n for n in learning)
    for _ in range(2):  # the first step reaches only B, which is zero
        model.zero_grad()
        vectors(model).square().mean().backward()
        with torch.no_grad():
            for parameter in learning.values():
                assert parameter.grad is not None
                parameter -= 0.5 * parameter.grad.sign()
    assert all(p.grad is not None and p.grad.any() for p in learning.values())
    assert all(p.grad is None for n, p in model.named_parameters() if "lora_" not in n)

    changed, state = vectors(model), merged_state(model)
    assert not torch.allclose(changed, before, atol=1e-2)
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    torch.testing.assert_close(vectors(plain), changed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(vectors(model), changed)  # merging has left it as it was


def test_what_merges_has_no_adapters_left_alone() -> None:
    model = open_clip()
    assert merged_state(model).keys() == model.state_dict().keys()


def test_scale_rank_and_targets_are_what_the_recipe_says() -> None:
    model = bert()
    POLICIES.check(
        {"name": "lora", "rank": 3, "alpha": 12, "targets": ["intermediate.dense"], "dropout": 0.5}
    ).build().prepare_(model)
    adapted = model.encoder.layer[0].intermediate.dense
    assert adapted.lora_A["default"].weight.shape == (3, 32)
    assert adapted.scaling["default"] == 4
    assert adapted.lora_dropout["default"].p == 0.5
    assert not hasattr(model.encoder.layer[0].attention.self.query, "lora_A")


@pytest.mark.parametrize(
    ("make", "said", "message"),
    [
        (bert, {"targets": ["qkv"]}, "no layer is called 'qkv'. Layers end with: .*self.query"),
        (open_clip, {"targets": ["out_proj"]}, "does not call its out_proj, .*name the whole \\('attn'\\)"),
        (open_clip, {"dropout": 0.1}, "dropout: torch's attention .* has no place for it"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), {}, "say `targets`, since no attention was found"),
        (nn.Identity, {}, "lora has no effect on a Identity"),
    ],
)
def test_adapters_that_would_not_learn_are_refused(make: Callable[[], nn.Module], said: dict, message: str) -> None:
    with pytest.raises(MmclError, match=message):
        POLICIES.check({"name": "lora", **said}).build().prepare_(make())


def test_without_peft_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MmclError, match=r"pip install 'mmcl\[lora\]'"):
        POLICIES.check("lora").build().prepare_(bert())


def test_a_tower_with_adapters_builds_anywhere_and_checkpoints_activations() -> None:
    spec = {"name": "vit", "image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "heads": 2, "policy": "lora"}
    spec["weights"] = "random"
    with torch.device("meta"):
        assert isinstance(TOWERS.check(spec).build(dim=8), Tower)
    pixels, gradients = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), []
    for again in (False, True):
        torch.manual_seed(0)
        tower = TOWERS.check({**spec, "gradient_checkpointing": again}).build(dim=8).train()
        tower(pixels).square().sum().backward()
        gradients.append({name: p.grad for name, p in tower.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
