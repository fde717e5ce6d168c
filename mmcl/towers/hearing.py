"""What backbones that hear have in common: which stretch of a sound they hear, and several of them."""

from abc import abstractmethod
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.media import AudioTransform, LogMel, Mel
from mmcl.media.logmel import fitting
from mmcl.media.transforms import Short
from mmcl.towers.base import Backbone

Cut = Literal["random", "start", "middle"]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Hearing(Backbone):
    """A backbone over log-mel spectrograms.

    Args:
        mel: of what it hears.
        seconds: that it hears at once.
        crop: which stretch of a longer sound it hears in training; in evaluation it is the middle one.
        windows: stretches, spread over a longer sound, whose vectors are averaged in evaluation.
        short: what follows a shorter sound.
        multiple: of frames, to which a batch of masked sounds is as long as its longest.
    """

    takes = "audio"
    middle: Cut = "middle"
    """Which stretch of a longer sound is heard in evaluation."""

    def __init__(self, mel: Mel, seconds: float, crop: Cut, windows: int, short: Short, multiple: int = 1) -> None:
        super().__init__()
        self.logmel = LogMel(mel)
        self.seconds, self.windows = seconds, windows
        self.crop: Cut = crop
        self.short: Short = short
        self.frames, self.multiple = fitting(mel, seconds), multiple

    @property
    def varies(self) -> bool:
        """Whether anything is drawn in training."""
        return self.crop == "random"

    def transform(self, train: bool) -> AudioTransform:
        """The stretch that is heard, at its rate."""
        mel = self.logmel.mel
        return AudioTransform(
            mel.rate,
            self.seconds,
            crop=self.crop if train else self.middle,
            short=self.short,
            multiple=max(self.multiple * mel.hop, mel.frame),
            windows=1 if train else self.windows,
        )

    def forward(
        self, rows: Float[Tensor, "batch samples"] | Float[Tensor, "batch windows samples"]
    ) -> Float[Tensor, "batch features"]:
        """Vectors of sounds; the mean over windows."""
        if rows.ndim == 3:
            return self.heard(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).mean(1)
        return self.heard(rows)

    @abstractmethod
    def heard(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch features"]:
        """Vectors of single stretches."""
