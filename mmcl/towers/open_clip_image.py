"""The vision side of any model of open_clip, by its name."""

from collections.abc import Mapping
from typing import Any

import open_clip
from jaxtyping import Float, UInt8
from open_clip.convert import convert_state_dict
from open_clip.model import resize_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import VisionTransformer
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from mmcl.errors import MmclError, did_you_mean
from mmcl.media import Fit
from mmcl.media.fit import Resize
from mmcl.media.image import Interpolation
from mmcl.towers import timm_image
from mmcl.towers.base import TOWERS
from mmcl.towers.open_clip_models import configuration, open_clip_model, with_weights
from mmcl.towers.pictures import Colour, Count, ImageBackbone, Preprocessing, Share, interpolation, square

NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


@TOWERS.register("open_clip_image")
class OpenClipImage(ImageBackbone):
    """The vision side of a model of open_clip: its transformers, ResNets and trunks of timm.

    Use when: images, and a model that open_clip has weights of, or whose sizes are to be those of the literature.
    Expects: uint8 pictures of any size, which are prepared as open_clip does it for this model. In training a part of
        the picture is cut out (``crop``) and resized.
    Returns: (batch, features) vectors, not normalised.

    Args:
        model: name in open_clip (``ViT-B-32``), a folder, the JSON file of a configuration, or ``hf-hub:`` and a name
            on the hub.
        tag: name of weights of open_clip whose preprocessing is taken; needed only where the weights of a model differ
            in it.
        quick_gelu: OpenAI's approximation in the MLPs, which weights of OpenAI, MetaCLIP and DFN expect; as the
            configuration has it unless told.
        image_size: side of the square that it sees, in pixels; the model's own unless told.
        patch_dropout: share of the patches that is left out in training; the configuration's unless told.
        crop: smallest and largest share of the picture's area that training cuts out; [1, 1] shows the whole picture.
        shift: in training the whole picture is moved by up to this share of its side, in whole pixels.
        exact_decode: decode JPEGs as in evaluation also in training, where less would do (see `ImageTransform`).
        mean: of the pixels per channel, in [0, 1]; the model's own unless told, as what follows.
        std: of the pixels per channel.
        resize: which side of a whole picture becomes the square's.
        interpolation: how pictures are resized.
        dim: width that the model's own projection makes; None leaves the projection out, if it is not one with the
            pooling (ResNets).

    Reference:
        Cherti et al., "Reproducible Scaling Laws for Contrastive Language-Image Learning", CVPR 2023.
        https://arxiv.org/abs/2212.07143
    """

    named = True

    def __init__(
        self,
        model: open_clip_model,
        tag: str | None = None,
        quick_gelu: bool | None = None,
        image_size: Count | None = None,
        patch_dropout: Share | None = None,
        crop: tuple[float, float] = (0.9, 1.0),
        shift: Share = 0.0,
        exact_decode: bool = False,
        mean: Colour | None = None,
        std: Colour | None = None,
        resize: Resize | None = None,
        interpolation: Interpolation | None = None,
        *,
        dim: int | None,
    ) -> None:
        config, said = configuration(model)
        size = image_size or square(config["vision_cfg"].get("image_size", 224), model)
        told = {"mean": mean, "std": std, "resize": resize}
        preprocessing = described(model, tag, said, size, {k for k, v in told.items() if v is not None})
        super().__init__(preprocessing.but(None, mean, std, resize, interpolation), crop, shift, exact_decode)
        self.name, self.forced_size = model, image_size
        self.quick_gelu = bool(config.get("quick_gelu")) if quick_gelu is None else quick_gelu
        self.visual = visual(config, size, patch_dropout, self.quick_gelu, dim)
        dropped = getattr(self.visual, "patch_dropout", None)
        self.drops = bool(getattr(dropped, "prob", 0) or config["vision_cfg"].get("timm_drop_path") or patch_dropout)
        self.patchy = isinstance(self.visual, VisionTransformer) and not (
            self.visual.attn_pool or self.visual.final_ln_after_pool
        )
        self.width = dim or config["embed_dim"]
        if dim is None:
            self.width = without_projection_(self.visual, self.width)
        elif isinstance(self.visual, TimmModel) and not len(self.visual.head) and not self.visual.trunk.num_classes:
            self.width = timm_image.features(self.visual.trunk)  # a trunk whose own vectors are the embedding (SigLIP)
        self.projects = dim in (None, self.width)

    def pretrained(self, tag: str | None) -> dict[str, Tensor]:
        """Weights of open_clip, of the vision side."""
        whole = with_weights(self.name, tag, self.quick_gelu, self.forced_size)
        visual = whole.visual
        assert isinstance(visual, nn.Module)
        return {f"visual.{key}": t for key, t in visual.state_dict().items()}

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Own names from those of whole models, of vision sides alone, and of MobileCLIP."""
        translated = dict(convert_state_dict(self, dict(state)))  # type: ignore[arg-type]
        own = {key.removeprefix("visual.") for key in self.state_dict()}
        if not any(key.startswith("visual.") for key in translated):
            translated = {f"visual.{key}" if key in own else key: t for key, t in translated.items()}
        if isinstance(self.visual, TimmModel):
            prefix = "visual.trunk."
            trunk = {k.removeprefix(prefix): translated.pop(k) for k in [*translated] if k.startswith(prefix)}
            trunk = timm_image.fitting(trunk, self.visual.trunk)
            return {**translated, **{f"{prefix}{key}": t for key, t in trunk.items()}}
        place = "visual.attnpool.positional_embedding"
        if isinstance(self.visual, ModifiedResNet) and place in translated:
            side = self.visual.image_size // 32
            translated[place] = resample_abs_pos_embed(translated[place][None], [side, side])[0]
        resize_pos_embed(translated, self)
        return translated

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        if isinstance(self.visual, TimmModel):
            timm_image.recompute_(self.visual.trunk, self.name)
        elif isinstance(self.visual, VisionTransformer):
            self.visual.set_grad_checkpointing(True)
        else:
            raise MmclError(f"gradient_checkpointing: open_clip cannot compute the activations of {self.name} again.")

    def forward(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Vectors of pictures."""
        vectors = self.visual(self.normalize(rows))
        return vectors[0] if isinstance(vectors, tuple) else vectors

    def patches(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns features"]:
        """What the transformer makes of each patch, projected as the whole is; in evaluation only."""
        assert isinstance(self.visual, VisionTransformer)
        tokens = self.visual(self.normalize(rows))[1]
        projected = tokens if self.visual.proj is None else tokens @ self.visual.proj
        return projected.unflatten(1, self.visual.grid_size)


def described(model: str, tag: str | None, said: dict[str, Any], size: int, told: set[str]) -> Preprocessing:
    """What open_clip says of the pictures that a model, or certain weights of it, expect.

    Raises:
        MmclError: there are no such weights, or they differ and none are named.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag is not None and not open_clip.is_pretrained_cfg(model, tag):
        raise MmclError(f"tag: open_clip has no weights {tag!r} of {model}{did_you_mean(tag, tags)}")
    found: list[dict[str, Any]] = []
    for one in [said] if not tags else tags if tag is None else [tag]:
        known = one if isinstance(one, dict) else open_clip.get_pretrained_cfg(model, one)
        merged = merge_preprocess_dict(PreprocessCfg(), known)
        merged = {k: tuple(v) if isinstance(v, list) else v for k, v in merged.items() if k != "size"}
        if merged not in found:
            found.append(merged)
    differ = [key for key in found[0] if any(one[key] != found[0][key] for one in found)]
    if not {key.removesuffix("_mode") for key in differ} <= told:
        raise MmclError(
            f"weights of {model} in open_clip differ in {' and '.join(differ)} of pictures. Say tag: (one of "
            f"{', '.join(tags)}), those whose preprocessing you want."
        )
    one = found[0]
    fit = Fit(one["resize_mode"], interpolation(one["interpolation"], model), fill=(one["fill_color"],) * 3)
    return Preprocessing(size, one["mean"], one["std"], fit)


def visual(config: dict[str, Any], size: int, patch_dropout: float | None, quick_gelu: bool, dim: int | None) -> Any:
    """The vision side, with random weights."""
    vision = {**config["vision_cfg"], "image_size": size, "output_tokens": True, "timm_model_pretrained": False}
    if patch_dropout is not None:
        vision["patch_dropout"] = patch_dropout
    if isinstance(vision.get("layers"), list) and vision.get("patch_dropout"):
        raise MmclError("patch_dropout: a ResNet has no patches.")
    try:
        built = open_clip.CustomTextCLIP(dim or config["embed_dim"], vision, NO_TEXT, quick_gelu).visual  # type: ignore[arg-type]
    except (TypeError, AssertionError, RuntimeError) as error:
        raise MmclError(f"open_clip cannot build {vision}: {error}") from None
    if isinstance(built, TimmModel) and size != config["vision_cfg"].get("image_size", 224):
        built.set_input_size(size)
    return built


def without_projection_(visual: Any, width: int) -> int:
    """Take the projection away; the width that is left."""
    if isinstance(visual, VisionTransformer):
        visual.proj = None
        return width if visual.attn_pool else visual.transformer.width
    if not isinstance(visual, TimmModel) or hasattr(visual.head, "pool"):
        return width
    visual.head = nn.Sequential()
    trunk: Any = visual.trunk
    if trunk.num_classes:
        trunk.reset_classifier(0)
    return timm_image.features(trunk)
