"""What makes rows is said whole: nothing that changes them, or what the tower makes of them, is left out."""

import json
from pathlib import Path
from typing import Any

from mmcl.towers import TOWERS
from mmcl.towers.preparation import preparation
from tests.towers import libraries, tiny_texts

SMALL = {"width": 32, "layers": 1, "heads": 2}


def said(spec: dict[str, Any]) -> dict[str, Any]:
    backbone = TOWERS.check({"weights": "random", **spec}).build(dim=24).backbone
    made = preparation(backbone.transform(train=False), backbone)
    assert json.loads(json.dumps(made)).keys() == made.keys()
    return made


def test_pictures_have_their_fit_and_the_mean_of_their_pixels() -> None:
    made = said({"name": "timm_image", "model": "test_vit", "image_size": 160})
    assert made["size"] == 160
    fitted = {"resize": "shortest", "interpolation": "bicubic", "resized": 168, "floor": False}
    assert made["fit"] == {**fitted, "fill": (128, 128, 128)}
    assert made["normalize"] == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def test_sounds_have_their_spectrogram() -> None:
    made = said({"name": "spectrogram_vit", "mel": {"mels": 32}, "seconds": 1.0, **SMALL})
    assert made["mel"]["mels"] == 32
    assert made["short"] == "mask"


def test_texts_have_their_length_and_special_tokens(tmp_path: Path) -> None:
    own = said({"name": "text_transformer", "tokenizer": "open_clip_bpe", "context_length": 12, **SMALL})
    special = {"vocab_size": 49408, "pad_id": None, "bos_id": 49406, "eos_id": 49407}
    assert own == {"transform": "TextTransform", "length": 12, "padding": 0, "whole": True, "tokenizer": special}
    library = said({"name": "open_clip_text", "model": libraries.of_open_clip("vit", tmp_path).spec["model"]})
    assert library["length"] == libraries.TEXT["context_length"]
    assert library["tokenizer"]["eot_token_id"] == 49407
    bert = tiny_texts.folders(tmp_path / "texts")["bert"]
    around = said({"name": "transformers_text", "model": bert, "pool": "mean", "prefix": "query : "})
    assert around["prefix"] == "query : "
    assert "suffix" not in around
