"""open_clip's vision transformer."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Literal

from jaxtyping import Float, UInt8
from open_clip.model import resize_pos_embed
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.media import ImageTransform, Normalize
from mmcl.towers.activations import ACTIVATIONS, Activation
from mmcl.towers.base import TOWERS, Backbone

Count = Annotated[int, Field(ge=1)]
Colour = tuple[float, float, float]
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)


@TOWERS.register("vit")
class Vit(Backbone):
    """A vision transformer of open_clip's own class.

    Use when: images; small widths for small data, ``ViT-B-32`` is width 768, 12 layers, 12 heads, patch 32.
    Expects: uint8 pictures of any size. In training a part of the picture is cut out (``crop``) and resized to
        ``image_size``; otherwise the shorter side is resized and the middle cut out. The towers normalise themselves.
    Returns: (batch, features) vectors, not normalised.

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
        exact_decode: decode JPEGs as in evaluation also in training, where less would do (see `ImageTransform`).
        mean: of the pixels per channel, in [0, 1]; CLIP's unless told.
        std: of the pixels per channel.
        dim: width that the transformer's own projection makes; None leaves the projection out.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.4.
        https://arxiv.org/abs/2103.00020
    """

    takes = "image"
    patchy = True

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
        exact_decode: bool = False,
        mean: Colour = CLIP_MEAN,
        std: Colour = CLIP_STD,
        *,
        dim: int | None,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise MmclError(f"image_size {image_size} is no multiple of patch_size {patch_size}.")
        if not 0 < crop[0] <= crop[1] <= 1:
            raise MmclError(f"crop {list(crop)} is no pair of shares from 0 to 1, the smaller one first.")
        self.image_size, self.crop, self.shift, self.exact_decode = image_size, crop, shift, exact_decode
        self.patch_dropout = patch_dropout
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
            output_dim=dim or width,
            output_tokens=True,
        )
        if dim is None:
            self.transformer.proj = None
        self.width = dim or width
        self.normalize = Normalize(mean, std)

    @property
    def varies(self) -> bool:
        """Whether anything is drawn in training."""
        return self.draws or bool(self.patch_dropout)

    @property
    def draws(self) -> bool:
        """Whether the transform draws."""
        return tuple(self.crop) != (1, 1) or bool(self.shift)

    def transform(self, train: bool) -> ImageTransform:
        """Crop and resize."""
        if train:
            return ImageTransform(self.image_size, crop=self.crop, shift=self.shift, exact=self.exact_decode)
        return ImageTransform(self.image_size)

    def forward(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Vectors of pictures."""
        return self.transformer(self.normalize(rows))[0]

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of an open_clip CLIP (``visual.``), or of its vision transformer alone."""
        if any(name.startswith("visual.") for name in state):
            state = {_inner(name, "visual."): t for name, t in state.items()}
        elif "conv1.weight" in state:
            state = {f"transformer.{name}": t for name, t in state.items()}
        return _at_grid(dict(state), self.transformer)

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        self.transformer.set_grad_checkpointing(True)

    def patches(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns features"]:
        """What the transformer makes of each patch, projected as the whole is; in evaluation only."""
        tokens = self.transformer(self.normalize(rows))[1]
        projected = tokens if self.transformer.proj is None else tokens @ self.transformer.proj
        return projected.unflatten(1, self.transformer.grid_size)


def _inner(name: str, outer: str) -> str:
    """The name here of what lies in a CLIP under another one; other names stay."""
    return f"transformer.{name.removeprefix(outer)}" if name.startswith(outer) else name


def _at_grid(state: dict[str, Tensor], transformer: VisionTransformer) -> dict[str, Tensor]:
    """Positions interpolated to the transformer's grid, as open_clip does it."""
    name, theirs = "transformer.positional_embedding", "visual.positional_embedding"
    if name in state:
        moved = {theirs: state[name]}
        resize_pos_embed(moved, SimpleNamespace(visual=transformer))
        state[name] = moved[theirs]
    return state
