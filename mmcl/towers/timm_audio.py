"""Models of timm over spectrograms, seen as pictures of one channel."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import timm
from jaxtyping import Float
from timm.models import adapt_input_conv
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import MmclError
from mmcl.media import MELS, MelPart
from mmcl.towers import timm_image
from mmcl.towers.base import TOWERS
from mmcl.towers.dropout import dropout_in
from mmcl.towers.folders import timm_model
from mmcl.towers.hearing import Count, Cut, Hearing, Seconds, Share

SIDE = 32  # what pictures' sides are multiples of, so that patches and halved grids fit


@TOWERS.register("timm_audio")
class TimmAudio(Hearing):
    """A model of timm that takes pictures of any size (ViT, DeiT, EVA, Swin, ...) over a log-mel spectrogram.

    The picture has a band a row and a frame a column, up to the next multiple of 32, and one channel. Weights made for
    pictures are adapted as timm does it: channels are added up, positions resized. So are those of a vision transformer
    of open_clip (``model: vit_base_patch32_clip_224``).

    Use when: sounds, and weights of pictures are a good beginning, as AST's was; or an architecture that timm knows.
    Expects: sounds of any rate and length.
    Returns: (batch, features) vectors, not normalised: what timm's classifier would see.

    Args:
        model: name in timm, ``local-dir:`` and a folder, or ``hf-hub:`` and a name on the hub.
        mel: log-mel spectrogram: a preset (`MELS`), or what is different from one.
        seconds: that it hears.
        short: what follows a shorter sound: silence (``pad``), itself again and again (``repeat``), or itself as often
            as it fits and then silence (``repeat_pad``).
        token_dropout: share of the patches that is left out in training, of models that have patches.
        crop: which stretch of a longer sound training hears; evaluation hears the middle.
        windows: in evaluation, stretches spread over a longer sound whose vectors are averaged.

    Reference:
        Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021. https://arxiv.org/abs/2104.01778
        Wightman, "PyTorch Image Models". https://github.com/huggingface/pytorch-image-models
    """

    named = True

    def __init__(
        self,
        model: timm_model,
        mel: MelPart = MELS["ast"],
        seconds: Seconds = 10.0,
        short: Literal["pad", "repeat", "repeat_pad"] = "repeat_pad",
        token_dropout: Share = 0.0,
        crop: Cut = "random",
        windows: Count = 1,
    ) -> None:
        super().__init__(mel, seconds, crop, windows, short)
        self.name = model
        bands, columns = (math.ceil(side / SIDE) * SIDE for side in (mel.mels, self.frames))
        if bands != mel.mels:
            raise MmclError(f"mel: {mel.mels} bands are no multiple of {SIDE}; take {bands}.")
        self.columns = columns
        self.settings = {"in_chans": 1, "img_size": (bands, columns), "num_classes": 0}
        if token_dropout:
            self.settings["patch_drop_rate"] = token_dropout
        self.model = self._made(model, pretrained=False)
        self.drops = bool(token_dropout) or dropout_in(self.model)
        self.width: int = timm_image.features(self.model)

    @property
    def varies(self) -> bool:
        """Whether anything is drawn in training."""
        return super().varies or self.drops

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        timm_image.recompute_(self.model, self.name)

    def pretrained(self, tag: str | None) -> dict[str, Tensor]:
        """Weights of timm for pictures, adapted."""
        name = f"{self.name.partition('.')[0]}.{tag}" if tag else self.name
        try:
            whole = self._made(name, pretrained=True)
        except MmclError:
            raise
        except Exception as error:  # of the hub, the net, the disk
            raise MmclError(f"timm's weights of {name} cannot be had: {error}") from None
        return {f"model.{key}": t for key, t in whole.state_dict().items()}

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Own names from timm's, and from open_clip's of a vision transformer; channels added up, positions resized."""
        own = self.model.state_dict()
        bare = {key.removeprefix("model.").removeprefix("visual.trunk."): t for key, t in state.items()}
        bare = self._of_one_channel(timm_image.fitting(self._of_one_channel(bare), self.model))
        return {f"model.{key}" if key in own else key: t for key, t in bare.items()}

    def heard(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch features"]:
        """Vectors of sounds that fill their rows."""
        silence = max(self.logmel.mel.samples(self.columns) - waves.shape[1], 0)
        return self.model(self.logmel(F.pad(waves, (0, silence)))[:, : self.columns].mT[:, None])

    def _of_one_channel(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        first = self.model.pretrained_cfg.get("first_conv")
        for key in [first] if isinstance(first, str) else first or []:
            weight = state.get(f"{key}.weight")
            if weight is not None and weight.ndim == 4 and weight.shape[1] > 1:
                state[f"{key}.weight"] = adapt_input_conv(1, weight)
        return state

    def _made(self, name: str, pretrained: bool) -> Any:
        timm_image.check_name(name)
        try:
            return timm.create_model(name, pretrained=pretrained, **self.settings)
        except (TypeError, AssertionError) as error:
            raise MmclError(f"timm's {name} cannot be built with {self.settings}: {error}") from None
