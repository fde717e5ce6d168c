"""What transformers' image processors do, as a preprocessing of ours."""

from dataclasses import replace
from typing import Any

import transformers

from mmcl.errors import MmclError
from mmcl.media import Fit
from mmcl.towers.pictures import CLIP_MEAN, CLIP_STD, Colour, Preprocessing, interpolation, square

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
HALF: Colour = (0.5, 0.5, 0.5)
CROPPED = Fit(floor=True)
DEFAULTS = {
    "clip_vision_model": Preprocessing(224, CLIP_MEAN, CLIP_STD, CROPPED),
    "siglip_vision_model": Preprocessing(224, HALF, HALF, Fit("squash")),
    "vit": Preprocessing(224, HALF, HALF, Fit("squash", "bilinear")),
    "dinov2": Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, replace(CROPPED, resized=256)),
    "dinov2_with_registers": Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, replace(CROPPED, resized=256)),
}
"""Of models whose folder says nothing of it, by type: what their authors' folders say."""
RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


def preprocessing_of(model: str, config: Any) -> Preprocessing:
    """What a model's folder says of its pictures, or what its type usually expects.

    Args:
        model: the folder, or name on the hub.
        config: of the vision model.

    Raises:
        MmclError: its processor does what mmcl's does not.
    """
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError):
        if config.model_type not in DEFAULTS:
            raise MmclError(
                f"model: {model} does not say how its pictures are prepared: it has no preprocessor_config.json."
            ) from None
        usual = DEFAULTS[config.model_type]
        native = config.image_size if config.model_type not in ("dinov2", "dinov2_with_registers") else usual.size
        return usual.but(square(native, model))
    return of_processor(processor.to_dict(), model)


def of_processor(said: dict[str, Any], model: str) -> Preprocessing:
    """From the content of a preprocessor_config.json."""
    if not said.get("do_resize", True) or abs(said.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise MmclError(f"model: the processor of {model} does not resize, or does not scale pixels to [0, 1].")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if said.get("do_normalize", True):
        mean, std = tuple(said["image_mean"]), tuple(said["image_std"])
    size, crop = said["size"], said.get("crop_size") if said.get("do_center_crop") else None
    how = interpolation(RESAMPLES.get(said.get("resample", 2), "an unknown way"), model)
    if "shortest_edge" in size and "longest_edge" not in size:
        side = size["shortest_edge"]
        fit = Fit("shortest", how, side, floor=True)
    elif {"height", "width"} <= set(size):
        side = square((size["height"], size["width"]), model)
        fit = Fit("squash", how, side, floor=True)
    else:
        raise MmclError(f"model: the processor of {model} resizes pictures to {size}, which are no squares.")
    if crop is None and fit.resize == "shortest":
        raise MmclError(f"model: the processor of {model} does not cut out a square.")
    shown = side if crop is None else square((crop["height"], crop["width"]), model)
    return Preprocessing(shown, mean, std, fit if shown != side else replace(fit, resized=None))
