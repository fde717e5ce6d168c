"""Waveforms to log-mel spectrograms, whole batches on their device."""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from mmcl.errors import MmclError, did_you_mean
from mmcl.registry import Spec

Count = Annotated[int, Field(ge=1)]
Many = Annotated[int, Field(ge=2)]
CACHED = 1 << 19  # samples in frames that a CPU computes at once: more of them leave its cache
Log = Literal["dB", "log", "log10"]
LOGS: dict[Log, float] = {"dB": 10 / np.log(10), "log": 1.0, "log10": 1 / np.log(10)}  # over the natural logarithm


class Mel(Spec):
    """How a log-mel spectrogram is made. What stands here is `plain`, for towers that are trained from scratch."""

    rate: Count = 16_000
    """Samples a second."""
    n_fft: Many = 400
    """Samples of the Fourier transform; half of them are its frequencies."""
    window: Many | None = None
    """Samples of a frame, which zeros fill up to ``n_fft``; ``n_fft`` unless told."""
    hop: Count = 160
    """Samples from frame to frame."""
    mels: Count = 64
    """Bands."""
    fmin: Annotated[float, Field(ge=0)] = 0.0
    """Lowest frequency, in Hz."""
    fmax: Annotated[float, Field(gt=0)] | None = None
    """Highest frequency, in Hz; half of the rate unless told."""
    scale: Literal["slaney", "htk", "kaldi"] = "slaney"
    """Of frequencies; Slaney's also has bands of equal areas."""
    log: Log = "log10"
    """Of the power: ten times the common logarithm, the natural, or the common one."""
    floor: Annotated[float, Field(gt=0)] = 1e-10
    """Least power."""
    span: Annotated[float, Field(gt=0)] | None = 8.0
    """What lies further than this below the loudest of a sound is raised to that."""
    centred: bool = True
    """The first frame has its middle at the first sample, and sounds are mirrored at their ends; otherwise it begins
    there, and the last one ends within the sound."""
    last: bool = False
    """Keep the frame whose middle is the end of the sound."""
    emphasis: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Kaldi's: a frame loses its mean, and each sample this share of the one before."""
    blank: float | None = None
    """What stands in frames after the end of a sound, before it is normalised; silence unless told."""
    mean: float = -4.0
    """Of the logarithms."""
    std: Annotated[float, Field(gt=0)] = 4.0
    """Of the logarithms: what comes out is (logarithm - mean) / std."""

    @model_validator(mode="after")
    def _fits(self) -> "Mel":
        if self.frame > self.n_fft:
            raise ValueError(f"a window of {self.frame} samples does not fit into n_fft {self.n_fft}")
        if not self.fmin < self.highest <= self.rate / 2:
            raise ValueError(
                f"fmin {self.fmin:g} must lie below fmax {self.highest:g}, and fmax not above half of the rate "
                f"({self.rate / 2:g})"
            )
        if self.emphasis is not None and self.centred:
            raise ValueError("emphasis is of frames that are not centred")
        return self

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        return self.window or self.n_fft

    @property
    def highest(self) -> float:
        """Highest frequency, in Hz."""
        return self.rate / 2 if self.fmax is None else self.fmax

    def frames(self, samples: int) -> int:
        """Frames of a sound of so many samples."""
        if self.centred:
            return samples // self.hop + self.last
        return max((samples - self.frame) // self.hop + 1, 0)

    def samples(self, frames: int) -> int:
        """Fewest samples of so many frames."""
        return (frames - self.last) * self.hop if self.centred else (frames - 1) * self.hop + self.frame


_KALDI: dict[str, Any] = {
    "n_fft": 512, "window": 400, "hop": 160, "mels": 128, "fmin": 20.0, "scale": "kaldi", "log": "log",
    "floor": 1.192092955078125e-07, "span": None, "centred": False, "emphasis": 0.97, "blank": 0.0,
}  # fmt: skip
_CLAP: dict[str, Any] = {
    "n_fft": 1024, "mels": 64, "fmin": 50.0, "fmax": 14_000.0, "log": "dB", "span": None, "last": True,
    "mean": 0.0, "std": 1.0,
}  # fmt: skip
_WHISPER: dict[str, Any] = {"rate": 16_000, "n_fft": 400, "hop": 160}
MELS: dict[str, Mel] = {
    "plain": Mel(),
    "clap": Mel(rate=48_000, hop=480, **_CLAP),
    "clap_fused": Mel(rate=48_000, hop=480, scale="htk", **_CLAP),
    "msclap": Mel(rate=44_100, hop=320, **_CLAP),
    "imagebind": Mel(**_KALDI, mean=-4.268, std=9.138),
    "ast": Mel(**_KALDI, mean=-4.2677393, std=2 * 4.5689974),
    "whisper": Mel(**_WHISPER, mels=80),
    "whisper_128": Mel(**_WHISPER, mels=128),
}
"""By name: LAION-CLAP's (48 kHz; with another bank of filters where it fuses long sounds), MSCLAP's of 2023 (44.1 kHz),
ImageBind's and AST's (Kaldi's, 16 kHz), Whisper's (128 bands from large-v3 on), and one for towers from scratch."""


def mel(said: Any) -> Any:
    """What a name stands for, or a name and what is different: ``{preset: whisper, mels: 64}``."""
    if isinstance(said, str):
        said = {"preset": said}
    if not isinstance(said, Mapping) or "preset" not in said:
        return said
    name, others = said["preset"], {key: value for key, value in said.items() if key != "preset"}
    if name not in MELS:
        raise ValueError(f"no log-mel is called {name!r}{did_you_mean(name, MELS)} Known: {', '.join(MELS)}.")
    return {**MELS[name].model_dump(), **others}


MelPart = Annotated[Mel, BeforeValidator(mel)]
"""Type of an argument: the name of a preset, or a mapping of what is different from `plain`, or from a ``preset``."""


class LogMel(nn.Module):
    """Log-mel spectrograms.

    Use when: a tower sees sounds.
    Expects: (batch, samples) waveforms in fp32, at the rate of ``mel``.
    Returns: (batch, time, mels) in fp32, under autocast as well.

    Args:
        mel: how.

    Reference:
        Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition in
        Continuously Spoken Sentences", IEEE Transactions on Acoustics, Speech, and Signal Processing 28(4), 1980.
    """

    def __init__(self, mel: Mel) -> None:
        from transformers.audio_utils import mel_filter_bank  # a second

        super().__init__()
        self.mel = mel
        kaldi = mel.scale == "kaldi"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "At least one mel filter")
            bank = mel_filter_bank(
                num_frequency_bins=mel.n_fft // 2 + 1,
                num_mel_filters=mel.mels,
                min_frequency=mel.fmin,
                max_frequency=mel.highest,
                sampling_rate=mel.rate,
                norm="slaney" if mel.scale == "slaney" else None,
                mel_scale=mel.scale,
                triangularize_in_mel_space=kaldi,
            )
        if not kaldi and not bank.any(0).all():  # AST's and ImageBind's have some that are empty
            raise MmclError(
                f"mel: n_fft {mel.n_fft} has too few frequencies for {mel.mels} bands, some of which hear nothing; "
                "take fewer mels or a larger n_fft."
            )
        heard = np.flatnonzero(bank.any(1))
        self.bins = slice(int(heard[0]), int(heard[-1]) + 1)  # power of other frequencies is not needed
        self.bank: Tensor
        self.window: Tensor
        self.register_buffer("bank", torch.tensor(bank[self.bins], dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(mel.frame, periodic=not kaldi), persistent=False)

    def forward(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch time mels"]:
        """Of sounds that fill their rows."""
        half = self.mel.frame // 2
        if self.mel.centred:
            waves = F.pad(waves[:, None], (half, half), mode="reflect")[:, 0]
        return self._normalised(self._logarithms(waves))

    def masked(
        self, waves: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, "batch time mels"], Bool[Tensor, "batch time"]]:
        """Of sounds that NaN follows: those of each sound alone, and which frames are its own.

        A sound shorter than half a frame is held at its last sample instead of being mirrored.
        """
        mel = self.mel
        samples = (~waves.isnan()).sum(1)
        waves = waves.nan_to_num(0.0)
        if mel.centred:
            own = samples // mel.hop + mel.last
            waves = self._mirrored(waves, samples)
        else:
            own = (samples - mel.frame).div(mel.hop, rounding_mode="floor") + 1
        logs = self._logarithms(waves)
        there = torch.arange(logs.shape[1], device=logs.device) < own[:, None]
        blank = LOGS[mel.log] * float(np.log(mel.floor)) if mel.blank is None else mel.blank
        return self._normalised(logs.masked_fill(~there[..., None], blank)), there

    def _mirrored(self, waves: Tensor, samples: Tensor) -> Tensor:
        """Each sound mirrored at its own ends."""
        half = self.mel.frame // 2
        steps = torch.arange(1, half + 1, device=waves.device)
        last = (samples - 1).clamp(min=0)[:, None]
        before = waves.gather(1, torch.minimum(steps.flip(0), last))
        after = waves.gather(1, torch.where(steps <= last, last - steps, last))
        mirrored = F.pad(waves, (half, half))
        mirrored[:, :half] = before
        return mirrored.scatter_(1, half + last + steps, after)

    def _logarithms(self, waves: Tensor) -> Tensor:
        with torch.autocast(waves.device.type, enabled=False):
            frames = waves.float().unfold(1, self.mel.frame, self.mel.hop)
            if self.mel.centred and not self.mel.last:
                frames = frames[:, :-1]
            at_once = CACHED // self.mel.frame
            if frames.device.type != "cpu" or frames.shape[0] * frames.shape[1] <= at_once:
                return self._of_frames(frames)
            some = frames.split(max(at_once // frames.shape[1], 1))
            return torch.cat([torch.cat([*map(self._of_frames, x.split(at_once, dim=1))], dim=1) for x in some])

    def _of_frames(self, frames: Tensor) -> Tensor:
        if self.mel.emphasis is not None:
            frames = frames - frames.mean(-1, keepdim=True)
            frames = frames - self.mel.emphasis * torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft(frames * self.window, self.mel.n_fft)[..., self.bins]
        power = (spectrum.real.square() + spectrum.imag.square()) @ self.bank
        return power.clamp(min=self.mel.floor).log() * LOGS[self.mel.log]

    def _normalised(self, logs: Tensor) -> Tensor:
        if self.mel.span is not None:
            logs = torch.maximum(logs, logs.amax((1, 2), keepdim=True) - self.mel.span)
        return (logs - self.mel.mean) / self.mel.std


def fitting(mel: Mel, seconds: float) -> int:
    """Frames of a row of so many seconds.

    Raises:
        MmclError: it is shorter than a frame.
    """
    samples = round(mel.rate * seconds)
    if samples < mel.frame:
        raise MmclError(f"seconds: {seconds:g} is shorter than one frame of {mel.frame} samples at {mel.rate} Hz.")
    return mel.frames(samples)
