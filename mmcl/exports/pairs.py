"""Both towers of one CLIP, SigLIP or CLAP of transformers, as that model again."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.exports.base import Source, Written
from mmcl.exports.clip import left_out
from mmcl.exports.examples import compare
from mmcl.towers.library_tokenizers import tokenizer_of
from mmcl.towers.pictures import Preprocessing
from mmcl.towers.processors import RESAMPLES

WEIGHTS = "model.safetensors"
CUTS = (
    "ClapFeatureExtractor draws where it cuts a longer sound, so that its vectors differ from call to call; mmcl hears "
    "the middle, or all where the model fuses."
)


class Pair(NamedTuple):
    """A model of two towers to one space."""

    takes: str
    """Kind of input of the tower beside the text's."""
    other: str
    """Type of that tower's model."""
    model: str
    config: str
    side: str
    """What that tower's names begin with."""


PAIRS = {
    "clip_text_model": Pair("image", "clip_vision_model", "CLIPModel", "CLIPConfig", "vision"),
    "siglip_text_model": Pair("image", "siglip_vision_model", "SiglipModel", "SiglipConfig", "vision"),
    "clap_text_model": Pair("audio", "clap_audio_model", "ClapModel", "ClapConfig", "audio"),
}
"""By the type of their text tower."""


def is_pair(source: Source) -> bool:
    """Whether towers of transformers are to be handed on."""
    return any(part.name.startswith("transformers_") for part in source.recipe.towers.values())


def write(source: Source, folder: Path) -> Written:
    """A text tower, and the one of pictures or sounds that was made with it."""
    (text,) = source.one_of_each("text")
    pair = _pair_of(source, text)
    (other,) = source.one_of_each(pair.takes)
    parts: dict[str, Any] = {m: source.recipe.towers[m] for m in (other, text)}
    backbones: dict[str, Any] = {m: source.tower(m).backbone for m in (other, text)}
    _check(source, pair, other, text)
    dim, siglip = source.encoder.dim, pair.model == "SiglipModel"
    texts, seen = (_config(source, m).to_dict() for m in (text, other))
    width = {"projection_size" if siglip else "projection_dim": dim}
    sides = {"text_config": texts | width, f"{pair.side}_config": seen | ({} if siglip else width)}
    with torch.random.fork_rng():
        whole = getattr(transformers, pair.config)(**sides, **({} if siglip else width))
        model: Any = getattr(transformers, pair.model)(whole).eval()
    state, notes = _scales(source, pair)
    state |= _side(source, other, "backbone.model.", pair.side) | _side(source, text, "backbone.text.", "text")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise MmclError(f"a {pair.model} cannot hold these towers: {error}") from None
    compare(source, other, lambda rows: _seen(model, pair, backbones[other], rows))
    compare(source, text, lambda rows: _read(model, backbones[text], rows))
    whole.architectures = [pair.model]
    save(model, folder)
    if pair.takes == "image":
        of_pictures(backbones[other].preprocessing, other).save_pretrained(folder)
    else:
        transformers.AutoFeatureExtractor.from_pretrained(parts[other].model).save_pretrained(folder)
        notes.append(CUTS)
    tokenizer = tokenizer_of(parts[text].model)
    tokenizer.model_max_length = backbones[text].context_length
    tokenizer.save_pretrained(folder)
    for key in ("prefix", "suffix"):
        if said := getattr(parts[text], key):
            notes.append(f"Every text has the {key} `{said}`, which transformers does not set.")
    notes += left_out(source, (other, text))
    return Written((other, text), tuple(notes), "max_length" if backbones[text].whole else True)


def save(model: Any, folder: Path) -> None:
    """Configuration and weights."""
    model.config.save_pretrained(folder)
    state = {name: t.detach().clone().contiguous() for name, t in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, {"format": "pt"})


def of_pictures(shown: Preprocessing, modality: str) -> Any:
    """What prepares pictures, in transformers' words.

    Raises:
        MmclError: it has none.
    """
    fit = shown.fit
    if fit.resize == "longest":
        raise MmclError(f"towers.{modality}.resize: longest: transformers' CLIP does not fill pictures up.")
    resample = next(number for number, name in RESAMPLES.items() if name == fit.interpolation)
    colours: dict[str, Any] = {"image_mean": list(shown.mean), "image_std": list(shown.std), "resample": resample}
    whole, square = fit.resized or shown.size, {"height": shown.size, "width": shown.size}
    if fit.resize == "squash" and whole == shown.size:
        return transformers.SiglipImageProcessor(size=square, **colours)
    size = {"shortest_edge": whole} if fit.resize == "shortest" else {"height": whole, "width": whole}
    return transformers.CLIPImageProcessor(size=size, crop_size=square, **colours)


