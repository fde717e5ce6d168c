"""Audio encoders of transformers: CLAP's HTSAT, AST, Whisper's encoder."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mmcl.errors import MmclError
from mmcl.towers.base import TOWERS
from mmcl.towers.dropout import dropout_in
from mmcl.towers.extractors import AST, CLAP, WHISPER, extraction_of
from mmcl.towers.folders import model_folder
from mmcl.towers.hearing import Count, Cut, Hearing, Seconds
from mmcl.towers.pooling import masked_mean
from mmcl.towers.transformers_models import configuration, quietly, read, recompute_

BEFORE = {
    CLAP: ("", "audio_model.", "model.audio_model."),
    AST: ("", "audio_spectrogram_transformer."),
    WHISPER: ("", "encoder.", "model.encoder."),
}
"""What stands before an encoder's names in models that it is a part of."""


@TOWERS.register("transformers_audio")
class TransformersAudio(Hearing):
    """An audio encoder of transformers: HTSAT of a CLAP, AST, or the encoder of a Whisper.

    HTSAT normalises over the batch (`BatchNorm`): in training its vectors depend on their company, and with gradient
    caching on the part of the batch they are in; frozen they do not. Where it fuses long sounds the library looks up
    which they are, for which the device waits, and a batch without any gives the fusing weights no gradient.

    Use when: a model that lies in a folder, or on the hub, in transformers' format.
    Expects: sounds of any rate and length, which are prepared as the model's feature extractor does it. Of longer ones
        AST and Whisper hear the beginning in evaluation, as there, and CLAP the middle, or all where it fuses
        (its extractor draws a stretch each time).
    Returns: (batch, features) vectors, not normalised.

    Args:
        model: folder, or name on the hub.
        pool: what the model itself calls a sound's vector (``own``: CLAP's mean, projected unless a head follows;
            AST's two class tokens), or the mean over AST's patches or all of Whisper's frames. Whisper's ``own`` is the
            mean over the frames that hold sound.
        crop: which stretch of a longer sound training hears.
        windows: in evaluation, stretches spread over a longer sound whose vectors are averaged.
        longest: seconds that a CLAP that fuses hears of a sound, 30 unless told: all of it shrunk, and the first,
            middle and last stretch as long as it was trained on.
        dim: width that CLAP's own projection makes; None leaves it out.

    Reference:
        Wu et al., "Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption
        Augmentation", ICASSP 2023. https://arxiv.org/abs/2211.06687
        Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021. https://arxiv.org/abs/2104.01778
        Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023.
        https://arxiv.org/abs/2212.04356
    """

    named = True

    def __init__(
        self,
        model: model_folder,
        pool: Literal["own", "mean"] = "own",
        crop: Cut = "random",
        windows: Count = 1,
        longest: Seconds | None = None,
        *,
        dim: int | None,
    ) -> None:
        config = of_audio(model)
        kind: str = config.model_type
        fuses = kind == CLAP and config.enable_fusion
        mel, seconds, short = extraction_of(model, config)
        if pool == "mean" and kind == CLAP:
            raise MmclError("pool: mean: CLAP's own vector is a mean; leave it out.")
        if not fuses and longest is not None:
            raise MmclError(f"longest: {model} does not fuse long sounds; take windows.")
        if fuses and windows > 1:
            raise MmclError(f"windows: {model} fuses long sounds itself; take longest.")
        heard = max(longest or 30.0, seconds) if fuses else seconds
        super().__init__(mel, heard, crop, windows, "mask" if fuses else short)
        self.name, self.kind, self.pool, self.fuses, self.filled = model, kind, pool, fuses, short
        self.samples = round(seconds * mel.rate)
        self.middle = "middle" if kind == CLAP else "start"
        self.projects = kind == CLAP
        if kind == CLAP:
            config.projection_dim = dim or config.projection_dim
            cls = transformers.ClapAudioModel if dim is None else transformers.ClapAudioModelWithProjection
        else:
            cls = {AST: transformers.ASTModel, WHISPER: WhisperEncoder}[kind]
        self.model = cls(config)
        self.width = config.d_model if kind == WHISPER else config.hidden_size
        if kind == CLAP and dim is not None:
            self.width = dim

    @property
    def varies(self) -> bool:
        """Whether anything is drawn in training."""
        return super().varies or dropout_in(self.model)

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        recompute_(self.model, self.name)

    def pretrained(self, tag: str | None) -> dict[str, Tensor]:
        """Weights from the model's folder or the hub; ``tag`` is a revision there."""
        architectures = configuration(self.name).architectures or [""]
        saved = getattr(transformers, architectures[0], transformers.AutoModel)
        whole, report = read(saved, self.name, revision=tag or "main")
        if report["missing_keys"]:
            raise MmclError(f"{self.name} has no weights for {', '.join(sorted(report['missing_keys']))}.")
        return {key: t for key, t in self.translated(whole.state_dict()).items() if key in self.state_dict()}

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Own names from those of whole models, and of models with a classifier or a decoder."""
        own = self.model.state_dict()
        prefix = max(BEFORE[self.kind], key=lambda before: sum(f"{before}{key}" in state for key in own))
        cut = {key.removeprefix(prefix) if key.startswith(prefix) else key: t for key, t in state.items()}
        if self.kind == AST and not set(own) <= set(cut) and f"model.{next(iter(own))}" not in cut:
            cut |= self._renamed(cut)
        return {f"model.{key}" if key in own else key: t for key, t in cut.items()}

    def _renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the library finds of this model in weights of its former names."""
        cls: Any = type(self.model)
        with quietly():
            loaded, report = cls.from_pretrained(
                None, config=self.model.config, state_dict=dict(state), output_loading_info=True, dtype=torch.float32
            )
        return {key: t for key, t in loaded.state_dict().items() if key not in report["missing_keys"]}

    def heard(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch features"]:
        """Vectors of stretches."""
        if self.kind == CLAP:
            return self._of_clap(waves)
        waves = F.pad(waves, (0, self.samples - waves.shape[1]), value=torch.nan)
        if self.kind == AST:
            made = self.model(input_values=self.logmel.masked(waves)[0])
            return made.pooler_output if self.pool == "own" else made.last_hidden_state[:, 2:].mean(1)
        hidden = self.model(input_features=self.logmel(waves.nan_to_num(0.0)).mT).last_hidden_state
        if self.pool == "mean":
            return hidden.mean(1)
        return masked_mean(hidden, ~waves[:, :: 2 * self.logmel.mel.hop].isnan())

    def _of_clap(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch features"]:
        pictures, longer = self.fused(waves) if self.fuses else (self.logmel(waves)[:, None], None)
        made: Any = self.model(input_features=pictures, is_longer=longer)
        return made.pooler_output if isinstance(self.model, transformers.ClapAudioModel) else made.audio_embeds

    def fused(
        self, waves: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, "batch 4 time mels"], Bool[Tensor, "batch 1"]]:
        """CLAP's four spectrograms of each sound, and which sounds are longer than it hears at once.

        Of a longer one: all of it, shrunk, and its first, middle and last stretch. Of others the same one four times.
        """
        waves = F.pad(waves, (0, max(self.samples - waves.shape[1], 0)), value=torch.nan)
        counts = (~waves.isnan()).sum(1)
        mel = self.logmel.mel
        frames = mel.frames(self.samples)
        whole, there = self.logmel.masked(waves)
        total = there.sum(1)
        spare = (total - frames).clamp(min=0)
        steps = torch.arange(frames, device=waves.device)
        stretches = [
            whole.take_along_dim((start[:, None] + steps)[..., None], 1) for start in (0 * spare, spare // 2, spare)
        ]
        long = torch.stack([shrunk(whole, total, frames), *stretches], dim=1)
        short = self.logmel(filled(waves[:, : self.samples], counts, self.filled))
        over, longer = counts > self.samples, total > frames
        single = torch.where(over[:, None, None], stretches[0], short)
        return torch.where(longer[:, None, None, None], long, single[:, None]), longer[:, None]


def shrunk(whole: Float[Tensor, "batch time mels"], total: Tensor, frames: int) -> Float[Tensor, "batch frames mels"]:
    """The first ``total`` frames of each spectrogram at another number of frames, linearly."""
    steps = torch.arange(frames, device=whole.device)
    places = ((steps + 0.5) * (total[:, None] / frames) - 0.5).clamp(min=0)
    before = places.long()
    after = torch.minimum(before + 1, total[:, None] - 1)
    share = (places - before)[..., None].to(whole.dtype)
    first, second = (whole.take_along_dim(index[..., None].clamp(min=0), 1) for index in (before, after))
    return first * (1 - share) + second * share


def filled(waves: Float[Tensor, "batch samples"], counts: Tensor, how: str) -> Float[Tensor, "batch samples"]:
    """Rows whose sounds end in NaN, repeated and filled up with silence as `AudioTransform` does."""
    if how == "pad":
        return waves.nan_to_num(0.0)
    counts = counts.clamp(1, waves.shape[1])[:, None]
    steps = torch.arange(waves.shape[1], device=waves.device)
    repeated = waves.gather(1, steps % counts)
    if how == "repeat_pad":
        repeated = repeated.masked_fill(steps >= waves.shape[1] // counts * counts, 0.0)
    return repeated.nan_to_num(0.0)


def of_audio(model: str) -> Any:
    """The configuration of a model's audio encoder.

    Raises:
        MmclError: it is none that is known here.
    """
    config = configuration(model, "audio")
    if config.model_type not in BEFORE:
        raise MmclError(f"model: {model} is a {config.model_type}; known are {', '.join(BEFORE)}, and a whole clap.")
    return config
