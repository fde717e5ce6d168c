"""Any recipe, made small: the same towers, objective and data, in sizes that a test has time for."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import soundfile
import timm
import torch
import transformers as tf
from PIL import Image

from mmcl.data import write_shards
from mmcl.data.source import IMAGES, SOUNDS, Choice, Selector, Source
from mmcl.recipe import Recipe
from mmcl.towers import train_sentencepiece
from mmcl.types import modality_of
from tests.towers import tiny_texts

ROWS, WIDTH, LAYERS, HEADS, PATCH = 12, 64, 1, 2, 16
SIZES = {"width": WIDTH, "layers": LAYERS, "heads": HEADS}
OWN: dict[str, dict[str, Any]] = {
    "vit": {**SIZES, "patch_size": PATCH, "image_size": 2 * PATCH, "patch_dropout": 0.0},
    "text_transformer": {**SIZES, "context_length": 16},
    "spectrogram_vit": {**SIZES, "seconds": 1.0, "token_dropout": 0.0},
}
"""Families that are sized by a recipe: what is said instead."""

TIMM = {"vit": ("test_vit", 2 * PATCH), "eva": ("test_vit", 2 * PATCH), "fastvit": ("fastvit_t8", 64)}
"""How names in timm begin: a small model of that kind, and the pictures that it takes."""

HIDDEN: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
TEXT = {**HIDDEN, "vocab_size": 24, "max_position_embeddings": 26}
PICTURE = {**HIDDEN, "image_size": 2 * PATCH, "patch_size": PATCH}
ENDS = {"bos_token_id": None, "eos_token_id": 1}
HTSAT: dict[str, Any] = {
    "spec_size": 128, "num_mel_bins": 64, "depths": [1, 1], "num_attention_heads": [2, 2], "num_hidden_layers": 2,
    "patch_embeds_hidden_size": WIDTH // 2, "hidden_size": WIDTH, "window_size": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A type of model of transformers, whose configuration has by itself the sizes that its authors gave it."""

    config: Callable[..., tf.PreTrainedConfig]
    small: dict[str, Any]
    tokenizer: Callable[[], Any] | None = None
    extractor: dict[str, Any] = field(default_factory=dict)  # of the small one, as preprocessor_config.json has it
    full: dict[str, Any] = field(default_factory=dict)  # where the authors' sizes are others than the class's


KINDS = {
    "siglip": Kind(
        tf.SiglipConfig,
        {"text_config": {**TEXT, **ENDS}, "vision_config": PICTURE},
        tiny_texts.siglip_like,
        full={"text_config": ENDS},
    ),
    "dinov2": Kind(tf.Dinov2Config, PICTURE),
    "clap": Kind(
        tf.ClapConfig,
        {"audio_config": HTSAT, "text_config": TEXT, "projection_dim": WIDTH},
        extractor={"max_length_s": 2, "truncation": "rand_trunc", "padding": "repeatpad"},
    ),
    "MIT/ast": Kind(tf.ASTConfig, {**HIDDEN, "max_length": 64, "num_mel_bins": 32}),
    "xlm-roberta": Kind(tf.XLMRobertaConfig, TEXT, tiny_texts.roberta_like, full={"vocab_size": 250_002}),
    "roberta": Kind(tf.RobertaConfig, TEXT, tiny_texts.roberta_like),
    "mpnet": Kind(tf.MPNetConfig, TEXT, tiny_texts.roberta_like),
    "bert": Kind(tf.BertConfig, TEXT, tiny_texts.bert_like),
}
"""What is in names on the hub, by the first that is found."""


