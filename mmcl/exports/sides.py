"""Picture and text towers as the two sides of a model of open_clip: configuration and weights, a family a function."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.exports.base import Source
from mmcl.towers.open_clip_models import configuration

PADDED = "the tokens see all others but the padding, and CLIP's classes cannot leave out the padding."


@dataclass(frozen=True)
class Side:
    """One tower in open_clip's words."""

    config: dict[str, Any]
    """Its `vision_cfg` or `text_cfg`."""
    state: dict[str, Tensor]
    """Weights under the names of open_clip's class, projection included."""
    quick_gelu: bool | None
    """Whether its MLPs have OpenAI's approximation; None where the class has none of these."""
    tokenizer: Any = None
    """Of texts, as a part of mmcl; None where open_clip's configuration says which."""
    notes: tuple[str, ...] = ()


def vit(source: Source, modality: str) -> Side:
    """Of mmcl's own sizes."""
    part: Any = source.recipe.towers[modality]
    if part.pool not in ("tok", "avg"):
        raise MmclError(f"towers.{modality}: pool: {part.pool}: tok and avg are exported.")
    state = _under(source, modality, "backbone.transformer.")
    if (matrix := projection(source, modality)) is not None:
        state["proj"] = matrix.T
    config = {
        **_blocks(part),
        "head_width": part.width // part.heads,
        "image_size": part.image_size,
        "patch_size": part.patch_size,
        "pool_type": part.pool,
        "no_ln_pre": not part.ln_pre,
    }
    return Side(config, state, part.activation == "quick_gelu")


def text_transformer(source: Source, modality: str) -> Side:
    """Of mmcl's own sizes."""
    part: Any = source.recipe.towers[modality]
    if not part.causal:
        raise MmclError(f"towers.{modality}: causal: false: {PADDED}")
    state = _under(source, modality, "backbone.transformer.")
    if (matrix := projection(source, modality)) is not None:
        state["text_projection"] = matrix.T
    backbone: Any = source.tower(modality).backbone
    config = {
        **_blocks(part),
        "heads": part.heads,
        "context_length": part.context_length,
        **_pooled_at_end(backbone.tokenizer),
    }
    return Side(config, state, part.activation == "quick_gelu", backbone.tokenizer)


def open_clip_image(source: Source, modality: str) -> Side:
    """The vision side of a model of open_clip."""
    backbone: Any = source.tower(modality).backbone
    visual, said = backbone.visual, configuration(backbone.name)[0]["vision_cfg"]
    config = {**said, "image_size": backbone.preprocessing.size, "output_tokens": False}
    state = _under(source, modality, "backbone.visual.")
    matrix = projection(source, modality)
    if isinstance(visual, TimmModel):
        config["timm_model_pretrained"] = False
        if config["image_size"] != said.get("image_size", 224):
            raise MmclError(f"towers.{modality}.image_size: open_clip builds trunks of timm at their own size only.")
    elif hasattr(visual, "patch_dropout"):
        config["patch_dropout"] = getattr(visual.patch_dropout, "prob", 0.0)
    if matrix is not None and (isinstance(visual, ModifiedResNet) or hasattr(getattr(visual, "head", 0), "pool")):
        raise MmclError(f"towers.{modality}.head: the pooling of {backbone.name} has a projection of its own.")
    if matrix is not None and isinstance(visual, TimmModel):
        config |= {"timm_proj": "linear", "timm_proj_bias": False}
        state["head.proj.weight"] = matrix
    elif matrix is not None:
        state["proj"] = matrix.T
    return Side(config, state, None if isinstance(visual, TimmModel) else backbone.quick_gelu)


def open_clip_text(source: Source, modality: str) -> Side:
    """The text side of a model of open_clip."""
    part: Any = source.recipe.towers[modality]
    backbone: Any = source.tower(modality).backbone
    text, whole = backbone.text, configuration(backbone.model).model
    config = {**whole["text_cfg"], "context_length": backbone.context_length, "output_tokens": False}
    tokenizer, notes = None if part.tokenizer is None else part.tokenizer.build(), []
    if tokenizer is not None:
        for key in ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"):
            config.pop(key, None)
        config |= _pooled_at_end(tokenizer)
    elif config.get("hf_tokenizer_name"):
        config["hf_tokenizer_name"] = "."
    if getattr(text, "use_pad_mask", False):
        raise MmclError(f"towers.{modality}.tokenizer: {PADDED}")
    state = _under(source, modality, "backbone.text.")
    matrix = projection(source, modality)
    if isinstance(text, HFTextEncoder):
        config["hf_model_pretrained"] = False
        where = "the folder" if Path(config["hf_model_name"]).is_dir() else "the hub, as"
        notes.append(
            f"open_clip reads the configuration of the text model from {where} `{config['hf_model_name']}`, which must "
            "be within reach."
        )
        if matrix is not None:
            config["hf_proj_type"] = "linear"
            state["proj.weight"] = matrix
    elif matrix is not None:
        config |= {"proj_type": "linear", "proj_bias": False}
        state["text_projection"] = matrix.T
    quick = None if isinstance(text, HFTextEncoder) else bool(whole.get("quick_gelu"))
    return Side(config, state, quick, tokenizer, tuple(notes))


SIDES: dict[str, dict[str, Callable[[Source, str], Side]]] = {
    "image": {"vit": vit, "open_clip_image": open_clip_image},
    "text": {"text_transformer": text_transformer, "open_clip_text": open_clip_text},
}
"""By what they take, and by family."""


def projection(source: Source, modality: str) -> Tensor | None:
    """A tower's head as one matrix, (dim, width); None where the backbone's own projection stands.

    Raises:
        MmclError: it is no matrix.
    """
    part, tower = source.recipe.towers[modality], source.tower(modality)
    weights = {k: t for k, t in source.state(modality).items() if k.startswith("head.")}
    if set(weights) == {"head.weight"}:
        return weights["head.weight"]
    if not weights:
        own = part.own_projection and tower.backbone.projects
        return None if own else torch.eye(source.encoder.dim)
    called = ", ".join(sorted(weights)) if part.head is None else part.head.name
    raise MmclError(f"towers.{modality}.head: CLIP projects by one matrix, and not by {called}.")


def _under(source: Source, modality: str, prefix: str) -> dict[str, Tensor]:
    state = source.state(modality)
    left = [k for k in state if not k.startswith((prefix, "head.", "backbone.normalize."))]
    if left:
        raise MmclError(f"towers.{modality}: the format has no place for {', '.join(left)}.")
    return {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}


def _blocks(part: Any) -> dict[str, Any]:
    tanh = {"act_kwargs": {"approximate": "tanh"}} if part.activation == "gelu_tanh" else {}
    return {"width": part.width, "layers": part.layers, "mlp_ratio": part.mlp_ratio, **tanh}


def _pooled_at_end(tokenizer: Any) -> dict[str, Any]:
    """What a configuration says of texts that are pooled at the end token of some tokenizer."""
    return {
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id or 0,  # nothing looks at what follows the end
        "eos_id": tokenizer.eos_id,
        "pool_type": "eos",
    }
