"""Any image model of timm, by its name."""

import math
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import timm
from jaxtyping import Float, UInt8
from timm.data.config import resolve_model_data_config
from timm.models import VisionTransformer
from torch import Tensor, nn

from mmcl.errors import MmclError, did_you_mean
from mmcl.media import Fit
from mmcl.media.fit import Resize
from mmcl.media.image import Interpolation
from mmcl.towers.base import TOWERS
from mmcl.towers.folders import timm_model
from mmcl.towers.pictures import Colour, Count, ImageBackbone, Preprocessing, Share, interpolation, square

Pool = Literal["avg", "max", "avgmax", "token", "map"]
RESIZES: dict[str, Resize] = {"center": "shortest", "squash": "squash", "border": "longest"}  # timm's crop_mode
SETTINGS = {"global_pool": "pool", "patch_drop_rate": "patch_dropout", "drop_path_rate": "drop_path"}
"""What timm calls an argument, and what a recipe calls it."""


@TOWERS.register("timm_image")
class TimmImage(ImageBackbone):
    """An image model of timm, without its classifier.

    Use when: images, and an encoder of another kind than CLIP's (ConvNeXt, EfficientNet, MobileNet, DINOv2, ...).
    Expects: uint8 pictures of any size, which are prepared as timm does it for this model. In training a part of the
        picture is cut out (``crop``) and resized.
    Returns: (batch, features) vectors, not normalised: what timm's classifier would see.

    Args:
        model: name in timm; with the tag of its weights the preprocessing is that of these weights
            (``vit_base_patch16_224.augreg_in21k``). Or ``local-dir:`` and a folder, ``hf-hub:`` and a name on the hub.
        pool: over places, in timm's words (``token``: the class token, ``map``: SigLIP's attention); the model's own
            unless told.
        image_size: side of the square that it sees, in pixels; the model's own unless told.
        patch_dropout: share of the patches that is left out in training, of models that have patches.
        drop_path: share of the samples for which the last block is left out in training, less for those before it.
        crop: smallest and largest share of the picture's area that training cuts out; [1, 1] shows the whole picture.
        shift: in training the whole picture is moved by up to this share of its side, in whole pixels.
        exact_decode: decode JPEGs as in evaluation also in training, where less would do (see `ImageTransform`).
        mean: of the pixels per channel, in [0, 1]; the model's own unless told, as what follows.
        std: of the pixels per channel.
        resize: which side of a whole picture becomes the square's.
        interpolation: how pictures are resized.

    Reference:
        Wightman, "PyTorch Image Models". https://github.com/huggingface/pytorch-image-models
    """

    named = True

    def __init__(
        self,
        model: timm_model,
        pool: Pool | None = None,
        image_size: Count | None = None,
        patch_dropout: Share = 0.0,
        drop_path: Share = 0.0,
        crop: tuple[float, float] = (0.9, 1.0),
        shift: Share = 0.0,
        exact_decode: bool = False,
        mean: Colour | None = None,
        std: Colour | None = None,
        resize: Resize | None = None,
        interpolation: Interpolation | None = None,
    ) -> None:
        settings = dict(zip(SETTINGS, (pool, patch_dropout, drop_path), strict=True))
        built = made(model, image_size, {key: value for key, value in settings.items() if value})
        self.own = described(built, image_size)
        super().__init__(self.own.but(None, mean, std, resize, interpolation), crop, shift, exact_decode)
        self.model, self.name, self.image_size = built, model, image_size
        self.drops = bool(patch_dropout or drop_path)
        self.patchy = isinstance(built, VisionTransformer) and built.attn_pool is None
        self.width = features(built)

    def pretrained(self, tag: str | None) -> dict[str, Tensor]:
        """Weights of timm, without the classifier's."""
        architecture, _, own_tag = self.name.partition(".")
        wanted = tag.removeprefix(f"{architecture}.") if tag else own_tag
        name = f"{architecture}.{wanted}" if wanted else architecture
        try:
            whole = made(name, self.image_size, {}, pretrained=True, num_classes=None)
        except MmclError:
            raise
        except Exception as error:  # of the hub, the net, the disk
            raise MmclError(f"timm's weights of {name} cannot be had: {error}") from None
        if described(whole, self.image_size) != self.own:
            raise MmclError(
                f"timm's weights {wanted} expect pictures to be prepared otherwise than {self.name} does; write "
                f"model: {name}."
            )
        classifier = whole.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{c}." for c in ([classifier] if isinstance(classifier, str) else classifier))
        return {f"model.{key}": t for key, t in whole.state_dict().items() if not key.startswith(heads)}

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Own names from timm's, and from those of an open_clip model with this trunk."""
        inside = [prefix for prefix in ("model.", "visual.trunk.") if any(k.startswith(prefix) for k in state)]
        prefix = inside[0] if inside else ""
        others = {key: t for key, t in state.items() if not key.startswith(prefix)}
        own = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
        return {**others, **{f"model.{key}": t for key, t in fitting(own, self.model).items()}}

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        recompute_(self.model, self.name)

    def forward(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Vectors of pictures."""
        return self.model(self.normalize(rows))

    def patches(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns features"]:
        """What a vision transformer makes of each patch; in evaluation only."""
        assert isinstance(self.model, VisionTransformer)
        tokens = self.model.fc_norm(self.model.forward_features(self.normalize(rows)))
        return tokens[:, self.model.num_prefix_tokens :].unflatten(1, self.model.patch_embed.grid_size)


def made(
    model: str, size: int | None, settings: dict[str, Any], pretrained: bool = False, num_classes: int | None = 0
) -> Any:
    """A model of timm.

    Raises:
        MmclError: there is none of that name, or it has not what the settings are about.
    """
    check_name(model)
    settings = {**settings, **({} if num_classes is None else {"num_classes": num_classes})}
    create = partial(timm.create_model, model, pretrained, **settings)
    try:
        try:
            return create(**({"img_size": size} if size else {}))
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return create()  # sees pictures of any size
    except (TypeError, AssertionError, RuntimeError) as error:
        said = ", ".join(f"{SETTINGS[key]}: {value}" for key, value in settings.items() if key in SETTINGS)
        lacks = isinstance(error, TypeError)  # timm's own words name an argument of a class
        reason = "it has no such thing" if lacks and said else error
        raise MmclError(f"timm's {model} cannot be built{f' with {said}' if said else ''}: {reason}") from None


def check_name(model: str) -> None:
    """See that timm knows a model, of a name without the place where it lies.

    Raises:
        MmclError: it does not.
    """
    architecture = model.partition(".")[0]
    if ":" not in model and not timm.is_model(architecture):
        raise MmclError(
            f"timm has no model {architecture!r}{did_you_mean(architecture, timm.list_models())} "
            "All: python -c 'import timm; print(timm.list_models())'."
        )


def described(model: Any, size: int | None) -> Preprocessing:
    """What timm says of the pictures that a model expects, at a size."""
    config = resolve_model_data_config(model)
    name = model.pretrained_cfg.get("architecture", type(model).__name__)
    size = size or square(tuple(config["input_size"][1:]), name)
    mode, share = RESIZES[config["crop_mode"]], config["crop_pct"]
    red, green, blue = (round(255 * x) for x in config["mean"])
    fit = Fit(mode, interpolation(config["interpolation"], name), math.floor(size / share), fill=(red, green, blue))
    return Preprocessing(size, tuple(config["mean"]), tuple(config["std"]), fit)


def features(model: Any) -> int:
    """Width of what a model's classifier sees."""
    return getattr(model, "head_hidden_size", None) or model.num_features


def fitting(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights as a model of timm has them, by its own filter where they are others (other names, another size)."""
    own = model.state_dict()
    if all(key in state and state[key].shape == t.shape for key, t in own.items()):
        return dict(state)
    filtering = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return dict(state) if filtering is None or not state else dict(filtering(dict(state), model))


def recompute_(model: Any, name: str) -> None:
    """Keep no activations within blocks.

    Raises:
        MmclError: timm cannot compute this model's again.
    """
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise MmclError(f"gradient_checkpointing: timm cannot compute the activations of {name} again.") from None