class Miniature:
    """Makes recipes small, or whole but for what would come from the hub.

    Args:
        root: a folder for models, weights, a tokenizer, shards and runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        captions = [" ".join(np.random.default_rng(n).permutation(tiny_texts.WORDS)) for n in range(300)]
        self.tokenizer = train_sentencepiece(captions, root / "tokenizer.model", vocab_size=285)

    def whole(self, recipe: Recipe) -> Recipe:
        """The recipe in its own sizes; what transformers has on the hub lies in a folder, without weights."""
        content = recipe.model_dump(mode="json")
        for tower in content["towers"].values():
            if tower["name"].startswith("transformers_"):
                tower["model"] = str(self._transformers(tower["model"], small=False))
            self._tokenizer(tower)
        return Recipe.model_validate(content)

    def small(self, recipe: Recipe, run: Path) -> Recipe:
        """The recipe for one step of a few rows."""
        content = recipe.model_dump(mode="json")
        content |= {"run": str(run), "dim": WIDTH, "tasks": []}
        for tower in content["towers"].values():
            self._shrink(tower)
            self._tokenizer(tower)
        train = content["data"]["train"]
        for number, (source, said) in enumerate(
            zip(recipe.data.sources, train if isinstance(train, list) else [train], strict=True)
        ):
            said["shards"] = str(run.parent / f"{run.name}-{number}")
            write_shards(samples(source, recipe), said["shards"])
        content["data"] |= {"batch_size": ROWS, "workers": 1}
        content["training"] |= {"samples": ROWS, "precision": "fp32", "log_every_steps": 1}
        return Recipe.model_validate(content)

    def _shrink(self, tower: dict[str, Any]) -> None:
        name = tower["name"]
        tower |= OWN.get(name, {})
        weights: Path | None = None
        if name.startswith("transformers_"):
            tower["model"] = str(self._transformers(tower["model"], small=True))
            if "context_length" in tower:
                tower["context_length"] = None
        elif name.startswith("open_clip_"):
            config, weights = self._open_clip(tower["model"])
            tower |= {"model": str(config), **({"tag": None} if "tag" in tower else {})}
        elif name.startswith("timm_"):
            tower["model"], size, weights = self._timm(tower["model"])
            tower |= {"image_size": size} if "image_size" in tower else {}
        said = tower["weights"]
        if weights is not None and (said is None or said["from"] != "random"):
            tower["weights"] = {"from": str(weights)}

    def _tokenizer(self, tower: dict[str, Any]) -> None:
        if (tower.get("tokenizer") or {}).get("name") == "sentencepiece":
            tower["tokenizer"]["model"] = str(self.tokenizer)

    def _transformers(self, model: str, small: bool) -> Path:
        """A folder of a model of the same type: small and with weights, or of the sizes that the type has."""
        found = [kind for part, kind in KINDS.items() if part in model]
        assert found, f"tests/recipes/miniature.py has no row in KINDS for {model}"
        kind, folder = found[0], self.root / ("small" if small else "whole") / model
        if folder.exists():
            return folder
        config = kind.config(**(kind.small if small else kind.full))
        if small:
            tf.MODEL_MAPPING[type(config)](config).save_pretrained(folder)
            if kind.extractor:
                (folder / "preprocessor_config.json").write_text(json.dumps(kind.extractor))
        config.save_pretrained(folder)
        if kind.tokenizer is not None:
            kind.tokenizer().save_pretrained(folder)
        return folder

    def _open_clip(self, model: str) -> tuple[Path, Path]:
        """A small configuration of the same kind, and random weights of the whole model."""
        path = self.root / "open_clip" / f"{model}.json"
        weights = path.with_suffix(".pt")
        if path.exists():
            return path, weights
        config = open_clip.get_model_config(model)
        assert config is not None, f"open_clip has no model {model}"
        vision, text = config["vision_cfg"], config["text_cfg"]
        if "timm_model_name" in vision:
            vision["timm_model_name"], vision["image_size"], _ = self._timm(vision["timm_model_name"])
        else:
            vision |= {"image_size": 2 * PATCH, "patch_size": PATCH, "head_width": WIDTH // HEADS}
            vision |= {"width": WIDTH, "layers": LAYERS}
        text |= {**SIZES, "context_length": 16}
        config["embed_dim"] = WIDTH
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(config))
        whole = open_clip.CustomTextCLIP(WIDTH, vision, text, quick_gelu=config.get("quick_gelu", False))
        torch.save(whole.state_dict(), weights)
        return path, weights

    def _timm(self, model: str) -> tuple[str, int, Path]:
        """A small model of the same kind, the pictures that it takes, and random weights with a classifier."""
        found = [row for begin, row in TIMM.items() if model.startswith(begin)]
        assert found, f"tests/recipes/miniature.py has no row in TIMM for {model}"
        name, size = found[0]
        path = self.root / f"{name}.pt"
        if not path.exists():
            torch.save(timm.create_model(name).state_dict(), path)
        return name, size, path


def samples(source: Source, recipe: Recipe) -> list[dict[str, Any]]:
    """A batch of samples with all members that a source of a recipe is read from."""
    rng = np.random.default_rng(0)
    made: list[dict[str, Any]] = []
    for number in range(ROWS):
        sample: dict[str, Any] = {"__key__": f"{number:05d}", "json": {"number": number}}
        for modality, said in source.modalities.items():
            choice = Selector.parse(said, modality).choices[0]
            width = getattr(recipe.towers[modality_of(modality)], "width", 1)
            put(sample, choice, rng, width)
        if source.identity is not None:
            put(sample, Selector.parse(source.identity, "identity").choices[0], rng, 1)
        made.append(sample)
    return made


def put(sample: dict[str, Any], choice: Choice, rng: np.random.Generator, width: int) -> None:
    """One member, or one field of a JSON member, of the kind that its extension says."""
    if choice.extension in sample and choice.field is None:
        return  # two modalities lie there
    words = [" ".join(rng.permutation(tiny_texts.WORDS)[:5]) for _ in range(2)]
    if choice.kind in IMAGES:
        picture = Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8))
        picture.save(out := io.BytesIO(), {"jpg": "jpeg"}.get(choice.kind, choice.kind))
        sample[choice.extension] = out.getvalue()
    elif choice.kind in SOUNDS:
        soundfile.write(out := io.BytesIO(), rng.uniform(-0.5, 0.5, 8_000), 8_000, format=choice.kind.upper())
        sample[choice.extension] = out.getvalue()
    elif choice.kind == "npy":
        sample[choice.extension] = rng.standard_normal(width).astype(np.float32)
    elif choice.kind == "json":
        assert choice.field is not None
        sample[choice.extension] = {**sample.get(choice.extension, {}), choice.field: words}
    else:
        sample[choice.extension] = "\n".join(words)
