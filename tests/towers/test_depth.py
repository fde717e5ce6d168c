"""Depths of the parameters of each library's models."""

import pytest
import timm
import torch
import transformers
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

from mmcl.errors import MmclError
from mmcl.optimizers import undecayed
from mmcl.towers.depth import depths
from mmcl.towers.policies import POLICIES

MODELS = {
    "open_clip image": lambda: VisionTransformer(32, 16, 32, 3, 2, 2.0, output_dim=16),
    "open_clip text": lambda: TextTransformer(8, 50, 32, 2, 3, output_dim=16),
    "open_clip resnet": lambda: ModifiedResNet([1, 2, 1, 1], 16, 2, 32, 8),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=0),
    "timm convnext": lambda: timm.create_model("convnext_atto", depths=[1, 1, 2, 1], num_classes=0),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(num_hidden_layers=3)),
    "clip": lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(num_hidden_layers=3)),
    "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(num_hidden_layers=3)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(num_hidden_layers=3)),
    "whisper": lambda: transformers.WhisperModel(transformers.WhisperConfig(encoder_layers=3)).encoder,
    "htsat": lambda: transformers.ClapAudioModelWithProjection(transformers.ClapAudioConfig(depths=[1, 2, 1, 1])),
    "t5": lambda: transformers.T5EncoderModel(transformers.T5Config(num_layers=3)),
    "convnext": lambda: transformers.ConvNextModel(transformers.ConvNextConfig(depths=[1, 2, 1, 1])),
}
VISION, HTSAT = "vision_model.", "audio_model.audio_encoder."
EXPECTED = {
    "open_clip image": {"conv1.weight": 0, "class_embedding": 0, "ln_post.weight": 4, "proj": 4},
    "open_clip text": {"token_embedding.weight": 0, "positional_embedding": 0, "text_projection": 4},
    "open_clip resnet": {
        **{
            "conv3.weight": 0,
            "layer1.0.conv1.weight": 1,
            "layer2.0.downsample.0.weight": 2,
            "layer2.1.conv1.weight": 3,
        },
        **{"layer4.0.bn1.weight": 5, "attnpool.positional_embedding": 6, "attnpool.c_proj.weight": 6},
    },
    "timm vit": {"patch_embed.proj.weight": 0, "cls_token": 0, "blocks.2.norm1.weight": 3, "norm.weight": 3},
    "timm convnext": {"stem.0.weight": 0, "stages.2.downsample.0.weight": 3, "head.norm.weight": 6},
    "bert": {
        **{"embeddings.LayerNorm.weight": 0, "encoder.layer.0.attention.self.query.weight": 1},
        **{"encoder.layer.2.output.dense.weight": 3, "pooler.dense.weight": 4},
    },
    "clip": {
        **{f"{VISION}embeddings.patch_embedding.weight": 0, f"{VISION}pre_layrnorm.weight": 0},
        **{f"{VISION}encoder.layers.2.mlp.fc1.weight": 3, "visual_projection.weight": 4},
    },
    "siglip": {"embeddings.position_embedding.weight": 0, "encoder.layers.0.mlp.fc1.weight": 1, "head.probe": 4},
    "dinov2": {"embeddings.patch_embeddings.projection.weight": 0, "embeddings.cls_token": 0, "layernorm.weight": 4},
    "whisper": {"conv2.weight": 0, "embed_positions.weight": 0, "layers.2.fc1.weight": 3, "layer_norm.weight": 4},
    "htsat": {
        **{f"{HTSAT}patch_embed.proj.weight": 0, f"{HTSAT}batch_norm.weight": 0},
        **{f"{HTSAT}layers.1.blocks.1.intermediate.dense.weight": 3, f"{HTSAT}layers.1.downsample.norm.weight": 3},
        **{f"{HTSAT}norm.weight": 6, "audio_projection.linear1.weight": 6},
    },
    "t5": {
        **{
            "shared.weight": 0,
            "encoder.block.0.layer.0.SelfAttention.q.weight": 1,
            "encoder.final_layer_norm.weight": 4,
        },
        **{"encoder.block.0.layer.1.DenseReluDense.wi.weight": 1, "encoder.block.2.layer.0.layer_norm.weight": 3},
    },
    "convnext": {
        **{"embeddings.patch_embeddings.weight": 0, "encoder.stages.1.downsampling_layer.0.weight": 2},
        **{"encoder.stages.1.layers.1.dwconv.weight": 3, "layernorm.weight": 6},
    },
}
WHOLE = {  # neither gains and biases nor matrices that multiply
    "open_clip image": {"positional_embedding"},
    "open_clip text": {"positional_embedding", "token_embedding.weight"},
    "timm vit": {"cls_token", "pos_embed"},
    "clip": {"vision_model.embeddings.position_embedding.weight"},
    "siglip": {"embeddings.position_embedding.weight", "head.probe"},
    "dinov2": {"embeddings.cls_token", "embeddings.mask_token", "embeddings.position_embeddings"},
    "bert": {f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")},
    "whisper": {"embed_positions.weight"},
}


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {name: make() for name, make in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_depths_follow_the_order_in_which_weights_work(models: dict[str, nn.Module], name: str) -> None:
    found = depths(models[name]).of
    assert found.keys() == dict(models[name].named_parameters()).keys()
    assert {parameter: found[parameter] for parameter in EXPECTED[name]} == EXPECTED[name]


@pytest.mark.parametrize("name", ["timm vit", "timm convnext"])
def test_factors_are_timms_own(models: dict[str, nn.Module], name: str) -> None:
    model = models[name]
    names = {id(p): n for n, p in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.75)
    theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    ours = POLICIES.check({"name": "trained", "layer_decay": 0.75}).build().factors(model)
    assert ours == pytest.approx(theirs)
    assert min(ours.values()) < 0.75**2


def test_a_model_of_timm_within_a_family_keeps_its_depths_and_what_follows_is_deeper(
    models: dict[str, nn.Module],
) -> None:
    wrapped = nn.ModuleDict({"trunk": models["timm vit"], "pool": nn.Linear(192, 8, device="meta")})
    found = depths(wrapped)
    assert found.of["trunk.blocks.2.attn.qkv.weight"] == found.last_block == 3
    assert found.of["pool.weight"] == found.last == 4


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_last_layers_are_those_that_open_clip_unlocks(layers: int) -> None:
    ours, theirs = MODELS["open_clip image"](), MODELS["open_clip image"]()
    theirs.lock(unlocked_groups=layers + 1)
    POLICIES.check({"name": "trained", "last_layers": layers}).build().prepare_(ours)
    learns = {name: p.requires_grad for name, p in theirs.named_parameters()}
    if layers == 0:  # open_clip's first group leaves the last normalisation locked
        learns |= {"ln_post.weight": True, "ln_post.bias": True}
    assert {name: p.requires_grad for name, p in ours.named_parameters()} == learns


@pytest.mark.parametrize("name", WHOLE)
def test_embeddings_tokens_and_positions_are_not_decayed(models: dict[str, nn.Module], name: str) -> None:
    model = models[name]
    found, parameters = undecayed(model), dict(model.named_parameters())
    assert {n for n, p in parameters.items() if n in found and p.ndim > 1} == WHOLE[name]
    assert all(p.ndim > 1 or n in found for n, p in parameters.items())


def test_what_cannot_be_told_is_refused(models: dict[str, nn.Module]) -> None:
    flat = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(MmclError, match="the Sequential has no numbered blocks"):
        depths(flat)
    with pytest.raises(MmclError, match="last_layers is 9, and the backbone has 3 blocks"):
        POLICIES.check({"name": "trained", "last_layers": 9}).build().prepare_(models["bert"])
    with pytest.raises(MmclError, match="last_layers: 0 leaves nothing"):
        bare = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)])})
        POLICIES.check({"name": "trained", "last_layers": 0}).build().prepare_(bare)
    with pytest.raises(MmclError, match="frozen has no effect on a Identity"):
        POLICIES.check("frozen").build().prepare_(nn.Identity())
