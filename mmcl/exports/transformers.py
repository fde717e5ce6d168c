"""A CLIPModel that transformers opens: ``CLIPModel.from_pretrained(DIR)``, ``AutoProcessor.from_pretrained(DIR)``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.exports.base import Source, Written, built
from mmcl.exports.clip import Clip, clip_of, own_states
from mmcl.exports.tokenizers import save_tokenizer
from mmcl.model import Encoder
from mmcl.runs import Run

WEIGHTS = "model.safetensors"
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
ARGMAX = 2  # an end of this number makes CLIPModel pool at the largest number instead
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


def write(source: Source, folder: Path) -> Written:
    """One picture tower that pools at a class token, and one causal text tower."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    clip = clip_of(source)
    _check(clip)
    config = CLIPConfig(
        text_config=CLIPTextConfig(**_text(clip), projection_dim=source.encoder.dim),
        vision_config=CLIPVisionConfig(**_vision(clip), projection_dim=source.encoder.dim),
        projection_dim=source.encoder.dim,
        architectures=["CLIPModel"],
        logit_scale_init_value=clip.logit_scale.log_scale,
    )
    with torch.random.fork_rng():
        model = CLIPModel(config)
    model.load_state_dict(split({**clip.state, "logit_scale": torch.tensor(clip.logit_scale.log_scale)}))
    model.config.save_pretrained(folder)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / WEIGHTS, {"format": "pt"})
    side = clip.vision.image_size
    CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(clip.vision.mean),
        image_std=list(clip.vision.std),
    ).save_pretrained(folder)
    save_tokenizer(clip.tokenizer, folder, clip.words.context_length)
    notes = list(clip.notes)
    if clip.logit_scale.bias is not None:
        notes.append(
            f"The bias of the sigmoid's logits, {clip.logit_scale.bias:.4f}, is not in this export: CLIPModel has "
            "none. It moves all logits alike, so no ranking depends on it."
        )
    return Written(clip.modalities, tuple(notes))


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The same towers, in mmcl."""
    image, text = manifest["modalities"]
    state = packed(load_file(folder / WEIGHTS))
    return built(folder, (image, text), own_states(state, Run(folder).recipe(), image, text))


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


def _check(clip: Clip) -> None:
    """Refuse what a CLIPModel cannot be.

    Raises:
        MmclError: the towers pool or normalise otherwise.
    """
    if clip.vision.pool != "tok":
        raise MmclError(f"towers.{clip.image}: pool: {clip.vision.pool}: a CLIPModel pools at the class token (tok).")
    if not clip.vision.ln_pre:
        raise MmclError(f"towers.{clip.image}: ln_pre: false: a CLIPModel normalises before its first block.")
    if clip.tokenizer.eos_id == ARGMAX:
        raise MmclError(
            f"towers.{clip.text}: the tokenizer's end is number {ARGMAX}, which makes a CLIPModel pool at the largest "
            "number instead."
        )


def _vision(clip: Clip) -> dict[str, Any]:
    return {**_blocks(clip.vision), "image_size": clip.vision.image_size, "patch_size": clip.vision.patch_size}


def _text(clip: Clip) -> dict[str, Any]:
    return {
        **_blocks(clip.words),
        "vocab_size": clip.tokenizer.vocab_size,
        "max_position_embeddings": clip.words.context_length,
        "eos_token_id": clip.tokenizer.eos_id,
        "pad_token_id": clip.tokenizer.pad_id,
        "bos_token_id": None,
    }


def _blocks(part: Any) -> dict[str, Any]:
    return {
        "hidden_size": part.width,
        "intermediate_size": int(part.width * part.mlp_ratio),
        "num_hidden_layers": part.layers,
        "num_attention_heads": part.heads,
        "hidden_act": ACTIVATIONS[part.activation],
    }
