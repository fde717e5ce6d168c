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
from mmcl.towers.activations import ACTIVATIONS, Activation
from mmcl.towers.base import TOWERS
from mmcl.towers.clip_names import of_transformers, packed
from mmcl.towers.pictures import CLIP_MEAN, CLIP_STD, Colour, Count, ImageBackbone, Preprocessing, Share


@TOWERS.register("vit")
class Vit(ImageBackbone):
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
        pool: class token (``tok``), mean over the patches (``avg``), or a learned query that looks at all of them
            (``attention``, as in CoCa; there are no `patches` then).
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

    def __init__(
        self,
        image_size: Count = 224,
        patch_size: Count = 32,
        width: Count = 768,
        layers: Count = 12,
        heads: Count = 12,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        pool: Literal["tok", "avg", "attention"] = "tok",
        ln_pre: bool = True,
        activation: Activation = "gelu",
        patch_dropout: Share = 0.0,
        crop: tuple[float, float] = (0.9, 1.0),
        shift: Share = 0.0,
        exact_decode: bool = False,
        mean: Colour = CLIP_MEAN,
        std: Colour = CLIP_STD,
        *,
        dim: int | None,
    ) -> None:
        super().__init__(Preprocessing(image_size, mean, std), crop, shift, exact_decode)
        if image_size % patch_size:
            raise MmclError(f"image_size {image_size} is no multiple of patch_size {patch_size}.")
        self.drops, self.patchy = bool(patch_dropout), pool != "attention"
        self.transformer = VisionTransformer(
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            layers=layers,
            heads=heads,
            mlp_ratio=mlp_ratio,
            pool_type="tok" if pool == "attention" else pool,
            attentional_pool=pool == "attention",
            attn_pooler_queries=1,
            attn_pooler_heads=heads,
            no_ln_pre=not ln_pre,
            act_layer=ACTIVATIONS[activation],
            patch_dropout=patch_dropout,
            output_dim=dim or width,
            output_tokens=True,
        )
        if dim is None:
            self.transformer.proj = None
        self.width = dim or width

    def forward(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Vectors of pictures."""
        return self.transformer(self.normalize(rows))[0]

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of an open_clip CLIP (``visual.``), its vision transformer alone, or a CLIP of transformers."""
        state = packed(state) if of_transformers(state) else state
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
