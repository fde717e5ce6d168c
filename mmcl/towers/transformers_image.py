"""Vision models of transformers: CLIP, SigLIP, DINOv2, ViT and whatever else takes pixels."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float, UInt8
from timm.layers.patch_dropout import PatchDropout
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.media.fit import Resize
from mmcl.media.image import Interpolation
from mmcl.towers.attention_pool import AttentionPool
from mmcl.towers.base import TOWERS
from mmcl.towers.folders import model_folder
from mmcl.towers.pictures import Colour, Count, ImageBackbone, Share
from mmcl.towers.processors import preprocessing_of
from mmcl.towers.transformers_models import configuration, quietly, read, recompute_

Pool = Literal["own", "cls", "mean", "attention"]
CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
TOKENS = {CLIP: 1, SIGLIP: 0, "vit": 1, "dinov2": 1, "dinov2_with_registers": 1}
"""Models whose patches are tokens with positions of their own; how many others stand before them, registers aside."""
FIXED = {CLIP, SIGLIP, "vit"}  # their tables of positions fit one size; DINOv2 resizes its own in every pass


@TOWERS.register("transformers_image")
class TransformersImage(ImageBackbone):
    """A vision model of transformers.

    Use when: images, and a model that lies in a folder, or on the hub, in transformers' format.
    Expects: uint8 pictures of any size, which are prepared as the model's own processor does it. In training a part of
        the picture is cut out (``crop``) and resized.
    Returns: (batch, features) vectors, not normalised.

    Args:
        model: folder, or name on the hub, of a CLIP, SigLIP, DINOv2, ViT or other vision model, or of a whole CLIP or
            SigLIP.
        pool: what the model itself calls a picture's vector (``own``: CLIP's class token, projected unless a head
            follows; SigLIP's attention head; DINOv2's and ViT's class token), the class token, the mean over the
            patches, or a learned query that looks at all tokens.
        image_size: side of the square that it sees, in pixels; its processor's unless told.
        patch_dropout: share of the patches that is left out in training.
        crop: smallest and largest share of the picture's area that training cuts out; [1, 1] shows the whole picture.
        shift: in training the whole picture is moved by up to this share of its side, in whole pixels.
        exact_decode: decode JPEGs as in evaluation also in training, where less would do (see `ImageTransform`).
        mean: of the pixels per channel, in [0, 1]; the processor's unless told, as what follows.
        std: of the pixels per channel.
        resize: which side of a whole picture becomes the square's.
        interpolation: how pictures are resized.
        dim: width that CLIP's own projection makes; None leaves it out.

    Reference:
        Wolf et al., "Transformers: State-of-the-Art Natural Language Processing", EMNLP 2020 (demonstrations).
        https://arxiv.org/abs/1910.03771
    """

    named = True

    def __init__(
        self,
        model: model_folder,
        pool: Pool = "own",
        image_size: Count | None = None,
        patch_dropout: Share = 0.0,
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
        config = of_vision(model)
        preprocessing = preprocessing_of(model, config).but(image_size, mean, std, resize, interpolation)
        super().__init__(preprocessing, crop, shift, exact_decode)
        self.name, self.pool, self.kind = model, pool, config.model_type
        self.vision = config  # peft takes a module with a `config` for a whole model of transformers
        if self.kind in FIXED:
            config.image_size = preprocessing.size
        if self.kind not in TOKENS and (pool != "own" or patch_dropout):
            raise MmclError(
                f"{model}: pool and patch_dropout are of models whose patches are tokens: {', '.join(TOKENS)}; this "
                f"is {self.kind}."
            )
        self.before = TOKENS.get(self.kind, 0) + getattr(config, "num_register_tokens", 0)
        if pool == "cls" and not TOKENS.get(self.kind):
            raise MmclError(f"pool: cls: a {self.kind} has no class token; take own, mean or attention.")
        self.model = self._made(dim)
        self.pooling = AttentionPool(config.hidden_size, config.num_attention_heads) if pool == "attention" else None
        self.drops, self.drop = bool(patch_dropout), PatchDropout(patch_dropout, num_prefix_tokens=self.before)
        if patch_dropout:
            self._inner.embeddings.register_forward_hook(self._dropped)
        projects = isinstance(self.model, transformers.CLIPVisionModelWithProjection)
        self.width = dim if projects and dim else getattr(config, "hidden_size", 0) or config.hidden_sizes[-1]
        self.projects = (projects or (self.kind == SIGLIP and pool == "own")) and dim in (None, self.width)
        self.patchy = pool == "mean" or (pool in ("own", "cls") and TOKENS.get(self.kind, 0) > 0)

    def pretrained(self, tag: str | None) -> dict[str, Tensor]:
        """Weights from the model's folder or the hub; ``tag`` is a revision there."""
        options = {"revision": tag or "main", "config": self._stored(), "ignore_mismatched_sizes": True}
        loaded, report = read(type(self.model), self.name, **options, **self._kind())
        if report["mismatched_keys"]:
            sizes = "; ".join(f"{key}: {tuple(a)}, here {tuple(b)}" for key, a, b in report["mismatched_keys"])
            raise MmclError(
                f"weights of {self.name} have other sizes ({sizes}). Where it is the projection, take the model's "
                "own width as dim, or a head."
            )
        return self._resized(self._reported(loaded, report, {}))

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Own names from all that transformers knows: whole models, vision sides, models with a classifier."""
        if set(self.state_dict()) <= set(state):
            return self._resized(state)
        with quietly():
            loaded, report = type(self.model).from_pretrained(
                None,
                config=self.vision,
                state_dict=self._resized(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **self._kind(),
            )
        return self._reported(loaded, report, state)

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        recompute_(self.model, self.name)

    def forward(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Vectors of pictures."""
        seen = self._inner(pixel_values=self.normalize(rows))
        if self.pool == "own" and getattr(seen, "pooler_output", None) is not None:
            return self._projected(seen.pooler_output.flatten(1))
        tokens = self._normed(seen.last_hidden_state)
        if self.pooling is not None:
            return self._projected(self.pooling(tokens))
        return self._projected(tokens[:, self.before :].mean(1) if self.pool == "mean" else tokens[:, 0])

    def patches(self, rows: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns features"]:
        """What the model makes of each patch, projected as the whole is; in evaluation only."""
        tokens = self._normed(self._inner(pixel_values=self.normalize(rows)).last_hidden_state)
        side = rows.shape[-1] // self.vision.patch_size
        return self._projected(tokens[:, self.before :]).unflatten(1, (side, side))

    @property
    def _inner(self) -> Any:
        """The model without its projection."""
        projects = isinstance(self.model, transformers.CLIPVisionModelWithProjection)
        return self.model.vision_model if projects else self.model

    def _made(self, dim: int | None) -> Any:
        if self.kind == CLIP and dim is not None:
            self.vision.projection_dim = dim
            return transformers.CLIPVisionModelWithProjection(self.vision)
        return transformers.AutoModel.from_config(self.vision, **self._kind())

    def _kind(self) -> dict[str, Any]:
        """In fp32, and a ViT without the layer behind its class token, which was made for another task."""
        return {"dtype": torch.float32, **({"add_pooling_layer": False} if self.kind == "vit" else {})}

    def _stored(self) -> Any:
        """The configuration of the weights as they lie there, with their own table of positions."""
        stored = of_vision(self.name)
        if hasattr(self.vision, "projection_dim"):
            stored.projection_dim = self.vision.projection_dim
        return stored

    def _normed(self, tokens: Tensor) -> Tensor:
        """CLIP normalises only its class token itself."""
        return self._inner.post_layernorm(tokens) if self.kind == CLIP else tokens

    def _projected(self, vectors: Tensor) -> Tensor:
        return vectors if self._inner is self.model else self.model.visual_projection(vectors)

    def _dropped(self, module: nn.Module, args: Any, tokens: Tensor) -> Tensor:
        return self.drop(tokens)

    def _resized(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Positions of the pictures' patches at this model's size, as the library resizes them."""
        resized = dict(state)
        if self.kind not in FIXED:
            return resized
        side = self.vision.image_size // self.vision.patch_size
        for key, table in state.items():
            if key.endswith(("embeddings.position_embedding.weight", "embeddings.position_embeddings")):
                flat = table.ndim == 2
                whole = table[None] if flat else table
                if "text_model" in key or whole.shape[1] == side * side + self.before:
                    continue
                whole = resample_abs_pos_embed(
                    whole, [side, side], num_prefix_tokens=self.before, interpolation="bicubic", antialias=False
                )
                resized[key] = whole[0] if flat else whole
        return resized

    def _reported(self, loaded: nn.Module, report: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What came from the weights and only that; what did not fit keeps its shape, what is not for us its name."""
        own = {key: t for key, t in loaded.state_dict().items() if key not in report["missing_keys"]}
        for key, *_ in report["mismatched_keys"]:
            del own[key]
            own.update((key, t) for name, t in state.items() if name.endswith(key))
        others = {key: t for key, t in state.items() if key in report["unexpected_keys"]}
        return {**others, **{f"model.{key}": t for key, t in own.items()}}


def of_vision(model: str) -> Any:
    """The configuration of a model's vision side.

    Raises:
        MmclError: it has none that mmcl can feed.
    """
    config = configuration(model, "vision")
    if config.model_type == "siglip2_vision_model":
        raise MmclError(f"model: {model} takes pictures of any shape as lists of patches, which mmcl does not make.")
    if type(config) not in transformers.MODEL_MAPPING:
        raise MmclError(f"model: transformers has no vision model for a {config.model_type} ({model}).")
    kind: Any = transformers.MODEL_MAPPING[type(config)]
    if kind.main_input_name != "pixel_values":
        raise MmclError(f"model: {model} is a {config.model_type}, which does not take pictures.")
    return config
