"""A model that transformers opens: ``AutoModel.from_pretrained(DIR)``, ``AutoProcessor.from_pretrained(DIR)``."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from mmcl.errors import MmclError
from mmcl.exports import pairs
from mmcl.exports.base import Source, Written, begun
from mmcl.exports.clip import OWN, Clip, clip_of
from mmcl.exports.examples import compare
from mmcl.exports.pairs import of_pictures, save
from mmcl.exports.sides import Side
from mmcl.exports.tokenizers import save_tokenizer
from mmcl.model import Encoder
from mmcl.runs import Run
from mmcl.towers import TOWERS, OpenClipBpe, TowerSpec
from mmcl.towers.clip_names import split

ARGMAX = 2  # an end of this number makes CLIPModel pool at the largest number instead
SAID = {
    "image": {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout", "act_kwargs"},
    "text": {"layers", "width", "heads", "mlp_ratio", "context_length", "vocab_size", "pad_id", "eos_id", "act_kwargs"},
}
"""What a CLIPModel's configuration can say, of open_clip's keys; the others have to be as they usually are."""
SILENT = {"tokenizer_kwargs", "output_tokens", "pool_type"}  # which are no matter, or looked at by themselves
REASONS = {
    "no_ln_pre": "a CLIPModel normalises before its first block",
    "hf_tokenizer_name": "only open_clip's own tokenizer, or one that the recipe names, is written for a CLIPModel",
}


def write(source: Source, folder: Path) -> Written:
    """Both towers of one CLIP, SigLIP or CLAP of transformers; or a picture tower and a text tower as a CLIPModel."""
    if pairs.is_pair(source):
        return pairs.write(source, folder)
    return _as_clip(source, folder)


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The same towers, in mmcl; those of open_clip as what they have become."""
    recipe, parts = Run(folder).recipe(), {}
    for m in manifest["modalities"]:
        part = recipe.towers[m]
        if part.name.startswith("transformers_"):
            parts[m] = part.model_copy(update={"model": str(folder)})
        elif part.name in OWN:
            parts[m] = part
        else:
            found = TOWERS.check({"name": f"transformers_{manifest['takes'][m]}", "model": str(folder)})
            assert isinstance(found, TowerSpec)
            parts[m] = found
    return begun(folder, parts, recipe.dim)


def _as_clip(source: Source, folder: Path) -> Written:
    """Towers of open_clip's classes that are CLIP's."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    clip = clip_of(source)
    _check(clip)
    tokenizer = clip.words.tokenizer or OpenClipBpe()
    config = CLIPConfig(
        text_config=CLIPTextConfig(**_text(clip.words, tokenizer), projection_dim=source.encoder.dim),
        vision_config=CLIPVisionConfig(**_vision(clip.vision), projection_dim=source.encoder.dim),
        projection_dim=source.encoder.dim,
        architectures=["CLIPModel"],
        logit_scale_init_value=clip.logit_scale.log_scale,
    )
    with torch.random.fork_rng():
        model: Any = CLIPModel(config).eval()
    model.load_state_dict(split({**clip.state(""), "logit_scale": torch.tensor(clip.logit_scale.log_scale)}))
    backbone: Any = source.tower(clip.image).backbone
    compare(
        source,
        clip.image,
        lambda rows: model.get_image_features(pixel_values=backbone.normalize(rows)).pooler_output,
    )
    compare(source, clip.text, lambda rows: model.get_text_features(input_ids=rows).pooler_output)
    save(model, folder)
    of_pictures(clip.shown, clip.image).save_pretrained(folder)
    save_tokenizer(tokenizer, folder, clip.words.config["context_length"])
    notes = list(clip.notes)
    if isinstance(tokenizer, OpenClipBpe):
        notes.append(
            "transformers' tokenizer does not mend texts before it looks at them (`ftfy`, HTML entities), as that of "
            "open_clip and mmcl does."
        )
    if not clip.shown.fit.floor:
        notes.append("Where half a pixel is left over, transformers cuts a picture at the lower one.")
    return Written(clip.modalities, (*notes, *clip.logit_scale.without_bias("CLIPModel")))


def _check(clip: Clip) -> None:
    """Refuse what a CLIPModel cannot be.

    Raises:
        MmclError: the towers pool or normalise otherwise.
    """
    pool = clip.vision.config.get("pool_type", "tok")
    if pool != "tok":
        raise MmclError(f"towers.{clip.image}: pool: {pool}: a CLIPModel pools at the class token (tok).")
    pool = clip.words.config.get("pool_type", "argmax")
    if pool not in ("argmax", "eos"):
        raise MmclError(f"towers.{clip.text}: pool_type: {pool}: a CLIPModel pools at the end token.")
    for kind, m, side, usual in (
        ("image", clip.image, clip.vision, CLIPVisionCfg()),
        ("text", clip.text, clip.words, CLIPTextCfg()),
    ):
        for key, value in side.config.items():
            known = asdict(usual)
            if key in SAID[kind] | SILENT or value == known[key]:
                continue
            if key.startswith("timm_") and "timm_model_name" not in side.config:
                continue
            raise MmclError(
                f"towers.{m}: {key.removeprefix('no_')}: {str(not value).lower() if key[:3] == 'no_' else value}: "
                f"{REASONS.get(key, 'a CLIPModel has no place for it')}."
            )
        if isinstance(side.config.get("layers"), list):
            raise MmclError(f"towers.{m}: a CLIPModel has no ResNet.")
    if clip.words.tokenizer is not None and clip.words.tokenizer.eos_id == ARGMAX:
        raise MmclError(
            f"towers.{clip.text}: the tokenizer's end is number {ARGMAX}, which makes a CLIPModel pool at the largest "
            "number instead."
        )


def _vision(side: Side) -> dict[str, Any]:
    said = {**asdict(CLIPVisionCfg()), **side.config}
    heads = said["width"] // said["head_width"]
    return {**_blocks(said, heads, side), "image_size": said["image_size"], "patch_size": said["patch_size"]}


def _text(side: Side, tokenizer: Any) -> dict[str, Any]:
    said = {**asdict(CLIPTextCfg()), **side.config}
    return {
        **_blocks(said, said["heads"], side),
        "vocab_size": said["vocab_size"],
        "max_position_embeddings": said["context_length"],
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": None,
    }


def _blocks(said: dict[str, Any], heads: int, side: Side) -> dict[str, Any]:
    gelu = "gelu_pytorch_tanh" if (said["act_kwargs"] or {}).get("approximate") == "tanh" else "gelu"
    return {
        "hidden_size": said["width"],
        "intermediate_size": int(said["width"] * said["mlp_ratio"]),
        "num_hidden_layers": said["layers"],
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu" if side.quick_gelu else gelu,
    }
