"""open_clip's vision transformer."""

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from mmcl.errors import MmclError
from mmcl.towers.base import ACTIVATIONS, TOWERS, Activation, Tower
from mmcl.types import Draw

Count = Annotated[int, Field(ge=1)]
Colour = tuple[float, float, float]
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)


@TOWERS.register("open_clip_image")
class OpenClipImage(Tower):
    """A vision transformer of open_clip's own class.

    Use when: images; small widths for small data, ``ViT-B-32`` is width 768, 12 layers, 12 heads, patch 32.
    Expects: uint8 pictures of any size. In training a part of the picture is cut out (``crop``) and resized to
        ``image_size``; otherwise the shorter side is resized and the middle cut out. The towers normalise themselves.
    Returns: (batch, dim) vectors, not normalised.

    Args:
        image_size: side of the square that the transformer sees, in pixels.
        patch_size: side of a patch, in pixels.
        width: of the residual stream.
        layers: number of blocks.
        heads: of attention; divide the width.
        mlp_ratio: hidden width of a block's MLP, over the width.
        pool: class token (``tok``) or mean over the patches (``avg``).
        ln_pre: normalise before the first block, as CLIP does.
        activation: of the MLPs.
        patch_dropout: share of the patches that is left out in training, in [0, 1).
        crop: smallest and largest share of the picture's area that training cuts out; [1, 1] shows the whole picture.
        shift: in training the whole picture is moved by up to this share of its side, in whole pixels; its edge fills
            the gap.
        mean: of the pixels per channel, in [0, 1]; CLIP's unless told.
        std: of the pixels per channel.
        dim: width of the shared space.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.4.
        https://arxiv.org/abs/2103.00020
    """

    takes = "image"

    def __init__(
        self,
        image_size: Count = 224,
        patch_size: Count = 32,
        width: Count = 768,
        layers: Count = 12,
        heads: Count = 12,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        pool: Literal["tok", "avg"] = "tok",
        ln_pre: bool = True,
        activation: Activation = "gelu",
        patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        crop: tuple[float, float] = (0.9, 1.0),
        shift: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        mean: Colour = CLIP_MEAN,
        std: Colour = CLIP_STD,
        *,
        dim: int,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise MmclError(f"image_size {image_size} is no multiple of patch_size {patch_size}.")
        if not 0 < crop[0] <= crop[1] <= 1:
            raise MmclError(f"crop {list(crop)} is no pair of shares from 0 to 1, the smaller one first.")
        self.image_size, self.crop, self.shift = image_size, crop, shift
        self.transformer = VisionTransformer(
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            layers=layers,
            heads=heads,
            mlp_ratio=mlp_ratio,
            pool_type=pool,
            no_ln_pre=not ln_pre,
            act_layer=ACTIVATIONS[activation],
            patch_dropout=patch_dropout,
            output_dim=dim,
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def transform(self, train: bool) -> "ImageTransform":
        """Crop and resize."""
        if train:
            return ImageTransform(self.image_size, crop=self.crop, shift=self.shift)
        return ImageTransform(self.image_size)

    def forward(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Vectors of pictures."""
        return self.transformer((rows / 255 - self.mean) / self.std)


class ImageTransform:
    """A picture of any size to a square.

    Args:
        size: side of the square.
        crop: random crops for training; None cuts out the middle.
        shift: random shifts for training.
    """

    def __init__(self, size: int, crop: tuple[float, float] | None = None, shift: float = 0.0) -> None:
        self.size, self.shift = size, shift
        self.crop = None if crop == (1.0, 1.0) else crop
        self.draws = bool(self.crop or shift)

    def __call__(self, value: UInt8[Tensor, "3 height width"], draw: Draw) -> UInt8[Tensor, "3 size size"]:
        """One square."""
        rng = draw() if self.draws else None
        if rng is not None and self.crop is not None:
            value = _random_crop(value, self.crop, rng)
        if value.shape[1:] != (self.size, self.size):
            value = _resize(value, self.size)
        return _shift(value, self.shift, rng) if rng is not None and self.shift else value

    def collate(self, rows: list[Tensor]) -> UInt8[Tensor, "batch 3 size size"]:
        """Squares to one tensor."""
        return torch.stack(rows)


def _resize(value: Tensor, size: int) -> Tensor:
    """Shorter side to ``size``, then the middle, as open_clip does for evaluation."""
    height, width = value.shape[1:]
    scale = size / min(height, width)
    target = [max(size, round(height * scale)), max(size, round(width * scale))]
    value = TF.resize(value, target, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return TF.center_crop(value, [size, size])


def _random_crop(value: Tensor, area: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A crop of a share of the area and of an aspect ratio between 3/4 and 4/3, as torchvision draws it."""
    height, width = value.shape[1:]
    for _ in range(10):
        share = rng.uniform(*area) * height * width
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((share * ratio) ** 0.5), round((share / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return value[:, top : top + h, left : left + w]
    return value


def _shift(value: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Move a picture by whole pixels; its edge fills the gap."""
    most = round(share * value.shape[-1])
    down, right = (int(x) for x in rng.integers(-most, most + 1, size=2))
    padded = F.pad(value[None].float(), (most, most, most, most), mode="replicate")[0].to(value.dtype)
    height, width = value.shape[1:]
    return padded[:, most - down : most - down + height, most - right : most - right + width]