def _pair_of(source: Source, text: str) -> Pair:
    """What the text tower is one side of.

    Raises:
        MmclError: of nothing that transformers has a class for.
    """
    part: Any = source.recipe.towers[text]
    if part.name != "transformers_text":
        raise MmclError(
            f"towers.{text}: a {part.name} beside a tower of transformers: transformers has no class of both."
        )
    backbone: Any = source.tower(text).backbone
    kind = backbone.text.config.model_type
    if kind not in PAIRS or part.pool != "own":
        raise MmclError(
            f"towers.{text}: a {kind} with pool: {part.pool} is no side of a CLIP, SigLIP or CLAP, and transformers' "
            "VisionTextDualEncoderModel projects what a model itself calls pooled, which is another vector."
        )
    return PAIRS[kind]


def _check(source: Source, pair: Pair, other: str, text: str) -> None:
    """Refuse a tower of another model, and what is no part of the model's own vectors.

    Raises:
        MmclError: it is one.
    """
    part: Any = source.recipe.towers[other]
    kind = getattr(source.tower(other).backbone, "kind", part.name)
    if kind != pair.other:
        raise MmclError(f"towers.{other}: a {kind} is no side of the {pair.model} that towers.{text} is one of.")
    if part.pool != "own":
        raise MmclError(f"towers.{other}: pool: {part.pool}: a {pair.model} pools as the model itself does (own).")


def _side(source: Source, modality: str, prefix: str, side: str) -> dict[str, Tensor]:
    """Weights of a tower as one side of the whole, its head as the side's projection.

    Raises:
        MmclError: the side has no such projection.
    """
    state = source.state(modality)
    inside = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    whole = (f"{side}_model.", f"{side}_projection.", "visual_projection.")
    named = {k if k.startswith(whole) else f"{side}_model.{k}": t for k, t in inside.items()}
    part, head = source.recipe.towers[modality], {k for k in state if k.startswith("head.")}
    kind = _config(source, modality).model_type
    if not head and (part.own_projection or kind == "siglip_vision_model"):
        return named
    if kind in ("clip_vision_model", "clip_text_model") and head <= {"head.weight"}:
        matrix = state["head.weight"] if head else torch.eye(source.encoder.dim)
        return named | {f"{'visual' if side == 'vision' else 'text'}_projection.weight": matrix}
    called = "linear" if part.head is None else part.head.name
    raise MmclError(f"towers.{modality}.head: a {kind} has no place for {called}.")


def _config(source: Source, modality: str) -> Any:
    backbone: Any = source.tower(modality).backbone
    return (backbone.text if hasattr(backbone, "text") else backbone.model).config


def _scales(source: Source, pair: Pair) -> tuple[dict[str, Tensor], list[str]]:
    """The logits' scale and bias as the class has them, and what to say of them."""
    scale = source.logit_scale
    notes = [f"The logit scale, {math.exp(scale.log_scale):.4g}, is {scale.note}."]
    if pair.model == "ClapModel":
        one = torch.tensor(scale.log_scale)
        return {"logit_scale_a": one, "logit_scale_t": one.clone()}, notes
    if pair.model == "SiglipModel":
        if scale.bias is None:
            notes.append("The bias of the logits is 0: the objective has none.")
        return {
            "logit_scale": torch.tensor([scale.log_scale]),
            "logit_bias": torch.tensor([scale.bias or 0.0]),
        }, notes
    return {"logit_scale": torch.tensor(scale.log_scale)}, [*notes, *scale.without_bias(pair.model)]


def _seen(model: Any, pair: Pair, backbone: Any, rows: Tensor) -> Tensor:
    """The whole model's vectors of pictures or sounds."""
    if pair.takes == "image":
        return model.get_image_features(pixel_values=backbone.normalize(rows)).pooler_output
    waves = rows.flatten(0, 1) if rows.ndim == 3 else rows  # windows, whose vectors are averaged before they are scaled
    pictures, longer = backbone.fused(waves) if backbone.fuses else (backbone.logmel(waves)[:, None], None)
    pooled = model.audio_model(input_features=pictures, is_longer=longer).pooler_output
    vectors = model.audio_projection(pooled)
    return vectors.unflatten(0, rows.shape[:2]).mean(1) if rows.ndim == 3 else vectors


def _read(model: Any, backbone: Any, rows: Tensor) -> Tensor:
    """The whole model's vectors of texts."""
    there = rows >= 0
    ids = rows.masked_fill(~there, backbone.pad_id)
    return model.get_text_features(input_ids=ids, attention_mask=there.long()).pooler_output
