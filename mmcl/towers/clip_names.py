"""Names of one and the same CLIP in open_clip and in transformers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NAMES = (
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.proj", "visual_projection.weight"),
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("transformer.resblocks.", "text_model.encoder.layers."),
    ("ln_final.", "text_model.final_layer_norm."),
    ("text_projection", "text_projection.weight"),
    ("logit_scale", "logit_scale"),
)
"""What names begin with in open_clip's CLIP, and in CLIPModel."""
INNER = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)
"""The same within a block."""
PROJECTIONS = ("visual.proj", "text_projection")
PACKED = re.compile(r"(.*\.)attn\.in_proj_(weight|bias)")
SPLIT = re.compile(r"(.*\.)self_attn\.q_proj\.(weight|bias)")


def of_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of a CLIPModel, or of one of its sides."""
    return any(name.startswith(("vision_model.encoder.", "text_model.encoder.")) for name in state)


def split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under CLIPModel's names, from those of open_clip's CLIP: queries, keys and values apart."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        renamed = _renamed(name, NAMES, INNER)
        if (match := PACKED.fullmatch(renamed)) is not None:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{match[1]}self_attn.{letter}_proj.{match[2]}"] = part
        else:
            found[renamed] = tensor.T if name in PROJECTIONS else tensor
    return found


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of open_clip's CLIP, from those of CLIPModel: the inverse of `split`."""
    outer, inner = ([(theirs, ours) for ours, theirs in pairs] for pairs in (NAMES, INNER))
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        renamed = _renamed(name, outer, inner)
        if (match := SPLIT.fullmatch(name)) is not None:
            parts = [state[f"{match[1]}self_attn.{letter}_proj.{match[2]}"] for letter in "qkv"]
            start = _renamed(match[1], outer, inner)
            found[f"{start}attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            found[renamed] = tensor.T.contiguous() if renamed in PROJECTIONS else tensor
    return found


def _renamed(name: str, outer: Any, inner: Any) -> str:
    start, other = next(((start, other) for start, other in outer if name.startswith(start)), ("", ""))
    name = other + name.removeprefix(start)
    for one, another in inner:
        name = name.replace(one, another)
    return name
