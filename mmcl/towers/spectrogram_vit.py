"""timm's vision transformer over the patches of a spectrogram."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmcl.errors import MmclError
from mmcl.media import MELS, MelPart
from mmcl.towers.base import TOWERS
from mmcl.towers.hearing import Count, Cut, Hearing, Seconds, Share
from mmcl.towers.pooling import masked_mean


@TOWERS.register("spectrogram_vit")
class SpectrogramVit(Hearing):
    """A vision transformer of timm's own class over patches of a log-mel spectrogram, averaged over those of the sound.

    Sounds may be of any length up to ``seconds``: a batch is as long as its longest, and nothing attends to what
    follows a shorter one.

    Use when: sounds, and weights are trained from scratch; small widths for small data. AST's shape is width 768, 12
        layers, 12 heads, ``mel: ast``.
    Expects: sounds of any rate and length.
    Returns: (batch, width) vectors, not normalised.

    Args:
        mel: log-mel spectrogram: a preset (`MELS`), or what is different from one.
        seconds: longest stretch that is heard.
        patch: bands and frames of a patch.
        width: of the residual stream.
        layers: number of blocks.
        heads: of attention; divide the width.
        mlp_ratio: hidden width of a block's MLP, over the width.
        token_dropout: share of a sound's patches that is left out in training.
        spec_augment: longest stretch of the time and of the bands that training blanks out, as shares; one of each is
            drawn for every sound.
        crop: which stretch of a longer sound training hears; evaluation hears the middle.
        windows: in evaluation, stretches spread over a longer sound whose vectors are averaged.

    Reference:
        Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021. https://arxiv.org/abs/2104.01778
        Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", Interspeech
        2019. https://arxiv.org/abs/1904.08779
    """

    def __init__(
        self,
        mel: MelPart = MELS["plain"],
        seconds: Seconds = 10.0,
        patch: tuple[Count, Count] = (16, 16),
        width: Count = 384,
        layers: Count = 12,
        heads: Count = 6,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        token_dropout: Share = 0.0,
        spec_augment: tuple[Share, Share] = (0.0, 0.0),
        crop: Cut = "random",
        windows: Count = 1,
    ) -> None:
        super().__init__(mel, seconds, crop, windows, "mask", patch[1])
        if mel.mels % patch[0]:
            raise MmclError(f"patch: {mel.mels} bands are no multiple of {patch[0]}.")
        if width % heads:
            raise MmclError(f"heads: {heads} do not divide the width {width}.")
        self.patch, self.width = patch, width
        self.token_dropout, self.spec_augment = token_dropout, spec_augment
        self.transformer = VisionTransformer(
            img_size=(mel.mels, math.ceil(self.frames / patch[1]) * patch[1]),
            patch_size=patch,
            in_chans=1,
            num_classes=0,
            global_pool="avg",
            class_token=False,
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
        )
        self.recomputes = False

    @property
    def varies(self) -> bool:
        """Whether anything is drawn in training."""
        return super().varies or bool(self.token_dropout) or any(self.spec_augment)

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Own names from those of a timm model over spectrograms as well; positions resized to another longest time."""
        own = self.state_dict()
        found = {f"transformer.{key}" if f"transformer.{key}" in own else key: t for key, t in state.items()}
        key = "transformer.pos_embed"
        bands, columns = self.transformer.patch_embed.grid_size
        if key in found and found[key].shape != own[key].shape and found[key].shape[1] % bands == 0:
            grid = found[key].unflatten(1, (bands, -1)).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, (bands, columns), mode="bilinear", align_corners=False)
            found[key] = grid.permute(0, 2, 3, 1).flatten(1, 2)
        return found

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        self.recomputes = True

    def heard(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch features"]:
        """Vectors of sounds that NaN follows."""
        mel, (_, long) = self.logmel.mel, self.patch
        frames = math.ceil(max(mel.frames(waves.shape[1]), 1) / long) * long  # of whole patches
        mels, there = self.logmel.masked(F.pad(waves, (0, mel.samples(frames) - waves.shape[1]), value=torch.nan))
        if self.training and any(self.spec_augment):
            mels = blanked(mels, there.sum(1), self.spec_augment)
        tokens, own = self.tokens(mels, there)
        if self.training and self.token_dropout:
            tokens, own = some(tokens, own, 1 - self.token_dropout)
        for block in self.transformer.blocks:
            if self.recomputes and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, attn_mask=own[:, None, None], use_reentrant=False)
            else:
                tokens = block(tokens, attn_mask=own[:, None, None])
        return self.transformer.fc_norm(masked_mean(tokens, own))

    def tokens(
        self, mels: Float[Tensor, "batch time mels"], there: Bool[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch patches features"], Bool[Tensor, "batch patches"]]:
        """Patches with their positions, and which of them hold sound."""
        assert self.transformer.pos_embed is not None
        x = self.transformer.patch_embed.proj(mels.mT[:, None])
        bands, columns = x.shape[2:]
        places = self.transformer.pos_embed.unflatten(1, (bands, -1))[:, :, :columns]
        own = there[:, :: self.patch[1]].clone()
        own[:, 0] = True  # a sound shorter than a frame
        return (x.permute(0, 2, 3, 1) + places).flatten(1, 2), own.repeat(1, bands)


def some(
    tokens: Float[Tensor, "batch patches features"], own: Bool[Tensor, "batch patches"], share: float
) -> tuple[Float[Tensor, "batch kept features"], Bool[Tensor, "batch kept"]]:
    """A share of each sound's own tokens, drawn on the device; at least one."""
    kept = math.ceil(tokens.shape[1] * share)
    order = torch.rand(own.shape, device=own.device).masked_fill(~own, 2.0).argsort(1)[:, :kept]
    counts = (own.sum(1, keepdim=True) * share).ceil()
    return tokens.take_along_dim(order[..., None], 1), torch.arange(kept, device=own.device) < counts


def blanked(
    mels: Float[Tensor, "batch time mels"], frames: Int[Tensor, " batch"], shares: tuple[float, float]
) -> Float[Tensor, "batch time mels"]:
    """One stretch of each sound's time and one of its bands replaced by zero, drawn on the device."""
    hidden = stretches(frames, mels.shape[1], shares[0])[:, :, None]
    hidden = hidden | stretches(torch.full_like(frames, mels.shape[2]), mels.shape[2], shares[1])[:, None]
    return mels.masked_fill(hidden, 0.0)


def stretches(whole: Int[Tensor, " batch"], size: int, share: float) -> Bool[Tensor, "batch size"]:
    """A stretch of up to a share of each whole, anywhere within it."""
    width, place = torch.rand(2, len(whole), 1, device=whole.device)
    width = width * share * whole[:, None]
    first = place * (whole[:, None] - width)
    steps = torch.arange(size, device=whole.device)
    return (steps >= first) & (steps < first + width)
