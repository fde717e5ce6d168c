"""A CLIP that open_clip opens: ``open_clip.create_model_and_transforms("local-dir:DIR")``."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mmcl.errors import MmclError
from mmcl.exports.base import Source, Written, built
from mmcl.exports.clip import Clip, clip_of, own_states
from mmcl.exports.tokenizers import save_tokenizer
from mmcl.files import write_json
from mmcl.model import Encoder
from mmcl.runs import Run

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
CLEANED = (
    "open_clip's tokenizer mends texts before it looks at them (`ftfy`, HTML entities), which mmcl does not: a text "
    "such as `A&amp;B` becomes other tokens there."
)
HUB = (
    "On a hub, open_clip looks for the tokenizer where `model_cfg.text_cfg.hf_tokenizer_name` of "
    f"`{CONFIG}` points: write the repository's name there."
)


def write(source: Source, folder: Path) -> Written:
    """One picture and one text tower of open_clip's own classes."""
    clip = clip_of(source)
    model = {"embed_dim": source.encoder.dim, "vision_cfg": _vision(clip), "text_cfg": _text(clip)}
    quick = {part.activation == "quick_gelu" for part in (clip.vision, clip.words)}
    if len(quick) > 1:
        raise MmclError("activation: open_clip has quick_gelu in both towers, or in none.")
    state = {**clip.state, "logit_scale": torch.tensor(clip.logit_scale.log_scale)}
    if quick == {True}:
        model["quick_gelu"] = True
    if clip.logit_scale.bias is not None:
        model["init_logit_bias"] = clip.logit_scale.bias
        state["logit_bias"] = torch.tensor(clip.logit_scale.bias)
    shown = {
        "size": clip.vision.image_size,
        "mean": list(clip.vision.mean),
        "std": list(clip.vision.std),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": shown})
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS)
    save_tokenizer(clip.tokenizer, folder, clip.words.context_length)
    return Written(clip.modalities, (*clip.notes, CLEANED, HUB))


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The same towers, in mmcl."""
    image, text = manifest["modalities"]
    return built(folder, (image, text), own_states(load_file(folder / WEIGHTS), Run(folder).recipe(), image, text))


def _vision(clip: Clip) -> dict[str, Any]:
    part = clip.vision
    return {
        **_blocks(part),
        "head_width": part.width // part.heads,
        "image_size": part.image_size,
        "patch_size": part.patch_size,
        "pool_type": part.pool,
        "no_ln_pre": not part.ln_pre,
    }


def _text(clip: Clip) -> dict[str, Any]:
    part, tokenizer = clip.words, clip.tokenizer
    return {
        **_blocks(part),
        "heads": part.heads,
        "context_length": part.context_length,
        "vocab_size": tokenizer.vocab_size,
        "hf_tokenizer_name": ".",
        "pad_id": tokenizer.pad_id or 0,  # nothing looks at what follows the end
        "eos_id": tokenizer.eos_id,
        "pool_type": "eos",
    }


def _blocks(part: Any) -> dict[str, Any]:
    tanh = {"act_kwargs": {"approximate": "tanh"}} if part.activation == "gelu_tanh" else {}
    return {"width": part.width, "layers": part.layers, "mlp_ratio": part.mlp_ratio, **tanh}
