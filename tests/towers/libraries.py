"""Small models of open_clip, timm and transformers with random weights, beside the towers that shall equal them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
HF = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Library:
    """A model of a library."""

    spec: dict[str, Any]  # of the tower
    model: nn.Module
    embed: Callable[[Tensor], Tensor]  # from pixels as the library prepares them
    prepare: Callable[[Image.Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int | None  # of the model's own projection

    def normalized(self, pixels: Tensor) -> Tensor:
        return (pixels / 255 - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def stirred(model: Any) -> Any:
    """Without weights that begin at zero or one, where pictures or places could make no difference."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


OPEN_CLIP: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": ({"embed_dim": 24, "vision_cfg": VIT, "quick_gelu": True}, {}),
    "vit_avg": ({"embed_dim": 24, "vision_cfg": {**VIT, "pool_type": "avg", "final_ln_after_pool": True}}, {}),
    "coca": (
        {
            "embed_dim": 24,
            "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_queries": 3, "output_tokens": True},
        },
        {"resize_mode": "longest", "fill_color": 127},
    ),
    "resnet": (
        {"embed_dim": 24, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}},
        {},
    ),
    "siglip": (
        {
            "embed_dim": 64,
            "vision_cfg": {
                "image_size": 160,
                "timm_model_name": "test_vit2",
                "timm_pool": "avg",
                "timm_proj": "none",
            },
        },
        {**HALF, "resize_mode": "squash"},
    ),
    "mobile": (
        {
            "embed_dim": 24,
            "vision_cfg": {
                "image_size": 96,
                "timm_model_name": "test_convnext",
                "timm_pool": "",
                "timm_proj": "linear",
            },
        },
        {"interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]},
    ),
}


def of_open_clip(kind: str, folder: Path) -> Library:
    config, preprocess = OPEN_CLIP[kind]
    folder.mkdir(parents=True, exist_ok=True)
    whole = {**config, "text_cfg": TEXT, "custom_text": True}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": whole, "preprocess_cfg": preprocess}))
    name = f"local-dir:{folder}"
    model = open_clip.CustomTextCLIP(**{k: v for k, v in whole.items() if k != "custom_text"})
    torch.save(stirred(model).state_dict(), folder / "open_clip_model.pth")
    loaded, _, prepare = open_clip.create_model_and_transforms(name)
    loaded.eval()

    def embed(pixels: Tensor) -> Tensor:
        vectors = loaded.visual(pixels)
        return vectors[0] if isinstance(vectors, tuple) else vectors

    said = open_clip.get_model_preprocess_cfg(loaded)
    spec = {"name": "open_clip_image", "model": name}
    return Library(spec, loaded, embed, prepare, said["mean"], said["std"], config["embed_dim"])


def of_timm(name: str, size: int, **more: Any) -> Library:
    sized = {"img_size": size} if "vit" in name else {}
    model = stirred(timm.create_model(name, num_classes=0, **sized, **more))
    config = {**resolve_model_data_config(model), "input_size": (3, size, size)}
    pool = {"pool": more["global_pool"]} if more else {}
    spec = {"name": "timm_image", "model": name, "image_size": size, **pool}
    return Library(spec, model, model, create_transform(**config), config["mean"], config["std"], None)


TEXT_OF_HF = {**HF, "vocab_size": 20, "num_hidden_layers": 1}
MODELS: dict[str, Callable[[], Any]] = {
    "clip": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=HF, text_config=TEXT_OF_HF, projection_dim=24)
    ),
    "siglip": lambda: transformers.SiglipModel(transformers.SiglipConfig(vision_config=HF, text_config=TEXT_OF_HF)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**HF)),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**HF)),
}
PROCESSORS: dict[str, Callable[[], Any]] = {
    "clip": lambda: transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=3
    ),
    "siglip": lambda: transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
    "dinov2": lambda: transformers.BitImageProcessor(
        size={"shortest_edge": 37},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ),
    "vit": lambda: transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
}


def of_transformers(kind: str, folder: Path) -> Library:
    model, processor = MODELS[kind](), PROCESSORS[kind]()
    stirred(model).save_pretrained(folder)
    processor.save_pretrained(folder)

    def embed(pixels: Tensor) -> Tensor:
        if kind in ("clip", "siglip"):
            return model.get_image_features(pixel_values=pixels).pooler_output
        if kind == "dinov2":
            return model(pixel_values=pixels).pooler_output
        return model.vit(pixel_values=pixels).last_hidden_state[:, 0]

    def prepare(picture: Image.Image) -> Tensor:
        return processor(images=picture, return_tensors="pt")["pixel_values"][0]

    spec = {"name": "transformers_image", "model": str(folder)}
    mean, std = processor.image_mean, processor.image_std
    return Library(spec, model, embed, prepare, tuple(mean), tuple(std), {"clip": 24, "siglip": 32}.get(kind))


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture whose amplitudes fall with the frequency, as those of photographs do."""
    from tests.media.test_image import photo

    return photo(height, width, seed)
