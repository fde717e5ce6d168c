"""A CLIP that open_clip opens: ``open_clip.create_model_and_transforms("local-dir:DIR")``."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from mmcl.checkpoints import save_tensors
from mmcl.errors import MmclError
from mmcl.exports.base import Source, Written, begun
from mmcl.exports.clip import OWN, Clip, clip_of
from mmcl.exports.examples import compare
from mmcl.exports.tokenizers import save_tokenizer
from mmcl.files import write_json
from mmcl.model import Encoder
from mmcl.runs import Run
from mmcl.towers import OpenClipBpe
from mmcl.towers.library_tokenizers import fetching
from mmcl.towers.open_clip_models import configuration

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
    """One picture and one text tower of open_clip's own classes, sized by the recipe or of a model by name."""
    clip = clip_of(source)
    families = [source.recipe.towers[m].name for m in clip.modalities]
    custom = any(family not in OWN for family in families)
    text, notes = _with_tokenizer(source, clip, folder)
    model: dict[str, Any] = {"embed_dim": source.encoder.dim, "vision_cfg": clip.vision.config, "text_cfg": text}
    if custom:
        model["custom_text"] = True
    quick = {side.quick_gelu for side in (clip.vision, clip.words)} - {None}
    if len(quick) > 1:
        raise MmclError("activation: open_clip has quick_gelu in both towers, or in none.")
    if quick == {True}:
        model["quick_gelu"] = True
    state = {**clip.state("text." if custom else ""), "logit_scale": torch.tensor(clip.logit_scale.log_scale)}
    if clip.logit_scale.bias is not None:
        model["init_logit_bias"] = clip.logit_scale.bias
        state["logit_bias"] = torch.tensor(clip.logit_scale.bias)
    _check(source, clip, model, state)
    write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": _shown(clip)})
    save_tensors(state, folder / WEIGHTS)
    return Written(clip.modalities, (*clip.notes, *notes))


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The same towers, in mmcl."""
    recipe, parts = Run(folder).recipe(), {}
    for m in manifest["modalities"]:
        part = recipe.towers[m]
        here = {"model": f"local-dir:{folder}", "tag": None} if part.name not in OWN else {}
        parts[m] = part.model_copy(update={key: value for key, value in here.items() if hasattr(part, key)})
    return begun(folder, parts, recipe.dim)


def _with_tokenizer(source: Source, clip: Clip, folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The text side's configuration, whose tokenizer lies in the folder where it needs files; and what to say of it."""
    config, tokenizer = clip.words.config, clip.words.tokenizer
    if isinstance(tokenizer, OpenClipBpe):
        return config, ()
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder, config["context_length"])
        return {**config, "hf_tokenizer_name": "."}, (CLEANED, HUB)
    if not config.get("hf_tokenizer_name"):
        return config, ()
    backbone: Any = source.tower(clip.text).backbone
    name = configuration(backbone.model).model["text_cfg"]["hf_tokenizer_name"]
    place = backbone.model.removeprefix("local-dir:") if backbone.model.startswith("local-dir:") else name
    with fetching("the tokenizer", place):
        HFTokenizer(place, **config.get("tokenizer_kwargs", {})).save_pretrained(folder)
    return config, (HUB,)


def _check(source: Source, clip: Clip, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """See that open_clip builds this model, takes all of its weights, and finds the towers' vectors.

    Raises:
        MmclError: it does not.
    """
    said = deepcopy(config)
    made = open_clip.CustomTextCLIP if said.pop("custom_text", False) else open_clip.CLIP
    try:
        with torch.random.fork_rng():
            model: Any = made(**said).eval()
        model.load_state_dict(state)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise MmclError(f"open_clip cannot build such a model: {error}") from None
    backbone: Any = source.tower(clip.image).backbone
    compare(source, clip.image, lambda rows: model.encode_image(backbone.normalize(rows)))
    compare(source, clip.text, model.encode_text)


def _shown(clip: Clip) -> dict[str, Any]:
    """How pictures are prepared, in open_clip's words.

    Raises:
        MmclError: it has no word for what is filled up with a colour.
    """
    shown, fit = clip.shown, clip.shown.fit
    if fit.resized is not None or len(set(fit.fill)) > 1:
        raise MmclError(f"towers.{clip.image}: open_clip has no word for {fit}.")
    return {
        "size": shown.size,
        "mean": list(shown.mean),
        "std": list(shown.std),
        "interpolation": fit.interpolation,
        "resize_mode": fit.resize,
        **({"fill_color": fit.fill[0]} if fit.resize == "longest" else {}),
    }
